"""NWB files (HDF5) -> Session."""

from __future__ import annotations

import hashlib
import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from hdmf.common import DynamicTable, DynamicTableRegion, EnumData, VectorIndex
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.ecephys import ElectricalSeries
from pynwb.epoch import TimeIntervals
from pynwb.icephys import PatchClampSeries
from pynwb.image import ImageSeries, IndexSeries
from pynwb.misc import AnnotationSeries, DecompositionSeries, IntervalSeries
from pynwb.ogen import OptogeneticSeries
from pynwb.ophys import RoiResponseSeries

from ldmfilter.data.session import Observed, Session, Source
from ldmfilter.data.tables import Array, check_spikes, make_intervals, make_table, plain_array
from ldmfilter.errors import InputError

log = logging.getLogger(__name__)

# Series that are neural, optical or marks in time rather than behaviour.
_NOT_BEHAVIOR = (
    ElectricalSeries,
    PatchClampSeries,
    ImageSeries,
    IndexSeries,
    RoiResponseSeries,
    OptogeneticSeries,
    AnnotationSeries,
    DecompositionSeries,
    IntervalSeries,
)
# Behaviour has a handful of columns; more is a raw recording. 2**26 values are 0.5 GB of float64.
_MOST_COLUMNS = 64
_MOST_VALUES = 2**26


def read_nwb(path: str | os.PathLike[str]) -> Session:
    """Read an NWB file.

    Times are in seconds as in the file; behaviour is data * conversion + offset in its own unit. Raises
    InputError for a file that is truncated, damaged or not NWB, and for units that are missing, without spike
    times, or with spike times that are NaN.
    """
    path = Path(path).absolute()
    try:
        with h5py.File(path, "r") as file:
            if "nwb_version" not in file.attrs and "nwb_version" not in file:
                raise InputError(f"{path}: is HDF5 but not NWB (no nwb_version); give an NWB file")
        return _read(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        if "truncated" in reason:
            raise InputError(f"{path}: is truncated; copy or download it again") from error
        raise InputError(f"{path}: cannot be read, is perhaps damaged ({reason}); copy it again") from error


def _read(path: Path) -> Session:
    notes: list[str] = []  # what the user should know, said once the readers' own chatter is silenced no more
    with warnings.catch_warnings():
        # pynwb and hdmf warn about schema versions and style, which whoever reads a file cannot change.
        warnings.simplefilter("ignore")
        with _opened(path) as nwb:
            table = nwb.units
            if table is None or len(table.id) == 0:
                raise InputError(f"{path}: has no units table with rows; sort the spikes and add units to the file")
            if "spike_times" not in table.colnames:
                raise InputError(f"{path}: units: no column spike_times; add the units' spike times to the file")
            ids = np.asarray(table.id.data[:])
            spikes, index = _ragged(table["spike_times"])
            units = make_table(_scalar_columns(table, skip=("spike_times", "obs_intervals")), "unit", ids, str(path))
            observed = None
            if "obs_intervals" in table.colnames:
                values, ends = _ragged(table["obs_intervals"])
                # A column without a single row says nothing about when units were observed.
                observed = Observed(values.astype(np.float64).reshape(-1, 2), ends) if values.size else None
            intervals = {name: _interval_table(t, f"{path}: {name}") for name, t in _interval_tables(nwb)}
            found = {name: _behavior(series, name, notes) for name, series in _series(nwb)}
            behavior = {name: values for name, values in found.items() if values is not None}
            source = Source(
                path=str(path),
                identifier=nwb.identifier or "",
                session_id=nwb.session_id or "",
                session_start_time=nwb.session_start_time.isoformat() if nwb.session_start_time else "",
                checksum=_checksum(path),
            )
    for note in notes:
        warnings.warn(f"{path}: {note}", stacklevel=4)
    times = check_spikes(spikes.astype(np.float64), index, ids, where=str(path))
    return Session(times, index, units, intervals, behavior, observed, source)


@contextmanager
def _opened(path: Path) -> Iterator[NWBFile]:
    with ExitStack() as stack:
        try:
            nwb = stack.enter_context(NWBHDF5IO(str(path), mode="r", load_namespaces=True)).read()
        except OSError:
            raise
        except UnicodeDecodeError as error:
            raise InputError(f"{path}: is damaged (text that cannot be read); copy or download it again") from error
        except Exception as error:  # whatever the schema machinery raises, the file is what it could not read
            # hdmf puts the object that it could not build first.
            where = getattr(next(iter(error.args), None), "path", "root")
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            reason = f"{where}: {(str(cause).splitlines() or [type(cause).__name__])[0]}"
            line = f"{path}: does not follow the NWB schema ({reason}); check it with nwbinspector"
            raise InputError(line) from error
        yield nwb


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def _ragged(column: Any) -> tuple[Array, Array]:
    """Values (item, ...) of all rows, read at once, and the rows' cumulative ends (row,)."""
    if isinstance(column, VectorIndex):
        return np.asarray(column.target.data[:]), np.asarray(column.data[:]).astype(np.int64)
    values = np.asarray(column.data[:])
    return values, np.arange(1, len(values) + 1, dtype=np.int64)


def _scalar_columns(table: DynamicTable, skip: tuple[str, ...] = ()) -> dict[str, Array]:
    """The columns with one number, bool or string a row; others (waveforms, regions) are never read."""
    columns = {}
    for name in table.colnames:
        column = table[name]
        if name in skip or isinstance(column, VectorIndex | DynamicTableRegion):
            continue
        data = column.data
        if len(getattr(data, "shape", np.shape(data))) != 1:
            continue
        values = data[:]
        if isinstance(column, EnumData):
            values = np.asarray(column.elements.data[:])[np.asarray(values)]
        elif len(values) and hasattr(values[0], "neurodata_type"):
            values = [item.name for item in values]  # such as electrode_group: objects of the file, by name
        values = plain_array(values)
        if values is not None and values.ndim == 1:
            columns[name] = values
    return columns


def _interval_tables(nwb: NWBFile) -> Iterator[tuple[str, TimeIntervals]]:
    yield from (nwb.intervals or {}).items()
    for module in nwb.processing.values():
        for path, item in _walk(module, f"processing/{module.name}"):
            if isinstance(item, TimeIntervals):
                yield path, item


def _interval_table(table: TimeIntervals, where: str) -> xr.Dataset:
    columns: dict[str, Any] = dict(_scalar_columns(table))
    for name in table.colnames:
        column = table[name]
        if isinstance(column, VectorIndex) and not isinstance(column.target, VectorIndex | DynamicTableRegion):
            values, ends = _ragged(column)
            if values.ndim == 1 and values.dtype.kind in "OSU":
                text = plain_array(values)
                if text is not None:
                    columns[name] = [list(row) for row in np.split(text, ends[:-1])] or text.reshape(0, 0)
    return make_intervals(columns, where, np.asarray(table.id.data[:]))


def _walk(container: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Series and tables below a module or container, with their paths; a link is met where it leads."""
    for child in container.children:
        below = f"{path}/{child.name}"
        if isinstance(child, TimeSeries | DynamicTable):
            yield below, child
        elif hasattr(child, "children"):
            yield from _walk(child, below)


def _series(nwb: NWBFile) -> Iterator[tuple[str, TimeSeries]]:
    for module in nwb.processing.values():
        yield from ((p, s) for p, s in _walk(module, f"processing/{module.name}") if isinstance(s, TimeSeries))
    for name, item in nwb.acquisition.items():
        if isinstance(item, TimeSeries):
            yield f"acquisition/{name}", item
        else:
            yield from ((p, s) for p, s in _walk(item, f"acquisition/{name}") if isinstance(s, TimeSeries))


def _behavior(series: TimeSeries, name: str, notes: list[str]) -> xr.DataArray | None:
    """A series as (time,) or (time, component), or None where it is no behaviour or cannot be used."""
    shape = tuple(np.shape(series.data))
    if isinstance(series, _NOT_BEHAVIOR) or len(shape) not in (1, 2) or 0 in shape:
        return None
    if math.prod(shape[1:]) > _MOST_COLUMNS or math.prod(shape) > _MOST_VALUES:
        log.info("%s: too large for behaviour, shape %s, not read", name, shape)
        return None
    values = plain_array(series.data[:])
    if values is None or values.dtype.kind not in "biuf":
        return None
    if shape[1:] == (1,):
        values = values[:, 0]
    if series.timestamps is not None:
        time = np.asarray(series.timestamps[:], dtype=np.float64)
    elif series.rate:
        time = (series.starting_time or 0.0) + np.arange(shape[0]) / series.rate
    else:
        time = np.empty(0)
    if time.shape != shape[:1]:
        notes.append(f"{name}: left out, its timestamps {time.shape} do not fit its data {shape}")
        return None
    conversion, offset = series.conversion, series.offset
    if conversion is not None and math.isnan(conversion):
        notes.append(f"{name}: conversion is NaN, taken as 1")
        conversion = 1.0
    if offset is not None and math.isnan(offset):
        notes.append(f"{name}: offset is NaN, taken as 0")
        offset = 0.0
    if conversion not in (None, 1.0) or offset not in (None, 0.0):
        values = values * float(1.0 if conversion is None else conversion) + float(offset or 0.0)
    step = float(np.nanmedian(np.diff(time))) if len(time) > 1 else 0.0
    rate = float(series.rate) if series.rate else 1 / step if step > 0 else math.nan
    attrs = {"unit": series.unit or "", "rate": rate, "description": series.description or ""}
    dims = ("time",) if values.ndim == 1 else ("time", "component")
    return xr.DataArray(values, dims=dims, coords={"time": time}, name=series.name, attrs=attrs)
