"""A corpus reader in, shards out: in parallel, resumable, the same bytes however it is cut.

The utterances of a split and language, in the reader's order, are cut into shards of a fixed
number. A worker (a process here, or one of Apache Beam's) makes one shard at a time and then writes
a commit, a small JSON file of what it did; a killed preparation goes on with the shards that have
none. The manifest is written last, so a corpus that has one is whole.
"""

import functools
import json
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from xlsr_jax import storage
from xlsr_jax.data import records
from xlsr_jax.data.records import CorpusError, Manifest
from xlsr_jax.preparation import beam, card, duplicates
from xlsr_jax.preparation.corpora.base import Corpus
from xlsr_jax.preparation.processing import AS_IS, Processing
from xlsr_jax.preparation.progress import (
    AnotherWriter,
    Commit,
    changes,
    claim,
    clear,
    only_writer,
    waiting,
)
from xlsr_jax.preparation.shards import Task, make_shard
from xlsr_jax.preparation.tasks import Listing, Planned, survey, tasks
from xlsr_jax.preparation.workers import run


def prepare(
    corpus: Corpus,
    output: str | os.PathLike[str],
    *,
    encoding: str = "pcm16",
    processing: Processing = AS_IS,
    workers: int | None = None,
    utterances_per_shard: int | None = None,
    overwrite: bool = False,
    progress_bar: bool = True,
    runner: str = "",
    runner_flags: Sequence[str] = (),
) -> Manifest:
    """Writes ``corpus`` to ``output``, or finishes what an interrupted run left, or repairs it.

    Run again on a finished corpus it makes only shards that are missing or of another size.

    Args:
      output: the corpus directory, or gs://bucket/folder.
      encoding: of the audio, "pcm16" or "flac".
      processing: what is done to each utterance.
      workers: processes; None for one a core.
      utterances_per_shard: None for 256 to 4096, by the size of the corpus.
      overwrite: drop what an earlier preparation wrote in ``output`` and begin again.
      runner, runner_flags: of Apache Beam (see ``data.beam``) instead of our processes.

    Raises:
      CorpusError: nothing usable, duplicate ids, a changed corpus or option on resumption,
        another writer, a full disk.
    """
    if encoding not in ("pcm16", "flac"):
        raise CorpusError(f"unknown audio encoding {encoding!r}; use pcm16 or flac")
    for name, number in (("workers", workers), ("utterances per shard", utterances_per_shard)):
        if number is not None and number < 1:
            raise CorpusError(f"{name} must be 1 or more; got {number}")
    corpus.splits()  # nothing is made where the source is not there
    root = storage.at(output)
    with only_writer(root) as check, waiting(root) as folder:
        listing = survey(corpus, folder)
        per_shard = utterances_per_shard or listing.per_shard
        made_with = _made_with(corpus, listing, encoding, per_shard) | processing.made_with()
        if overwrite:
            clear(root)
            card.remove(root)
        claim(root, {"corpus": corpus.name, **made_with})
        planned = listing.cut(per_shard)
        distinct = processing.duplicates == "drop"
        commits = _commits(root, planned)
        for path, commit in commits.items():
            if distinct and commit and not duplicates.known(root, path, commit):
                commits[path] = None
        todo = [each for each in planned if commits[each.path] is None]
        if todo:
            # The presence of a manifest says that all shards are there.
            (root / records.MANIFEST).unlink(missing_ok=True)
            blank = Task(str(root), "", "", "", encoding, (), processing=processing)
            if runner:
                beam.run(todo, blank, runner, runner_flags)
                commits |= _commits(root, todo)
                if None in commits.values():
                    raise CorpusError("Beam left shards undone; run the same command again")
            else:
                count = min(workers or os.cpu_count() or 1, len(todo))
                made = run(make_shard, tasks(todo, blank, folder), count)
                commits |= _watched(made, todo, listing.utterances, progress_bar, check)
        if distinct:
            commits |= duplicates.drop(root, commits, workers or os.cpu_count() or 1)
        check()
        return _conclude(root, corpus.name, made_with, [commits[each.path] for each in planned])


def ensure(corpus: Corpus, output: str | os.PathLike[str], workers: int | None = None) -> Manifest:
    """The manifest of ``output``, which is prepared first where it is not finished.

    Several processes may call it for one ``output``: one prepares and the others wait. A corpus
    finished under other software versions is used as it is, with a warning.

    Raises:
      CorpusError: as ``prepare``, or where ``output`` holds a corpus of other options.
    """
    while not (storage.at(output) / records.MANIFEST).exists():
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


def _made_with(corpus: Corpus, listing: Listing, encoding: str, per_shard: int) -> dict[str, str]:
    """Everything that shapes the output, by name: the reader's fingerprint and ours."""
    import soundfile
    import soxr

    return {
        **corpus.fingerprint(),
        "splits": " ".join(listing.splits),
        "utterances": f"{listing.utterances} (sha256 {listing.digest})",
        "encoding": encoding,
        "utterances per shard": str(per_shard),
        "soxr version": soxr.__version__,
        "libsndfile version": soundfile.__libsndfile_version__,
    }


def _commits(root: Path, planned: Sequence[Planned]) -> dict[str, Commit | None]:
    paths = [each.path for each in planned]
    found = storage.each(root, functools.partial(Commit.load, root), paths)
    return dict(zip(paths, found, strict=True))


def _watched(
    made: Iterator[tuple[Task, Commit]],
    todo: Sequence[Planned],
    total: int,
    progress_bar: bool,
    check: Callable[[], None],
) -> dict[str, Commit]:
    """Commits by path as they come; ``total`` utterances are in the whole corpus.

    ``check`` is called with each, and raises where another process took over.
    """
    from tqdm import tqdm

    before = total - sum(each.utterances for each in todo)
    commits, hours, begun = {}, 0.0, time.monotonic()
    with tqdm(
        total=total, initial=before, desc="preparing", unit="utt", disable=not progress_bar
    ) as bar:
        for task, commit in made:
            check()
            commits[task.path] = commit
            if commit.shard:
                hours += commit.shard.samples / records.SAMPLE_RATE / 3600
            speed = hours / (time.monotonic() - begun)
            bar.set_postfix_str(f"{hours:.2f} h of audio, {speed:.3f} h/s", refresh=False)
            bar.update(len(task.utterances))
    return commits


def _conclude(
    root: Path, name: str, made_with: Mapping[str, str], commits: Sequence[Commit]
) -> Manifest:
    """Writes the list of what was set aside and the corpus' page, then the manifest."""
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
    card.write(root, manifest)
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
