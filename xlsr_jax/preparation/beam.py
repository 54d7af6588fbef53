"""Shards made by an Apache Beam pipeline, in place of processes of this machine.

    groups of planned shards -> those of archives brought -> spread -> ``make_shard``

The driver lists the corpus and cuts it as always. What a shard's worker needs is an object beside
the output, below ``progress/waiting``, and what runs through the pipeline is its name, so neither
listing nor audio passes through a runner, whose elements may not be large. A group is one shard, or
all shards of an archive (of several where shards span them): one worker streams that archive
and lays each shard's members into one object. Workers commit as local ones do, so a preparation
that Beam began local processes can finish, and the other way round; the bytes are the same.

Workers must see the source under the name that the driver has for it, reach the output, and have
this package: ``--setup_file=./setup.py``, or an image that holds it. Dataflow also needs
``pip install 'apache-beam[gcp]'``. A run there:

    python -m xlsr_jax.prepare folder --source=/mnt/recordings --output=gs://bucket/mine \\
        --runner=DataflowRunner -- --project=mine --region=europe-west4 \\
        --temp_location=gs://bucket/tmp --setup_file=./setup.py
"""

import contextlib
import dataclasses
import functools
import os
import pickle
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from xlsr_jax import storage
from xlsr_jax.preparation.progress import PROGRESS, WAITING, Commit
from xlsr_jax.preparation.shards import Task, make_shard
from xlsr_jax.preparation.tasks import Planned, read, tasks
from xlsr_jax.storage import CorpusError


@dataclasses.dataclass(frozen=True)
class Waiting:
    """A shard to make.

    Attributes:
      task: without utterances and spool.
      utterances: the object that holds them, pickled one after another, and their number.
      archives: in which some of them lie.
      spool: the object that holds their members of archives, once those are read.
    """

    task: Task
    utterances: tuple[str, int]
    archives: tuple[str, ...] = ()
    spool: str = ""


def run(todo: Sequence[Planned], blank: Task, runner: str, flags: Sequence[str] = ()) -> None:
    """Makes and commits the shards of ``todo``.

    Args:
      blank: what their tasks have in common.
      runner: as Beam names it ("DirectRunner", "DataflowRunner").
      flags: further options of the pipeline, "--name=value".

    Raises:
      CorpusError: Beam is not installed, or an error in a worker that is one.
    """
    try:
        import apache_beam as beam
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise CorpusError(
            f"--runner={runner} needs Apache Beam ({error}); pip install 'xlsr_jax[beam]'"
        ) from error
    try:
        pipeline = beam.Pipeline(options=PipelineOptions([f"--runner={runner}", *flags]))
    except (ImportError, ValueError) as error:  # of an unknown runner, of flags it lacks
        raise CorpusError(f"--runner={runner}: {storage.reason(error)}") from error
    (
        pipeline
        | "Shards" >> beam.Create(groups(lay(todo, blank)))
        | "Begin" >> beam.Reshuffle()
        | "Bring" >> beam.FlatMap(brought)
        | "Spread" >> beam.Reshuffle()
        | "Make" >> beam.Map(make)
    )
    with _one_line():
        pipeline.run().wait_until_finish()


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Brings a ``CorpusError`` of a worker, which Beam wraps in its own kinds, out as one."""
    try:
        yield
    except CorpusError as error:
        raise CorpusError(_said(str(error))) from error
    except Exception as error:
        found = re.findall(r"CorpusError: (.+)", str(error))
        if not found:
            raise
        raise CorpusError(_said(found[-1])) from error


def _said(message: str) -> str:
    return re.sub(r"\\n.*| \[while running .*", "", message, flags=re.DOTALL).strip()


def lay(todo: Sequence[Planned], blank: Task) -> list[Waiting]:
    """Lays what the workers need to know beside the output."""
    root = blank.root if storage.is_remote(blank.root) else os.path.abspath(blank.root)
    place = storage.at(root) / PROGRESS / WAITING / "beam"
    storage.make_folder(place)
    blank = dataclasses.replace(blank, root=root)
    return storage.each(root, functools.partial(_lay, blank, place), enumerate(todo))


def _lay(blank: Task, place: Path, numbered: tuple[int, Planned]) -> Waiting:
    number, planned = numbered
    archives = set()
    with storage.placed(place / f"{number}.utterances") as path, open(path, "wb") as file:
        for utterance in read(planned.file, planned.offset, planned.utterances):
            if utterance.member is not None:
                archives.add(utterance.member.archive)
            pickle.dump(utterance, file)
    task = dataclasses.replace(
        blank, path=planned.path, split=planned.split, language=planned.language
    )
    laid = str(place / f"{number}.utterances"), planned.utterances
    return Waiting(task, laid, tuple(sorted(archives)))


def groups(waiting: Sequence[Waiting]) -> list[tuple[Waiting, ...]]:
    """Shards that are brought by reading the same archives are together, others alone."""
    found: list[tuple[set[str], list[Waiting]]] = []
    for each in waiting:
        archives, members = set(each.archives), [each]
        for group in [group for group in found if group[0] & archives]:
            archives |= group[0]
            members = group[1] + members
            found.remove(group)
        found.append((archives, members))
    return [tuple(members) for _, members in found]


def brought(group: Sequence[Waiting]) -> Iterator[Waiting]:
    """Reads the archives of a group; gives its shards with what they have in them."""
    if not group[0].archives:
        yield from group
        return
    known = {each.task.path: each for each in group}
    with tempfile.TemporaryDirectory(prefix="xlsr_jax-archives-") as scratch:
        folder, planned = Path(scratch), []
        for number, each in enumerate(group):
            file, count = folder / f"{number}.utterances", each.utterances[1]
            with storage.at(each.utterances[0]).open("rb") as source, open(file, "wb") as target:
                shutil.copyfileobj(source, target)
            task = each.task
            planned.append(Planned(task.path, task.split, task.language, count, file, 0))
        for task in tasks(planned, group[0].task, folder):
            each = known[task.path]
            spool = each.utterances[0].removesuffix(".utterances") + ".spool"
            with (
                storage.at(spool).open("wb") as file,
                tarfile.open(fileobj=file, mode="w|", dereference=True) as tar,
            ):
                for name in sorted(os.listdir(task.spool)):
                    tar.add(os.path.join(task.spool, name), name)
            shutil.rmtree(task.spool)
            yield dataclasses.replace(each, spool=spool)


def make(waiting: Waiting) -> str:
    """Makes one shard in a worker and removes what waited for that; returns the shard's path."""
    task, (name, count) = waiting.task, waiting.utterances
    if not storage.at(name).exists() and Commit.load(task.root, task.path) is not None:
        return task.path  # a runner may well give an element twice
    with tempfile.TemporaryDirectory(prefix="xlsr_jax-shard-") as scratch:
        spool = os.path.join(scratch, "spool") if waiting.spool else ""
        if spool:
            with (
                storage.at(waiting.spool).open("rb") as file,
                tarfile.open(fileobj=file, mode="r|") as tar,
            ):
                tar.extractall(spool, filter="data")
        utterances = tuple(read(storage.at(name), 0, count))
        make_shard(dataclasses.replace(task, utterances=utterances, spool=spool))
    for done in (name, waiting.spool) if spool else (name,):
        storage.at(done).unlink(missing_ok=True)
    return task.path
