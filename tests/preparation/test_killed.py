"""Killed at random moments, again and again, a preparation comes to the same bytes."""

import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import soundfile

from xlsr_jax import prepare as entry

KILLS = 20
FLAGS = ["--workers=2", "--utterances-per-shard=4", "--split=train", "--duplicates=drop", "--trim"]


def contents(root: Path) -> dict[str, bytes]:
    """All files of a corpus but the lock, which names the process."""
    files = (path for path in root.rglob("*") if path.is_file() and path.name != "lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_twenty_kills_leave_what_no_kill_leaves(tmp_path):
    rng = np.random.default_rng(0)
    archive = tmp_path / "clips.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for number in range(120):
            path = tmp_path / "clip.flac"
            noise = 0.1 * np.random.default_rng(number // 2).standard_normal(8_000 + number // 2)
            soundfile.write(path, noise, 16_000)
            if number % 10 == 7:
                path.write_bytes(path.read_bytes()[: number * 20])
            tar.add(path, f"corpus/{'es' if number % 3 else 'fr'}/{number:03d}.flac")
    command = ["folder", f"--source={archive}", "--language=es", *FLAGS]
    assert entry.main([*command, f"--output={tmp_path / 'whole'}"]) == 0
    whole = contents(tmp_path / "whole")

    output = tmp_path / "killed"
    kills = progressed = 0
    while kills < KILLS:
        if (output / "manifest.json").exists():  # the last kill came too late: once more
            assert contents(output) == whole
            shutil.rmtree(output)
        process = subprocess.Popen(
            [sys.executable, "-m", "xlsr_jax.prepare", *command, f"--output={output}"],
            start_new_session=True, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        before = committed(output)
        deadline = time.monotonic() + 120
        # Somewhere between its first sign of life and a few shards more.
        while committed(output) <= before and process.poll() is None:
            assert time.monotonic() < deadline
            if rng.random() < 0.02:
                break
            time.sleep(0.05)
        time.sleep(rng.random() * 0.1)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
        progressed += committed(output) > before
    assert progressed >= 2
    assert entry.main([*command, f"--output={output}"]) == 0
    assert contents(output) == whole
    assert any("digests" in name for name in whole)
    duplicates = whole["rejected.jsonl"].count(b"duplicate: of")
    assert duplicates == sum(n % 10 != 7 and (n - 1) % 10 != 7 for n in range(1, 120, 2))


def committed(output: Path) -> int:
    return len(list((output / "progress").glob("*/*.json")))
