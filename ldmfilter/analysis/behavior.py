"""Behavioural variables, on a line or on a circle: chosen by their names in a session, and aligned with bins."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import xarray as xr

from ldmfilter.data.selection import find_column, flat_columns
from ldmfilter.data.session import MOST_COLUMNS, Session
from ldmfilter.data.tables import Array, shorten
from ldmfilter.errors import InputError

#: Behaviour is interpolated over gaps of at most so many bins, or of its own usual step where that is longer.
WIDEST_GAP = 3.0
#: A series of at most so many distinct values is one of classes, which are not interpolated.
MOST_CATEGORIES = 8
#: Times the usual step: so much farther a series jumps where tracking is lost.
FAR = 5.0
#: Share of the values, the smallest, that may be written as 0.
SMALL = 0.1
#: Angles that go through this share of a turn have its unit, whatever is written.
FILLED = 0.9
#: One turn, in radians and in degrees.
TURNS = (2 * math.pi, 360.0)
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


@dataclass(frozen=True, eq=False)
class Behavior:
    """One behavioural variable, as it was sampled, or a column of an interval table.

    name: safe as the name of a variable; path: where it lies in the session, with the column as [0]
    unit: as the file gives it, "" where it gives none
    time (sample,), s, rising; values (sample,), NaN where missing; lost (sample,): where -1 or the like stood for
        "tracking lost"
    period: of a circular variable, in its unit (2 pi or 360); None for one on a line
    classes: labels, numbers or texts, of a variable of a few distinct values; its `values` are their positions
    stop (sample,), s: of a column of a table, whose value holds from `time` to `stop`, a trial; None for a series
    note: assumptions that were made about it, in words, or ""
    """

    name: str
    path: str
    unit: str
    time: Array
    values: Array
    lost: Array
    period: float | None = None
    classes: Array | None = None
    stop: Array | None = None
    note: str = ""

    @property
    def categories(self) -> bool:
        """True for a variable that is read as classes."""
        return self.classes is not None

    @property
    def kinds(self) -> int:
        """The number of classes."""
        return 0 if self.classes is None else self.classes.size

    def label(self, value: float) -> str:
        """A value as text: the name of a class, or a number."""
        return text_of(value if self.classes is None else self.classes[int(value)])

    def rows(self, time: Array) -> Array:
        """The sample (time,) in whose trial each time, s, lies, -1 for none; of a column of a table."""
        assert self.stop is not None
        row = np.searchsorted(self.time, time, side="right") - 1
        return np.where((row >= 0) & (time < self.stop[row]), row, -1)

    def difference(self, a: Array, b: Array) -> Array:
        """a - b in the variable's unit, the short way round where it is circular.

        >>> Behavior("x", "x", "deg", *[np.zeros(0)] * 3, period=360.0).difference(np.array([350.0]), np.array([10.0]))
        array([-20.])
        """
        if self.period is None:
            return a - b
        return (a - b + self.period / 2) % self.period - self.period / 2

    def mean(self, values: Array, axis: int) -> Array:
        """Mean along an axis; of a circular variable the direction of the mean vector."""
        if self.period is None:
            return values.mean(axis)
        turn = 2 * np.pi / self.period
        return self.wrap(np.arctan2(np.sin(turn * values).mean(axis), np.cos(turn * values).mean(axis)) / turn)

    @property
    def start(self) -> float:
        """Lowest value of a circular variable: 0 or minus half a period, as the series has it."""
        half = (self.period or 0.0) / 2
        return -half if np.nanmin(self.values, initial=0.0) < -2e-3 * half else 0.0

    def wrap(self, values: Array) -> Array:
        """Bring circular values into the period that the series uses."""
        if self.period is None:
            return values
        return (values - self.start) % self.period + self.start

    def within(self, away: Any) -> Any:
        """Differences, of a circular variable at most half a turn to either side."""
        return away if self.period is None else np.clip(away, -self.period / 2, self.period / 2)

    def encode(self, values: Array) -> Array:
        """Targets for a regression of values (bin, series): themselves, or cosines, then sines, where circular."""
        if self.period is None:
            return values
        angle = 2 * np.pi / self.period * values
        return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)

    def decode(self, targets: Array) -> Array:
        """Values (bin, series) from predicted targets."""
        if self.period is None:
            return targets
        cosine, sine = np.split(targets, 2, axis=1)
        return self.wrap(np.arctan2(sine, cosine) * self.period / (2 * np.pi))


def text_of(value: Any) -> str:
    """A class, a text or a number, as text."""
    return str(value) if isinstance(value, str) else f"{value:g}"


def score(variable: Behavior, truth: Array, read: Array) -> tuple[float, float]:
    """R2 and median absolute error of values (bin,), along the shorter arc where circular."""
    return float(r2(variable, truth, read)), float(np.median(np.abs(variable.difference(read, truth))))


def r2(variable: Behavior, truth: Array, read: Array) -> Array:
    """R2 over the bins of values (bin, ...), along the shorter arc where circular."""
    spread = variable.difference(truth, variable.mean(truth, 0))
    return np.asarray(1 - (variable.difference(read, truth) ** 2).mean(0) / (spread**2).mean(0))


def thin(rows: Array, most: int) -> Array:
    """At most so many of the rows, evenly spread."""
    return rows if rows.size <= most else rows[np.linspace(0, rows.size - 1, most).round().astype(int)]


def positions(values: Array, classes: Any, none: float = np.nan) -> Array:
    """Positions of values among the classes, which rise; `none` of those that are no class."""
    return np.where(np.isin(values, classes), np.searchsorted(classes, values), none)


def cross(rows: Array, fold: Array) -> Iterator[tuple[Array, Array]]:
    """For each fold the bins `rows` (row,) that lie in others, and those in it, by the fold (bin,) of each bin."""
    own = fold[rows]
    for number in np.unique(own):
        yield rows[own != number], rows[own == number]


def align(behavior: Behavior, time: Array, bin_size: float) -> tuple[Array, Array]:
    """Values (time,) of the variable in bins with rising centres `time` (time,), s, and "used" (time,), or the
    exclusion reason: "nan", "lost", "gap" or "outside".

    Interpolated at the bin's centre from the samples on both sides (along the shorter arc where circular); the nearest
    sample of a category. NaN where these lie too far apart.
    """
    if behavior.stop is not None:
        row = behavior.rows(time)
        values = np.where(row >= 0, behavior.values[row], np.nan)
        return values, np.select([row < 0, np.isnan(values)], ["outside", "nan"], "used")
    known = np.isfinite(behavior.values)
    t, v = behavior.time[known], behavior.values[known]
    step = float(np.median(np.diff(behavior.time))) if behavior.time.size > 1 else 0.0
    widest = max(WIDEST_GAP * bin_size, 1.5 * step)
    right = np.searchsorted(t, time).clip(0, t.size - 1)
    left = (right - (t[right] > time)).clip(0)
    away, apart = time - t[left], t[right] - t[left]  # both samples are the first or the last one beyond it
    usable = np.where(left == right, np.abs(away) <= bin_size, apart <= widest)
    if behavior.categories:
        values = v[np.where(away <= t[right] - time, left, right)]
    else:
        share = away / np.maximum(apart, 1e-12)
        values = behavior.wrap(v[left] + share * behavior.difference(v[right], v[left]))
    # The exclusion reason follows from the samples on both sides, missing ones included.
    after = np.searchsorted(behavior.time, time).clip(0, behavior.time.size - 1)
    both = np.stack([(after - 1).clip(0), after])
    beyond = (time < behavior.time[0]) | (time > behavior.time[-1])
    far = np.abs(behavior.time[both] - time).min(0) > widest
    lost, missing = behavior.lost[both].any(0), np.isnan(behavior.values[both]).any(0)
    reason = np.select([usable, beyond, far, lost, missing], ["used", "outside", "gap", "lost", "nan"], "gap")
    return np.where(usable, values, np.nan), reason


def speed(behavior: Behavior, values: Array, segment: Array, bin_size: float) -> Array:
    """Speed (time,), unit per s, of aligned values (time,): over the bins on both sides, over one side at an edge.

    NaN for a bin without a value or without a neighbour.
    """
    step = behavior.difference(values[1:], values[:-1]) / bin_size
    step[segment[1:] != segment[:-1]] = np.nan
    both = np.stack([np.append(np.nan, step), np.append(step, np.nan)])
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(np.nansum(both, 0)) / np.isfinite(both).sum(0))


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
        if not isinstance(one, xr.DataArray) or one.dims != ("time",) or "time" not in one.coords:
            what = f"has dims {one.dims}" if isinstance(one, xr.DataArray) else f"is a {type(one).__name__}"
            raise InputError(f"memory: behavior {name!r} {what}; give a DataArray (time,) with a coordinate time, s")
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
        hints = (
            f"; or a column of {name}, as {name}.{key}"
            for name, table in session.intervals.items()
            for key in flat_columns(table)
            if key not in TIMES
        )
        raise InputError(f"{where}: no behaviour {text!r}; {has}{next(hints, '')}")
    path, series = hits[0], session.behavior[hits[0]]
    width = 1 if series.ndim == 1 else series.shape[1]
    if column is None and width > MOST_COLUMNS:
        last = path.split("/")[-1]
        raise InputError(f"{where}: {path} has {width} columns, more than {MOST_COLUMNS}; choose some, as {last}[0]")
    if column is not None and column >= width:
        raise InputError(f"{where}: {path} has {width} columns, [0] to [{width - 1}], and no [{column}]")
    if series.ndim == 1:
        return {path: series}
    series = _tracked(series)
    return {f"{path}[{i}]": series[:, i] for i in (range(width) if column is None else [column])}


def _tracked(series: xr.DataArray) -> xr.DataArray:
    """A series (time, component) without the samples that are 0 in every component where it jumps there and back much
    farther than it moves otherwise: so tracking that was lost is often written. It jumps from anywhere; where all
    jumps are from the smallest values, small ones are written as 0, as of a joystick or a speed."""
    values = series.values.astype(float)
    zero = (values == 0).all(1)
    jumps, far = _jumps(values, zero)
    if series.shape[1] < 2 or not jumps.size or jumps.min() <= far:
        return series
    sizes = np.linalg.norm(values[~zero], axis=1)
    if np.nanquantile(sizes, SMALL) >= np.median(jumps):
        return series
    note = f"0 in all of {series.shape[1]} columns taken as tracking lost, {zero.sum()} samples"
    return series.where(~xr.DataArray(zero, dims="time")).assign_attrs(series.attrs, note=note)


def _jumps(values: Array, marked: Array) -> tuple[Array, float]:
    """Lengths (jump,) of the steps of values (sample, component) to a marked sample (sample,) and back, and the length
    beyond which a step is much longer than the others."""
    steps = np.linalg.norm(np.diff(values, axis=0), axis=1)
    change = marked[1:] != marked[:-1]
    moves = steps[~change & (steps > 0)]
    return steps[change & np.isfinite(steps)], FAR * float(np.median(moves)) if moves.size else np.inf


def _hits(session: Session, name: str) -> list[str]:
    """Paths of the series that are a name or, where none is, end in it."""
    return [name] if name in session.behavior else [path for path in session.behavior if path.endswith(f"/{name}")]


def _of_table(session: Session, name: str, path: str, forced: bool) -> Behavior:
    """A column of an interval table: classes where it holds texts, bools or a few numbers and is not `forced` to be
    circular."""
    table_name, column = find_column(session, path)
    table, where = session.intervals[table_name], f"{session.source.path}: {path}"
    start, stop = (table[key].values for key in TIMES)
    rows = np.flatnonzero(np.isfinite(start) & np.isfinite(stop) & (stop > start))
    rows = rows[np.argsort(start[rows], kind="stable")]
    values = as_labels(table[column].values[rows])
    known = distinct(values)
    if not known.size:
        raise InputError(f"{where}: no row with a length holds a value; choose another column")
    if values.dtype.kind == "U" and known.size > MOST_CLASSES:
        raise InputError(f"{where}: {known.size} distinct texts are more than {MOST_CLASSES}; choose another")
    behavior = Behavior(name, path, "", start[rows], values, np.zeros(rows.size, dtype=bool), stop=stop[rows])
    return _recognised(where, behavior, column, classes_of(values) is not None, forced)


def _recognised(
    where: str, behavior: Behavior, name: str, few: bool, forced: bool, typed: bool = False, notes: Sequence[str] = ()
) -> Behavior:
    """A variable as circular, as classes where it has `few` values, or on a line. `typed` says that the file calls it a
    direction, `forced` that the user does; the `name` may."""
    values, unit = behavior.values, behavior.unit
    known = distinct(values)
    low, high = known[[0, -1]]
    asked, text = forced or typed, values.dtype.kind == "U"
    if low == high:
        held = " where tracking was not lost" if any(notes) else ""
        raise InputError(f"{where} is constant ({text_of(low)}){held}; choose another behaviour")
    period = _period(name, unit, low, high, asked) if not text and (asked or not few) else None
    notes = [*notes]
    if typed and period is None:
        notes.append(f"a direction by its type, but its values, {low:g} to {high:g}, fit no turn; taken as on a line")
    if forced and period is None:
        what = shorten(known) if text else f"values from {low:g} to {high:g} without an angle's unit"
        raise InputError(f"{where}: {what} fit no turn of 2 pi or 360; it cannot be taken as circular")
    if period is not None:
        if _ANGLE.fullmatch(unit) and period != _turn(unit):
            notes.append(f"its values, {low:g} to {high:g}, are no {unit}")
        notes.append(f"taken as circular, one turn {'2 pi' if period == TURNS[0] else '360'}")
    classes = known if few and period is None else None
    if classes is not None:
        values = positions(values, classes)
    note = "; ".join(filter(None, notes))
    return replace(behavior, values=values.astype(float), period=period, classes=classes, note=note)


def as_labels(values: Array) -> Array:
    """The values of a column as texts, or else as numbers."""
    return values.astype(np.str_ if values.dtype.kind in "bU" else np.float64)


def distinct(values: Array) -> Array:
    """The distinct values (value,) of a column that are known, as texts or else as numbers."""
    values = as_labels(values)
    return np.unique(values[values != "" if values.dtype.kind == "U" else np.isfinite(values)])


def classes_of(values: Array) -> Array | None:
    """The distinct known values where they are few and, if they are numbers, recur; else None."""
    found = distinct(values)
    text = found.dtype.kind == "U"
    few = found.size <= (MOST_CLASSES if text else MOST_CATEGORIES) and (text or values.size >= 2 * found.size)
    return found if few else None


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
    time, values = (one.values.astype(float) for one in (series["time"], series))
    unit = str(series.attrs.get("unit", "")).strip()
    unit = "" if _NO_UNIT.fullmatch(unit) else unit
    values[~np.isfinite(values)] = np.nan
    # Clocks that step back or stand still are in real files: samples in order, the first of those at one time.
    time, order = np.unique(time, return_index=True)
    time, values = time[np.isfinite(time)], values[order[np.isfinite(time)]]
    known = distinct(values)
    if not known.size:
        raise InputError(f"{where} holds no value that is not NaN; choose another behaviour")
    few = known.size <= MOST_CATEGORIES and values.size >= 10 * known.size
    sentinel = np.nan if few else _sentinel(values, known)
    lost = values == sentinel
    values[lost] = np.nan
    notes = [str(series.attrs.get("note", ""))]
    if lost.any():
        notes.append(f"{sentinel:g} taken as tracking lost, {lost.sum()} samples")
    typed = bool(series.attrs.get("circular"))  # as NWB's CompassDirection says, whatever the unit
    return _recognised(where, Behavior(name, path, unit, time, values, lost), path, few, forced, typed, notes)


def _sentinel(values: Array, known: Array) -> float:
    """Value that stands for "tracking lost", -1 as a rule (times the file's conversion), or NaN.

    It is the only negative value, recurs exactly, and the series jumps to it much farther than it moves otherwise.
    """
    if known.size < 2 or not known[0] < 0 <= known[1]:
        return np.nan
    values = values[np.isfinite(values)]  # lost tracking often goes through NaN first
    jumps, far = _jumps(values[:, None], values == known[0])
    return float(known[0]) if jumps.size and np.median(jumps) > far else np.nan


def _period(path: str, unit: str, low: float, high: float, forced: bool) -> float | None:
    """Period of a circular variable, or None for one on a line."""
    turns = [
        turn
        for turn in TURNS
        if any(low >= start - 0.01 * turn and high <= start + turn + 0.01 * turn for start in (0, -turn / 2))
    ]
    width = high - low
    if _ANGLE.fullmatch(unit):
        own = _turn(unit)
        # Values that fill a turn of the other unit are in that one.
        filled = (turn for turn in turns if turn != own and width > FILLED * turn)
        return next(filled, own if forced or own in turns else None)
    # Within half a turn a circle is a line, and nothing tells the unit.
    least = 0 if forced else 0.5 if not unit and _DIRECTION.search(path) else np.inf
    return next((turn for turn in turns if width > least * turn), None)


def _turn(unit: str) -> float:
    """One turn in a unit of angles."""
    return TURNS[0] if unit.lower().startswith("rad") else TURNS[1]
