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
from ldmfilter.data.untrusted.codecs import checked
from ldmfilter.data.untrusted.damage import damage
from ldmfilter.data.untrusted.remote import is_nwb_in_zarr
from ldmfilter.data.untrusted.zarr_store import ZARR_DAMAGE, check_arrays, is_store, open_store, read_array
from ldmfilter.errors import InputError

_OWN_ARRAYS = {"spike_times", "spike_times_index", "unit_id", "obs_intervals", "obs_intervals_index"}


def read_zarr(path: Path, reading: Reading = PLAIN) -> Session:
    """Read a session from a zarr store.

    Raises InputError for a store of another kind, of a newer version or with pickled objects, for one that is
    damaged, and for spike times that are NaN.
    """
    if (path / "zarr.json").exists():
        raise InputError(f"{path}: is zarr format 3; write the session with Session.to_zarr or zarr_format=2")
    if (path / ".zarray").exists():
        raise InputError(f"{path}: is a zarr array, not a session; give the store that Session.to_zarr wrote")
    with damage(path, "zarr store", errors=ZARR_DAMAGE), checked():
        check_arrays(path)
        return _Store(path).session(reading)


class _Store:
    """An open store, with the dims and names that it notes or, where another program wrote it, lacks."""

    def __init__(self, path: Path):
        self.path = path
        self.root = open_store(path)
        self.attrs = dict(self.root.attrs)
        # A chunk that is not there reads as zeros; a store of our own has all its chunks.
        self.complete = self.attrs.get("format") == FORMAT
        if self.complete and self.attrs.get("version", 0) > VERSION:
            raise InputError(f"{path}: was written by a newer ldmfilter; install that version or write it again")

    def session(self, reading: Reading) -> Session:
        arrays = set(self.root.array_keys())
        missing = sorted({"spike_times", "spike_times_index"} - arrays)
        if missing:
            raise InputError(
                f"{self.path}: holds no {' and no '.join(missing)}; give a store that Session.to_zarr wrote"
            )
        index = self.values("spike_times_index").astype(np.int64)
        ids = self.values("unit_id") if "unit_id" in arrays else np.arange(len(index))
        units = xr.Dataset(coords={"unit": ids})
        for name in sorted(arrays - _OWN_ARRAYS):
            units[name] = ("unit", self.values(name))
        if "units" in self.root:
            units = units.merge(self.dataset("units", "unit"))
        source = Source.noted(self.path, folder_checksum(self.path), self.attrs)
        spikes, where = self.variable("spike_times"), f"{self.path}: spike_times"
        clock = Clock.of(spikes, source.session_start_time, where)
        observed = None
        if "obs_intervals" in arrays:
            bounds = clock.seconds(self.variable("obs_intervals"), f"{self.path}: obs_intervals")
            observed = Observed(bounds, self.values("obs_intervals_index").astype(np.int64))
        name = str(self.root["signal"].attrs.get("name", "signal")) if "signal" in self.root else ""
        series = {name: "the signal of this store"} if name else {}
        if reading.series is not None:
            choose_series(series, reading.series, str(self.path), [])
        extent = self.attrs.get("extent")
        source = clock.dated(source)
        tables = {unquote(key): self.intervals(f"intervals/{key}") for key in self.groups("intervals")}
        behavior = {unquote(key): self.series(f"behavior/{key}", unquote(key)) for key in self.groups("behavior")}
        parts = clock.parts(tables, behavior, reading, str(self.path))
        parts |= {"observed": observed, "series": series, "reading": reading}
        if name:
            signal = self.series("signal", name)
            if signal.shape[1:] != ids.shape:
                raise InputError(f"{self.path}: signal: {signal.shape} for {len(ids)} units; write the session anew")
            return replace(from_signal(signal.assign_coords(unit=ids), name=name, source=source, **parts), units=units)
        whole = None if extent is None else (float(extent[0]), float(extent[1]))
        times = clock.seconds(spikes, where)
        return replace(Session.checked(times, index, ids, source=source, extent=whole, **parts), units=units)

    def groups(self, key: str) -> list[str]:
        return sorted(self.root[key].group_keys()) if key in self.root else []

    def values(self, key: str) -> np.ndarray:
        return self.variable(key).values

    def variable(self, key: str, dims: Any = ()) -> xr.Variable:
        """An array, what is missing or packed in it decoded, with the dims that it notes, or else these."""
        values, attrs = read_array(self.root, self.path, key, self.complete)
        dims = tuple(attrs.pop(DIMS, ())) or dims or [f"dim_{i}" for i in range(values.ndim)]
        fill = self.root[key].fill_value
        if fill and not self.complete:
            attrs.setdefault("_FillValue", fill)
        return unpacked(xr.Variable(dims, values, attrs))

    def dataset(self, key: str, dim: str) -> xr.Dataset:
        """A group of arrays along `dim`; dims, coordinates and order as noted, or guessed in a foreign store.

        Raises InputError for an array along another dim.
        """
        group = self.root[key]
        variables = {}
        for name in group.array_keys():
            variables[unquote(name)] = self.variable(f"{key}/{name}", (dim, f"{name}_item")[: group[name].ndim])
        for name, one in variables.items():
            if one.dims and one.dims[0] != dim:
                raise InputError(f"{self.path}: {key}: {name}: its first dim is not `{dim}`; write it anew")
        coordinates = group.attrs.get("coordinate_names", [dim] if dim in variables else [])
        order = group.attrs.get("order", sorted(set(variables) - set(coordinates)))
        return xr.Dataset({name: variables[name] for name in order}, {name: variables[name] for name in coordinates})

    def intervals(self, key: str) -> xr.Dataset:
        table = self.dataset(key, "interval")
        if any(name not in table or table[name].ndim != 1 for name in ("start_time", "stop_time")):
            raise InputError(f"{self.path}: {key}: no start_time or no stop_time of each row; write the table anew")
        return table

    def series(self, key: str, name: str) -> xr.DataArray:
        series = one_series(self.dataset(key, "time"), f"{self.path}: {key}")
        return series.rename(self.root[key].attrs.get("name", name))


#: Any store that no other format knows; its reader says what it lacks.
FORMATS = {
    "zarr": Format(
        recognises=lambda path: path.is_dir() and is_store(path) and not is_nwb_in_zarr(path),
        read=read_zarr,
        lies_in="folder",
        series=True,
    )
}
