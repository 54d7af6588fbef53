"""Killed at any time and started again, a run gives the same bits as one that was left alone."""

import signal
import subprocess
import time

import pytest

from tests import runs

FLAGS = (
    "--config.training.updates=20",
    "--config.training.log_every=5",
    "--config.training.save_every=5",
    "--config.training.eval_every=10",
    "--config.warm_start.updates=6",
    "--config.data.eval_seconds=2.0",
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, tiny_corpus):
    workdir = tmp_path_factory.mktemp("straight") / "run"
    runs.train(workdir, tiny_corpus, *FLAGS)
    return workdir


def start_and_stop(workdir, corpus, number: int, at_step: int) -> int:
    """Starts a run, sends a signal once its log has reached a step, returns its exit status."""
    process = subprocess.Popen(
        runs.command(workdir, corpus, *FLAGS),
        env=runs.environment(),
        cwd=workdir.parent,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log, deadline = workdir / "log.jsonl", time.time() + 300
    while time.time() < deadline and process.poll() is None:
        if log.exists() and max([0, *runs.figures(workdir, "loss")]) >= at_step:
            process.send_signal(number)
            break
        time.sleep(0.01)
    return process.wait(timeout=120)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill -9", "SIGTERM"])
def test_resume_is_exact(straight, tmp_path, tiny_corpus, number):
    workdir = tmp_path / "run"
    status = start_and_stop(workdir, tiny_corpus, number, at_step=15)
    assert status == (0 if number == signal.SIGTERM else -number)
    said = runs.train(workdir, tiny_corpus, *FLAGS)
    assert "going on from the checkpoint of update" in said
    runs.assert_same(runs.parameters(straight), runs.parameters(workdir), tolerance=0)
    for kind, name in (("train", "loss"), ("eval", "contrastive_loss"), ("train", "r2")):
        expected = runs.figures(straight, name, kind)
        resumed = runs.figures(workdir, name, kind)
        # After SIGTERM the window in which the run was cut is averaged over what came after.
        agree = [step for step in resumed if resumed[step] == expected.get(step)]
        assert len(agree) >= len(expected) - 1, (name, expected, resumed)


def test_a_finished_run_says_so(straight, tiny_corpus):
    before = runs.parameters(straight)
    assert "nothing to do" in runs.train(straight, tiny_corpus, *FLAGS)
    runs.assert_same(before, runs.parameters(straight), tolerance=0)
