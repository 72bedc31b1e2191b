"""This package's own zarr layout <-> Session; runs on zarr 2 and 3 and writes zarr format 2, which both read.

    spike_times (spike,), spike_times_index (unit,), unit_id (unit,)
    units/<column> (unit,), or the column beside unit_id
    intervals/<table>/<column> (interval, ...), among them start_time and stop_time, s
    behavior/<path>/data (time, ...) and time (time,)

Names of tables and series are quoted as in a URL, so that none can lead out of the store.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import zlib
from collections.abc import Hashable
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import numpy as np
import xarray as xr
import zarr

from ldmfilter.data.session import Observed, Session, Source
from ldmfilter.data.tables import Array, check_spikes
from ldmfilter.data.untrusted.codecs import checked
from ldmfilter.errors import InputError, UnsafeInputError
from ldmfilter.files import replacing

_FORMAT = "ldmfilter-session"
_VERSION = 1
_ZARR_3 = not zarr.__version__.startswith("2.")
# xarray finds the names of dims here.
_DIMS = "_ARRAY_DIMENSIONS"
_OWN_ARRAYS = {"spike_times", "spike_times_index", "unit_id", "obs_intervals", "obs_intervals_index"}
_PLAIN_DTYPE = re.compile(r"[<>|][biufU]\d+")
# Reading a pickled chunk runs whatever code it holds: only codecs that move bytes are let in.
_PLAIN_CODECS = {"blosc", "zstd", "zlib", "gzip", "lz4", "lzma", "bz2", "shuffle", "delta", "crc32", "crc32c"}
# What zarr, its codecs and numpy raise on metadata or chunks that are cut short.
_METADATA_ERROR = getattr(zarr.errors, "MetadataError", ValueError)  # zarr 2 only
_DAMAGE = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    ArithmeticError,
    TypeError,
    AttributeError,
    zlib.error,
    _METADATA_ERROR,
)


def write_session(session: Session, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
    """Write a session as a zarr store, whole or not at all, and return its path.

    Raises InputError where the path exists and `overwrite` is not set or it is no zarr store, and where it
    cannot be written.
    """
    if overwrite:
        _check_replaceable(Path(path))
    with replacing(path, overwrite) as store:
        root = zarr.open_group(str(store), mode="w", **({"zarr_format": 2} if _ZARR_3 else {"zarr_version": 2}))
        source = session.source
        root.attrs.update(
            format=_FORMAT,
            version=_VERSION,
            identifier=source.identifier,
            session_id=source.session_id,
            session_start_time=source.session_start_time,
            source_path=source.path,
            source_checksum=source.checksum,
            extent=None if session.extent is None else list(session.extent),
        )
        _put(root, "spike_times", session.spike_times, ["spike"])
        _put(root, "spike_times_index", session.spike_times_index, ["unit"])
        _put(root, "unit_id", session.units["unit"].values, ["unit"])
        if session.observed is not None:
            _put(root, "obs_intervals", session.observed.intervals, ["obs_interval", "bound"])
            _put(root, "obs_intervals_index", session.observed.index, ["unit"])
        _put_dataset(root.create_group("units"), session.units.drop_vars("unit"))
        intervals, behavior = root.create_group("intervals"), root.create_group("behavior")
        for name, table in session.intervals.items():
            _put_dataset(intervals.create_group(_key(name)), table)
        for name, series in session.behavior.items():
            group = behavior.create_group(_key(name))
            group.attrs["name"] = series.name
            _put_dataset(group, series.to_dataset(name="data"))
        if not _ZARR_3:
            zarr.consolidate_metadata(str(store))
    return Path(path)


def read_zarr(path: str | os.PathLike[str]) -> Session:
    """Read a session from a zarr store.

    Raises InputError for a store of another kind, of a newer version or with pickled objects, for one that is
    damaged, and for spike times that are NaN.
    """
    path = Path(path).absolute()
    try:
        with checked():
            return _read(path)
    except InputError:
        raise
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InputError(f"{path}: is a damaged zarr store ({reason}); write or copy it again") from error


def _read(path: Path) -> Session:
    if (path / "zarr.json").exists():
        raise InputError(f"{path}: is zarr format 3; write the session with Session.to_zarr or zarr_format=2")
    if (path / ".zarray").exists():
        raise InputError(f"{path}: is a zarr array, not a session; give the store that Session.to_zarr wrote")
    check_arrays(path)
    root = zarr.open_group(str(path), mode="r", **({"zarr_format": 2, "use_consolidated": False} if _ZARR_3 else {}))
    attrs = dict(root.attrs)
    if "nwb_version" in attrs or ".specloc" in attrs:
        raise InputError(f"{path}: is NWB in zarr, which is not read yet; export it to HDF5 with hdmf-zarr")
    if attrs.get("format") == _FORMAT and attrs.get("version", 0) > _VERSION:
        raise InputError(f"{path}: was written by a newer ldmfilter; install that version or write it again")
    arrays = set(root.array_keys())
    missing = sorted({"spike_times", "spike_times_index"} - arrays)
    if missing:
        raise InputError(f"{path}: holds no {' and no '.join(missing)}; give a store that Session.to_zarr wrote")
    # A chunk that is not there reads as zeros; a store of our own has all its chunks.
    complete = attrs.get("format") == _FORMAT

    def get(key: str) -> tuple[Array, tuple[str, ...], dict[str, Any]]:
        return _get(root, path, key, complete)

    index = get("spike_times_index")[0].astype(np.int64)
    ids = get("unit_id")[0] if "unit_id" in arrays else np.arange(len(index))
    times = check_spikes(get("spike_times")[0].astype(np.float64), index, ids, where=str(path))
    units = xr.Dataset(coords={"unit": ids})
    for name in sorted(arrays - _OWN_ARRAYS):
        units[name] = ("unit", get(name)[0])
    if "units" in root:
        units = units.merge(_dataset(root, path, "units", "unit", complete))
    observed = None
    if "obs_intervals" in arrays:
        observed = Observed(get("obs_intervals")[0], get("obs_intervals_index")[0])
    intervals = {}
    for key in _groups(root, "intervals"):
        intervals[unquote(key)] = table = _dataset(root, path, f"intervals/{key}", "interval", complete)
        if not {"start_time", "stop_time"} <= set(table):
            raise InputError(f"{path}: intervals/{key}: no start_time or no stop_time; write the table anew")
    behavior = {}
    for key in _groups(root, "behavior"):
        series = _dataset(root, path, f"behavior/{key}", "time", complete)
        if "time" not in series.coords or len(series) != 1:
            raise InputError(f"{path}: behavior/{key}: needs `time` and one more array; write the series anew")
        if any(one.dims[:1] != ("time",) for one in series.values()):
            raise InputError(f"{path}: behavior/{key}: its first dim is not `time`; write the series anew")
        name = root[f"behavior/{key}"].attrs.get("name", unquote(key))
        behavior[unquote(key)] = next(iter(series.values())).rename(name)
    source = Source(
        path=str(path),
        identifier=str(attrs.get("identifier", "")),
        session_id=str(attrs.get("session_id", "")),
        session_start_time=str(attrs.get("session_start_time", "")),
        checksum=_checksum(path),
    )
    extent = root.attrs.get("extent")
    bounds = None if extent is None else (float(extent[0]), float(extent[1]))
    return Session(times, index, units, intervals, behavior, observed, source, bounds)


def _key(name: str) -> str:
    """A name as a key that is one folder within the store: no separators, no leading dot."""
    return re.sub(r"^\.", "%2E", quote(name, safe=" "))


def _put(group: Any, name: str, values: Array, dims: list[str], attrs: dict[Hashable, Any] | None = None) -> None:
    values = np.ascontiguousarray(values)
    if values.dtype.kind not in "biufU":
        raise InputError(f"{name}: values of type {values.dtype} cannot be stored; use numbers, bools or strings")
    if _ZARR_3:
        array = group.create_array(name, data=values, config={"write_empty_chunks": True})
    else:
        array = group.create_dataset(name, data=values)
    plain = {str(key): v.item() if isinstance(v, np.generic) else v for key, v in (attrs or {}).items()}
    array.attrs.update({**plain, _DIMS: dims})


def _put_dataset(group: Any, dataset: xr.Dataset) -> None:
    keys = {str(name): _key(str(name)) for name in dataset.variables}
    for name, variable in dataset.variables.items():
        _put(group, keys[str(name)], variable.values, [str(dim) for dim in variable.dims], variable.attrs)
    group.attrs["coordinate_names"] = [str(name) for name in dataset.coords]
    group.attrs["order"] = [str(name) for name in dataset.data_vars]


def check_arrays(path: Path, long_text: bool = False) -> None:
    """Look at every array of a store before zarr opens one.

    long_text: let in text of any length, as xarray writes it: it is bytes too

    Raises InputError for one that might run code, and as `check_links`; what json and its values raise where metadata
    are damaged.
    """
    check_links(path)
    for metadata in sorted(path.rglob(".zarray")):
        _refuse_code(metadata, f"{path}: {metadata.parent.relative_to(path).as_posix()}", long_text)


def check_links(path: Path) -> None:
    """Raises InputError for a link within a store, which could hide an array or lead to any file."""
    for folder, below, files in os.walk(path):
        for name in (*below, *files):
            if os.path.islink(os.path.join(folder, name)):
                raise InputError(f"{Path(folder, name)}: is a link within a store, refused; copy what it leads to")


def _refuse_code(metadata: Path, where: str, long_text: bool = False) -> None:
    """Check an array's metadata before zarr sees them: it unpickles the fill value of objects on opening."""
    described = json.loads(metadata.read_text(encoding="utf-8"))
    codecs = [codec["id"] for codec in [described["compressor"], *(described["filters"] or [])] if codec]
    dtype = described["dtype"]
    if long_text and dtype == "|O" and "vlen-utf8" in codecs:
        codecs.remove("vlen-utf8")
        dtype = "<U1"
    foreign = [codec for codec in codecs if codec not in _PLAIN_CODECS]
    if foreign or not (isinstance(dtype, str) and _PLAIN_DTYPE.fullmatch(dtype)):
        what = f"codec {foreign[0]}" if foreign else f"type {dtype}"
        raise UnsafeInputError(f"{where}: {what} is refused, it may run code; store numbers, bools or fixed-width text")


def _get(root: Any, path: Path, key: str, complete: bool) -> tuple[Array, tuple[str, ...], dict[str, Any]]:
    """Values, dims and attributes of an array."""
    array = root[key]
    if complete and math.prod(array.shape) and array.nchunks_initialized < array.nchunks:
        lost = array.nchunks - array.nchunks_initialized
        raise InputError(f"{path}: {key}: {lost} chunks are missing; copy it again")
    attrs = dict(array.attrs)
    dims = tuple(attrs.pop(_DIMS, ()))
    return np.asarray(array[...]), dims, attrs


def _dataset(root: Any, path: Path, key: str, dim: str, complete: bool) -> xr.Dataset:
    """A group of arrays along `dim`; dims, coordinates and order as noted, or guessed in a foreign store."""
    group = root[key]
    variables = {}
    for name in group.array_keys():
        values, dims, attrs = _get(root, path, f"{key}/{name}", complete)
        variables[unquote(name)] = xr.Variable(dims or (dim, f"{name}_item")[: values.ndim], values, attrs)
    coordinates = group.attrs.get("coordinate_names", [dim] if dim in variables else [])
    order = group.attrs.get("order", sorted(set(variables) - set(coordinates)))
    return xr.Dataset({name: variables[name] for name in order}, {name: variables[name] for name in coordinates})


def _groups(root: Any, key: str) -> list[str]:
    return sorted(root[key].group_keys()) if key in root else []


def _checksum(path: Path) -> str:
    digest = hashlib.sha256()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes())
    return f"sha256:{digest.hexdigest()}"


def _check_replaceable(path: Path) -> None:
    """Raises: InputError where something lies at the path that is no zarr store."""
    if path.exists() and not any((path / name).exists() for name in (".zgroup", ".zarray", "zarr.json")):
        raise InputError(f"{path}: is no zarr store and is not overwritten; give another path")
