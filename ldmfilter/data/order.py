"""Order of times, and times that are not valid: marks of invalid spikes, lone outliers, clocks that restart."""

import numpy as np
import xarray as xr

from ldmfilter.data.tables import Array, Floats, Ints, plain_ids, shorten
from ldmfilter.errors import InputError, warn

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
            raise InputError(f"{where}: units: {what}; give --drop-nan to leave these spikes out, or mend the file")
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
            times[index[unit - 1] if unit else 0 : index[unit]].sort()
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
    low, high = times.min(), times.max()
    negative = times < 0
    if low == -1 and (times[negative] == -1).all() and not negative.all():
        return negative, "marks of invalid spikes"
    for value in (low, high):
        at = times == value
        if (
            low < high
            and at.sum() >= _REPEATED
            and np.bincount(_units_of(np.flatnonzero(at), index)).max() >= _REPEATED
        ):
            rest = times[~at]
            if rest.size >= _FEW and (np.diff(rest) == 0).mean() < _COINCIDENT:
                return at, "which units repeat: marks of invalid spikes"
    stray = strays(times)
    return None if stray is None else (stray, "far from all others")


def strays(times: Floats) -> Array | None:
    """The times (item,) that lie farther from nearly all others than those span, few and rare; None where none do."""
    if times.size < _FEW:
        return None
    some = np.unique(times[:: 1 + times.size // _MANY])
    if some.size < _FEW:
        return None
    edge = max(1, int(0.005 * some.size))
    low, high = some[edge], some[-1 - edge]
    width = high - low
    stray = (times < low - width) | (times > high + width)
    return stray if stray.any() and stray.sum() <= max(2, _RARE * times.size) else None


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
        "reset; write them on one clock, or give --sort-times where it is mere disorder"
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
        stray = strays(time)
        kept = time if stray is None else time[~stray]
        behind = (kept < np.maximum.accumulate(kept)).sum()
        if not sort and steps.min() < -large and behind > max(5, 0.005 * kept.size):
            at = int(np.argmin(steps))
            warn(
                f"{where}: left out, its times fall back from {time[at]:g} to {time[at + 1]:g} s, as where a clock was "
                "reset; write them on one clock, or give --sort-times where it is mere disorder"
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
