"""Audio that a corpus holds more than once: found by digests when all shards are there.

    <output>/progress/<shard>.digests.jsonl    [id, digest] of every record as first made

Two records are the same where all their samples at 16 kHz are, whatever their labels say; nothing
less counts, not even text, speaker and length. The first in the order of the shards stays. The
shards that hold others are written again without them. That is done after all shards, from what
all of them hold, so it comes to the same however often the preparation was stopped: a shard that
was replaced and not yet committed is made anew from its source.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from xlsr_jax import storage
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Record
from xlsr_jax.preparation.progress import PROGRESS, Commit
from xlsr_jax.preparation.workers import run

BYTES = 8  # of a digest: among 10 million recordings two share one by chance once in 400,000 tries


@dataclasses.dataclass(frozen=True)
class Thinning:
    """A shard that is to lose records.

    Attributes:
      drop: (position, id of the one that stays) of those, in order.
    """

    root: str
    path: str
    commit: Commit
    drop: tuple[tuple[int, str], ...]


def digest(record: Record) -> str:
    """Hex digest of a record's samples, the same for every encoding."""
    audio = record.audio
    if record.encoding != "pcm16":
        audio = records.encode_audio(record.waveform(), "pcm16")
    return hashlib.blake2b(audio, digest_size=BYTES).hexdigest()


def save(root: str, path: str, digests: Sequence[tuple[str, str]]) -> None:
    """Writes (id, digest) of the records of the shard at ``path``; before its commit."""
    file = _file(root, path)
    storage.make_folder(file.parent)
    text = "".join(json.dumps(line) + "\n" for line in digests)
    records.write_atomically(file, text.encode())


def known(root: str | os.PathLike[str], path: str, commit: Commit) -> bool:
    """Whether the digests of a committed shard are there, no fewer than its records."""
    try:
        return len(_digests(root, path)) >= _count(commit)
    except (OSError, ValueError):
        return False


def drop(
    root: str | os.PathLike[str], commits: Mapping[str, Commit], workers: int
) -> dict[str, Commit]:
    """Sets duplicates aside; returns the commits of the shards that were written again.

    The manifest is removed before the first is.

    Args:
      commits: of all shards by path, in order.

    Raises:
      CorpusError: where the audio changed since a shard was thinned; a full disk.
    """
    todo = list(_thinnings(os.fspath(root), commits))
    if not todo:
        return {}
    (storage.at(root) / records.MANIFEST).unlink(missing_ok=True)
    made = run(_thin, todo, min(workers, len(todo)))
    return {each.path: commit for each, commit in made}


def _thinnings(root: str, commits: Mapping[str, Commit]) -> Iterator[Thinning]:
    paths = list(commits)
    digests = [_digests(root, path) for path in paths]
    ends = np.cumsum([len(each) for each in digests])
    _, first, place = np.unique(
        np.concatenate([np.zeros(0, np.uint64), *digests]), return_index=True, return_inverse=True
    )
    stays = first[place]  # of every record the first that sounds like it
    ids = _ids(root, paths, ends, np.unique(stays[stays != np.arange(len(stays))]))
    for path, end, made in zip(paths, ends, map(len, digests), strict=True):
        numbers = np.arange(end - made, end)
        again = numbers[stays[numbers] != numbers]
        wanted = tuple((int(n - end + made), ids[int(stays[n])]) for n in again)
        commit = commits[path]
        if _count(commit) == made:
            if wanted:
                yield Thinning(root, path, commit, wanted)
            continue
        last = commit.rejected[len(commit.rejected) - len(wanted) :]
        reasons = [line["reason"] for line in last]
        if _count(commit) + len(wanted) != made or reasons != [_reason(id) for _, id in wanted]:
            _file(root, path).unlink()
            raise CorpusError(
                f"the audio of {root} changed since duplicates of {path} were dropped; run the "
                "same command again, which makes that shard anew"
            )


def _thin(task: Thinning) -> Commit:
    """Writes a shard without its duplicates and commits it; runs in a worker process."""
    shard, gone = task.commit.shard, dict(task.drop)
    source = records.open_shards(task.root, [shard])
    rejected, speakers = list(task.commit.rejected), set()

    def kept() -> Iterator[Record]:
        for number in range(len(source)):
            record = Record.from_bytes(source[number])
            if number not in gone:
                speakers.add(record.speaker)
                yield record
                continue
            place = {"split": shard.split, "language": shard.language}
            rejected.append({"id": record.id, **place, "reason": _reason(gone[number])})

    size = 0
    if len(gone) == len(source):
        list(kept())
        for path in (shard.path, shard.index_path):
            (storage.at(task.root) / path).unlink()
        shard = None
    else:
        shard = records.write_shard(task.root, shard.path, shard.split, shard.language, kept())
        size = storage.size(storage.at(task.root) / shard.path)
    commit = Commit(shard, size, tuple(rejected), tuple(sorted(speakers)))
    commit.save(task.root, task.path)
    return commit


def _reason(identity: str) -> str:
    return " ".join(f"duplicate: of {identity}".split())


def _count(commit: Commit) -> int:
    return commit.shard.utterances if commit.shard else 0


def _ids(root: str, paths: Sequence[str], ends: np.ndarray, numbers: np.ndarray) -> dict[int, str]:
    """The ids of some records, by their number through all shards."""
    found = {}
    shards = np.searchsorted(ends, numbers, side="right")
    for shard in np.unique(shards):
        lines = _file(root, paths[shard]).read_text(encoding="utf-8").splitlines()
        names = [json.loads(line)[0] for line in lines]
        begin = int(ends[shard]) - len(names)
        found |= {int(n): names[n - begin] for n in numbers[shards == shard]}
    return found


def _digests(root: str | os.PathLike[str], path: str) -> np.ndarray:
    lines = _file(root, path).read_text(encoding="utf-8").splitlines()
    return np.array([int(json.loads(line)[1], 16) for line in lines], np.uint64)


def _file(root: str | os.PathLike[str], path: str) -> Path:
    return storage.at(root) / PROGRESS / (path.removesuffix(".array_record") + ".digests.jsonl")
