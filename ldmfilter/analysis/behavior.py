"""Choice of behavioural variables, by their names in a session: unit, period, classes and lost samples."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ldmfilter.analysis.statistics import Array
from ldmfilter.analysis.variable import Behavior, positions
from ldmfilter.data.selection import find_column, flat_columns
from ldmfilter.data.session import Session
from ldmfilter.data.tables import shorten
from ldmfilter.errors import InputError

#: Columns of one series that are read at once: a place has up to three.
MOST_COLUMNS = 3
#: A series of at most so many distinct values is one of classes, which are not interpolated.
MOST_CATEGORIES = 8
TIMES = ("start_time", "stop_time")
#: Distinct texts of a column that are read as classes at most: more are names, not conditions.
MOST_CLASSES = 50

_ANGLE = re.compile(r"rad|radians?|deg|degrees?|°", re.IGNORECASE)
_NO_UNIT = re.compile(r"|a\.?u\.?|n/?a|none|unknown|unitless|-+", re.IGNORECASE)
_DIRECTION = re.compile(
    r"compass_?direction|head_?(direction|angle)|heading|orientation|azimuth|yaw|phase|angle", re.IGNORECASE
)
_INDEX = re.compile(r"(.+)\[(\d+)\]")
_TAKEN = {"filtered", "predicted", "smoothed"}  # <name>_mean would be a variable of the states


def choose_behavior(
    session: Session, wanted: str | Sequence[str], circular: str | Sequence[str] = ()
) -> list[Behavior]:
    """Choose variables by name, and recognise lost samples, categories and circular variables.

    Parameters
    ----------
    session : Session
        That holds the series.
    wanted : str or sequence of str
        Paths as `ldmfilter inspect` prints them or their unique last parts; a column as ``"led[0]"``. A series of up to
        three columns gives a variable for each. Or a column of an interval table, as ``"trials.condition"``.
    circular : str or sequence of str
        Names or paths of variables to take as circular whatever their unit and name. The others are circular where the
        unit is an angle, or the name is one of a direction, and the values fit one turn.

    Returns
    -------
    list of Behavior
        Each with name, unit, time (sample,), s, values (sample,) and, where it is circular, the period.

    Raises
    ------
    InputError
        No such series or several, too many columns, no such column, values that are constant or all missing, or a
        circular variable of unknown period.

    Examples
    --------
    >>> [(one.name, one.unit, one.period) for one in ldmfilter.choose_behavior(session, ["linear_position"])]
    [('linear_position', 'cm', None)]
    """
    wanted, circular = ([one] if isinstance(one, str) else one for one in (wanted, circular))
    found: dict[str, xr.DataArray | None] = {}
    for text in wanted:
        found |= _find(session, text)
    names = _names(list(found))
    forced = {key for text in circular for key in _forced(text, names, session.source.path)}
    return [
        _of_table(session, names[path], path, path in forced)
        if series is None
        else _make(f"{session.source.path}: {path}", names[path], path, series, path in forced)
        for path, series in found.items()
    ]


def as_behavior(series: Mapping[str, xr.DataArray]) -> list[Behavior]:
    """Variables from series (time,) in memory, by their names, recognised as `choose_behavior` does.

    Args:
        series: each with a coordinate `time`, s; attributes `unit`, and `circular` (true for a direction).

    Raises:
        InputError: other dims, or as `choose_behavior`.
    """
    for name, one in series.items():
        if one.dims != ("time",) or "time" not in one.coords:
            raise InputError(f"memory: behavior {name!r} has dims {one.dims}; give (time,) with a coordinate time, s")
    names = _names(list(series))
    return [_make(f"memory: {name}", names[name], name, one, False) for name, one in series.items()]


def _find(session: Session, text: str) -> dict[str, xr.DataArray | None]:
    """The series that a text names, by path and column; None for a column of an interval table."""
    path, column, where = text.strip().strip("/"), None, session.source.path
    hits = _hits(session, path)
    if not hits and any(text.startswith(f"{table}.") for table in session.intervals):
        return {text: None}
    if not hits and (match := _INDEX.fullmatch(path)):
        hits, column = _hits(session, match[1]), int(match[2])
    if len(hits) > 1:
        raise InputError(f"{where}: behaviour {text!r} may be {shorten(hits)}; give the whole path")
    if not hits:
        has = f"it has {', '.join(session.behavior)}" if session.behavior else "the session has none"
        tables = session.intervals.items()
        columns = ((name, key) for name, table in tables for key in flat_columns(table) if key not in TIMES)
        hint = next((f"; or a column of {name}, as {name}.{key}" for name, key in columns), "")
        raise InputError(f"{where}: no behaviour {text!r}; {has}{hint}")
    path, series = hits[0], session.behavior[hits[0]]
    width = 1 if series.ndim == 1 else series.shape[1]
    if column is None and width > MOST_COLUMNS:
        last = path.split("/")[-1]
        raise InputError(f"{where}: {path} has {width} columns, more than {MOST_COLUMNS}; choose some, as {last}[0]")
    if column is not None and column >= width:
        raise InputError(f"{where}: {path} has {width} columns, [0] to [{width - 1}], and no [{column}]")
    if series.ndim == 1:
        return {path: series}
    return {f"{path}[{i}]": series[:, i] for i in (range(width) if column is None else [column])}


def _hits(session: Session, name: str) -> list[str]:
    """Paths of the series that are a name or, where none is, end in it."""
    return [name] if name in session.behavior else [path for path in session.behavior if path.endswith(f"/{name}")]


def _of_table(session: Session, name: str, path: str, forced: bool) -> Behavior:
    """A column of an interval table: classes where it holds texts, bools or a few numbers."""
    table_name, column = find_column(session, path)
    table, where = session.intervals[table_name], f"{session.source.path}: {path}"
    start, stop = (table[key].values for key in TIMES)
    rows = np.flatnonzero(np.isfinite(start) & np.isfinite(stop) & (stop > start))
    rows = rows[np.argsort(start[rows], kind="stable")]
    held = as_labels(table[column].values[rows])
    distinct, text = classes_of(held, few=False), held.dtype.kind == "U"
    if not distinct.size:
        raise InputError(f"{where}: no row with a length holds a value; choose another column")
    if text and distinct.size > MOST_CLASSES:
        raise InputError(f"{where}: {distinct.size} distinct texts are more than {MOST_CLASSES}; choose another")
    if distinct.size == 1:
        raise InputError(f"{where} is constant ({distinct[0]}); choose another behaviour")
    period = None if text else _period(path, "", distinct[0], distinct[-1], forced)
    classes = classes_of(held) if period is None else None
    if classes is not None:
        held = positions(held, classes)
    lost, note = np.zeros(rows.size, dtype=bool), _circular_note(period)
    return Behavior(name, path, "", start[rows], held.astype(np.float64), lost, period, classes, stop[rows], note)


def as_labels(values: Array) -> Array:
    """The values of a column as texts, or else as numbers."""
    return values.astype(np.str_ if values.dtype.kind in "bU" else np.float64)


def classes_of(values: Array, few: bool = True) -> Any:
    """The distinct values (class,) of a column that are known; None where they are no texts, and not few.

    few: ask whether numbers are few and recur
    """
    values = as_labels(values)
    text = values.dtype.kind == "U"
    distinct = np.unique(values[values != "" if text else np.isfinite(values)])
    many = distinct.size > (MOST_CLASSES if text else MOST_CATEGORIES) or (not text and values.size < 2 * distinct.size)
    return None if few and many else distinct


def _circular_note(period: float | None) -> str:
    return f"taken as circular, one turn {'2 pi' if period < 7 else '360'}" if period else ""


def _names(paths: list[str]) -> dict[str, str]:
    """A name for each path: its last part, made safe and unique."""
    names: dict[str, str] = {}
    for path in paths:
        stem = re.sub(r"\W+", "_", path.split("/")[-1], flags=re.ASCII).strip("_") or "behavior"
        if stem in _TAKEN or stem[0].isdigit():
            stem = f"behavior_{stem}"
        name, n = stem, 2
        while name in names.values():
            name, n = f"{stem}_{n}", n + 1
        names[path] = name
    return names


def _forced(text: str, names: dict[str, str], where: str) -> list[str]:
    """Paths of the chosen behaviours that a text names, by the whole path or its last part, with the column or not."""
    text = text.strip().strip("/")
    ways = {path: (name, path, path.split("/")[-1]) for path, name in names.items()}
    hits = [path for path, known in ways.items() if text in {*known, *(one.split("[")[0] for one in known)}]
    if not hits:
        raise InputError(f"{where}: circular {text!r} is none of the chosen behaviours {', '.join(names.values())}")
    return hits


def _make(where: str, name: str, path: str, series: xr.DataArray, forced: bool) -> Behavior:
    time, values = np.asarray(series["time"], dtype=np.float64), np.asarray(series, dtype=np.float64).copy()
    unit = str(series.attrs.get("unit", "")).strip()
    unit = "" if _NO_UNIT.fullmatch(unit) else unit
    values[~np.isfinite(values)] = np.nan
    # Clocks that step back or stand still are in real files: samples in order, the first of those at one time.
    time, order = np.unique(time, return_index=True)
    time, values = time[np.isfinite(time)], values[order[np.isfinite(time)]]
    if not np.isfinite(values).any():
        raise InputError(f"{where} holds no value that is not NaN; choose another behaviour")
    distinct = np.unique(values[np.isfinite(values)])
    categories = distinct.size <= MOST_CATEGORIES and values.size >= 10 * distinct.size
    sentinel = None if categories else _sentinel(values, distinct)
    lost = values == (np.nan if sentinel is None else sentinel)
    values[lost] = np.nan
    notes = [] if sentinel is None else [f"{sentinel:g} taken as tracking lost, {int(lost.sum())} samples"]
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low == high:
        held = " where tracking was not lost" if notes else ""
        raise InputError(f"{where} is constant ({low:g}){held}; choose another behaviour")
    typed = bool(series.attrs.get("circular"))  # as NWB's CompassDirection says, whatever the unit
    period = _period(path, unit, low, high, forced or typed) if forced or typed or not categories else None
    if typed and period is None:
        notes.append(f"a direction by its type, but its values, {low:g} to {high:g}, fit no turn; taken as on a line")
    if period is not None and _ANGLE.fullmatch(unit) and period != _turn(unit):
        notes.append(f"its values, {low:g} to {high:g}, are no {unit}")
    if forced and period is None:
        raise InputError(
            f"{where}: values from {low:g} to {high:g} without an angle's unit fit no turn of 2 pi or 360; "
            "it cannot be taken as circular"
        )
    classes = distinct if categories and period is None else None
    if classes is not None:
        values = positions(values, classes)
    note = "; ".join(filter(None, [*notes, _circular_note(period)]))
    return Behavior(name, path, unit, time, values, lost, period, classes, note=note)


def _sentinel(values: Array, distinct: Array) -> float | None:
    """Value that stands for "tracking lost", -1 as a rule (times the file's conversion), or None.

    It is the only negative value, recurs exactly, and the series jumps to it much farther than it moves otherwise.
    """
    if distinct.size < 2 or not distinct[0] < 0 <= distinct[1]:
        return None
    known = values[np.isfinite(values)]  # lost tracking often goes through NaN first
    at = known == distinct[0]
    steps = np.abs(np.diff(known))
    into = at[1:] != at[:-1]
    jumps, moves = steps[into], steps[~into]
    moves = moves[moves > 0]
    if not jumps.size or not moves.size or np.median(jumps) <= 5 * np.median(moves):
        return None
    return float(distinct[0])


def _period(path: str, unit: str, low: float, high: float, forced: bool) -> float | None:
    """Period of a circular variable, or None for one on a line."""
    starts = {2 * math.pi: (0, -math.pi), 360.0: (0, -180.0)}
    turns = [
        turn
        for turn, first in starts.items()
        if any(low >= start - 0.01 * turn and high <= start + turn + 0.01 * turn for start in first)
    ]
    if _ANGLE.fullmatch(unit):
        own = _turn(unit)
        # Values that fill a turn of radians, in "degrees", are radians; those far beyond one, in "radians", degrees.
        if own == 360.0 and 2 * math.pi in turns and high - low > math.pi:
            return 2 * math.pi
        if own < 7 and own not in turns and 360.0 in turns and high - low > 8 * math.pi:
            return 360.0
        return own if forced or own in turns else None
    if forced or (not unit and _DIRECTION.search(path)):
        return turns[0] if turns else None
    return None


def _turn(unit: str) -> float:
    """One turn in a unit of angles."""
    return 2 * math.pi if unit.lower().startswith("rad") else 360.0
