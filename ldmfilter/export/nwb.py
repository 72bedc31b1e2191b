"""States as a module of their session's NWB file.

The module is written as HDF5, by the schema of NWB 2.x (https://nwb-schema.readthedocs.io), and not through pynwb:
whatever else the file holds is copied as it is and need not be understood, extensions that are not installed and
objects that break the schema included.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Any

import h5py
import numpy as np
import xarray as xr

from ldmfilter.data.formats.format import file_checksum
from ldmfilter.data.untrusted.damage import damage
from ldmfilter.data.untrusted.remote import is_nwb_in_zarr, remote_address
from ldmfilter.errors import InputError
from ldmfilter.export.latents import (
    BLOCK,
    Column,
    Follow,
    attributes,
    blocks,
    check_export,
    full_disks,
    reserve,
    segments,
    series,
)
from ldmfilter.files import AnyPath, replacing
from ldmfilter.filter.latents import check_latents

MODULE = "processing/ldmfilter"

_NEVER = "states are written into NWB in HDF5 only; choose another format to export to"
_STATES = {
    "segment": "number of the gap-free stretch that a bin belongs to, -1 outside of all",
    "observed": "whether the bin was observed; where not, states are predictions",
    "trained": "whether the model was trained on the bin",
    "filtered": "state given what was recorded up to its bin (t|t)",
    "predicted": "state given what was recorded before its bin (t|t-1)",
    "smoothed": "state given all of its segment (t|T)",
    "lagged": "state given what was recorded up to {lag} after its bin, in whole frames of its kind (t|t+lag)",
    "ahead": "state {ahead} after its bin, given what was recorded up to the bin (t+ahead|t)",
    "rate": "expected rate of each unit given the filtered state; the comments hold the id of each column's unit",
    "rate_ahead": "expected rate of each unit {ahead} after a bin, given what was recorded up to the bin (t+ahead|t); "
    "the comments hold the id of each column's unit",
    "innovation": "what the encoder sees in a bin less what was predicted (t, given t-1)",
}
_PARTS = {
    "mean": "mean",
    "cov": "covariance",
    "lower": "lower bound of the interval",
    "upper": "upper bound of the interval",
    "true": "as it was measured, at the middle of the bin",
    "probability": "probability of each class, whose labels the comments hold",
    "read": "the most probable class",
    "fold": "fold of a bin that was read by readouts of other blocks, or -1",
}


def to_nwb(
    latents: xr.Dataset,
    session: AnyPath,
    out: AnyPath | None = None,
    overwrite: bool = False,
    in_place: bool = False,
    follow: Follow = iter,
) -> Path:
    """Write states into a copy of their NWB file, as the module `processing/ldmfilter`.

    All that the file holds stays as it is, identifier, links and external data included: relative paths to other
    files are written anew where the copy lies in another folder. The module holds a TimeSeries for each variable,
    with bin centres as timestamps (s): filtered_mean (time, state), filtered_cov (time, state, state_2), the bounds
    filtered_lower and filtered_upper (time, state), the means and covariances of predicted and, where there are any,
    smoothed and lagged states and forecasts (as ahead_0.5s_mean), the innovations, observed, trained and segment
    (time,), the rates, and each decoded behaviour in its unit with its bounds; and `segments`, a table of the gap-free
    stretches. The attributes are JSON in the comments of filtered_mean, the ids of the units that the columns of rates
    belong to in the comments of these, and the labels of classes in those of their probabilities.

    Parameters
    ----------
    latents : xarray.Dataset
        As `LDMFilter.decode` or `read_latents` gives them.
    session : str or os.PathLike
        The NWB file (HDF5) that they were decoded from.
    out : str or os.PathLike, optional
        The copy.
    overwrite : bool
        Replace a copy, and a module `processing/ldmfilter`, that exist already.
    in_place : bool
        Write into `session` itself, by way of a copy that takes its place once it is whole. Its checksum is then
        another one, so that runs that were trained on it refuse it where they need their own session.
    follow : callable, optional
        Gets an iterator over the blocks that are written and passes them on: it shows how far the writing is.

    Returns
    -------
    Path
        The file that now holds the states.

    Raises
    ------
    InputError
        `session` is no NWB file in HDF5, is not what the states were decoded from, or holds such a module already; both
        or none of `out` and `in_place` are given; `out` exists or is the session itself; the disk refuses.

    Examples
    --------
    >>> ldmfilter.export.to_nwb(latents, "session.nwb", "session-latents.nwb")  # doctest: +SKIP
    """
    check_latents(latents)
    session = Path(session)
    if (out is None) != in_place:
        raise InputError(f"{session}: name a copy, or ask for in_place, one of the two")
    if out is not None:
        check_export("nwb", out, overwrite, [session])
    check_session(session, overwrite, in_place)
    target = session if out is None else Path(out)
    with replacing(target, overwrite or in_place) as scratch:
        before = session.stat()
        changed = f"{session}: is not the file that the states were decoded from, or has changed since; decode it again"
        shutil.copyfile(session, scratch)
        if file_checksum(scratch) != latents.attrs.get("source_checksum"):
            raise InputError(changed)
        reserve(scratch.parent, latents)
        with _damage(session), h5py.File(scratch, "r+") as file:
            _relocate(file, session, target.resolve().parent)
            _add_module(file, latents, follow)
        if in_place:
            shutil.copymode(session, scratch)
            with scratch.open("rb") as written:
                os.fsync(written.fileno())  # on the disk before the only other copy goes
            after = session.stat()
            if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
                raise InputError(changed)
    return target


def check_session(session: Path, overwrite: bool, in_place: bool) -> None:
    """Refuse a session that states cannot be written into.

    Raises InputError for what is no NWB file in HDF5 on this machine, holds the module already, or is read-only where
    it is written to in place.
    """
    from ldmfilter.data.formats.nwb_open import check_nwb  # pynwb, which other formats start without

    address = remote_address(session)
    for is_so, line in (
        (address, "lies on a server; download it, or choose another format to export to"),
        (not session.exists(), "no such file; say where the session lies now"),
        (is_nwb_in_zarr(session), f"is NWB in zarr; {_NEVER}"),
        (in_place and not os.access(session, os.W_OK), "is read-only; write into a copy, not in place"),
    ):
        if is_so:
            raise InputError(f"{address or session}: {line}")
    try:
        if session.is_file():
            session.open("rb").close()  # raises OSError with the reason where it cannot be read
        if not h5py.is_hdf5(session):
            raise InputError(f"{session}: is no NWB file; {_NEVER}")
        with _damage(session):
            check_nwb(str(session), session)
            with h5py.File(session, "r") as file:
                modules = file.get("processing", getlink=True)
                is_group = isinstance(modules, h5py.HardLink) and isinstance(file["processing"], h5py.Group)
                if modules is not None and not is_group:
                    raise InputError(
                        f"{session}: its processing modules are a link or no group; choose another format to export to"
                    )
                if modules is not None and "ldmfilter" in file["processing"] and not overwrite:
                    raise InputError(
                        f"{session}: holds {MODULE} already; overwrite it, or choose another format to export to"
                    )
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise InputError(
            f"{session}: cannot be read ({reason}); close programs that write to it and check the permissions"
        ) from error


@contextmanager
def _damage(session: Path) -> Iterator[None]:
    """Turn errors of damaged files into one line. A full disk stays an OSError."""
    with damage(session, "NWB file", "copy or download it again", (RuntimeError, ValueError, LookupError, TypeError)):
        try:
            with full_disks():
                yield
        except OSError as error:
            if error.errno is not None:
                raise
            raise RuntimeError(*error.args) from error  # HDF5's own


def _relocate(file: h5py.File, session: Path, folder: Path) -> None:
    """Write relative paths to other files anew for a copy that lies in `folder`.

    HDF5 looks for them from where a file lies, or from where it really lies if its name is a link.
    """
    homes = [session.absolute().parent, session.resolve().parent]
    if folder == homes[1] == homes[0].resolve():
        return
    links: list[tuple[str, h5py.ExternalLink]] = []
    lists: list[str] = []

    def look(name: str, link: Any) -> str | None:
        if isinstance(link, h5py.ExternalLink):
            links.append((name, link))
        item = file[name] if isinstance(link, h5py.HardLink) else None
        if isinstance(item, h5py.Dataset):
            if item.is_virtual and any(source.file_name != "." for source in item.virtual_sources()):
                return name  # ends the walk; an exception would be lost in HDF5
            if name.endswith("/external_file") and h5py.check_string_dtype(item.dtype):
                lists.append(name)
        return None

    virtual = file.visititems_links(look)
    if virtual is not None:
        raise InputError(f"{session}: {virtual} lies in other files; write the copy beside the session")
    for name, link in links:
        moved = _moved(link.filename, homes, folder)
        if moved != link.filename:
            del file[name]
            file[name] = h5py.ExternalLink(moved, link.path)
    for name in lists:
        paths = np.atleast_1d(file[name].asstr(errors="surrogateescape")[()])
        moved_paths = [_moved(str(path), homes, folder) for path in paths.ravel()]
        if moved_paths != paths.ravel().tolist():
            kept = dict(file[name].attrs)
            del file[name]
            values = np.asarray(moved_paths, dtype=object).reshape(paths.shape)
            file.create_dataset(name, data=values, dtype=h5py.string_dtype()).attrs.update(kept)


def _moved(path: str, homes: list[Path], folder: Path) -> str:
    """A path as seen from another folder; addresses and absolute ones stay.

    >>> _moved("video.avi", [Path("/data/session")], Path("/data"))
    'session/video.avi'
    >>> _moved("https://host/video.avi", [Path("/data/session")], Path("/data"))
    'https://host/video.avi'
    """
    if not path or "://" in path or os.path.isabs(path) or PureWindowsPath(path).drive:
        return path
    home = next((home for home in homes if (home / path).exists()), homes[0])
    there = (home / path).parent.resolve() / Path(path).name
    return Path(os.path.relpath(there, folder)).as_posix()


def _add_module(file: h5py.File, latents: xr.Dataset, follow: Follow) -> None:
    modules = file.require_group("processing")
    if "ldmfilter" in modules:
        del modules["ldmfilter"]
    about = attributes(latents)
    description = (
        f"Latent states of the population, a Gaussian a bin, by model {about.get('model_id', '')} of ldmfilter "
        f"{about.get('ldmfilter_version', '')}; settings are JSON in the comments of filtered_mean"
    )
    module = _typed(modules.create_group("ldmfilter"), "ProcessingModule", description=description)
    held = series(latents)
    arrays: list[h5py.Dataset] = []
    for one in held:
        values, name = one.of(latents), one.name
        comments = json.dumps(about) if name == "filtered_mean" else "no comments"
        # A TimeSeries cannot refer to rows of the units table, nor name its columns.
        if named := [str(dim) for dim in values.dims if dim == "unit" or str(dim).endswith("_class")]:
            comments = json.dumps({dim: latents[dim].to_numpy().tolist() for dim in named})
        description = _description(one, latents)
        group = _typed(module.create_group(name), "TimeSeries", description=description, comments=comments)
        chunks = (min(len(values), BLOCK // 4), *values.shape[1:])
        data = group.create_dataset(
            "data", values.shape, values.dtype, chunks=chunks, compression="gzip", compression_opts=1, shuffle=True
        )
        state = name.startswith(("filtered", "predicted", "smoothed", "lagged", "ahead", "innovation"))
        unit = one.unit or ("a.u." if state else "n.a.")
        data.attrs.update(unit=unit, conversion=1.0, offset=0.0, resolution=-1.0)
        if arrays:
            group["timestamps"] = h5py.SoftLink(f"{arrays[0].parent.name}/timestamps")
        else:
            time = latents["time"].to_numpy()
            stamps = group.create_dataset("timestamps", data=time, compression="gzip", shuffle=True)
            stamps.attrs.update(interval=np.int32(1), unit="seconds")
        arrays.append(data)
    _add_segments(module, latents)
    for where, part in follow(blocks(latents, held)):
        for one, data in zip(held, arrays, strict=True):
            data[where] = one.of(part).to_numpy()


def _add_segments(module: h5py.Group, latents: xr.Dataset) -> None:
    stretches = segments(latents)
    columns = {
        "start_time": (stretches["start"], "start of the first bin, s"),
        "stop_time": (stretches["stop"], "end of the last bin, s"),
        "segment": (stretches["segment"], _STATES["segment"]),
        "label": (stretches["label"].astype(object), "label of the interval that was decoded"),
    }
    names = np.asarray(list(columns), dtype=h5py.string_dtype())
    description = "Stretches of time without gaps, each filtered from its own start"
    table = _typed(module.create_group("segments"), "TimeIntervals", description=description, colnames=names)
    for name, (values, description) in columns.items():
        dtype = h5py.string_dtype() if values.dtype == object else values.dtype
        column = table.create_dataset(name, data=values.to_numpy(), dtype=dtype)
        _typed(column, "VectorData", "hdmf-common", description=description)
    _typed(table.create_dataset("id", data=np.arange(len(stretches))), "ElementIdentifiers", "hdmf-common")


def _typed(item: Any, name: str, namespace: str = "core", **about: Any) -> Any:
    """Make a group or dataset an object of the schema."""
    item.attrs.update(namespace=namespace, neurodata_type=name, object_id=str(uuid.uuid4()), **about)
    return item


def _description(one: Column, latents: xr.Dataset) -> str:
    """The description of a series.

    Of "filtered_lower", the first half says which states, the second what of them; else the first half is behaviour.
    """
    stem, _, part = one.name.rpartition("_")
    stem = next((name for name in ("ahead", "rate_ahead") if one.variable.startswith(name)), stem)
    ahead = f"{float(latents['ahead'][one.at['ahead']]):g} s" if "ahead" in one.at else ""
    lag = f"{float(latents.attrs['lag']):g} s" if "lag" in latents.attrs else "the lag"
    states = {name: text.format(ahead=ahead, lag=lag) for name, text in _STATES.items()}
    whole = stem if one.variable == stem else one.name  # the name of rates ahead ends with the horizon
    if whole in states:
        return states[whole].capitalize()
    level = latents[one.variable].attrs.get("level")
    what = _PARTS.get(part, part) + (f", level {float(level):g}" if level is not None else "")
    if stem in states:
        return f"{what.capitalize()}: {states[stem]}"
    path = str(latents[one.variable].attrs.get("path", stem)) + (f" {ahead} after its bin" if ahead else "")
    return f"{what.capitalize()}: behaviour {path}" + ("" if part in ("true", "fold") else ", read from the states")
