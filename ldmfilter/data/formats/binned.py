"""Files of counts that come binned.

netCDF, zarr    a variable (time, unit), `counts` where there are several; variables (unit,) are unit columns, those
                (time,) or (time, x) behaviour, those (interval,) the table "intervals"; where none is
                (time, unit), or another is named, a variable (time, x) is a signal in their place
.npz            arrays `counts` (time, unit), `bin_size` or `time` (bin centres, s), `unit`
.npy            counts (time, unit) alone; the caller gives their bin size

Beside them, as groups or as names with slashes: units/<column>, intervals/<table>/<column>,
behavior/<name>/data and behavior/<name>/time, as `Session.to_zarr` lays them out.
"""

from pathlib import Path
from typing import Any
from urllib.parse import unquote

import h5py
import numpy as np
import xarray as xr

from ldmfilter.data.binned import BinnedSession, from_counts
from ldmfilter.data.cf import one_series, unpacked
from ldmfilter.data.clocks import PLAIN, Reading
from ldmfilter.data.counts import is_signal
from ldmfilter.data.formats.format import Format, starts_with
from ldmfilter.data.session import Source
from ldmfilter.data.signal import choose_series, from_signal
from ldmfilter.data.tables import Array, shorten
from ldmfilter.data.untrusted.checksums import file_checksum, folder_checksum
from ldmfilter.data.untrusted.damage import json_object, reason_of
from ldmfilter.data.untrusted.hdf5 import check_heaps, check_netcdf, is_hdf5
from ldmfilter.data.untrusted.npy import check_text, npz_names, read_npy, read_npz
from ldmfilter.data.untrusted.zarr_store import check_arrays, reading_store
from ldmfilter.errors import InputError

__all__ = ["FORMATS", "BinnedSession", "from_counts", "read_counts"]

# Coordinates that `bin_spikes` gives counts: no behaviour.
_MARKS = {
    "segment": ("time",), "interval": ("time",), "observed": ("time",), "unit_observed": ("time", "unit"),
}  # fmt: skip
_AXES = {"time": ("time",), "unit": ("unit",)}
_FIRST_DIM = {"units": "unit", "intervals": "interval", "behavior": "time"}  # of the arrays in a group
_NUMPY, _ZIP, _NETCDF_3 = b"\x93NUMPY", b"PK\x03\x04", (b"CDF\x01", b"CDF\x02", b"CDF\x05")

Groups = dict[str, xr.Dataset]


def read_counts(path: Path, reading: Reading = PLAIN) -> BinnedSession:
    """Read counts from netCDF, zarr, .npz or .npy, with the unit columns, intervals and behaviour beside them.

    Where `reading` names a series, a variable (time, channel) or array of .npz, it is read as a signal in their place.

    Raises InputError as `from_counts` and `from_signal`, for a file that is missing, damaged or of another kind, one
    without a variable (time, unit) or the series, and one that holds pickled objects.
    """
    if path.is_dir():
        with reading_store(path):
            check_arrays(path, long_text=True)
            root, groups = _open(path, "zarr", "zarr store", consolidated=False)
        return _session(path, root, groups, reading, folder_checksum(path))
    if starts_with(path, _NUMPY):
        source = Source(path=str(path), checksum=file_checksum(path))
        read = from_counts if reading.series is None else from_signal
        return read(read_npy(path), reading.bin_size, source=source, reading=reading)
    if starts_with(path, b"PK"):
        root, groups = _from_arrays(read_npz(path), str(path), reading.series)
    elif starts_with(path, b"CDF"):
        root, groups = _open(path, "scipy", "netCDF file")
    else:
        if not h5py.is_hdf5(path):
            raise InputError(f"{path}: is no file of counts; give them as netCDF, zarr, .npz or .npy")
        check_heaps(path)
        check_netcdf(path)
        root, groups = _open(path, "h5netcdf", "netCDF file")
    return _session(path, root, groups, reading, file_checksum(path))


def _open(path: Path, engine: str, kind: str, **options: Any) -> tuple[xr.Dataset, Groups]:
    """The root of a file and its groups by their paths, all in memory."""
    try:
        # Times stay the numbers that they are; "units" of "s" would make them durations.
        undecoded: dict[str, Any] = {"decode_times": False, "mask_and_scale": False}
        where = "" if engine == "zarr" else str(path)
        if engine == "scipy":
            # Mapped into memory, a damaged file is closed late, with a warning of scipy wherever that happens.
            with xr.open_dataset(path, engine="scipy", mmap=False, **undecoded) as file:
                return _unpacked(file, where), {}
        opened = xr.open_groups(path, engine=engine, **undecoded, **options)  # type: ignore[arg-type]
        try:
            groups = {name.strip("/"): _unpacked(group, where) for name, group in opened.items()}
        finally:
            for group in opened.values():
                group.close()
        for group in groups.values():
            for name, variable in group.variables.items():
                # The values may have another length than the dim that they claim.
                if np.shape(variable.values) != tuple(group.sizes[dim] for dim in variable.dims):
                    raise ValueError(f"{name} does not have the length of its dims")
        return groups.pop(""), groups
    except Exception as error:  # four libraries raise errors of many kinds on a damaged file
        line = f"{path}: cannot be read as a {kind} of counts ({reason_of(error)}); write or copy it again"
        raise InputError(line) from error


def _unpacked(group: xr.Dataset, where: str) -> xr.Dataset:
    """A group in memory, missing and packed values decoded."""
    group = group.load()
    return group.assign(
        {name: unpacked(array.variable, name, where) for name, array in group.data_vars.items()}
    ).assign_coords({name: unpacked(array.variable, name, where) for name, array in group.coords.items()})


def _from_arrays(arrays: dict[str, Array], where: str, wanted: str | None) -> tuple[xr.Dataset, Groups]:
    """Arrays by their names, as .npz holds them, as a dataset and its groups."""
    top = {name: array for name, array in arrays.items() if "/" not in name}
    flat = [name for name, array in top.items() if array.ndim == 2]
    name = "counts" if "counts" in top else flat[0] if len(flat) == 1 else None
    if wanted is not None:
        name = choose_series({key: " x ".join(map(str, top[key].shape)) for key in flat}, wanted, where, [])
    if name is None or top[name].ndim != 2:
        raise InputError(f"{where}: holds no array counts (time, unit); it has {shorten(arrays) or 'none'}")
    counts = xr.DataArray(top[name], dims=("time", "unit"), name="counts" if wanted is None else name)
    if "bin_size" in top:
        counts.attrs["bin_size"] = top["bin_size"].item() if top["bin_size"].size == 1 else None
    for key, dims in {**_AXES, **_MARKS}.items():
        if key in top:
            if top[key].shape != tuple(counts.sizes[dim] for dim in dims):
                raise InputError(f"{where}: {key} has shape {top[key].shape}, counts {counts.shape}; save them anew")
            counts = counts.assign_coords({key: (dims, top[key])})
    groups: dict[str, dict[str, Any]] = {}
    for path, array in arrays.items():
        group, slash, key = path.rpartition("/")
        if slash and array.ndim in (1, 2):
            dims = (_FIRST_DIM.get(group.split("/")[0], "row"), f"{key}_item")[: array.ndim]
            groups.setdefault(group, {})[key] = (dims, array)
    try:
        return counts.to_dataset(), {group: xr.Dataset(columns) for group, columns in groups.items()}
    except ValueError as error:
        raise InputError(f"{where}: arrays of a group differ in length ({reason_of(error)}); save them anew") from error


def _session(path: Path, root: xr.Dataset, groups: Groups, reading: Reading, checksum: str) -> BinnedSession:
    """The session in a dataset and its groups; an array's dims, or the group that it lies in, say what it is."""
    where = str(path)
    for place, dataset in {"": root, **groups}.items():
        for column, variable in dataset.variables.items():
            check_text(variable.values, f"{where}: {place}/{column}")
    counts, signals = _counts(root, where, reading.series)
    top = {name: one for name, one in root.variables.items() if name not in (*_MARKS, *_AXES, counts.name)}
    root = root.reset_coords()  # coordinates along time are series too
    series = [
        name
        for name, one in top.items()
        if "time" in root.coords and one.dims[:1] == ("time",) and one.ndim <= 2 and one.dtype.kind in "biuf"
    ]
    rows = [name for name, one in top.items() if one.dims[:1] == ("interval",)]
    found = [("units", "", root[[name for name, one in top.items() if one.dims == ("unit",)]])]
    found += [("intervals", "intervals", root[rows])] * bool(rows)
    found += [("behavior", str(name), root[[name]]) for name in series]
    found += [(kind, unquote(key), one) for group, one in groups.items() for kind, _, key in [group.partition("/")]]
    units: dict[str, Any] = {}
    parts: dict[str, Any] = {"units": units, "intervals": {}, "behavior": {}}
    for kind, key, dataset in found:
        columns = {
            unquote(str(name)): one for name, one in dataset.variables.items() if name not in ("unit", "interval")
        }
        if kind == "units" and not key:
            units |= {name: one.values for name, one in columns.items()}
        elif kind == "intervals" and key:
            parts["intervals"][key] = columns
        elif kind == "behavior" and key:
            parts["behavior"][key] = one_series(dataset, f"{where}: {kind}/{key}").rename(key.rpartition("/")[2])
    source = Source.noted(path, checksum, {**root.attrs, **counts.attrs})
    if counts.name in signals:
        return from_signal(counts, reading.bin_size, source=source, reading=reading, series=signals, **parts)
    return from_counts(counts, reading.bin_size, source=source, reading=reading, **parts)


def _counts(root: xr.Dataset, where: str, wanted: str | None) -> tuple[xr.DataArray, dict[str, str]]:
    """The counts, or the signal that is wanted in their place; and, of a signal, the sizes of all there are."""
    tables = {str(name): array for name, array in root.items() if array.ndim == 2 and "time" in array.dims}
    tables = {name: array for name, array in tables.items() if name not in _MARKS}
    fitting = [name for name, array in tables.items() if set(array.dims) == {"time", "unit"} and not is_signal(array)]
    if wanted is not None or (tables and not fitting):
        signals = {name: " x ".join(map(str, array.shape)) for name, array in tables.items()}
        return root[choose_series(signals, wanted, where, list(signals))], signals
    if "counts" in fitting or len(fitting) == 1:
        return root["counts" if "counts" in fitting else fitting[0]], {}
    found = shorten(fitting or (f"{key} ({', '.join(map(str, array.dims))})" for key, array in root.items()))
    what = "several variables" if fitting else "no variable"
    raise InputError(f"{where}: holds {what} with dims (time, unit): {found or 'none'}; name the counts `counts`")


def _recognises(path: Path) -> bool:
    if path.is_dir():
        return not (path / "spike_times").is_dir() and any(map(_is_of_counts, path.glob("*/.zattrs")))
    if starts_with(path, _ZIP):
        # pynapple's files say their type and have a time support.
        return not {"type", "start", "end"} <= npz_names(path)
    return starts_with(path, _NUMPY, *_NETCDF_3) or (is_hdf5(path) and _is_netcdf(path))


def _is_of_counts(attributes: Path) -> bool:
    """True for the attributes of an array with dims time and one more."""
    dims = json_object(attributes).get("_ARRAY_DIMENSIONS")
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


FORMATS = {"counts": Format(recognises=_recognises, read=read_counts, series=True)}
