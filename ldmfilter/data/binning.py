"""Recordings in memory -> sessions -> counts (time, unit), with a segment for every gap-free stretch."""

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ldmfilter.data.binned import BinnedSession, from_counts
from ldmfilter.data.counts import LONG_BIN, is_signal
from ldmfilter.data.selection import choose_spans, choose_units
from ldmfilter.data.session import Session
from ldmfilter.data.signal import SignalSession, from_signal
from ldmfilter.data.tables import Array, Floats, Ints, Span, bounds_of, is_positive, join_overlaps, places, union
from ldmfilter.errors import InputError, warn

__all__ = ["Span", "as_session", "bin_spikes", "choose_spans", "choose_units"]

Intervals = str | Sequence[Span] | Sequence[tuple[float, float]] | None

# Counts at most, one byte each; a day of 100 units in bins of 1 ms has as many.
_MOST = 2**33
# A span of 10 s holds 100 bins of 0.1 s, although its times may be written a rounding error short; in bins.
_ROUNDING = 1e-6
# What takes an object of another package: the module of `ldmfilter.data.formats`, and its function.
_TAKEN_BY = {
    "pynapple": ("pynapple", "from_pynapple"),
    "spikeinterface": ("sorting", "from_sorting"),
    "pynwb": ("nwb", "from_nwb"),
}


def as_session(recording: Any, bin_size: float | None = None) -> Session:
    """A session from a recording in memory; a session stays as it is.

    A signal goes through `from_signal`.

    Parameters
    ----------
    recording : object
        Spike times, s, as a mapping from units' ids to arrays; counts as an array (time, unit) or a DataArray with dims
        time and unit; a TsGroup of pynapple, or a TsdFrame; an NWBFile; a sorting or a SortingAnalyzer of
        spikeinterface.
    bin_size : float, optional
        Of counts that do not say it themselves, s.

    Returns
    -------
    Session

    Raises
    ------
    InputError
        Another object, or as `Session.from_spikes`, `from_counts`, `from_pynapple`, `from_sorting` and `from_nwb`.

    Examples
    --------
    >>> ldmfilter.as_session({"a": [0.1, 0.4], "b": [0.2]}).n_spikes
    3
    >>> ldmfilter.as_session(np.array([[1, 0], [2, 3]]), bin_size=0.5).stop
    1.0
    """
    if isinstance(recording, Session):
        return recording
    if isinstance(recording, xr.DataArray):
        own = "time" in recording.coords or "bin_size" in recording.attrs
        make = from_signal if is_signal(recording) else from_counts
        return make(recording, None if own else bin_size)
    if isinstance(recording, np.ndarray):
        return from_counts(recording, bin_size)
    for kind in type(recording).__mro__:
        if (package := kind.__module__.split(".")[0]) in _TAKEN_BY:
            module, name = _TAKEN_BY[package]
            made: Session = getattr(importlib.import_module(f"ldmfilter.data.formats.{module}"), name)(recording)
            return made
    if isinstance(recording, Mapping):
        return Session.from_spikes(recording)
    raise InputError(
        f"memory: a {type(recording).__name__} is no recording; give a session of ldmfilter.read_session, spike times "
        "{unit: array}, counts (time, unit), a TsGroup, an NWBFile or a sorting"
    )


def bin_spikes(session: Any, bin_size: float, intervals: Intervals = None) -> xr.DataArray:
    """Count the spikes of every unit in bins of `bin_size` s; of a `SignalSession`, average its frames.

    Parameters
    ----------
    session : Session
        Or what `as_session` makes one of: a TsGroup, an NWBFile, a sorting, counts, spike times.
    bin_size : float
        Width of a bin, s.
    intervals : str or sequence of spans, optional
        "TABLE=TAG" or "TABLE" for rows of an interval table, or spans (start, stop) in s; without it the whole session,
        of one that was observed in the rows of a table alone, as in trials, these rows. Every span is one gap-free
        segment with its own bins from its start; only whole bins are kept, and spans without one are left out with a
        warning.

    Returns
    -------
    xarray.DataArray (time, unit)
        Counts, in the smallest unsigned dtype. Bin k of a span is exactly
        [start + k * bin_size, start + (k + 1) * bin_size). Coordinates: `time` (bin centres, s), `unit` (ids),
        `segment` (time), `interval` (time): the span's label, `observed` (time): whether at least half of the units
        were observed during the whole bin, and, where units differ, `unit_observed` (time, unit). Attributes:
        bin_size, the session's source and, of a signal (float32, 0 where missing), kind "signal".

    Raises
    ------
    InputError
        A bin size that is not positive or longer than every span, a table or tag that does not exist, or no session.

    Examples
    --------
    >>> session = ldmfilter.Session.from_spikes([[0.0, 0.2, 0.3], [0.7]])
    >>> ldmfilter.bin_spikes(session, 0.25, [(0, 1)]).values.tolist()
    [[2, 0], [1, 0], [0, 1], [0, 0]]
    """
    session = as_session(session, bin_size)
    where = session.source.path
    if not is_positive(bin_size):
        raise InputError(f"{where}: a bin size of {bin_size!r:.20} s cannot be used; give a positive number of seconds")
    spans = _spans(session, intervals)
    if isinstance(session, BinnedSession):  # its counts have edges of their own
        bin_size, spans = session.on_grid(bin_size, spans)
    spans, n_bins = _with_bins(session, spans, bin_size, "the session" if intervals is None else "every span")
    if bin_size > LONG_BIN:
        warn(
            f"{where}: bins of {bin_size:g} s are longer than the {LONG_BIN:g} s over which a filter is judged; give "
            "shorter ones, as 0.1 s"
        )
    starts = bounds_of(spans)[:, 0]
    segment = np.repeat(np.arange(len(spans), dtype=np.int32), n_bins)
    step = places(n_bins)
    left, right = starts[segment] + step * bin_size, starts[segment] + (step + 1) * bin_size
    unit_observed, kind = _observed(session, left, right, _ROUNDING * bin_size), {}
    if isinstance(session, SignalSession):
        values, kind = session.means(left, right), {"kind": "signal"}
        unit_observed = unit_observed & ~np.isnan(values)
        values = np.nan_to_num(values)
    else:
        values = _count(session, starts, n_bins, bin_size)
    observed = unit_observed.mean(axis=1) >= 0.5
    coords = {
        "time": ("time", starts[segment] + (step + 0.5) * bin_size, {"units": "s"}),
        "unit": session.units["unit"].values,
        "segment": ("time", segment),
        "interval": ("time", np.asarray([span.label for span in spans], dtype=np.str_)[segment]),
        "observed": ("time", observed),
    }
    if (unit_observed != observed[:, None]).any():
        coords["unit_observed"] = (("time", "unit"), unit_observed)
    return xr.DataArray(
        values,
        dims=("time", "unit"),
        coords=coords,
        name=kind.get("kind", "counts"),
        attrs={"bin_size": float(bin_size), **kind, **session.source.attrs()},
    )


def _spans(session: Session, intervals: Intervals) -> list[Span]:
    where = session.source.path
    if intervals is None or isinstance(intervals, str):
        return choose_spans(session, interval=intervals)
    try:
        spans = [s if isinstance(s, Span) else Span(float(s[0]), float(s[1])) for s in intervals]
    except (TypeError, IndexError):
        raise InputError(f"{where}: {intervals!r} are no spans; give [(start, stop)] in s, or TABLE=TAG") from None
    if not spans:
        raise InputError(f"{where}: no span to bin; give at least one (start, stop) in seconds")
    for span in spans:
        if not is_positive(span.stop - span.start):
            raise InputError(f"{where}: span {span.clock} is empty or infinite; give STOP after START")
    return join_overlaps([span if span.label else span._replace(label=span.clock) for span in spans], where)


def _with_bins(session: Session, spans: list[Span], bin_size: float, what: str) -> tuple[list[Span], Ints]:
    """The spans that hold a bin, and how many bins each holds (span,)."""
    where = session.source.path
    lengths = np.diff(bounds_of(spans)).ravel()
    n_bins = np.floor(lengths / bin_size + _ROUNDING).astype(np.int64)
    kept = n_bins > 0
    if not kept.any():
        raise InputError(
            f"{where}: a bin size of {bin_size:g} s is longer than {what} ({lengths.max():g} s); give less"
        )
    if not kept.all():
        lost = f"{(~kept).sum()} of {kept.size} spans"
        warn(f"{where}: left out {lost}, shorter than a bin of {bin_size:g} s")
    if n_bins.sum() * session.n_units > _MOST:
        raise InputError(
            f"{where}: bins of {bin_size:g} s would make {n_bins.sum():,} bins of {session.n_units} units, more than"
            " fit into memory; use larger bins or less time"
        )
    return [span for span, keep in zip(spans, kept, strict=True) if keep], n_bins[kept]


def _count(session: Session, starts: Floats, n_bins: Ints, bin_size: float) -> Array:
    """Counts (time, unit); the dtype grows only when a count asks for it."""
    first_bin, total = np.cumsum(n_bins) - n_bins, int(n_bins.sum())
    counts = np.zeros((total, session.n_units), dtype=np.uint8)
    for unit in range(session.n_units):
        times = session.spikes_of(unit)
        span = np.searchsorted(starts, times, side="right") - 1
        start = starts[span]  # span -1, before the first, is sorted out below by its negative bin
        bins = np.floor((times - start) / bin_size).astype(np.int64)
        # The division rounds; the edges decide.
        bins -= times < start + bins * bin_size
        bins += times >= start + (bins + 1) * bin_size
        inside = (span >= 0) & (bins >= 0) & (bins < n_bins[span])
        own = np.bincount((first_bin[span] + bins)[inside], minlength=total)
        if (most := own.max()) > np.iinfo(counts.dtype).max:
            counts = counts.astype(np.min_scalar_type(most))
        counts[:, unit] = own
    return counts


def _observed(session: Session, left: Floats, right: Floats, tolerance: float) -> Array:
    """The units that are observed in each bin, (time, unit), or (time, 1) where all have the same intervals, as bools.

    A unit is observed in a bin that lies wholly within the union of its intervals, up to `tolerance` s.
    """
    if session.observed is None:
        return np.ones((left.size, 1), dtype=bool)

    def covered(bounds: Floats) -> Array:
        low = np.searchsorted(left, bounds[:, 0] - tolerance, side="left")
        high = np.searchsorted(right, bounds[:, 1] + tolerance, side="right")
        some = high > low
        change = np.bincount(low[some], minlength=left.size + 1) - np.bincount(high[some], minlength=left.size + 1)
        return np.cumsum(change[:-1]) > 0

    if (common := session.observed.of_all) is not None:
        return covered(common)[:, None]
    observed = np.empty((left.size, session.n_units), dtype=bool)
    for unit in range(session.n_units):
        observed[:, unit] = covered(union(session.observed.of(unit)))
    return observed
