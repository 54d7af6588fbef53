"""Audio: decode, mix down, resample to 16 kHz, normalize, crop. NumPy in, NumPy out."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from xlsr_jax.data import containers
from xlsr_jax.data.records import SAMPLE_RATE
from xlsr_jax.data.speech import Speech, UnreadableAudio

LOWEST_RATE, HIGHEST_RATE = 8_000, 96_000  # Hz
SHORTEST = 400  # samples at 16 kHz: the window of one frame of the feature encoder
LOUDEST = 4.0  # of full scale; lossy codecs overshoot 1 a little, integers kept as floats a lot
MP3_SLACK = 2 * 1152  # samples; an MP3 header may count the codec's delay and padding
UNKNOWN = 1 << 60  # samples; libsndfile says so many, or more, of a stream without a length
END_SLACK = 0.1  # seconds by which a transcript may lead beyond the end of its recording
BLOCK = 1 << 20  # samples decoded at a time, so that channels and length cost no extra memory


def decode(path: str | os.PathLike[str], max_seconds: float = float("inf")) -> Speech:
    """Decodes a WAV, FLAC, MP3, OGG or SPHERE file and mixes its channels down to their mean.

    Args:
      path: the file; its content decides the format, not its suffix.
      max_seconds: longer files are refused before they are decoded.

    Raises:
      UnreadableAudio: missing, zero-length, not audio, truncated, damaged, or too long.
    """
    return decode_part(path, max_seconds=max_seconds)


def decode_part(
    path: str | os.PathLike[str],
    start: float = 0.0,
    end: float = float("inf"),
    max_seconds: float = float("inf"),
    channel: int | None = None,
) -> Speech:
    """What ``decode`` gives of [start, end) of a recording; the rest is not decoded.

    Args:
      start, end: seconds; an ``end`` up to ``END_SLACK`` beyond the file's is taken for that.
      max_seconds: longer parts are refused before they are decoded.
      channel: which one, from 0; None for the mean of all.

    Raises:
      UnreadableAudio: as ``decode``, and for a part that is empty or not within the file.
    """
    blocks = list(_mono_blocks(path, max_seconds, start, end, channel))
    rate, first = blocks[0]
    waveform = first if len(blocks) == 1 else np.concatenate([block for _, block in blocks])
    return Speech(waveform, rate)


def stream(path: str | os.PathLike[str]) -> Iterator[np.ndarray]:
    """What ``decode`` and ``to_record_rate`` give of a file, in blocks, for files of any length.

    How short it is shows at the end, and is for the caller to judge.

    Raises:
      UnreadableAudio: while iterating, with the reasons of those two.
    """
    import soxr

    resampler = None
    for rate, block in _mono_blocks(path):
        _check(block, rate)
        if rate != SAMPLE_RATE:
            if resampler is None:
                resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1, "float32", quality="HQ")
            block = resampler.resample_chunk(block)
        yield block
    if resampler is not None:
        yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _mono_blocks(
    path: str | os.PathLike[str],
    max_seconds: float = float("inf"),
    start: float = 0.0,
    end: float = float("inf"),
    channel: int | None = None,
) -> Iterator[tuple[int, np.ndarray]]:
    """(rate in Hz, [samples] float32) of at most ``BLOCK`` samples, one block at least."""
    try:
        with open(path, "rb") as file:
            yield from _read_blocks(file, os.fspath(path), max_seconds, start, end, channel)
    except FileNotFoundError as error:
        raise UnreadableAudio("file is missing") from error
    except OSError as error:
        raise UnreadableAudio(f"file cannot be opened: {error.strerror}") from error


def _read_blocks(
    file: BinaryIO, path: str, max_seconds: float, start: float, end: float, channel: int | None
) -> Iterator[tuple[int, np.ndarray]]:
    import soundfile

    if os.fstat(file.fileno()).st_size == 0:
        raise UnreadableAudio("zero-length file")
    containers.check_length(file)
    sphere = containers.open_sphere(file)
    count = 0
    try:
        with contextlib.nullcontext(sphere) if sphere else soundfile.SoundFile(path) as sound:
            rate, channels = sound.samplerate, sound.channels
            if channel is not None and not 0 <= channel < channels:
                raise UnreadableAudio(f"no such channel: {channel}, the file has {channels}")
            first, last = _span(_length(sound, file), rate, start, end)
            promised = last - first
            if promised > max_seconds * rate:
                raise UnreadableAudio(f"too long: {promised / rate:.1f} s, over {max_seconds:g} s")
            if first:
                sound.seek(first)
            while len(block := sound.read(
                min(max(1, BLOCK // channels), promised - count), dtype="float32", always_2d=True
            )):  # fmt: skip
                count += len(block)
                if count > max_seconds * rate:  # of a stream whose header gives no length
                    raise UnreadableAudio(f"too long: over {max_seconds:g} s")
                one = 0 if channels == 1 else channel
                yield rate, block.mean(axis=1) if one is None else block[:, one]
    except soundfile.LibsndfileError as error:
        said = error.error_string.strip().rstrip(".")
        kind = "not audio" if error.code == 1 else "damaged audio"
        if "does not exist" in said:  # what looked like MP3 and of which nothing could be decoded
            kind, said = "not audio", "no frame that can be decoded"
        raise UnreadableAudio(f"{kind}: {said}") from error
    except TypeError as error:  # a name that ends in .raw has libsndfile ask for its format
        raise UnreadableAudio("not audio: no header") from error
    if promised < UNKNOWN and count < promised - (MP3_SLACK if sound.format == "MP3" else 0):
        raise UnreadableAudio(f"truncated: {count} of {promised} samples")
    if not count:
        raise UnreadableAudio("no samples")


def _length(sound: Any, file: BinaryIO) -> int:
    """Samples of an opened file; ``UNKNOWN`` or more where nothing tells.

    Raises:
      UnreadableAudio: an MP3 without a length whose middle libsndfile would take for its end.
    """
    held = containers.mp3_samples(file) if sound.format == "MP3" else None
    if held is None:
        return sound.frames
    if sound.frames < held - MP3_SLACK:
        raise UnreadableAudio(
            f"MP3 without a length header: decodes to {sound.frames} of {held} samples; "
            "re-encode it"
        )
    return min(sound.frames, held)


def _span(length: int, rate: int, start: float, end: float) -> tuple[int, int]:
    """[first, last) in samples of [start, end) in seconds; all of a file of no samples is fine."""
    if not 0 <= start < end:
        raise UnreadableAudio(f"empty segment: {start:g} to {end:g} s")
    seconds = length / rate
    if (end if end < float("inf") else start) > seconds + END_SLACK:
        raise UnreadableAudio(f"segment beyond the end: {start:g} to {end:g} of {seconds:.2f} s")
    first = round(start * rate)
    last = length if end >= seconds else round(end * rate)
    if first >= last and start > 0:
        raise UnreadableAudio(f"empty segment: {start:g} to {end:g} of {seconds:.2f} s")
    return first, last


def to_record_rate(speech: Speech) -> np.ndarray:
    """The waveform of ``speech`` at 16 kHz, checked: [samples] float32, mono, finite.

    Silence passes. Raises ``UnreadableAudio`` for anything that is not usable audio.
    """
    waveform = np.asarray(speech.waveform, np.float32)
    if waveform.ndim != 1:
        raise UnreadableAudio(f"not mono: shape {waveform.shape}")
    _check(waveform, speech.rate)
    waveform = resample(waveform, speech.rate)
    if len(waveform) < SHORTEST:
        raise UnreadableAudio(
            f"shorter than one frame: {len(waveform)} of {SHORTEST} samples at 16 kHz"
        )
    return waveform


def _check(waveform: np.ndarray, rate: int) -> None:
    if not LOWEST_RATE <= rate <= HIGHEST_RATE:
        raise UnreadableAudio(
            f"sampling rate outside {LOWEST_RATE} to {HIGHEST_RATE} Hz: {rate} Hz"
        )
    peak = max(float(waveform.max(initial=0.0)), -float(waveform.min(initial=0.0)))
    if not peak <= LOUDEST:  # of NaN nothing is true
        bad = int(np.count_nonzero(~np.isfinite(waveform)))
        if bad:
            raise UnreadableAudio(f"NaN or infinite samples: {bad} of {len(waveform)}")
        raise UnreadableAudio(f"samples beyond full scale: peak {peak:g}, expected [-1, 1]")


def resample(waveform: np.ndarray, rate: int, target: int = SAMPLE_RATE) -> np.ndarray:
    """Resamples [samples] float32 with soxr HQ (what librosa calls "soxr_hq").

    Calls soxr itself, because importing librosa takes seconds in every worker.
    """
    if rate == target:
        return waveform
    import soxr

    return soxr.resample(waveform, rate, target, quality="HQ")


def normalize(waveform: np.ndarray, eps: float = 1e-5) -> np.ndarray:
    """(x - mean) / sqrt(var + eps) with the biased variance, over all of [samples] float32.

    To be called on the whole utterance before cropping, as fairseq's ``normalize`` does
    (XLSR-53 and wav2vec 2.0 Large; Base takes the waveform as it is). Silence stays zero.
    """
    centred = waveform - waveform.mean(dtype=np.float32)
    variance = np.dot(centred, centred) / np.float32(max(len(centred), 1))
    centred *= np.float32(1.0) / np.sqrt(variance + np.float32(eps))
    return centred


def crop_start(samples: int, length: int, fraction: float) -> int:
    """First sample of a crop: uniform over all that fit, for ``fraction`` uniform in [0, 1).

    0 where the utterance is no longer than the crop; ``fraction=0.5`` gives the centre.
    """
    return int(fraction * (max(samples - length, 0) + 1))


def crop(waveform: np.ndarray, start: int, length: int) -> np.ndarray:
    """[length] samples from ``start``, a view; zeros follow where the utterance ends before."""
    piece = waveform[start : start + length]
    return piece if len(piece) == length else np.pad(piece, (0, length - len(piece)))
