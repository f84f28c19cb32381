"""Read pickles of plain data without unpickling: nothing that a pickle names is ever called.

A pickle is a program for a stack machine, and the machine of the standard library calls whatever the program names.
Even restricted to numpy's names it is not safe: with a forged array type, numpy reads bytes as addresses. CIFAR's files
need two dozen instructions, for dictionaries, lists, numbers, text and arrays of numbers. This module executes these,
and has its own functions for the names that arrays are made with; any other instruction or name is refused.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Instructions that push their argument.
CONSTANTS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
        *("BINSTRING", "SHORT_BINSTRING", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    }
)
FIXED: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
}
TUPLES: Mapping[str, int] = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
ARRAY, KIND, BYTES, CLASS = "array", "kind of number", "bytes", "class"
NAMES: Mapping[str, str] = {
    "numpy.core.multiarray _reconstruct": ARRAY,
    "numpy._core.multiarray _reconstruct": ARRAY,
    "numpy dtype": KIND,
    "numpy ndarray": CLASS,
    "_codecs encode": BYTES,  # how Python 3 writes bytes at protocol 2
}
KINDS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"})


class _Name(str):
    """One of NAMES, on the stack."""

    __slots__ = ()


class _Kind:
    """A type of plain numbers; its byte order follows in a later instruction."""

    def __init__(self, name: str) -> None:
        if name not in KINDS:
            raise ValueError(f"its pickle has an array of {name!r}, and only plain numbers are read")
        self.name, self.order = name, "|"

    def fill(self, state: tuple[Any, ...]) -> None:
        """Take the state of the type: version, byte order, and fields that plain numbers do not have."""
        self.order = state[1]


class _Array:
    """An array; its content follows in a later instruction."""

    content: NDArray[Any] | None = None

    def fill(self, state: tuple[Any, ...]) -> None:
        """Take the content."""
        _version, shape, kind, by_column, raw = state
        values = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, np.dtype(kind.order + kind.name))
        self.content = values.reshape(shape, order="F" if by_column else "C")


def read_plain_pickle(content: bytes) -> Any:
    """Return the plain data in a pickle, byte strings of Python 2 as text; refuse anything else with a ValueError."""
    machine = _Machine()
    try:
        for instruction, argument, _ in pickletools.genops(content):
            if instruction.name == "STOP":
                return _finished(machine.stack.pop())
            machine.execute(instruction.name, argument)
    except (AttributeError, IndexError, KeyError, OverflowError, SyntaxError, TypeError) as error:
        raise ValueError(f"its pickle is malformed ({type(error).__name__}: {error})") from error
    raise ValueError("its pickle has no end")


class _Machine:
    """The stack, and those of its instructions that plain data needs."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def execute(self, name: str, argument: Any) -> None:
        """Execute one instruction."""
        if name in CONSTANTS:
            self.stack.append(argument)
        elif name in FIXED:
            self.stack.append(FIXED[name]())
        elif name in TUPLES:
            first = len(self.stack) - TUPLES[name]
            self.stack[first:] = [tuple(self.stack[first:])]
        elif name in STEPS:
            STEPS[name](self, argument)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"its pickle has the instruction {name}, and only plain data is read")

    def since_mark(self) -> list[Any]:
        """Take everything above the last mark."""
        first = self.marks.pop()
        items = self.stack[first:]
        del self.stack[first:]
        return items

    def append(self, items: list[Any]) -> None:
        """Append to the list on top."""
        if not isinstance(self.stack[-1], list):
            raise TypeError("items are appended to something other than a list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Set keys and values, in turn, in the dictionary on top."""
        if not isinstance(self.stack[-1], dict):
            raise TypeError("items are set in something other than a dictionary")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def remember(self, number: int | None = None) -> None:
        """Keep what is on top under a number, the next one by default."""
        self.memo[len(self.memo) if number is None else number] = self.stack[-1]

    def name(self, name: str) -> None:
        """Push one of NAMES."""
        if name not in NAMES:
            raise ValueError(f"its pickle asks for {name.replace(' ', '.')}, and only arrays, lists and text are read")
        self.stack.append(_Name(NAMES[name]))

    def make(self) -> None:
        """Replace a name and its arguments by what the name makes."""
        arguments, name = self.stack.pop(), self.stack.pop()
        match name:
            case _Name() if name == ARRAY and arguments[0] == CLASS:
                self.stack.append(_Array())
            case _Name() if name == KIND:
                self.stack.append(_Kind(arguments[0]))
            case _Name() if name == BYTES and arguments[1] == "latin1":
                self.stack.append(arguments[0].encode("latin1"))
            case _:
                raise ValueError("its pickle calls something that makes no array, and only plain data is read")

    def fill(self) -> None:
        """Give an array, or its type, the state on top."""
        state = self.stack.pop()
        self.stack[-1].fill(state)


STEPS: Mapping[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda machine, _: machine.marks.append(len(machine.stack)),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.since_mark())),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.since_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(-2), machine.stack.pop()]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "BINPUT": lambda machine, number: machine.remember(number),
    "LONG_BINPUT": lambda machine, number: machine.remember(number),
    "MEMOIZE": lambda machine, _: machine.remember(),
    "BINGET": lambda machine, number: machine.stack.append(machine.memo[number]),
    "LONG_BINGET": lambda machine, number: machine.stack.append(machine.memo[number]),
    "GLOBAL": lambda machine, name: machine.name(name),
    "STACK_GLOBAL": lambda machine, _: machine.name(f"{machine.stack.pop(-2)} {machine.stack.pop()}"),
    "REDUCE": lambda machine, _: machine.make(),
    "BUILD": lambda machine, _: machine.fill(),
}


def _finished(value: Any) -> Any:
    """Replace array objects by their content, at the top and one level below, where CIFAR has them."""
    if isinstance(value, dict):
        return {key: _finished(item) if isinstance(item, _Array) else item for key, item in value.items()}
    if isinstance(value, _Array):
        if value.content is None:
            raise ValueError("its pickle has an array without content")
        return value.content
    return value
