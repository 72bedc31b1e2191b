"""Plain arrays, tables and spans of time, the form in which every reader gives what it read.

Spans are labelled, or arrays (span, 2) of start and stop, s.
"""

import sys
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple, TypeGuard

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from ldmfilter.errors import InputError, warn

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Columns = Mapping[str, Any] | pd.DataFrame | xr.Dataset

ROUNDED = 1.001e-3  # s by which rows that follow one another may overlap, as times are written in ms


def is_positive(value: Any) -> TypeGuard[float]:
    """True for a finite number above 0."""
    return isinstance(value, Real) and bool(0 < value <= sys.float_info.max)  # type: ignore[operator]


def concatenate(parts: Sequence[Array]) -> tuple[Floats, Ints]:
    """The parts (item, ...) one after the other as float64, and their cumulative ends (part,)."""
    ends = np.cumsum([len(part) for part in parts], dtype=np.int64)
    empty = np.empty((0, *np.shape(parts[0])[1:])) if len(parts) else np.empty(0)
    return np.concatenate([empty, *parts]), ends


def rows_of(index: Ints, unit: int) -> slice:
    """The rows of the unit at a position, by the cumulative ends (unit,)."""
    return slice(index[unit - 1] if unit else 0, index[unit])


def places(lengths: Ints) -> Ints:
    """The place (item,) of each item in its own group, of groups of these lengths (group,) one after the other.

    >>> places(np.array([2, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def plain_ids(values: Array, where: str) -> Array:
    """Ids of units as an array of numbers or text. Raises InputError for others, for NaN, and for ids that repeat."""
    ids = plain_array(values)
    if ids is None:
        raise InputError(f"{where}: ids are no numbers or text; write them anew")
    if ids.dtype.kind == "f" and np.isnan(ids).any():
        raise InputError(f"{where}: {np.isnan(ids).sum()} of {ids.size} ids are NaN; give each unit its own")
    unique, number = np.unique(ids, return_counts=True)
    if (number > 1).any():
        twice = shorten(unique[number > 1].tolist())
        raise InputError(f"{where}: id {twice} is given twice; give each unit its own")
    return ids


def make_table(columns: Columns | None, dim: str, ids: Array, where: str) -> xr.Dataset:
    """A Dataset with one dim and one variable a column, in dtypes that every store can hold; None has no columns.

    Raises InputError for a column of another length or of values that are no numbers, bools or strings.
    """
    variables: dict[str, xr.Variable] = {}
    for name, values in ({} if columns is None else columns).items():
        column = plain_array(values)
        if column is None:
            raise InputError(f"{where}: column {name!r} holds no numbers, bools or strings; leave it out")
        if len(column) != len(ids):
            raise InputError(f"{where}: column {name!r} has {len(column)} rows, not {len(ids)}")
        variables[str(name)] = xr.Variable((dim,) if column.ndim == 1 else (dim, f"{name}_item"), column)
    return xr.Dataset(variables, coords={dim: ids})


def make_intervals(columns: Columns, where: str, ids: Array | None = None) -> xr.Dataset:
    """An interval table: dim "interval", start_time and stop_time (float64, s) and further columns.

    Raises InputError as `make_table` does, and where start_time or stop_time is missing.
    """
    table: dict[str, Any] = {str(name): column for name, column in columns.items()}
    for name in ("start_time", "stop_time"):
        if name not in table or np.ndim(table[name]) != 1:
            raise InputError(f"{where}: an interval table needs the columns start_time and stop_time")
        table[name] = np.asarray(table[name], dtype=np.float64)
    rows = np.arange(len(table["start_time"])) if ids is None else ids
    return make_table(table, "interval", rows, where)


def bounds_in(table: xr.Dataset) -> Floats:
    """Start and stop of each row of an interval table, (interval, 2), s; NaN where one is missing."""
    return np.stack([table["start_time"].values, table["stop_time"].values], axis=1)


def tags_in(table: xr.Dataset) -> list[str]:
    """All texts that a table holds, each once."""
    return sorted({text for column in _texts(table) for text in column.values.ravel().tolist()} - {""})


def tagged(table: xr.Dataset, tag: str) -> Array:
    """The rows (interval,) of an interval table of which any text equals a tag, bool."""
    hits = [(column == tag).any([d for d in column.dims if d != "interval"]).values for column in _texts(table)]
    return np.any(hits, axis=0) if hits else np.zeros(table.sizes["interval"], dtype=bool)


def _texts(table: xr.Dataset) -> list[xr.DataArray]:
    return [column for column in table.values() if column.dtype.kind == "U"]


def plain_columns(columns: Mapping[str, Array]) -> dict[str, Array]:
    """The columns with one number, bool or text a row."""
    single = {name: values for name, values in columns.items() if np.ndim(values) == 1}
    return {name: plain for name, values in single.items() if (plain := plain_array(values)) is not None}


def plain_array(values: Any) -> Array | None:
    """Values as a native array of bools, numbers or fixed-width strings; None for others.

    A list of lists of strings becomes two-dimensional, padded with "".
    """
    if isinstance(values, list | tuple) and values and isinstance(values[0], list | tuple | np.ndarray):
        if not all(isinstance(row, list | tuple | np.ndarray) for row in values):
            return None
        width = max(len(row) for row in values)
        values = np.asarray([[*map(str, row)] + [""] * (width - len(row)) for row in values], dtype=np.str_)
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        return None
    if array.dtype.kind in "biufU":
        # Files hold either byte order; arithmetic and stores want the machine's own.
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind in "OST":
        # A missing value in a column of strings (None, NaN, NA) becomes an empty string.
        values = ["" if pd.api.types.is_scalar(v) and pd.isna(v) else v for v in array.ravel().tolist()]
        if not all(isinstance(v, str | bytes | int | float) for v in values):
            return None
        text = [v.decode() if isinstance(v, bytes) else str(v) for v in values]
        return np.asarray(text, dtype=np.str_).reshape(array.shape)
    return None


def shorten(items: Any, most: int = 12) -> str:
    """Items as one comma-separated line of at most `most`.

    >>> shorten(range(5), most=3)
    '0, 1, 2 and 2 more'
    """
    names = [str(item) for item in items]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


class Span(NamedTuple):
    """A stretch of time [start, stop), s, and its label."""

    start: float
    stop: float
    label: str = ""

    @property
    def clock(self) -> str:
        """START:STOP, as it is written on the command line."""
        return f"{self.start:g}:{self.stop:g}"


def bounds_of(spans: Sequence[Span]) -> Floats:
    """The spans without their labels, (span, 2), s."""
    return np.asarray([span[:2] for span in spans], dtype=np.float64).reshape(-1, 2)


def join_overlaps(spans: Sequence[Span], where: str) -> list[Span]:
    """The spans in order, those that overlap joined into one, with a warning; those that touch stay apart, though they
    overlap by a millisecond in which times were rounded."""
    ordered = sorted(spans)
    joined: list[Span] = []
    for span in ordered:
        last = joined[-1] if joined else None
        if last is None or span.start >= last.stop:
            joined.append(span)
        elif last.start < span.start > last.stop - ROUNDED:
            joined[-1] = last._replace(stop=span.start)
            joined.append(span)
        else:
            labels = dict.fromkeys([*last.label.split("+"), span.label])
            joined[-1] = Span(last.start, max(last.stop, span.stop), "+".join(labels))
    if len(joined) < len(ordered):
        apart = "rows that end before the next begins stay apart"
        warn(f"{where}: joined {len(ordered)} overlapping spans into {len(joined)}; {apart}")
    return joined


def union(bounds: Floats) -> Floats:
    """Disjoint intervals (interval, 2) in order that cover the same time; empty ones vanish.

    >>> union(np.array([[2.0, 3.0], [0.0, 1.0], [1.0, 1.5]])).tolist()
    [[0.0, 1.5], [2.0, 3.0]]
    """
    bounds = bounds[bounds[:, 1] > bounds[:, 0]]
    bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
    if not len(bounds):
        return bounds
    reach = np.maximum.accumulate(bounds[:, 1])[:-1]
    first = np.append(0, 1 + np.flatnonzero(bounds[1:, 0] > reach))
    return np.stack([bounds[first, 0], np.maximum.reduceat(bounds[:, 1], first)], axis=1)


def time_in(table: xr.Dataset, rows: Any = slice(None)) -> Floats:
    """The time in rows of an interval table, each stretch once, (interval, 2), s."""
    bounds = bounds_in(table)[rows]
    return union(bounds[np.isfinite(bounds).all(axis=1)])


def inside(bounds: Floats, times: Floats) -> Array:
    """The times (time,) that lie within disjoint, ordered intervals (interval, 2), bool."""
    return np.searchsorted(bounds.ravel(), times, side="right") % 2 == 1


def intersect(a: Floats, b: Floats) -> tuple[Floats, Ints, Ints]:
    """The intersection of two lists of disjoint, ordered intervals (interval, 2), and the rows it came from.

    >>> intersect(np.array([[0.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 4.0]]))[0].tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    low = np.searchsorted(b[:, 1], a[:, 0], side="right")
    high = np.maximum(np.searchsorted(b[:, 0], a[:, 1], side="left"), low)
    many = high - low
    rows = np.repeat(np.arange(len(a)), many)
    others = places(many) + np.repeat(low, many)
    both = np.stack([np.maximum(a[rows, 0], b[others, 0]), np.minimum(a[rows, 1], b[others, 1])], axis=1)
    return both, rows, others


def cut(spans: Sequence[Span], bounds: Floats) -> list[Span]:
    """The parts of spans within intervals (interval, 2), s, both in order and disjoint, with the spans' labels."""
    both, rows, _ = intersect(bounds_of(spans), bounds)
    return [Span(start, stop, spans[row].label) for (start, stop), row in zip(both.tolist(), rows, strict=True)]
