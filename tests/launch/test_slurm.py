"""slurm.sh under fakes of srun and scontrol."""

import os
import signal
import subprocess
import time

import pytest


def start(world, *arguments: str, outcome: str = "0", **settings: str) -> subprocess.Popen:
    """Runs the script as a job of two nodes with four GPUs each would."""
    (world.folder / "scenario.json").write_text("{}")
    job = {
        "SLURM_JOB_ID": "17",
        "SLURM_SUBMIT_DIR": str(world.repository),
        "SLURM_GPUS_ON_NODE": "4",
        "SLURM_CPUS_PER_TASK": "32",
        "XLSR_CONFIG": "configs/xlsr10_base.py",
        "XLSR_WORKDIR": "/scratch/my run",
        "XLSR_VENV": str(world.folder / "venv"),
        "FAKE_OUTCOME": outcome,
        "USER": "me",
    }
    python = world.folder / "venv/bin/python"
    python.parent.mkdir(parents=True)
    python.symlink_to(world.folder / "bin/python")
    chosen = {name: value for name, value in (job | settings).items() if value}
    with open(world.folder / "transcript", "a") as transcript:
        return subprocess.Popen(
            [world.repository / "launch/slurm.sh", *arguments],
            cwd=world.folder,
            env=world.environment | chosen,
            stdout=transcript,
            stderr=subprocess.STDOUT,
        )


def test_flags_reach_the_trainer_and_its_status_comes_back(world):
    wanted = ["--config.data.path=/scratch/a folder", '--config.name=$HOME `id` "it\'s"']
    assert start(world, *wanted, outcome="3").wait(30) == 3
    (argv,) = world.trained()
    assert argv[:2] == ["-m", "xlsr_jax.train"]
    assert argv[3:] == ["--workdir=/scratch/my run", *wanted]
    world.agrees_with_golden("slurm_crashed")


@pytest.mark.parametrize(
    ("number", "golden"), [(signal.SIGUSR1, "slurm_out_of_time"), (signal.SIGTERM, "slurm_cancel")]
)
def test_out_of_time_saves_and_goes_back_into_the_queue_but_a_cancel_does_not(
    world, number, golden
):
    process = start(world, outcome="running")
    serving = world.folder / "home/.serving"
    while not serving.exists():
        assert process.poll() is None
        time.sleep(0.02)
    os.kill(process.pid, number)
    assert process.wait(30) == 0
    assert "update 5: stopping: SIGTERM" in world.transcript()
    assert ("scontrol requeue 17" in world.transcript()) == (number == signal.SIGUSR1)
    world.agrees_with_golden(golden)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"SLURM_JOB_ID": ""}, "this is for sbatch"),
        ({"XLSR_CONFIG": ""}, "export XLSR_CONFIG=configs/xlsr10_base.py"),
        ({"XLSR_WORKDIR": ""}, "export XLSR_WORKDIR=/scratch/me/xlsr10"),
        ({"XLSR_VENV": "/nowhere"}, "export XLSR_VENV=DIR"),
        ({"XLSR_CONFIG": "configs/none.py"}, "call sbatch from the root"),
    ],
)
def test_what_is_missing_is_one_line(world, settings, said):
    assert start(world, **settings).wait(30) == 2
    assert said in world.transcript()
    assert len(world.transcript().splitlines()) == 1


def test_one_process_a_node_would_see_one_gpu_without_the_ids(monkeypatch):
    """Why the script sets JAX_LOCAL_DEVICE_IDS: JAX takes the task's number for its only GPU."""
    from jax._src import clusters

    for name in ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID"):
        monkeypatch.setenv("SLURM_" + name, "0")
    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    assert detect("host:1", 2, 0, None, "slurm", 1)[3] == [0]
    assert detect("host:1", 2, 0, [0, 1, 2, 3], "slurm", 1)[3] == [0, 1, 2, 3]
