"""Tensors in files, described at once and read when they are asked for; safetensors files.

Whatever reads a checkpoint gives ``Tensor``s by name, so that shapes are compared before anything
large is read and no more than one tensor is in memory beside what has been made of them. The
safetensors format is 8 bytes with the length of a JSON header, the header, and the bytes of the
tensors one after another. It is read here because NumPy's half of the package knows no bfloat16.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from xlsr_jax.training.checkpoint import CheckpointError

LARGEST_HEADER = 32 << 20  # bytes; that of a thousand tensors has 100 kB
MOST_AXES = 8

DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16,
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip


@dataclasses.dataclass
class Storage:
    """A run of numbers in a file.

    Attributes:
      dtype: little-endian.
      length: numbers.
      start: byte of the first; -1 as long as it is not known.
    """

    path: Path
    dtype: np.dtype
    length: int
    start: int = -1


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A strided window on a ``Storage``; ``np.asarray(tensor)`` reads it.

    Attributes:
      offset, strides: in numbers, not bytes.
    """

    storage: Storage
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def __post_init__(self) -> None:
        """Raises ``ValueError`` where the window leaves its storage, or shows numbers twice."""
        sizes = (*self.shape, *self.strides, self.offset)
        plain = all(type(size) is int and size >= 0 for size in sizes)
        if not plain or len(self.shape) != len(self.strides) or len(self.shape) > MOST_AXES:
            raise ValueError(f"shape {self.shape}, strides {self.strides}, offset {self.offset}")
        if self.offset + self._span > self.storage.length or self.size > self._span:
            raise ValueError(
                f"shape {self.shape} with strides {self.strides} from {self.offset} does not fit "
                f"{self.storage.length} numbers"
            )

    @property
    def dtype(self) -> np.dtype:
        return self.storage.dtype

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def _span(self) -> int:
        """Numbers from the first to the last of the window."""
        if not self.size:
            return 0
        return 1 + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """The tensor, read from its file.

        Raises:
          CheckpointError: a file that has become shorter.
        """
        width, numbers = self.dtype.itemsize, np.empty(self._span * self.dtype.itemsize, np.uint8)
        with open(self.storage.path, "rb") as file:
            file.seek(self.storage.start + self.offset * width)
            if file.readinto(numbers) != numbers.size:
                raise CheckpointError(f"{self.storage.path} is cut short; copy it again")
        steps = tuple(step * width for step in self.strides)
        array = np.lib.stride_tricks.as_strided(numbers.view(self.dtype), self.shape, steps)
        return array if dtype is None else array.astype(dtype, copy=False)


def contiguous(storage: Storage, shape: tuple[int, ...]) -> Tensor:
    """The whole of a storage in row-major order."""
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    return Tensor(storage, shape, tuple(strides))


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, by name.

    Raises:
      CheckpointError: a file that is truncated, or whose header is not one.
    """
    try:
        return _read_safetensors(path)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise CheckpointError(
            f"{path} is no whole safetensors file ({said}); copy or download it again"
        ) from error


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    total = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(LARGEST_HEADER, total - 8):
            raise ValueError(f"a header of {length} bytes in a file of {total}")
        header = json.loads(file.read(length), object_pairs_hook=_without_repeats)
    header.pop("__metadata__", None)
    found, end = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        begin, stop = entry["data_offsets"]
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{name} is of dtype {entry['dtype']}")
        dtype, shape = np.dtype(DTYPES[entry["dtype"]]), tuple(entry["shape"])
        if (
            len(shape) > MOST_AXES
            or begin != end
            or not all(type(n) is int and n >= 0 for n in (begin, stop, *shape))
        ):
            raise ValueError(f"{name} has bytes {begin} to {stop} and shape {shape}")
        if stop - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} of shape {shape} has {stop - begin} bytes")
        storage = Storage(path, dtype, math.prod(shape), 8 + length + begin)
        found[name], end = contiguous(storage, shape), stop
    if 8 + length + end != total:
        raise ValueError(f"{8 + length + end} bytes are described and {total} are there")
    return found


def read_shards(index: Path, read: Any = read_safetensors) -> dict[str, Tensor]:
    """The tensors of the files that an index (``*.index.json``) names.

    Args:
      read: the function that reads one of them.

    Raises:
      CheckpointError: an index that is not one, names files elsewhere, or is at odds with them.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, Mapping) or not all(isinstance(x, str) for x in names.values()):
        raise CheckpointError(f"{index} has no weight_map of tensors and files")
    found: dict[str, Tensor] = {}
    for name in sorted(set(names.values())):
        if Path(name).name != name or not (index.parent / name).is_file():
            raise CheckpointError(f"{index} names {name!r}, which is no file beside it")
        found |= read(index.parent / name)
    if strange := sorted(found.keys() ^ names.keys()):
        raise CheckpointError(f"{index} and its files differ in {listed(strange)}")
    return found


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file that holds an object.

    Raises:
      CheckpointError: no such file, no JSON, too large.
    """
    try:
        if path.stat().st_size > LARGEST_HEADER:
            raise ValueError("larger than 32 MB")
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, dict):
            raise ValueError("not an object")
    except (OSError, ValueError, RecursionError) as error:
        said = str(error).splitlines()[0][:200]
        raise CheckpointError(f"{path} cannot be read: {said}") from error
    return values


def listed(names: list[str], most: int = 8) -> str:
    """Names in one line, the first of many."""
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("a name occurs twice in the header")
    return values
