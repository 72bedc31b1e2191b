"""From a file to counts: sessions, their readers, and bins."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmfilter.data.untrusted.remote import is_nwb_in_zarr, remote_address
from ldmfilter.errors import InputError

if TYPE_CHECKING:
    from ldmfilter.data.session import Session

#: The formats that can be read, and where: a module of this package and its function.
FORMATS = {
    "nwb": ("nwb", "read_nwb"),
    "zarr": ("zarr", "read_zarr"),
    "phy": ("sorting", "read_phy"),
    "kilosort": ("sorting", "read_phy"),
    "sorting": ("sorting", "read_sorting"),
    "analyzer": ("sorting", "read_analyzer"),
    "pynapple": ("pynapple", "read_pynapple"),
    "counts": ("binned", "read_counts"),
}
_FOLDERS, _FILES = {"zarr", "phy", "kilosort", "sorting", "analyzer"}, {"pynapple"}

# The superblock of an HDF5 file starts at byte 0 or, behind a user block, at 512, 1024, 2048, ...
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512, 1024, 2048)
_ZARR_METADATA = (".zgroup", ".zmetadata", "zarr.json", ".zarray")


def read_session(path: str | os.PathLike[str], format: str | None = None, bin_size: float | None = None) -> Session:
    """Read a session from any of the formats in `FORMATS`.

    nwb: NWB in HDF5, here or at an https:// address, or in zarr. zarr: what `Session.to_zarr` wrote. phy, kilosort:
    a sorter's folder. sorting, analyzer: what SpikeInterface saved, as a folder or in zarr. pynapple: a TsGroup saved
    as .npz. counts: binned already, in netCDF, zarr, .npz or .npy; they give a `BinnedSession`.

    format: one of these names; without it the content decides, not the name
    bin_size: s, of counts that do not say it themselves

    Raises InputError, one line, for a file that is missing, empty, truncated or of another kind, and for a session
    without units or with spike times that are NaN.
    """
    if format is not None and format not in FORMATS:
        raise InputError(f"{path}: no format {format!r}; the formats are {', '.join(FORMATS)}")
    if remote_address(path) is not None:
        if format not in (None, "nwb"):
            raise InputError(f"{path}: only NWB is read from a server, not {format}; download it")
        name = "nwb"
    else:
        path = Path(path)
        name = format or _recognised(path)
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        if (name in _FOLDERS and not path.is_dir()) or (name in _FILES and path.is_dir()):
            kind = "folder" if path.is_dir() else "file"
            raise InputError(f"{path}: is a {kind}, which no session of format {name} is; let its content decide")
    module, function = FORMATS[name]
    # The readers need seconds to import, so only the one that is used is loaded.
    read = getattr(importlib.import_module(f"ldmfilter.data.formats.{module}"), function)
    try:
        session: Session = read(path, bin_size) if function == "read_counts" else read(path)
        return replace(session, source=replace(session.source, format=format or ""))
    except MemoryError as error:
        reason = (str(error).splitlines() or ["out of memory"])[0]
        raise InputError(f"{path}: needs more memory than there is ({reason}); is it damaged, or too large?") from error


def _recognised(path: Path) -> str:
    """The format of what lies at a path. Raises InputError where there is nothing, or nothing known."""
    if path.is_dir():
        if (path / "spikeinterface_info.json").exists():
            return "analyzer"
        if (path / "numpysorting_info.json").exists():
            return "sorting"
        if (path / "spike_times.npy").exists():
            return "phy"
        if not any((path / name).exists() for name in _ZARR_METADATA):
            raise InputError(f"{path}: is a folder without zarr metadata; give an NWB file or a session in zarr")
        return _recognised_store(path)
    try:
        with path.open("rb") as file:
            start = file.read(_HDF5_OFFSETS[-1] + len(_HDF5_SIGNATURE))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the permissions and the disk") from error
    if not start:
        raise InputError(f"{path}: is empty; copy or download it again")
    if start.startswith((b"\x93NUMPY", b"CDF\x01", b"CDF\x02", b"CDF\x05")):
        return "counts"
    if start.startswith(b"PK\x03\x04"):
        return _recognised_npz(path)
    if not any(start[offset:].startswith(_HDF5_SIGNATURE) for offset in _HDF5_OFFSETS):
        raise InputError(f"{path}: is not an NWB file (no HDF5 signature); give an NWB file or a session in zarr")
    return "counts" if _is_netcdf(path) else "nwb"


def _recognised_store(path: Path) -> str:
    if is_nwb_in_zarr(path):
        return "nwb"
    if "spikeinterface_info" in _metadata(path / ".zattrs"):
        return "analyzer"
    if (path / "spikes" / "sample_index").is_dir():
        return "sorting"
    if not (path / "spike_times").is_dir():
        for array in path.glob("*/.zattrs"):
            dims = _metadata(array).get("_ARRAY_DIMENSIONS")
            if isinstance(dims, list) and {"time", "unit"} == set(map(str, dims)):
                return "counts"
    return "zarr"


def _recognised_npz(path: Path) -> str:
    import zipfile

    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path}: is a damaged .npz file ({error}); write or copy it again") from error
    # Whatever pynapple saves says its type and has a time support.
    return "pynapple" if {"type", "start", "end"} <= names else "counts"


def _is_netcdf(path: Path) -> bool:
    """Whether an HDF5 file that is no NWB holds what netCDF writes: arrays with named dims."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            if "nwb_version" in file.attrs or "nwb_version" in file:
                return False
            arrays = [item for item in file.values() if isinstance(item, h5py.Dataset)]
            return "_NCProperties" in file.attrs or any("DIMENSION_LIST" in array.attrs for array in arrays)
    except (OSError, RuntimeError, KeyError, ValueError):
        return False  # the reader of NWB says what is wrong


def _metadata(path: Path) -> dict[str, Any]:
    """The attributes of a zarr group or array; empty where there are none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
