"""One shard of a corpus: its utterances loaded, processed, encoded, written and committed."""

import dataclasses
import hashlib
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence

from xlsr_jax import storage
from xlsr_jax.data import audio, records
from xlsr_jax.data.records import Record
from xlsr_jax.data.speech import Phone, Speech, UnreadableAudio
from xlsr_jax.preparation import duplicates
from xlsr_jax.preparation.corpora.base import Member, Utterance
from xlsr_jax.preparation.processing import AS_IS, Processing
from xlsr_jax.preparation.progress import Commit


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker needs to make one shard.

    Attributes:
      root: the corpus directory.
      path: of the shard, as in ``records.Shard``.
      spool: folder with the members that its utterances have in archives, by ``spool_name``;
        removed with the commit.
      processing: what is done to each utterance.
    """

    root: str
    path: str
    split: str
    language: str
    encoding: str
    utterances: tuple[Utterance, ...]
    spool: str = ""
    processing: Processing = AS_IS


@dataclasses.dataclass(frozen=True)
class Aside:
    """What became no record, and why in one line."""

    id: str
    reason: str


def make_shard(task: Task) -> Commit:
    """Makes one shard and commits it; runs in a worker process."""
    rejected: list[dict[str, str]] = []
    speakers: set[str] = set()
    digests: list[tuple[str, str]] = []
    usable = _usable(task, rejected, speakers, digests)
    first = next(usable, None)
    shard, size = None, 0
    if first is not None:
        whole = itertools.chain([first], usable)
        shard = records.write_shard(task.root, task.path, task.split, task.language, whole)
        size = storage.size(storage.at(task.root) / task.path)
    if task.processing.duplicates == "drop":
        duplicates.save(task.root, task.path, digests)
    commit = Commit(shard, size, tuple(rejected), tuple(sorted(speakers)))
    commit.save(task.root, task.path)
    if task.spool:
        shutil.rmtree(task.spool, ignore_errors=True)
    return commit


def _usable(
    task: Task,
    rejected: list[dict[str, str]],
    speakers: set[str],
    digests: list[tuple[str, str]],
) -> Iterator[Record]:
    for utterance in task.processing.texts(task.utterances, task.language):
        for made in to_records(utterance, task):
            if isinstance(made, Aside):
                place = {"split": task.split, "language": task.language}
                rejected.append({"id": made.id, **place, "reason": made.reason})
                continue
            speakers.add(made.speaker)
            if task.processing.duplicates == "drop":
                digests.append((made.id, duplicates.digest(made)))
            yield made


def spool_name(member: Member) -> str:
    """Name of a member's bytes in a spool, of which nothing is the archive's own."""
    return f"{hashlib.sha256(member.archive.encode()).hexdigest()[:16]}-{member.number}"


def to_records(utterance: Utterance, task: Task) -> Iterator[Record | Aside]:
    """What one utterance, its text by the rules already, gives: one record or, cut, several."""
    rules = task.processing
    try:
        speech = _load(utterance, task.spool)
        waveform = audio.to_record_rate(speech)
    except UnreadableAudio as error:
        yield Aside(utterance.id, " ".join(str(error).split()))  # one line
        return
    except Exception as error:
        error.add_note(f"while loading utterance {utterance.id}")
        raise
    if rules.require_text and not utterance.text:
        yield Aside(utterance.id, "no text")
        return
    phonemes = speech.phonemes or utterance.phonemes
    labelled = bool(utterance.text or phonemes or speech.alignment)
    spans = rules.pieces(waveform, labelled)
    for number, (start, end) in enumerate(spans):
        identity = utterance.id if len(spans) == 1 else f"{utterance.id}#{number:04d}"
        piece = waveform[start:end]
        objection = rules.objection(piece, labelled)
        if objection:
            yield Aside(identity, objection)
            continue
        yield Record(
            id=identity,
            language=utterance.language,
            audio=records.encode_audio(piece, task.encoding),
            encoding=task.encoding,
            samples=len(piece),
            speaker=utterance.speaker,
            text=utterance.text,
            phonemes=phonemes,
            alignment=_within(speech.alignment, start, end),
        )


def _load(utterance: Utterance, spool: str) -> Speech:
    if utterance.member is None:
        return utterance.load()
    return utterance.load(os.path.join(spool, spool_name(utterance.member)))


def _within(alignment: Sequence[Phone], start: int, end: int) -> tuple[tuple[str, int, int], ...]:
    """The alignment cut at the ends of a piece of the waveform, in samples of the piece.

    Resampling may move the end by a sample; phones before ``start`` or after a trimmed end keep
    their place in the row, with no samples.
    """
    return tuple(
        (phone.symbol, *(min(max(place, start), end) - start for place in (phone.start, phone.end)))
        for phone in alignment
    )
