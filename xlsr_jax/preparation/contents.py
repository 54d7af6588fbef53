"""What a prepared corpus holds, from its manifest, length index and commits; no audio is opened."""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from xlsr_jax import storage
from xlsr_jax.data import records
from xlsr_jax.data.index import DataConfig
from xlsr_jax.data.records import SAMPLE_RATE, Manifest, Shard
from xlsr_jax.preparation.progress import Commit

TENTH = SAMPLE_RATE // 10  # samples in a tenth of a second, the finest step of a histogram
WIDTHS = (1, 2, 5, 10, 20, 50, 100, 200, 300, 600, 1200, 3000, 6000)  # of bins, in tenths


@dataclasses.dataclass(frozen=True)
class Cell:
    """The utterances of one split and language, or of one split, then ``language`` is "".

    Attributes:
      utterances, samples: totals.
      shortest, median, longest: samples of one utterance.
      tenths: [n] utterances by length in whole tenths of a second.
      speakers: (language, name) of the speakers that are named; None where the commits are gone.
      unnamed: whether some utterances name no speaker.
    """

    split: str
    language: str
    utterances: int
    samples: int
    shortest: int
    median: float
    longest: int
    tenths: np.ndarray
    speakers: frozenset[tuple[str, str]] | None
    unnamed: bool

    @property
    def hours(self) -> float:
        return self.samples / SAMPLE_RATE / 3600


def read_cells(root: str | os.PathLike[str], manifest: Manifest) -> list[Cell]:
    """What each split and its languages hold: of a split first the whole, then each language.

    Raises:
      CorpusError: a shard or index that is missing or disagrees with the manifest.
    """
    cells = []
    for split in dict.fromkeys(shard.split for shard in manifest.shards):
        languages: dict[str, list[Shard]] = {}
        for shard in manifest.split(split):
            languages.setdefault(shard.language, []).append(shard)
        lengths = {
            language: np.concatenate(records.read_lengths(root, shards))
            for language, shards in languages.items()
        }
        speakers = {language: _speakers(root, shards) for language, shards in languages.items()}
        cells.append(_cell(split, "", np.concatenate(list(lengths.values())), speakers))
        for language in sorted(languages):
            one = {language: speakers[language]}
            cells.append(_cell(split, language, lengths[language], one))
    return cells


def _speakers(root: str | os.PathLike[str], shards: Sequence[Shard]) -> set[str] | None:
    names: set[str] = set()
    commits = storage.each(root, lambda shard: Commit.load(root, shard.path), shards)
    for shard, commit in zip(shards, commits, strict=True):
        if commit is None or commit.shard != shard:
            return None
        names.update(commit.speakers)
    return names


def _cell(
    split: str, language: str, lengths: np.ndarray, speakers: Mapping[str, set[str] | None]
) -> Cell:
    known = None
    if None not in speakers.values():
        known = frozenset((code, name) for code, names in speakers.items() for name in names)
    return Cell(
        split=split,
        language=language,
        utterances=len(lengths),
        samples=int(lengths.sum(dtype=np.int64)),
        shortest=int(lengths.min()),
        median=float(np.median(lengths)),
        longest=int(lengths.max()),
        tenths=np.bincount(lengths // TENTH),
        speakers=None if known is None else frozenset(pair for pair in known if pair[1]),
        unnamed=known is not None and any(not name for _, name in known),
    )


def bin_width(cells: Iterable[Cell], most: int) -> int:
    """Tenths of a second of a bin, so that ``most`` bins hold all but half a percent."""
    tenths = sum_tenths(cells)
    reach = int(np.searchsorted(np.cumsum(tenths), 0.995 * tenths.sum())) + 1
    return next((width for width in WIDTHS if width * most >= reach), -(-reach // most))


def sum_tenths(cells: Iterable[Cell]) -> np.ndarray:
    """[n] utterances by tenth of a second over all cells."""
    found = [cell.tenths for cell in cells]
    total = np.zeros(max(len(tenths) for tenths in found), np.int64)
    for tenths in found:
        total[: len(tenths)] += tenths
    return total


def histogram(tenths: np.ndarray, width: int, bins: int) -> np.ndarray:
    """[bins] utterances in bins of ``width`` tenths of a second; the last one has all longer."""
    number = np.minimum(np.arange(len(tenths)) // width, bins - 1)
    return np.bincount(number, tenths, minlength=bins).astype(np.int64)


def training_split(cells: Sequence[Cell]) -> str:
    """The split that the defaults train on, else the one with most audio."""
    wholes = {cell.split: cell.samples for cell in cells if not cell.language}
    default = DataConfig().train_split
    return default if default in wholes else max(wholes, key=wholes.__getitem__)
