"""What HDF5 says of the disk, in the words of the system."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

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
