"""A listing that is counted and sampled while it passes, and what becomes of the sample.

The sample of a language is drawn with equal chances from all that the source does not rule out, the
same one each time.
"""

import dataclasses
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from xlsr_jax.data import records
from xlsr_jax.data.records import SAMPLE_RATE, Record
from xlsr_jax.preparation.archives import members_of
from xlsr_jax.preparation.corpora.base import Corpus, Utterance, refused
from xlsr_jax.preparation.shards import Aside, Task, spool_name, to_records

SPOOLED = 64 << 20  # bytes of the sample that are written, to see how they compress
BLOCK = 64 << 10  # bytes to which ArrayRecord fills up
SHARD = 3 * BLOCK / 2  # bytes of a shard that hold no record: its header, half a block at its end
_REFUSED = refused("").func


@dataclasses.dataclass
class Tally:
    """What a listing tells of a split and language."""

    listed: int = 0
    ruled_out: int = 0
    stated: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Measured:
    """What became of a sampled utterance: seconds and bytes of records, seconds of work."""

    language: str
    stated: float
    seconds: float
    size: float
    work: float


class Overheard:
    """A corpus that is counted and sampled while somebody lists it; "Algorithm R" (Vitter 1985)."""

    def __init__(self, corpus: Corpus, sample: int) -> None:
        self._corpus, self._sample = corpus, sample
        self.tallies: dict[tuple[str, str], Tally] = {}
        self.drawn: dict[str, list[Utterance]] = {}
        self._passed: Counter[str] = Counter()
        self._random = random.Random(0)

    def splits(self) -> Sequence[str]:
        return self._corpus.splits()

    def utterances(self, split: str) -> Iterator[Utterance]:
        for u in self._corpus.utterances(split):
            self._note(self.tallies.setdefault((split, u.language), Tally()), u)
            yield u

    def _note(self, tally: Tally, u: Utterance) -> None:
        tally.listed += 1
        if getattr(u.load, "func", None) is _REFUSED:
            tally.ruled_out += 1
            return
        tally.stated += u.seconds > 0
        tally.seconds += u.seconds
        drawn = self.drawn.setdefault(u.language, [])
        self._passed[u.language] += 1
        if len(drawn) < self._sample:
            drawn.append(u)
            return
        place = self._random.randrange(self._passed[u.language])
        if place < self._sample:
            drawn[place] = u


def reachable(
    drawn: Mapping[str, Sequence[Utterance]], folder: Path, seconds: float
) -> Iterator[Utterance]:
    """Drawn utterances, a language after the other, while there is time; archives come last."""
    until = time.monotonic() + seconds
    archives: dict[str, dict[int, list[Utterance]]] = {}
    for number in range(max(map(len, drawn.values()), default=0)):
        for utterances in drawn.values():
            if number >= len(utterances):
                continue
            u = utterances[number]
            if u.member is not None:
                members = archives.setdefault(u.member.archive, {})
                members.setdefault(u.member.number, []).append(u)
            elif time.monotonic() < until:
                yield u
    for left, (archive, wanted) in zip(range(len(archives), 0, -1), archives.items(), strict=True):
        share = time.monotonic() + (until - time.monotonic()) / left
        for member, _, content in members_of(archive):
            if time.monotonic() > share or not wanted:
                break
            found = wanted.pop(member.number, ())
            if found:
                path = folder / spool_name(member)
                with open(path, "wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                yield from found
                path.unlink()


def made_of(
    utterances: Iterable[Utterance], task: Task, measured: list[Measured], aside: Counter[str]
) -> Iterator[Record]:
    """Records of the sample, up to ``SPOOLED`` bytes; what they are goes to the other two."""
    spooled = 0
    for u in utterances:
        told = task.processing.texts([u], u.language)[0]
        if not measured:
            list(to_records(told, task))  # the first of all would count imports and voices too
        samples, size, begun = 0, 0, time.perf_counter()
        for made in to_records(told, task):
            if isinstance(made, Aside):
                aside[made.reason.split(": ")[0]] += 1
                continue
            samples += made.samples
            size += len(made.to_bytes())
            if spooled < SPOOLED:
                spooled += len(made.to_bytes())
                yield made
        work = time.perf_counter() - begun
        measured.append(Measured(u.language, u.seconds, samples / SAMPLE_RATE, size, work))


def packing_of(made: Iterator[Record], task: Task) -> float:
    """Bytes on disk for a byte of records, which ArrayRecord compresses; 1 for few."""
    size = 0

    def counted() -> Iterator[Record]:
        nonlocal size
        for record in made:
            size += len(record.to_bytes())
            yield record

    records.write_shard(task.root, task.path, "", "", counted())
    packed = (Path(task.root) / task.path).stat().st_size - SHARD
    return min(max(packed, 0) / size, 1.0) if size > 16 * BLOCK else 1.0
