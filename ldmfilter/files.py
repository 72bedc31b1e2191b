"""Outputs that appear whole or not at all."""

import errno
import itertools
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ldmfilter.errors import InputError

AnyPath = str | os.PathLike[str]


@contextmanager
def replacing(path: AnyPath, overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what is written there takes its place when the block ends without error.

    After a kill the old output or the new one is there, of a folder perhaps none; after an error the old one.

    Raises InputError as `check_target` and `disk_errors`.
    """
    path = check_target(path, overwrite)
    with disk_errors(path):
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    try:
        with disk_errors(path):
            yield scratch / path.name
            old = scratch / "old"
            # A file takes another's place at once; a folder has to be gone before.
            if path.exists() and (path.is_dir() or (scratch / path.name).is_dir()):
                os.replace(path, old)
            try:
                os.replace(scratch / path.name, path)
            except OSError:
                if old.exists():
                    os.replace(old, path)
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_target(path: AnyPath, overwrite: bool) -> Path:
    """The path of an output, links resolved, before any work is done for it.

    Raises InputError where it exists and `overwrite` is False, or it is no file or folder; where its folder does not
    exist or cannot be written to.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    if path.exists() and not (path.is_file() or path.is_dir()):  # it would be replaced, for all who use it
        raise InputError(f"{path}: is a device or a pipe, not a file; give the name of a file")
    if not overwrite and path.exists():
        raise InputError(f"{path}: exists already; choose another name or overwrite it")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it first or write elsewhere")
    with disk_errors(path):  # only writing shows whether one can write
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.absolute().parent))
    return path


def write_bytes(path: Path, content: bytes) -> None:
    """Replace a file's content; after a kill it is the old or the new. Raises InputError as `disk_errors`."""
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


def plain_name(text: str) -> str:
    """A text as part of a file's name, whatever is in it: letters, digits, - and _, 60 at most.

    >>> plain_name("../a b.c")
    '___a_b_c'
    """
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)[:60]


def plain_names(paths: Sequence[AnyPath]) -> list[str]:
    """A different name for each of several files: its own, preceded by those of its folders where two are the same.

    >>> plain_names(["x/a.nwb", "y/b.nwb", "z/b.nwb", "b_.nwb", "b .nwb"])
    ['a', 'y_b', 'z_b', 'b_', 'b_-2']
    """
    parts = [(*path.parts[:-1], path.stem) for path in map(Path, paths)]
    deep, longer = [0] * len(parts), list(range(len(parts)))
    while longer:
        for i in longer:
            deep[i] += 1
        names = [plain_name("_".join(part[-n:])) for part, n in zip(parts, deep, strict=True)]
        seen = Counter(map(str.casefold, names))  # some disks do not tell A from a
        longer = [i for i, name in enumerate(names) if seen[name.casefold()] > 1 and deep[i] < len(parts[i])]
    unique: dict[str, str] = {}  # by their letters in lower case
    for name in names:
        tried = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
        free = next(one for one in tried if one.casefold() not in unique)
        unique[free.casefold()] = free
    return list(unique.values())


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise InputError where a disk is full, or a folder is missing or cannot be written to."""
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
