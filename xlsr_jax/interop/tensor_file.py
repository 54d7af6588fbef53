"""Writes a safetensors file one tensor at a time, from views that are made whole one by one.

The ``safetensors`` package wants all tensors contiguous before it writes the first. A transposed
view of a parameter costs nothing until it is written, so that exporting needs little memory beside
the parameters themselves. The format: 8 bytes with the length of the header, little-endian; the
header, JSON, filled with spaces to a multiple of 8; the tensors, one after another.
"""

import json
import os
from collections.abc import Mapping

import numpy as np

from xlsr_jax.training.checkpoint import CheckpointError

ALIGNMENT = 8


def write(
    path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> None:
    """Writes float arrays of any layout as contiguous float32, in their order.

    Args:
      tensors: by name; views are copied one at a time.
      metadata: strings for the header, such as {"format": "pt"}.

    Raises:
      CheckpointError: a tensor that holds NaN or infinity. The file then lacks its end.
    """
    header, end = {"__metadata__": dict(metadata)}, 0
    for name, tensor in tensors.items():
        begin, end = end, end + 4 * tensor.size
        header[name] = {
            "dtype": "F32", "shape": list(tensor.shape), "data_offsets": [begin, end],
        }  # fmt: skip
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for name, tensor in tensors.items():
            file.write(memoryview(finite(name, tensor)).cast("B"))
        file.flush()
        os.fsync(file.fileno())


def finite(name: str, tensor: np.ndarray) -> np.ndarray:
    """The tensor as contiguous little-endian float32.

    Raises:
      CheckpointError: naming the tensor, where it holds NaN or infinity.
    """
    whole = np.ascontiguousarray(tensor, "<f4").reshape(tensor.shape)
    # In float64 the sum of finite float32 is finite, and takes no memory.
    if not np.isfinite(np.sum(whole, dtype=np.float64)):
        raise CheckpointError(
            f"weight {name} holds NaN or infinity: the run has diverged; export an earlier "
            "checkpoint with --step"
        )
    return whole
