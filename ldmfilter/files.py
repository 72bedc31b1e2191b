"""Outputs that appear whole or not at all."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ldmfilter.errors import InputError


@contextmanager
def replacing(path: str | os.PathLike[str], overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path beside `path`; whatever is written there takes its place when the block ends well.

    A process that is killed leaves the old output or none; a block that fails leaves nothing behind.

    Raises:
        InputError: `path` exists and `overwrite` is False; its folder is missing or cannot be written to;
            no space is left on the disk.
    """
    path = check_target(path, overwrite)
    with disk_errors(path):
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with disk_errors(path):
            yield scratch / path.name
            old = scratch / "old"
            if path.exists():
                os.replace(path, old)
            try:
                os.replace(scratch / path.name, path)
            except OSError:
                if old.exists():
                    os.replace(old, path)
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Where an output will lie, links resolved; called early, it saves a person from waiting for a refusal.

    Raises:
        InputError: `path` exists and `overwrite` is False, or its folder does not exist.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    if not overwrite and path.exists():
        raise InputError(f"{path}: exists already; choose another name or give --overwrite")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it first or write elsewhere")
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content at once: a killed process leaves the old content or the new.

    Raises:
        InputError: as `disk_errors`.
    """
    with disk_errors(path):
        scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with scratch.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(scratch, path)
        finally:
            scratch.unlink(missing_ok=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a disk answers into one line.

    Raises:
        InputError: the disk is full, the folder is missing, read-only or not ours, or the disk failed.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise InputError(f"{path}: no space left on the disk; free some or write elsewhere") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise InputError(f"{path}: cannot be written ({error.strerror}); write elsewhere") from error
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise InputError(f"{path}: its folder does not exist; make it first or write elsewhere") from error
        raise
