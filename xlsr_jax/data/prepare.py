"""A corpus reader in, shards out: in parallel, resumable, the same bytes however it is cut.

The utterances of a split and language, in the reader's order, are cut into shards of a fixed
number. A worker process makes one shard at a time and then writes a commit, a small JSON file of
what it did; a killed preparation goes on with the shards that have none. The manifest is written
last, so a corpus that has one is whole.
"""

import dataclasses
import hashlib
import itertools
import json
import logging
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from xlsr_jax.data import audio, records
from xlsr_jax.data.corpora.base import Corpus, Phone, UnreadableAudio, Utterance
from xlsr_jax.data.progress import AnotherWriter, Commit, changes, claim, clear, only_writer
from xlsr_jax.data.records import CorpusError, Manifest, Record
from xlsr_jax.data.workers import run

SMALLEST, LARGEST = 256, 4096  # utterances in a shard, where the caller gives no number
SHARDS = 512  # as many as a process may well hold open


@dataclasses.dataclass(frozen=True)
class Task:
    """What a worker needs to make one shard; ``path`` as in ``records.Shard``."""

    root: str
    path: str
    split: str
    language: str
    encoding: str
    utterances: tuple[Utterance, ...]


def prepare(
    corpus: Corpus,
    output: str | os.PathLike[str],
    *,
    encoding: str = "pcm16",
    workers: int | None = None,
    utterances_per_shard: int | None = None,
    overwrite: bool = False,
    progress_bar: bool = True,
) -> Manifest:
    """Writes ``corpus`` to ``output``, or finishes what an interrupted run left, or repairs it.

    Run again on a finished corpus it makes only shards that are missing or of another size.

    Args:
      output: the corpus directory.
      encoding: of the audio, "pcm16" or "flac".
      workers: processes; None for one a core.
      utterances_per_shard: None for 256 to 4096, by the size of the corpus.
      overwrite: drop what an earlier preparation wrote in ``output`` and begin again.

    Raises:
      CorpusError: nothing usable, duplicate ids, a changed corpus or option on resumption,
        another writer, a full disk.
    """
    if encoding not in ("pcm16", "flac"):
        raise CorpusError(f"unknown audio encoding {encoding!r}; use pcm16 or flac")
    for name, number in (("workers", workers), ("utterances per shard", utterances_per_shard)):
        if number is not None and number < 1:
            raise CorpusError(f"{name} must be 1 or more; got {number}")
    splits = {split: tuple(corpus.utterances(split)) for split in corpus.splits()}
    check_names(splits)
    total = sum(len(utterances) for utterances in splits.values())
    per_shard = utterances_per_shard or min(max(math.ceil(total / SHARDS), SMALLEST), LARGEST)
    made_with = _made_with(corpus, splits, encoding, per_shard)
    root = Path(output)
    with only_writer(root):
        if overwrite:
            clear(root)
        claim(root, {"corpus": corpus.name, **made_with})
        tasks = plan(splits, str(root), encoding, per_shard)
        commits = {task.path: Commit.load(root, task.path) for task in tasks}
        todo = [task for task in tasks if commits[task.path] is None]
        if todo:
            # The presence of a manifest says that all shards are there.
            (root / records.MANIFEST).unlink(missing_ok=True)
            commits |= _make_shards(todo, total, workers or os.cpu_count() or 1, progress_bar)
        return _conclude(root, corpus.name, made_with, [commits[task.path] for task in tasks])


def ensure(corpus: Corpus, output: str | os.PathLike[str], workers: int | None = None) -> Manifest:
    """The manifest of ``output``, which is prepared first where it is not finished.

    Several processes may call it for one ``output``: one prepares and the others wait. A corpus
    finished under other software versions is used as it is, with a warning.

    Raises:
      CorpusError: as ``prepare``, or where ``output`` holds a corpus of other options.
    """
    while not (Path(output) / records.MANIFEST).exists():
        try:
            return prepare(corpus, output, workers=workers)
        except AnotherWriter as error:
            logging.info("waiting: %s", error)
            time.sleep(1.0)
    manifest = Manifest.load(output)
    now = {"corpus": corpus.name, **corpus.fingerprint()}
    before = {"corpus": manifest.name, **manifest.made_with}
    for key in sorted(now):
        changed = changes({key: before.get(key, "unset")}, {key: now[key]})
        if changed and key.endswith("version"):
            logging.warning("%s was prepared with %s; it is used as it is", output, changed)
        elif changed:
            raise CorpusError(
                f"{output} was prepared with {changed}; name another corpus path, or prepare it "
                "again with python -m xlsr_jax.prepare and --overwrite"
            )
    return manifest


def check_names(splits: Mapping[str, Sequence[Utterance]]) -> None:
    """Raises ``CorpusError`` for duplicate ids and for names that cannot stand in a file name."""
    everything = list(itertools.chain.from_iterable(splits.values()))
    names = {("split", split) for split in splits}
    names |= {("language", utterance.language) for utterance in everything}
    for kind, name in sorted(names):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            raise CorpusError(f"{kind} {name!r} cannot name a file; use letters, digits, - _ .")
    count = Counter(utterance.id for utterance in everything)
    twice = [identity for identity, times in count.items() if times > 1]
    if twice:
        shown = ", ".join(twice[:3]) + (", ..." if len(twice) > 3 else "")
        raise CorpusError(
            f"{len(twice)} utterance ids occur more than once: {shown}; give each utterance its own"
        )


def plan(
    splits: Mapping[str, Sequence[Utterance]], root: str, encoding: str, per_shard: int
) -> list[Task]:
    """Cuts each split and language into shards of ``per_shard`` utterances, in order."""
    tasks = []
    for split, utterances in splits.items():
        by_language: dict[str, list[Utterance]] = {}
        for utterance in utterances:
            by_language.setdefault(utterance.language, []).append(utterance)
        for language, spoken in sorted(by_language.items()):
            for number, begin in enumerate(range(0, len(spoken), per_shard)):
                path = f"{split}/{language}-{number:05d}.array_record"
                chunk = tuple(spoken[begin : begin + per_shard])
                tasks.append(Task(root, path, split, language, encoding, chunk))
    return tasks


def _made_with(
    corpus: Corpus, splits: Mapping[str, Sequence[Utterance]], encoding: str, per_shard: int
) -> dict[str, str]:
    """Everything that shapes the output, by name: the reader's fingerprint and ours."""
    import soundfile
    import soxr

    listed = hashlib.sha256()
    for split, utterances in splits.items():
        for u in utterances:
            fields = (split, u.id, u.language, u.speaker, u.text, u.phonemes)
            listed.update(json.dumps(fields).encode())
    return {
        **corpus.fingerprint(),
        "splits": " ".join(splits),
        "utterances": f"{sum(map(len, splits.values()))} (sha256 {listed.hexdigest()[:16]})",
        "encoding": encoding,
        "utterances per shard": str(per_shard),
        "soxr version": soxr.__version__,
        "libsndfile version": soundfile.__libsndfile_version__,
    }


def _make_shards(
    todo: Sequence[Task], total: int, workers: int, progress_bar: bool
) -> dict[str, Commit]:
    """Commits by path of the shards still to do; ``total`` utterances are in the whole corpus."""
    from tqdm import tqdm

    # The largest first, so that no worker is left alone with one at the end.
    order = sorted(todo, key=lambda task: -len(task.utterances))
    before = total - sum(len(task.utterances) for task in todo)
    commits, hours, begun = {}, 0.0, time.monotonic()
    with tqdm(
        total=total, initial=before, desc="preparing", unit="utt", disable=not progress_bar
    ) as bar:
        for task, commit in run(make_shard, order, min(workers, len(order))):
            commits[task.path] = commit
            if commit.shard:
                hours += commit.shard.samples / records.SAMPLE_RATE / 3600
            speed = hours / (time.monotonic() - begun)
            bar.set_postfix_str(f"{hours:.2f} h of audio, {speed:.3f} h/s", refresh=False)
            bar.update(len(task.utterances))
    return commits


def make_shard(task: Task) -> Commit:
    """Makes one shard and commits it; runs in a worker process."""
    rejected: list[dict[str, str]] = []
    usable = _usable(task, rejected)
    first = next(usable, None)
    shard, size = None, 0
    if first is not None:
        whole = itertools.chain([first], usable)
        shard = records.write_shard(task.root, task.path, task.split, task.language, whole)
        size = (Path(task.root) / task.path).stat().st_size
    commit = Commit(shard, size, tuple(rejected))
    commit.save(task.root, task.path)
    return commit


def _usable(task: Task, rejected: list[dict[str, str]]) -> Iterator[Record]:
    place = {"split": task.split, "language": task.language}
    for utterance in task.utterances:
        try:
            yield to_record(utterance, task.encoding)
        except UnreadableAudio as error:
            reason = " ".join(str(error).split())  # one line
            rejected.append({"id": utterance.id, **place, "reason": reason})


def to_record(utterance: Utterance, encoding: str) -> Record:
    """Loads one utterance and brings it to 16 kHz; raises ``UnreadableAudio``."""
    try:
        speech = utterance.load()
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


def _within(alignment: Sequence[Phone], samples: int) -> tuple[tuple[str, int, int], ...]:
    """The alignment cut at the end of the waveform, which resampling may move by a sample."""
    return tuple(
        (phone.symbol, min(phone.start, samples), min(phone.end, samples)) for phone in alignment
    )


def _conclude(
    root: Path, name: str, made_with: Mapping[str, str], commits: Sequence[Commit]
) -> Manifest:
    """Writes the list of what was set aside, then the manifest."""
    rejected = [line for commit in commits for line in commit.rejected]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in rejected)
    records.write_atomically(root / records.REJECTED, text.encode())
    shards = tuple(commit.shard for commit in commits if commit.shard)
    if not shards:
        first = f"; the first: {rejected[0]['id']}: {rejected[0]['reason']}" if rejected else ""
        raise CorpusError(f"no usable utterance in corpus {name}, {len(rejected)} set aside{first}")
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for line in rejected:
        reasons = counts.setdefault(line["split"], {}).setdefault(line["language"], {})
        kind = line["reason"].split(": ")[0]
        reasons[kind] = reasons.get(kind, 0) + 1
    manifest = Manifest(name, shards, counts, dict(made_with))
    manifest.save(root)
    return manifest


def summary(manifest: Manifest) -> str:
    """A table of utterances, hours and set-aside files by split and language, for people."""
    lines = [f"{'split':<8}{'language':<12}{'utterances':>11}{'hours':>10}{'set aside':>11}"]
    table: dict[tuple[str, str], list[float]] = {}
    for shard in manifest.shards:
        row = table.setdefault((shard.split, shard.language), [0, 0.0, 0])
        row[0] += shard.utterances
        row[1] += shard.samples / records.SAMPLE_RATE / 3600
    reasons: Counter[str] = Counter()
    for split, languages in manifest.rejected.items():
        for language, counts in languages.items():
            table.setdefault((split, language), [0, 0.0, 0])[2] += sum(counts.values())
            reasons.update(counts)
    for (split, language), (utterances, hours, aside) in table.items():
        lines.append(f"{split:<8}{language:<12}{utterances:>11}{hours:>10.3f}{aside:>11}")
    lines += [f"set aside: {count} x {reason}" for reason, count in reasons.most_common()]
    return "\n".join(lines)
