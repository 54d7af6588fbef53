"""A corpus cut into tasks of a shard each, and the archives' members brought to them.

Neither the listing nor the audio of a corpus is ever in memory whole: utterances wait on disk until
their task is due, and an archive is streamed once, its members laid into a folder of their task
until that is complete. So much is on disk beside the shards: of each split and language a shard's
worth of the source.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import pickle
import re
import shutil
from array import array
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from xlsr_jax.data.records import CorpusError
from xlsr_jax.preparation.archives import members_of
from xlsr_jax.preparation.corpora.base import Corpus, Utterance
from xlsr_jax.preparation.shards import Task, spool_name

SMALLEST, LARGEST = 256, 4096  # utterances in a shard, where the caller gives no number
SHARDS = 512  # as many as a process may well hold open


@dataclasses.dataclass(frozen=True)
class Planned:
    """A shard to come: its ``Task``, whose utterances wait in ``file`` from ``offset`` on."""

    path: str
    split: str
    language: str
    utterances: int
    file: Path
    offset: int


@dataclasses.dataclass(frozen=True)
class Listing:
    """What a corpus lists.

    Attributes:
      splits: in the reader's order.
      parts: of each split and language the file in which its utterances wait, one after another,
        and the offset of each.
      digest: of all labels, in order.
    """

    splits: tuple[str, ...]
    parts: Mapping[tuple[str, str], tuple[Path, array]]
    digest: str

    @property
    def utterances(self) -> int:
        """How many there are."""
        return sum(len(offsets) for _, offsets in self.parts.values())

    @property
    def per_shard(self) -> int:
        """Utterances of a shard, where the caller gives no number."""
        return min(max(math.ceil(self.utterances / SHARDS), SMALLEST), LARGEST)

    def cut(self, per_shard: int) -> list[Planned]:
        """Shards of ``per_shard`` utterances, by split and language."""
        order = sorted(self.parts, key=lambda part: (self.splits.index(part[0]), part[1]))
        planned = []
        for split, language in order:
            file, offsets = self.parts[split, language]
            for number, begin in enumerate(range(0, len(offsets), per_shard)):
                path = f"{split}/{language}-{number:05d}.array_record"
                count = min(per_shard, len(offsets) - begin)
                planned.append(Planned(path, split, language, count, file, offsets[begin]))
        return planned


def survey(corpus: Corpus, folder: Path) -> Listing:
    """Goes through a corpus' listing once and lays it into ``folder``.

    Raises:
      CorpusError: for duplicate ids and for names that cannot stand in a file name.
    """
    splits, digest, hashes = tuple(corpus.splits()), hashlib.sha256(), array("q")
    parts: dict[tuple[str, str], tuple[Path, array]] = {}
    with contextlib.ExitStack() as stack:
        files: dict[tuple[str, str], BinaryIO] = {}
        for split in splits:
            _check_name("split", split)
            for u in corpus.utterances(split):
                part = split, u.language
                if part not in parts:
                    _check_name("language", u.language)
                    parts[part] = folder / f"{split}-{u.language}", array("q")
                    files[part] = stack.enter_context(open(parts[part][0], "wb"))
                parts[part][1].append(files[part].tell())
                pickle.dump(u, files[part])
                hashes.append(hash(u.id))
                fields = (split, u.id, u.language, u.speaker, u.text, u.phonemes)
                digest.update(json.dumps(fields).encode())
    _check_ids(parts, np.frombuffer(hashes, np.int64))
    return Listing(splits, parts, digest.hexdigest()[:16])


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise CorpusError(f"{kind} {name!r} cannot name a file; use letters, digits, - _ .")


def _check_ids(parts: Mapping[tuple[str, str], tuple[Path, array]], hashes: np.ndarray) -> None:
    found, counts = np.unique(hashes, return_counts=True)
    if len(found) == len(hashes):
        return
    suspects, seen, twice = set(found[counts > 1].tolist()), set(), []
    for file, offsets in parts.values():
        for identity in (u.id for u in read(file, 0, len(offsets))):
            if hash(identity) in suspects:
                if identity in seen:
                    twice.append(identity)
                seen.add(identity)
    if twice:
        shown = ", ".join(twice[:3]) + (", ..." if len(twice) > 3 else "")
        raise CorpusError(
            f"{len(twice)} utterance ids occur more than once: {shown}; give each utterance its own"
        )


def read(file: Path, offset: int, count: int) -> Iterator[Utterance]:
    """Utterances that wait in a file."""
    with file.open("rb") as waiting:
        waiting.seek(offset)
        for _ in range(count):
            yield pickle.load(waiting)  # our own, of a moment ago


def tasks(planned: Collection[Planned], blank: Task, folder: Path) -> Iterator[Task]:
    """The tasks of some shards, each made when it is asked for.

    First those that need no archive, the largest first, lest one worker be left alone at the end;
    then the others, as the archives complete them.

    Args:
      blank: what they have in common.
      folder: for the spools.

    Raises:
      CorpusError: where an archive cannot be read, or no longer holds what it held.
    """
    planned = sorted(planned, key=lambda each: -each.utterances)
    lacking: dict[int, int] = {}  # members that a task, by its place in ``planned``, waits for
    streamed: dict[str, array] = {}  # of each archive member numbers x len(planned) + place
    for place, each in enumerate(planned):
        task = _task(blank, each)
        members = {u.member for u in task.utterances if u.member is not None}
        if not members:
            yield task
            continue
        lacking[place] = len(members)
        for member in members:
            key = member.number * len(planned) + place
            streamed.setdefault(member.archive, array("q")).append(key)
    for archive, keys in streamed.items():
        wanted = np.divmod(np.sort(np.frombuffer(keys, np.int64)), len(planned))
        for place in _spool(archive, *wanted, lacking, folder):
            yield _task(blank, planned[place], str(folder / str(place)))
    if lacking:
        short = ", ".join(streamed)
        raise CorpusError(f"{short} changed while it was read; run the same command again")


def _task(blank: Task, planned: Planned, spool: str = "") -> Task:
    return dataclasses.replace(
        blank,
        path=planned.path,
        split=planned.split,
        language=planned.language,
        utterances=tuple(read(planned.file, planned.offset, planned.utterances)),
        spool=spool,
    )


def _spool(
    archive: str, numbers: np.ndarray, places: np.ndarray, lacking: dict[int, int], folder: Path
) -> Iterator[int]:
    """Lays an archive's members where their tasks find them; yields tasks that are complete.

    Args:
      numbers, places: of members, ascending, and of the tasks that wait for them.
    """
    at = 0
    for member, _, content in members_of(archive):
        first: Path | None = None
        complete = []
        while at < len(numbers) and numbers[at] == member.number:
            place = int(places[at])
            spool = folder / str(place)
            spool.mkdir(exist_ok=True)
            path = spool / spool_name(member)
            if first is None:
                with open(path, "wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                first = path
            else:  # a recording of which segments lie in several shards
                os.link(first, path)
            lacking[place] -= 1
            if not lacking[place]:
                del lacking[place]
                complete.append(place)
            at += 1
        yield from complete
        if at == len(numbers):
            return
