"""This package's own zarr layout, described in `ldmfilter.data.store`, and stores that others wrote in it."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import xarray as xr

from ldmfilter.data.cf import one_series, unpacked
from ldmfilter.data.clocks import PLAIN, Clock, Reading
from ldmfilter.data.formats.format import Format
from ldmfilter.data.session import Observed, Session, Source
from ldmfilter.data.signal import choose_series, from_signal
from ldmfilter.data.store import DIMS, FORMAT, VERSION
from ldmfilter.data.untrusted.checksums import folder_checksum
from ldmfilter.data.untrusted.remote import is_nwb_in_zarr
from ldmfilter.data.untrusted.zarr_store import check_arrays, is_store, open_store, read_array, reading_store
from ldmfilter.errors import InputError

_OWN_ARRAYS = {"spike_times", "spike_times_index", "unit_id", "obs_intervals", "obs_intervals_index"}


def read_zarr(path: Path, reading: Reading = PLAIN) -> Session:
    """Read a session from a zarr store.

    Raises InputError for a store of another kind, of a newer version or with pickled objects, for one that is
    damaged, and for spike times that are NaN.
    """
    if (path / ".zarray").exists():
        raise InputError(f"{path}: is a zarr array, not a session; give the store that Session.to_zarr wrote")
    with reading_store(path):
        check_arrays(path)
        return _session(path, reading)


def _session(path: Path, reading: Reading) -> Session:
    root = open_store(path)
    attrs, arrays = dict(root.attrs), set(root.array_keys())
    # A chunk that is not there reads as zeros; a store of our own has all its chunks.
    complete = attrs.get("format") == FORMAT
    if complete and attrs.get("version", 0) > VERSION:
        raise InputError(f"{path}: was written by a newer ldmfilter; install that version or write it again")
    missing = sorted({"spike_times", "spike_times_index"} - arrays)
    if missing:
        raise InputError(f"{path}: holds no {' and no '.join(missing)}; give a store that Session.to_zarr wrote")

    def variable(key: str, dims: Any = ()) -> xr.Variable:
        """An array, what is missing or packed in it decoded, with the dims that it notes, or else these."""
        values, noted = read_array(root, path, key, complete)
        dims = tuple(noted.pop(DIMS, ())) or dims or [f"dim_{i}" for i in range(values.ndim)]
        fill = root[key].fill_value
        if fill and not complete:
            noted.setdefault("_FillValue", fill)
        return unpacked(xr.Variable(dims, values, noted))

    def groups(kind: str) -> dict[str, str]:
        """The keys of the groups of a kind, by their names."""
        return {unquote(key): f"{kind}/{key}" for key in sorted(root[kind].group_keys())} if kind in root else {}

    def dataset(key: str, dim: str) -> xr.Dataset:
        """A group of arrays along `dim`; dims, coordinates and order as noted, or guessed in a foreign store."""
        group = root[key]
        variables = {
            unquote(name): variable(f"{key}/{name}", (dim, f"{name}_item")[: group[name].ndim])
            for name in group.array_keys()
        }
        for name, one in variables.items():
            if one.dims and one.dims[0] != dim:
                raise InputError(f"{path}: {key}: {name}: its first dim is not `{dim}`; write it anew")
        coordinates = group.attrs.get("coordinate_names", [dim] if dim in variables else [])
        order = group.attrs.get("order", sorted(set(variables) - set(coordinates)))
        return xr.Dataset({name: variables[name] for name in order}, {name: variables[name] for name in coordinates})

    def series(key: str, name: str) -> xr.DataArray:
        one = one_series(dataset(key, "time"), f"{path}: {key}")
        return one.rename(root[key].attrs.get("name", name))

    index = variable("spike_times_index").values.astype(np.int64)
    ids = variable("unit_id").values if "unit_id" in arrays else np.arange(len(index))
    units = xr.Dataset(coords={"unit": ids})
    for name in sorted(arrays - _OWN_ARRAYS):
        units[name] = ("unit", variable(name).values)
    if "units" in root:
        units = units.merge(dataset("units", "unit"))
    source = Source.noted(path, folder_checksum(path), attrs)
    spikes, where = variable("spike_times"), f"{path}: spike_times"
    clock = Clock.of(spikes, source.session_start_time, where)
    source = clock.dated(source)
    tables = {name: dataset(key, "interval") for name, key in groups("intervals").items()}
    for name, table in tables.items():
        if any(column not in table or table[column].ndim != 1 for column in ("start_time", "stop_time")):
            raise InputError(f"{path}: intervals/{name}: no start_time or no stop_time of each row; write it anew")
    behavior = {name: series(key, name) for name, key in groups("behavior").items()}
    parts = clock.parts(tables, behavior, reading, str(path)) | {"reading": reading}
    if "obs_intervals" in arrays:
        bounds = clock.seconds(variable("obs_intervals"), f"{path}: obs_intervals")
        parts["observed"] = Observed(bounds, variable("obs_intervals_index").values.astype(np.int64))
    signal = series("signal", "signal") if "signal" in root else None
    parts["series"] = {} if signal is None else {str(signal.name): "the signal of this store"}
    if reading.series is not None:
        choose_series(parts["series"], reading.series, str(path), [])
    if signal is None:
        extent = attrs.get("extent")
        parts["extent"] = None if extent is None else (float(extent[0]), float(extent[1]))
        return replace(Session.checked(clock.seconds(spikes, where), index, ids, source=source, **parts), units=units)
    if signal.shape[1:] != ids.shape:
        raise InputError(f"{path}: signal: {signal.shape} for {len(ids)} units; write the session anew")
    return replace(from_signal(signal.assign_coords(unit=ids), source=source, **parts), units=units)


#: Any store that no other format knows; its reader says what it lacks.
FORMATS = {
    "zarr": Format(
        recognises=lambda path: path.is_dir() and is_store(path) and not is_nwb_in_zarr(path),
        read=read_zarr,
        lies_in="folder",
        series=True,
    )
}
