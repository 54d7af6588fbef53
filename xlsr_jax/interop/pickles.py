"""Reads pickles without running them: a stack machine that knows data and nothing else.

Python's own machine calls whatever a pickle names. This one takes the instructions apart with
``pickletools``, makes containers and numbers, and hands every call to the caller's ``make``, which
knows a handful of names. No module is imported, no class looked up, no attribute set on anything
but an ``Inert``.
"""

import dataclasses
import pickletools
from collections.abc import Callable
from typing import Any, BinaryIO

MOST_INSTRUCTIONS = 1_000_000  # a model of a thousand tensors has 30,000, its optimizer as many
MOST_COPIED = 4_000_000  # items that calls and states hand over; each may be a copy
MOST_DIGITS = 1_000  # bytes of an integer
KEYS = (str, int, float, bytes, type(None))


class Refused(ValueError):
    """A pickle that asks for what a checkpoint does not need, or that is damaged."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A class or function by its name; it is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"[:200]


@dataclasses.dataclass(eq=False)
class Inert:
    """What stands in for an object of a class that we do not have.

    Attributes:
      of: name of the class.
      arguments: that it was made with.
      state: its attributes.
    """

    of: Name
    arguments: tuple = ()
    state: dict[Any, Any] = dataclasses.field(default_factory=dict)
    items: list[Any] = dataclasses.field(default_factory=list)


Make = Callable[[Name, tuple], Any]


def read(
    stream: BinaryIO,
    known: Callable[[Name], bool],
    make: Make,
    persistent: Callable[[Any], Any],
) -> Any:
    """The value of the pickle that ``stream`` is at; the stream is left behind it.

    Args:
      known: whether a name may occur at all.
      make: the value of calling a known name with arguments.
      persistent: the value of a persistent id.

    Raises:
      Refused: an unknown name, an instruction that data do not need, a damaged pickle.
    """
    machine = _Machine(known, make, persistent)
    try:
        for number, (instruction, argument, _) in enumerate(pickletools.genops(stream)):
            if number > MOST_INSTRUCTIONS:
                raise Refused(f"it has more than {MOST_INSTRUCTIONS:,} instructions")
            if instruction.name == "STOP":
                return machine.pop()
            machine.do(instruction.name, argument)
    except Refused:
        raise
    except (ValueError, IndexError, KeyError, TypeError, OverflowError) as error:
        said = str(error).splitlines()[0][:100] if str(error) else type(error).__name__
        raise Refused(f"it is damaged ({said})") from error
    raise Refused("it is damaged (it has no end)")


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    def __init__(self, known: Callable[[Name], bool], make: Make, persistent: Callable) -> None:
        self.known, self.make, self.persistent = known, make, persistent
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.copied = 0

    def pop(self) -> Any:
        if self.marks and len(self.stack) <= self.marks[-1]:
            raise Refused("it is damaged (its stack is empty)")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """All above the newest mark, which goes too."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def do(self, name: str, argument: Any) -> None:
        push = self.stack.append
        if name in _CONSTANTS:
            push(_CONSTANTS[name])
        elif name in _LITERALS:
            if isinstance(argument, int) and argument.bit_length() > 8 * MOST_DIGITS:
                raise Refused("it has an integer of thousands of digits")
            push(argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[int(argument)] = self.stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self.memo[int(argument)])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name in _TUPLES:
            values = [self.pop() for _ in range(_TUPLES[name])]
            push(tuple(reversed(values)))
        elif name == "TUPLE":
            push(tuple(self.marked()))
        elif name in ("EMPTY_LIST", "EMPTY_DICT", "EMPTY_SET"):
            push({"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}[name]())
        elif name == "LIST":
            push(self.marked())
        elif name == "DICT":
            values = self.marked()
            push({})
            self.fill(self.stack[-1], values)
        elif name in ("SETITEM", "SETITEMS"):
            values = self.marked() if name == "SETITEMS" else [self.pop(), self.pop()][::-1]
            self.fill(self.stack[-1], values)
        elif name in ("APPEND", "APPENDS"):
            values = self.marked() if name == "APPENDS" else [self.pop()]
            self.extend(self.stack[-1], values)
        elif name == "ADDITEMS":
            values = self.marked()
            if not isinstance(self.stack[-1], set) or not all(isinstance(x, KEYS) for x in values):
                raise Refused("it has a set of what is not plain")
            self.stack[-1].update(values)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            push(self.name(argument if name == "GLOBAL" else None))
        elif name in ("REDUCE", "NEWOBJ"):
            arguments = self.pop()
            self.call(self.pop(), arguments)
        elif name == "BUILD":
            self.build(self.pop(), self.stack[-1])
        elif name == "BINPERSID":
            push(self.persistent(self.pop()))
        elif name == "POP":
            self.pop()
        elif name == "POP_MARK":
            self.marked()
        elif name not in ("PROTO", "FRAME"):
            raise Refused(f"it has the instruction {name}, which data do not need")

    def name(self, argument: str | None) -> Name:
        if argument is None:
            attribute, module = self.pop(), self.pop()
        else:
            module, _, attribute = argument.partition(" ")
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise Refused("it is damaged (a name that is no text)")
        found = Name(module, attribute)
        if not self.known(found):
            raise Refused(
                f"it asks for {found}, which no checkpoint needs and which may be an attack; do "
                "not open it by other means"
            )
        return found

    def call(self, name: Any, arguments: Any) -> None:
        if not isinstance(name, Name) or not isinstance(arguments, tuple):
            raise Refused("it calls what is no name")
        for argument in arguments:
            self.count(argument)
        self.stack.append(self.make(name, arguments))

    def count(self, value: Any) -> None:
        """Some hundred bytes of instructions could copy one long value again and again."""
        self.copied += len(value) if isinstance(value, str | bytes | list | tuple | dict) else 1
        if self.copied > MOST_COPIED:
            raise Refused("it makes more copies of its values than any checkpoint needs")

    def build(self, state: Any, target: Any) -> None:
        """Attributes of a stand-in; those of a dict (a state dict's versions) are passed over."""
        if isinstance(target, dict):
            return
        if not isinstance(target, Inert):
            raise Refused(f"it sets attributes of a {type(target).__name__}")
        parts = state if isinstance(state, tuple) else (state,)
        for part in parts:
            if isinstance(part, dict):
                self.count(part)
                target.state.update(part)

    def fill(self, target: Any, values: list[Any]) -> None:
        target = target.state if isinstance(target, Inert) else target
        if not isinstance(target, dict) or len(values) % 2:
            raise Refused("it is damaged (items for what is no dict)")
        for key, value in zip(values[::2], values[1::2], strict=True):
            if not isinstance(key, KEYS):
                raise Refused(f"it has a dict with a key that is a {type(key).__name__}")
            target[key] = value

    def extend(self, target: Any, values: list[Any]) -> None:
        target = target.items if isinstance(target, Inert) else target
        if not isinstance(target, list):
            raise Refused("it is damaged (items for what is no list)")
        target.extend(values)
