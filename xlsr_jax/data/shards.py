"""One shard of a corpus: its utterances loaded, checked, encoded, written and committed."""

import dataclasses
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from xlsr_jax.data import audio, records
from xlsr_jax.data.corpora.base import Member, Phone, Speech, UnreadableAudio, Utterance
from xlsr_jax.data.progress import Commit
from xlsr_jax.data.records import Record


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker needs to make one shard.

    Attributes:
      root: the corpus directory.
      path: of the shard, as in ``records.Shard``.
      spool: folder with the members that its utterances have in archives, by ``spool_name``;
        removed with the commit.
    """

    root: str
    path: str
    split: str
    language: str
    encoding: str
    utterances: tuple[Utterance, ...]
    spool: str = ""


def make_shard(task: Task) -> Commit:
    """Makes one shard and commits it; runs in a worker process."""
    rejected: list[dict[str, str]] = []
    speakers: set[str] = set()
    usable = _usable(task, rejected, speakers)
    first = next(usable, None)
    shard, size = None, 0
    if first is not None:
        whole = itertools.chain([first], usable)
        shard = records.write_shard(task.root, task.path, task.split, task.language, whole)
        size = (Path(task.root) / task.path).stat().st_size
    commit = Commit(shard, size, tuple(rejected), tuple(sorted(speakers)))
    commit.save(task.root, task.path)
    if task.spool:
        shutil.rmtree(task.spool, ignore_errors=True)
    return commit


def _usable(task: Task, rejected: list[dict[str, str]], speakers: set[str]) -> Iterator[Record]:
    place = {"split": task.split, "language": task.language}
    for utterance in task.utterances:
        try:
            record = to_record(utterance, task.encoding, task.spool)
        except UnreadableAudio as error:
            reason = " ".join(str(error).split())  # one line
            rejected.append({"id": utterance.id, **place, "reason": reason})
            continue
        speakers.add(record.speaker)
        yield record


def spool_name(member: Member) -> str:
    """Name of a member's bytes in a spool, of which nothing is the archive's own."""
    return f"{hashlib.sha256(member.archive.encode()).hexdigest()[:16]}-{member.number}"


def to_record(utterance: Utterance, encoding: str, spool: str = "") -> Record:
    """Loads one utterance and brings it to 16 kHz; raises ``UnreadableAudio``."""
    try:
        speech = _load(utterance, spool)
    except UnreadableAudio:
        raise
    except Exception as error:
        error.add_note(f"while loading utterance {utterance.id}")
        raise
    waveform = audio.to_record_rate(speech)
    return Record(
        id=utterance.id,
        language=utterance.language,
        audio=records.encode_audio(waveform, encoding),
        encoding=encoding,
        samples=len(waveform),
        speaker=utterance.speaker,
        text=utterance.text,
        phonemes=speech.phonemes or utterance.phonemes,
        alignment=_within(speech.alignment, len(waveform)),
    )


def _load(utterance: Utterance, spool: str) -> Speech:
    if utterance.member is None:
        return utterance.load()
    return utterance.load(os.path.join(spool, spool_name(utterance.member)))


def _within(alignment: Sequence[Phone], samples: int) -> tuple[tuple[str, int, int], ...]:
    """The alignment cut at the end of the waveform, which resampling may move by a sample."""
    return tuple(
        (phone.symbol, min(phone.start, samples), min(phone.end, samples)) for phone in alignment
    )
