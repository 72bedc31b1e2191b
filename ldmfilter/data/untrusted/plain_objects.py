"""Arrays of objects as hdmf-zarr writes them, read without running anything.

Its default codec stores an array of strings or references as a program for Python's unpickler, which may hold any
call at all. Here the program's instructions are only walked through: literals, lists, tuples, dicts and arrays of
these come out, and whatever else it asks for is refused.
"""

from __future__ import annotations

import math
import pickletools
from typing import Any, NamedTuple

import numpy as np
from numcodecs.abc import Codec

_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"),
    *("SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "BINBYTES8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_ARRAY = {(f"numpy{core}.multiarray", "_reconstruct") for core in (".core", "._core")}
_DTYPE = ("numpy", "dtype")
_BYTES = ("_codecs", "encode")  # how Python 2 and its protocols spell bytes
_REFERENCE = ("hdmf_zarr.utils", "ZarrReference")  # a dict by another name


class _Name(NamedTuple):
    """What the program calls by name: never looked up."""

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
        _, shape, dtype, _, items = state  # the items are in C order, whatever the array was
        if not isinstance(dtype, _Type) or not isinstance(items, list) or math.prod(shape) != len(items):
            raise ValueError("an array whose items do not fit its shape")
        flat = np.empty(len(items), dtype=object)
        flat[:] = items
        self.values = flat.reshape(shape)


def read_objects(program: bytes) -> Any:
    """What the program would make: a literal, or an array of objects.

    Raises ValueError for a program that makes or calls anything else.

    >>> read_objects(bytes([0x80, 5, 0x8C, 3]) + b"run.")
    'run'
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[Any, Any] = {}  # by number

    def since_mark() -> list[Any]:
        at = marks.pop()
        items = stack[at:]
        del stack[at:]
        return items

    try:
        for instruction, argument, _ in pickletools.genops(program):
            match instruction.name:
                case "PROTO" | "FRAME" | "STOP":
                    pass
                case name if name in _LITERALS:
                    stack.append(argument)
                case name if name in _CONSTANTS:
                    stack.append(_CONSTANTS[name])
                case "MARK":
                    marks.append(len(stack))
                case "EMPTY_LIST":
                    stack.append([])
                case "EMPTY_DICT":
                    stack.append({})
                case name if name in _TUPLES:
                    items = stack[-_TUPLES[name] :]
                    stack[-_TUPLES[name] :] = [tuple(items)]
                case "TUPLE":
                    stack.append(tuple(since_mark()))
                case "APPEND":
                    item = stack.pop()
                    _of(stack[-1], list).append(item)
                case "APPENDS":
                    items = since_mark()
                    _of(stack[-1], list).extend(items)
                case "SETITEM":
                    item, key = stack.pop(), stack.pop()
                    _of(stack[-1], dict)[key] = item
                case "SETITEMS":
                    items = since_mark()
                    _of(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case "BINPUT" | "LONG_BINPUT":
                    memo[argument] = stack[-1]
                case "BINGET" | "LONG_BINGET":
                    stack.append(memo[argument])
                case "GLOBAL":
                    stack.append(_Name(*str(argument).split(" ")))
                case "STACK_GLOBAL":
                    item = stack.pop()
                    stack.append(_Name(stack.pop(), item))
                case "REDUCE" | "NEWOBJ":
                    items = stack.pop()
                    stack.append(_make(stack.pop(), items))
                case "BUILD":
                    state = stack.pop()
                    if isinstance(stack[-1], _Array):
                        stack[-1].fill(state)
                    elif not isinstance(stack[-1], _Type):
                        raise ValueError("objects with a state of their own")
                case other:
                    raise ValueError(f"the instruction {other}")
        (made,) = stack
        if isinstance(made, _Name | _Type):
            raise ValueError("something that is no value")
    except (ValueError, TypeError, LookupError) as error:
        raise ValueError(f"objects are refused, they might run code ({error})") from error
    return made.values if isinstance(made, _Array) else made


def _of(item: Any, kind: type) -> Any:
    if type(item) is not kind:
        raise ValueError(f"no {kind.__name__} to add to")
    return item


def _make(name: Any, arguments: Any) -> Any:
    if isinstance(name, _Name):
        if name in _ARRAY:
            return _Array()
        if name == _DTYPE:
            return _Type(arguments[0])
        if name == _REFERENCE and arguments == ():
            return {}
        if name == _BYTES:
            return str(arguments[0]).encode("latin1")
        raise ValueError(f"a call of {name.module}.{name.name}")
    raise ValueError("a call of something without a name")


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
