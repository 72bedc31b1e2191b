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
#: What makes the values that have an instruction of their own.
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple,
}  # fmt: skip


class _Name(NamedTuple):
    """A name that the program calls: never looked up."""

    module: str
    name: str


#: The type of an array's items, of which only that of objects is known.
_OBJECTS = _Name("numpy", "object")


def _type(code: Any, *_: Any) -> _Name:
    if not (isinstance(code, str) and code.strip("|") in ("O", "O8", "O4")):
        raise ValueError(f"an array of type {code!r:.40}, not of objects")
    return _OBJECTS


class _Array:
    """An array of objects, empty until the program fills it."""

    def __init__(self) -> None:
        self.values: Any = np.empty(0, dtype=object)

    def fill(self, state: Any) -> None:
        _, shape, dtype, _, items = state  # the items are in C order
        if dtype != _OBJECTS or not isinstance(items, list) or math.prod(shape) != len(items):
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
    try:
        made = _made(program)
        if isinstance(made, _Name):
            raise ValueError("something that is no value")
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"objects are refused, they might run code ({error})") from error
    return made.values if isinstance(made, _Array) else made


#: The few functions that make plain objects, by their names.
_CALLS: dict[_Name, Callable[..., Any]] = {
    _Name("numpy.core.multiarray", "_reconstruct"): lambda *_: _Array(),
    _Name("numpy._core.multiarray", "_reconstruct"): lambda *_: _Array(),
    _Name("numpy", "dtype"): _type,
    _Name("_codecs", "encode"): lambda text, *_: str(text).encode("latin1"),  # how Python 2 spells bytes
    _Name("hdmf_zarr.utils", "ZarrReference"): lambda: {},  # a dict by another name
}


def _made(program: bytes) -> Any:
    """The only object on the stack when all instructions of a program are walked through.

    Raises ValueError, TypeError or LookupError for an instruction that is not known here or does not fit the stack.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}  # by number

    def taken(number: int | None = None) -> list[Any]:
        """The last items of the stack, without a number those since the last mark; the stack loses them."""
        at = marks.pop() if number is None else len(stack) - number
        items = stack[at:]
        del stack[at:]
        return items

    def top(kind: type) -> Any:
        if type(stack[-1]) is not kind:
            raise ValueError(f"no {kind.__name__} to add to")
        return stack[-1]

    for instruction, argument, _ in pickletools.genops(program):
        match instruction.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case literal if literal in _LITERALS:
                stack.append(argument)
            case constant if constant in _CONSTANTS:
                stack.append(_CONSTANTS[constant]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                stack.append(tuple(taken(int(name[-1]))))
            case "MARK":
                marks.append(len(stack))
            case "TUPLE":
                stack.append(tuple(taken()))
            case "APPEND" | "APPENDS" as name:
                items = taken(1 if name == "APPEND" else None)
                top(list).extend(items)
            case "SETITEM" | "SETITEMS" as name:
                items = taken(2 if name == "SETITEM" else None)
                top(dict).update(zip(items[::2], items[1::2], strict=True))
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_Name(*str(argument).split(" ")))
            case "STACK_GLOBAL":
                stack.append(_Name(*taken(2)))
            case "REDUCE" | "NEWOBJ":
                name, arguments = taken(2)
                if not isinstance(name, _Name):
                    raise ValueError("a call of something without a name")
                if name not in _CALLS:
                    raise ValueError(f"a call of {name.module}.{name.name}")
                stack.append(_CALLS[name](*arguments))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], _Array):
                    stack[-1].fill(state)
                elif stack[-1] != _OBJECTS:
                    raise ValueError("objects with a state of their own")
            case unknown:
                raise ValueError(f"the instruction {unknown}")
    (made,) = stack
    return made


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
