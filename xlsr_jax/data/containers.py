"""What libsndfile leaves out: lengths that containers promise, and most of NIST SPHERE.

libsndfile shortens a truncated WAV or OGG without a word, and guesses the length of an MP3 that
has no length header from its first frame. Of SPHERE it ignores the promised length, reads no header
of more than 1024 bytes, and refuses mu-law whose header names a byte order.
"""

import dataclasses
import functools
import mmap
import os
from collections.abc import Iterator
from typing import Any, BinaryIO, ClassVar

import numpy as np

from xlsr_jax.data.speech import UnreadableAudio

# Kilobits per second of Layer III by the header's index, for MPEG 1 and for MPEG 2 and 2.5.
_MPEG1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_MPEG2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_MPEG1_RATES = (44_100, 48_000, 32_000)  # Hz; half of it in MPEG 2, a quarter in 2.5
_TAIL = 1 << 17  # bytes; an OGG page has at most 65,307
_MOST_CHUNKS = 1_000  # of a WAV file before its samples; the files of recorders have ten
_LONGEST_HEADER = 1 << 20  # bytes
_MOST_CHANNELS = 1_024


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
    for _ in range(_MOST_CHUNKS):
        chunk = file.read(8)
        if len(chunk) < 8:
            break
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


@dataclasses.dataclass(frozen=True)
class Sphere:
    """An open NIST SPHERE file, with what ``audio`` asks of a ``soundfile.SoundFile``.

    Attributes:
      samplerate: in Hz.
      frames: samples of each channel.
      coding: "pcm", "ulaw" or "alaw".
      dtype: of the samples in the file.
      begin: where they begin, in bytes.
    """

    file: BinaryIO
    samplerate: int
    channels: int
    frames: int
    coding: str
    dtype: str
    begin: int
    format: ClassVar[str] = "SPHERE"

    def seek(self, frame: int) -> None:
        """Has ``read`` go on from a frame."""
        self.file.seek(self.begin + frame * self._step)

    def read(self, count: int, **_: Any) -> np.ndarray:
        """[frames, channels] float32 in [-1, 1), ``count`` frames or what is left."""
        left = self.frames - (self.file.tell() - self.begin) // self._step
        data = self.file.read(max(0, min(count, left)) * self._step)
        samples = np.frombuffer(data[: len(data) // self._step * self._step], self.dtype)
        if self.coding == "pcm":
            samples = samples.astype(np.float32) * np.float32(1 / 32768)
        else:
            samples = _g711(self.coding)[samples]
        return samples.reshape(-1, self.channels)

    @property
    def _step(self) -> int:
        return self.channels * np.dtype(self.dtype).itemsize


def open_sphere(file: BinaryIO) -> Sphere | None:
    """``file`` as SPHERE, at its first sample; None where it is something else.

    Raises:
      UnreadableAudio: damaged, truncated, or compressed.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if file.read(7) != b"NIST_1A":
        return None
    file.seek(0)
    begin, fields = _sphere_header(file)
    coding, channels = _coding(fields), _number(fields, "channel_count", 1)
    if not 1 <= channels <= _MOST_CHANNELS:
        raise UnreadableAudio(f"damaged audio: a SPHERE header of {channels} channels")
    dtype = "u1"
    if coding == "pcm":
        width = _number(fields, "sample_n_bytes", 2)
        if width != 2:
            raise UnreadableAudio(f"SPHERE of {8 * width} bits: make a WAV file of it")
        dtype = ">i2" if fields.get("sample_byte_format") == "10" else "<i2"
    held = max(0, size - begin) // (channels * np.dtype(dtype).itemsize)
    frames = _number(fields, "sample_count", held)
    if frames > held:
        raise UnreadableAudio(f"truncated: {held} of {frames} samples")
    file.seek(begin)
    return Sphere(file, _rate(fields), channels, frames, coding, dtype, begin)


def stated_seconds(file: BinaryIO) -> float:
    """Length of a SPHERE or WAV file as its header has it; reads forward only.

    Raises:
      UnreadableAudio: neither of them, or no length.
    """
    magic = file.read(12)
    if magic[:7] == b"NIST_1A":
        _, fields = _sphere_header(file, magic)
        return _number(fields, "sample_count") / _rate(fields)
    if magic[:4] != b"RIFF" or magic[8:] != b"WAVE":
        raise UnreadableAudio("not audio: neither a SPHERE nor a WAV header")
    speed = 0  # bytes a second
    for _ in range(_MOST_CHUNKS):
        chunk = file.read(8)
        length = int.from_bytes(chunk[4:], "little")
        if chunk[:4] == b"data" and speed and length < 0xFFFFFF00:
            return length / speed
        if len(chunk) < 8 or chunk[:4] == b"data" or length > _LONGEST_HEADER:
            break
        content = file.read(length + length % 2)
        if chunk[:4] == b"fmt ":
            speed = int.from_bytes(content[8:12], "little")
    raise UnreadableAudio("damaged audio: the WAV header has no length")


def _sphere_header(file: BinaryIO, read: bytes = b"") -> tuple[int, dict[str, str]]:
    """Bytes of a header and its fields, without their types; ``read`` has been read of it."""
    top = read + file.read(16 - len(read))
    if b"\r" in top:
        raise UnreadableAudio("damaged audio: its line ends were rewritten; copy it in binary mode")
    try:
        size = int(top[8:])
        if not len(top) <= size <= _LONGEST_HEADER:
            raise ValueError(size)
    except ValueError as error:
        raise UnreadableAudio("damaged audio: the SPHERE header has no size") from error
    fields = {}
    for line in file.read(size - len(top)).decode("latin-1").split("\n"):
        if line.strip() == "end_head":
            return size, fields
        name, _, rest = line.strip().partition(" ")
        fields[name] = rest.partition(" ")[2].strip()  # past the type, "-i" or "-s4"
    raise UnreadableAudio("damaged audio: the SPHERE header has no end")


def _coding(fields: dict[str, str]) -> str:
    said = fields.get("sample_coding", "pcm").lower()
    coding = {"mu-law": "ulaw", "mulaw": "ulaw", "a-law": "alaw"}.get(said, said)
    if coding in ("pcm", "ulaw", "alaw"):
        return coding
    kind = "compressed SPHERE" if "embedded" in coding else "unknown SPHERE coding"
    raise UnreadableAudio(f"{kind}: {said}; make a WAV file of it with sph2pipe -f wav")


def _rate(fields: dict[str, str]) -> int:
    rate = _number(fields, "sample_rate")
    if rate < 1:
        raise UnreadableAudio("damaged audio: a SPHERE header without a sampling rate")
    return rate


def _number(fields: dict[str, str], name: str, default: int | None = None) -> int:
    """A field that is a count; a few writers write "8000.000000"."""
    if name not in fields and default is not None:
        return default
    try:
        number = int(float(fields[name]))
        if number < 0:
            raise ValueError(number)
    except (KeyError, ValueError, OverflowError) as error:
        said = f"says {name} {fields[name]!r}" if name in fields else f"has no {name}"
        raise UnreadableAudio(f"damaged audio: the SPHERE header {said}") from error
    return number


@functools.cache
def _g711(coding: str) -> np.ndarray:
    """[256] float32 in [-1, 1): the sample that each byte stands for, ITU-T G.711."""
    code = np.arange(256) ^ (0xFF if coding == "ulaw" else 0x55)
    exponent, mantissa = code >> 4 & 7, code & 15
    if coding == "ulaw":  # 14 bits, here with two zeros behind them
        size = ((8 * mantissa + 132) << exponent) - 132
        negative = code >= 128
    else:  # 13 bits, and three
        size = (16 * mantissa + np.where(exponent > 0, 264, 8)) << np.maximum(exponent - 1, 0)
        negative = code < 128
    return (np.where(negative, -size, size) / 32768).astype(np.float32)
