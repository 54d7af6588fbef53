"""PyTorch's files are read as PyTorch reads them, and nothing that is in them is run."""

import argparse
import collections
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from xlsr_jax.interop import torch_files
from xlsr_jax.interop.pickles import Inert
from xlsr_jax.training.checkpoint import CheckpointError

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
          "bool")  # fmt: skip


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="pip install -e '.[reference]'")


def zipped(path, payload, entries=(), compression=zipfile.ZIP_STORED):
    """A file of torch.save with any pickle in it."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("archive/data.pkl", payload)
        for name, content in entries:
            archive.writestr(name, content)
    return path


def storage(key="0", length=4, kind=b"FloatStorage"):
    """Instructions that push a storage."""
    text = lambda s: b"X" + struct.pack("<I", len(s)) + s.encode()  # noqa: E731
    return b"(" + text("storage") + b"ctorch\n" + kind + b"\n" + text(key) + text("cpu") + (
        b"J" + struct.pack("<i", length) + b"tQ"
    )  # fmt: skip


def tensor(shape, strides, offset=0, length=4):
    """A pickle of one tensor of 4 numbers."""
    numbers = lambda values: b"(" + b"".join(b"J" + struct.pack("<i", v) for v in values) + b"t"  # noqa: E731
    return (
        b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(" + storage(length=length)
        + b"J" + struct.pack("<i", offset) + numbers(shape) + numbers(strides)
        + b"\x89ccollections\nOrderedDict\n)RtR."
    )  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
def test_tensors_are_those_of_torch(torch, tmp_path, old):
    """Every dtype, strides, offsets, storages that are shared, scalars and empty tensors."""
    torch.manual_seed(0)
    whole = {name: (50 * torch.randn(3, 4, 5)).to(getattr(torch, name)) for name in DTYPES}
    base = torch.randn(6, 7)
    whole |= {
        "view": base[1:5, ::3], "turned": base.T, "row": base[2], "scalar": base[3, 3],
        "empty": torch.zeros(0, 3), "parameter": torch.nn.Parameter(base[:, :1]),
    }  # fmt: skip
    torch.save(whole, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    found = torch_files.load(tmp_path / "a.pt")
    assert found.keys() == whole.keys()
    for name, value in whole.items():
        value = value.detach()
        assert found[name].shape == tuple(value.shape)
        expected = value.float().numpy() if name == "bfloat16" else value.numpy()
        read = np.asarray(found[name])
        assert read.dtype.name == name if name in DTYPES else True
        np.testing.assert_array_equal(read.astype(expected.dtype), expected, err_msg=name)


@pytest.mark.parametrize("old", [False, True])
def test_configuration_becomes_stand_ins(torch, tmp_path, old, monkeypatch):
    """Classes of fairseq and omegaconf need not be there, and are not made."""
    module = type(sys)("fairseq.made_up")
    made = []

    class Config:
        def __init__(self):
            self.heads = 16

        def __setstate__(self, state):
            made.append(state)

    Config.__module__, Config.__qualname__ = "fairseq.made_up", "Config"
    module.Config = Config
    monkeypatch.setitem(sys.modules, "fairseq", type(sys)("fairseq"))
    monkeypatch.setitem(sys.modules, "fairseq.made_up", module)
    document = {
        "args": argparse.Namespace(layers=3, spec="[(512, 10, 5)]"), "cfg": Config(),
        "history": [{"loss": 1.5, "updates": 10**12, "none": None, "yes": True}],
        "order": collections.OrderedDict(a=(1, -2)), "counts": collections.Counter("aab"),
        "scalar": np.float64(2.5), "bytes": b"\x00\xff",
    }  # fmt: skip
    torch.save(document, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
    found = torch_files.load(tmp_path / "a.pt")
    assert not made
    assert isinstance(found["args"], Inert) and found["args"].state["layers"] == 3
    assert isinstance(found["cfg"], Inert) and found["cfg"].state == {"heads": 16}
    assert str(found["cfg"].of) == "fairseq.made_up.Config"
    assert found["history"] == document["history"] and found["order"] == {"a": (1, -2)}
    assert found["bytes"] == b"\x00\xff"


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol(tmp_path, protocol):
    value = {"a": [1, 2.5, -3, 2**40, "é" * 300, None, True, (), (1,), (1, 2, 3, 4)], "b": {}}
    zipped(tmp_path / "a.pt", pickle.dumps(value, protocol))
    assert torch_files.load(tmp_path / "a.pt") == value


class Attack:
    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call[0], self.call[1:]


HOSTILE = {
    "reduce": (pickle.dumps(Attack(os.system, "touch mark")), "asks for posix.system"),
    "eval": (pickle.dumps(Attack(eval, "open('mark', 'w')")), "asks for builtins.eval"),
    "nested": (pickle.dumps({"model": [Attack(exec, "1")]}), "asks for builtins.exec"),
    "getattr": (b"cbuiltins\ngetattr\n.", "asks for builtins.getattr"),
    "stack": (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "asks for os.system"),
    "dotted": (b"\x80\x04\x8c\x05torch\x8c\x0ahub.system\x93.", "asks for torch.hub.system"),
    "instance": (b"(S'ls'\nios\nsystem\n.", "instruction INST"),
    "extension": (b"\x82\x01.", "instruction EXT1"),
    "a dict is called": (b"}(tR.", "calls what is no name"),
    "attributes": (b"]}b.", "sets attributes of a list"),
    "attributes of a name": (b"cargparse\nNamespace\n}b.", "sets attributes of a Name"),
    "tuples as keys": (b"}))s.", "key that is a tuple"),
    "unknown class": (b"cmy.room\nThing\n.", "asks for my.room.Thing"),
    "no end": (b"}", "damaged"),
    "empty": (b"", "damaged"),
    "rubbish": (b"\xff\x00\x17", "damaged"),
    "no stack": (b"R.", "damaged"),
    "memo": (b"h\x07.", "damaged"),
    "huge number": (b"\x8b" + struct.pack("<i", 5_000) + b"\x01" * 5_000 + b".", "digits"),
    "digits": (b"I" + b"9" * 20_000 + b"\n.", "damaged|digits"),
    "many": (b"(" + b"]0" * 600_000 + b".", "instructions"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("old", [False, True])
def test_nothing_is_run(tmp_path, monkeypatch, name, old):
    payload, said = HOSTILE[name]
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "a.pt"
    if old:
        head = [0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}]
        path.write_bytes(b"".join(pickle.dumps(x, 2) for x in head) + payload)
    else:
        zipped(path, payload)
    with pytest.raises(CheckpointError, match=said) as error:
        torch_files.load(path)
    assert "\n" not in str(error.value) and os.listdir() == ["a.pt"]


def test_deep_nesting_is_no_matter(tmp_path):
    zipped(tmp_path / "a.pt", b"]" * 200_000 + b"a" * 199_999 + b".")
    assert isinstance(torch_files.load(tmp_path / "a.pt"), list)
    zipped(tmp_path / "b.pt", b")" + b"\x85" * 200_000 + b".")
    assert isinstance(torch_files.load(tmp_path / "b.pt"), tuple)


DATA = np.arange(4, dtype="<f4").tobytes()


def test_a_tensor_stays_in_its_storage(tmp_path):
    entries = [("archive/data/0", DATA)]
    path = zipped(tmp_path / "a.pt", tensor((2, 2), (1, 2)), entries)
    np.testing.assert_array_equal(np.asarray(torch_files.load(path)), [[0, 2], [1, 3]])
    for shape, strides, offset in (
        ((5,), (1,), 0), ((4,), (1,), 1), ((2, 2), (3, 1), 0), ((2,), (-1,), 1), ((4,), (1,), -1),
        ((10**9,), (0,), 0), ((3, 3), (1, 1), 0), ((-1,), (1,), 0), ((2,), (1, 1), 0),
        ((1,) * 9, (1,) * 9, 0),
    ):  # fmt: skip
        with pytest.raises(CheckpointError, match="tensor|damaged"):
            torch_files.load(zipped(path, tensor(shape, strides, offset), entries))


def test_archives_that_are_not_torchs(tmp_path):
    pickled, path = tensor((4,), (1,)), tmp_path / "a.pt"
    bomb = [("archive/data/0", bytes(50_000_000))]
    for said, make in {
        "zip bomb": lambda: zipped(path, pickled, bomb, zipfile.ZIP_DEFLATED),
        "lacks the storage '0'": lambda: zipped(path, pickled),
        "has 12 bytes": lambda: zipped(path, pickled, [("archive/data/0", DATA[:12])]),
        "not one of torch.save": lambda: zipped(path, pickled, [("other/data.pkl", b".")]),
        "TorchScript": lambda: zipped(path, pickled, [("archive/constants.pkl", b".")]),
        "big-endian": lambda: zipped(path, pickled, [("archive/byteorder", b"big")]),
        "no file of torch.save": lambda: path.write_text("<html>not found</html>"),
    }.items():
        make()
        with pytest.raises(CheckpointError, match=said):
            torch_files.load(path)
    whole = zipped(path, pickled, [("archive/data/0", DATA)]).read_bytes()
    # The central directory says that the entry is elsewhere: in front of the file, or behind it.
    for where in (3, len(whole)):
        at = whole.rindex(b"PK\x01\x02") + 42
        path.write_bytes(whole[:at] + struct.pack("<I", where) + whole[at + 4 :])
        with pytest.raises(CheckpointError):
            torch_files.load(path)


@pytest.mark.parametrize("old", [False, True])
def test_a_file_cut_anywhere_is_refused(torch, tmp_path, old):
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(40.0)}, buffer, _use_new_zipfile_serialization=not old)
    whole, path = buffer.getvalue(), tmp_path / "a.pt"
    for length in [*range(0, len(whole) - 1, 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            torch_files.load(path)


@pytest.mark.parametrize("old", [False, True])
def test_spoilt_bytes_are_read_or_refused(torch, tmp_path, old):
    """Nothing but a CheckpointError comes of a file in which bytes have changed."""
    buffer = io.BytesIO()
    document = {"args": argparse.Namespace(a=1), "model": {"w": torch.arange(12.0).reshape(3, 4).T}}
    torch.save(document, buffer, _use_new_zipfile_serialization=not old)
    random, path = np.random.default_rng(0), tmp_path / "a.pt"
    whole = np.frombuffer(buffer.getvalue(), np.uint8)
    refused = 0
    for _ in range(1_000):
        bytes_now = whole.copy()
        where = random.integers(0, len(whole), random.integers(1, 5))
        bytes_now[where] = random.integers(0, 256, len(where))
        path.write_bytes(bytes_now.tobytes())
        try:
            torch_files.load(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_torch_is_not_needed(torch, tmp_path):
    torch.save({"a": torch.arange(3.0)}, tmp_path / "a.pt")
    program = (
        "import sys; sys.modules['torch'] = None; import numpy; from pathlib import Path\n"
        "from xlsr_jax.interop import importing, torch_files\n"
        f"print(numpy.asarray(torch_files.load(Path({str(tmp_path / 'a.pt')!r}))['a']).sum())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "3.0", done.stderr[-2_000:]


def test_a_configuration_of_omegaconf(tmp_path):
    """As it is pickled: lists name their elements' type, which Python 2 called "long"; tuples of
    types are made by operator.getitem; a Namespace lies inside a node."""
    text = lambda s: b"X" + struct.pack("<I", len(s)) + s.encode()  # noqa: E731
    made = lambda name, state: b"c" + name + b"\n)\x81}(" + state + b"ub"  # noqa: E731
    content = text("_content") + b"](K\x05K\x07e" + text("element_type") + b"c__builtin__\nlong\n"
    items = made(b"omegaconf.listconfig\nListConfig", content)
    pair = b"c_operator\ngetitem\nctyping\nTuple\nc__builtin__\nunicode\n\x86R"
    whole = b"\x80\x02}(" + text("list") + items + text("t") + pair + b"u."
    found = torch_files.load(zipped(tmp_path / "a.pt", whole))
    assert found["list"].state["_content"] == [5, 7] and isinstance(found["t"], Inert)


# Few bytes that ask for much: each of these calls could copy a million characters, or pairs.
LONG = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
PUT, GET = b"q\x00", b"h\x00"
AMPLIFIED = {
    "encode": LONG + PUT + b"0" + 100 * (b"c_codecs\nencode\n" + GET + b"\x85R0"),
    "size": LONG + PUT + b"0" + 100 * (b"ctorch\nSize\n" + GET + b"\x85R0"),
    "OrderedDict": b"](" + 100_000 * (b"X\x01\x00\x00\x00aK\x01\x86") + b"e" + PUT + b"0"
    + 100 * (b"ccollections\nOrderedDict\n" + GET + b"\x85R0"),
    "BUILD": b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(100_000)) + b"u"
    + PUT + b"0" + 100 * (b"cargparse\nNamespace\n)\x81" + GET + b"b0"),
}  # fmt: skip


@pytest.mark.parametrize("how", AMPLIFIED)
def test_little_that_asks_for_much(tmp_path, how):
    with pytest.raises(CheckpointError, match="copies|byte string|torch.Size") as caught:
        torch_files.load(zipped(tmp_path / "a.pt", b"\x80\x02" + AMPLIFIED[how] + b"N."))
    assert len(str(caught.value).splitlines()) == 1


def test_weights_share_no_storage(torch, tmp_path):
    whole = torch.zeros(5_000)
    torch.save({f"w{i}": whole for i in range(50)}, tmp_path / "a.bin")
    with pytest.raises(CheckpointError, match="1,000,000 bytes, more than the file"):
        torch_files.load_tensors(tmp_path / "a.bin")
