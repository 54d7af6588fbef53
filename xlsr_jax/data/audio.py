"""Audio: decode, mix down, resample to 16 kHz, normalize, crop. NumPy in, NumPy out."""

import os
from typing import BinaryIO

import numpy as np

from xlsr_jax.data import containers
from xlsr_jax.data.corpora.base import Speech, UnreadableAudio
from xlsr_jax.data.records import SAMPLE_RATE

LOWEST_RATE, HIGHEST_RATE = 8_000, 96_000  # Hz
SHORTEST = 400  # samples at 16 kHz: the window of one frame of the feature encoder
LOUDEST = 4.0  # of full scale; lossy codecs overshoot 1 a little, integers kept as floats a lot
MP3_SLACK = 2 * 1152  # samples; an MP3 header may count the codec's delay and padding
BLOCK = 1 << 20  # samples decoded at a time, so that stereo and length cost no extra memory


def decode(path: str | os.PathLike[str], max_seconds: float = float("inf")) -> Speech:
    """Decodes a WAV, FLAC, MP3 or OGG file and mixes its channels down to their mean.

    Args:
      path: the file; its content decides the format, not its suffix.
      max_seconds: longer files are refused before they are decoded.

    Raises:
      UnreadableAudio: missing, zero-length, not audio, truncated, damaged, or too long.
    """
    try:
        with open(path, "rb") as file:
            return _decode(file, os.fspath(path), max_seconds)
    except FileNotFoundError as error:
        raise UnreadableAudio("file is missing") from error
    except (PermissionError, IsADirectoryError) as error:
        raise UnreadableAudio(f"file cannot be opened: {error.strerror}") from error


def _decode(file: BinaryIO, path: str, max_seconds: float) -> Speech:
    import soundfile

    if os.fstat(file.fileno()).st_size == 0:
        raise UnreadableAudio("zero-length file")
    containers.check_length(file)
    try:
        with soundfile.SoundFile(path) as sound:
            promised, rate = sound.frames, sound.samplerate
            if promised > max_seconds * rate:
                raise UnreadableAudio(f"too long: {promised / rate:.1f} s, over {max_seconds:g} s")
            blocks, count = [], 0
            while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
                blocks.append(block.mean(axis=1) if block.shape[1] > 1 else block[:, 0])
                count += len(block)
                if count > max_seconds * rate:  # of a stream whose header gives no length
                    raise UnreadableAudio(f"too long: over {max_seconds:g} s")
    except soundfile.LibsndfileError as error:
        said = error.error_string.strip().rstrip(".")
        kind = "not audio" if error.code == 1 else "damaged audio"
        raise UnreadableAudio(f"{kind}: {said}") from error
    held = containers.mp3_samples(file) if sound.format == "MP3" else None
    if held is not None:  # then ``promised`` was a guess, at which libsndfile also stops
        if count < held - MP3_SLACK:
            raise UnreadableAudio(
                f"MP3 without a length header: decodes to {count} of {held} samples; re-encode it"
            )
    elif promised < 1 << 60 and count < promised - (MP3_SLACK if sound.format == "MP3" else 0):
        raise UnreadableAudio(f"truncated: {count} of {promised} samples")
    if not count:
        raise UnreadableAudio("no samples")
    return Speech(blocks[0] if len(blocks) == 1 else np.concatenate(blocks), rate)


def to_record_rate(speech: Speech) -> np.ndarray:
    """The waveform of ``speech`` at 16 kHz, checked: [samples] float32, mono, finite.

    Silence passes. Raises ``UnreadableAudio`` for anything that is not usable audio.
    """
    waveform = np.asarray(speech.waveform, np.float32)
    if waveform.ndim != 1:
        raise UnreadableAudio(f"not mono: shape {waveform.shape}")
    if not LOWEST_RATE <= speech.rate <= HIGHEST_RATE:
        raise UnreadableAudio(
            f"sampling rate outside {LOWEST_RATE} to {HIGHEST_RATE} Hz: {speech.rate} Hz"
        )
    bad = int(np.count_nonzero(~np.isfinite(waveform)))
    if bad:
        raise UnreadableAudio(f"NaN or infinite samples: {bad} of {len(waveform)}")
    peak = float(np.abs(waveform).max(initial=0.0))
    if peak > LOUDEST:
        raise UnreadableAudio(f"samples beyond full scale: peak {peak:g}, expected [-1, 1]")
    waveform = resample(waveform, speech.rate)
    if len(waveform) < SHORTEST:
        raise UnreadableAudio(
            f"shorter than one frame: {len(waveform)} of {SHORTEST} samples at 16 kHz"
        )
    return waveform


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
