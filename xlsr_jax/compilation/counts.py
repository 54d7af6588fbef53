"""What a program does: arithmetic, bytes moved, and messages between chips.

A multiply and an add are two FLOPs; matrix products and convolutions are counted, as in
``models/flops.py``. Bytes are those that pass between a chip's main memory and its cores: what an
instruction outside of fusions reads and writes, arrays that stay on the chip left out.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

import numpy as np

from xlsr_jax.compilation.program import Array, Computation, Instruction, Program

# Of no traffic: names for what is there, and loops, whose bodies are counted. Nor are the second
# halves of what is done in two, whose names end in "-done".
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "async-start", "async-update", "iota",
    "send", "recv", "opt-barrier",
}  # fmt: skip
_KERNEL = 'custom_call_target="tpu_custom_call"'
_PARTS = ("dynamic-slice", "slice", "gather")  # read as much as they give
SLICES = "slices"  # what messages over the data centre's network run along; no axis of the mesh
COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """Messages of one kind.

    Attributes:
      kind: one of ``COLLECTIVES``.
      axes: of the mesh over which chips of a slice exchange, or ``SLICES`` alone.
      count: in an update.
      bytes: of the whole arrays, an update.
      sent: bytes that a chip receives, an update.
    """

    kind: str
    axes: tuple[str, ...]
    count: int
    bytes: float
    sent: float


def flops(program: Program) -> float:
    """FLOPs of one run on one chip."""
    return sum(
        times * _product_flops(each, program.computations[name])
        for name, times in program.runs.items()
        for each in program.computations[name].values()
        if each.opcode in ("convolution", "dot", "custom-call")
    )


def _product_flops(each: Instruction, computation: Computation) -> float:
    if each.opcode == "custom-call":  # a kernel states its own
        stated = re.search(r'"cost_estimate":\{"flops":"(\d+)"', each.attributes)
        return float(stated.group(1)) if stated else 0.0
    left, right = (_arrays(computation, name)[0] for name in each.operands[:2])
    out = each.arrays[0]
    if each.opcode == "dot":
        sides = _numbers(r"lhs_contracting_dims=\{([\d,]*)\}", each.attributes)
        return 2.0 * math.prod(out.sizes) * math.prod(left.sizes[side] for side in sides)
    names = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", each.attributes)
    ours, theirs, results = names.groups()
    # Of each spatial side the pairs of a kernel's tap and an output that meet an input.
    pairs = 1.0
    spatial = [side for side in theirs if side.isdigit()]
    for side in spatial:
        pairs *= _meetings(
            left.sizes[ours.index(side)],
            right.sizes[theirs.index(side)],
            out.sizes[results.index(side)],
            _window(each.attributes, int(side), len(spatial)),
        )
    batch, features = out.sizes[results.index("b")], out.sizes[results.index("f")]
    return 2.0 * pairs * batch * features * right.sizes[theirs.index("i")]


def _window(attributes: str, side: int, sides: int) -> dict[str, tuple[int, int]]:
    """Stride, padding and dilations of one spatial side, as pairs."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    told = dict(part.split("=") for part in found.group(1).split()) if found else {}
    defaults = {"stride": "1", "pad": "0_0", "lhs_dilate": "1", "rhs_dilate": "1"}
    window = {}
    for name, default in defaults.items():
        value = told.get(name, "x".join([default] * sides)).split("x")[side]
        low, _, high = value.partition("_")
        window[name] = int(low), int(high or 0)
    return window


def _meetings(size: int, kernel: int, outputs: int, window: Mapping[str, tuple[int, int]]) -> int:
    (stride, _), (pad, _) = window["stride"], window["pad"]
    (spread, _), (apart, _) = window["lhs_dilate"], window["rhs_dilate"]
    places = np.arange(outputs)
    count = 0
    for tap in range(kernel):
        at = places * stride + tap * apart - pad
        count += int(np.sum((at >= 0) & (at < (size - 1) * spread + 1) & (at % spread == 0)))
    return count


def traffic(program: Program) -> float:
    """Bytes that one run on one chip reads from and writes to its main memory."""
    total = 0.0
    for times, computation, each in program.instructions():
        if each.opcode not in _FREE and not each.opcode.endswith("-done"):
            total += times * _bytes(program, computation, each)
    return total


def _bytes(program: Program, computation: Computation, each: Instruction) -> float:
    if each.opcode in _PARTS:
        return 2.0 * _size(each.arrays)
    if each.opcode == "slice-start":  # (from, to, ...): what is taken is read, and written
        source, part = each.arrays[:2]
        return float(part.bytes * (source.in_hbm + part.in_hbm))
    if each.opcode == "copy-start" or _kind(each) and "start" in each.opcode:
        return float(_size(each.arrays[:2]))  # (to, from, ...)
    if each.opcode == "dynamic-update-slice":
        return 2.0 * _size(_arrays(computation, each.operands[1]))
    if each.opcode == "fusion" and each.calls.get("calls") in program.computations:
        return _fusion_bytes(program, computation, each)
    if each.opcode == "custom-call" and _KERNEL not in each.attributes:
        return 0.0  # names for memory, and notes to the compiler
    # Where a kernel takes an array twice, it reads the second time what overlaps.
    operands = set(each.operands) if each.opcode == "custom-call" else each.operands
    return float(_size(each.arrays) + sum(_size(_arrays(computation, x)) for x in operands))


def _fusion_bytes(program: Program, outside: Computation, fusion: Instruction) -> float:
    """What a fusion reads and writes; of what it slices or updates only the slice."""
    inside = program.computations[fusion.calls["calls"]]
    root = list(inside.values())[-1]
    written = [inside.get(name) for name in root.operands] if root.opcode == "tuple" else [root]
    updated, total = set(), 0.0
    for array, value in zip(fusion.arrays, written, strict=False):
        value = _past_names(inside, value)
        if value is not None and value.opcode == "dynamic-update-slice" and array.in_hbm:
            total += _size_of_sizes(_arrays(inside, value.operands[1]))
            target = _past_names(inside, inside.get(value.operands[0]))
            updated.add(target.name if target is not None else "")
        else:
            total += _size((array,))
    for each in inside.values():
        if each.opcode != "parameter" or each.name in updated:
            continue
        arrays = _arrays(outside, fusion.operands[int(each.operands[0])])
        if any(array.in_hbm for array in arrays):
            part, whole = _read(program, inside, each.name), _size(arrays)
            total += whole if part is None else min(part, whole)
    return total


def _read(program: Program, inside: Computation, name: str) -> float | None:
    """Bytes that a fusion takes of a value where it takes slices only; None where all of it."""
    total, used = 0.0, False
    for each in inside.values():
        if each.opcode in ("parameter", "constant") or name not in each.operands:
            continue
        used = True
        called = program.computations.get(each.calls.get("calls", ""), {})
        if each.opcode in _PARTS and each.operands.index(name) == 0:
            part: float | None = _size_of_sizes(each.arrays)
        elif each.opcode == "bitcast":
            part = _read(program, inside, each.name)
        elif each.opcode == "fusion" and each.operands.count(name) == 1:
            number = str(each.operands.index(name))
            (parameter,) = (
                x.name
                for x in called.values()
                if x.opcode == "parameter" and x.operands == (number,)
            )
            part = _read(program, called, parameter)
        else:
            part = None
        if part is None:
            return None
        total += part
    return total if used else None


def _past_names(inside: Computation, value: Instruction | None) -> Instruction | None:
    while value is not None and value.opcode in ("bitcast", "copy", "convert") and value.operands:
        before = inside.get(value.operands[0])
        if before is None:
            return value
        value = before
    return value


def collectives(program: Program, mesh: Mapping[str, int], slices: int = 1) -> list[Collective]:
    """Messages of one run by kind and axes of the mesh, the most bytes first."""
    found: dict[tuple[str, tuple[str, ...]], list[float]] = {}
    for name, times in program.runs.items():
        computation = program.computations[name]
        for each in computation.values():
            if each.opcode == "recv" and (kind := _kind_between_slices(each)):
                size = float(each.arrays[0].bytes)
                sent = size * (slices - 1) / slices * (2.0 if kind == "all-reduce" else 1.0)
                _add(found, (kind, (SLICES,)), times, size, sent)
                continue
            kind = _kind(each)
            if kind is None or each.opcode.endswith("-done"):
                continue
            arrays = each.arrays
            if each.opcode.endswith("-start") and each.result.startswith("("):
                arrays = arrays[1:2] if kind != "all-reduce" else arrays
            size = float(_size_of_sizes(arrays))
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            members, axes = _exchanging(each.attributes, mesh)
            if members < 2:
                continue
            passed = {"all-reduce": 2.0, "collective-permute": members / (members - 1)}
            sent = size * (members - 1) / members * passed.get(kind, 1.0)
            if kind == "reduce-scatter" and each.opcode.startswith("reduce-scatter"):
                size, sent = size * members, sent * members  # the result is a share
            _add(found, (kind, axes), times, size, sent)
    listed = [Collective(*key, int(n), size, sent) for key, (n, size, sent) in found.items()]
    return sorted(listed, key=lambda each: -each.sent)


def _add(found, key, times, size, sent):
    sums = found.setdefault(key, [0, 0.0, 0.0])
    for i, amount in enumerate((1, size, sent)):
        sums[i] += times * amount


def _kind_between_slices(each: Instruction) -> str | None:
    """Hosts pass on what slices exchange: to a chip's program that is a transfer to its host."""
    found = re.search(r'_xla_megascale_transfer_type="(\w+)"', each.attributes)
    return found.group(1).lower().replace("_", "-") if found else None


def _kind(each: Instruction) -> str | None:
    name = each.opcode.removesuffix("-start").removesuffix("-done")
    return name if name in COLLECTIVES else None


def _exchanging(attributes: str, mesh: Mapping[str, int]) -> tuple[int, tuple[str, ...]]:
    """How many chips exchange with one another, and along which axes of the mesh they lie."""
    shape = tuple(mesh.values())
    group: Sequence[int] = ()
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", found.group(1))}
        chosen = re.findall(r"'(\w+)'", found.group(2))
        ids = np.arange(math.prod(sizes.values())).reshape(tuple(sizes.values()))
        group = ids[tuple(slice(None) if name in chosen else 0 for name in sizes)].ravel()
    elif found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](T\(([\d,]+)\))?",
                            attributes):  # fmt: skip
        ids = np.arange(math.prod(shape)).reshape([int(n) for n in found.group(3).split(",")])
        if found.group(5):
            ids = ids.transpose([int(n) for n in found.group(5).split(",")])
        group = ids.reshape(int(found.group(1)), -1)[0]
    elif found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        group = [int(n) for n in found.group(1).split(",")]
    elif found := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", attributes):
        group = [int(found.group(1)), int(found.group(2))]
    if len(group) == 0:
        group = range(math.prod(shape))
    places = np.array(np.unravel_index(np.asarray(group), shape))
    axes = tuple(name for name, line in zip(mesh, places, strict=True) if len(set(line)) > 1)
    return len(group), axes


def _arrays(computation: Computation, name: str) -> tuple[Array, ...]:
    each = computation.get(name)
    return each.arrays if each is not None else ()


def _size(arrays: Sequence[Array]) -> int:
    return sum(array.bytes for array in arrays if array.in_hbm)


def _size_of_sizes(arrays: Sequence[Array]) -> int:
    """Bytes, wherever they lie: the layout of a value inside a fusion does not tell."""
    return sum(array.bytes for array in arrays)


def _numbers(pattern: str, text: str) -> list[int]:
    found = re.search(pattern, text)
    return [int(n) for n in found.group(1).split(",") if n] if found else []
