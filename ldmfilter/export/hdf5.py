"""HDF5 and the disk: room is asked for before writing, and refusals come in the words of the system."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import xarray as xr

_NUMBER = re.compile(r"errno(?: =|:)? (\d+)", re.IGNORECASE)


@contextmanager
def full_disks() -> Iterator[None]:
    """Give errors of HDF5 that stand for one of the system its number, which they carry in their text only.

    Raises:
        OSError: with that number.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        found: BaseException | None = error
        while found is not None:
            match = _NUMBER.search(str(found))
            if match and (not isinstance(found, OSError) or found.errno is None or found is not error):
                raise OSError(int(match[1]), os.strerror(int(match[1]))) from error
            found = found.__cause__ or found.__context__
        raise


def reserve(folder: Path, latents: xr.Dataset) -> None:
    """Ask for the room that states take at most: HDF5 that runs out of it while it writes may crash the process.

    Raises:
        OSError: the disk has no such room.
    """
    # A text of its own takes some 48 bytes beside its letters.
    size = latents.nbytes + 48 * latents.sizes["time"] + 2**20
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
