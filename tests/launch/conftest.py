"""A sandbox in which tpu.sh and slurm.sh run whole, with fakes of gcloud and its kind on PATH."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fakes"
GOLDEN = Path(__file__).parents[1] / "golden/launch"

SETTINGS = {
    "XLSR_PROJECT": "lab",
    "XLSR_ZONE": "us-central2-b",
    "XLSR_NAME": "xlsr10",
    "XLSR_ACCELERATOR": "v4-16",
    "XLSR_CONFIG": "configs/xlsr10_base.py",
    "XLSR_WORKDIR": "gs://bucket/xlsr10",
    "XLSR_POLL": "7",
}


class World:
    """A copy of the scripts in a repository of their own, a cloud, and a transcript."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder = folder
        self.hosts = 2  # of a slice, as SETTINGS has it
        self.settings: dict[str, str] = {}  # that differ from SETTINGS
        self.repository = folder / "repository"
        skip = shutil.ignore_patterns("colab", "__pycache__")
        shutil.copytree(root / "launch", self.repository / "launch", ignore=skip)
        (self.repository / "configs").mkdir()
        (self.repository / "configs/xlsr10_base.py").touch()
        for line in ("init -q", "add .", "-c user.name=a -c user.email=a@b commit -qm one"):
            subprocess.run(["git", *line.split()], cwd=self.repository, check=True)
        tools = folder / "bin"
        tools.mkdir()
        for name in ("sleep", "date"):
            (tools / name).symlink_to(FAKES / name)
        for name in ["gcloud", "tmux", "python", "python3", "uv", "srun", "scontrol"]:
            fake = f"{FAKES}/gcloud.py" if name == "gcloud" else f"{FAKES}/tool.py {name}"
            (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} -S -E {fake} "$@"\n')
            (tools / name).chmod(0o755)
        for name in ("tmp", "home", "workers"):
            (folder / name).mkdir()
        (folder / "clock").write_text("1000000\n")
        self.environment = {
            "PATH": f"{tools}:/usr/bin:/bin",
            "HOME": str(folder / "home"),
            "TMPDIR": str(folder / "tmp"),
            "FAKE_SANDBOX": str(folder),
            "LC_ALL": "C",
        }

    def run(self, *command: str, scenario: dict | None = None, **settings: str) -> int:
        """Runs ``command`` in the sandbox, its words between those of the fakes; its status."""
        plan = {"hosts": self.hosts} | (scenario or {})
        (self.folder / "scenario.json").write_text(json.dumps(plan))
        (self.folder / "counters.json").unlink(missing_ok=True)
        chosen = {
            name: value for name, value in (SETTINGS | self.settings | settings).items() if value
        }
        with open(self.folder / "transcript", "a") as transcript:
            transcript.write(f"% {' '.join(command)}\n")
            transcript.flush()
            status = subprocess.run(
                [self.repository / command[0], *command[1:]],
                cwd=self.folder,
                env=self.environment | chosen,
                stdin=subprocess.DEVNULL,
                stdout=transcript,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # A job in the background begins with Ctrl-C ignored, which bash cannot undo.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
                timeout=60,
            ).returncode
            transcript.seek(0, os.SEEK_END)
            transcript.write(f"exit {status}\n")
        return status

    def transcript(self) -> str:
        """What happened, without what differs from one sandbox to the next."""
        text = (self.folder / "transcript").read_text()
        text = re.sub(re.escape(str(self.folder)) + r"/tmp/tmp\.\w+", "SCRATCH", text)
        return text.replace(str(self.folder), "SANDBOX")

    def trained(self) -> list[list[str]]:
        """The argument vectors with which the trainer was started, in order."""
        path = self.folder / "argv.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line)["argv"] for line in lines]

    def billed(self) -> bool:
        """Whether a slice or a request is left in the cloud."""
        cloud = self.folder / "cloud.json"
        return cloud.exists() and json.loads(cloud.read_text())["name"] is not None

    def agrees_with_golden(self, name: str) -> None:
        """Compares the transcript with the committed one; UPDATE_GOLDEN=1 writes it anew."""
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("UPDATE_GOLDEN") == "1":
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.transcript())
        assert self.transcript() == path.read_text(), f"UPDATE_GOLDEN=1 pytest, and look at {path}"


@pytest.fixture
def world(tmp_path: Path, root: Path):
    """An empty sandbox; what still trains in it is ended."""
    world = World(tmp_path, root)
    yield world
    for session in tmp_path.glob("workers/*/.tmux"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(int(session.read_text()), signal.SIGKILL)
