"""What an audio file's container says about its length, where libsndfile does not tell.

libsndfile shortens a truncated WAV or OGG without a word, and guesses the length of an MP3 that
has no length header from its first frame.
"""

import mmap
import os
from collections.abc import Iterator
from typing import BinaryIO

from xlsr_jax.data.corpora.base import UnreadableAudio

# Kilobits per second of Layer III by the header's index, for MPEG 1 and for MPEG 2 and 2.5.
_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG1_RATES = (44_100, 48_000, 32_000)  # Hz; half of it in MPEG 2, a quarter in 2.5
_TAIL = 1 << 17  # bytes; an OGG page has at most 65,307


def check_length(file: BinaryIO) -> None:
    """Raises ``UnreadableAudio`` where a WAV or OGG file ends before its container does."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF" and head[8:] == b"WAVE":
        missing = _missing_wav_bytes(file, size)
        if missing:
            raise UnreadableAudio(f"truncated: {missing} bytes fewer than the WAV header promises")
    elif head[:4] == b"OggS":
        file.seek(max(0, size - _TAIL))
        tail = file.read()
        page = tail[max(0, tail.rfind(b"OggS")) :]
        segments = page[26] if len(page) >= 27 else 0
        length = 27 + segments + sum(page[27 : 27 + segments])
        if len(page) < length or not page[5] & 4:  # the flag of the end of the stream
            raise UnreadableAudio("truncated: the OGG stream has no last page")


def _missing_wav_bytes(file: BinaryIO, size: int) -> int:
    """Bytes of the data chunk beyond the end of the file; 0 where a stream left no length."""
    while len(chunk := file.read(8)) == 8:
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data":
            return max(0, file.tell() + length - size) if length < 0xFFFFFF00 else 0
        file.seek(length + length % 2, os.SEEK_CUR)
    return 0


def mp3_samples(file: BinaryIO) -> int | None:
    """Samples of an MP3 by counting its frames; None where a header gives its length."""
    count = 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for begin, end, samples in _mp3_frames(data):
            if not count and any(tag in data[begin:end] for tag in (b"Xing", b"Info", b"VBRI")):
                return None
            count += samples
    return count


def _mp3_frames(data: mmap.mmap) -> Iterator[tuple[int, int, int]]:
    """(begin, end, samples) of each Layer III frame, past tags and damage."""
    at = 0
    if data[:3] == b"ID3" and len(data) > 10:  # its length has seven bits a byte
        at = 10 + sum(byte << shift for byte, shift in zip(data[6:10], (21, 14, 7, 0), strict=True))
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        second, third = data[at + 1], data[at + 2]
        version, layer = second >> 3 & 3, second >> 1 & 3  # version 3 is MPEG 1, 2 is 2, 0 is 2.5
        bitrate, rate = third >> 4, third >> 2 & 3
        if second < 0xE0 or version == 1 or layer != 1 or bitrate in (0, 15) or rate == 3:
            at += 1
            continue
        samples = 1152 if version == 3 else 576
        kilobits = (_MPEG1 if version == 3 else _MPEG2)[bitrate]
        hertz = _MPEG1_RATES[rate] // {3: 1, 2: 2, 0: 4}[version]
        end = at + samples // 8 * kilobits * 1000 // hertz + (third >> 1 & 1)
        yield at, end, samples
        at = end
