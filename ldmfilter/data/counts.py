"""Counts (time, unit), or a signal in their place, as the filter works with them."""

import numpy as np
import xarray as xr

from ldmfilter.data.tables import Array, Floats, is_positive
from ldmfilter.errors import InputError

LONG_BIN = 3.0  # s, the farthest that spikes are predicted
_MOST = 2**31  # spikes of a unit in a bin


def is_signal(counts: xr.DataArray) -> bool:
    """True for a signal (`data.signal`), which `bin_spikes` marks, False for counts."""
    return counts.attrs.get("kind") == "signal"


def check_counts(counts: xr.DataArray) -> xr.DataArray:
    """Counts (time, unit) with coordinates `segment` and `observed`, as `bin_spikes` makes them.

    Unsigned numbers stay as they are, and lazy ones are not loaded. Floats may hold NaN: a bin of NaN alone is a
    missing bin, a NaN beside counts is a unit that was not observed there. Where bins were taken out, a new segment
    begins. A signal is float32, and 0 where missing.

    Raises InputError without dims (time, unit) with coordinates, without bin_size, and, naming the bin, for values that
    are no counts or, in a signal, infinite.
    """
    if counts.dims != ("time", "unit") or "time" not in counts.coords or "unit" not in counts.coords:
        raise InputError(f"counts: dims {counts.dims} without labels; give dims (time, unit) with both coordinates")
    bin_size = counts.attrs.get("bin_size")
    if not is_positive(bin_size):
        raise InputError("counts: no attribute bin_size (s); bin with ldmfilter.bin_spikes or set it")
    n, time = counts.sizes["time"], counts["time"].to_numpy()
    segment = np.asarray(counts.coords.get("segment", np.zeros(n, np.int32)))
    observed = np.asarray(counts.coords.get("observed", np.ones(n, bool)))
    if counts.dtype.kind != "u":
        check = _finite if is_signal(counts) else whole_counts
        whole, missing = check(counts.to_numpy(), time, counts["unit"].to_numpy(), where_of(counts))
        counts = counts.copy(data=whole)
        if missing is not None:
            seen = ~missing.all(1)
            observed = observed & seen
            if missing[seen].any():
                mask = ~missing
                if "unit_observed" in counts.coords:
                    mask &= counts["unit_observed"].to_numpy()
                counts = counts.assign_coords(unit_observed=(("time", "unit"), mask))
    gap = np.abs(np.diff(time) - bin_size) > 1e-3 * bin_size
    if (gap & (np.diff(segment) == 0)).any():
        outside = segment < 0
        segment = np.cumsum(np.concatenate([[False], gap | (np.diff(segment) != 0)])).astype(np.int32)
        segment[outside] = -1
    return counts.assign_coords(segment=("time", segment), observed=("time", observed & (segment >= 0)))


def whole_counts(values: Array, time: Floats, unit: Array, where: str) -> tuple[Array, Array | None]:
    """Values (time, unit) as unsigned integers, and where they are missing (time, unit), or None.

    time (time,), s, and unit (unit,) name the bin in the message. Raises InputError for values that are no counts.
    """
    if values.dtype.kind not in "buif":
        raise InputError(f"{where}: counts are {values.dtype} values; give whole numbers of 0 or more")
    if values.dtype.kind == "b":
        values = values.astype(np.uint8)
    missing = np.isnan(values)
    bad = ~missing & ((values < 0) | (values != np.floor(values)) | (values > _MOST))
    if bad.any():
        raise InputError(
            f"{where}: counts: {values[bad][0]} {_first(bad, time, unit)} is no count ({bad.sum()} such values); give "
            "whole numbers of 0 or more, NaN where a unit was not observed"
        )
    if values.dtype.kind == "u":
        return values, None
    whole = np.where(missing, 0, values)
    return whole.astype(np.min_scalar_type(int(whole.max(initial=0)))), missing if missing.any() else None


def _first(bad: Array, time: Floats, unit: Array) -> str:
    """The place of the first of the bad values (time, unit), in words."""
    row, column = np.argwhere(bad)[0]
    return f"at {time[row]:g} s in unit {unit[column]}"


def _finite(values: Array, time: Floats, unit: Array, where: str) -> tuple[Array, Array | None]:
    """Values (time, unit) of a signal as float32, 0 where missing, and where that is (time, unit), or None."""
    values = values.astype(np.float32, copy=False)
    if (bad := np.isinf(values)).any():
        raise InputError(f"{where}: the signal is infinite {_first(bad, time, unit)}; give NaN there")
    missing = np.isnan(values)
    return np.nan_to_num(values), missing if missing.any() else None


def seen_counts(counts: xr.DataArray) -> Array:
    """Counts (time, unit) of `check_counts` as float32, NaN in missing bins and where a unit was not observed."""
    values = counts.to_numpy().astype(np.float32)
    values[~counts["observed"].to_numpy()] = np.nan
    if "unit_observed" in counts.coords:
        values[~counts["unit_observed"].to_numpy()] = np.nan
    return values


def where_of(counts: xr.DataArray) -> str:
    """The file that counts came from, for a message."""
    return str(counts.attrs.get("path") or "memory")
