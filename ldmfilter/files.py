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


@contextmanager
def replacing(path: str | os.PathLike[str], overwrite: bool) -> Iterator[Path]:
    """Yield a temporary path beside `path`; whatever is written there takes its place when the block ends well.

    A process that is killed leaves the old output or the new one, of folders perhaps none; a block that fails leaves
    nothing behind.

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


def check_target(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """The path of an output, links resolved; refuses early where it cannot be written.

    Raises:
        InputError: `path` exists and `overwrite` is False, or its folder does not exist or cannot be written to.
    """
    path = Path(path)
    if path.is_symlink():
        path = path.resolve()
    if not overwrite and path.exists():
        raise InputError(f"{path}: exists already; choose another name or give --overwrite")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it first or write elsewhere")
    with disk_errors(path):  # permissions do not tell of everything: it is tried
        os.rmdir(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.absolute().parent))
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


def plain_name(text: str) -> str:
    """A text as part of a file's name, whatever is in it: letters, digits, - and _, 60 at most.

    >>> plain_name("../a b.c")
    '___a_b_c'
    """
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in text)[:60]


def plain_names(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """A name for what is made of each of several files: its own, and its folders' where others are called the same.

    >>> plain_names(["x/a.nwb", "y/b.nwb", "z/b.nwb", "b_.nwb", "b .nwb"])
    ['a', 'y_b', 'z_b', 'b_', 'b_-2']
    """
    parts = [(*path.parts[:-1], path.stem) for path in map(Path, paths)]
    deep = [1] * len(parts)

    def names() -> list[str]:
        return [plain_name("_".join(part[-n:])) for part, n in zip(parts, deep, strict=True)]

    while True:
        seen = Counter(name.casefold() for name in names())  # some disks do not tell A from a
        longer = [i for i, name in enumerate(names()) if seen[name.casefold()] > 1 and deep[i] < len(parts[i])]
        if not longer:
            break
        for i in longer:
            deep[i] += 1
    used: set[str] = set()
    unique = []
    for name in names():
        tried = (name if n == 1 else f"{name}-{n}" for n in itertools.count(1))
        unique.append(next(one for one in tried if one.casefold() not in used))
        used.add(unique[-1].casefold())
    return unique


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of a disk into one line.

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
