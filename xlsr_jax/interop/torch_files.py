"""PyTorch's files, ``.pt`` and ``.bin``, without PyTorch and without running what is in them.

Since PyTorch 1.6 a file is a zip archive of ``data.pkl`` and one uncompressed entry a storage;
before, it was five pickles and then the storages. Tensors come out as ``Tensor``s, which are read
when they are asked for: of a checkpoint with an optimizer only the weights are.
"""

import io
import math
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from xlsr_jax.interop import pickles
from xlsr_jax.interop.pickles import Inert, Name, Refused
from xlsr_jax.interop.tensors import MOST_AXES, Storage, Tensor
from xlsr_jax.training.checkpoint import CheckpointError

LARGEST_PICKLE = 64 << 20  # bytes; without the storages a checkpoint has some hundred kB
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001  # the first two pickles of an old file
MOST_ENTRIES = 100_000
MOST_ENCODED = 1 << 16  # characters of a byte string that was written for Python 2
# What zipfile raises of archives that are not whole; ``Refused`` is a ValueError.
DAMAGED = (
    ValueError, RuntimeError, OSError, EOFError, IndexError, KeyError, OverflowError,
    struct.error, zipfile.BadZipFile, MemoryError, RecursionError,
)  # fmt: skip

DTYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2",
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "i1", "ByteStorage": "u1", "BoolStorage": "?",
}  # fmt: skip
TORCH_TYPES = {
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool",
}  # fmt: skip
REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")

# Classes whose objects become stand-ins: configuration, counters, labels. Nothing of them is run.
INERT_ROOMS = ("fairseq", "omegaconf")
INERT = {
    "argparse": {"Namespace"},
    "typing": {"Any", "Union", "Optional", "List", "Dict", "Tuple"},
    # "long" and "unicode" are what int and str are called in the pickles that PyTorch writes.
    "builtins": {
        *("dict", "list", "tuple", "int", "float", "str", "bool", "bytes", "object", "set"),
        *("long", "unicode"),
    },
    "operator": {"getitem"},  # typing.Tuple[int, str], of a typed configuration
    "_operator": {"getitem"},
    "collections": {"OrderedDict", "defaultdict", "Counter"},
    "pathlib": {"Path", "PosixPath"},
    "enum": {"Enum"},
    "copyreg": {"_reconstructor"},
    "_codecs": {"encode"},
    "numpy": {"dtype", "ndarray"},
    "numpy.core.multiarray": {"scalar", "_reconstruct"},
    "numpy._core.multiarray": {"scalar", "_reconstruct"},
    "torch": {"Size", "device", *DTYPES, *TORCH_TYPES},
    "torch._utils": set(REBUILD),
}
RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # since Python 2


def load(path: Path) -> Any:
    """What ``torch.save`` wrote, with ``Tensor``s and, for other classes, ``Inert``s.

    Raises:
      CheckpointError: a file that is truncated, compressed, or asks for anything but data.
    """
    try:
        if zipfile.is_zipfile(path):
            return _load_zip(path)
        return _load_old(path)
    except DAMAGED as error:
        said = str(error).splitlines() or ["it is truncated"]
        said = said[0] if isinstance(error, Refused) else f"it is damaged ({said[0][:100]})"
        raise CheckpointError(f"{path} was not read: {said}") from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The state dict of a ``pytorch_model.bin``.

    Raises:
      CheckpointError: as ``load``, or a file that holds something else.
    """
    found = load(path)
    if not isinstance(found, dict) or not found:
        raise CheckpointError(f"{path} holds no state dict")
    for name, value in found.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path} holds more than a state dict: {name!r:.80}")
    refuse_shared(path, found)
    return found


def refuse_shared(path: Path, state: Mapping[str, Tensor]) -> None:
    """Raises ``CheckpointError`` where tensors are larger than their file: many of one storage."""
    total = sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in state.values())
    if total > path.stat().st_size:
        raise CheckpointError(
            f"{path} was not read: its tensors have {total:,} bytes, more than the file; weights "
            "share no storage"
        )


def _load_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        total = path.stat().st_size
        if len(entries) != len(archive.infolist()) or len(entries) > MOST_ENTRIES:
            raise Refused("its archive has entries of one name, or too many")
        if sum(entry.file_size for entry in entries.values()) > total or any(
            entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()
        ):
            raise Refused(
                "its archive is compressed, or its entries are larger than the file (a zip bomb?); "
                "PyTorch compresses nothing"
            )
        tops = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(tops) != 1:
            raise Refused("it is a zip archive, but not one of torch.save")
        top = tops[0].removesuffix("data.pkl")
        if top + "constants.pkl" in entries:
            raise Refused("it is a TorchScript program; give the checkpoint that it was made of")
        if entries[tops[0]].file_size > LARGEST_PICKLE:
            raise Refused(f"its pickle is larger than {LARGEST_PICKLE >> 20} MB")
        order = entries.get(top + "byteorder")
        if order is not None and archive.read(order) != b"little":
            raise Refused("it was written on a big-endian machine")
        storages: dict[str, Storage] = {}
        value = _read(path, io.BytesIO(archive.read(tops[0])), storages)
    with open(path, "rb") as file:
        for key, storage in storages.items():
            entry = entries.get(f"{top}data/{key}")
            if entry is None:
                raise Refused(f"it lacks the storage {key[:40]!r}")
            if entry.file_size != storage.length * storage.dtype.itemsize:
                raise Refused(f"storage {key} has {entry.file_size} bytes, not {storage.length} x "
                              f"{storage.dtype}")  # fmt: skip
            file.seek(entry.header_offset)
            head = file.read(30)
            if head[:4] != b"PK\x03\x04":
                raise Refused("its archive is damaged")
            names = int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
            storage.start = entry.header_offset + 30 + names
            if storage.start + entry.file_size > total:
                raise Refused("it is truncated; copy it again")
    return value


def _load_old(path: Path) -> Any:
    total = path.stat().st_size
    with open(path, "rb") as file:
        head = io.BytesIO(file.read(LARGEST_PICKLE))
        if head.getbuffer()[:1] != b"\x80":
            raise Refused("it is no file of torch.save; is it whole, and not a web page?")
        if _read(path, head, {}) != MAGIC or _read(path, head, {}) != PROTOCOL:
            raise Refused("it is a pickle, but not one of torch.save")
        about = _read(path, head, {})
        if not isinstance(about, dict) or about.get("little_endian") is not True:
            raise Refused("it was written on a big-endian machine")
        storages: dict[str, Storage] = {}
        value = _read(path, head, storages)
        keys = _read(path, head, {})
        named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
        if not named or set(keys) != storages.keys():
            raise Refused("its list of storages is not that of its tensors")
        position = head.tell()
        for key in keys:
            storage = storages[key]
            file.seek(position)
            length = int.from_bytes(file.read(8), "little")
            position += 8 + length * storage.dtype.itemsize
            if length != storage.length or position > total:
                raise Refused("it is truncated; copy it again")
            storage.start = position - length * storage.dtype.itemsize
    return value


def _read(path: Path, stream: io.BytesIO, storages: dict[str, Storage]) -> Any:
    """One pickle; the storages that its tensors name are put into ``storages``."""

    def persistent(value: Any) -> Storage:
        tag, kind, key, _, length, *view = value if isinstance(value, tuple) else (value,) * 5
        if tag != "storage" or not isinstance(kind, Name) or any(x is not None for x in view):
            raise Refused("it refers to what is no storage")
        if kind.name not in DTYPES or not isinstance(key, str) or type(length) is not int:
            raise Refused(f"it has a storage of {kind}")
        found = Storage(path, np.dtype(DTYPES[kind.name]), length)
        known = storages.setdefault(key, found)
        if (known.dtype, known.length) != (found.dtype, found.length) or length < 0:
            raise Refused(f"it describes storage {key[:40]!r} in two ways")
        return known

    return pickles.read(stream, _known, _make, persistent)


def _known(name: Name) -> bool:
    room = RENAMED.get(name.module, name.module)
    return room.split(".")[0] in INERT_ROOMS or name.name in INERT.get(room, ())


def _make(name: Name, arguments: tuple) -> Any:
    if name.name in REBUILD:
        return _rebuild(name, arguments)
    if name.name == "OrderedDict":
        made: dict[Any, Any] = {}
        for pair in arguments[0] if arguments else ():
            key, value = pair
            if not isinstance(key, str):
                raise Refused("it has an OrderedDict with keys that are no text")
            made[key] = value
        return made
    if name.name in ("defaultdict", "Counter"):
        return {}
    if name.name == "Size":
        sizes = arguments[0] if arguments else ()
        if not isinstance(sizes, list | tuple) or len(sizes) > MOST_AXES:
            raise Refused("it has a torch.Size that is none")
        return tuple(sizes)
    if name.name == "encode" and arguments and isinstance(arguments[0], str):
        if len(arguments[0]) > MOST_ENCODED:
            raise Refused(f"it has a byte string of more than {MOST_ENCODED:,} bytes")
        return arguments[0].encode("latin-1")  # how bytes were written for Python 2
    if name.name == "_reconstructor" and arguments and isinstance(arguments[0], Name):
        return Inert(arguments[0])
    return Inert(name, arguments)


def _rebuild(name: Name, arguments: tuple) -> Tensor:
    if name.name == "_rebuild_parameter":
        if not arguments or not isinstance(arguments[0], Tensor):
            raise Refused("it has a parameter that is no tensor")
        return arguments[0]
    storage, offset, shape, strides, *_ = arguments
    if not isinstance(storage, Storage):
        raise Refused("it has a tensor without a storage")
    if len(shape) > MOST_AXES:
        raise Refused(f"it has a tensor with {len(shape)} axes")
    # Along axes of one number a stride says nothing.
    natural = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    steps = [s if n != 1 else d for n, s, d in zip(shape, strides, natural, strict=True)]
    try:
        return Tensor(storage, tuple(shape), tuple(steps), offset)
    except ValueError as error:
        raise Refused(f"it has a tensor that does not fit its storage ({error})") from error
