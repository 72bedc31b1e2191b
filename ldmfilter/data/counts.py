"""Counts as the filter works with them, whoever made them."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ldmfilter.errors import InputError


def check_counts(counts: xr.DataArray) -> xr.DataArray:
    """Counts (time, unit) with coordinates `segment` and `observed`, as `bin_spikes` makes them.

    Unsigned numbers stay as they are, and lazy ones are not loaded. Floats may hold NaN: a bin of NaN alone is a
    missing bin, a NaN beside counts is a unit that was not observed there. Where bins were taken out, a new segment
    begins.

    Raises:
        InputError: no dims (time, unit) with coordinates, no bin_size, or values that are no counts; names the bin.
    """
    if counts.dims != ("time", "unit") or "time" not in counts.coords or "unit" not in counts.coords:
        raise InputError(f"counts: dims {counts.dims} without labels; give dims (time, unit) with both coordinates")
    bin_size = counts.attrs.get("bin_size")
    if not isinstance(bin_size, int | float | np.number) or not bin_size > 0:
        raise InputError("counts: no attribute bin_size (s); bin with ldmfilter.bin_spikes or set it")
    if counts.dtype.kind not in "uif":
        raise InputError(f"counts: {counts.dtype} values; give whole numbers of 0 or more")
    n = counts.sizes["time"]
    segment = np.asarray(counts["segment"]) if "segment" in counts.coords else np.zeros(n, np.int32)
    observed = np.asarray(counts["observed"]) if "observed" in counts.coords else np.ones(n, bool)
    if counts.dtype.kind != "u":
        counts, seen = _whole_numbers(counts)
        observed = observed & seen
    gap = np.abs(np.diff(np.asarray(counts["time"])) - bin_size) > 1e-3 * bin_size
    if (gap & (np.diff(segment) == 0)).any():
        outside = segment < 0
        segment = np.cumsum(np.concatenate([[False], gap | (np.diff(segment) != 0)])).astype(np.int32)
        segment[outside] = -1
    return counts.assign_coords(segment=("time", segment), observed=("time", observed & (segment >= 0)))


def _whole_numbers(counts: xr.DataArray) -> tuple[xr.DataArray, np.ndarray]:
    """The same as unsigned integers, NaN marked as not observed, and the bins (time,) that are not all NaN."""
    values = counts.to_numpy()
    missing = np.isnan(values)
    bad = ~missing & ((values < 0) | (values != np.floor(values)) | np.isinf(values))
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        time, unit = float(counts["time"][row]), counts["unit"].to_numpy()[column]
        raise InputError(
            f"counts: {values[row, column]} at {time:g} s in unit {unit} is no count ({int(bad.sum())} such values); "
            "give whole numbers of 0 or more, NaN where a unit was not observed"
        )
    whole = np.where(missing, 0, values)
    whole = whole.astype(np.min_scalar_type(int(whole.max(initial=0))))
    result = counts.copy(data=whole)
    seen = ~missing.all(1)
    if missing[seen].any():
        mask = ~missing if "unit_observed" not in counts.coords else ~missing & counts["unit_observed"].to_numpy()
        result = result.assign_coords(unit_observed=(("time", "unit"), mask))
    return result, seen
