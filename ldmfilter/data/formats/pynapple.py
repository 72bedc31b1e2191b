"""pynapple's objects, in memory and as pynapple saves them (.npz) -> Session."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ldmfilter.data.formats.binned import BinnedSession, from_counts
from ldmfilter.data.session import Observed, Session, Source
from ldmfilter.data.tables import Array, Floats, check_spikes, make_intervals, make_table, plain_array
from ldmfilter.data.untrusted.npy import file_checksum, read_member, read_npz
from ldmfilter.errors import InputError

if TYPE_CHECKING:
    from pynapple import TsdFrame, TsGroup

#: Name of the interval table that a time support becomes.
SUPPORT = "time_support"
# pynapple keeps the columns of units as one pickled dict; one without columns ends so.
_METADATA, _EMPTY_DICT = "_metadata", b"]\x94}\x94at\x94b."


def from_pynapple(group: TsGroup | TsdFrame) -> Session:
    """A session from a TsGroup, or from counts (time, unit) that came out of `TsGroup.count`.

    Metadata columns become unit columns, the time support the time that the units were observed and the interval
    table "time_support". Raises InputError for other objects, and for counts that are none.
    """
    kind = type(group).__name__
    if kind not in ("TsGroup", "TsdFrame"):
        raise InputError(f"memory: a {kind} of pynapple holds no units; give a TsGroup, or a TsdFrame of counts")
    metadata: Any = group.metadata
    columns = {str(name): np.asarray(metadata[name]) for name in metadata.columns if name != "rate"}
    support: Any = group.time_support
    bounds = np.stack([np.asarray(support.start), np.asarray(support.end)], axis=1)
    if kind == "TsdFrame":
        frame: Any = group
        return _binned(frame.times(), frame.values, np.asarray(frame.columns), columns, bounds, Source())
    members: Any = group
    ids = np.asarray(list(members.keys()))
    trains = [np.asarray(members[unit].times(), dtype=np.float64) for unit in ids.tolist()]
    index = np.cumsum([len(train) for train in trains], dtype=np.int64)
    return _session(np.concatenate([np.empty(0), *trains]), index, ids, columns, bounds, Source())


def read_pynapple(path: str | os.PathLike[str]) -> Session:
    """Read a TsGroup, or a TsdFrame of counts, that pynapple saved as .npz.

    pynapple pickles the columns of units: they are left out with a warning. Load such a file with pynapple, where you
    trust it, and use `from_pynapple`.

    Raises InputError for a file that is missing, damaged or of another kind, and as `from_pynapple`.
    """
    path = Path(path).absolute()
    where = str(path)
    arrays = read_npz(path, skip=(_METADATA,))
    kind = str(arrays["type"].ravel()[0]) if "type" in arrays and arrays["type"].size == 1 else "no type"
    wanted = {"TsGroup": ("t", "index", "start", "end"), "TsdFrame": ("t", "d", "columns", "start", "end")}.get(kind)
    if wanted is None:
        raise InputError(f"{where}: holds {kind}, not units; save a TsGroup, or a TsdFrame of counts, with pynapple")
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise InputError(f"{where}: a {kind} without {' and '.join(missing)}; save it again with pynapple")
    if _has_columns(path):
        warnings.warn(
            f"{where}: unit columns left out, pynapple pickles them, which may run code; where you trust the file, "
            "use ldmfilter.data.formats.pynapple.from_pynapple",
            stacklevel=3,
        )
    source = Source(path=where, checksum=file_checksum(path))
    for name in ("t", "start", "end"):
        if arrays[name].dtype.kind not in "uif" or arrays[name].ndim != 1:
            raise InputError(f"{where}: {name} holds no times; save it again with pynapple")
    if arrays["start"].shape != arrays["end"].shape:
        raise InputError(f"{where}: start and end of its time support differ in length; save it again with pynapple")
    bounds = np.stack([arrays["start"], arrays["end"]], axis=1).astype(np.float64)
    times = arrays["t"].astype(np.float64)
    if kind == "TsdFrame":
        return _binned(times, arrays["d"], arrays["columns"], {}, bounds, source)
    owner = arrays["index"]
    ids = arrays.get("keys", np.unique(owner))
    for name, numbers in (("index", owner), ("keys", ids)):
        if numbers.dtype.kind not in "uif" or numbers.ndim != 1:
            raise InputError(f"{where}: {name} holds no numbers of units; save it again with pynapple")
    if owner.shape != times.shape or not np.isin(owner, ids).all():
        raise InputError(f"{where}: spikes do not fit its units; save it again with pynapple")
    trains = [times[owner == unit] for unit in ids]
    index = np.cumsum([len(train) for train in trains], dtype=np.int64)
    return _session(np.concatenate([np.empty(0), *trains]), index, ids, {}, bounds, source)


def _session(
    times: Floats, index: Array, ids: Array, columns: dict[str, Array], bounds: Floats, source: Source
) -> Session:
    where = source.path
    if not len(ids):
        raise InputError(f"{where}: has no units; save a TsGroup that has some")
    observed = Observed(np.tile(bounds, (len(ids), 1)), np.arange(1, len(ids) + 1) * len(bounds))
    return Session(
        check_spikes(times, index, ids, where=where),
        index,
        make_table(_plain(columns), "unit", ids, where),
        {SUPPORT: _support(bounds, where)},
        observed=observed,
        source=source,
    )


def _binned(
    times: Floats, counts: Array, ids: Array, columns: dict[str, Array], bounds: Floats, source: Source
) -> BinnedSession:
    where = source.path
    if counts.shape != (len(times), len(ids)):
        raise InputError(f"{where}: counts have shape {counts.shape} for {len(times)} times and {len(ids)} columns")
    names = plain_array(ids)
    table = xr.DataArray(counts, dims=("time", "unit"), coords={"time": times, "unit": ids if names is None else names})
    support = {SUPPORT: {"start_time": bounds[:, 0], "stop_time": bounds[:, 1]}}
    return from_counts(table, units=_plain(columns), intervals=support, source=source)


def _plain(columns: dict[str, Array]) -> dict[str, Array]:
    plain = {name: plain_array(values) for name, values in columns.items() if values.ndim == 1}
    return {name: values for name, values in plain.items() if values is not None}


def _support(bounds: Floats, where: str) -> xr.Dataset:
    return make_intervals({"start_time": bounds[:, 0], "stop_time": bounds[:, 1]}, f"{where}: {SUPPORT}")


def _has_columns(path: Path) -> bool:
    """Whether the pickled columns are more than an empty dict; their bytes are looked at, not loaded."""
    content = read_member(path, f"{_METADATA}.npy")
    return content is not None and not content.endswith(_EMPTY_DICT)
