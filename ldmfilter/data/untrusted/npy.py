"""numpy's files as data: numbers, bools and fixed-width text come in, pickled objects do not."""

from __future__ import annotations

import hashlib
import sys
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib import format as npy_format

from ldmfilter.data.tables import Array
from ldmfilter.errors import InputError, UnsafeInputError

# What numpy and zipfile raise on files that are cut short, made up or larger than the memory.
_DAMAGE = (
    OSError, ValueError, LookupError, TypeError, EOFError, RuntimeError, MemoryError, SyntaxError,
    tokenize.TokenError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_npy(path: Path) -> Array:
    """The array of a .npy file.

    Raises:
        InputError: the file is missing or damaged, or holds pickled objects, which may run code.
    """
    with _damage(f"{path}"), path.open("rb") as file:
        return check_text(npy_format.read_array(file, allow_pickle=False), f"{path}")


def read_npz(path: Path, skip: Iterable[str] = ()) -> dict[str, Array]:
    """The arrays of a .npz file by their names, those in `skip` left out.

    Raises:
        InputError: as `read_npy`.
    """
    arrays = {}
    with _damage(f"{path}"), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            if name == member or name in skip:
                continue
            with _damage(f"{path}: {name}"), archive.open(member) as file:
                arrays[name] = check_text(npy_format.read_array(file, allow_pickle=False), f"{path}: {name}")
    return arrays


def check_text(values: Array, where: str) -> Array:
    """The same values. Raises InputError for text that is none: numpy keeps any four bytes as a letter."""
    if values.dtype.kind == "U" and values.size and values.dtype.itemsize:
        letters = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False)).view(np.uint32)
        if letters.max() > sys.maxunicode:
            raise InputError(f"{where}: holds text that cannot be read, is perhaps damaged; write or copy it again")
    return values


def read_member(path: Path, name: str) -> bytes | None:
    """The bytes of one member of a .npz file, or None where there is none. Raises InputError where it is damaged."""
    with _damage(f"{path}: {name}"), zipfile.ZipFile(path) as archive:
        return archive.read(name) if name in archive.namelist() else None


def checksum(paths: Iterable[Path], root: Path) -> str:
    """ "sha256:..." of the names below `root` and the contents of several files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        content = hashlib.sha256(path.read_bytes()).digest()
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + content)
    return f"sha256:{digest.hexdigest()}"


def file_checksum(path: Path) -> str:
    """ "sha256:..." of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def whole(values: npt.NDArray, where: str) -> npt.NDArray[np.int64]:
    """Values as whole numbers. Raises InputError for what is none, as NaN or 0.5."""
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise InputError(f"{where}: holds values that are no whole numbers; write it again")
    if values.dtype.kind not in "uif":
        raise InputError(f"{where}: holds {values.dtype} values, not whole numbers; write it again")
    return values.astype(np.int64)


@contextmanager
def _damage(where: str) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{where}: no such file; check the path") from None
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        if "allow_pickle" in reason:
            line = f"{where}: holds pickled objects, refused as they may run code; save numbers, bools or text"
            raise UnsafeInputError(line) from error
        raise InputError(f"{where}: is a damaged numpy file ({reason}); write or copy it again") from error
