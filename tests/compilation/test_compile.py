"""The command that compiles for TPU slices, with the TPU's own compiler and no TPU."""

import json
import subprocess
import sys

import pytest

from tests import runs

pytestmark = pytest.mark.aot


def compiled(*flags):
    command = [sys.executable, "-m", "xlsr_jax.compile", *flags]
    return subprocess.run(
        command, env=runs.environment(), cwd=runs.ROOT, capture_output=True, text=True
    )


def test_a_tiny_update_on_four_chips(tmp_path):
    pytest.importorskip("libtpu")
    done = compiled(
        f"--config={runs.ROOT}/configs/xlsr10_base.py:tiny", "--topology=v4-8", "--json",
        f"--config.data.path={tmp_path}", "--config.data.batch_seconds=64",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert (found["topology"], found["chips"]) == ("v4:2x2x1", 4)
    assert found["mesh"] == {"replica": 1, "fsdp": 4, "tensor": 1}
    (shape,) = found["shapes"]
    assert (shape["rows"], shape["samples"]) == (32, 32_000) and shape["fits"]
    # The compiler does what the model asks for, and what ``models/flops.py`` leaves out: nothing
    # of that is large. Gradients of all parameters cross between the chips.
    assert 1 < 4 * shape["flops_per_device"] / shape["model_flops"] < 1.6
    crossing = sum(each["bytes"] for each in shape["collectives"])
    assert crossing > 2 * found["parameters"]
    memory = shape["memory_bytes"]
    assert memory["peak"] == sum(memory.values()) - memory["peak"] < shape["hbm_bytes"]
    assert memory["moments"] >= 2 * memory["parameters"] > 0
    run = found["run"]
    hours = run["seconds_per_update"][0] * run["updates"] / 3600
    assert run["hours"][0] == pytest.approx(hours) and run["chip_hours"][0] == pytest.approx(
        4 * hours
    )


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), "--topology is missing"),
        (("--topology=v3-8",), "there is no such TPU"),
        (("--topology=v4-8", "--config.model.layers=0"), "config.model.layers"),
    ],
)
def test_one_line_for_what_cannot_be_compiled(flags, said):
    done = compiled(f"--config={runs.ROOT}/configs/xlsr10_base.py:tiny", *flags)
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
