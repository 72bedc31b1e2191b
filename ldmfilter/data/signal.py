"""Sessions of a signal in place of spikes: fluorescence, or any other numbers (time, channel). A channel is a unit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ldmfilter.data.binned import BinnedSession, axis, labelled
from ldmfilter.data.clocks import PLAIN, Reading, is_time
from ldmfilter.data.counts import LONG_BIN
from ldmfilter.data.frames import sums
from ldmfilter.data.session import MEMORY, Session, Source
from ldmfilter.data.tables import (
    Array,
    Columns,
    Floats,
    Span,
    cut,
    inside,
    places,
    shorten,
    union,
)
from ldmfilter.errors import InputError, warn

_GAP = 1.0  # s without a frame, which end a stretch; in a shorter gap frames are missing
# A bin size that differs from a frame by less than this share is meant to be a frame.
_SAME = 0.01
# s: frames that are longer by their times, whose unit is not told, are hardly in seconds.
_LONG_FRAME = 10.0


@dataclass(frozen=True, eq=False, repr=False)
class SignalSession(BinnedSession):
    """A session of a signal: `bin_spikes` gives the means of its frames in bins, and it has no spikes.

    bin_size: of a frame, s
    signal (time, unit): float32 at the middles of frames, s, which are regular within a stretch; NaN where missing
    """

    signal: xr.DataArray = field(default_factory=lambda: xr.DataArray(np.empty((0, 0)), dims=("time", "unit")))

    def __repr__(self) -> str:
        span = f"{self.start:g} to {self.stop:g} s"
        return f"<SignalSession {self.source.path}: {self.name}, {self.n_units} channels, {span}>"

    @property
    def name(self) -> str:
        """Path of the series in its file."""
        return str(self.signal.name)

    def on_grid(self, bin_size: float, spans: Sequence[Span]) -> tuple[float, list[Span]]:
        """The bin size, and spans that do not go on across a gap.

        Raises InputError for bins shorter than a frame, and where no frame is left.
        """
        where, own = self.source.path, self.bin_size
        if bin_size < (1 - _SAME) * own:
            raise InputError(
                f"{where}: frames of {own:g} s cannot be told in bins of {bin_size:g} s; give {own:g} s or more"
            )
        pieces = cut(sorted(spans), self.stretches)
        if not pieces:
            raise InputError(f"{where}: no frame lies in the chosen time; choose another")
        return own if abs(bin_size / own - 1) < _SAME else bin_size, pieces

    def means(self, left: Floats, right: Floats) -> Array:
        """Means (time, unit), float32, of the frames in bins (time,), s; NaN where less than half of a bin was seen."""
        frame = self.bin_size
        edges = np.stack([left, right]) - 1e-6 * frame  # a frame on an edge is in the later bin, whatever the rounding
        first, last = np.searchsorted(self.signal["time"].values, edges)
        values = self.signal.values
        seen = sums(~np.isnan(values), first, last)
        enough = 2.001 * frame * seen > (right - left)[:, None]
        total = sums(np.nan_to_num(values), first, last)
        return np.where(enough, total / np.maximum(seen, 1), np.nan).astype(np.float32)

    def rates_within(self, bounds: Floats) -> Floats:
        """A signal has no rates: NaN (unit,), and 0 for a channel that is constant or missing within the intervals."""
        values = self.signal.values[inside(union(bounds), self.signal["time"].values)]
        varies = np.fmax.reduce(values, 0, initial=np.nan) > np.fmin.reduce(values, 0, initial=np.nan)
        return np.where(varies, np.nan, np.zeros(len(varies)))

    def select_units(self, mask_or_ids: npt.ArrayLike) -> Session:
        """As `Session.select_units`."""
        fewer = super().select_units(mask_or_ids)
        assert isinstance(fewer, SignalSession)
        return replace(fewer, signal=self.signal.sel(unit=fewer.units["unit"].values))


def from_signal(
    signal: xr.DataArray | npt.ArrayLike,
    bin_size: float | None = None,
    *,
    name: str = "",
    units: Columns | None = None,
    source: Source = MEMORY,
    reading: Reading = PLAIN,
    intervals: Mapping[str, Columns] | None = None,
    behavior: Mapping[str, xr.DataArray] | None = None,
    **parts: Any,
) -> SignalSession:
    """A session from a signal, such as dF/F.

    Frames take the places of a regular clock, each to half a frame; those that were dropped are missing, and after a
    second without a frame a new stretch begins.

    Parameters
    ----------
    signal : xarray.DataArray or array_like (time, channel)
        NaN is missing. A DataArray has dims time (the middles of frames; s, or as its attribute `units` says) and
        channel, of any name, whose coordinate are the ids.
    bin_size : float, optional
        Of a frame, s, for a signal without times.
    name : str
        Of the series; without it the signal's own.
    units : mapping or DataFrame, optional
        Columns of the channels.
    source : Source
        The file that it is from.
    reading : Reading
        What a person says of the times.
    intervals, behavior, **parts
        As for `Session`.

    Returns
    -------
    SignalSession

    Raises
    ------
    InputError
        Other dims, times that do not rise or are hardly seconds, or values that are infinite or all missing.

    Examples
    --------
    >>> session = ldmfilter.from_signal(np.random.default_rng(0).normal(size=(100, 3)), bin_size=0.05)
    >>> session.n_units, round(session.duration, 6)
    (3, 5.0)
    """
    where = source.path
    table, ids = labelled(signal, "signal", where)
    for mark in ("observed", "unit_observed"):
        if mark in table.coords:
            table = table.where(table[mark])
    name, values = name or str(table.name or "signal"), table.values.astype(np.float32)
    where, reading = f"{where}: {name}", reading.in_place_of_spikes(name)
    clock, time, _ = axis(table, bin_size, source, reading)
    known = np.isfinite(time)
    if not known.all():
        lost = f"{(~known).sum()} of {known.size} frames"
        warn(f"{where}: left out {lost}, their times are NaN or infinite")
        values, time = values[known], time[known]
    steps = np.diff(time)
    if len(time) < 2 or not (steps > 0).all():
        what = f"times step back at {time[1:][steps <= 0][0]:g} s" if len(time) > 1 else f"{len(time)} frames"
        raise InputError(f"{where}: {what}; give two frames or more in the order of their times")
    if np.isinf(values).any():
        row, column = np.argwhere(np.isinf(values))[0]
        raise InputError(f"{where}: is infinite at {time[row]:g} s in channel {ids[column]}; give NaN where missing")
    if np.isnan(values).all():
        raise InputError(f"{where}: is NaN throughout; choose another series")
    middle = float(np.median(steps))
    size = float(f"{steps[(steps > 0.5 * middle) & (steps < 1.5 * middle)].mean():.10g}")
    timed, known_unit = "time" in table.coords, "spikes" in reading.hz or is_time(table.coords.get("time"))
    if size > LONG_BIN:
        _check_length(size, name, where, timed, known_unit)
    elif timed and not known_unit and (time == np.floor(time)).all():
        own = name.rpartition("/")[2]
        warn(
            f"{where}: all {len(time)} times are whole numbers, as numbers of frames are; where they are, give --ticks "
            f"{own}=30 for 30 frames a second, in Python ticks"
        )
    centres, full, stretches = _regular(time, values, size)
    coords = {"time": ("time", centres, {"units": "s"}), "unit": ids}
    return SignalSession.assembled(
        clock,
        ids,
        source,
        units,
        intervals,
        behavior,
        times=centres,
        spike_times=np.empty(0),
        spike_times_index=np.zeros(len(ids), dtype=np.int64),
        extent=(float(stretches[0, 0]), float(stretches[-1, 1])),
        bin_size=size,
        stretches=stretches,
        signal=xr.DataArray(full, dims=("time", "unit"), coords=coords, name=name, attrs=table.attrs),
        **parts,
    )


def _check_length(size: float, name: str, where: str, timed: bool, known: bool) -> None:
    """Warn of long frames of `size` s; raise InputError where times whose unit is not known make them so."""
    way = "give the length of a frame in seconds, of 30 a second 1/30"
    if timed:
        own = name.rpartition("/")[2]
        way = f"give --ticks {own}=1000 where its times are ms, {own}=1 where they are s, in Python ticks"
    if timed and known:
        way = f"longer than the {LONG_BIN:g} s over which a filter is judged"
    elif timed and size > _LONG_FRAME:
        raise InputError(f"{where}: frames of {size:g} s by its times; {way}")
    warn(f"{where}: frames of {size:g} s; {way}")


class SeveralSeriesError(InputError):
    """A file without units that has several series which may be the signal: `paths`."""

    def __init__(self, line: str, paths: Sequence[str]):
        super().__init__(line)
        self.paths = list(paths)


def choose_series(found: Mapping[str, str], wanted: str | None, where: str, likely: Sequence[str]) -> str:
    """The path of the series that is wanted: the only likely one, or one by its path or the unique last part of it.

    found: every series, with a few words on each
    Raises InputError, which lists them, where there are none, and SeveralSeriesError.
    """
    offered = (wanted is None and likely) or list(found)
    listed = shorten(f"{path} ({found[path]})" for path in offered) or "none"
    if wanted is None:
        if len(likely) == 1:
            return likely[0]
        if not found:
            raise InputError(f"{where}: has no units table with rows; sort the spikes and add units to the file")
        raise SeveralSeriesError(
            f"{where}: has no units table with rows; name one of its series (--series, in Python series): {listed}",
            offered,
        )
    fits = [path for path in found if path == wanted] or [path for path in found if f"/{path}".endswith(f"/{wanted}")]
    if len(fits) != 1:
        if fits:
            raise InputError(f"{where}: has {len(fits)} series {wanted!r}: {shorten(fits)}; give the whole path")
        raise InputError(f"{where}: has no series {wanted!r}; there is: {listed}")
    return fits[0]


def _regular(time: Floats, values: Array, size: float) -> tuple[Floats, Array, Floats]:
    """The middles of the frames of a regular clock (time,), s, the values in them (time, channel), NaN where no frame
    is, of two frames in one place those of the first; and the clock's stretches (stretch, 2), s."""
    heads = np.flatnonzero(np.diff(time, prepend=-np.inf) > max(_GAP, 2.5 * size))
    each = np.diff(heads, append=len(time))
    place = np.rint((time - np.repeat(time[heads], each)) / size).astype(np.int64)
    lengths = place[np.append(heads[1:], len(time)) - 1] + 1
    rows, kept = np.unique(place + np.repeat(np.cumsum(lengths) - lengths, each), return_index=True)
    full = np.full((lengths.sum(), values.shape[1]), np.nan, dtype=np.float32)
    full[rows] = values[kept]
    stretches = np.stack([time[heads] - size / 2, time[heads] + (lengths - 0.5) * size], axis=1)
    return np.repeat(time[heads], lengths) + places(lengths) * size, full, stretches
