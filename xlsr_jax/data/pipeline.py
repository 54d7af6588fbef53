"""The Grain graph: from record numbers to batches of waveforms.

The stream is a function of (seed, step) alone. Which records a step reads is index arithmetic, so
a stream starts at any step at once, and every host and worker process finds its own rows without
the others:

    per bucket and language   record numbers, epoch after epoch, each in a new order
    per bucket                mix of languages -> batches of numbers -> this host's slice of rows
    stream                    mix of buckets -> open, normalize, crop, stack -> threads -> processes

Where batches are of one speaker, a group of record numbers stands for a number in the first two.

Grain is imported inside functions, and nothing of JAX here. (Grain itself imports ``jax.profiler``
where JAX is installed, without starting a backend.)
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from xlsr_jax.data import audio, records
from xlsr_jax.data.index import DataConfig, Index
from xlsr_jax.data.joint import JointPlan
from xlsr_jax.data.labelled import LabelledEvalPlan, LabelledPlan
from xlsr_jax.data.plan import EvalPlan, TrainPlan, plan_evaluation, plan_training
from xlsr_jax.data.records import CorpusError, Record
from xlsr_jax.data.speakers import ENDLESS, Groups
from xlsr_jax.schema import ConfigError

__all__ = ["Batch", "DataConfig", "EvalPlan", "TrainPlan", "eval_batches", "plan_evaluation",
           "plan_training", "schedule", "train_batches"]  # fmt: skip

Batch = dict[str, np.ndarray]
"""The rows of one host, b of the B global ones:

    waveform  [b, N] float32  crops, zero beyond ``samples``
    samples   [b] int32       valid samples
    language  [b] int32       number in the sorted languages of the plan
    row       [b] int32       number of the row in the global batch; held out, of the record
    record    [b] int32       record number in the split, -1 for none
    weight    [b] float32     1, or 0 for a row that only fills the batch

and of a labelled plan, whose utterances are whole:

    labels    [b, L] int32    zero beyond ``label_count``
    label_count [b] int32
"""

_SHUFFLE, _CROP, _GROUP = 1, 2, 3  # purposes of randomness, so that no two share a seed


def train_batches(
    plan: TrainPlan | JointPlan, *, seed: int, start_step: int = 0, host: int = 0, hosts: int = 1
) -> Iterator[Batch]:
    """Endless training batches from ``start_step`` on; the rows of one host.

    The first batches are read before this returns where there are worker processes. ``close()``
    the iterator to end threads and processes.

    Args:
      plan: of ``plan_training``; its rows must divide by ``hosts``.
      seed: of the data stream.
      start_step: update to start at; 10^6 is as quick as 0.
      host, hosts: the batch at a step is the same for any number of hosts; host h gets the h-th
        contiguous part of its rows, in whole groups of one speaker where the plan has them.

    Raises:
      ConfigError: the rows do not divide over the hosts, or labelled batches of one speaker.
      CorpusError: a shard that is missing, truncated or damaged; also from the iterator.
    """
    config = plan.config
    steps = _steps(plan, seed, host, hosts)
    return _iterate(steps[start_step:], config.threads, config.prefetch, config.workers)


def _steps(plan: TrainPlan | JointPlan, seed: int, host: int, hosts: int) -> Any:
    """A ``grain.MapDataset`` of this host's rows of each batch."""
    import grain

    if isinstance(plan, JointPlan):
        kinds = [_steps(part, seed, host, hosts) for part in (plan.labelled, plan.unlabelled)]
        return grain.MapDataset.mix(kinds, weights=[1 - plan.share, plan.share])
    reader = Reader(plan.index)
    if isinstance(plan, LabelledPlan):
        if plan.config.same_speaker:
            raise ConfigError("batches with labels mix speakers; set config.data.same_speaker=0")
        read = partial(_read_whole, reader, plan, host)
    else:
        read = partial(_read_crops, reader, plan, seed, host, hosts)
    return schedule(plan, seed, host=host, hosts=hosts).map_with_index(read)


def schedule(plan: TrainPlan, seed: int, *, host: int = 0, hosts: int = 1) -> Any:
    """What is read at each step: a ``grain.MapDataset`` of (bucket, record numbers [b])."""
    import grain

    streams = []
    for bucket, (rows, row) in enumerate(zip(plan.rows, plan.cells, strict=True)):
        if rows % (hosts * plan.group):
            groups = f", in groups of {plan.group}," if plan.group > 1 else ""
            raise ConfigError(
                f"batches of {rows} rows{groups} do not divide over {hosts} hosts; give "
                "plan_training a row_multiple that counts all devices"
            )
        shares = plan.cell_shares[bucket]
        # Grain looks through the languages in order at every draw: frequent ones first.
        order = [n for n in np.argsort(-shares, kind="stable") if len(row[n])]
        languages = [grain.MapDataset.source(_draws(plan, seed, bucket, int(n))) for n in order]
        mixed = grain.MapDataset.mix(languages, weights=[float(shares[n]) for n in order])
        rows_of_host = mixed.batch(rows // hosts // plan.group)[host::hosts]
        streams.append(rows_of_host.map(partial(_tag, bucket)))
    return grain.MapDataset.mix(streams, weights=[float(share) for share in plan.step_shares])


def _draws(plan: TrainPlan, seed: int, bucket: int, language: int) -> "Epochs | Groups":
    """What is drawn from a cell: record numbers, or groups of them."""
    numbers = plan.cells[bucket][language]
    if plan.speaker is None:
        return Epochs(numbers, (seed, _SHUFFLE, bucket, language))
    return Groups(numbers, plan.speaker[numbers], plan.group, (seed, _GROUP, bucket, language))


def _tag(bucket: int, numbers: np.ndarray) -> tuple[int, np.ndarray]:
    return bucket, numbers.ravel()


class Epochs:
    """Record numbers without end: every one once an epoch, in an order drawn anew.

    Grain's own shuffle searches a domain of 2^16 for each draw, which takes a millisecond where a
    language has few utterances; a permutation drawn whole takes microseconds.
    """

    def __init__(self, numbers: np.ndarray, seed: tuple[int, ...]):
        self.numbers, self.seed = numbers, seed
        self._recent: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, len(self.numbers))
        order = self._recent.get(epoch)
        if order is None:
            order = np.random.default_rng([*self.seed, epoch]).permutation(self.numbers)
            # Batches are read ahead in threads, so two epochs can be under way; assigned in one
            # step, for the same reason.
            self._recent = dict([*self._recent.items(), (epoch, order)][-2:])
        return int(order[place])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_recent": {}}


def _read_crops(
    reader: "Reader",
    plan: TrainPlan,
    seed: int,
    host: int,
    hosts: int,
    step: int,
    drawn: tuple[int, np.ndarray],
) -> Batch:
    """Opens the rows of one host at one step and crops them at offsets drawn for all rows."""
    bucket, numbers = drawn
    length, first = plan.lengths[bucket], host * len(numbers)
    offsets = np.random.default_rng([seed, _CROP, step]).random(len(numbers) * hosts)
    batch = _empty_batch(len(numbers), length, first)
    for row, number in enumerate(numbers):
        waveform = reader.waveform(number, plan.config.normalize)
        start = audio.crop_start(len(waveform), length, offsets[first + row])
        batch["waveform"][row] = waveform[start : start + length]
    return _described(batch, reader.index, numbers, length)


def _read_whole(
    reader: "Reader", plan: LabelledPlan, host: int, _: int, drawn: tuple[int, np.ndarray]
) -> Batch:
    """Opens the rows of one host at one step, with their labels."""
    bucket, numbers = drawn
    batch = _empty_batch(len(numbers), plan.lengths[bucket], host * len(numbers))
    samples = _fill(batch, reader, plan.config, numbers)
    return _labelled(_described(batch, reader.index, numbers, samples), plan, numbers)


def eval_batches(plan: EvalPlan, *, host: int = 0, hosts: int = 1) -> Iterator[Batch]:
    """Every held-out utterance once, its centre where it is longer than the longest crop.

    All hosts get equally many batches of equal shapes. Errors as in ``train_batches``.
    """
    import grain

    read = partial(_read_padded, Reader(plan.index), plan, host, hosts)
    steps = grain.MapDataset.source(plan.batches).map(read)
    return _iterate(steps, plan.config.threads, plan.config.prefetch, workers=0)


def _read_padded(
    reader: "Reader", plan: EvalPlan, host: int, hosts: int, planned: tuple[int, np.ndarray]
) -> Batch:
    length, numbers = planned
    if len(numbers) % hosts:
        raise ConfigError(f"batches of {len(numbers)} rows do not divide over {hosts} hosts; give "
                          "plan_evaluation a row_multiple that counts all devices")  # fmt: skip
    part = len(numbers) // hosts
    numbers = numbers[host * part :][:part]
    batch = _empty_batch(part, length, host * part)
    samples = _fill(batch, reader, plan.config, numbers)
    # What is drawn for a row follows its number: here the utterance's own, however batches are cut.
    batch["row"] = np.maximum(numbers, 0).astype(np.int32)
    batch = _described(batch, reader.index, numbers, samples)
    return _labelled(batch, plan, numbers) if isinstance(plan, LabelledEvalPlan) else batch


def _fill(batch: Batch, reader: "Reader", config: DataConfig, numbers: np.ndarray) -> np.ndarray:
    """Puts utterances into rows, zero-padded, or the centre of those that are too long.

    Returns how many samples of each row are valid, [b] int32.
    """
    samples = np.zeros(len(numbers), np.int32)
    for row, number in enumerate(numbers):
        batch["waveform"][row] = 0
        if number >= 0:
            waveform = reader.waveform(number, config.normalize)
            samples[row] = min(len(waveform), config.max_crop_samples)
            start = audio.crop_start(len(waveform), samples[row], 0.5)
            batch["waveform"][row, : samples[row]] = waveform[start : start + samples[row]]
    return samples


def _empty_batch(rows: int, length: int, first: int) -> Batch:
    row = np.arange(first, first + rows, dtype=np.int32)
    return {"waveform": np.empty((rows, length), np.float32), "row": row}


def _labelled(
    batch: Batch, plan: LabelledPlan | LabelledEvalPlan, numbers: np.ndarray
) -> Batch:
    batch["labels"], batch["label_count"] = plan.labels.rows(numbers, plan.width)
    return batch


def _described(batch: Batch, index: Index, numbers: np.ndarray, samples: Any) -> Batch:
    there = numbers >= 0
    batch["samples"] = np.broadcast_to(np.int32(samples), numbers.shape).copy()
    batch["language"] = np.where(there, index.language[numbers], 0).astype(np.int32)
    batch["record"] = numbers.astype(np.int32)
    batch["weight"] = there.astype(np.float32)
    return batch


class Reader:
    """Random access to the records of an index; travels to worker processes without open files."""

    def __init__(self, index: Index):
        self.index = index
        self.source = records.open_shards(index.root, index.shards)

    def record(self, number: int) -> Record:
        """The record of this number; ``CorpusError`` with shard and place where it is damaged."""
        try:
            return Record.from_bytes(self.source[number])
        except Exception as error:  # bare RuntimeError or ValueError of array_record, msgpack's own
            raise self._damaged(number, error) from error

    def waveform(self, number: int, normalize: bool) -> np.ndarray:
        """[samples] float32, normalized over the whole utterance where asked."""
        record = self.record(number)
        try:
            waveform = record.waveform()
        except Exception as error:
            raise self._damaged(number, error) from error
        if len(waveform) != self.index.samples[number]:
            held, listed = len(waveform), self.index.samples[number]
            raise self._damaged(number, f"{held} samples where the length index has {listed}")
        return audio.normalize(waveform) if normalize else waveform

    def _damaged(self, number: int, reason: object) -> CorpusError:
        ends = np.cumsum([shard.utterances for shard in self.index.shards])
        at = int(np.searchsorted(ends, number, side="right"))
        place = int(number) - int(ends[at]) + self.index.shards[at].utterances
        said = " ".join(str(reason).split())[:200]
        return CorpusError(
            f"record {place} of {self.index.shards[at].path} in {self.index.root} cannot be read "
            f"({said}); compare the shard's sha256 with the manifest and copy or prepare it again"
        )


def _iterate(dataset: Any, threads: int, prefetch: int, workers: int) -> Iterator[Batch]:
    """Runs a ``MapDataset`` of batches in threads, and in processes where asked."""
    import grain
    from absl import flags

    if not flags.FLAGS.is_parsed():  # Grain asks absl for its own options, and we give none
        flags.FLAGS.mark_as_parsed()
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, prefetch))
    stream = dataset.to_iter_dataset(options)
    if not workers:
        iterator = iter(stream)
        iterator.start_prefetch()
        return _closing(iterator, iterator)
    processes = grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=prefetch)
    iterator = iter(stream.mp_prefetch(processes, worker_init_fn=_end_with_parent))
    batches = map(_copied, iterator)
    try:
        # Grain starts a process at its first batch, and that one must see the environment.
        with _environment_of_workers():
            ready = list(itertools.islice(batches, workers))
    except BaseException:
        iterator.close()
        raise
    return _closing(iterator, itertools.chain(ready, batches))


def _closing(iterator: Any, batches: Iterator[Batch]) -> Iterator[Batch]:
    try:
        yield from batches
    finally:
        iterator.close()


def _copied(batch: Batch) -> Batch:
    """Out of the memory shared with worker processes, which must not outlive them."""
    return {name: np.array(array) for name, array in batch.items()}


@contextlib.contextmanager
def _environment_of_workers() -> Iterator[None]:
    """One thread each, lest the workers' BLAS pools crowd the machine; and no accelerator."""
    wanted = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    wanted["JAX_PLATFORMS"] = "cpu"
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


def _end_with_parent(worker: int, workers: int) -> None:
    """Ends this worker process when its parent is killed, which Grain's workers outlive."""
    import multiprocessing
    import threading

    def wait(join: Callable[[], None]) -> None:
        join()
        os._exit(1)

    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=wait, args=(parent.join,), daemon=True).start()
