"""The part of a session that is used: spans of time, units and trials."""

import ast
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from ldmfilter.data.session import Session
from ldmfilter.data.signal import SignalSession
from ldmfilter.data.tables import (
    Array,
    Floats,
    Span,
    bounds_in,
    bounds_of,
    cut,
    inside,
    join_overlaps,
    shorten,
    tagged,
    tags_in,
    time_in,
    union,
)
from ldmfilter.data.untrusted.damage import reason_of
from ldmfilter.errors import InputError, warn

WHOLE = "session"  # label of the whole session
_MANY, _STRAY = 100, 0.001  # spikes, and the share of them that rounding may put outside
_SAME = 1e-3  # s, between the ends of a trial and those of its observation
# s, share of the recording, and spikes that are expected: time by so much farther before the first spike, or after the
# last, was not recorded.
_QUIET, _QUIET_SHARE, _QUIET_SPIKES = 2.0, 0.005, 20.0
# Share of the time over which half of the rows lie: far events of which half lie in less are no times of these rows.
_CLOSE = 0.5


def choose_spans(
    session: Session, *, interval: str | None = None, spans: Sequence[tuple[float, float]] = ()
) -> list[Span]:
    """The spans of time to use, in order and disjoint.

    Given both, the time in both; given neither, the whole session as one span "session", or, where all units were
    observed in the rows of an interval table alone, as in trials, these rows. Spans that overlap are one gap-free
    stretch and are joined, with a warning; spans that only touch stay apart, as trials do.

    Parameters
    ----------
    session : Session
        That has the interval tables.
    interval : str, optional
        "TABLE=TAG", the rows of an interval table where `tags` holds the tag or any column of strings equals it;
        "TABLE" alone for all rows. Time in them before or after all spikes is left out, with a warning.
    spans : sequence of (float, float)
        Start and stop, s, infinite for an open end; they are cut to the extent of the session.

    Returns
    -------
    list of Span
        Each with start and stop, s, and a label.

    Raises
    ------
    InputError
        A table or tag does not exist (lists those that do), or nothing is left.

    Examples
    --------
    >>> epochs = {"start_time": [0.0, 5.0], "stop_time": [5.0, 9.0], "tags": [["run"], ["rest"]]}
    >>> session = ldmfilter.Session.from_spikes([[0.0, 9.0]], intervals={"epochs": epochs})
    >>> ldmfilter.choose_spans(session, interval="epochs=run", spans=[(2, 7)])
    [Span(start=2.0, stop=5.0, label='run')]
    """
    where = session.source.path
    chosen = [Span(start, stop, WHOLE) for start, stop in session.whole.tolist()]
    if interval is None and not spans:
        interval = observed_table(session)
    if interval is not None:
        chosen = join_overlaps(_interval_spans(session, interval), where)
    if not spans:
        return chosen
    given = [Span(span[0], span[1]) for span in spans]
    for span in given:
        if not span.stop > span.start:
            raise InputError(f"{where}: span {span.clock} is empty; give START:STOP in seconds, STOP after START")
    given = join_overlaps(given, where)
    given = [span._replace(label=span.clock) for span in given]
    found = cut(given, bounds_of(chosen)) if interval is None else cut(chosen, bounds_of(given))
    if not found:
        what = "the session" if interval is None else f"interval {interval!r}"
        extent = f"{chosen[0].start:g} to {chosen[-1].stop:g} s"
        text = shorten(span.clock for span in given)
        raise InputError(f"{where}: span {text} is empty: {what} is {extent}; give a span within it")
    return found


def observed_table(session: Session) -> str | None:
    """The interval table whose rows are the time that all units were observed in, with gaps between; else None.

    Where a session does not tell when it was observed: the table whose rows hold all spikes, though chance would put
    many between them, as where spikes were cut to trials.
    """
    if session.observed is None:
        holding = [name for name, table in session.intervals.items() if _holds_all(session, table)]
        return min(holding, key=lambda name: np.diff(time_in(session.intervals[name])).sum(), default=None)
    pieces = session.observed.of_all if session.n_units else None
    if pieces is None or len(pieces) < 2:
        return None
    rows = {name: union(bounds_in(table)) for name, table in session.intervals.items()}
    same = (name for name, own in rows.items() if own.shape == pieces.shape and np.abs(own - pieces).max() < _SAME)
    return next(same, None)


def _holds_all(session: Session, table: xr.Dataset) -> bool:
    """True where an interval table holds all spikes, though `_MANY` or more are expected outside its rows."""
    rows = union(time_in(table) + np.array([-_SAME, _SAME]))
    within = (rows.clip(session.start, session.stop) @ [-1, 1]).sum()
    expected = session.n_spikes * (1 - within / session.duration) if session.duration else 0.0
    return bool(expected >= _MANY and (~inside(rows, session.spike_times)).sum() <= _STRAY * expected)


def _interval_spans(session: Session, interval: str) -> list[Span]:
    where, tables = session.source.path, session.intervals
    name, tag = (interval, None) if interval in tables else _parted(session, interval, "=")
    table = tables[name]
    bounds = bounds_in(table)
    if tag is not None:
        bounds = bounds[tagged(table, tag)]
        if not len(bounds):
            tags = tags_in(table)
            have = f"it has {shorten(tags)}" if tags else f"it has none, use {name!r} alone"
            raise InputError(f"{where}: no tag {tag!r} in interval table {name!r}; {have}")
    usable = np.isfinite(bounds).all(axis=1) & (bounds[:, 1] > bounds[:, 0])
    if not usable.any():
        raise InputError(f"{where}: interval {interval!r} has no row with a length; choose another or use spans")
    if not usable.all():
        lost = f"{(~usable).sum()} of {len(bounds)} rows of interval {interval!r}"
        warn(f"{where}: left out {lost}: no start, no stop or no length")
    return [Span(start, stop, tag or name) for start, stop in _recorded(session, bounds[usable], interval).tolist()]


def _recorded(session: Session, bounds: Floats, interval: str) -> Floats:
    """The rows (interval, 2) of an interval, s, without the time before or after all spikes, which would be counted as
    silence; a warning tells of it. Raises InputError where nothing is left."""
    if session.observed is not None or not session.n_spikes:
        return bounds
    spare = max(_QUIET, max(_QUIET_SHARE, _QUIET_SPIKES / session.n_spikes) * session.duration)
    early, late = bounds[:, 0] < session.start - spare, bounds[:, 1] > session.stop + spare
    start, stop = np.where(early, session.start, bounds[:, 0]), np.where(late, session.stop, bounds[:, 1])
    kept = stop > start
    where = f"{session.source.path}: interval {interval!r}"
    lies = f"the recording, whose spikes are at {session.start:g} to {session.stop:g} s"
    if not kept.any():
        raise InputError(f"{where} lies outside {lies}; choose another, or write both on one clock")
    if (early | late).any():
        lost = np.diff(bounds).sum() - (stop - start)[kept].sum()
        warn(f"{where}: left out {lost:g} s of {(early | late).sum()} rows, outside {lies}")
    return np.stack([start, stop], axis=1)[kept]


def _parted(session: Session, text: str, mark: str) -> tuple[str, str]:
    """The interval table that a text begins with, and what follows behind the mark; both may hold the mark too.

    Raises InputError, with a list of those that exist, where there is no such table.
    """
    tables = session.intervals
    if fits := [name for name in tables if text.startswith(f"{name}{mark}")]:
        name = max(fits, key=len)
        return name, text[len(name) + 1 :]
    name = text.partition(mark)[0]
    hint = "; name a column as TABLE.COLUMN" if mark == "." else ""
    meant = next((f"; {name} is a tag: give {one}={name}" for one in tables if name in tags_in(tables[one])), "")
    raise InputError(
        f"{session.source.path}: no interval table {name!r}; it has {shorten(tables) or 'none'}{hint}{meant}"
    )


def choose_units(
    session: Session, *, query: str | None = None, min_rate: float = 0.0, spans: Sequence[Span] | None = None
) -> tuple[Session, str]:
    """Choose the units that a query keeps and that fire, or the channels that vary.

    Parameters
    ----------
    session : Session
        That has the units.
    query : str, optional
        An expression on the columns of the unit table, the id `unit` and the `rate`, as
        "quality == 'good' and snr > 2"; names with spaces in backticks.
    min_rate : float
        Lowest rate over the spans, Hz; units without a spike there are always left out.
    spans : sequence of Span, optional
        Of `choose_spans`; without them the whole session.

    Returns
    -------
    session : Session
        With the units that are kept.
    line : str
        Says which were left out, or "".

    Raises
    ------
    InputError
        A query that cannot be used, an unknown column (lists those that exist), a negative or NaN `min_rate`, or no
        unit is left.

    Examples
    --------
    >>> session = ldmfilter.Session.from_spikes([[0.1, 0.4], [0.2], [0.3]], units={"quality": ["good", "mua", "good"]})
    >>> chosen, line = ldmfilter.choose_units(session, query="quality == 'good'")
    >>> chosen.units["unit"].values.tolist()
    [0, 2]
    """
    where = session.source.path
    if not min_rate >= 0:
        raise InputError(f"{where}: a minimal rate of {min_rate:g} Hz cannot be used; give 0 or more")
    signal = isinstance(session, SignalSession)
    if signal and min_rate > 0:
        raise InputError(f"{where}: a signal has no rates; leave the minimal rate out")
    what, still = ("channels", "constant or missing") if signal else ("units", "silent")
    rates = session.rates if spans is None else session.rates_within(bounds_of(spans))
    fits = np.ones(session.n_units, dtype=bool)
    if query is not None:
        columns = {"unit": session.units["unit"].values, "rate": rates, **flat_columns(session.units)}
        fits = rows_that_fit(columns, query, f"{where}: units")
        if not fits.any():
            raise InputError(
                f"{where}: units: none of {session.n_units} fits the query {query!r}; widen it{_values(columns, query)}"
            )
    silent, slow = fits & (rates == 0), fits & (rates > 0) & (rates < min_rate)
    keep = fits & ~silent & ~slow
    if not keep.any():
        those = f"all {fits.sum()} {what}" + ("" if query is None else " that fit the query")
        why = f"are {still} in the chosen time; choose other {what} or time"
        if slow.any():
            why = f"fire below {min_rate:g} Hz; lower the minimal rate"
        raise InputError(f"{where}: units: {those} {why}")
    if keep.all():
        return session, ""
    reasons = {"by the query": ~fits, still: silent, f"below {min_rate:g} Hz": slow}
    told = ", ".join(f"{units.sum()} {reason}" for reason, units in reasons.items() if units.any())
    return session.select_units(keep), f"left out {(~keep).sum()} of {session.n_units} {what}: {told}"


# The parts of an expression that a query may hold. No calls, attributes, subscripts or powers: an expression from a
# shared config file can neither run code nor stall.
_ALLOWED = (
    *(ast.Expression, ast.Name, ast.Load, ast.Constant, ast.List, ast.Tuple, ast.Compare, ast.cmpop),
    *(ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.BinOp),
    *(ast.BitAnd, ast.BitOr, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod),
)


def flat_columns(table: xr.Dataset) -> dict[str, Array]:
    """The columns of a table that have one value a row."""
    return {str(name): column.values for name, column in table.items() if column.ndim == 1}


def rows_that_fit(columns: Mapping[str, Array], query: str, where: str) -> Array:
    """The rows of a table that a query keeps, (row,) bool.

    columns: name -> (row,) values
    query: an expression on them, as "quality == 'good' and snr > 2"; names with spaces in backticks
    Raises InputError for an expression that cannot be used and for an unknown column (lists those that exist);
    `where` names the file and the table.
    """
    where = f"{where}: query {query!r}"
    frame = pd.DataFrame(dict(columns))
    # Backticks are resolved here, so that the expression that is checked is the one that is evaluated.
    names: dict[str, str] = {}
    text = re.sub(r"`([^`]*)`", lambda found: names.setdefault(found[1], f"column_{len(names)}_"), query.strip())
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError) as error:
        reason, way = getattr(error, "msg", type(error).__name__), "write it as \"quality == 'good' and snr > 2\""
        raise InputError(f"{where} cannot be parsed ({reason}); {way}") from error
    for node in ast.walk(tree):
        if not isinstance(node, _ALLOWED):
            kind = type(node).__name__
            raise InputError(f"{where} may hold names, constants, comparisons and arithmetic only, not {kind}")
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    unknown = sorted((used - {*names.values()} | {*names}) - {*columns})
    if unknown:
        raise InputError(f"{where}: no column {shorten(unknown)}; it has {shorten(columns)}")
    frame = frame.assign(**{alias: frame[name] for name, alias in names.items()})
    try:
        kept = frame.eval(text, engine="python", local_dict={}, global_dict={})
    except (TypeError, ValueError, NotImplementedError, SyntaxError, KeyError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{where} cannot be evaluated ({reason_of(error)}); compare columns with values of their type"
        ) from error
    if not isinstance(kept, pd.Series) or kept.dtype != bool:
        raise InputError(f"{where} is no condition; compare a column with a value")
    return kept.to_numpy(copy=True)


def _values(columns: Mapping[str, Array], query: str) -> str:
    """The values of the columns that a query names, for a message."""
    told = []
    for name, values in columns.items():
        if re.search(rf"(?<!\w){re.escape(name)}(?!\w)", query):
            number = values.dtype.kind in "iuf"
            distinct = np.unique(values[np.isfinite(values)] if number else values.astype(np.str_)).tolist()
            each = [f"{one:g}" if number else one for one in distinct]
            told.append(f"{name} has {f'{each[0]} to {each[-1]}' if number and len(each) > 12 else shorten(each)}")
    return "".join(f"; {one}" for one in told)


def find_column(session: Session, text: str, kinds: str = "biufU") -> tuple[str, str]:
    """The interval table and the column that "TABLE.COLUMN" names; both may hold dots.

    kinds: of the column's values, as numpy's `dtype.kind`

    Raises InputError, with a list of those that exist, where there is no such table or column, and for a column of
    other values or of several a row.
    """
    where, tables = session.source.path, session.intervals
    if text in tables:
        raise InputError(f"{where}: {text!r} is an interval table; name a column of it, as {text}.start_time")
    table, column = _parted(session, text, ".")
    columns = [name for name, values in flat_columns(tables[table]).items() if values.dtype.kind in kinds]
    if column not in columns:
        what = "column"
        if "U" not in kinds:
            what, columns = "column of times", [name for name in columns if not _off_clock(tables[table], name)]
        raise InputError(f"{where}: no {what} {column!r} in interval table {table!r}; it has {shorten(columns)}")
    return table, column


def choose_trials(session: Session, event: str, query: str | None = None) -> tuple[xr.Dataset, str]:
    """Rows of an interval table, and the name of its column that holds the event's times, s.

    event: "TABLE.COLUMN", any column of times, as "trials.go_cue"
    query: an expression on the table's columns, as "condition == 3 and rewarded"; without it all rows

    Raises InputError as `find_column` and `rows_that_fit`, where no row fits the query, where none has a time, and for
    times that are counted from the start of each row.
    """
    name, column = find_column(session, event, kinds="iuf")
    table, where = session.intervals[name], f"{session.source.path}: {name}"
    if odd := _off_clock(table, column):
        raise InputError(
            f"{where}: {column} holds no times on the session's clock: {odd}; where they are counted from each row's "
            f"start, write a column start_time + {column}, in s, and align to it"
        )
    rows = table.sizes["interval"]
    if query is not None:
        # Of tags, where no row has two, they are the columns.
        flat = table.squeeze([dim for dim, size in table.sizes.items() if dim != "interval" and size == 1])
        columns = {"id": table["interval"].values, **flat_columns(flat)}
        kept = rows_that_fit(columns, query, where)
        if not kept.any():
            raise InputError(
                f"{where}: none of {rows} rows fits the query {query!r}; widen it{_values(columns, query)}"
            )
        table = table.isel(interval=np.flatnonzero(kept))
    if not np.isfinite(table[column].values.astype(np.float64)).any():
        which = "" if query is None else f" that fit the query {query!r}"
        raise InputError(
            f"{where}: {column} is NaN in all {table.sizes['interval']} rows{which}; align to another column of times"
        )
    return table, column


def _off_clock(table: xr.Dataset, column: str) -> str:
    """A few words on events (row,) that are far from most of their rows and close to one another where these are not,
    as reaction times are: in all rows they would be the same moment of the session; of others none."""
    bounds, times = bounds_in(table), table[column].values.astype(np.float64)
    known = np.isfinite(bounds).all(1) & np.isfinite(times)
    (start, stop), times = bounds[known].T, times[known]
    length = stop - start
    away = (times < start - length) | (times > stop + length)
    if 2 * away.sum() <= times.size:
        return ""
    (low, high), (first, last) = (np.quantile(one, [0.25, 0.75]) for one in (times, start))
    if high - low >= _CLOSE * (last - first):
        return ""
    return f"{away.sum()} of {times.size} lie far from their own rows, half of them at {low:g} to {high:g} s"
