"""A compiled program read as text: which instructions run, how often, and what they are.

XLA prints an optimised program as computations of instructions. A loop's body stands there once and
runs many times; a fusion's stands for one pass over memory. ``read`` finds how often each runs.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator, Mapping

BYTES = {
    "pred": 1, "s4": 1, "u4": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2,
    "s32": 4, "u32": 4, "f32": 4, "s64": 8, "u64": 8, "f64": 8, "c64": 8, "c128": 16,
}  # fmt: skip
_ARRAY = re.compile(r"(\w+)\[([\d,]*)\](?:\{([^}]*)\})?")
_HEAD = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\) -> .*\{$")
_CALLED = re.compile(r"\b(calls|body|condition|to_apply|async_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}|(?:true|false)_computation=%?([\w.\-]+)")


@dataclasses.dataclass(frozen=True)
class Array:
    """A value: its type, its sizes, and whether it lies in the chip's main memory."""

    dtype: str
    sizes: tuple[int, ...]
    in_hbm: bool

    @property
    def bytes(self) -> int:
        return BYTES.get(self.dtype, 0) * math.prod(self.sizes)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: ``name = result opcode(operands), attributes``."""

    name: str
    result: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The result, element by element where it is a tuple."""
        return tuple(
            Array(dtype, tuple(int(n) for n in sizes.split(",") if n), "S(" not in (layout or ""))
            for dtype, sizes, layout in _ARRAY.findall(self.result)
            if dtype in BYTES
        )

    @functools.cached_property
    def calls(self) -> dict[str, str]:
        """Computations that it runs: "calls", "body", "condition", "to_apply" -> name."""
        return dict(_CALLED.findall(self.attributes))

    @property
    def source(self) -> str:
        """Where it comes from, as JAX names it."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found.group(1) if found else ""


Computation = Mapping[str, Instruction]
"""Instructions by name, in order; the last is the result."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A whole program.

    Attributes:
      computations: by name.
      runs: how often each runs in one run of the program; those inside a fusion as often as it.
      fused: computations inside fusions, whose values never reach memory.
    """

    computations: Mapping[str, Computation]
    runs: Mapping[str, int]
    fused: frozenset[str]

    def instructions(self) -> Iterator[tuple[int, Computation, Instruction]]:
        """(times, computation, instruction) of all that run and are not inside a fusion."""
        for name, times in self.runs.items():
            if name not in self.fused:
                computation = self.computations[name]
                for instruction in computation.values():
                    yield times, computation, instruction


def read(text: str) -> Program:
    """Reads ``compiled.as_text()``.

    Raises:
      ValueError: the text has no entry, or a loop whose length cannot be read off.
    """
    computations, entry = {}, ""
    current: dict[str, Instruction] | None = None
    for line in text.splitlines():
        if current is None:
            head = _HEAD.match(line)
            if head:
                current = computations.setdefault(head.group(2), {})
                entry = head.group(2) if head.group(1) else entry
        elif line.startswith("}"):
            current = None
        elif instruction := _instruction(line):
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("no ENTRY computation in the text of the program")
    runs: dict[str, int] = {}
    fused: set[str] = set()
    _visit(computations, entry, 1, False, runs, fused)
    return Program(computations, runs, frozenset(fused))


def _instruction(line: str) -> Instruction | None:
    name, found, rest = line.strip().removeprefix("ROOT ").partition(" = ")
    if not found:
        return None
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.find(" ")
    result, rest = rest[:end], rest[end:].strip()
    opcode, _, rest = rest.partition("(")
    close = _closing(rest, -1)
    operands = tuple(re.findall(r"%([\w.\-]+)", rest[:close]))
    if opcode in ("constant", "parameter"):
        operands = (rest[:close],)
    return Instruction(name.lstrip("%"), result, opcode, operands, rest[close + 1 :])


def _closing(text: str, start: int) -> int:
    """Index of the parenthesis that closes the one at ``start`` (-1: one that stands before)."""
    depth = 1 if start < 0 else 0
    for i in range(max(start, 0), len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if not depth:
            return i
    return len(text)


def _visit(
    computations: Mapping[str, Computation],
    name: str,
    times: int,
    inside: bool,
    runs: dict[str, int],
    fused: set[str],
) -> None:
    runs[name] = runs.get(name, 0) + times
    if inside:
        fused.add(name)
    for each in computations[name].values():
        if each.opcode == "while":
            trips = _trips(each, computations[each.calls["condition"]])
            _visit(computations, each.calls["body"], times * trips, inside, runs, fused)
        elif each.opcode == "conditional":
            for several, one in _BRANCHES.findall(each.attributes):
                for branch in re.findall(r"[\w.\-]+", several or one):
                    _visit(computations, branch, times, inside, runs, fused)
        elif each.opcode in ("fusion", "call", "async-start"):
            called = each.calls.get("calls") or each.calls.get("to_apply")
            if called:
                within = inside or each.opcode == "fusion"
                _visit(computations, called, times, within, runs, fused)


def _trips(loop: Instruction, condition: Computation) -> int:
    """Times that a counted loop runs: the constant that its counter, from 0, is compared with."""
    stated = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes)
    if stated:
        return int(stated.group(1))
    constants = [
        int(each.operands[0])
        for each in condition.values()
        if each.opcode == "constant" and each.result.split("[")[0] in ("s32", "u32")
    ]
    if len(constants) != 1:
        raise ValueError(f"loop {loop.name}: its length cannot be read off its condition")
    return constants[0]
