"""From a file to counts: sessions, their readers, and bins."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from ldmfilter.errors import InputError

if TYPE_CHECKING:
    from ldmfilter.data.session import Session

# The superblock of an HDF5 file starts at byte 0 or, behind a user block, at 512, 1024, 2048, ...
_HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512, 1024, 2048)
_ZARR_METADATA = (".zgroup", ".zmetadata", "zarr.json", ".zarray")


def read_session(path: str | os.PathLike[str]) -> Session:
    """Read a session from an NWB file (HDF5) or from a zarr store that `Session.to_zarr` wrote.

    The content decides, not the name. Raises InputError, one line, for a file that is missing, empty,
    truncated or of another kind, and for a session without units or with spike times that are NaN.
    """
    # The readers need seconds to import, so only the one that is used is loaded.
    path = Path(path)
    if path.is_dir():
        if not any((path / name).exists() for name in _ZARR_METADATA):
            raise InputError(f"{path}: is a folder without zarr metadata; give an NWB file or a session in zarr")
        from ldmfilter.data.zarr import read_zarr

        return read_zarr(path)
    try:
        with path.open("rb") as file:
            start = file.read(_HDF5_OFFSETS[-1] + len(_HDF5_SIGNATURE))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the permissions and the disk") from error
    if not start:
        raise InputError(f"{path}: is empty; copy or download it again")
    if not any(start[offset:].startswith(_HDF5_SIGNATURE) for offset in _HDF5_OFFSETS):
        raise InputError(f"{path}: is not an NWB file (no HDF5 signature); give an NWB file or a session in zarr")
    from ldmfilter.data.nwb import read_nwb

    return read_nwb(path)
