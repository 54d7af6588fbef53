"""Compiled updates saved and loaded: the same numbers, nothing compiled, and never a wrong one."""

import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import runs
from xlsr_jax.compilation import saved
from xlsr_jax.data.buckets import Shape
from xlsr_jax.parallel import mesh as meshes

SHAPE = Shape(4, 16_000)


MESH = meshes.make_mesh(meshes.MeshConfig())


def lowered(factor: float = 2.0):
    """A stand-in for an update: (state, batch, key) -> (state, sums), the state given away."""

    def step(state, batch, key):
        noise = jax.random.normal(key, batch.shape)
        return {"w": state["w"] * factor + (batch * noise).sum(0)}, batch.sum()

    state = {"w": jax.ShapeDtypeStruct((3,), jnp.float32)}
    batch = jax.ShapeDtypeStruct((4, 3), jnp.float32)
    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(step, donate_argnums=0).lower(state, batch, key)


def described(low, shape=SHAPE):
    return saved.describe("main", low, shape, MESH)


def arguments():
    return {"w": jnp.arange(3.0)}, jnp.arange(12.0).reshape(4, 3), jax.random.key(1)


@pytest.fixture
def folder(tmp_path):
    low = lowered()
    saved.save(tmp_path, low.compile(), described(low))
    return tmp_path


def compiled_since(action):
    """How many programs were compiled by ``action``, and what it gives."""
    events = []

    def hear(event, _, **__):
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(hear)
    try:
        result = action()
    finally:
        jax.monitoring.unregister_event_duration_listener(hear)
    return sum("backend_compile" in event for event in events), result


def test_what_is_loaded_computes_the_same_and_compiles_nothing(folder):
    low = lowered()
    expected, total = low.compile()(*arguments())
    given = arguments()
    count, (loaded, told) = compiled_since(lambda: saved.load(folder, low, described(low), MESH))
    assert (folder / told).suffix == ".xla"
    again, (state, loaded_total) = compiled_since(lambda: loaded(*given))
    assert count == again == 0
    np.testing.assert_array_equal(state["w"], expected["w"])
    assert loaded_total == total and given[0]["w"].is_deleted(), "the state is given away"


def test_another_program_is_not_loaded(folder):
    low = lowered(factor=2.5)
    found, told = saved.load(folder, low, described(low), MESH)
    assert found is None and told == "it is another program: a setting or the code has changed"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"jaxlib": "0.0.1"}, "it is for jaxlib 0.0.1, here "),
        ({"device kind": "TPU v4", "program": "x"}, "it is for device kind TPU v4, here cpu"),
        ({"mesh": {"fsdp": 8}}, "it is for mesh {'fsdp': 8}, here {'replica': 1, 'fsdp'"),
        ({"flags": "--xla_fast"}, "it is for flags --xla_fast, here none"),
        ({"order": "x"}, "the devices are numbered or placed otherwise"),
        ({"processor": "x"}, "it was compiled for another kind of processor"),
        ({"samples": 8_000}, " has none for it"),
    ],
)
def test_what_was_saved_for_something_else_is_not_loaded(folder, monkeypatch, change, said):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    (path,) = folder.glob("*.json")
    told = json.loads(path.read_text())
    told["for"] |= {"flags": ""} | change
    path.write_text(json.dumps(told))
    low = lowered()
    found, reason = saved.load(folder, low, described(low), MESH)
    assert found is None and said in reason


def test_flags_count_but_for_the_number_of_simulated_devices(folder, monkeypatch):
    low = lowered()
    before = described(low)
    flags = "--xla_force_host_platform_device_count=8"
    monkeypatch.setenv("XLA_FLAGS", f"{before['flags']} {flags}")
    assert described(low) == before
    # JAX sets this one on TPU machines, and there alone.
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_use_enhanced_launch_barrier=true")
    assert described(low) == before
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--xla_tpu_x=1")
    assert "--xla_tpu_x=1" in described(low)["flags"]


def test_broken_files_are_not_loaded(folder, tmp_path_factory):
    low = lowered()
    (executable,) = folder.glob("*.xla")
    (about,) = folder.glob("*.json")
    whole, told = executable.read_bytes(), about.read_text()
    load = partial(saved.load, folder, low, described(low), MESH)
    executable.write_bytes(whole[:-1])
    assert load()[0] is None and "cannot be loaded: ValueError: it is not what was w" in load()[1]
    executable.write_bytes(b"no pickle")
    digest = saved.hashlib.sha256(b"no pickle").hexdigest()
    about.write_text(json.dumps(json.loads(told) | {"sha256": digest}))
    assert load()[0] is None and "cannot be loaded: " in load()[1]
    executable.unlink()
    assert load()[0] is None and "FileNotFoundError" in load()[1]
    about.write_text("{")
    assert load() == (None, f"{folder} has none for it")
    assert saved.load(folder / "none", low, described(low), MESH)[0] is None
    about.write_text(told)
    executable.write_bytes(whole)
    assert load()[0] is not None


def test_the_digest_tells_folders_apart(folder):
    before = saved.digest(folder)
    low = lowered(factor=3.0)
    saved.save(folder, low.compile(), described(low))
    assert saved.digest(folder) != before and len(list(folder.glob("*.xla"))) == 2
    assert saved.digest(folder / "none") != before


def test_a_kernels_text_does_not_tell_where_its_file_is():
    """Kernels for TPUs carry names of files into the program, which differ between machines."""
    from jax.experimental import pallas as pl

    def text(file: str) -> str:
        source = "def double(x, out):\n    out[...] = x[...] * 2"
        exec(compile(source, file, "exec"), names := {})
        array = jax.ShapeDtypeStruct((8, 128), jnp.float32)
        kernel = jax.jit(lambda x: pl.pallas_call(names["double"], out_shape=array)(x))
        return kernel.trace(array).lower(lowering_platforms=("tpu",)).as_text()

    with saved.without_places():
        assert text("/here/kernel.py") == text("/there/kernel.py")
    assert text("/here/kernel.py") != text("/there/kernel.py"), "or this proves nothing"


FLAGS = (
    "--config.training.updates=2",
    "--config.warm_start.updates=1",
    "--config.training.log_every=1",
    "--config.training.eval_every=0",
    "--config.training.save_every=0",
    "--config.model.layers=1",
    "--config.data.buckets=1",
)


@pytest.fixture(scope="module")
def environment():
    given = runs.environment(devices=2)
    given["XLA_FLAGS"] += " --xla_backend_optimization_level=0"  # compiles in half the time
    return given


def finish(command, environment, folder) -> str:
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_a_run_of_what_was_saved_is_the_run_that_compiles(tmp_path, tiny_corpus, environment):
    folder, config = tmp_path / "saved", "xlsr10_base"
    train = runs.command(tmp_path / "loaded", tiny_corpus, *FLAGS, config=config)
    command = [sys.executable, "-m", "xlsr_jax.compile", train[3], *train[5:]]
    told = finish([*command, "--topology=here", f"--save={folder}"], environment, tmp_path)
    assert told.count("compiled in") == len(list(folder.glob("*.xla"))) == 2, "both phases"

    seen = finish([*train, f"--compiled={folder}"], environment, tmp_path)
    assert seen.count("\nloaded ") == 2 and "compiled" not in seen
    for path in folder.glob("*.json"):
        path.write_text(path.read_text().replace('"jaxlib": "', '"jaxlib": "1'))
    train[4] = f"--workdir={tmp_path / 'compiled'}"
    unseen = finish([*train, f"--compiled={folder}"], environment, tmp_path)
    assert unseen.count(": it is for jaxlib 1") == unseen.count("\ncompiled ") == 2

    loaded, compiled = tmp_path / "loaded", tmp_path / "compiled"
    compiles = [sum(runs.figures(x, "compiles").values()) for x in (compiled, loaded)]
    assert compiles[0] - compiles[1] == 2, "no update was compiled, and all else was"
    assert len(runs.figures(loaded, "grad_norm")) == 3
    assert runs.figures(loaded, "grad_norm") == runs.figures(compiled, "grad_norm")
    runs.assert_same(runs.parameters(loaded), runs.parameters(compiled), 0)


PERMUTED = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from xlsr_jax.compilation import saved
from xlsr_jax.data.buckets import Shape

mesh = Mesh(np.array(jax.devices())[[2, 0, 3, 1]].reshape(1, 4, 1), ("replica", "fsdp", "tensor"))
place = NamedSharding(mesh, PartitionSpec("fsdp"))
x = jax.device_put(np.arange(8.0, dtype=np.float32), place)
low = jax.jit(lambda x: (x * 2, x.sum())).lower(x)
about = saved.describe("main", low, Shape(8, 1, 0), mesh)
saved.save(Path(sys.argv[1]), low.compile(), about)
found, told = saved.load(Path(sys.argv[1]), low, about, mesh)
assert found is not None, told
twice, total = found(x)
np.testing.assert_array_equal(twice, 2 * np.arange(8.0))
assert total == 28
"""


def test_the_order_of_a_mesh_need_not_be_that_of_its_devices(tmp_path):
    """On a slice it is not: the chips of a host are neighbours there."""
    run = [sys.executable, "-c", PERMUTED, str(tmp_path)]
    subprocess.run(run, env=runs.environment(4), cwd=runs.ROOT, check=True, timeout=120)
