"""Settings are checked before anything is asked of the cloud; the table of topologies is right."""

import csv
import math
import re

import pytest


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("XLSR_PROJECT", "my-project"),
        ("XLSR_ZONE", "us-central2-b"),
        ("XLSR_NAME", "xlsr10"),
        ("XLSR_ACCELERATOR", "v4-32"),
        ("XLSR_CONFIG", "configs/xlsr10_base.py"),
        ("XLSR_WORKDIR", "gs://my-bucket/xlsr10"),
    ],
)
def test_a_missing_setting_is_one_line_with_an_example(world, name, example):
    assert world.run("launch/tpu.sh", "up", **{name: ""}) == 2
    _, line, last = world.transcript().splitlines()
    assert line.startswith(f"tpu.sh: {name} is not set: ")
    assert line.endswith(f"for example: export {name}={example}")
    assert last == "exit 2"


def test_a_command_asks_for_no_more_than_it_needs(world):
    nothing = {"XLSR_ACCELERATOR": "", "XLSR_CONFIG": "", "XLSR_WORKDIR": ""}
    assert world.run("launch/tpu.sh", "status", **nothing) == 0
    assert "xlsr10: NOT_FOUND" in world.transcript()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"XLSR_ACCELERATOR": "v4-33"}, "launch/tpu.sh topologies lists them"),
        ({"XLSR_NAME": "My_Run"}, "small letters, digits and -"),
        ({"XLSR_WORKDIR": "runs/here"}, "gs://bucket/folder, or an absolute path"),
        ({"XLSR_CONFIG": "configs/nothing.py"}, "no such file in the repository"),
        ({"XLSR_HOW": "direct", "XLSR_SLICES": "2"}, "several slices need XLSR_HOW=queued"),
        ({"XLSR_HOW": "soon"}, "it is queued or direct"),
        ({"XLSR_SPOT": "yes"}, "it is 0 or 1"),
        ({"XLSR_MAX_HOURS": "0"}, "a whole number above 0 is needed"),
        ({"XLSR_MESH": "2x2"}, "three numbers are needed, replica,fsdp,tensor"),
        ({"XLSR_FLAGS": "--a='b"}, "a quote is left open"),
    ],
)
def test_a_wrong_setting_is_refused_by_name(world, settings, said):
    assert world.run("launch/tpu.sh", "up", **settings) == 2
    lines = world.transcript().splitlines()
    assert len(lines) == 3
    assert f"tpu.sh: {list(settings)[-1]}" in lines[1]
    assert said in lines[1]


def test_help_lists_every_setting_that_the_scripts_read(world, root):
    assert world.run("launch/tpu.sh", "--help") == 0
    scripts = [root / "launch/tpu.sh", *(root / "launch/lib").glob("*.sh")]
    read = {name for path in scripts for name in re.findall(r"XLSR_[A-Z_]+", path.read_text())}
    assert len(read) > 20
    assert not [name for name in read if f"  {name} " not in world.transcript()]
    world.agrees_with_golden("help")


def test_topologies_fit_together(root):
    with open(root / "launch/topologies.tsv") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert {row["family"] for row in rows} == {"v4", "v5e", "v5p", "v6e"}
    assert len({row["accelerator_type"] for row in rows}) == len(rows)
    for row in rows:
        family, _, shape = row["topology"].partition(":")
        sides = [int(side) for side in shape.split("x")]
        chips, hosts, devices = (int(row[name]) for name in ("chips", "hosts", "devices"))
        number = int(row["accelerator_type"].rpartition("-")[2])
        assert family == row["family"]
        assert len(sides) == (3 if family in ("v4", "v5p") else 2)
        # v4 and v5p are named by TensorCores, two a chip, that JAX joins to one device.
        assert number == (2 * chips if family in ("v4", "v5p") else chips)
        assert math.prod(sides) == chips == devices
        assert hosts == (1 if row["accelerator_type"] in ("v5litepod-8", "v6e-8") else chips // 4)


def test_every_topology_and_mesh_fits_the_trainer(root):
    from xlsr_jax.parallel.mesh import MeshConfig, mesh_shape

    with open(root / "launch/topologies.tsv") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            sizes = MeshConfig(*(int(size) for size in row["mesh"].split(",")))
            assert math.prod(mesh_shape(sizes, int(row["devices"]))) == int(row["devices"])
