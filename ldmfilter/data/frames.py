"""Frames: the counts of the last k bins up to each bin, which the encoder sees at once.

The frames that end with bins t, t + k, t + 2 k, ... have no spike in common, so that none is predicted merely because
it overlaps with the one before. A recording is filtered as k such series, each a phase: every bin has a state that has
seen all spikes up to it, and bins may be of any length.
"""

import math

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.signal import lfilter

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


def frame_bins(frame: float, bin_size: float) -> int:
    """Bins in a frame of `frame` s, one at least.

    >>> frame_bins(0.5, 0.1), frame_bins(0.1, 0.2)
    (5, 1)
    """
    return max(1, round(frame / bin_size))


def first_bins(segment: NDArray[np.integer]) -> Ints:
    """The first bin (time,) of each bin's own segment.

    >>> first_bins(np.array([0, 0, 1, 1])).tolist()
    [0, 0, 2, 2]
    """
    new = np.diff(segment, prepend=segment[:1] - 1) != 0
    return np.maximum.accumulate(np.where(new, np.arange(len(segment)), 0))


def phases(segment: NDArray[np.integer], k: int) -> Ints:
    """The phase (time,) of the frame that ends with each bin: the bin's position in its segment, modulo k."""
    position = np.arange(len(segment)) - first_bins(segment)
    return np.asarray(position % k, dtype=np.int64)


def sums(values: NDArray, first: Ints, stop: Ints) -> NDArray[np.float64]:
    """Sums (row, column) of values (time, column) from bin `first` (row,) to before bin `stop` (row,).

    >>> sums(np.array([[1], [2], [4]]), np.array([0, 1]), np.array([2, 3])).ravel().tolist()
    [3.0, 6.0]
    """
    total = np.concatenate([np.zeros((1, values.shape[1])), values.cumsum(0, dtype=np.float64)])
    return np.asarray(total[stop] - total[first])


def _last(values: NDArray, segment: NDArray[np.integer], k: int) -> NDArray[np.float64]:
    """Sums (time, column) of the k bins that end with each bin, of those in its own segment."""
    stop = np.arange(1, len(values) + 1)
    return sums(values, np.maximum(first_bins(segment), stop - k), stop)


def sum_frames(counts: Floats, segment: NDArray[np.integer], k: int) -> Floats:
    """Counts (time, unit) of the k bins that end with each bin, in its own segment.

    A frame of which some bins are missing, or that begins before its segment, is scaled up to k bins; one of which
    less than half was seen is NaN. Counts (time, unit) of bins are NaN where a unit was not observed.

    >>> sum_frames(np.array([[1.0], [2.0], [3.0]]), np.zeros(3, int), 2).ravel().tolist()
    [2.0, 3.0, 5.0]
    """
    if k == 1:
        return counts
    seen = ~np.isnan(counts)
    n, total = _last(seen, segment, k), _last(np.where(seen, counts, 0), segment, k)
    return np.where(2 * n >= k, total * (k / np.maximum(n, 1)), np.nan).astype(counts.dtype)


def seen_frames(counts: Floats, segment: NDArray[np.integer], k: int) -> Floats:
    """The counts that were seen of those that `sum_frames` gives: not scaled up, and 0 where these are NaN.

    >>> seen_frames(np.array([[1.0], [np.nan], [3.0]]), np.zeros(3, int), 2).ravel().tolist()
    [1.0, 1.0, 3.0]
    """
    seen = np.nan_to_num(counts)
    if k == 1:
        return seen
    return np.where(np.isnan(sum_frames(counts, segment, k)), 0, _last(seen, segment, k).astype(counts.dtype))


def observed_frames(observed: NDArray[np.bool_], segment: NDArray[np.integer], k: int) -> NDArray[np.bool_]:
    """The frames (time,) of which half of the bins or more are observed, by the bin that they end with."""
    values = np.where(observed, 0, np.nan).astype(np.float32)[:, None]
    return ~np.isnan(sum_frames(values, segment, k)[:, 0])


def averages(values: NDArray[np.float64], starts: NDArray[np.bool_], width: float) -> NDArray[np.float64]:
    """Exponential averages (time, column) of the values of the past, with a time constant of `width` bins; they begin
    at 0 in each stretch, of which `starts` (time,) marks the first bin.

    >>> averages(np.ones((2, 1)), np.array([True, True]), 1 / np.log(2)).ravel().tolist()
    [0.5, 0.5]
    """
    keep = math.exp(-1 / width)
    parts = np.split(values, np.flatnonzero(starts[1:]) + 1)
    return np.concatenate([lfilter([1 - keep], [1, -keep], part, axis=0) for part in parts])


def apart(counts: xr.DataArray, k: int) -> xr.DataArray:
    """Counts in frames that follow one another, of k bins each: what is left at the end of a segment is not in one.

    A frame is observed where half of its bins are; the counts of missing bins are 0, as everywhere. Of a signal, those
    that were seen stand for the missing ones.
    """
    if k == 1:
        return counts
    segment = np.asarray(counts["segment"])
    last = np.flatnonzero((phases(segment, k) == k - 1) & (segment >= 0))
    rows = last[:, None] - np.arange(k)[::-1]
    values, observed = counts.to_numpy(), np.asarray(counts["observed"])
    if values.dtype.kind == "f":
        seen = observed[:, None] & counts.coords.get("unit_observed", xr.ones_like(counts, bool)).to_numpy()
        total = np.nan_to_num(sum_frames(np.where(seen, values, np.nan), segment, k)[last])
    else:
        total = values[rows].sum(1, dtype=np.int64)
        total = total.astype(np.min_scalar_type(int(total.max(initial=0))))
    result = counts.isel(time=last).copy(data=total)
    size = float(counts.attrs["bin_size"])
    middle = np.asarray(counts["time"], dtype=np.float64)[last] - 0.5 * (k - 1) * size
    result = result.assign_coords(
        time=("time", middle, counts["time"].attrs), observed=("time", 2 * observed[rows].sum(1) >= k)
    ).assign_attrs(bin_size=k * size)
    if "unit_observed" in counts.coords:
        seen = 2 * counts["unit_observed"].to_numpy()[rows].sum(1) >= k
        result = result.assign_coords(unit_observed=(("time", "unit"), seen))
    return result
