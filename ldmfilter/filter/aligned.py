"""States in trials: bins around an event of every trial, in a dataset (trial, time, state). Imports no torch."""

from __future__ import annotations

import re

import numpy as np
import xarray as xr

from ldmfilter.data.selection import choose_trials
from ldmfilter.data.session import Session
from ldmfilter.data.tables import Floats, Ints, bounds_in
from ldmfilter.errors import InputError, warn
from ldmfilter.filter.latents import ALIGNED, check_latents

_ROUNDING = 1e-6  # bins: a bin whose edge is the event itself may come out so much later
_MISSING = {"i": -1, "u": 0, "b": False, "U": "", "f": np.nan}  # of a bin that a trial does not reach


def align(
    latents: xr.Dataset, session: Session, event: str, window: tuple[float, float], query: str | None = None
) -> xr.Dataset:
    """Cut states into trials, around an event in each.

    A trial has the bins of one segment: that in which most of its own time lies, from start_time to stop_time, or the
    event where these are unknown. From its own time it reaches outwards to the ends of the segment, or to the first
    bin that was not observed.

    A bin belongs before the event if it ends at the event or earlier. One that begins before the event and ends after
    it holds spikes from after it, and belongs after the event. So filtered and predicted states at a negative `time`
    know of no spike after the event. Smoothed states know their whole segment, and so do not keep to this.

    `time` (time,) is the centre, s from the event, of bins that are counted from the event. A real bin, whose edges
    need not meet the event, ends in the counted bin, so that it lies less than a bin earlier; `bin_time` says where.

    Parameters
    ----------
    latents : xarray.Dataset
        As `LDMFilter.decode` gives them, or `ldmfilter.export.read_latents`.
    session : Session
        That they were decoded from, with the interval table.
    event : str
        "TABLE.COLUMN", any column of times, as "trials.start_time" or "trials.go_cue".
    window : (float, float)
        From and to, s from the event; the whole bins in it.
    query : str, optional
        Keeps some rows of the table, an expression as "condition == 3 and rewarded".

    Returns
    -------
    xarray.Dataset
        Every variable (time, ...) of the states as (trial, time, ...), a trial for each row: filtered_mean (trial,
        time, state), filtered_cov (trial, time, state, state_2), and so on, forecasts (ahead, trial, time, ...). What a
        trial does not reach is NaN, -1 or False. Coordinates: the table's columns (trial,), `trial` (its ids), `time`,
        `bin_time` (trial, time): the bin's centre on the session's clock, s; `segment` (trial,), -1 where the trial has
        none.

    Raises
    ------
    InputError
        No such table or column, a query that cannot be used, a window without a bin, or one that no trial reaches.

    Examples
    --------
    >>> aligned = ldmfilter.align(latents, session, "trials.start_time", (-0.6, 1.0), "direction == 'outbound'")
    >>> dict(aligned["filtered_mean"].sizes)
    {'trial': 7, 'time': 8, 'state': 2}
    """
    check_latents(latents)
    table, column = choose_trials(session, event, query)
    size = float(latents.attrs["bin_size"])
    steps = window_steps(window, size)
    times = table[column].values.astype(np.float64)
    _tell_other_clock(times, bounds_in(table), f"{session.source.path}: {event}")
    bins, segment = _bins(latents, table, times, size, steps)
    reached = xr.DataArray(bins >= 0, dims=("trial", "time"))
    if not reached.any():
        raise InputError(_unreached(latents, session, event, times, window))
    part = latents.drop_vars(["segment", "interval"], errors="ignore").rename(time="bin_time")
    at = xr.DataArray(bins.clip(0), dims=("trial", "time"))
    part = part.reset_index("bin_time").reset_coords("bin_time").isel(bin_time=at)
    part = part.map(lambda one: _masked(one, reached), keep_attrs=True)
    coords: dict[str, object] = {"trial": table["interval"].values, "segment": ("trial", segment)}
    about = {"units": "s", "long_name": f"bin centre from {event}"}
    coords["time"] = ("time", np.round((steps - 0.5) * size, 9), about)
    made = part.set_coords("bin_time").assign_coords(coords)
    made["bin_time"].attrs = {"units": "s", "long_name": "bin centre on the session's clock"}
    asked = {"format": ALIGNED, "align": event, "window": list(window), "filter": query or ""}
    return made.assign_coords(_columns(table, {*made.variables, *made.dims})).assign_attrs(asked)


def window_steps(window: tuple[float, float], size: float) -> Ints:
    """The whole bins of `size` s in a window: bin k lies from (k - 1) * size to k * size s after the event.

    Raises:
        InputError: the window has no length or no end, or holds no whole bin.
    """
    try:
        start, stop = map(float, window)
    except (TypeError, ValueError):
        raise InputError(f"window {window!r} cannot be used; give (START, STOP), s from the event") from None
    if not (np.isfinite(window).all() and stop > start):
        raise InputError(f"window {start:g}:{stop:g} s cannot be used; give START:STOP in seconds, STOP after START")
    steps = np.arange(np.ceil(start / size - _ROUNDING), np.floor(stop / size + _ROUNDING)).astype(np.int64) + 1
    if not steps.size:
        raise InputError(f"window {start:g}:{stop:g} s holds no whole bin of {size:g} s; widen it")
    return steps


def _tell_other_clock(times: Floats, bounds: Floats, where: str) -> None:
    """Warn of events (trial,) that lie far from their own rows (trial, 2) and spread over other time than these, as
    those that are counted from the start of each; a lick a second after a flash is far from its row too."""
    start, stop = bounds.T
    length = stop - start
    away = (times < start - length) | (times > stop + length)
    if 2 * away.sum() <= np.isfinite(times).sum():
        return
    spread, of_rows = (np.nanmax(one) - np.nanmin(one) for one in (times, start))
    if not 0.5 * of_rows < spread < 2 * of_rows:
        warn(
            f"{where}: {away.sum()} of {times.size} events lie far from their own rows, at {np.nanmin(times):g} to "
            f"{np.nanmax(times):g} s; give times on the session's clock, not from a start"
        )


def _bins(latents: xr.Dataset, table: xr.Dataset, event: Floats, size: float, steps: Ints) -> tuple[Ints, Ints]:
    """The bin (trial, time) at each step of the window, -1 where there is none, and each trial's segment (trial,)."""
    time, segment, observed = (latents[name].to_numpy() for name in ("time", "segment", "observed"))
    n = time.size
    # Bins that follow one another; where some were taken out a new run begins.
    new = (np.diff(segment, prepend=segment[0] - 1) != 0) | (np.diff(time, prepend=time[0] - size) > 1.5 * size)
    run = np.cumsum(new) - 1
    first = np.append(np.flatnonzero(new), n)
    index = np.arange(n)
    # The last bin before each and the first one after each that was not observed, or -1 and n.
    missing_before = np.append(-1, np.maximum.accumulate(np.where(observed, -1, index))[:-1])
    missing_after = np.append(np.minimum.accumulate(np.where(observed, n, index)[::-1])[-2::-1], n)
    bins, chosen = np.full((event.size, steps.size), -1), np.full(event.size, -1)
    starts, stops = (table[name].values for name in ("start_time", "stop_time"))
    for trial, (at, start, stop) in enumerate(zip(event, starts, stops, strict=True)):
        if not np.isfinite(at):
            continue
        known = np.isfinite([start, stop]).all() and stop > start
        low, high = np.searchsorted(time, (start, stop) if known else (at - size / 2, at + size / 2))
        own = index[low:high][segment[low:high] >= 0]
        if not own.size:
            continue
        mine = np.bincount(run[own]).argmax()
        own = own[run[own] == mine]
        low, high = max(first[mine], missing_before[own[0]] + 1), min(first[mine + 1], missing_after[own[-1]])
        # The first bin that ends after the event is step 1.
        anchor = min(max(np.searchsorted(time, at - (0.5 - _ROUNDING) * size, side="right"), low), high - 1)
        away = (time[anchor] - at) / size + 0.5  # bins from the event to the anchor's end
        step = max(np.ceil(away - 1e-3), 1) if away > _ROUNDING else min(np.ceil(away - _ROUNDING), 0)
        place = anchor + steps - int(step)
        inside = (place >= low) & (place < high)
        bins[trial, inside] = place[inside]
        if inside.any():
            chosen[trial] = segment[own[0]]
    return bins, chosen


def _masked(values: xr.DataArray, reached: xr.DataArray) -> xr.DataArray:
    """Values (trial, time, ...), and what stands for none where a trial does not reach."""
    return values.where(reached, values.dtype.type(_MISSING[values.dtype.kind])) if "trial" in values.dims else values


def _columns(table: xr.Dataset, taken: set) -> dict[str, xr.Variable]:
    """The table's columns as coordinates along trials; one whose name is taken has `trial_` before it."""
    columns: dict[str, xr.Variable] = {}
    for key, values in table.data_vars.items():
        name = re.sub(r"\W", "_", str(key))
        while name in taken | set(columns) or not name.isidentifier():
            name = f"trial_{name}"
        dims = ["trial" if dim == "interval" else f"{name}_item" for dim in values.dims]
        columns[name] = xr.Variable(dims, values.values)
    return columns


def _unreached(latents: xr.Dataset, session: Session, event: str, times: Floats, window: tuple[float, float]) -> str:
    """The line that says where events and bins lie."""
    bins = f"{float(latents['time'][0]):g} to {float(latents['time'][-1]):g} s"
    events = f"{np.nanmin(times):g} to {np.nanmax(times):g} s"
    return (
        f"{session.source.path}: no trial reaches the window {window[0]:g}:{window[1]:g} s around {event} ({events}) "
        f"in decoded bins ({bins}) that were observed; choose another window or decode the trials' time"
    )
