"""Sessions and counts as arrays with names: in the zarr layout of `ldmfilter.data.store`, or as others lay them out.

netCDF, zarr    counts are a variable (time, unit), `counts` where there are several; variables (unit,) are unit
                columns, those (time,) or (time, x) behaviour, along any coordinate with "time" in its name, those
                (interval,) the table "intervals"; where none is (time, unit), or another is named, a variable (time, x)
                is a signal in their place
.npz            arrays `counts` (time, unit), `bin_size` or `time` (bin centres, s), `unit`; beside them, as long as
                `time`, behaviour, or as long as `unit`, unit columns
.npy            counts (time, unit) alone; the caller gives their bin size

Beside them, as groups or as names with slashes: units/<column>, intervals/<table>/<column>,
behavior/<name>/data and behavior/<name>/time, as `Session.to_zarr` lays them out.
"""

from collections.abc import Hashable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
import xarray as xr

from ldmfilter.data.binned import from_counts
from ldmfilter.data.clocks import PLAIN, Reading
from ldmfilter.data.counts import is_signal
from ldmfilter.data.formats.format import Format, path_checksum, starts_with
from ldmfilter.data.session import Observed, Session, Source
from ldmfilter.data.signal import choose_series, from_signal
from ldmfilter.data.store import DIMS, FORMAT, VERSION, key_of
from ldmfilter.data.tables import Array, shorten
from ldmfilter.data.untrusted.damage import json_object, reason_of
from ldmfilter.data.untrusted.hdf5 import check_heaps, check_netcdf, is_hdf5
from ldmfilter.data.untrusted.npy import check_text, npz_names, read_npy, read_npz
from ldmfilter.data.untrusted.remote import is_nwb_in_zarr
from ldmfilter.data.untrusted.zarr_store import check_arrays, is_store, open_store, read_array, reading_store
from ldmfilter.errors import InputError, warn

# Coordinates that `bin_spikes` gives counts: no behaviour.
_MARKS = {
    "segment": ("time",), "interval": ("time",), "observed": ("time",), "unit_observed": ("time", "unit"),
}  # fmt: skip
_AXES = {"time": ("time",), "unit": ("unit",)}
_SPIKES = ("spike_times", "spike_times_index", "unit_id", "obs_intervals", "obs_intervals_index")
# The first dim of arrays in a group.
_FIRST_DIM = {"": "unit", "units": "unit", "intervals": "interval", "behavior": "time", "signal": "time"}
_NUMPY, _ZIP, _NETCDF_3 = b"\x93NUMPY", b"PK\x03\x04", (b"CDF\x01", b"CDF\x02", b"CDF\x05")
# What netCDF's libraries write into floats that nobody has set.
_NETCDF_FILL = 9.969209968386869e36
_MISSING = ("_FillValue", "missing_value")

Groups = dict[str, xr.Dataset]  # by their paths, in memory; "" is the root


def read_arrays(path: Path, reading: Reading = PLAIN) -> Session:
    """Read a session from zarr, or counts from netCDF, zarr, .npz or .npy, with what lies beside them.

    Where `reading` names a series, a variable (time, channel) or array of .npz, it is read as a signal in their place.

    Raises InputError as `Session.checked`, `from_counts` and `from_signal`, for a file that is missing, damaged, of
    another kind or of a newer version, one without spikes, counts or the series, and one that holds pickled objects.
    """
    if path.is_dir():
        if (path / ".zarray").exists():
            raise InputError(f"{path}: is a zarr array, not a session; give the store that Session.to_zarr wrote")
        with reading_store(path):
            check_arrays(path, long_text=not (path / "spike_times").is_dir())
            return _session(path, _from_zarr(path), reading)
    if starts_with(path, _NUMPY):
        source = Source(path=str(path), checksum=path_checksum(path))
        read = from_counts if reading.series is None else from_signal
        return read(read_npy(path), reading.bin_size, source=source, reading=reading)
    if starts_with(path, b"PK"):
        return _session(path, _from_arrays(read_npz(path), str(path), reading.series), reading)
    if not starts_with(path, b"CDF"):
        if not h5py.is_hdf5(path):
            raise InputError(f"{path}: is no file of counts; give them as netCDF, zarr, .npz or .npy")
        check_heaps(path)
        check_netcdf(path)
    return _session(path, _from_netcdf(path), reading)


def read_counts(path: Path, reading: Reading = PLAIN) -> Session:
    """As `read_arrays`; raises InputError for a store of spike times too."""
    if (path / "spike_times").is_dir():
        raise InputError(f"{path}: holds spike times, not counts; let its content decide")
    return read_arrays(path, reading)


def _from_zarr(path: Path) -> Groups:
    """The groups of a store that may belong to a session; dims and order as noted, or guessed in one of others."""
    root = open_store(path)
    # A chunk that is not there reads as zeros; a store of our own has all its chunks.
    own = root.attrs.get("format") == FORMAT
    if own and root.attrs.get("version", 0) > VERSION:
        raise InputError(f"{path}: was written by a newer ldmfilter; install that version or write it again")
    found: Groups = {}
    keys = [""]
    for key in keys:
        if (top := key.partition("/")[0]) not in _FIRST_DIM:
            found[key] = xr.Dataset()  # of others no more than the name
            continue
        group, dim = root[key] if key else root, _FIRST_DIM[top]
        keys += [f"{key}/{name}".strip("/") for name in group.group_keys()]
        variables: dict[str, xr.Variable] = {}
        for name in group.array_keys():
            values, attrs = read_array(root, path, f"{key}/{name}".strip("/"), own)
            attrs.pop("coordinates", None)  # xarray's list of them
            guessed = name if name in ("spike_times", "obs_intervals") else dim, f"{name}_item"
            dims = tuple(attrs.pop(DIMS, ())) or guessed[: values.ndim]
            if group[name].fill_value and not own:
                attrs.setdefault("_FillValue", group[name].fill_value)
            variables[name] = _unpacked(xr.Variable(dims, values, attrs), name)
        order = dict.fromkeys([*map(key_of, group.attrs.get("order", ())), *sorted(variables)])
        found[key] = xr.Dataset({name: variables[name] for name in order}, attrs=dict(group.attrs))
    return found


def _from_netcdf(path: Path) -> Groups:
    try:
        # Times stay the numbers that they are; "units" of "s" would make them durations.
        undecoded: dict[str, Any] = {"decode_times": False, "mask_and_scale": False}
        if starts_with(path, b"CDF"):
            # Mapped into memory, a damaged file is closed late, with a warning of scipy wherever that happens.
            opened = {"": xr.open_dataset(path, engine="scipy", mmap=False, **undecoded)}
        else:
            opened = xr.open_groups(path, engine="h5netcdf", **undecoded)
        try:
            loaded = {name.strip("/"): group.load() for name, group in opened.items()}
        finally:
            for group in opened.values():
                group.close()
        groups: Groups = {}
        for key, group in loaded.items():
            variables = {name: _unpacked(one, name, str(path)) for name, one in group.variables.items()}
            groups[key] = xr.Dataset(variables, attrs=group.attrs).set_coords(list(group.coords))
            # The values may have another length than the dim that they claim.
            if groups[key].sizes != group.sizes:
                raise ValueError("arrays do not have the length of their dims")
        return groups
    except Exception as error:  # three libraries raise errors of many kinds on a damaged file
        line = f"{path}: cannot be read as a netCDF file of counts ({reason_of(error)}); write or copy it again"
        raise InputError(line) from error


def _from_arrays(arrays: dict[str, Array], where: str, wanted: str | None) -> Groups:
    """Arrays by their names, as .npz holds them, as a dataset and its groups."""
    top = {name: array for name, array in arrays.items() if "/" not in name}
    flat = [name for name, array in top.items() if array.ndim == 2]
    name = "counts" if "counts" in top else flat[0] if len(flat) == 1 else None
    if wanted is not None:
        name = choose_series({key: " x ".join(map(str, top[key].shape)) for key in flat}, wanted, where, [])
    if name is None or top[name].ndim != 2:
        raise InputError(f"{where}: holds no array counts (time, unit); it has {shorten(arrays) or 'none'}")
    sizes = dict(zip(_MARKS["unit_observed"], top[name].shape, strict=True))
    known = {name: tuple(sizes), **_AXES, **_MARKS}
    groups: dict[str, dict[str, Any]] = {"": {}}
    for path, array in arrays.items():
        group, slash, key = path.rpartition("/")
        dims: tuple[str, ...]
        if slash:
            dims = (_FIRST_DIM.get(group.split("/")[0], "row"), f"{key}_item")
        elif key in known:
            dims = known[key]
            if array.shape != tuple(sizes[dim] for dim in dims):
                raise InputError(f"{where}: {key} has shape {array.shape}, counts {top[name].shape}; save them anew")
        else:
            dim = next((dim for dim in sizes if array.shape[:1] == (sizes[dim],)), f"{key}_row")
            dims = (dim, *(f"{key}_{axis}" for axis in range(1, array.ndim)))
        if key != "bin_size" and 0 < array.ndim <= len(dims):
            groups.setdefault(group, {})[key] = dims[: array.ndim], array
    try:
        found = {group: xr.Dataset(columns) for group, columns in groups.items()}
    except ValueError as error:
        raise InputError(f"{where}: arrays of a group differ in length ({reason_of(error)}); save them anew") from error
    if "bin_size" in top:
        found[""][name].attrs["bin_size"] = top["bin_size"].item() if top["bin_size"].size == 1 else None
    return found


def _unpacked(variable: xr.Variable, name: Hashable, where: str = "") -> xr.Variable:
    """A variable with NaN where its fill value stands, and times its scale plus its offset, by the CF conventions.

    A fill value of 0 is not taken as missing: it is zarr's default.

    where: of a file whose fill values somebody has set: there one of 0 is taken as missing in floats; in whole numbers
        a warning tells that it is not
    """
    attrs, values = dict(variable.attrs), variable.values
    if not (where and values.dtype.kind == "f"):
        for key in [key for key in _MISSING if np.size(attrs.get(key, ())) == 1 and not np.any(attrs[key])]:
            value = attrs.pop(key)
            if where and values.dtype.kind in "iu":
                warn(f"{where}: {name}: its {key} {value} is taken as the number, not as missing")
    elif not any(key in attrs for key in _MISSING):
        values = np.where(np.abs(values) == values.dtype.type(_NETCDF_FILL), np.nan, values)
    variable = xr.Variable(variable.dims, values, attrs)
    return xr.conventions.decode_cf_variable(name, variable, concat_characters=False, decode_times=False).load()


def _session(path: Path, groups: Groups, reading: Reading) -> Session:
    """The session in the groups of a file; an array's dims, or the group that it lies in, say what it is."""
    where = str(path)
    for place, dataset in groups.items():
        for column, variable in dataset.variables.items():
            check_text(variable.values, f"{where}: {place}/{column}")
    root = groups.pop("")
    about: dict[str, str] = {}
    table = None
    if "spike_times" not in root and root.attrs.get("format") != FORMAT:
        table, about = _counts(root, where, reading.series)
    elif "signal" in groups:
        table = _series(groups.pop("signal"), "signal", f"{where}: signal")
        about = {str(table.name): "the signal of this store"}
    if reading.series is not None:
        choose_series(about, reading.series, where, [])
    known = (*_SPIKES, *_MARKS, *_AXES, None if table is None else table.name)
    parts = _parts(root, groups, known, where)
    attrs = {**root.attrs, **({} if table is None else table.attrs)}
    said = {key: str(attrs.get(key, "")) for key in ("identifier", "session_id", "session_start_time")}
    parts |= {"source": Source(where, checksum=path_checksum(path), **said), "reading": reading}
    if table is not None and not about:
        return from_counts(table, reading.bin_size, **parts)
    missing = [name for name in _SPIKES[:2] if name not in root]
    if table is None and missing:
        raise InputError(f"{where}: holds no {' and no '.join(missing)}; give a store that Session.to_zarr wrote")
    if table is not None:
        if "unit_id" in root:
            ids = root["unit_id"].values
            if table.shape[1:] != ids.shape:
                raise InputError(f"{where}: signal: {table.shape} for {len(ids)} units; write the session anew")
            table = table.assign_coords({table.dims[1]: ids})
        return from_signal(table, reading.bin_size, series=about, **parts)
    index = root["spike_times_index"].values.astype(np.int64)
    ids = root["unit_id"].values if "unit_id" in root else np.arange(len(index))
    if "obs_intervals" in root:
        ends = root["obs_intervals_index"].values.astype(np.int64)
        parts["observed"] = Observed(root["obs_intervals"].variable, ends)  # type: ignore[arg-type]  # of any unit
    extent = root.attrs.get("extent")
    parts["extent"] = None if extent is None else (float(extent[0]), float(extent[1]))
    return Session.checked(root["spike_times"].variable, index, ids, **parts)


def _parts(root: xr.Dataset, groups: Groups, known: tuple[Hashable, ...], where: str) -> dict[str, Any]:
    """Unit columns, interval tables and behaviour beside what is `known`."""
    clocks = {str(name) for name in root.coords if "time" in str(name) and root[name].dims == (name,)}
    parts: dict[str, dict[str, Any]] = {"units": {}, "intervals": {}, "behavior": {}}
    rows, left = [], []
    for name, one in root.variables.items():
        if name in known or not one.ndim:
            continue
        key, dim = str(name), one.dims[0]
        if one.dims == ("unit",):
            parts["units"][unquote(key)] = one.values
        elif dim == "interval":
            rows.append(name)
        elif dim in clocks and one.ndim <= 2 and one.dtype.kind in "biuf":
            if key not in clocks:
                series = xr.Dataset({key: one, "time": root.variables[dim]})
                parts["behavior"][key] = _series(series, key, f"{where}: behavior/{key}")
        elif name not in root.sizes:
            left.append(f"{name} ({', '.join(map(str, one.dims))})")
    if left := [*left, *(f"group {group}" for group in groups if group.partition("/")[0] not in _FIRST_DIM)]:
        warn(
            f"{where}: left out {shorten(left)}: no columns (unit,), rows (interval,), or numbers along a coordinate "
            "`time` or another with time in its name"
        )
    tables = {"intervals/intervals": root.reset_coords()[rows]} if rows else {}  # coordinates are columns too
    for group, table in {**tables, **groups}.items():
        kind, _, key = group.partition("/")
        if kind == "units" and not key:
            columns = table.variables.items()
            parts["units"] |= {unquote(str(name)): one.values for name, one in columns if name != "unit"}
        elif kind == "intervals" and key:
            parts["intervals"][unquote(key)] = table.rename({name: unquote(str(name)) for name in table.data_vars})
        elif kind == "behavior" and key:
            parts["behavior"][unquote(key)] = _series(table, unquote(key), f"{where}: {kind}/{unquote(key)}")
    return parts


def _series(group: xr.Dataset, key: str, where: str) -> xr.DataArray:
    """The series (time,) or (time, component) of a group that holds it and its `time`. Raises InputError for others."""
    values = [one for name, one in group.items() if name != "time"]
    if "time" not in group.variables or len(values) != 1 or values[0].ndim not in (1, 2):
        raise InputError(f"{where}: needs `time` and one more array; write the series anew")
    series, time = values[0], group["time"]
    if time.shape != series.shape[:1]:
        raise InputError(f"{where}: {time.size} times for {len(series)} values; write the series anew")
    dims, coords = ("time", "component")[: series.ndim], {"time": ("time", time.values, time.attrs)}
    return xr.DataArray(series.values, coords, dims, group.attrs.get("name", key.rpartition("/")[2]), series.attrs)


def _counts(root: xr.Dataset, where: str, wanted: str | None) -> tuple[xr.DataArray, dict[str, str]]:
    """The counts, or the signal that is wanted in their place; and, of a signal, the sizes of all there are."""
    arrays = {str(name): array for name, array in root.items() if name not in _MARKS}
    tables = {name: array for name, array in arrays.items() if array.ndim == 2 and "time" in array.dims}
    fitting = [name for name, array in tables.items() if set(array.dims) == {"time", "unit"} and not is_signal(array)]
    root = root.set_coords([name for name in _MARKS if name in root])
    if wanted is not None or (tables and not fitting):
        signals = {name: " x ".join(map(str, array.shape)) for name, array in tables.items()}
        return root[choose_series(signals, wanted, where, list(signals))], signals
    if len(chosen := [name for name in fitting if name == "counts"] or fitting) == 1:
        return root[chosen[0]], {}
    found = shorten(f"{key} ({', '.join(map(str, array.dims))})" for key, array in root.items()) or "none"
    raise InputError(f"{where}: needs one variable with dims (time, unit), or one named `counts`; it holds {found}")


def _is_counts(path: Path) -> bool:
    if path.is_dir():
        return not (path / "spike_times").is_dir() and any(map(_is_of_counts, path.glob("*/.zattrs")))
    if starts_with(path, _ZIP):
        # pynapple's files say their type and have a time support.
        return not {"type", "start", "end"} <= npz_names(path)
    return starts_with(path, _NUMPY, *_NETCDF_3) or (is_hdf5(path) and _is_netcdf(path))


def _is_of_counts(attributes: Path) -> bool:
    """True for the attributes of an array with dims time and one more."""
    dims = json_object(attributes).get(DIMS)
    return isinstance(dims, list) and len(dims) == 2 and "time" in dims


def _is_netcdf(path: Path) -> bool:
    """True for HDF5 that holds what netCDF writes, arrays with named dims, and is not NWB."""
    try:
        with h5py.File(path, "r") as file:
            if "nwb_version" in file.attrs or "nwb_version" in file:
                return False
            arrays = [item for item in file.values() if isinstance(item, h5py.Dataset)]
            return "_NCProperties" in file.attrs or any("DIMENSION_LIST" in array.attrs for array in arrays)
    except (OSError, RuntimeError, KeyError, ValueError):
        return False  # the reader of NWB says what is wrong


def _is_session(path: Path) -> bool:
    """True for any store that no other format knows; the reader says what it lacks."""
    return path.is_dir() and is_store(path) and not is_nwb_in_zarr(path)


FORMATS = {
    "zarr": Format(recognises=_is_session, read=read_arrays, lies_in="folder", series=True),
    "counts": Format(recognises=_is_counts, read=read_counts, series=True),
}
