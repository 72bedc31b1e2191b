"""NWB files: which of their contents are units, intervals, behaviour, and signals in place of spikes."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from hdmf.common import DynamicTable, DynamicTableRegion, EnumData, VectorIndex
from hdmf.utils import LabelledDict
from pynwb import NWBFile, TimeSeries
from pynwb.base import TimeSeriesReferenceVectorData
from pynwb.behavior import (
    BehavioralTimeSeries,
    CompassDirection,
    EyeTracking,
    Position,
    PupilTracking,
    SpatialSeries,
)
from pynwb.ecephys import ElectricalSeries
from pynwb.icephys import PatchClampSeries
from pynwb.image import ImageSeries, IndexSeries
from pynwb.misc import AnnotationSeries, DecompositionSeries, IntervalSeries, Units
from pynwb.ogen import OptogeneticSeries
from pynwb.ophys import RoiResponseSeries

from ldmfilter.data.clocks import PLAIN, Reading, in_order, rate_of
from ldmfilter.data.formats.format import Format, path_checksum
from ldmfilter.data.formats.nwb_open import UNREADABLE, leaving_out, open_nwb
from ldmfilter.data.session import Observed, Session, Source
from ldmfilter.data.signal import choose_series, from_signal
from ldmfilter.data.tables import Array, Floats, Ints, intersect, make_intervals, plain_array, shorten, time_in, union
from ldmfilter.data.untrusted.damage import damage
from ldmfilter.data.untrusted.hdf5 import is_hdf5
from ldmfilter.data.untrusted.remote import is_nwb_in_zarr, open_remote, remote_address
from ldmfilter.errors import InputError, InputWarning, warn

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
# Containers and modules of behaviour, no signal of cells: nor is a place of three columns or less, nor a raw voltage.
_OF_BEHAVIOR = (BehavioralTimeSeries, CompassDirection, EyeTracking, Position, PupilTracking)
_MOST_OF_PLACE = 3
_RAW = 1000.0  # Hz

_FEW_OUTSIDE = 0.01  # share of spikes outside the time that was observed, at the edges of trials

Contents = Sequence[tuple[str, Any]]  # paths, and the series and tables that lie there

# Columns that hold no values of their own.
_POINTERS = (VectorIndex, DynamicTableRegion, TimeSeriesReferenceVectorData)


def read_nwb(path: Path | str, reading: Reading = PLAIN) -> Session:
    """Read an NWB file: HDF5 on this machine or by https, or a folder in zarr.

    Times are in seconds as in the file; behaviour is data * conversion + offset in its own unit, its samples in
    order of time. A container whose SpatialSeries follow one another, as one for each epoch, gives their whole too.
    A unit is observed within its `obs_intervals`, and none is in the session's `invalid_times`. What cannot be read
    apart from the units is left out; a warning, one line, says what and why.

    series: path of a series (time, channel) to be read in place of spikes, or the unique last part of it; in a file
        without units the only RoiResponseSeries is read without it, where there is none the only other one that may
        be a signal of cells. The channels' ids and columns of a RoiResponseSeries are those of its rois

    Raises InputError for a file that is truncated, damaged or not NWB, for one that a server does not give in
    pieces, and for units that are missing, without spike times, or with spike times that are NaN.
    """
    address = remote_address(path)
    where, file, checksum = open_remote(address) if address else (str(path), Path(path), "")

    def read() -> Session:
        with open_nwb(where, file) as nwb:
            return _session(nwb, where, reading)

    with damage(where, "NWB file", "copy it again", UNREADABLE):
        session = _telling(where, read)
        if not address:
            checksum = path_checksum(file)  # last: it reads the whole file
    return replace(session, source=replace(session.source, checksum=checksum))


def from_nwb(nwb: NWBFile, series: str | None = None) -> Session:
    """A session from an NWBFile in memory, as `read_nwb` reads one from a file; `series` as there.

    The object's own arrays are taken as they are: of a file that a stranger made, `read_nwb` is the safe way.
    Raises InputError as `read_nwb`.
    """
    where = str(nwb.container_source or "memory")
    return _telling(where, lambda: _session(nwb, where, Reading(series=series)))


def _telling(where: str, read: Callable[[], Session]) -> Session:
    """The session that `read` gives. Its warnings are told when the file is closed, and begin with its name; those of
    pynwb and hdmf, on schema versions and style, which a reader of the file cannot change, are not."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session = read()
    for line in dict.fromkeys(str(one.message) for one in caught if one.category is InputWarning):
        warn(line if line.startswith(where) else f"{where}: {line}")
    return session


def _session(nwb: NWBFile, where: str, reading: Reading) -> Session:
    contents = _contents(nwb)
    series = {path: item for path, item in contents if _is_numeric(item)}
    about = {path: _describe(one) for path, one in series.items()}
    source = Source(
        path=where,
        identifier=nwb.identifier or "",
        session_id=nwb.session_id or "",
        session_start_time=nwb.session_start_time.isoformat() if nwb.session_start_time else "",
    )
    parts: dict[str, Any] = {"source": source, "reading": reading, "series": about}
    if reading.series is None and (units := _units_table(nwb, contents, where)) is not None:
        spikes, index, ids, parts["units"], parts["observed"] = _units(units, where)
        make: Callable[..., Session] = partial(Session.checked, spikes, index, ids)
        chosen = ""
    else:
        likely = [path for path, one in series.items() if isinstance(one, RoiResponseSeries)]
        likely = likely or [path for path, one in series.items() if _may_be_cells(one, path)]
        chosen = choose_series(about, reading.series, where, likely)
        signal, parts["units"] = _signal(series[chosen], chosen, where)
        make = partial(from_signal, signal, name=chosen)
    intervals, behavior = dict(_intervals(nwb, contents)), _read_behavior(contents, reading.sort_times)
    behavior.pop(chosen, None)
    return _restricted(make(intervals=intervals, behavior=behavior, **parts))


def _units(table: DynamicTable, where: str) -> tuple[Floats, Ints, Array, dict[str, Array], Observed | None]:
    """Spike times (spike,), their cumulative ends (unit,), ids (unit,), unit columns, and when each was observed."""
    if "spike_times" not in table.colnames:
        raise InputError(f"{where}: units: no column spike_times; add the units' spike times to the file")
    ids = np.asarray(table.id.data[:])
    columns = _scalar_columns(table, "units", skip=("spike_times", "obs_intervals"))
    if "electrodes" in table.colnames and "location" not in columns:
        with leaving_out("units/electrodes"):
            columns |= _locations(table["electrodes"])
    if len(np.unique(ids)) < len(ids):
        warn(f"units: ids are given twice; numbered 0 to {len(ids) - 1}, the file's own are the column `id`")
        columns["id"], ids = ids, np.arange(len(ids))
    spikes, index = _ragged(table["spike_times"])
    if spikes.ndim != 1 or spikes.dtype.kind not in "iuf":
        raise InputError(f"{where}: units: spike_times are no list of numbers a unit; write them anew")
    observed = None
    if "obs_intervals" in table.colnames:
        values, ends = _ragged(table["obs_intervals"])
        # A column without a single row does not tell when units were observed.
        if values.size:
            steps = np.diff(ends, prepend=0)
            fits = ends.shape == ids.shape and (steps >= 0).all() and ends[-1] == len(values)
            if values.shape[1:] != (2,) or values.dtype.kind not in "iuf" or not fits:
                raise InputError(f"{where}: units: obs_intervals are no (start, stop) of each unit; write them anew")
            observed = Observed(values.astype(np.float64, copy=False), ends)
    return spikes.astype(np.float64, copy=False), index, ids, columns, observed


def _units_table(nwb: NWBFile, contents: Contents, where: str) -> DynamicTable | None:
    """The table of units: that of the file, else the only one in its modules, or None; of others a note tells."""
    others = [(path, item) for path, item in contents if isinstance(item, Units) and len(item.id)]
    names = shorten(f"{path} ({len(item.id)} units)" for path, item in others)
    if nwb.units is not None and len(nwb.units.id):
        if others:
            warn(f"{names}: left out, the units are those of /units; move the others there to use them")
        return nwb.units
    if len(others) > 1:
        raise InputError(f"{where}: has several units tables, none of them at /units: {names}; move one there")
    if not others:
        return None
    warn(f"{names}: taken as the units, there are none at /units")
    return others[0][1]


def _restricted(session: Session) -> Session:
    """The session with each unit observed within its own intervals and outside the session's invalid times."""
    invalid = session.intervals.get("invalid_times")
    lost = np.empty((0, 2)) if invalid is None else time_in(invalid)
    if session.observed is None and not len(lost):
        return session
    edges = np.concatenate([[-np.inf], lost.ravel(), [np.inf]]).reshape(-1, 2)
    each, empty, outside = [], 0, session.n_spikes
    for unit in range(session.n_units):
        own, spikes = session.whole if session.observed is None else session.observed.of(unit), session.spikes_of(unit)
        # A unit that fires was observed, though its row is empty.
        if not len(own) and len(spikes):
            own, empty = session.whole, empty + 1
        covered = union(own)
        outside -= np.diff(np.searchsorted(spikes, covered)).sum()
        each.append(intersect(covered, edges)[0] if len(lost) else own)
    if empty:
        warn(f"units: {empty} units with spikes have no obs_intervals, taken as observed throughout")
    if outside > _FEW_OUTSIDE * session.n_spikes:
        warn(f"units: {outside:,} of {session.n_spikes:,} spikes lie outside their units' obs_intervals; not used")
    if len(lost):
        seconds = np.diff(lost).sum()
        warn(f"invalid_times: {len(lost)} stretches, {seconds:g} s in all, taken as not observed for any unit")
    return replace(session, observed=Observed.from_units(each), extent=(session.start, session.stop))


def _ragged(column: Any) -> tuple[Array, Ints]:
    """Values (item, ...) of all rows, read at once, and the rows' cumulative ends (row,)."""
    if isinstance(column, VectorIndex):
        return np.asarray(column.target.data[:]), np.asarray(column.data[:]).astype(np.int64)
    values = np.asarray(column.data[:])
    return values, np.arange(1, len(values) + 1, dtype=np.int64)


def _scalar_columns(table: DynamicTable, name: str, skip: tuple[str, ...] = ()) -> dict[str, Array]:
    """The columns with one number, bool or string a row; others (waveforms, regions) are never read."""
    columns = {}
    for key in table.colnames:
        column = table[key]
        if key in skip or isinstance(column, _POINTERS):
            continue
        if len(getattr(column.data, "shape", np.shape(column.data))) != 1:
            continue
        with leaving_out(f"{name}/{key}"):
            values = column.data[:]
            if isinstance(column, EnumData):
                values = np.asarray(column.elements.data[:])[np.asarray(values)]
            elif len(values) and hasattr(values[0], "neurodata_type"):
                values = [item.name for item in values]  # such as electrode_group: objects of the file, by name
            values = plain_array(values)
            if values is not None and values.ndim == 1:
                columns[key] = values
    return columns


def _locations(electrodes: DynamicTableRegion | VectorIndex) -> dict[str, Array]:
    """The column `location` of units, by the electrodes of each; several places are joined by "+"."""
    rows, ends = _ragged(electrodes)
    table = (electrodes.target if isinstance(electrodes, VectorIndex) else electrodes).table
    places = plain_array(table["location"].data[:]) if "location" in table.colnames else None
    if places is None:
        return {}
    each = ["+".join(np.unique(places[own]).tolist()) for own in np.split(rows, ends[:-1])]
    return {"location": np.asarray(each, dtype=np.str_)}


def _intervals(nwb: NWBFile, contents: Contents) -> Iterator[tuple[str, xr.Dataset]]:
    """Every table with a start and a stop a row, and every IntervalSeries, by its path (of /intervals, its name)."""
    # In a file these three are among the intervals; in an NWBFile that is being made they stand beside them.
    own = {name: getattr(nwb, name) for name in ("epochs", "trials", "invalid_times")} | dict(nwb.intervals or {})
    for name, item in own.items():
        with leaving_out(f"intervals/{name}"):
            if item is not None:
                yield name, _interval_table(item, name)
    for path, item in contents:
        with leaving_out(path):
            if isinstance(item, DynamicTable) and {"start_time", "stop_time"} <= set(item.colnames):
                yield path, _interval_table(item, path)
            elif isinstance(item, IntervalSeries):
                yield path, _interval_series(item, path)


def _interval_table(table: DynamicTable, name: str) -> xr.Dataset:
    columns: dict[str, Any] = dict(_scalar_columns(table, name))
    for key in table.colnames:
        column = table[key]
        # Regions and references lead to other objects; reading them would read those.
        if not isinstance(column, VectorIndex) or isinstance(column.target, _POINTERS):
            continue
        with leaving_out(f"{name}/{key}"):
            values, ends = _ragged(column)
            if values.ndim == 1 and values.dtype.kind in "OSU":
                text = plain_array(values)
                if text is not None:
                    columns[key] = [list(row) for row in np.split(text, ends[:-1])] or text.reshape(0, 0)
    return make_intervals(columns, name, np.asarray(table.id.data[:]))


def _interval_series(series: IntervalSeries, name: str) -> xr.Dataset:
    """Rows from marks in time: n where an interval of kind n begins, -n where it ends."""
    marks, times = np.asarray(series.data[:]), np.asarray(series.timestamps[:], dtype=np.float64)
    begins = np.flatnonzero(marks > 0)
    begins = begins[np.argsort(times[begins], kind="stable")]
    stops = np.full(len(begins), np.nan)  # an interval that never ends has no stop
    for kind in np.unique(marks[begins]).tolist():
        of_kind = marks[begins] == kind
        ends = times[marks == -kind]
        stops[of_kind] = np.append(ends, np.nan)[np.searchsorted(ends, times[begins][of_kind], side="right")]
    return make_intervals({"start_time": times[begins], "stop_time": stops, "kind": marks[begins]}, name)


def _contents(nwb: NWBFile) -> Contents:
    """Series and tables of all modules, of the acquisition and of the analysis, with their paths, each once.

    A linked object has the path where it lies, or that of the link if it lies in another file.
    """
    groups = ("processing", "acquisition", "analysis")
    tops = {f"{group}/{name}": item for group in groups for name, item in getattr(nwb, group).items()}
    tops.pop("processing/ldmfilter", None)  # states that were exported into the file are not what was recorded
    found = [one for top, container in tops.items() for one in _walk(container, top)]
    met: dict[int, tuple[str, Any]] = {}
    for path, item, _ in sorted(found, key=lambda one: one[2]):  # what lies in the file, then what links lead to
        met.setdefault(id(item), (path, item))
    return list(met.values())


def _walk(item: Any, path: str, is_link: bool = False) -> Iterator[tuple[str, Any, bool]]:
    if isinstance(item, TimeSeries | DynamicTable):
        yield path, item, is_link
        return
    held = [one for one in getattr(item, "fields", {}).values() if isinstance(one, LabelledDict)]
    children = [*getattr(item, "children", ()), *itertools.chain.from_iterable(one.values() for one in held)]
    for child in {id(child): child for child in children}.values():
        yield from _walk(child, f"{path}/{child.name}", is_link or child.parent is not item)


def _is_numeric(item: Any) -> bool:
    """True for a series of numbers (time,) or (time, channel)."""
    if not isinstance(item, TimeSeries) or isinstance(item, _NO_SIGNAL) or len(np.shape(item.data)) not in (1, 2):
        return False
    return getattr(getattr(item.data, "dtype", None), "kind", "f") in "biuf"


def _may_be_cells(series: TimeSeries, path: str) -> bool:
    """True for (time, channel) of several channels that are neither behaviour, stimulation nor raw voltages."""
    shape = np.shape(series.data)
    named = any("behav" in part.lower() for part in path.split("/")[:-1])
    if named or isinstance(series, (SpatialSeries, *_NOT_BEHAVIOR)) or isinstance(series.parent, _OF_BEHAVIOR):
        return False
    rate = series.rate or (0.0 if series.timestamps is None else rate_of(np.asarray(series.timestamps[:_FEW_VALUES])))
    return len(shape) == 2 and _MOST_OF_PLACE < shape[1] <= shape[0] and not rate >= _RAW


def _describe(series: TimeSeries) -> str:
    """Size, rate and unit in a few words."""
    rate = f"{series.rate:g} Hz" if series.rate else ""
    return ", ".join(filter(None, [" x ".join(map(str, np.shape(series.data))), rate, str(series.unit or "")]))


def _signal(series: TimeSeries, name: str, path: str) -> tuple[xr.DataArray, dict[str, Array]]:
    """The values (time, unit) of a series, in its own unit, and the columns of its regions of interest, whose ids are
    those of their table.

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
        way = "write a time for each frame" if shape[1:] == wanted[1:] else "write them as (time, channel)"
        raise InputError(f"{where}: its data {shape} do not fit {n} times{of}; {way}")
    values = _scaled(np.asarray(series.data[:]).reshape(n, -1).astype(np.float32), series, name)
    ids, columns = rows, {}
    if region is not None:
        table_ids = np.asarray(region.table.id[:])
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(table_ids):
            raise InputError(f"{where}: its rois are rows that {region.table.name} does not have; write them anew")
        ids = table_ids[rows] if len(np.unique(table_ids[rows])) == len(rows) else np.arange(len(rows))
        columns = {key: values[rows] for key, values in _scalar_columns(region.table, name).items()}
    attrs = {"unit": series.unit or "", "description": series.description or ""}
    return xr.DataArray(values, dims=("time", "unit"), coords={"time": time, "unit": ids}, attrs=attrs), columns


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


def _read_behavior(contents: Contents, sort: bool) -> dict[str, xr.DataArray]:
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
            elif (values := _behavior(series, path, shape, sort)) is not None:
                left -= values.size
                found[path] = values
                if isinstance(series.parent, Position | CompassDirection | EyeTracking):
                    pieces.setdefault(path.rpartition("/")[0], []).append(values)
    if large:
        warn(f"{len(large)} series left out, too large for behaviour: {shorten(large)}")
    if other:
        warn(f"left out, no (time,) or (time, up to {_MOST_COLUMNS} columns): {shorten(other)}")
    return found | {path: whole for path, parts in pieces.items() if (whole := _joined(path, parts)) is not None}


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
    whole = xr.concat(pieces, "time", combine_attrs="override").rename(path.rpartition("/")[2])
    return whole.assign_attrs(description=f"{len(pieces)} series, one after the other: {names}")


#: Any file in HDF5 that no other format knows; its reader says what it lacks.
FORMATS = {"nwb": Format(recognises=lambda path: is_nwb_in_zarr(path) or is_hdf5(path), read=read_nwb, series=True)}
