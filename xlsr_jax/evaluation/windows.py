"""Recordings of any length: cut into overlapping windows, and what comes out of them stitched.

Nothing here holds more of a recording than a window and a block, or more of what a model says of
it than a batch of windows. All windows of a recording have the same length, so that a compiled
model sees one shape; they begin at frames, so that frame k of the recording is the same frame in
every window that sees it. At a seam each side keeps its frames up to the middle of the overlap:
a model whose frames see no further than half the overlap says exactly what it would have said of
the whole. One with statistics over its input (group norm) takes them over the window instead.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from xlsr_jax.evaluation.decode import greedy_spans

LOOKAHEAD = 4  # batches' worth of recordings that are gathered before the first is computed


@dataclass(frozen=True)
class Window:
    """Frames [start, end) of a recording are seen, and [first, last) of them are kept."""

    start: int
    end: int
    first: int
    last: int


class Recognizer(Protocol):
    """What is needed of ``xlsr_jax.recognizer.Recognizer``.

    Attributes:
      window: samples that a frame sees.
      hop: samples from one frame to the next.
    """

    window: int
    hop: int

    def log_probabilities(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]: ...


@dataclass(frozen=True)
class Recording:
    """A recording that can be read, ready for a recognizer.

    Attributes:
      samples: its length.
      waveform: [samples] float32 where it is short enough to be seen whole, else None.
      blocks: gives all of it in [samples] float32 blocks, from the start at each call.
    """

    name: str
    samples: int
    waveform: np.ndarray | None
    blocks: Callable[[], Iterator[np.ndarray]]


@dataclass(frozen=True)
class Measured:
    """What one pass over a recording tells.

    Attributes:
      samples: its length.
      mean, variance: of all its samples, summed in float64; the variance is the biased one.
      waveform: [samples] float32 where it is short enough to be kept, else None.
    """

    samples: int
    mean: float
    variance: float
    waveform: np.ndarray | None


def plan(frames: int, length: int, overlap: int) -> list[Window]:
    """The fewest windows of ``length`` frames that overlap by at least ``overlap``.

    They are spread evenly from the first frame to the last; what fits one window is one.
    """
    if frames <= length:
        return [Window(0, frames, 0, frames)]
    count = -(-(frames - overlap) // (length - overlap))
    starts = [number * (frames - length) // (count - 1) for number in range(count)]
    middles = [(left + length + right) // 2 for left, right in itertools.pairwise(starts)]
    kept = itertools.pairwise([0, *middles, frames])
    return [
        Window(start, start + length, first, last)
        for start, (first, last) in zip(starts, kept, strict=True)
    ]


def cut(
    blocks: Iterable[np.ndarray], windows: Iterable[Window], field: int, hop: int
) -> Iterator[np.ndarray]:
    """The samples of each window in turn, [(end - start - 1) * hop + field] float32.

    Args:
      blocks: [samples] float32 each, of any lengths, that follow one another.
      field: samples that a frame sees.
      hop: samples from one frame to the next.

    Raises:
      ValueError: where the blocks end before the last window does.
    """
    blocks = iter(blocks)
    buffer, begin = np.zeros(0, np.float32), 0  # ``begin`` is the buffer's first sample
    for window in windows:
        parts = [buffer[window.start * hop - begin :]]
        begin = window.start * hop
        length = (window.end - window.start - 1) * hop + field
        held = len(parts[0])
        while held < length:
            block = next(blocks, None)
            if block is None:
                raise ValueError(f"recording ended after {begin + held} samples while it was read")
            parts.append(block)
            held += len(block)
        buffer = np.concatenate(parts)
        yield buffer[:length]


def heard(
    recordings: Iterable[Recording],
    run: Recognizer,
    length: int,
    overlap: int,
    most: int,
    progress: Callable[[int], object] = lambda samples: None,
) -> Iterator[tuple[Recording, Iterator[np.ndarray]]]:
    """Each recording in turn with its log-probabilities: [frames, V] pieces end to end.

    Short recordings are gathered first, so that those of like length go in one batch; a long one
    has its turn at once. Its pieces are computed as they are taken.

    Args:
      length, overlap: frames of the windows into which a recording without waveform is cut.
      most: samples in a batch, padding included, but at least one recording or window.
      progress: called with the samples that have been computed since the last call.
    """
    group: list[Recording] = []
    for recording in recordings:
        if recording.waveform is not None:
            group.append(recording)
            if sum(item.samples for item in group) < LOOKAHEAD * most:
                continue
        yield from _whole(group, run, most, progress)
        group = []
        if recording.waveform is None:
            windows = plan((recording.samples - run.window) // run.hop + 1, length, overlap)
            pieces = cut(recording.blocks(), windows, run.window, run.hop)
            batch = max(1, most // (length * run.hop))
            outputs = stitched(run.log_probabilities, pieces, windows, batch)
            yield recording, _counted(outputs, run.hop, progress)
    yield from _whole(group, run, most, progress)


def _whole(
    group: Sequence[Recording], run: Recognizer, most: int, progress: Callable[[int], object]
) -> Iterator[tuple[Recording, Iterator[np.ndarray]]]:
    outputs: dict[int, np.ndarray] = {}
    for batch in by_length([recording.samples for recording in group], most):
        waveforms = [group[index].waveform for index in batch]
        outputs.update(zip(batch, run.log_probabilities(waveforms), strict=True))
        progress(sum(group[index].samples for index in batch))
    for index, recording in enumerate(group):
        yield recording, iter([outputs.pop(index)])


def _counted(
    pieces: Iterable[np.ndarray], hop: int, progress: Callable[[int], object]
) -> Iterator[np.ndarray]:
    for piece in pieces:
        progress(len(piece) * hop)
        yield piece


def by_length(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Batches of indices, the longest first; none of more than ``most`` with its padding.

    What is longer than that makes a batch by itself.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= most:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def measure(blocks: Iterable[np.ndarray], keep: int) -> Measured:
    """Length, mean and variance of float32 blocks; the waveform if no longer than ``keep``."""
    kept: list[np.ndarray] = []
    samples, total, squares = 0, 0.0, 0.0
    for block in blocks:
        exact = block.astype(np.float64)
        samples += len(block)
        total += float(exact.sum())
        squares += float(exact @ exact)
        kept = [*kept, block] if samples <= keep else []
    mean = total / max(samples, 1)
    variance = max(squares / max(samples, 1) - mean**2, 0.0)
    waveform = np.concatenate([np.zeros(0, np.float32), *kept]) if samples <= keep else None
    return Measured(samples, mean, variance, waveform)


def standardized(
    blocks: Callable[[], Iterable[np.ndarray]], measured: Measured, eps: float = 1e-5
) -> Iterator[np.ndarray]:
    """The blocks as (x - mean) / sqrt(variance + eps) of the whole recording, float32."""
    mean = np.float32(measured.mean)
    scale = np.float32(1.0 / np.sqrt(measured.variance + eps))
    for block in blocks():
        yield (block - mean) * scale


def stitched(
    log_probabilities: Callable[[Sequence[np.ndarray]], list[np.ndarray]],
    pieces: Iterable[np.ndarray],
    windows: Sequence[Window],
    batch: int,
) -> Iterator[np.ndarray]:
    """The kept [last - first, V] of each window; end to end they are those of the recording.

    Args:
      log_probabilities: gives [frames, V] float32 for each of a batch of waveforms.
      pieces: the samples of each window, as ``cut`` gives them.
      batch: windows in a batch.
    """
    pieces = iter(pieces)
    for begin in range(0, len(windows), batch):
        group = windows[begin : begin + batch]
        outputs = log_probabilities(list(itertools.islice(pieces, len(group))))
        for window, output in zip(group, outputs, strict=True):
            yield output[window.first - window.start : window.last - window.start]


def spans(
    pieces: Iterable[np.ndarray], blank: int, closed: np.ndarray | None = None
) -> list[tuple[int, int, int]]:
    """Greedy (symbol id, start frame, end frame), as of all pieces in one; the end is exclusive.

    Args:
      pieces: [frames, V] float32 log-probabilities that follow one another.
      closed: [V] bool, the symbols that are left out of the choice.
    """
    found: list[tuple[int, int, int]] = []
    begin = 0
    for piece in pieces:
        if closed is not None:
            piece = np.where(closed, np.float32(-np.inf), piece)
        for symbol, start, end in greedy_spans(piece, blank):
            if found and found[-1][0] == symbol and found[-1][2] == begin + start:  # across a seam
                found[-1] = (symbol, found[-1][1], begin + end)
            else:
                found.append((symbol, begin + start, begin + end))
        begin += len(piece)
    return found
