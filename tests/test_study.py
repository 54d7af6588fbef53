"""What the comparing tools share: intervals, and runs side by side on cores of their own."""

import importlib.util
import threading

import numpy as np
import pytest

from tests import runs

SPEC = importlib.util.spec_from_file_location("study", runs.ROOT / "tools" / "study.py")
study = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(study)


@pytest.mark.parametrize("seeds", [2, 3, 4, 5])
def test_intervals_are_students(seeds):
    stats = pytest.importorskip("scipy.stats")
    rates = np.random.default_rng(seeds).uniform(size=seeds)
    mean, half = study.interval(rates)
    low, high = stats.t.interval(0.95, seeds - 1, rates.mean(), stats.sem(rates))
    assert mean == pytest.approx(rates.mean())
    assert half == pytest.approx((high - low) / 2, rel=1e-3)


def test_one_seed_has_no_interval():
    mean, half = study.interval([0.25])
    assert mean == 0.25 and np.isnan(half)


def test_results_keep_their_order_and_no_core_is_used_twice(monkeypatch):
    monkeypatch.setattr(study.os, "sched_getaffinity", lambda _: {0, 1, 2})
    busy, lock, met = set(), threading.Lock(), threading.Barrier(2, timeout=10)

    def measure(name, number, cores):
        with lock:
            assert cores and not busy & set(cores)
            busy.update(cores)
        met.wait()  # two are always under way
        with lock:
            busy.difference_update(cores)
        return f"{name}{number}"

    tasks = [("a", 1), ("b", 2), ("c", 3), ("d", 4)]
    assert study.side_by_side(measure, tasks, 2) == ["a1", "b2", "c3", "d4"]


def test_more_jobs_than_cores_wait(monkeypatch):
    monkeypatch.setattr(study.os, "sched_getaffinity", lambda _: {5})
    assert study.side_by_side(lambda name, cores: (name, cores), [("a",), ("b",)], 3) == [
        ("a", [5]), ("b", [5]),
    ]  # fmt: skip


def test_what_fails_ends_the_program_with_a_line(tmp_path):
    script = tmp_path / "fails.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match="failed; its last line says why"):
        study.run(sorted(study.os.sched_getaffinity(0)), script)
