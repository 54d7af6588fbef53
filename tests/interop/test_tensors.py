"""safetensors files are read lazily, whole, and only where they are what they say."""

import json
import tracemalloc

import numpy as np
import pytest

from tests.interop import sources
from xlsr_jax.interop import importing
from xlsr_jax.interop.tensors import read_safetensors
from xlsr_jax.training.checkpoint import CheckpointError


def write(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(begin=0, end=8, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


def test_tensors_are_those_of_the_package(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    random = np.random.default_rng(0)
    kinds = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?")
    whole = {f"{kind}-{n}": (9 * random.normal(size=(n, 3))).astype(kind)
             for kind in kinds for n in (0, 1, 4)}  # fmt: skip
    whole["scalar"] = np.array(2.5, np.float32)
    numpy.save_file(whole, tmp_path / "a.safetensors", {"format": "pt"})
    found = read_safetensors(tmp_path / "a.safetensors")
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        assert found[name].shape == value.shape and found[name].dtype == value.dtype
        np.testing.assert_array_equal(np.asarray(found[name]), value, err_msg=name)


BAD = {
    "too short": ({"a": entry()}, 7), "too long": ({"a": entry()}, 9),
    "a gap": ({"a": entry(4, 12)}, 12), "beyond": ({"a": entry(0, 80, (20,))}, 8),
    "overlap": ({"a": entry(), "b": entry(4, 12)}, 12), "shape": ({"a": entry(shape=(3,))}, 8),
    "negative": ({"a": entry(shape=(-1, -2))}, 8), "backwards": ({"a": entry(8, 0)}, 8),
    "fraction": ({"a": entry(0, 8.0)}, 8), "true": ({"a": entry(0, 4, (True,))}, 4),
    "dtype": ({"a": entry(dtype="F8_E4M3")}, 8), "axes": ({"a": entry(0, 4, (1,) * 9)}, 4),
    "no entry": ({"a": 3}, 8), "no offsets": ({"a": {"dtype": "F32", "shape": [2]}}, 8),
    "a list": (b"[1, 2]", 0), "deep": (b"[" * 100_000, 0), "no JSON": (b"{'a'}", 0),
    "twice": (b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
              b'"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', 8),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_headers(tmp_path, name):
    header, size = BAD[name]
    with pytest.raises(CheckpointError, match="no whole safetensors file") as error:
        read_safetensors(write(tmp_path / "a.safetensors", header, bytes(size)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63])
def test_bad_lengths_of_the_header(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="no whole safetensors file"):
        read_safetensors(path)


def test_a_file_that_shrinks_while_it_is_read(tmp_path):
    path = write(tmp_path / "a.safetensors", {"a": entry()}, bytes(8))
    found = read_safetensors(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="cut short"):
        np.asarray(found["a"])


def test_weights_are_in_memory_once(tmp_path):
    wide = sources.LARGE | {"num_hidden_layers": 8, "hidden_size": 256, "intermediate_size": 1024}
    model = sources.torch_model("Wav2Vec2ForPreTraining", sources.BASE | wide)
    sources.save(model, tmp_path)
    size = sum(value.nbytes for value in sources.state_of(model).values())
    importing.read(tmp_path)  # what is traced and imported for the first time is not counted
    tracemalloc.start()
    run = importing.read(tmp_path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert run.source and size > 25e6
    assert peak < size + 15e6  # tracing the model takes ten of them
