"""Series in an NWB file: those that are behaviour, and those that are read as a signal in place of spikes."""

import itertools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from pynwb import TimeSeries
from pynwb.behavior import CompassDirection, EyeTracking, Position
from pynwb.ecephys import ElectricalSeries
from pynwb.icephys import PatchClampSeries
from pynwb.image import ImageSeries, IndexSeries
from pynwb.misc import AnnotationSeries, DecompositionSeries, IntervalSeries
from pynwb.ogen import OptogeneticSeries
from pynwb.ophys import RoiResponseSeries

from ldmfilter.data.clocks import in_order
from ldmfilter.data.formats.nwb_open import leaving_out
from ldmfilter.data.tables import Array, Floats, plain_array, shorten
from ldmfilter.errors import InputError, warn

_NO_SIGNAL = (ImageSeries, IndexSeries, AnnotationSeries, IntervalSeries)
# Series that are neural, optical or marks in time rather than behaviour.
_NOT_BEHAVIOR = (
    *_NO_SIGNAL,
    ElectricalSeries,
    PatchClampSeries,
    RoiResponseSeries,
    OptogeneticSeries,
    DecompositionSeries,
)
# Behaviour has a handful of columns; more is a raw recording. 2**26 values are 0.5 GB of float64.
_MOST_COLUMNS = 64
_MOST_ROWS = 8  # of a transposed array: a place, an eye, a pose in space
_FEW_VALUES = 1000  # less is no recording
_MOST_VALUES = 2**26
_MOST_IN_ALL = 2**27
_MOST_OF_SIGNAL = 2**30  # 4 GB of float32

Contents = Iterable[tuple[str, Any]]  # objects of a file with their paths


def find_series(contents: Contents) -> dict[str, TimeSeries]:
    """The series of numbers (time,) or (time, channel) among a file's contents, by their paths."""
    return {
        path: item
        for path, item in contents
        if isinstance(item, TimeSeries)
        and not isinstance(item, _NO_SIGNAL)
        and len(np.shape(item.data)) in (1, 2)
        and getattr(getattr(item.data, "dtype", None), "kind", "f") in "biuf"
    }


def rois_of(series: dict[str, TimeSeries]) -> list[str]:
    """The paths of those that are responses of regions of interest."""
    return [path for path, one in series.items() if isinstance(one, RoiResponseSeries)]


def describe(series: TimeSeries) -> str:
    """Size, rate and unit in a few words."""
    rate = [f"{series.rate:g} Hz"] if series.rate else []
    return ", ".join([" x ".join(map(str, np.shape(series.data))), *rate, *filter(None, [str(series.unit or "")])])


def read_signal(series: TimeSeries, name: str, path: str) -> tuple[xr.DataArray, Any, Array]:
    """The values (time, unit) of a series, in its own unit, the table of its regions of interest, or None, and the rows
    (unit,) of that table; the ids are the table's.

    Raises InputError for data and times, or data and regions, of different length.
    """
    shape, where = tuple(np.shape(series.data)), f"{path}: {name}"
    if math.prod(shape) > _MOST_OF_SIGNAL:
        raise InputError(f"{where}: {shape} are more values than fit into memory; write the channels of interest apart")
    time = _times(series, shape[0])
    n = len(time)
    if not n:
        raise InputError(f"{where}: has neither timestamps nor a rate; write one of them")
    region = getattr(series, "rois", None)
    rows = np.arange(math.prod(shape[1:])) if region is None else np.asarray(region.data[:]).astype(np.int64)
    wanted = (n, len(rows)) if len(shape) == 2 else (n,)
    if shape != wanted or len(rows) > n:
        of = "" if region is None else f" of {len(rows)} regions of interest"
        raise InputError(f"{where}: its data {shape} do not fit {n} times{of}; write them as (time, channel)")
    values = np.asarray(series.data[:]).reshape(n, -1).astype(np.float32)
    values = _scaled(values, series, name)
    ids = rows
    if region is not None:
        table_ids = np.asarray(region.table.id[:])
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(table_ids):
            raise InputError(f"{where}: its rois are rows that {region.table.name} does not have; write them anew")
        ids = table_ids[rows] if len(np.unique(table_ids[rows])) == len(rows) else np.arange(len(rows))
    attrs = {"unit": series.unit or "", "description": series.description or ""}
    signal = xr.DataArray(values, dims=("time", "unit"), coords={"time": time, "unit": ids}, attrs=attrs)
    return signal, None if region is None else region.table, rows


def _times(series: TimeSeries, samples: int) -> Floats:
    """Times (time,), s; none where the series has neither timestamps nor a rate."""
    if series.timestamps is not None:
        return np.asarray(series.timestamps[:], dtype=np.float64)
    return (series.starting_time or 0.0) + np.arange(samples) / series.rate if series.rate else np.empty(0)


def _scaled(values: Array, series: TimeSeries, name: str) -> Array:
    """Values in the series' own unit: data * conversion + offset."""
    for key, neutral in (("conversion", 1.0), ("offset", 0.0)):
        given = getattr(series, key)
        if given is not None and math.isnan(given):
            warn(f"{name}: {key} is NaN, taken as {neutral:g}")
        elif given is not None and given != neutral:
            values = values * float(given) if key == "conversion" else values + float(given)
    return values


def read_behavior(contents: Contents, sort: bool) -> dict[str, xr.DataArray]:
    """Every series of a file's contents that is behaviour, by its path, as (time,) or (time, component).

    A container whose series follow one another, as one for each epoch, gives their whole too.

    sort: take all times that fall back as disorder
    """
    found: dict[str, xr.DataArray] = {}
    pieces: dict[str, list[xr.DataArray]] = {}  # by the container's path
    left, large, other = _MOST_IN_ALL, [], []
    for path, series in contents:
        if not isinstance(series, TimeSeries) or isinstance(series, _NOT_BEHAVIOR):
            continue
        with leaving_out(path):
            shape = tuple(np.shape(series.data))
            if 0 in shape:
                continue
            if len(shape) not in (1, 2) or (math.prod(shape[1:]) > _MOST_COLUMNS and not _is_transposed(series, shape)):
                wide = path.startswith("acquisition/") and len(shape) == 2  # raw channels are expected
                other += [f"{path} {shape}"] * (math.prod(shape) >= _FEW_VALUES and not wide)
                continue
            if math.prod(shape) > min(left, _MOST_VALUES):
                large.append(path)
                continue
            values = _behavior(series, path, shape, sort)
            if values is not None:
                left -= values.size
                found[path] = values
                if isinstance(series.parent, Position | CompassDirection | EyeTracking):
                    pieces.setdefault(path.rpartition("/")[0], []).append(values)
    if large:
        warn(f"{len(large)} series left out, too large for behaviour: {shorten(large)}")
    if other:
        warn(f"left out, no (time,) or (time, up to {_MOST_COLUMNS} columns): {shorten(other)}")
    whole = {path: _joined(path, parts) for path, parts in pieces.items()}
    return found | {path: one for path, one in whole.items() if one is not None}


def _is_transposed(series: TimeSeries, shape: tuple[int, ...]) -> bool:
    """True for (component, time): as many timestamps as columns, or a few long rows where a rate stands for them."""
    if len(shape) != 2 or shape[0] == shape[1]:
        return False
    if series.timestamps is not None:
        return len(series.timestamps) == shape[1]
    return shape[0] <= _MOST_ROWS and math.prod(shape) >= _FEW_VALUES


def _behavior(series: TimeSeries, name: str, shape: tuple[int, ...], sort: bool) -> xr.DataArray | None:
    """A series as (time,) or (time, component), or None where it holds no numbers or has no times."""
    dtype = getattr(series.data, "dtype", None)
    values = plain_array(series.data[:]) if dtype is None or dtype.kind in "biuf" else None
    if values is None or values.dtype.kind not in "biuf":
        return None
    if _is_transposed(series, shape):
        warn(f"{name}: {shape} is taken as transposed, (time, component) {shape[::-1]}")
        values, shape = values.T, shape[::-1]
    if shape[1:] == (1,):
        values = values[:, 0]
    time = _times(series, shape[0])
    if time.shape != shape[:1]:
        warn(f"{name}: left out, its timestamps {time.shape} do not fit its data {shape}")
        return None
    attrs = {"unit": series.unit or "", "description": series.description or ""}
    attrs |= {"rate": float(series.rate)} if series.rate else {}
    if isinstance(series.parent, CompassDirection):
        attrs["circular"] = True  # whatever the unit says: pynwb before 1.5 wrote meters everywhere
    values = _scaled(values, series, name)
    ordered = in_order(xr.DataArray(values, name=series.name, attrs=attrs), time, name, sort)
    return None if ordered is None or not ordered.size else ordered


def _joined(path: str, pieces: list[xr.DataArray]) -> xr.DataArray | None:
    """Series of one container that follow one another, as one; None where they do not."""
    pieces.sort(key=lambda piece: float(piece["time"][0]))
    alike = {(piece.shape[1:], piece.attrs["unit"]) for piece in pieces}
    apart = all(float(a["time"][-1]) < float(b["time"][0]) for a, b in itertools.pairwise(pieces))
    if len(pieces) < 2 or len(alike) > 1 or not apart:
        return None
    names = shorten(str(piece.name) for piece in pieces)
    attrs = pieces[0].attrs | {"description": f"{len(pieces)} series, one after the other: {names}"}
    time = np.concatenate([piece["time"].values for piece in pieces])
    whole = np.concatenate([piece.values for piece in pieces])
    name = path.rpartition("/")[2]
    return xr.DataArray(whole, dims=pieces[0].dims, coords={"time": time}, name=name, attrs=attrs)
