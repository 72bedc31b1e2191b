"""The zarr layout of a session, and its writing; `formats.arrays` reads it. Zarr format 2, with zarr 2 and 3 alike.

    spike_times (spike,), spike_times_index (unit,), unit_id (unit,)
    units/<column> (unit,), or the column beside unit_id
    intervals/<table>/<column> (interval, ...), among them start_time and stop_time, s
    behavior/<path>/data (time, ...) and time (time,)
    signal/data (time, unit), NaN where missing, and time (time,), s, of a SignalSession, whose spike_times are empty

Names of tables and series are quoted as in a URL, so that none can lead out of the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import xarray as xr
import zarr

from ldmfilter.data.untrusted.zarr_store import ZARR_3, is_store
from ldmfilter.errors import InputError
from ldmfilter.files import AnyPath, replacing

if TYPE_CHECKING:
    from ldmfilter.data.session import Session

FORMAT = "ldmfilter-session"
VERSION = 1
DIMS = "_ARRAY_DIMENSIONS"  # the attribute in which xarray finds the names of dims


def write_session(session: Session, path: AnyPath, overwrite: bool = False) -> Path:
    """Write a session as a zarr store, whole or not at all, and return its path.

    Raises InputError where the path exists and `overwrite` is not set or it is no zarr store, and where it
    cannot be written.
    """
    path = Path(path)
    if overwrite and path.exists() and not is_store(path):
        raise InputError(f"{path}: is no zarr store and is not overwritten; give another path")
    source, signal = session.source, getattr(session, "signal", None)
    if signal is None and hasattr(session, "bin_size"):  # a BinnedSession
        raise InputError(f"{source.path}: counts that came binned have no spike times to write; keep that file")
    with replacing(path, overwrite) as store:
        root = zarr.open_group(str(store), mode="w", **({"zarr_format": 2} if ZARR_3 else {"zarr_version": 2}))
        root.attrs.update(
            format=FORMAT,
            version=VERSION,
            identifier=source.identifier,
            session_id=source.session_id,
            session_start_time=source.session_start_time,
            source_path=source.path,
            source_checksum=source.checksum,
            extent=None if session.extent is None else list(session.extent),
        )
        arrays = {
            "spike_times": xr.Variable("spike", session.spike_times),
            "spike_times_index": xr.Variable("unit", session.spike_times_index),
            "unit_id": session.units["unit"].variable,
        }
        if session.observed is not None:
            arrays["obs_intervals"] = xr.Variable(("obs_interval", "bound"), session.observed.intervals)
            arrays["obs_intervals_index"] = xr.Variable("unit", session.observed.index)
        _put_arrays(root, arrays)
        _put_dataset(root.create_group("units"), session.units.drop_vars("unit"))
        intervals, behavior = root.create_group("intervals"), root.create_group("behavior")
        for name, table in session.intervals.items():
            _put_dataset(intervals.create_group(key_of(name)), table)
        series = [(behavior.create_group(key_of(name)), one) for name, one in session.behavior.items()]
        if signal is not None:
            series.append((root.create_group("signal"), signal.drop_vars("unit")))
        for group, one in series:
            group.attrs["name"] = one.name
            _put_dataset(group, one.to_dataset(name="data"))
        if not ZARR_3:
            zarr.consolidate_metadata(str(store))
    return path


def key_of(name: str) -> str:
    """A name as a key that is one folder within the store: no separators, no leading dot."""
    return re.sub(r"^\.", "%2E", quote(name, safe=" "))


def _put_dataset(group: Any, dataset: xr.Dataset) -> None:
    _put_arrays(group, {str(name): variable for name, variable in dataset.variables.items()})
    group.attrs["order"] = [str(name) for name in dataset.data_vars]


def _put_arrays(group: Any, variables: Mapping[str, xr.Variable]) -> None:
    # No fill value: of zarr's own, 0, xarray would take every zero as missing.
    create = partial(group.create_array, config={"write_empty_chunks": True}) if ZARR_3 else group.create_dataset
    for name, variable in variables.items():
        values = np.ascontiguousarray(variable.values)
        if values.dtype.kind not in "biufU":
            raise InputError(f"{name}: values of type {values.dtype} cannot be stored; use numbers, bools or strings")
        array = create(key_of(name), data=values, fill_value=None)
        plain = {str(key): v.item() if isinstance(v, np.generic) else v for key, v in variable.attrs.items()}
        array.attrs.update({**plain, DIMS: [str(dim) for dim in variable.dims]})
