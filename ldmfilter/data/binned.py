"""Sessions of which only counts in bins are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from ldmfilter.data.clocks import PLAIN, Clock, Reading, relative
from ldmfilter.data.counts import whole_counts
from ldmfilter.data.session import MEMORY, Observed, Session, Source
from ldmfilter.data.tables import (
    Array,
    Columns,
    Floats,
    Span,
    bounds_of,
    intersect,
    is_positive,
    make_intervals,
    places,
    plain_array,
    plain_ids,
)
from ldmfilter.errors import InputError, warn

# A wanted bin size may differ from whole bins by this share of itself, lost in writing it down.
_SAME = 1e-6
# Bins that lie off the grid by less than this share of a bin are on it: time axes in float32 waver by so much.
_WAVER = 0.05
# Fewer steps from bin to bin tell nothing of their unit of time, fewer spikes nothing of that of counts.
_FEW = 10
# Spikes at most, eight bytes each.
_MOST = 2**29


@dataclass(frozen=True, eq=False, repr=False)
class BinnedSession(Session):
    """A session of which only counts in bins are known.

    Each spike stands at the centre of its bin, so that rates, queries and intervals work as for spike times.
    `bin_spikes` gives the counts back, in their own bins or in whole multiples, and no others.

    bin_size: s
    stretches (stretch, 2): start and stop, s, of each gap-free run of bins; it holds a whole number of them
    """

    bin_size: float = math.nan
    stretches: Floats = field(default_factory=lambda: np.empty((0, 2)))

    def on_grid(self, bin_size: float, spans: Sequence[Span]) -> tuple[float, list[Span]]:
        """A bin size and spans that fit these bins: edges moved inwards to the edges of bins, no span across a gap.

        Raises InputError for a bin size that is no whole multiple of the counts' own, and where no bin is left.
        """
        where, own = self.source.path, self.bin_size
        times = round(bin_size / own)
        if times < 1 or abs(bin_size / own / times - 1) > _SAME:
            raise InputError(
                f"{where}: counts in bins of {own:g} s cannot be told in bins of {bin_size:g} s; "
                f"give {own:g} s or a whole multiple as bin size"
            )
        ordered = sorted(spans)
        pieces, rows, stretch = intersect(bounds_of(ordered), self.stretches)
        starts = self.stretches[stretch, 0]
        first = np.ceil((pieces[:, 0] - starts) / own - _WAVER).astype(np.int64)
        last = np.floor((pieces[:, 1] - starts) / own + _WAVER).astype(np.int64)
        fitting = [
            # A quarter of a bin more than the whole bins: rounding takes none of them away.
            Span(start + a * own, start + (b + 0.25) * own, ordered[row].label)
            for start, a, b, row in zip(starts, first, last, rows.tolist(), strict=True)
            if b > a
        ]
        if not fitting:
            raise InputError(f"{where}: no bin of {own:g} s lies in the chosen time; choose another")
        return times * own, fitting


def from_counts(
    counts: xr.DataArray | npt.ArrayLike,
    bin_size: float | None = None,
    *,
    source: Source = MEMORY,
    reading: Reading = PLAIN,
    intervals: Mapping[str, Columns] | None = None,
    **parts: Any,
) -> BinnedSession:
    """A session from counts that were made elsewhere.

    counts: DataArray with dims time and unit, or an array (time, unit). NaN, and bins whose coordinate `observed`
        is False, were not observed; `segment` and jumps in `time` end a stretch; `interval`, a label a bin, becomes
        an interval table of that name.
    bin_size: s, for counts that say it neither in an attribute `bin_size` nor by `time` (bin centres; s, or as its
        attribute `units` says, or dates, of which the first bin's edge is 0 s)
    reading: what a person says of the times
    intervals, **parts: as for `Session.assembled`

    Raises InputError for other dims, a bin size that is not told or does not fit the time axis, times that do not
    rise, and values that are no counts.

    >>> session = from_counts([[2, 0], [1, 1], [0, 3]], bin_size=0.1, units={"quality": ["good", "mua"]})
    >>> session.n_spikes, session.rates.round(6).tolist()
    (7, [10.0, 13.333333])
    """
    where = source.path
    table, ids = labelled(counts, "counts", where)
    clock, size, centres = _bins(table, bin_size, source, reading)
    segment = _mark(table, "segment", 0, where)
    # A new stretch begins where the time jumps or another segment begins.
    first = np.diff(centres, prepend=-np.inf) > (1 + _WAVER) * size
    first |= np.diff(segment, prepend=segment[:1] - 1) != 0
    heads = np.flatnonzero(first)
    length = np.diff(heads, append=len(centres))
    left = np.repeat(centres[heads] - size / 2, length) + places(length) * size
    values, missing = whole_counts(table.values, centres, ids, where)
    spikes = values.sum(0, dtype=np.float64)
    if table.dtype.kind == "f" and spikes.sum() >= _FEW and (step := int(np.gcd.reduce(values, axis=None))) > 1:
        warn(f"{where}: counts are multiples of {step}, all of them, as rates in Hz are; give numbers of spikes")
    if spikes.sum() > _MOST:
        raise InputError(
            f"{where}: counts: {spikes.sum():,.0f} spikes in all are more than fit into memory; are they counts?"
        )
    seen = (segment >= 0)[:, None]
    for name in ("observed", "unit_observed"):
        seen = seen & _mark(table, name, 1, where).reshape(len(seen), -1).astype(bool)
    if missing is not None:
        seen = seen & ~missing
    each = [_runs(column, first, left, size) for column in seen.T]
    always = len(each) == first.sum() == 1 and seen.all()
    tables: dict[str, Any] = dict(intervals or {})
    if "interval" in table.coords:
        tables.setdefault("interval", _labels(table["interval"].values, first, left, size, f"{where}: interval"))
    times = np.concatenate([np.repeat(left + size / 2, column.astype(np.int64)) for column in values.T])
    return BinnedSession.assembled(
        clock,
        ids,
        source,
        intervals=tables,
        times=times,
        spike_times=times,
        spike_times_index=np.cumsum(spikes).astype(np.int64),
        observed=None if always else Observed.from_units(each * (len(ids) // len(each))),
        extent=(float(left[0]), float(left[-1] + size)),
        bin_size=size,
        stretches=_runs(np.ones(len(centres), dtype=bool), first, left, size),
        **parts,
    )


def _runs(mask: Array, first: Array, left: Floats, size: float) -> Floats:
    """Start and stop, s, of the runs (run, 2) of bins in a mask (time,); none goes on into another stretch.

    first (time,): True for a bin that begins a stretch; left (time,): left edges, s
    """
    begin = mask & (first | ~np.concatenate([[False], mask[:-1]]))
    end = mask & np.concatenate([first[1:] | ~mask[1:], [True]])
    return np.stack([left[begin], left[end] + size], axis=1)


def _labels(labels: Array, first: Array, left: Floats, size: float, where: str) -> xr.Dataset:
    """The runs of bins that carry one label, as an interval table with `tags`; "" is no label."""
    text = plain_array(labels)
    if text is None:
        raise InputError(f"{where}: labels are no text; write them anew")
    text = text.astype(np.str_)
    first = first | np.concatenate([[True], text[1:] != text[:-1]])
    start, stop = _runs(text != "", first, left, size).T
    return make_intervals({"start_time": start, "stop_time": stop, "tags": text[first & (text != "")]}, where)


def labelled(values: xr.DataArray | npt.ArrayLike, kind: str, where: str) -> tuple[xr.DataArray, Array]:
    """Numbers with dims (time, unit), and the ids (unit,).

    kind: "counts", or "signal", of which the second dim has any name and one channel needs none

    Raises InputError for other dims, other values, and none.
    """
    if not isinstance(values, xr.DataArray):
        array = np.asarray(values)
        array = array[:, None] if kind == "signal" and array.ndim == 1 else array
        values = xr.DataArray(array, dims=("time", "unit") if array.ndim == 2 else None)
    # An array (unit, time) without names has far more units than bins, and a thousand.
    if values.ndim == 2 and not values.coords and values.shape[1] > max(10 * len(values), 999):
        found = f"{len(values)} bins of {values.shape[1]} {'units' if kind == 'counts' else 'channels'}"
        warn(f"{where}: {found}; the array is read as (time, unit): is it turned?")
    unit = next((dim for dim in values.dims if dim != "time"), "") if kind == "signal" else "unit"
    if set(values.dims) != {"time", unit} or not values.size or values.dtype.kind not in "biuf":
        of = f"{kind} of {values.dtype} with dims {dict(values.sizes)}"
        raise InputError(f"{where}: {of}; give numbers of dims (time, unit)")
    return values.transpose("time", unit), plain_ids(values[unit].values, f"{where}: units")


def axis(table: xr.DataArray, size: float | None, source: Source, reading: Reading) -> tuple[Clock, Floats, Floats]:
    """The clock, and the middles of bins or frames (time,), s: on that clock, and since any time.

    size: of a bin or frame, s, where it was given; what has no times follows one another. Raises InputError for a size
    that is none, and for what has neither size nor times.
    """
    where = source.path
    if size is not None and not is_positive(size):
        raise InputError(f"{where}: bin_size is {size!r}; it must be a positive number of seconds")
    if "time" in table.coords:
        hz = reading.hz.get("spikes")
        time: Any = table["time"] if hz is None else table["time"].values / hz
    elif size is None:
        raise InputError(f"{where}: does not say how long a bin or frame is; give --bin-size, in Python bin_size")
    else:
        time = (np.arange(table.sizes["time"]) + 0.5) * float(size)
    where = f"{where}: time"
    since = relative(time, where)[0]
    width = float(size or np.nanmedian(np.diff(since))) if len(since) > 1 or size else 0.0
    clock = Clock.of(time, source, reading, where, width / 2)
    return clock, clock.seconds(time, where), since


def _mark(table: xr.DataArray, name: str, default: int, where: str) -> Array:
    """A coordinate along time (and unit) that marks bins; where there is none, a default a bin."""
    if name not in table.coords:
        return np.full(len(table), default)
    mark = table[name].transpose(..., "unit", missing_dims="ignore").values
    if mark.dtype.kind not in "biuf":
        raise InputError(f"{where}: {name} holds {mark.dtype}, where a number a bin is wanted; write it anew")
    return mark.astype(np.int64) if mark.dtype.kind in "bu" else mark


def _bins(counts: xr.DataArray, given: float | None, source: Source, reading: Reading) -> tuple[Clock, float, Floats]:
    """The clock, the bin size, s, and the bins' centres (time,), s."""
    size = given = counts.attrs.get("bin_size", given)
    where, (clock, centres, since) = source.path, axis(counts, size, source, reading)
    if "time" not in counts.coords:
        return clock, float(size), centres  # type: ignore[arg-type]  # `axis` wants one
    steps, own = np.diff(since), counts["time"]
    if not (np.isfinite(since).all() and (steps > 0).all()):
        raise InputError(f"{where}: time does not rise from bin to bin; give the centres of bins in their order")
    if size is None:
        if not steps.size:
            raise InputError(f"{where}: does not say how long its one bin is; give --bin-size, in Python bin_size")
        size = float(np.median(steps))
        regular = steps[np.abs(steps - size) < _WAVER * size]
        # A mean over many steps, cut to the precision of the axis, gives 0.1 and not 0.0999999.
        size = float(f"{regular.mean():.{6 if own.dtype == np.float32 else 12}g}")
    size = float(size)
    if steps.size and steps.min() < (1 - _WAVER) * size:
        raise InputError(
            f"{where}: time steps by {steps.min():g} s where a bin has {size:g} s; "
            "give bins that do not overlap, or the attribute bin_size"
        )
    if steps.size >= _FEW and "spikes" not in reading.hz and own.dtype.kind in "uif" and not own.attrs.get("units"):
        # Without a unit, whole numbers may be those of the bins, and steps that are no bins may be ms.
        whole = bool((since == np.floor(since)).all())
        if not (np.abs(steps - size) < _WAVER * size).any() or (whole and given is None):
            raise InputError(
                f"{where}: time steps by {np.median(steps):g} without saying in which unit; give the attribute `units` "
                "or bin_size, or ticks, as spikes=1 where it is in s, spikes=1000 in ms"
            )
    return clock, size, centres
