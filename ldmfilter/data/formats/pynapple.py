"""pynapple's objects, in memory and as pynapple saves them (.npz)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ldmfilter.data.binned import from_counts
from ldmfilter.data.clocks import PLAIN, Reading
from ldmfilter.data.formats.format import Format, file_checksum, starts_with
from ldmfilter.data.session import MEMORY, Observed, Session, Source
from ldmfilter.data.signal import from_signal
from ldmfilter.data.tables import Array, Floats, concatenate, plain_columns, shorten
from ldmfilter.data.untrusted.npy import npz_names, read_npz
from ldmfilter.errors import InputError, warn

if TYPE_CHECKING:
    from pynapple import TsdFrame, TsGroup

#: Name of the interval table that a time support becomes.
SUPPORT = "time_support"
# pynapple keeps the columns of units as one pickled dict; one without columns ends so.
_METADATA, _EMPTY_DICT = "_metadata", b"]\x94}\x94at\x94b."
# The arrays in a file of each type.
_OWN = {"t", "d", "index", "start", "end", "keys", "type", "rate", "file_array"}
_ARRAYS = {"TsGroup": ("t", "index", "start", "end"), "TsdFrame": ("t", "d", "columns", "start", "end")}


def from_pynapple(group: TsGroup | TsdFrame) -> Session:
    """A session from a TsGroup, or from counts (time, unit) that came out of `TsGroup.count`.

    Metadata columns become unit columns, the time support the time that the units were observed and the interval
    table "time_support". Raises InputError for other objects, and for counts that are none.
    """
    kind = type(group).__name__
    if kind not in _ARRAYS:
        raise InputError(f"memory: a {kind} of pynapple holds no units; give a TsGroup, or a TsdFrame of counts")
    item: Any = group
    columns = {str(name): np.asarray(item.metadata[name]) for name in item.metadata.columns if name != "rate"}
    bounds = np.stack([np.asarray(item.time_support.start), np.asarray(item.time_support.end)], axis=1)
    parts = _parts(plain_columns(columns), bounds, MEMORY, PLAIN)
    if kind == "TsdFrame":
        return _of_counts(item.times(), item.values, np.asarray(item.columns), parts)
    ids = np.asarray(list(item.keys()))
    return _of_trains([item[unit].times() for unit in ids.tolist()], ids, bounds, parts)


def read_pynapple(path: Path, reading: Reading = PLAIN) -> Session:
    """Read a TsGroup, or a TsdFrame of counts, that pynapple saved as .npz.

    pynapple pickles the columns of units: they are left out with a warning. Load such a file with pynapple, where you
    trust it, and use `from_pynapple`.

    Raises InputError for a file that is missing, damaged or of another kind, and as `from_pynapple`.
    """
    where, again = str(path), "save it again with pynapple"
    arrays = read_npz(path, raw=_METADATA)
    pickled = arrays.pop(_METADATA, _EMPTY_DICT)  # looked at, not loaded
    kind = str(arrays["type"].ravel()[0]) if "type" in arrays and arrays["type"].size == 1 else "no type"
    if kind not in _ARRAYS:
        raise InputError(f"{where}: holds {kind}, not units; save a TsGroup, or a TsdFrame of counts, with pynapple")
    missing = [name for name in _ARRAYS[kind] if name not in arrays]
    if missing:
        raise InputError(f"{where}: a {kind} without {' and '.join(missing)}; {again}")
    if not pickled.endswith(_EMPTY_DICT):
        warn(
            f"{where}: unit columns left out, pynapple pickles them, which may run code; where you trust the file, "
            "use ldmfilter.data.formats.pynapple.from_pynapple"
        )

    def numbers(name: str, of: str) -> Array:
        if arrays[name].dtype.kind not in "uif" or arrays[name].ndim != 1:
            raise InputError(f"{where}: {name} holds no {of}; {again}")
        return arrays[name]

    times, start, end = (numbers(name, "times").astype(np.float64) for name in ("t", "start", "end"))
    if start.shape != end.shape:
        raise InputError(f"{where}: start and end of its time support differ in length; {again}")
    bounds, source = np.stack([start, end], axis=1), Source(path=where, checksum=file_checksum(path))
    if kind == "TsdFrame":
        return _of_counts(times, arrays["d"], arrays["columns"], _parts({}, bounds, source, reading))
    owner = numbers("index", "numbers of units")
    ids = numbers("keys", "numbers of units") if "keys" in arrays else np.unique(owner)
    if owner.shape != times.shape or not np.isin(owner, ids).all():
        raise InputError(f"{where}: spikes do not fit its units; {again}")
    # pynapple before 0.8 saved each column as an array of its own.
    more = {name: array for name, array in arrays.items() if name not in _OWN and array.shape == ids.shape}
    columns = plain_columns(more)
    lost = sorted(set(arrays) - _OWN - set(columns))
    if lost:
        warn(f"{where}: left out {shorten(lost)}, no column of numbers or text a unit")
    return _of_trains([times[owner == unit] for unit in ids], ids, bounds, _parts(columns, bounds, source, reading))


def _parts(columns: dict[str, Array], bounds: Floats, source: Source, reading: Reading) -> dict[str, Any]:
    """The arguments that sessions of spikes and of counts share."""
    support = {SUPPORT: {"start_time": bounds[:, 0], "stop_time": bounds[:, 1]}}
    return {"units": columns, "intervals": support, "source": source, "reading": reading}


def _of_trains(trains: list[Floats], ids: Array, bounds: Floats, parts: dict[str, Any]) -> Session:
    if not len(ids):
        raise InputError(f"{parts['source'].path}: has no units; save a TsGroup that has some")
    return Session.checked(*concatenate(trains), ids, observed=Observed.from_units([bounds] * len(ids)), **parts)


def _of_counts(times: Floats, counts: Array, ids: Array, parts: dict[str, Any]) -> Session:
    if counts.shape != (len(times), len(ids)):
        shapes = f"shape {counts.shape} for {len(times)} times and {len(ids)} columns"
        raise InputError(f"{parts['source'].path}: counts have {shapes}")
    table = xr.DataArray(counts, dims=("time", "unit"), coords={"time": times, "unit": ids})
    if counts.dtype.kind == "f" and (counts[np.isfinite(counts)] % 1).any():  # no counts: a signal
        return from_signal(table, name="frames", **parts)
    return from_counts(table, **parts)


def _recognises(path: Path) -> bool:
    return starts_with(path, b"PK\x03\x04") and {"type", "start", "end"} <= npz_names(path)


FORMATS = {"pynapple": Format(recognises=_recognises, read=read_pynapple, lies_in="file")}
