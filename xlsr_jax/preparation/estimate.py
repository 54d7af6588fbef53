"""What a preparation would come to, from its listing and a sample of its audio; nothing is kept.

Of each language up to ``SAMPLE`` utterances, drawn with equal chances, go the way that all would go
(``shards.to_records``) within ``SECONDS`` in all. Totals are ratio estimates (Cochran, Sampling
Techniques, section 2.11): against the lengths that the source states, where it states all of a
language, else against the number of utterances. "±" is two standard errors.
"""

import dataclasses
import math
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xlsr_jax import storage
from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.corpora.base import Corpus
from xlsr_jax.preparation.processing import AS_IS, Processing
from xlsr_jax.preparation.sampling import (
    SHARD,
    Measured,
    Overheard,
    Tally,
    made_of,
    packing_of,
    reachable,
)
from xlsr_jax.preparation.shards import Task
from xlsr_jax.preparation.tasks import survey

SAMPLE = 30  # utterances of a language
SECONDS = 20.0  # of the sampling, after which no other utterance is begun


@dataclasses.dataclass(frozen=True)
class Figure:
    """An estimate: two standard errors to both sides, nan where nothing tells."""

    value: float
    reach: float

    def __str__(self) -> str:
        digits = 1 if self.value >= 10 else 3
        return f"{self.value:,.{digits}f} ± {self.reach:,.{digits}f}".replace("nan", "?")


@dataclasses.dataclass(frozen=True)
class Part:
    """A split and language.

    Attributes:
      listed: utterances.
      ruled_out: of those, how many the source itself rules out.
      shards: at most.
      hours: of records.
    """

    split: str
    language: str
    listed: int
    ruled_out: int
    shards: int
    hours: Figure


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a preparation comes to.

    Attributes:
      parts: by split and language.
      hours, size, work: of all: hours of records, bytes of output, seconds of one process.
      listing: seconds that the listing took.
      archived: whether audio lies in archives, which are then read once more.
      workers: processes.
      encoding: of the audio.
      stated: languages whose lengths the source states.
      sampled: utterances decoded, by language.
      aside: how many of what was decoded were set aside, by kind of reason.
      free: bytes free where the output is to lie; None where nobody can tell.
    """

    parts: tuple[Part, ...]
    hours: Figure
    size: Figure
    work: Figure
    listing: float
    archived: bool
    workers: int
    encoding: str
    stated: tuple[str, ...]
    sampled: Mapping[str, int]
    aside: Mapping[str, int]
    free: int | None

    @property
    def seconds(self) -> Figure:
        """Of wall time: of the listing, then the workers', or of reading archives if that is more.

        Two workers' time is half of one's only where there are cores for both.
        """
        busy = max(1, min(self.workers, sum(part.shards for part in self.parts)))
        value, reach = self.work.value / busy, self.work.reach / busy
        if self.archived and value < self.listing:
            value, reach = self.listing, 0.0
        return Figure(self.listing + value, reach)


def estimate(
    corpus: Corpus,
    output: str | os.PathLike[str],
    *,
    encoding: str = "pcm16",
    processing: Processing = AS_IS,
    workers: int | None = None,
    utterances_per_shard: int | None = None,
    sample: int = SAMPLE,
    seconds: float = SECONDS,
) -> Estimate:
    """What ``prepare`` with these arguments would come to; nothing is written to ``output``.

    Args:
      sample: utterances of each language that are decoded.
      seconds: after which no other is.

    Raises:
      CorpusError: as ``prepare``: no source, duplicate ids, names that cannot name a file.
    """
    for name, number in (("workers", workers), ("utterances per shard", utterances_per_shard)):
        if number is not None and number < 1:
            raise CorpusError(f"{name} must be 1 or more; got {number}")
    begun = time.monotonic()
    overheard = Overheard(corpus, sample)
    with tempfile.TemporaryDirectory(prefix="xlsr_jax-estimate-") as name:
        folder = Path(name)
        listing = survey(overheard, folder)
        if not listing.utterances:
            raise CorpusError(f"no utterance in corpus {corpus.name}; look at --source")
        took = time.monotonic() - begun
        planned = listing.cut(utterances_per_shard or listing.per_shard)
        task = Task(name, "sample.array_record", "", "", encoding, (), name, processing)
        measured, aside = [], Counter[str]()
        made = made_of(reachable(overheard.drawn, folder, seconds), task, measured, aside)
        packing = packing_of(made, task)
    shards = Counter((each.split, each.language) for each in planned)
    tallies = {part: overheard.tallies[part] for part in dict.fromkeys(shards)}
    stated = _stated(tallies)
    hours, size, work = (
        _total(tallies, measured, stated, quantity) for quantity in ("seconds", "size", "work")
    )
    parts = []
    for (split, language), tally in tallies.items():
        own = {part: each for part, each in tallies.items() if part[1] == language}
        found = _hours(_total(own, measured, stated, "seconds", split))
        number = shards[split, language]
        parts.append(Part(split, language, tally.listed, tally.ruled_out, number, found))
    overhead = len(planned) * SHARD + 4 * listing.utterances
    return Estimate(
        parts=tuple(parts),
        hours=_hours(hours),
        size=Figure(size.value * packing + overhead, size.reach * packing),
        work=work,
        listing=took,
        archived=any(u.member for drawn in overheard.drawn.values() for u in drawn),
        workers=workers or os.cpu_count() or 1,
        encoding=encoding,
        stated=tuple(sorted(stated)),
        sampled=Counter(each.language for each in measured),
        aside=aside,
        free=_free(output),
    )


def _stated(tallies: Mapping[tuple[str, str], Tally]) -> set[str]:
    """Languages of which the source states every length."""
    lacking = {
        language for (_, language), t in tallies.items() if t.stated < t.listed - t.ruled_out
    }
    return {language for (_, language), t in tallies.items() if t.stated} - lacking


def _total(
    tallies: Mapping[tuple[str, str], Tally],
    measured: Sequence[Measured],
    stated: set[str],
    quantity: str,
    split: str | None = None,
) -> Figure:
    """Sum of a quantity over all, or a split; the errors of languages are independent."""
    value = variance = 0.0
    for language in dict.fromkeys(language for _, language in tallies):
        whole = [tally for (_, code), tally in tallies.items() if code == language]
        own = [tally for (name, code), tally in tallies.items()
               if code == language and split in (None, name)]  # fmt: skip
        count = sum(tally.listed - tally.ruled_out for tally in own)
        if not count:
            continue
        known = language in stated
        sample = [each for each in measured if each.language == language]
        like = sample or [each for each in measured if (each.language in stated) == known]
        x = np.array([each.stated if known else 1.0 for each in like])
        y = np.array([getattr(each, quantity) for each in like])
        size = sum(tally.seconds for tally in own) if known else count
        among = sum(tally.listed - tally.ruled_out for tally in whole)
        found = Figure(size if known and quantity == "seconds" else math.nan, math.nan)
        if like:
            found = _ratio(x, y, size, count, among)
        value += found.value
        variance += found.reach**2 if sample else math.nan
    return Figure(value, math.sqrt(variance))


def _hours(seconds: Figure) -> Figure:
    return Figure(seconds.value / 3600, seconds.reach / 3600)


def _ratio(x: np.ndarray, y: np.ndarray, total: float, count: int, among: int) -> Figure:
    """Sum of y over a part of a language, from a sample of the language.

    The part is taken for drawn by chance: it errs by the sample's chance and by its own.

    Args:
      x, y: of the sample.
      total: sum of x over the part.
      count, among: utterances of the part and of the language.
    """
    n, ratio = len(x), float(y.sum() / x.sum())
    if n >= among == count:
        return Figure(ratio * total, 0.0)
    if n < 2:
        return Figure(ratio * total, math.nan)
    spread = ((y - ratio * x) ** 2).sum() / (n - 1)
    sampling = max(1 / n - 1 / among, 0) * (total / x.mean()) ** 2
    return Figure(ratio * total, 2 * math.sqrt(spread * (sampling + count * (1 - count / among))))


def _free(output: str | os.PathLike[str]) -> int | None:
    if storage.is_remote(output):
        return None
    place = Path(output).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def report(found: Estimate) -> str:
    """A table of a preparation to come, for people."""
    wide = max(8, *(len(part.language) + 2 for part in found.parts))
    tall = max(8, *(len(part.split) + 2 for part in found.parts))
    lines = [f"{'split':<{tall}}{'language':<{wide}}{'listed':>11}{'ruled out':>11}{'shards':>8}"
             f"{'hours, estimated':>22}"]  # fmt: skip
    for part in found.parts:
        lines.append(f"{part.split:<{tall}}{part.language:<{wide}}{part.listed:>11,}"
                     f"{part.ruled_out:>11,}{part.shards:>8,}{part.hours!s:>22}")  # fmt: skip
    listed, ruled_out, shards = (
        sum(getattr(part, name) for part in found.parts)
        for name in ("listed", "ruled_out", "shards")
    )
    lines.append(f"{'all':<{tall}}{'':<{wide}}{listed:>11,}{ruled_out:>11,}{shards:>8,}"
                 f"{found.hours!s:>22}")  # fmt: skip
    size, time_taken = found.size, found.seconds
    lines += [
        f"output: {_bytes(size.value)} ± {_bytes(size.reach)} as {found.encoding}, estimated; "
        + ("the store does not say what is free" if found.free is None
           else f"{_bytes(found.free)} are free there"),
        f"time: {_span(time_taken.value)} ± {_span(time_taken.reach)} with {found.workers} "
        f"worker{'s' * (found.workers > 1)}, estimated",
        _basis(found),
    ]  # fmt: skip
    if found.aside:
        kinds = ", ".join(f"{n:,} x {reason}" for reason, n in Counter(found.aside).most_common())
        lines.append(f"set aside in the sample: {kinds}")
    if found.free is not None and size.value > found.free:
        lines.append("the disk is too small for that; name another --output, or --encoding flac")
    lines.append("nothing was written")
    return "\n".join(lines)


def _basis(found: Estimate) -> str:
    languages = {part.language for part in found.parts if part.listed > part.ruled_out}
    total, missing = sum(found.sampled.values()), sorted(languages - found.sampled.keys())
    text = f"estimated from {total:,} decoded utterances, with ± two standard errors"
    if found.stated:
        which = "all languages" if set(found.stated) >= languages else ", ".join(found.stated)
        text += f"; the source states the lengths of {which}"
    if missing:
        text += f"; none came in time of {', '.join(missing)}, counted like the others"
    return text


def _bytes(size: float) -> str:
    if math.isnan(size):
        return "?"
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1e3:.0f} kB"


def _span(seconds: float) -> str:
    if math.isnan(seconds):
        return "?"
    for unit, factor in (("days", 2 * 86400), ("h", 2 * 3600), ("min", 120)):
        if seconds >= factor:
            return f"{2 * seconds / factor:.1f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
