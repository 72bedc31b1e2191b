"""Signals in an NWB file: fluorescence of regions of interest, and any other series (time, channel)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import xarray as xr
from pynwb import TimeSeries
from pynwb.ecephys import ElectricalSeries
from pynwb.icephys import PatchClampSeries
from pynwb.image import ImageSeries, IndexSeries
from pynwb.misc import AnnotationSeries, DecompositionSeries, IntervalSeries
from pynwb.ogen import OptogeneticSeries
from pynwb.ophys import RoiResponseSeries

from ldmfilter.data.tables import Array, Floats
from ldmfilter.errors import InputError

_NO_SIGNAL = (ImageSeries, IndexSeries, AnnotationSeries, IntervalSeries)
# Series that are neural, optical or marks in time rather than behaviour.
NOT_BEHAVIOR = (
    *_NO_SIGNAL,
    ElectricalSeries,
    PatchClampSeries,
    RoiResponseSeries,
    OptogeneticSeries,
    DecompositionSeries,
)
_MOST_VALUES = 2**30  # 4 GB of float32


def find_series(contents: Iterable[tuple[str, Any]]) -> dict[str, TimeSeries]:
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


def read_signal(series: TimeSeries, where: str) -> tuple[xr.DataArray, Any, Array]:
    """The values (time, unit) of a series, in its own unit, the table of its regions of interest, or None, and the rows
    (unit,) of that table; the ids are the table's.

    Raises InputError, naming `where`, for data and times, or data and regions, of different length.
    """
    shape = tuple(np.shape(series.data))
    if math.prod(shape) > _MOST_VALUES:
        raise InputError(f"{where}: {shape} are more values than fit into memory; write the channels of interest apart")
    time, n = _times(series, where, shape[0])
    region = getattr(series, "rois", None)
    rows = np.arange(math.prod(shape[1:])) if region is None else np.asarray(region.data[:]).astype(np.int64)
    wanted = (n, len(rows)) if len(shape) == 2 else (n,)
    if shape != wanted or len(rows) > n:
        of = "" if region is None else f" of {len(rows)} regions of interest"
        turned = len(rows) > n if shape == wanted else shape == wanted[::-1] or shape[:1] == (len(rows),)
        told = "look like (channel, time)" if turned else f"do not fit {n} times{of}"
        raise InputError(f"{where}: its data {shape} {told}; write them as (time, channel)")
    values = np.asarray(series.data[:]).reshape(n, -1).astype(np.float32)
    for scale, default in (("conversion", 1.0), ("offset", 0.0)):
        given = getattr(series, scale)
        if given is not None and math.isfinite(given) and given != default:
            values = values * np.float32(given) if scale == "conversion" else values + np.float32(given)
    ids = rows
    if region is not None:
        table_ids = np.asarray(region.table.id[:])
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(table_ids):
            raise InputError(f"{where}: its rois are rows that {region.table.name} does not have; write them anew")
        ids = table_ids[rows] if len(np.unique(table_ids[rows])) == len(rows) else np.arange(len(rows))
    attrs = {"unit": series.unit or "", "description": series.description or ""}
    signal = xr.DataArray(values, dims=("time", "unit"), coords={"time": time, "unit": ids}, attrs=attrs)
    return signal, None if region is None else region.table, rows


def _times(series: TimeSeries, where: str, frames: int) -> tuple[Floats, int]:
    """Times (time,), s, and their number."""
    if series.timestamps is not None:
        time = np.asarray(series.timestamps[:], dtype=np.float64)
    elif series.rate:
        time = (series.starting_time or 0.0) + np.arange(frames) / series.rate
    else:
        raise InputError(f"{where}: has neither timestamps nor a rate; write one of them")
    return time, len(time)
