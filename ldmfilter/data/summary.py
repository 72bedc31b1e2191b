"""The contents of a session in numbers and names, as `ldmfilter inspect --json` prints them."""

import math
import numbers
import re
import shlex
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from ldmfilter.data.binned import BinnedSession
from ldmfilter.data.clocks import far_from
from ldmfilter.data.selection import flat_columns, observed_table
from ldmfilter.data.session import MOST_COLUMNS, Session
from ldmfilter.data.signal import SignalSession
from ldmfilter.data.tables import ROUNDED, Floats, bounds_in, inside, tagged, tags_in, time_in

_NO_UNIT = {"n/a", "na", "none", "unknown", "a.u.", "au", "unitless"}
_TURNS = {"radians": 2 * math.pi, "degrees": 360.0}
_REST = re.compile("rest|sleep", re.IGNORECASE)  # a tag of time in which the animal does not move
_PLACE = re.compile("pos|place|location", re.IGNORECASE)  # a path of behaviour that others are derived from
_PART = 0.25  # share of the time, at least, of a part that is proposed to train on
_MOST_TAGS = 24  # more are names of single rows


def summarise(session: Session, odd: Sequence[str] = (), given: str = "") -> dict[str, Any]:
    """Units, intervals, behaviour and signals of a session as plain values, for JSON.

    odd: warnings that were given when it was read; those on angles whose range does not fit their unit are added
    given: options that it was read by, as the command line has them

    `next` are commands to go on with. Times in s, rates in Hz. None stands for a rate that is not known, and for the
    bin size of a session that has spike times.
    """
    rates = session.rates
    low, median, high = map(_number, np.quantile(rates, [0, 0.5, 1])) if session.n_units else (None,) * 3
    return {
        **session.source.attrs(),
        "start": session.start,
        "stop": session.stop,
        "duration": session.duration,
        "odd": [*odd, *_odd_rows(session), *_overlaps(session), *_odd_angles(session)],
        "bin_size": session.bin_size if isinstance(session, BinnedSession) else None,
        "signal": session.name if isinstance(session, SignalSession) else None,
        "series": [
            {"path": path, "about": about} for path, about in session.series.items() if path not in session.behavior
        ],
        "units": {
            "number": session.n_units,
            "spikes": session.n_spikes,
            "silent": int((rates == 0).sum()),
            "rate_min": low,
            "rate_median": median,
            "rate_max": high,
            "columns": [str(name) for name in session.units],
            "observed_intervals": session.observed is not None,
            "table": [
                {"unit": unit, "rate": _number(rate)}
                for unit, rate in zip(session.units["unit"].to_numpy().tolist(), rates.tolist(), strict=True)
            ],
        },
        "intervals": [
            {
                "table": name,
                "rows": session.intervals[name].sizes["interval"],
                **_span(*bounds_in(table).T),
                "columns": [str(column) for column in table],
                "tags": (tags := tags_in(table)),
                "events": _events(table),
                "seconds": _seconds(table),
                "seconds_by_tag": _by_tag(table, tags if len(tags) <= _MOST_TAGS else ()),
            }
            for name, table in ((name, _near(session, table)) for name, table in session.intervals.items())
        ],
        "behavior": [
            {
                "path": path,
                "shape": list(series.shape),
                "unit": str(series.attrs.get("unit", "")),
                "rate": _number(series.attrs.get("rate")),
                **_span(series["time"].values, series["time"].values),
            }
            for path, series in session.behavior.items()
        ],
        "next": _next(session, given),
    }


def _next(session: Session, given: str) -> list[str]:
    """Commands to go on with, by the options `given` to read the session."""
    path, tables = shlex.quote(session.source.path), session.intervals
    interval = next((name for name in tables if _seconds(tables[name]) > _PART * session.duration), None)
    parts = ["trials"] * (interval == "trials")  # which begin anew even where they fill the recording
    if interval is not None and not parts:
        table, most = tables[interval], 0.99 * session.duration
        seconds, by_tag = _seconds(table), _by_tag(table, tags_in(table)[:_MOST_TAGS])
        long = [tag for tag in by_tag if _PART * seconds < by_tag[tag] < most]
        # Of tags of the same rows the first.
        long = [*{tagged(table, tag).tobytes(): tag for tag in reversed(long)}.values()]
        long.sort(key=lambda tag: (not _measured(session, table, tag), _REST.search(tag) is not None, -by_tag[tag]))
        parts = [f"{interval}={tag}" for tag in long] or [interval] * (seconds < most)
    forced = given if not isinstance(session, BinnedSession) else f"{given} --bin-size {session.bin_size:g}"
    commands = [f"ldmfilter train {path}{forced}"]
    if (pieces := observed_table(session)) is not None:
        commands[0] += f"  # each of the {pieces}, outside which nothing was observed"
    elif parts:
        commands[0] += "  # all of the time"
        commands += [
            f"ldmfilter train {path}{forced} --interval {shlex.quote(one)}  # or only this part" for one in parts
        ]
    within = [
        # Pieces of a whole come after it.
        (not _PLACE.search(path), one.ndim, path.rpartition("/")[0] in session.behavior, path)
        for path, one in session.behavior.items()
        if math.prod(one.shape[1:]) <= MOST_COLUMNS
        and ((one["time"] >= session.start) & (one["time"] <= session.stop)).any()
    ]
    chosen = min(within, key=lambda one: one[:3], default=None)
    behavior = f" --behavior {shlex.quote(chosen[3])}" if chosen else ""
    same = f" --interval {shlex.quote(parts[0])}" if parts and interval != "trials" else ""
    commands.append(f"ldmfilter decode{same} --out latents.zarr{behavior}")
    if "trials" in tables:
        event = next(iter(_events(tables["trials"])), "start_time")
        until = tables["trials"]["stop_time"].values - tables["trials"][event].values
        length = float(np.nanmedian(until)) if np.isfinite(until).any() else math.nan
        if length > 0:
            aligned = f"--align {shlex.quote(f'trials.{event}')} --window 0:{length:.3g}"
            commands.append(f"ldmfilter decode {aligned} --out trials.zarr")
    return commands


def _odd_rows(session: Session) -> list[str]:
    """A line for each interval table with rows that stop before they start, or have no start or stop."""
    return [
        f"{session.source.path}: {name}: {number} of {table.sizes['interval']} rows stop before they start, or have no "
        "start or stop; no time is taken from them"
        for name, table in session.intervals.items()
        if (number := (~(np.diff(bounds_in(table)) >= 0)).sum())
    ]


def _overlaps(session: Session) -> list[str]:
    """A line where trials overlap; other tables may hold one part within another."""
    if "trials" not in session.intervals:
        return []
    rows = bounds_in(session.intervals["trials"])
    rows = rows[np.diff(rows)[:, 0] > 0]
    starts, stops = rows[rows[:, 0].argsort()].T
    number = int((starts[1:] < np.maximum.accumulate(stops)[:-1] - ROUNDED).sum())
    where = f"{session.source.path}: trials"
    return [f"{where}: {number} of {len(rows)} rows begin before an earlier one stops; these are joined"] * (number > 0)


def _near(session: Session, table: xr.Dataset) -> xr.Dataset:
    """The rows of a table without those that start or stop far from the recording, which are told; all if all do."""
    near = ~far_from((session.start, session.stop), bounds_in(table)).any(1)
    return table.isel(interval=np.flatnonzero(near)) if near.any() else table


def _odd_angles(session: Session) -> list[str]:
    """A line for each series of angles whose range does not fit its unit."""
    lines = []
    for path, series in session.behavior.items():
        unit = str(series.attrs.get("unit", "")).strip().lower()
        values = series.values[np.isfinite(series.values)] if series.dtype.kind == "f" else series.values
        is_angle = unit.startswith(("rad", "deg")) and "/" not in unit
        told = is_angle or (bool(series.attrs.get("circular")) and len(unit) > 1 and unit not in _NO_UNIT)
        if not values.size or not told:
            continue
        low, high = float(values.min()), float(values.max())
        width = high - low
        some = 0.9 if is_angle else 0.5  # of a turn, as `choose_behavior` has it
        looks = next((kind for kind, one in _TURNS.items() if some * one < width <= 1.01 * one), "")
        if looks and not unit.startswith(looks[:3]):
            lines.append(
                f"{session.source.path}: {path}: {low:g} to {high:g} in {unit!r} look like {looks}; taken as these"
            )
    return lines


def _measured(session: Session, table: xr.Dataset, tag: str) -> bool:
    """True where some behaviour was measured in half of the time of a table's rows with a tag, or more."""
    bounds = time_in(table, tagged(table, tag))
    times = [one["time"].values for one in session.behavior.values() if one.sizes["time"] > 1]
    return any(inside(bounds, t).sum() * np.median(np.diff(t)) > 0.5 * np.diff(bounds).sum() for t in times)


def _seconds(table: xr.Dataset, rows: Any = slice(None)) -> float:
    return float(np.diff(time_in(table, rows)).sum())


def _by_tag(table: xr.Dataset, tags: Sequence[str]) -> dict[str, float]:
    return {tag: _seconds(table, tagged(table, tag)) for tag in tags}


def _events(table: xr.Dataset) -> dict[str, dict[str, Any]]:
    """The columns of event times beside start and stop: their range, s, and how many rows have one."""
    found = {}
    for name, times in flat_columns(table).items():
        if name in ("start_time", "stop_time") or times.dtype.kind != "f":
            continue
        some = np.isfinite(times)
        known, (starts, stops) = times[some], bounds_in(table)[some].T
        if name.endswith("_time") or (known.size and ((known >= starts) & (known <= stops)).all()):
            found[name] = {**_span(known, known), "rows": known.size}
    return found


def _span(starts: Floats, stops: Floats) -> dict[str, float | None]:
    earliest, latest = np.fmin.reduce(starts, initial=np.nan), np.fmax.reduce(stops, initial=np.nan)
    return {"start": _number(earliest), "stop": _number(latest)}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, numbers.Real) and math.isfinite(value) else None
