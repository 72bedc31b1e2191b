"""What part of a session is used: spans of time and units."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from ldmfilter.data.session import Session
from ldmfilter.data.tables import Array, Floats, Ints, shorten
from ldmfilter.errors import InputError


class Span(NamedTuple):
    """A stretch of time [start, stop), s, and what it is called."""

    start: float
    stop: float
    label: str = ""


def choose_spans(
    session: Session, *, interval: str | None = None, spans: Sequence[tuple[float, float]] = ()
) -> list[Span]:
    """The spans of time to use, in order and disjoint.

    interval: "TABLE=TAG", the rows of an interval table where `tags` holds the tag or any column of strings
        equals it; "TABLE" alone for all rows
    spans: (start, stop) in s, infinite for an open end; they are cut to the extent of the session

    Both keep what lies in both; neither, the whole session as one span "session". Spans that overlap are one
    gap-free stretch and are joined, with a warning; spans that only touch stay apart, as trials do.
    Raises InputError for a table or tag that does not exist (lists those that do) and where nothing is left.
    """
    where = session.source.path
    # Half-open spans would leave the very last event out.
    chosen = [Span(session.start, float(np.nextafter(session.stop, np.inf)), "session")]
    if interval is not None:
        chosen = join_overlaps(_interval_spans(session, interval), where)
    if spans:
        given = join_overlaps([_checked(Span(span[0], span[1]), where) for span in spans], where)
        bounds, cuts = _bounds(chosen), _bounds(given)
        both, rows, cut = intersect(bounds, cuts)
        if not len(both):
            what = "the session" if interval is None else f"interval {interval!r}"
            extent = f"{bounds[0, 0]:g} to {bounds[-1, 1]:g} s"
            text = shorten(f"{start:g}:{stop:g}" for start, stop in cuts)
            raise InputError(f"{where}: span {text} is empty: {what} is {extent}; give a span within it")
        labels = [chosen[r].label if interval is not None else _clock(given[c]) for r, c in zip(rows, cut, strict=True)]
        chosen = [Span(start, stop, label) for (start, stop), label in zip(both.tolist(), labels, strict=True)]
    return chosen


def _clock(span: Span) -> str:
    return f"{span.start:g}:{span.stop:g}"


def _bounds(spans: Sequence[Span]) -> Floats:
    return np.asarray([span[:2] for span in spans], dtype=np.float64).reshape(-1, 2)


def _checked(span: Span, where: str) -> Span:
    if not span.stop > span.start:
        raise InputError(f"{where}: span {_clock(span)} is empty; give START:STOP in seconds, STOP after START")
    return span


def _interval_spans(session: Session, interval: str) -> list[Span]:
    where, tables = session.source.path, session.intervals
    name, tag = interval, None
    if interval not in tables and "=" in interval:
        # A table's own name may hold "=": the longest name that fits wins.
        fits = [table for table in tables if interval.startswith(f"{table}=")]
        name = max(fits, key=len) if fits else interval.partition("=")[0]
        tag = interval[len(name) + 1 :]
    if name not in tables:
        have = f"it has {shorten(tables)}" if tables else "it has none, use spans"
        raise InputError(f"{where}: no interval table {name!r}; {have}")
    table = tables[name]
    rows = np.arange(table.sizes["interval"])
    if tag is not None:
        text = {str(key): column for key, column in table.items() if column.dtype.kind == "U"}
        hits = [(column == tag).any([d for d in column.dims if d != "interval"]).values for column in text.values()]
        rows = np.flatnonzero(np.any(hits, axis=0)) if hits else rows[:0]
        if not rows.size:
            tags = sorted({v for column in text.values() for v in column.values.ravel().tolist()} - {""})
            have = f"it has {shorten(tags)}" if tags else f"it has none, use {name!r} alone"
            raise InputError(f"{where}: no tag {tag!r} in interval table {name!r}; {have}")
    bounds = np.stack([table["start_time"].values[rows], table["stop_time"].values[rows]], axis=1)
    usable = np.isfinite(bounds).all(axis=1) & (bounds[:, 1] > bounds[:, 0])
    if not usable.any():
        raise InputError(f"{where}: interval {interval!r} has no row with a length; choose another or use spans")
    if not usable.all():
        lost = f"{(~usable).sum()} of {rows.size} rows of interval {interval!r}"
        warnings.warn(f"{where}: left out {lost}: no start, no stop or no length", stacklevel=4)
    return [Span(start, stop, tag or name) for start, stop in bounds[usable].tolist()]


def join_overlaps(spans: Sequence[Span], where: str) -> list[Span]:
    """The spans in order, those that overlap joined into one, with a warning; touching spans stay apart."""
    ordered = sorted(spans)
    group = _groups(_bounds(ordered), touching=False)
    joined: list[Span] = []
    for span, is_new in zip(ordered, np.diff(group, prepend=-1) > 0, strict=True):
        if is_new:
            joined.append(span)
        else:
            last = joined[-1]
            labels = dict.fromkeys([*last.label.split("+"), span.label])
            joined[-1] = Span(last.start, max(last.stop, span.stop), "+".join(labels))
    if len(joined) < len(ordered):
        warnings.warn(f"{where}: joined {len(ordered)} overlapping spans into {len(joined)}", stacklevel=3)
    return joined


def _groups(bounds: Floats, touching: bool) -> Ints:
    """For intervals (interval, 2) in order of their starts, the number of the union each belongs to."""
    if not len(bounds):
        return np.empty(0, dtype=np.int64)
    reach = np.maximum.accumulate(bounds[:, 1])[:-1]
    apart = bounds[1:, 0] > reach if touching else bounds[1:, 0] >= reach
    return np.concatenate([[0], np.cumsum(apart)])


def union(bounds: Floats) -> Floats:
    """Disjoint intervals (interval, 2) in order that cover the same time; empty ones vanish.

    >>> union(np.array([[2.0, 3.0], [0.0, 1.0], [1.0, 1.5]])).tolist()
    [[0.0, 1.5], [2.0, 3.0]]
    """
    bounds = bounds[bounds[:, 1] > bounds[:, 0]]
    bounds = bounds[np.argsort(bounds[:, 0], kind="stable")]
    first = np.flatnonzero(np.diff(_groups(bounds, touching=True), prepend=-1))
    if not first.size:
        return bounds
    return np.stack([bounds[first, 0], np.maximum.reduceat(bounds[:, 1], first)], axis=1)


def intersect(a: Floats, b: Floats) -> tuple[Floats, Ints, Ints]:
    """What lies in both of two lists of disjoint, ordered intervals (interval, 2), and the rows it came from.

    >>> intersect(np.array([[0.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 4.0]]))[0].tolist()
    [[1.0, 2.0], [3.0, 4.0]]
    """
    low = np.searchsorted(b[:, 1], a[:, 0], side="right")
    high = np.maximum(np.searchsorted(b[:, 0], a[:, 1], side="left"), low)
    many = high - low
    rows = np.repeat(np.arange(len(a)), many)
    others = np.arange(many.sum()) - np.repeat(np.cumsum(many) - many, many) + np.repeat(low, many)
    both = np.stack([np.maximum(a[rows, 0], b[others, 0]), np.minimum(a[rows, 1], b[others, 1])], axis=1)
    return both, rows, others


_INSTANT = 1e-9  # s: in less than a tick of any clock nothing is counted


def firing_rates(session: Session, spans: Sequence[Span] | None = None) -> Floats:
    """Rates (unit,), Hz: spikes within spans and observed time over that time; 0 where there is no such time.

    Without spans and without a restriction of the observed time, the time is the session's duration.
    """
    whole = choose_spans(session) if spans is None else spans
    within = union(_bounds(whole))
    rates = np.zeros(session.n_units)
    for unit in range(session.n_units):
        bounds = within
        if session.observed is not None:
            bounds, _, _ = intersect(within, union(session.observed.of(unit)))
        seconds = (bounds[:, 1] - bounds[:, 0]).sum()
        if seconds > _INSTANT:
            spikes = np.searchsorted(session.spikes_of(unit), bounds)
            rates[unit] = (spikes[:, 1] - spikes[:, 0]).sum() / seconds
    return rates


def choose_units(
    session: Session, *, query: str | None = None, min_rate: float = 0.0, spans: Sequence[Span] | None = None
) -> tuple[Session, str]:
    """The session with the units that a query keeps and that fire, and a line on what was left out, or "".

    query: an expression on the columns of the unit table, the id `unit` and the `rate`, as
        "quality == 'good' and snr > 2"; names with spaces in backticks
    min_rate: Hz over the spans (the whole session without); units without a spike there are always left out
    Raises InputError for a query that cannot be used, an unknown column (lists those that exist), a negative
    or NaN `min_rate`, and where no unit is left.
    """
    where = session.source.path
    if not min_rate >= 0:
        raise InputError(f"{where}: a minimal rate of {min_rate:g} Hz cannot be used; give 0 or more")
    rates = firing_rates(session, spans)
    keep = np.ones(session.n_units, dtype=bool)
    reasons = []
    if query is not None:
        keep = _query(session, query, rates)
        if not keep.any():
            raise InputError(f"{where}: units: none of {session.n_units} fits the query {query!r}; widen it")
        if not keep.all():
            reasons.append(f"{(~keep).sum()} by the query")
    silent, slow = keep & (rates == 0), keep & (rates > 0) & (rates < min_rate)
    if (silent | slow)[keep].all():
        those = f"all {keep.sum()} units" + ("" if query is None else " that fit the query")
        if silent[keep].all():
            raise InputError(f"{where}: units: {those} are silent in the chosen time; choose other units or time")
        raise InputError(f"{where}: units: {those} fire below {min_rate:g} Hz; lower the minimal rate")
    if silent.any():
        reasons.append(f"{silent.sum()} silent")
    if slow.any():
        reasons.append(f"{slow.sum()} below {min_rate:g} Hz")
    if not reasons:
        return session, ""
    keep &= ~(silent | slow)
    note = f"left out {(~keep).sum()} of {session.n_units} units: {', '.join(reasons)}"
    return session.select_units(keep), note


# What a query may hold. No calls, attributes, subscripts or powers: an expression from a shared config file
# can neither run code nor stall.
_ALLOWED = (
    *(ast.Expression, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Compare, ast.cmpop),
    *(ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.BinOp),
    *(ast.BitAnd, ast.BitOr, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
)


def _query(session: Session, query: str, rates: Floats) -> Array:
    """Which units (unit,) a query keeps."""
    where = f"{session.source.path}: units: query {query!r}"
    frame = pd.DataFrame({"unit": session.units["unit"].values, "rate": rates})
    frame = frame.assign(**{str(name): column.values for name, column in session.units.items() if column.ndim == 1})
    columns = [str(name) for name in frame.columns]
    # Backticks are resolved here, so that what is checked is what is evaluated.
    names: dict[str, str] = {}

    def plain(match: re.Match[str]) -> str:
        return names.setdefault(match[1], f"column_{len(names)}_")

    text = re.sub(r"`([^`]*)`", plain, query.strip())
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or type(error).__name__
        raise InputError(
            f"{where} cannot be parsed ({reason}); write it as \"quality == 'good' and snr > 2\""
        ) from error
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            kind = type(node).__name__
            raise InputError(f"{where} may hold names, constants, comparisons and arithmetic only, not {kind}")
    quoted = {alias: name for name, alias in names.items()}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    unknown = sorted({quoted.get(name, name) for name in used} - set(columns))
    if unknown:
        raise InputError(f"{where}: no column {shorten(unknown)}; it has {shorten(columns)}")
    frame = frame.assign(**{alias: frame[name] for alias, name in quoted.items()})
    try:
        kept = frame.eval(text, engine="python", local_dict={}, global_dict={})
    except (TypeError, ValueError, NotImplementedError, SyntaxError, KeyError, AttributeError, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{where} cannot be evaluated ({reason}); compare columns with values of their type"
        ) from error
    if not isinstance(kept, pd.Series) or kept.dtype != bool:
        raise InputError(f"{where} is no condition; compare a column with a value")
    return kept.to_numpy(copy=True)
