"""Arrays of objects as hdmf-zarr writes them, read without running anything.

Its default codec stores an array of strings or references as a program for Python's unpickler, which may hold any
call at all. Here the program's instructions are only walked through: literals, lists, tuples, dicts and arrays of
these come out, and everything else is refused.
"""

import math
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numcodecs.abc import Codec

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


class _Name(NamedTuple):
    """A name that the program calls: never looked up."""

    module: str
    name: str


class _Type:
    """The type of an array's items, of which only that of objects is known."""

    def __init__(self, code: Any):
        if not (isinstance(code, str) and code.strip("|") in ("O", "O8", "O4")):
            raise ValueError(f"an array of type {code!r:.40}, not of objects")


class _Array:
    """An array of objects, empty until the program fills it."""

    def __init__(self) -> None:
        self.values: Any = np.empty(0, dtype=object)

    def fill(self, state: Any) -> None:
        _, shape, dtype, _, items = state  # the items are in C order
        if not isinstance(dtype, _Type) or not isinstance(items, list) or math.prod(shape) != len(items):
            raise ValueError("an array whose items do not fit its shape")
        flat = np.empty(len(items), dtype=object)
        flat[:] = items
        self.values = flat.reshape(shape)


def read_objects(program: bytes) -> Any:
    """The literal, or the array of objects, that the program would make.

    Raises ValueError for a program that makes or calls anything else.

    >>> read_objects(bytes([0x80, 5, 0x8C, 3]) + b"run.")
    'run'
    """
    walk = _Walk()
    try:
        for instruction, argument, _ in pickletools.genops(program):
            walk.follow(instruction.name, argument)
        (made,) = walk.stack
        if isinstance(made, _Name | _Type):
            raise ValueError("something that is no value")
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"objects are refused, they might run code ({error})") from error
    return made.values if isinstance(made, _Array) else made


class _Walk:
    """The stack of a program whose instructions are walked through."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[Any, Any] = {}  # by number

    def follow(self, instruction: str, argument: Any) -> None:
        """Take one instruction. Raises ValueError for one that is not known here."""
        if instruction in _LITERALS:
            self.stack.append(argument)
        elif instruction in _CONSTANTS:
            self.stack.append(_CONSTANTS[instruction])
        elif instruction in _RULES:
            _RULES[instruction](self, argument)
        else:
            raise ValueError(f"the instruction {instruction}")

    def since_mark(self) -> list[Any]:
        at = self.marks.pop()
        return self.last(len(self.stack) - at)

    def last(self, number: int) -> list[Any]:
        at = len(self.stack) - number
        items = self.stack[at:]
        del self.stack[at:]
        return items

    def top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"no {kind.__name__} to add to")
        return self.stack[-1]

    def append(self, items: list[Any]) -> None:
        self.top(list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        self.top(dict).update(zip(items[::2], items[1::2], strict=True))

    def call(self) -> None:
        name, arguments = self.last(2)
        if not isinstance(name, _Name) or name not in _CALLS:
            raise ValueError(f"a call of {'.'.join(name) if isinstance(name, _Name) else 'something without a name'}")
        self.stack.append(_CALLS[name](*arguments))

    def build(self) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], _Array):
            self.stack[-1].fill(state)
        elif not isinstance(self.stack[-1], _Type):
            raise ValueError("objects with a state of their own")


#: The instructions beside those that push a value.
_RULES: dict[str, Callable[[_Walk, Any], Any]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda walk, _: None),
    "MARK": lambda walk, _: walk.marks.append(len(walk.stack)),
    "EMPTY_LIST": lambda walk, _: walk.stack.append([]),
    "EMPTY_DICT": lambda walk, _: walk.stack.append({}),
    "TUPLE1": lambda walk, _: walk.stack.append(tuple(walk.last(1))),
    "TUPLE2": lambda walk, _: walk.stack.append(tuple(walk.last(2))),
    "TUPLE3": lambda walk, _: walk.stack.append(tuple(walk.last(3))),
    "TUPLE": lambda walk, _: walk.stack.append(tuple(walk.since_mark())),
    "APPEND": lambda walk, _: walk.append(walk.last(1)),
    "APPENDS": lambda walk, _: walk.append(walk.since_mark()),
    "SETITEM": lambda walk, _: walk.set_items(walk.last(2)),
    "SETITEMS": lambda walk, _: walk.set_items(walk.since_mark()),
    "MEMOIZE": lambda walk, _: walk.memo.update({len(walk.memo): walk.stack[-1]}),
    **dict.fromkeys(
        ("BINPUT", "LONG_BINPUT"), lambda walk, number: walk.memo.update({number: walk.stack[-1]})
    ),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), lambda walk, number: walk.stack.append(walk.memo[number])),
    "GLOBAL": lambda walk, name: walk.stack.append(_Name(*str(name).split(" "))),
    "STACK_GLOBAL": lambda walk, _: walk.stack.append(_Name(*walk.last(2))),
    **dict.fromkeys(("REDUCE", "NEWOBJ"), lambda walk, _: walk.call()),
    "BUILD": lambda walk, _: walk.build(),
}  # fmt: skip


#: The few functions that make plain objects, by their names.
_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    _Name("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    _Name("numpy", "dtype"): lambda code, *_: _Type(code),
    _Name("_codecs", "encode"): lambda text, *_: str(text).encode("latin1"),  # how Python 2 spells bytes
    _Name("hdmf_zarr.utils", "ZarrReference"): lambda: {},  # a dict by another name
}


class PlainObjects(Codec):
    """Reads what numcodecs' codec for any objects wrote, where these are plain."""

    codec_id = "pickle"

    def __init__(self, **_: Any):
        pass

    def encode(self, buf: Any) -> Any:
        """Not done: this package writes no objects."""
        raise NotImplementedError

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The array of objects, or the value that fills one. Raises ValueError as `read_objects`."""
        made = read_objects(bytes(memoryview(buf)))
        if out is None:
            return made
        np.copyto(out, made)
        return out
