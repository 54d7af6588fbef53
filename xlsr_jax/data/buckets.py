"""A few static lengths for utterances of any length.

Every length costs one compilation, so there are few; every utterance is cropped down to the
largest of them that it fills, so that training batches hold no padding. Which lengths lose the
least audio is found exactly, by dynamic programming over a grid of whole encoder frames.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from xlsr_jax.data.records import SAMPLE_RATE
from xlsr_jax.schema import ConfigError

WINDOW, HOP = 400, 320  # samples: receptive field and stride of the wav2vec 2.0 feature encoder
GRID = 800  # grid points at most; the search takes GRID^2 steps a bucket


@dataclasses.dataclass(frozen=True)
class Shape:
    """A global batch.

    Attributes:
      rows, samples: of the waveform.
      labels: columns of labels; 0 for audio without any.
      share: of the updates that have this shape.
    """

    rows: int
    samples: int
    labels: int = 0
    share: float = 1.0

    @property
    def seconds(self) -> float:
        """Of audio."""
        return self.rows * self.samples / SAMPLE_RATE

    def __str__(self) -> str:
        labels = f" with {self.labels} labels" if self.labels else ""
        return f"{self.rows} x {self.samples / SAMPLE_RATE:.2f} s{labels}"


def choose_crops(
    lengths: np.ndarray,
    weights: np.ndarray,
    count: int,
    *,
    shortest: int,
    longest: int,
    window: int = WINDOW,
    hop: int = HOP,
) -> tuple[int, ...]:
    """At most ``count`` crop lengths that discard the least audio when cropping down.

    Args:
      lengths: [utterances] samples, each at least ``shortest``.
      weights: [utterances] how often each is drawn, relative to the others.
      shortest, longest: samples; no crop length lies outside.
      window, hop: of the feature encoder. The lengths are window + k hop, so that frames end
        where the crop ends, apart from ``shortest`` and ``longest``, which stand as given.

    Returns:
      Crop lengths in samples, ascending. The first is at most the shortest utterance.
    """
    clipped = np.minimum(lengths, longest)
    points = _grid(shortest, longest, window, hop)
    chosen = _least_loss(clipped, weights, points, count)
    return tuple(int(points[i]) for i in chosen)


def choose_ceilings(
    lengths: np.ndarray, count: int, *, longest: int, window: int = WINDOW, hop: int = HOP
) -> tuple[int, ...]:
    """At most ``count`` lengths that need the least padding when padding up, for evaluation.

    Lengths above ``longest`` count as ``longest``. The last ceiling holds the longest utterance.
    """
    clipped = np.minimum(lengths, longest)
    points = _grid(window, max(longest, window), window, hop)
    # Padding up is cropping down with the axis of lengths turned round.
    chosen = _least_loss(-clipped, np.ones(len(clipped)), -points[::-1], count)
    return tuple(sorted(int(points[::-1][i]) for i in chosen))


def rows_per_batch(
    lengths: Sequence[int], batch_seconds: float, row_multiple: int
) -> tuple[int, ...]:
    """Rows of a batch of each length: as many as ``batch_seconds`` hold, in whole multiples.

    Args:
      lengths: samples.
      batch_seconds: audio of one update over all devices, a bound from above.
      row_multiple: what the rows must divide by (devices x accumulation steps).

    Raises:
      ConfigError: a batch would have no rows.
    """
    rows = []
    for length in lengths:
        fit = int(batch_seconds * SAMPLE_RATE // length)
        if fit < row_multiple:
            seconds = length / SAMPLE_RATE
            raise ConfigError(
                f"batch_seconds {batch_seconds:g} holds {fit} crops of {seconds:.2f} s and rows "
                f"come in multiples of {row_multiple} (devices x accumulation); use batch_seconds "
                f"of at least {np.ceil(row_multiple * seconds):g}, fewer devices, "
                "a larger config.mesh.tensor, or shorter crops"
            )
        rows.append(fit // row_multiple * row_multiple)
    return tuple(rows)


def _grid(shortest: int, longest: int, window: int, hop: int) -> np.ndarray:
    """Candidate lengths, ascending: whole frames, and both ends as they stand."""
    step = hop * max(1, -(-(longest - shortest) // (hop * GRID)))
    whole_frames = np.arange(window, longest, step)
    inside = whole_frames[whole_frames > shortest]
    return np.unique(np.concatenate([[shortest], inside, [longest]]))


def _least_loss(
    lengths: np.ndarray, weights: np.ndarray, points: np.ndarray, count: int
) -> list[int]:
    """Indices of at most ``count`` ascending ``points`` with the least total loss.

    The loss of a length is its distance to the largest chosen point at or below it. The first
    chosen point is the last one at or below all lengths.
    """
    cell = np.searchsorted(points, lengths, side="right") - 1
    if cell.min() < 0:
        raise ValueError(f"length {lengths.min()} lies below the smallest candidate {points[0]}")
    weight = np.concatenate([[0], np.cumsum(np.bincount(cell, weights, len(points)))])
    moment = np.concatenate([[0], np.cumsum(np.bincount(cell, weights * lengths, len(points)))])
    # loss[i, j]: all lengths in [points[i], points[j]) go down to points[i]; j = G is no bound.
    loss = (moment - moment[:-1, None]) - points[:, None] * (weight - weight[:-1, None])
    loss[np.tril_indices(len(points))] = np.inf

    # best[i]: least loss of all lengths from points[i] up, with points[i] chosen and k more.
    best, choices = loss[:, -1], []
    least_gain = 1e-9 * np.abs(moment[-1])  # above rounding, so that no bucket stays empty
    for _ in range(count - 1):
        through = loss[:, :-1] + best
        following = np.argmin(through, axis=1)
        through = np.take_along_axis(through, following[:, None], axis=1)[:, 0]
        gains = through < best - least_gain
        choices.append(np.where(gains, following, -1))
        best = np.where(gains, through, best)
    chosen = [int(cell.min())]
    for choice in reversed(choices):
        if choice[chosen[-1]] >= 0:
            chosen.append(int(choice[chosen[-1]]))
    return chosen
