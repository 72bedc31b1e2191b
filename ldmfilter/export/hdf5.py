"""HDF5 on a full disk: space is checked before writing, and errors carry the number of the system's error."""

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
    """Turn errors of HDF5 that hold the number of a system's error in their text into an OSError of that number."""
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
    """Check for the space that states take at most: HDF5 may crash the process when it runs out of space.

    Raises OSError where the disk has less.
    """
    # A text takes some 48 bytes beside its letters.
    size = latents.nbytes + 48 * latents.sizes["time"] + 2**20
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
