"""Times as seconds on the one clock of a session: units of time, dates, and what does not fit; and their order: marks
of invalid spikes, lone outliers, clocks that restart.

The session's clock is that of its spikes. A table or series whose times do not fit it gets a warning or is left out; no
time is changed to fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
import xarray as xr

from ldmfilter.config import parse_ticks
from ldmfilter.data.tables import (
    Array,
    Columns,
    Floats,
    Ints,
    bounds_in,
    make_intervals,
    plain_array,
    plain_ids,
    rows_of,
    shorten,
)
from ldmfilter.errors import InputError, warn

if TYPE_CHECKING:
    from ldmfilter.data.session import Session, Source

S = TypeVar("S", bound="Session")

# Seconds in a unit of time; "since" a date may follow.
_NAMES = {
    "s sec secs second seconds": 1.0,
    "ms msec millisecond milliseconds": 1e-3,
    "us microsecond microseconds": 1e-6,
    "ns nanosecond nanoseconds": 1e-9,
    "min minute minutes": 60.0,
    "h hr hour hours": 3600.0,
    "d day days": 86400.0,
}
_SECONDS = {"": 1.0} | {name: seconds for names, seconds in _NAMES.items() for name in names.split()}
_SECOND, _DAY = np.timedelta64(1, "s"), np.timedelta64(1, "D")
# Spans that differ by more are in different units of time: a thousandfold, less the time that one leaves out.
_APART = 300
# Times farther from the spikes than so many times the span of these get a warning.
_FAR = 3
# Of fewer spikes, or times of a table or series, the unit of time cannot be judged.
_FEW_SPIKES, _FEW_TIMES = 100, 10
# Share of spikes that coincide with another of their unit, more than times in ms bring about.
_TWICE = 0.1
# s without a spike of any unit, and spikes that are expected in it, above which it may be a pause of the recording.
_PAUSE, _PAUSE_SPIKES = 30.0, 20.0
_PARTS = 6  # of a pause, in which spikes are looked for
# Median rates, Hz: below the first there is a warning, and spikes of more than a day are refused; below the second
# spikes of a long span beside a short one are refused.
_LOWEST_RATE, _LOW_RATE = 0.01, 0.05
_DAY_LONG = 86400.0  # s


@dataclass(frozen=True)
class Reading:
    """Options of reading a session, for where its files leave doubt.

    bin_size: s, of counts that do not say it
    series: path of a signal, or the unique last part of it, to be read in place of spikes
    sort_times: take times that fall back as disorder
    drop_nan: leave out spikes whose times are NaN or infinite
    ticks: "NAME=HZ", ticks per second of the times of `spikes`, `obs_intervals`, a table or a series; of a series that
        is read in place of spikes the last part of its path will do
    """

    bin_size: float | None = None
    series: str | None = None
    sort_times: bool = False
    ticks: tuple[str, ...] = ()
    drop_nan: bool = False

    @cached_property
    def hz(self) -> dict[str, float]:
        """Ticks per second of the times of each object for which they were given."""
        return dict(map(parse_ticks, self.ticks))

    def in_place_of_spikes(self, series: str) -> Reading:
        """The same, with the ticks that the path of a series, or its last part, names as those of `spikes`."""
        own = {"spikes" if f"/{series}".endswith(f"/{name}") else name: hz for name, hz in self.hz.items()}
        return replace(self, ticks=tuple(f"{name}={hz!r}" for name, hz in own.items()))


#: Without options.
PLAIN = Reading()


@dataclass(frozen=True)
class Clock:
    """The clock of a session.

    zero: the date of 0 s in UTC, None where the session's own times carry no date
    reading: what a person says of the times
    """

    zero: np.datetime64 | None
    reading: Reading

    @classmethod
    def of(cls, times: Any, source: Source, reading: Reading, where: str, before: float = 0.0) -> Clock:
        """The clock of the session's own times: of its spikes, or of the centres of its bins.

        0 s is the session's start where that is known, else the date since which the times are counted; where that is
        merely the first of them, as xarray writes dates, `before` s before the earliest.
        """
        seconds, date = relative(times, where)
        start = _date(source.session_start_time)
        if date is None or not np.isfinite(seconds).any():
            return cls(start, reading)
        first = date + np.timedelta64(round((float(np.nanmin(seconds)) - before) * 1e9), "ns")
        if start is not None and -_SECOND < first - start < _DAY:
            return cls(start, reading)
        return cls(first if seconds.flat[0] == 0 else date, reading)

    def seconds(self, times: Any, where: str) -> Floats:
        """Times in s on this clock: numbers in the unit of their attribute `units`, durations or dates.

        Raises InputError for an unknown unit of time, for values that are no times, and for dates where the
        session has none.
        """
        seconds, date = relative(times, where)
        if date is not None:
            if self.zero is None:
                raise InputError(
                    f"{where} is in dates, the session's spikes are not; give its start as session_start_time"
                )
            seconds = seconds + (date - self.zero) / _SECOND
        return seconds

    def table(self, name: str, columns: Columns, path: str) -> xr.Dataset:
        """An interval table with times in s: start_time, stop_time, and any in a unit of time, in dates or in ticks."""
        where, hz = f"{path}: {name}", self.reading.hz.get(name)
        timed = {key for key, column in columns.items() if key in ("start_time", "stop_time") or is_time(column)}
        found = {
            str(key): self.seconds(column, f"{where}: {key}") if key in timed else column
            for key, column in columns.items()
        }
        has_ids = isinstance(columns, xr.Dataset) and "interval" in columns.coords
        table = make_intervals(found, where, plain_array(columns["interval"].values) if has_ids else None)
        if hz is None:
            return table
        ticks = [key for key in table if str(key).endswith("_time") and table[key].dtype.kind in "iuf"]
        return table.assign({key: table[key] / hz for key in ticks})

    def series(self, name: str, series: xr.DataArray, path: str) -> xr.DataArray | None:
        """Behaviour (time,) or (time, component), times in s, as `in_order` gives it, with a warning of each change."""
        where, hz = f"{path}: {name}", self.reading.hz.get(name)
        known = isinstance(series, xr.DataArray) and "time" in series.coords
        if not known or series.dims[:1] != ("time",) or series.ndim > 2:
            raise InputError(
                f"{where}: must be a DataArray with dims (time,) or (time, component) and a coordinate time"
            )
        found = in_order(series, self.seconds(series["time"], where), where, self.reading.sort_times)
        if found is None or hz is None:
            return found
        time = found["time"].values / hz
        return found.assign_coords(time=time).assign_attrs(rate=rate_of(time))


def is_time(column: Any) -> bool:
    """True for values in a unit of time, dates or durations."""
    kind, (unit, _, _) = getattr(getattr(column, "dtype", None), "kind", "O"), _unit_of(column)
    return kind in "mM" or (kind in "iuf" and unit != "" and unit in _SECONDS)


def _unit_of(times: Any) -> tuple[str, str, str]:
    """The attribute `units` of times: the unit in lower case, " since ", and the text of a date."""
    unit, since, date = str(getattr(times, "attrs", {}).get("units", "")).partition(" since ")
    return unit.strip().lower(), since, date


def relative(times: Any, where: str) -> tuple[Floats, np.datetime64 | None]:
    """Times in s since a date, and that date, None where they carry none. Raises InputError as `Clock.seconds`."""
    values = np.asarray(times)
    if values.dtype.kind == "O" and values.size:
        first = values.flat[0]
        if isinstance(first, np.timedelta64) or hasattr(first, "total_seconds"):
            values = pd.to_timedelta(values.ravel()).to_numpy()
        elif isinstance(first, np.datetime64) or hasattr(first, "isoformat"):
            values = pd.to_datetime(values.ravel(), utc=True).tz_localize(None).to_numpy()
    if values.dtype.kind == "m":
        return values / _SECOND, None
    if values.dtype.kind == "M":
        known = values[~np.isnat(values)]
        date = known.flat[0].astype("datetime64[ns]") if known.size else None
        return (values - (values if date is None else date)) / _SECOND, date
    if values.dtype.kind not in "uif" and values.size:
        raise InputError(f"{where} holds {values.dtype} values where times are wanted; give seconds as numbers")
    unit, since, date_text = _unit_of(times)
    scale, date = _SECONDS.get(unit), _date(date_text)
    if scale is None or (since and date is None):
        raise InputError(
            f"{where} is in {(unit + since + date_text)!r:.60}, which is no unit of time known here; give seconds"
        )
    return values if values.dtype == np.float64 and scale == 1 else values.astype(np.float64) * scale, date


def _date(text: str) -> np.datetime64 | None:
    """A date of ISO 8601 in UTC; None for another text. One without a zone is taken as UTC, as CF does."""
    try:
        stamp = pd.Timestamp(text)
        stamp = stamp.tz_convert(None) if stamp.tzinfo is not None else stamp
        return None if pd.isna(stamp) else stamp.to_datetime64().astype("datetime64[ns]")
    except (ValueError, OverflowError):
        return None


def settle(session: S, reading: Reading, times: Floats | None = None) -> S:
    """The session without what lies on another clock.

    A table or series is left out, with a warning, where its times cannot be seconds beside these spikes; there is a
    warning of single times far from the spikes.

    times: of counts or a signal, s, whose unit is known, in place of those of the spikes

    Raises InputError where the spikes' own unit of time is in doubt.
    """
    where, own = session.source.path, times is None
    times = session.spike_times if times is None else times
    if times.size < _FEW_SPIKES:
        return session
    intervals, behavior = dict(session.intervals), dict(session.behavior)
    others = {name: bounds_in(table) for name, table in intervals.items()}
    others |= {name: series["time"].values for name, series in behavior.items()}
    if own and session.observed is not None:  # of counts it follows from their bins
        others = {"obs_intervals": session.observed.intervals, **others}
    others = {name: known for name, t in others.items() if name not in reading.hz and (known := t[np.isfinite(t)]).size}
    span = float(times.min()), float(times.max())
    if own:
        if "spikes" not in reading.hz:
            _check_spikes_unit(times, session.spike_times_index, span, others, where)
        if (twice := int((np.diff(times) == 0).sum())) > _TWICE * times.size:
            warn(f"{where}: units: {twice:,} of {times.size:,} spikes are at the time of another; is each there twice?")
        if session.observed is None:
            _tell_pauses(times, session.spike_times_index, span, where)
    beside = "the spikes" if session.n_spikes else "the frames"
    for name, t in others.items():
        if doubt := _doubt(t, span, beside):
            if name == "obs_intervals":
                raise InputError(f"{where}: {name}: {doubt}; {_way_out(name)}")
            warn(f"{where}: {name}: left out, {doubt}; {_way_out(name)}")
            intervals.pop(name, None)
            behavior.pop(name, None)
        else:
            unless = f"train without --interval {name}" if name in intervals else "leave it out"
            if told := _apart(t, span, beside, unless):
                warn(f"{where}: {name}: {told}")
    return replace(session, intervals=intervals, behavior=behavior)


def _way_out(name: str) -> str:
    return (
        f"give --ticks {name}=1000 where they are ms, or as many as there are in a second, 1 where they are s, in "
        "Python ticks"
    )


def _check_spikes_unit(
    times: Floats, index: Ints, span: tuple[float, float], others: Mapping[str, Floats], where: str
) -> None:
    """Raise InputError where spike times can hardly be seconds; warn where the rates are low."""
    where, width = f"{where}: units", span[1] - span[0]
    if not width:
        raise InputError(f"{where}: all {times.size:,} spike_times are {span[0]:g}; write them anew")
    if (times == np.floor(times)).all():
        raise InputError(
            f"{where}: all {times.size:,} spike_times are whole numbers, as samples and ms are; give "
            "--ticks spikes=30000 for samples at 30 kHz, spikes=1000 for ms, spikes=1 for s, in Python ticks"
        )
    number = np.diff(index, prepend=0)
    rate = float(np.median(number[number > 0])) / width
    told = [(float(np.ptp(t)), name) for name, t in others.items() if t.size >= _FEW_TIMES]
    longest, name = max(told, key=lambda one: one[0], default=(np.inf, ""))
    if rate < _LOW_RATE and width > _APART * longest:
        raise InputError(
            f"{where}: spike_times span {width:,.6g} s, {name} {longest:,.6g} s, at a median rate of {rate:.2g} Hz; "
            f"are they ms? {_way_out('spikes')}"
        )
    if rate < _LOWEST_RATE:
        line = f"{where}: a median rate of {rate:.3g} Hz over {width:,.6g} s; are spike_times ms? {_way_out('spikes')}"
        if width > _DAY_LONG:
            raise InputError(line)
        warn(line)


def _tell_pauses(times: Floats, index: Ints, span: tuple[float, float], where: str) -> None:
    """Warn of time in which no unit fires, where chance leaves none: it may be that nothing was recorded."""
    width = span[1] - span[0]
    pause = max(_PAUSE, _PAUSE_SPIKES * width / times.size)
    if width < 3 * pause:
        return
    edges = np.linspace(*span, round(_PARTS * width / pause) + 1)
    fired = sum(np.diff(np.searchsorted(train, edges)) for train in np.split(times, index[:-1])) > 0
    after = np.flatnonzero(np.append(fired, True))  # parts in which a unit fires, and the end
    before = np.append(0, after[:-1] + 1)
    long = after - before >= _PARTS
    if not long.any():
        return
    before, after = edges[before[long]], edges[after[long]]
    longest = int(np.argmax(after - before))
    warn(
        f"{where}: units: no unit fires for {(after - before).sum():,.4g} s or more, as from {before[longest]:g} to "
        f"{after[longest]:g} s; where nothing was recorded, leave it out (--span, in Python intervals)"
    )


def _doubt(times: Floats, span: tuple[float, float], beside: str) -> str:
    """The reason why times can hardly be seconds beside spikes or frames in a span, or ""."""
    if times.size < _FEW_TIMES:
        return ""
    # Of few times a single stray one is beyond these.
    low, high = np.quantile(times, 0.05, method="higher"), np.quantile(times, 0.95, method="lower")
    width, own = span[1] - span[0], float(high - low) / 0.9
    if own > _APART * width:
        return f"its times span {own:,.6g} s, {beside} {width:,.6g} s"
    beyond = (times < span[0] - 0.1 * width) | (times > span[1] + 0.1 * width)
    if beyond.mean() > 0.5 and (times == np.floor(times)).all():
        whole = f"its times are whole numbers up to {times.max():,.6g}, as frames and ms are"
        return f"{whole}, {beside} end at {span[1]:g} s"
    return ""


def far_from(span: tuple[float, float], times: Floats, spans: float = _FAR) -> Array:
    """The times that lie so many spans away from spikes or frames in a span: far ones are told and ignored."""
    return np.asarray(np.maximum(span[0] - times, times - span[1]) > spans * (span[1] - span[0]))


def _apart(times: Floats, span: tuple[float, float], beside: str, unless: str) -> str:
    """A line on times that lie far from spikes or frames in a span, or "".

    unless: what to do where all are far, and stay so
    """
    width, far = span[1] - span[0], far_from(span, times)
    around = f"{beside}, {span[0]:g} to {span[1]:g} s"
    if far_from(span, times, 1).all():
        return (
            f"lies at {times.min():.12g} to {times.max():.12g} s, away from {around}; is its clock another? "
            f"write its times on that of {beside}, or {unless}"
        )
    if far.any():
        values = shorten((f"{value:.12g}" for value in np.unique(times[far])), most=3)
        return f"{far.sum()} of {times.size} times lie far from {around}: {values} s; ignored"
    if times.size >= _FEW_SPIKES and _APART * np.ptp(times) < width:
        return (
            f"spans {np.ptp(times):.6g} s only, {beside} {width:,.6g} s; give --ticks where it is in another unit, in "
            "Python ticks"
        )
    return ""


# Among fewer times no outlier can be told; of more, so many are looked at.
_FEW, _MANY = 100, 2**20
# Share of all times, at most, that may be outliers.
_RARE = 1e-3
# A time that one unit repeats so often is a mark, where a smaller share of all spikes coincide.
_REPEATED, _COINCIDENT = 3, 0.01
# s: spikes out of order by less were detected in pieces; by more, their clock may have restarted.
_JITTER = 0.05
# Share of the firing units whose times must fall back for the clock to be taken as the reason.
_SHARED = 0.2


def check_spikes(
    times: Floats, index: Ints, ids: Array, where: str, sort: bool = False, drop: bool = False
) -> tuple[Floats, Ints]:
    """Spike times (spike,), sorted within each unit, and their cumulative ends (unit,).

    Marks of invalid spikes, as -1, and lone outliers are left out, and unsorted times sorted, each with a warning.
    sort: sort all times that fall back, though a clock may have restarted
    drop: leave out times that are NaN or infinite, with a warning too

    Raises InputError for ids that repeat, where `index` is no cumulative count of `times`, without `drop` for times
    that are NaN or infinite, and where times fall back in many units, as those of trials with own clocks do.
    """
    if len(ids) != len(index):
        raise InputError(f"{where}: units: {len(ids)} ids for {len(index)} units; write the unit table anew")
    plain_ids(ids, f"{where}: units")
    if (np.diff(index, prepend=0) < 0).any() or (index[-1] if index.size else 0) != times.size:
        raise InputError(
            f"{where}: units: spike_times_index does not fit its {times.size} spike_times; write them anew"
        )
    bad = ~np.isfinite(times)
    if bad.any():
        of = shorten(ids[np.unique(_units_of(np.flatnonzero(bad), index))].tolist())
        what = f"{bad.sum()} of {times.size} spikes, NaN or infinite spike_times in unit {of}"
        if not drop:
            way = "give --drop-nan, in Python drop_nan, to leave these spikes out, or mend the file"
            raise InputError(f"{where}: units: {what}; {way}")
        warn(f"{where}: units: left out {what}")
        times, index = _without(times, index, bad)
    while (found := _invalid(times, index)) is not None:
        invalid, why = found
        number = len(np.unique(_units_of(np.flatnonzero(invalid), index)))
        values = shorten((f"{value:g}" for value in np.unique(times[invalid])), most=3)
        warn(f"{where}: units: left out {invalid.sum()} spikes of {number} units at {values} s, {why}")
        times, index = _without(times, index, invalid)
    back = np.flatnonzero(np.diff(times) < 0) + 1
    back = back[~np.isin(back, index)]
    if back.size:
        unsorted = np.unique(_units_of(back, index))
        if not sort:
            _check_order(times, index, back, ids, where)
        times = times.copy()
        for unit in unsorted:
            times[rows_of(index, unit)].sort()
        warn(f"{where}: units: sorted the spike_times of {unsorted.size} unsorted units")
    return times, index


def _without(times: Floats, index: Ints, out: Array) -> tuple[Floats, Ints]:
    """Times and cumulative ends without the spikes `out` (spike,)."""
    return times[~out], index - np.concatenate([[0], np.cumsum(out)])[index]


def _units_of(spikes: Ints, index: Ints) -> Ints:
    return np.searchsorted(index, spikes, side="right")


def _invalid(times: Floats, index: Ints) -> tuple[Array, str] | None:
    """Spikes (spike,) that are not valid, and the reason; None where there are none."""
    if times.size < _FEW:
        return None
    negative = times < 0
    if (times[negative] == -1).all() and negative.any() and not negative.all():
        return negative, "marks of invalid spikes"
    for value in (times.min(), times.max()):
        at = times == value
        if np.bincount(_units_of(np.flatnonzero(at), index)).max() >= _REPEATED:
            rest = times[~at]
            if rest.size >= _FEW and (np.diff(rest) == 0).mean() < _COINCIDENT:
                return at, "which units repeat: marks of invalid spikes"
    stray = strays(times)
    return (stray, "far from all others") if stray.any() else None


def strays(times: Floats) -> Array:
    """The times (item,) that lie farther from nearly all others than those span, few and rare, bool."""
    none = np.zeros(times.size, dtype=bool)
    some = np.unique(times[:: 1 + times.size // _MANY])
    if some.size < _FEW:
        return none
    edge = max(1, int(0.005 * some.size))
    low, high = some[edge], some[-1 - edge]
    width = high - low
    stray = (times < low - width) | (times > high + width)
    return stray if stray.sum() <= max(2, _RARE * times.size) else none


def _check_order(times: Floats, index: Ints, back: Ints, ids: Array, where: str) -> None:
    """Raise InputError where spike times that fall back at the spikes `back` show that a clock restarted.

    In trials with own clocks, after a reset and after an overflow, times of many units rise in runs. Times without any
    order fall back at every second spike.
    """
    length = np.diff(index, prepend=0)
    falls = times[back - 1] - times[back]
    units = np.unique(_units_of(back[falls > _JITTER], index))
    firing = int((length > 1).sum())
    if len(units) < max(2, _SHARED * firing) and not len(units) == firing == 1:
        return
    pairs = int((length - 1)[np.unique(_units_of(back, index))].sum())
    # The number of descents of a random order has a mean of half the pairs and a variance of a twelfth.
    if back.size / pairs > 0.5 - 4 / np.sqrt(12 * pairs):
        return
    spike = back[np.argmax(falls)]
    unit = int(_units_of(spike, index))
    raise InputError(
        f"{where}: units: spike_times fall back in {len(units)} of {firing} units (unit {ids[unit]}: from "
        f"{times[spike - 1]:g} to {times[spike]:g} s), as in trials with clocks of their own or where a clock was "
        "reset; write them on one clock, or give --sort-times, in Python sort_times, where it is mere disorder"
    )


def rate_of(time: Floats) -> float:
    """Rate of samples, Hz, by the median of their steps; NaN where there is none."""
    step = float(np.nanmedian(np.diff(time))) if len(time) > 1 else 0.0
    return 1 / step if step > 0 else float("nan")


def in_order(series: xr.DataArray, time: Floats, where: str, sort: bool) -> xr.DataArray | None:
    """Behaviour (time,) or (time, component) in order of its times (time,), s, samples without a time left out; None
    where their clock may have restarted.

    A warning tells each change. sort: as for `check_spikes`
    """
    values, known = series.values, np.isfinite(time)
    if not known.all():
        warn(f"{where}: left out {(~known).sum()} of {len(time)} samples, their timestamps are NaN or infinite")
        time, values = time[known], values[known]
    steps = np.diff(time)
    back = np.flatnonzero(steps < 0)
    if back.size:
        rising = steps[steps > 0]
        large = max(1.0, 10 * float(np.median(rising))) if rising.size else np.inf
        kept = time[~strays(time)]
        behind = (kept < np.maximum.accumulate(kept)).sum()
        if not sort and steps.min() < -large and behind > max(5, 0.005 * kept.size):
            at = int(np.argmin(steps))
            warn(
                f"{where}: left out, its times fall back from {time[at]:g} to {time[at + 1]:g} s, as where a clock was "
                "reset; write them on one clock, or give --sort-times, in Python sort_times, where it is mere disorder"
            )
            return None
        warn(f"{where}: timestamps step back {back.size} times, samples put in order")
        order = np.argsort(time, kind="stable")
        time, values = time[order], values[order]
    attrs = {
        **series.attrs,
        "unit": str(series.attrs.get("unit", series.attrs.get("units", ""))),
        "description": str(series.attrs.get("description", series.attrs.get("long_name", ""))),
    }
    attrs.setdefault("rate", rate_of(time))
    dims = ("time", "component")[: values.ndim]
    return xr.DataArray(values, dims=dims, coords={"time": time}, name=series.name, attrs=attrs)


def from_the_start(frames: Ints, where: str) -> Array:
    """The frames (spike,) of 0 or more; a few others are left out with a warning. Raises InputError for many."""
    negative = frames < 0
    if negative.sum() > max(3, 0.01 * frames.size):
        raise InputError(
            f"{where}: {negative.sum()} of {frames.size} spikes before the recording's start; sort it again, or write "
            "frames without overflow"
        )
    if negative.any():
        warn(f"{where}: left out {negative.sum()} spikes before the recording's start")
    return ~negative
