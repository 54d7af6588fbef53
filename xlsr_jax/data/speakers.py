"""Who speaks: read once and kept beside the shards, and groups of records of one speaker.

    <corpus>/speakers/<split>/<language>-00000.tsv  the shard's sha256; a line a record: id, tab,
                                                    speaker

Modified CPC (Rivière et al. 2020) draws its negatives within a speaker, so that they cannot be told
from the target by the voice; its batches are windows of one speaker.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from xlsr_jax import storage
from xlsr_jax.data import records
from xlsr_jax.data.index import Index
from xlsr_jax.data.records import CorpusError, Record, Shard

FOLDER = "speakers"
UNKNOWN = -1
# The length that what is drawn without end states. A mix of many such is as many times as long,
# and Grain slices no more than sys.maxsize.
ENDLESS = 1 << 48
_HEAD = "# speakers of the shard with sha256 "


def load(index: Index) -> np.ndarray:
    """Speaker number of each record, [records] int32, ``UNKNOWN`` where the corpus has no name.

    A speaker is a name within a language: one name in two languages makes two speakers. The first
    call reads every record of a split, later ones the files that it leaves.

    Raises:
      CorpusError: a shard that cannot be read, or a disk that cannot be written.
    """
    numbers: dict[tuple[str, str], int] = {}
    found: list[int] = []
    for at, shard in enumerate(index.shards):
        names = _read(_path(index, shard), shard)
        if names is None:
            print(f"speakers of {shard.path}", file=sys.stderr, flush=True)
            names = _collect(index, at)
        found += [
            numbers.setdefault((shard.language, name), len(numbers)) if name else UNKNOWN
            for name in names
        ]
    return np.array(found, np.int32)


def known(index: Index, speaker: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Which of the records ``among`` ([records] bool) have a speaker, [records] bool.

    Raises:
      CorpusError: a language none of whose records have.
    """
    has = among & (speaker != UNKNOWN)
    counts = np.bincount(index.language[has], minlength=len(index.languages))
    without = [name for name, count in zip(index.languages, counts, strict=True) if not count]
    if without:
        raise CorpusError(
            f"{index.root} does not say who speaks in {', '.join(without)}, which config.data."
            "same_speaker needs; prepare it with speakers (a table's column speaker), leave those "
            "languages out, or set config.data.same_speaker=0"
        )
    return has


def repeated(speaker: np.ndarray, size: int) -> tuple[int, float]:
    """Speakers with fewer than ``size`` utterances, whose groups repeat some, and how much.

    Args:
      speaker: [utterances] numbers, of the records that ``Groups`` is given.

    Returns:
      How many such speakers there are, and how many of all windows drawn are of an utterance that
      is in their group already, as a share.
    """
    _, counts = np.unique(speaker, return_counts=True)
    missing = np.maximum(size - counts, 0)
    share = np.sum(counts * missing) / max(len(speaker) * size, 1)
    return int((missing > 0).sum()), float(share)


def summary(
    index: Index,
    speaker: np.ndarray,
    size: int,
    cells: Sequence[Sequence[np.ndarray]],
    windows: np.ndarray,
) -> list[str]:
    """Lines for the log.

    Args:
      speaker: [records] of ``load``.
      size: of the groups.
      cells: [buckets][languages] record numbers, as in ``plan.TrainPlan``.
      windows: [buckets, languages] how many windows are drawn from each, relative to the others.
    """
    used = np.concatenate([cell for row in cells for cell in row])
    pairs = np.unique(np.stack([index.language[used], speaker[used]]), axis=1)
    counts = np.bincount(pairs[0], minlength=len(index.languages))
    listed = ", ".join(f"{x} {n:,}" for x, n in zip(index.languages, counts, strict=True))
    lines = [f"rows in groups of {size} of one speaker; speakers: {listed}"]
    found = [[repeated(speaker[cell], size) for cell in row] for row in cells]
    short = sum(few for row in found for few, _ in row)
    if short:
        shares = np.array([[share for _, share in row] for row in found])
        share = np.sum(windows * shares) / np.sum(windows)
        each = ", counted at each crop length" if len(cells) > 1 else ""
        lines.append(
            f"speakers with fewer than {size} utterances{each}: {short:,}; their groups repeat "
            f"some, {share:.1%} of all windows drawn"
        )
    if (speaker == UNKNOWN).any():
        lines.append(f"left out, without a speaker: {np.sum(speaker == UNKNOWN):,} utterances")
    return lines


class Groups:
    """Groups of ``size`` records of one speaker, without end; item i is [size] int32.

    A speaker with u utterances has u / size groups an epoch, rounded up or down so that u come in
    ``size`` epochs, one round. In a group an utterance comes again only where there are fewer than
    ``size``. Those left over in an epoch are the first to come twice later: whenever an epoch
    ends, the utterances of a speaker have been drawn equally often, or once more. Which groups
    there are, and their order, is drawn anew for each epoch.
    """

    def __init__(self, numbers: np.ndarray, speaker: np.ndarray, size: int, seed: tuple[int, ...]):
        """Takes record numbers and their speakers, both [utterances]."""
        rng = np.random.default_rng([*seed, 0])
        order = rng.permutation(len(numbers))
        order = order[np.argsort(speaker[order], kind="stable")]
        self.size, self.seed = size, seed
        self.numbers = numbers[order]  # a speaker's are in a row, in an order that stays
        _, self.begins, self.counts = np.unique(
            speaker[order], return_index=True, return_counts=True
        )
        # [size + 1, speakers] groups made of each by the start of an epoch of a round. Speakers
        # start at phases of their own, lest all that have few utterances come in the same epoch.
        phase = rng.integers(size, size=len(self.counts))
        self.made = (np.arange(size + 1)[:, None] * self.counts + phase) // size
        self.epoch_begins = self.made.sum(axis=1)  # the last is the length of a round
        self._recent: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> np.ndarray:
        rounds, place = divmod(index, len(self.numbers))
        part = int(np.searchsorted(self.epoch_begins, place, side="right")) - 1
        epoch = rounds * self.size + part
        groups = self._recent.get(epoch)
        if groups is None:
            groups = self._epoch(epoch)
            # Two epochs can be under way in threads; assigned in one step, for the same reason.
            self._recent = dict([*self._recent.items(), (epoch, groups)][-2:])
        return groups[place - self.epoch_begins[part]]

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_recent": {}}

    def _epoch(self, epoch: int) -> np.ndarray:
        """[groups, size] int32 record numbers."""
        rng = np.random.default_rng([*self.seed, epoch + 1])
        begun, end = self.made[epoch % self.size :][:2]
        groups, counts = end - begun, self.counts
        speakers = np.arange(len(counts))
        # A speaker's utterances stand in a circle. An epoch goes on where the last one ended, and
        # ``more`` are those that it passes once more than the others.
        owner = np.repeat(speakers, counts)
        place = np.arange(len(owner)) - self.begins[owner]
        passed, left = self.size * begun, self.size * groups % counts
        more = (place - passed[owner]) % counts[owner] < left[owner]
        # Shuffled within the speaker, those first, and dealt out in turn, round and round: the
        # windows of a group are next to each other, hence of different utterances.
        order = np.lexsort((rng.random(len(owner)), ~more, owner))
        owner = np.repeat(speakers, groups)
        nth = np.arange(len(owner)) - np.repeat(np.cumsum(groups) - groups, groups)
        dealt = (nth[:, None] * self.size + np.arange(self.size)) % counts[owner, None]
        return rng.permutation(self.numbers[order[dealt + self.begins[owner, None]]])


def _path(index: Index, shard: Shard) -> Path:
    return (storage.at(index.root) / FOLDER / shard.path).with_suffix(".tsv")


def _collect(index: Index, at: int) -> list[str]:
    """Reads the speakers out of the records of shard number ``at`` and keeps them."""
    shard = index.shards[at]
    source = records.open_shards(index.root, [shard])
    names, lines = [], [f"{_HEAD}{shard.sha256}\n"]
    for number in range(shard.utterances):
        try:
            record = Record.from_bytes(source[number])
        except Exception as error:  # bare RuntimeError or ValueError of array_record, msgpack's own
            raise CorpusError(
                f"record {number} of {shard.path} in {index.root} cannot be read; compare the "
                "shard's sha256 with the manifest and copy or prepare it again"
            ) from error
        names.append(" ".join(record.speaker.split()))  # no tab, no end of line
        lines.append(f"{record.id}\t{names[-1]}\n")
    path = _path(index, shard)
    try:
        storage.make_folder(path.parent)
    except OSError as error:
        raise CorpusError(f"cannot make {path.parent}: {error.strerror}") from error
    records.write_atomically(path, "".join(lines).encode())
    return names


def _read(path: Path, shard: Shard) -> Sequence[str] | None:
    """The speakers of a shard; None where they are missing or those of another shard."""
    if not path.exists():
        return None
    head, *lines = path.read_text(encoding="utf-8").split("\n")
    if head != f"{_HEAD}{shard.sha256}" or len(lines) != shard.utterances + 1:
        return None
    return [line.partition("\t")[2] for line in lines[:-1]]
