"""Waveforms of any lengths through a compiled program, in batches of a few shapes."""

from collections.abc import Callable, Sequence

import numpy as np

from xlsr_jax.evaluation.windows import by_length

FIRST = 16_000  # samples of the shortest batch
LONGEST = 480_000  # samples, 30 s, of an utterance of which features or codes are looked at
GROWTH = 1.2  # between the lengths that are compiled for


def outputs(
    compute: Callable[[np.ndarray, np.ndarray], np.ndarray],
    waveforms: Sequence[np.ndarray],
    frames: Callable[[int], int],
    shortest: int = 1,
) -> list[np.ndarray]:
    """[T_i, ...] of each waveform, computed as one batch.

    The batch has a power of two of rows and one of a few lengths, so that a program is compiled
    seldom. Rows that only fill it have no samples.

    Args:
      compute: [B, N] float32 waveforms and [B] int32 valid samples to [B, T, ...]. What it gives
        of a row does not depend on the others, nor on what is beyond the row's samples.
      waveforms: [samples] float32.
      frames: T_i of a number of samples.
      shortest: samples that a batch has at least.
    """
    if not waveforms:
        return []
    counts = [len(waveform) for waveform in waveforms]
    rows = 1 << (len(counts) - 1).bit_length()
    padded = np.zeros((rows, padded_length(max(*counts, shortest))), np.float32)
    samples = np.zeros(rows, np.int32)
    samples[: len(counts)] = counts
    for row, waveform in zip(padded, waveforms, strict=False):
        row[: len(waveform)] = waveform
    computed = np.asarray(compute(padded, samples))
    # Copies, so that one that is kept does not keep the whole batch.
    return [np.array(row[: frames(count)]) for row, count in zip(computed, counts, strict=False)]


def all_outputs(
    compute: Callable[[Sequence[np.ndarray]], Sequence[np.ndarray]],
    lengths: Sequence[int],
    read: Callable[[int], np.ndarray],
    most: int,
    progress: Callable[[int], object] = lambda waveforms: None,
) -> list[np.ndarray]:
    """What ``compute`` gives of each waveform, those of like length in one batch.

    Args:
      compute: waveforms to an array each, as ``outputs`` does.
      lengths: samples of each waveform.
      read: waveform of a place in ``lengths``; called when its batch is computed.
      most: samples in a batch, padding included, but at least one waveform.
      progress: called with the number of waveforms that were done.
    """
    found: list[np.ndarray] = [np.zeros(0)] * len(lengths)
    for group in by_length(lengths, most):
        for place, output in zip(group, compute([read(place) for place in group]), strict=True):
            found[place] = output
        progress(len(group))
    return found


def padded_length(samples: int) -> int:
    """The least of the few lengths that holds ``samples``."""
    length = float(FIRST)
    while length < samples:
        length *= GROWTH
    return int(length)
