"""The same numbers however a batch is cut: devices, meshes, microbatches, processes."""

import socket
import subprocess

import numpy as np
import pytest

from tests import runs

FLAGS = (
    "--config.objective.diversity_groups=8",  # so that batches have the same rows everywhere
    "--config.model.layerdrop=0.3",
    "--config.training.updates=6",
    "--config.training.log_every=1",
)
# Adam divides each gradient by its own size, so that rounding may turn into a whole step where a
# gradient is nearly 0: parameters are held to a few per cent of one step, 5e-4.
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def one_device(tmp_path_factory, tiny_corpus):
    workdir = tmp_path_factory.mktemp("one") / "run"
    runs.train(workdir, tiny_corpus, *FLAGS)
    return workdir


@pytest.mark.parametrize(
    ("flags", "devices"),
    [
        ((), 8),
        (("--config.mesh.tensor=2",), 8),
        (("--config.mesh.replica=2", "--config.mesh.tensor=2"), 8),
        (("--config.training.accumulation=4",), 1),
        (("--config.training.accumulation=2", "--config.model.remat=layer"), 4),
    ],
    ids=["fsdp8", "fsdp4xtensor2", "replica2xfsdp2xtensor2", "accumulation4", "both"],
)
def test_one_device_equals(one_device, tmp_path, tiny_corpus, flags, devices):
    workdir = tmp_path / "run"
    runs.train(workdir, tiny_corpus, *FLAGS, *flags, devices=devices)
    runs.assert_same(runs.parameters(one_device), runs.parameters(workdir), TOLERANCE)
    for name in ("loss", "contrastive_loss", "code_perplexity", "grad_norm", "accuracy/zh"):
        here, there = runs.figures(one_device, name), runs.figures(workdir, name)
        assert here.keys() == there.keys() and here
        for step in here:
            np.testing.assert_allclose(here[step], there[step], rtol=2e-3, err_msg=f"{name} {step}")


def test_a_checkpoint_moves_between_meshes(one_device, tmp_path, tiny_corpus):
    first = ("--config.training.updates=6", "--config.training.save_every=3")
    workdir = tmp_path / "run"
    interrupted = (*FLAGS, *first, "--config.mesh.tensor=2")
    runs.train(workdir, tiny_corpus, *interrupted, devices=8)
    straight = runs.parameters(workdir)
    for devices, flags in ((1, ()), (4, ())):
        copy = tmp_path / f"on{devices}"
        subprocess.run(["cp", "-r", workdir, copy], check=True)
        subprocess.run(["rm", "-r", copy / "checkpoints" / "6"], check=True)
        said = runs.train(copy, tiny_corpus, *FLAGS, *first, *flags, devices=devices)
        assert "going on from the checkpoint of update 3" in said
        runs.assert_same(straight, runs.parameters(copy), TOLERANCE)


def test_two_processes_train_and_save_together(one_device, tmp_path, tiny_corpus):
    workdir = tmp_path / "run"
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            runs.command(
                workdir,
                tiny_corpus,
                *FLAGS,
                f"--coordinator={address}",
                "--processes=2",
                f"--process_id={number}",
            ),
            env=runs.environment(devices=2),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)[-3000:]
    assert "4 cpu device(s) (cpu) on 2 host(s)" in said[0]
    assert "update 6" in said[0] and "update 6" not in said[1], "only the first host tells"
    runs.assert_same(runs.parameters(one_device), runs.parameters(workdir), TOLERANCE)
    np.testing.assert_allclose(
        list(runs.figures(one_device, "loss", "eval").values()),
        list(runs.figures(workdir, "loss", "eval").values()),
        rtol=2e-3,
    )
