"""Whole training runs in processes of their own, for the tests that need devices or kills."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np

from xlsr_jax.training.checkpoint import load_parameters

ROOT = Path(__file__).resolve().parent.parent


def command(workdir: Path, corpus: Path, *flags: str, config: str = "xlsr10_base") -> list[str]:
    """The training command of a config's tiny variant, "name" or "name:variants"."""
    name, _, variants = config.partition(":")
    chosen = f"{name}.py:{variants},tiny" if variants else f"{name}.py:tiny"
    return [
        sys.executable,
        "-m",
        "xlsr_jax.train",
        f"--config={ROOT}/configs/{chosen}",
        f"--workdir={workdir}",
        f"--config.data.path={corpus}",
        *flags,
    ]


def environment(devices: int = 1) -> dict[str, str]:
    """A CPU with simulated devices."""
    flags = f"--xla_force_host_platform_device_count={devices}"
    return os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}


def train(workdir: Path, corpus: Path, *flags: str, devices: int = 1, **kwargs) -> str:
    """Runs to the end and returns what it printed."""
    done = subprocess.run(
        command(workdir, corpus, *flags, **kwargs),
        env=environment(devices),
        cwd=workdir.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def fails(workdir: Path, corpus: Path, *flags: str, largest_file: int = 0, **kwargs) -> str:
    """Runs what must fail, and returns the one line it says; a traceback is no line.

    ``largest_file``, in bytes, makes every longer write fail, as a full disk does; then the storage
    library's own threads may print before the line.
    """

    def limit() -> None:
        if largest_file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    done = subprocess.run(
        command(workdir, corpus, *flags, **kwargs),
        env=environment(),
        cwd=workdir.parent,
        capture_output=True,
        text=True,
        preexec_fn=limit,
        timeout=300,
    )
    assert done.returncode != 0
    assert largest_file or "Traceback" not in done.stderr, done.stderr[-3000:]
    return done.stderr.strip().splitlines()[-1]


def parameters(workdir: Path, step: int | None = None) -> dict[str, np.ndarray]:
    """Parameters of a run's checkpoint by path."""
    params, _ = load_parameters(workdir, step)
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def figures(workdir: Path, name: str, kind: str = "train") -> dict[int, float]:
    """One figure of the log by step."""
    lines = map(json.loads, (workdir / "log.jsonl").read_text().splitlines())
    return {line["step"]: line[name] for line in lines if line["kind"] == kind and name in line}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray], tolerance: float) -> None:
    """All parameters agree; a tolerance of 0 asks for the same bits."""
    assert a.keys() == b.keys()
    for name in a:
        if tolerance == 0:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        else:
            np.testing.assert_allclose(a[name], b[name], rtol=0, atol=tolerance, err_msg=name)
