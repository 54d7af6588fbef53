"""The stream as the trainer sees it, on corpora whose samples tell record and place."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from tests.data.corpora import STRIDE, make_corpus, ramp
from xlsr_jax.data import pipeline
from xlsr_jax.data.pipeline import DataConfig, plan_evaluation, plan_training, train_batches
from xlsr_jax.data.records import CorpusError, Manifest
from xlsr_jax.schema import ConfigError

SETTINGS = {
    "batch_seconds": 5.0,
    "min_samples": 1600,
    "max_crop_samples": 8000,
    "buckets": 3,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    root = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(0)
    lengths = {"aa": 300, "bb": 120, "cc": 40}
    train = {name: rng.integers(1000, 9500, count) for name, count in lengths.items()}
    shards = make_corpus(root, train)
    held_out = {"aa": [350, 399, *rng.integers(400, 9500, 35)], "cc": rng.integers(2000, 5000, 9)}
    make_corpus(root, held_out, "valid", shards=shards)
    return root


def configured(corpus, **settings):
    return DataConfig(path=str(corpus), **(SETTINGS | settings))


def take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_equal(batch, other):
    assert batch.keys() == other.keys()
    for name, array in batch.items():
        assert array.dtype == other[name].dtype
        np.testing.assert_array_equal(array, other[name])


def offsets(batch):
    """[rows] first sample of each crop, read off the ramp; checks that the crops are ramps."""
    values = np.rint(batch["waveform"] * 32768).astype(np.int64) + 32768
    first = (values[:, 0] - STRIDE * batch["record"]) % 65536
    for row, start in enumerate(first):
        there = batch["samples"][row]
        whole = ramp(batch["record"][row], start + there)
        np.testing.assert_array_equal(batch["waveform"][row, :there], whole[start:])
        assert not batch["waveform"][row, there:].any()
    return first


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_out_the_same_global_batch(corpus, hosts):
    plan = plan_training(configured(corpus), 4)
    expected = take(train_batches(plan, seed=5), 8)
    assert len({batch["waveform"].shape for batch in expected}) == 3  # all buckets are seen
    parts = [take(train_batches(plan, seed=5, host=h, hosts=hosts), 8) for h in range(hosts)]
    for step, batch in enumerate(expected):
        columns = {name: [part[step][name] for part in parts] for name in batch}
        assert_equal({name: np.concatenate(parts) for name, parts in columns.items()}, batch)
        np.testing.assert_array_equal(batch["row"], np.arange(len(batch["row"])))


@pytest.mark.parametrize(("workers", "host", "hosts"), [(1, 0, 1), (1, 3, 4), (2, 0, 1), (2, 1, 2)])
def test_worker_processes_change_nothing(corpus, workers, host, hosts):
    config = configured(corpus, workers=workers)
    where = {"seed": 5, "host": host, "hosts": hosts}
    expected = take(train_batches(plan_training(configured(corpus), 4), **where), 5)
    taken = take(train_batches(plan_training(config, 4), **where), 5)
    for batch, other in zip(taken, expected, strict=True):
        assert_equal(batch, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_goes_on_where_the_first_was(corpus, workers):
    straight = take(train_batches(plan_training(configured(corpus), 4), seed=1), 9)
    config = configured(corpus, workers=workers, threads=1)
    resumed = take(train_batches(plan_training(config, 4), seed=1, start_step=5), 4)
    for batch, other in zip(resumed, straight[5:], strict=True):
        assert_equal(batch, other)


def test_late_steps_are_reached_without_replay(corpus):
    plan = plan_training(configured(corpus), 4)
    began = time.perf_counter()
    late = take(train_batches(plan, seed=1, start_step=10**9), 1)[0]
    assert time.perf_counter() - began < 5
    assert_equal(late, take(train_batches(plan, seed=1, start_step=10**9 - 1), 2)[1])


def test_batches_of_one_row_mix_many_languages(tmp_path):
    make_corpus(tmp_path, {f"l{number}": [2_000] * 3 for number in range(40)})
    settings = {"batch_seconds": 0.125, "buckets": 1, "alpha": 0.0}
    plan = plan_training(configured(tmp_path, **settings), 1)
    batches = take(train_batches(plan, seed=0), 80)
    assert [batch["record"].shape for batch in batches] == [(1,)] * 80
    languages = np.concatenate([batch["language"] for batch in batches])
    np.testing.assert_array_equal(np.bincount(languages), np.full(40, 2))


def test_the_seed_changes_records_and_crops(corpus):
    plan = plan_training(configured(corpus), 4)
    one, two = (take(train_batches(plan, seed=seed), 1)[0] for seed in (1, 2))
    assert (one["record"] != two["record"]).mean() > 0.8


def test_crops_are_uniform_and_hold_what_they_say(corpus):
    plan = plan_training(configured(corpus), 4)
    fractions = []
    for batch in take(train_batches(plan, seed=3), 60):
        start, length = offsets(batch), batch["waveform"].shape[1]
        room = plan.index.samples[batch["record"]] - length
        assert (start <= room).all() and (batch["samples"] == length).all()
        assert (batch["weight"] == 1).all()
        np.testing.assert_array_equal(batch["language"], plan.index.language[batch["record"]])
        fractions.append(((start + 0.5) / (room + 1))[room > 100])
    fractions = np.sort(np.concatenate(fractions))
    assert len(fractions) > 500
    # Kolmogorov-Smirnov distance from the uniform distribution, 1.63 / sqrt(n) at 1 %.
    distance = np.abs(fractions - (np.arange(len(fractions)) + 0.5) / len(fractions)).max()
    assert distance < 1.63 / np.sqrt(len(fractions))


@pytest.mark.parametrize("alpha", [1.0, 0.5, 0.0])
def test_seconds_drawn_follow_the_tempered_hours(corpus, alpha):
    plan = plan_training(configured(corpus, alpha=alpha), 4)
    seconds, stream = np.zeros(3), pipeline.schedule(plan, 0)
    for step in range(300):
        bucket, numbers = stream[step]
        seconds += np.bincount(plan.index.language[numbers], minlength=3) * plan.lengths[bucket]
    hours = Manifest.load(corpus).hours("train")
    tempered = np.array([hours[language] ** alpha for language in ("aa", "bb", "cc")])
    np.testing.assert_allclose(seconds / seconds.sum(), tempered / tempered.sum(), atol=0.004)


def test_every_record_of_a_language_comes_once_before_any_comes_twice(corpus):
    plan = plan_training(configured(corpus), 4)
    stream, seen = pipeline.schedule(plan, 0), [[] for _ in plan.lengths]
    for step in range(200):
        bucket, numbers = stream[step]
        seen[bucket].append(numbers)
    for bucket, row in enumerate(plan.cells):
        drawn = np.concatenate(seen[bucket])
        for language, cell in enumerate(row):
            mine = drawn[plan.index.language[drawn] == language]
            assert len(mine) > 2 * len(cell)  # two whole epochs and part of a third
            epochs = mine[: 2 * len(cell)].reshape(2, len(cell))
            np.testing.assert_array_equal(np.sort(epochs), [cell, cell])
            assert (epochs[0] != epochs[1]).any()


def test_normalization_is_over_the_whole_file(tmp_path):
    rng = np.random.default_rng(0)
    waves = [np.cumsum(rng.normal(0, 0.004, 9000)).clip(-0.9, 0.9) for _ in range(6)]
    make_corpus(tmp_path, {"aa": [9000] * 6}, waveform=lambda key, n: waves[key])
    plan = plan_training(configured(tmp_path, buckets=1, normalize=True), 1)
    batch = take(train_batches(plan, seed=0), 1)[0]
    starts = offsets_of(batch, seed=0, room=9000 - 8000)
    for row, (record, start) in enumerate(zip(batch["record"], starts, strict=True)):
        stored = np.rint(waves[record] * 32768) / 32768
        whole = (stored - stored.mean()) / np.sqrt(stored.var() + 1e-5)
        crop = whole[start : start + 8000]
        np.testing.assert_allclose(batch["waveform"][row], crop, atol=1e-5)
        assert abs(crop.mean()) > 1e-3  # a crop normalized by itself would be another


def offsets_of(batch, seed, room):
    """The documented draw of offsets: one uniform number a global row from (seed, 2, step)."""
    rows = len(batch["row"])
    return (np.random.default_rng([seed, 2, 0]).random(rows) * (room + 1)).astype(int)


def test_flac_gives_the_batches_of_pcm16(tmp_path):
    rng = np.random.default_rng(0)
    lengths = {"aa": rng.integers(2000, 9000, 30), "bb": rng.integers(2000, 9000, 30)}
    streams = []
    for encoding in ("pcm16", "flac"):
        make_corpus(tmp_path / encoding, lengths, encoding=encoding)
        plan = plan_training(configured(tmp_path / encoding), 2)
        streams.append(take(train_batches(plan, seed=0), 3))
    for batch, other in zip(*streams, strict=True):
        assert_equal(batch, other)


@pytest.mark.parametrize("hosts", [1, 2])
def test_evaluation_reads_every_utterance_once(corpus, hosts):
    config = configured(corpus, eval_seconds=0.0, batch_seconds=3.0)
    plan = plan_evaluation(config, 4)
    parts = [list(pipeline.eval_batches(plan, host=h, hosts=hosts)) for h in range(hosts)]
    assert len({len(part) for part in parts}) == 1
    seen = []
    for batches in zip(*parts, strict=True):
        batch = {name: np.concatenate([b[name] for b in batches]) for name in batches[0]}
        assert batch["waveform"].shape in plan.shapes
        there = batch["weight"] == 1
        assert (batch["record"][~there] == -1).all() and not batch["samples"][~there].any()
        assert not batch["waveform"][~there].any()
        batch = {name: array[there] for name, array in batch.items()}
        whole = plan.index.samples[batch["record"]]
        np.testing.assert_array_equal(batch["samples"], np.minimum(whole, 8000))
        assert (np.abs(offsets(batch) - (whole - batch["samples"]) / 2) <= 0.5).all()
        np.testing.assert_array_equal(batch["language"], plan.index.language[batch["record"]])
        seen.append(batch["record"])
    long_enough = np.flatnonzero(plan.index.samples >= 400)
    np.testing.assert_array_equal(np.sort(np.concatenate(seen)), long_enough)
    assert plan.too_short == len(plan.index.samples) - len(long_enough) > 0
    assert plan.index.languages == ("aa", "bb", "cc")  # numbered as in training
    assert len(plan.shapes) <= 3


def test_evaluation_stays_within_its_seconds_and_does_not_depend_on_rows(corpus):
    config = configured(corpus, eval_seconds=2.0)
    taken = []
    for rows, batch_seconds in ((1, None), (4, 1.0)):
        plan = plan_evaluation(config, rows, batch_seconds=batch_seconds)
        taken.append(np.sort(np.concatenate([numbers for _, numbers in plan.batches])))
        taken[-1] = taken[-1][taken[-1] >= 0]
        for language in (0, 2):
            mine = taken[-1][plan.index.language[taken[-1]] == language]
            seconds = np.minimum(plan.index.samples[mine], 8000).sum() / 16_000
            assert 1.4 < seconds <= 2.0
    assert max(n * length for n, length in plan.shapes) <= max(16_000, 4 * 8000)
    np.testing.assert_array_equal(*taken)


def test_errors_of_settings(corpus):
    plan = plan_training(configured(corpus), 2)
    with pytest.raises(ConfigError, match="rows do not divide over 4 hosts"):
        rows = tuple(n + 2 if n % 4 == 0 else n for n in plan.rows)
        train_batches(dataclasses.replace(plan, rows=rows), seed=0, hosts=4)
    with pytest.raises(ConfigError, match="batch_seconds 0.1 holds 0 crops"):
        plan_training(configured(corpus, batch_seconds=0.1), 1)


def test_errors_of_corpora(corpus, tmp_path):
    with pytest.raises(CorpusError, match="manifest.json is missing"):
        plan_training(configured(tmp_path / "none"))
    with pytest.raises(CorpusError, match="no data for language 'dd'"):
        plan_training(configured(corpus, languages=("aa", "dd")))
    with pytest.raises(CorpusError, match="no split 'dev'; it has train, valid"):
        plan_training(configured(corpus, train_split="dev"))
    make_corpus(tmp_path, {"aa": [5000, 5000], "bb": [1500, 900, 1000]})
    with pytest.raises(CorpusError, match="'bb': all 3 utterances are shorter than min_samples"):
        plan_training(configured(tmp_path))
    (tmp_path / "train/aa-00000.samples.npy").unlink()
    with pytest.raises(CorpusError, match="lacks train/aa-00000.samples.npy"):
        plan_training(configured(tmp_path, languages=("aa",)))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_record_is_named(tmp_path, workers):
    rng = np.random.default_rng(0)
    make_corpus(tmp_path, {"aa": [40_000] * 20}, waveform=lambda key, n: rng.uniform(-1, 1, n))
    path = tmp_path / "train/aa-00000.array_record"
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    path.write_bytes(content)
    plan = plan_training(configured(tmp_path, workers=workers, batch_seconds=12.0))
    with pytest.raises(CorpusError, match=r"record \d+ of train/aa-00000.array_record.*sha256"):
        take(train_batches(plan, seed=0), 3)


def test_a_record_of_another_length_than_the_index_is_named(tmp_path):
    make_corpus(tmp_path, {"aa": [5000, 6000, 7000]})
    path = tmp_path / "train/aa-00000.samples.npy"
    np.save(path, np.array([5000, 7000, 6000], np.int32))
    plan = plan_training(configured(tmp_path))
    with pytest.raises(CorpusError, match="record [12] of train/aa-00000.*samples where"):
        take(train_batches(plan, seed=0), 3)


def test_the_pipeline_imports_no_jax():
    code = "import sys, xlsr_jax.data.pipeline; print('jax' in sys.modules)"
    output = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert output.strip() == "False"


TRAINER = """
import os, sys, time
from xlsr_jax.data.pipeline import DataConfig, plan_training, train_batches

if __name__ == "__main__":
    config = DataConfig(path=sys.argv[1], workers=2, batch_seconds=5.0, min_samples=1600,
                        max_crop_samples=8000, buckets=3)
    stream = train_batches(plan_training(config), seed=0)
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    for task in os.listdir("/proc/self/task"):
        children += open(f"/proc/self/task/{task}/children").read().split()
    print(*sorted(set(children)), flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="looks for processes in /proc")
def test_workers_have_one_thread_each_and_end_with_a_killed_parent(corpus, tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER)
    command = [sys.executable, str(script), str(corpus)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    trainer = subprocess.Popen(command, **pipes, text=True)
    try:
        children = [int(child) for child in trainer.stdout.readline().split()]
        workers = [child for child in children if "spawn_main" in command_of(child)]
        assert len(workers) == 2
        for worker in workers:
            with open(f"/proc/{worker}/environ") as file:
                environment = file.read().split("\0")
            assert {"OMP_NUM_THREADS=1", "JAX_PLATFORMS=cpu"} <= set(environment)
    finally:
        trainer.send_signal(signal.SIGKILL)
        trainer.wait()
    deadline = time.monotonic() + 10
    while any("spawn_main" in command_of(worker) for worker in workers):
        assert time.monotonic() < deadline, "workers outlive the trainer"
        time.sleep(0.05)


def command_of(process: int) -> str:
    try:
        with open(f"/proc/{process}/cmdline") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return ""
