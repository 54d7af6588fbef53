"""Runs in an object store: the bits and the log of a local one, and one clear line otherwise."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from tests import runs
from tests.analysis.pretrained import make_run
from tests.store import Store, serving
from xlsr_jax import analyze, storage, transcribe
from xlsr_jax.analysis import codes
from xlsr_jax.storage import StorageError
from xlsr_jax.training import mirror
from xlsr_jax.training.checkpoint import CheckpointError, Checkpoints, load_parameters
from xlsr_jax.training.logbook import Logbook, read_log

FLAGS = (
    "--config.training.updates=6",
    "--config.training.log_every=1",
    "--config.training.save_every=2",
    "--config.training.eval_every=2",
    "--config.warm_start.updates=0",
    "--config.data.eval_seconds=2.0",
    "--config.data.batch_seconds=4.0",
    "--config.data.buckets=1",  # one length to compile for
    "--config.model.layers=1",
)


@pytest.fixture(scope="module", autouse=True)
def objects(tmp_path_factory):
    """The folder of the objects' files; gs://bucket is there."""
    folder = tmp_path_factory.mktemp("objects")
    (folder / "bucket%2Fnote").touch()
    with serving(folder):
        yield folder


def refuse(*_, **__):
    raise PermissionError(13, "Forbidden: no storage.objects.create")


def command(tmp_path, corpus) -> subprocess.Popen:
    """The training command in the bucket."""
    whole = runs.command("gs://bucket/runs/mine", corpus, *FLAGS)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store", *whole[2:]],
        env=runs.environment() | {"PYTHONPATH": str(runs.ROOT)},
        cwd=tmp_path,  # nothing may be written here
        stderr=subprocess.PIPE,
        text=True,
    )


def test_killed_and_started_again_it_is_a_local_run(objects, tmp_path, tiny_corpus):
    straight, empty = tmp_path / "straight", tmp_path / "empty"
    empty.mkdir()
    runs.train(straight, tiny_corpus, *FLAGS)

    process, second = command(empty, tiny_corpus), "bucket%2Fruns%2Fmine%2Fcheckpoints%2F4%2F"
    deadline = time.monotonic() + 300
    while not any(path.name.startswith(second) for path in objects.iterdir()):
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()[-3000:]
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)  # while the second checkpoint is being written
    process.communicate()

    said = (again := command(empty, tiny_corpus)).communicate(timeout=300)[1]
    assert again.returncode == 0, said[-3000:]
    workdir = storage.at("gs://bucket/runs/mine")
    assert re.search("update [24]: going on from the checkpoint", said)
    runs.assert_same(runs.parameters(straight), runs.parameters(workdir), tolerance=0)
    for kind, name in (("train", "loss"), ("eval", "contrastive_loss")):
        expected = runs.figures(straight, name, kind)
        assert runs.figures(workdir, name, kind) == expected
        assert list(expected) == ([1, 2, 3, 4, 5, 6] if kind == "train" else [2, 4, 6])
    assert (workdir / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert len(list((workdir / "tensorboard").iterdir())) == 2
    assert (workdir / "config.json").read_bytes() == (straight / "config.json").read_bytes()
    assert list(empty.iterdir()) == []


@pytest.fixture(scope="module")
def pretrained(objects, tmp_path_factory):
    """The same tiny run in the bucket and in a folder."""
    folder = tmp_path_factory.mktemp("pretrained") / "run"
    return make_run(storage.at("gs://bucket/pretrained")), make_run(folder)


def test_a_run_in_a_bucket_is_read_as_one_in_a_folder(pretrained):
    (there, about), (here, same) = map(load_parameters, pretrained)
    assert about == same and about["step"] == 7
    jax.tree.map(np.testing.assert_array_equal, there, here)
    coder = codes.load(str(pretrained[0]))
    jax.tree.map(np.testing.assert_array_equal, coder.params, codes.load(pretrained[1]).params)


def test_a_checkpoint_that_is_not_whole_counts_for_nothing(pretrained, objects):
    (objects / "bucket%2Fpretrained%2Fcheckpoints%2F9%2Fstate%2Fd%2F0").touch()
    assert load_parameters(pretrained[0])[1]["step"] == 7
    with pytest.raises(CheckpointError, match="pretrained has no checkpoint of update 9"):
        load_parameters(pretrained[0], step=9)


def test_reports_are_not_written_to_a_bucket(pretrained, capsys):
    assert analyze.main([f"--run={pretrained[0]}"]) == 1
    assert "gs://bucket/pretrained is in an object store; say with --output=DIR" in (
        capsys.readouterr().err
    )


def test_what_a_store_refuses_is_one_line(pretrained, tmp_path, capsys, monkeypatch):
    with pytest.raises(StorageError, match="there is no gs://nowhere, or you may not see it"):
        load_parameters("gs://nowhere/run")
    (tmp_path / "a.wav").touch()
    assert transcribe.main([str(tmp_path / "a.wav"), "--run=gs://nowhere/run"]) == 1
    assert capsys.readouterr().err.startswith("StorageError: there is no gs://nowhere")
    with pytest.raises(CheckpointError, match="gs://bucket/none is no run: it has no checkpoints"):
        load_parameters("gs://bucket/none")
    monkeypatch.setattr(Store, "_open", refuse)
    with pytest.raises(CheckpointError, match="write a checkpoint to gs://bucket/new.*Forbidden"):
        make_run(storage.at("gs://bucket/new"))
    with pytest.raises(CheckpointError, match="cannot read gs://bucket/pretr.*Forbidden"):
        load_parameters(pretrained[0])


def test_a_client_that_refuses_is_one_line(pretrained, monkeypatch):
    class Forbidden(Exception):
        """As of google.api_core: neither an OSError nor a RuntimeError."""

    def forbid(*_):
        raise Forbidden("403 no storage.buckets.get access")

    monkeypatch.setattr("orbax.checkpoint._src.path.gcs_utils.get_bucket", forbid)
    with pytest.raises(CheckpointError, match="cannot read gs://bucket/pretrained/check.*403"):
        Checkpoints(pretrained[0])


def begin(name: str, start: int = 0) -> tuple[Logbook, Path]:
    """A log in the bucket, and where it will be found."""
    workdir = storage.at(f"gs://bucket/{name}")
    return Logbook(workdir, start, total=10), workdir / "log.jsonl"


def test_a_log_goes_on_where_it_was_cut():
    log, path = begin("cut")
    for step in (2, 4, 6):
        log.metrics(step, "train", {"loss": 1 / step})
    log.copy()
    assert [entry["step"] for entry in read_log(path)] == [2, 4, 6]
    log.metrics(8, "train", {"loss": 0.0})  # and is killed before the next copy
    second, _ = begin("cut", start=4)
    second.metrics(6, "train", {"loss": 0.5})
    second.close()
    assert [(e["step"], e["loss"]) for e in read_log(path)] == [(2, 0.5), (4, 0.25), (6, 0.5)]
    assert not second.folder.exists()


def test_a_log_is_copied_from_time_to_time(monkeypatch):
    monkeypatch.setattr(mirror, "EVERY", 0.02)
    log, path = begin("often")
    for step in (2, 4):
        log.metrics(step, "train", {"loss": 1.0})
        deadline = time.monotonic() + 30
        while not path.exists() or read_log(path)[-1]["step"] < step:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    log.close()


def test_a_log_that_cannot_be_copied_ends_nothing(monkeypatch, capsys):
    log, path = begin("refused")
    log.metrics(2, "train", {"loss": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_open", refuse)
        log.copy()
        log.copy()
        said = capsys.readouterr().err
        assert said.count("could not be copied to gs://bucket/refused: cannot write") == 1
        assert "Forbidden" in said and str(log.folder) in said and not path.exists()
    log.copy()
    assert "the log is in gs://bucket/refused again" in capsys.readouterr().err
    assert read_log(path) == [{"step": 2, "kind": "train", "loss": 1.0}]
    log.metrics(4, "train", {"loss": 1.0})
    monkeypatch.setattr(Store, "_open", refuse)
    log.close()
    assert len(read_log(log.folder / "log.jsonl")) == 2, "kept where it could not be copied"


def test_a_log_that_cannot_be_read_is_not_begun_anew(monkeypatch):
    log, path = begin("unread")
    log.metrics(2, "train", {"loss": 1.0})
    log.close()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "_open", refuse)
        with pytest.raises(StorageError, match="cannot read gs://bucket/unread/log.jsonl: Forbid"):
            begin("unread", start=2)
    assert len(read_log(path)) == 1
