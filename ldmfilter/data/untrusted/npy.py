"""numpy's files as data: numbers, bools and fixed-width text are read, pickled objects are refused."""

import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib import format as npy_format

from ldmfilter.data.tables import Array, Ints
from ldmfilter.data.untrusted.damage import damage
from ldmfilter.errors import InputError, UnsafeInputError


def read_npy(path: Path) -> Array:
    """The array of a .npy file. Raises InputError for a file that is missing, damaged or holds pickled objects."""
    with _refusals(f"{path}"), path.open("rb") as file:
        return check_text(npy_format.read_array(file, allow_pickle=False), f"{path}")


def read_npz(path: Path, raw: str | None = None) -> dict[str, Any]:
    """The arrays of a .npz file by their names, of the one named `raw` its bytes. Raises InputError as `read_npy`."""
    arrays: dict[str, Any] = {}
    with _refusals(f"{path}"), zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            name = member.removesuffix(".npy")
            if name == member:
                continue
            with _refusals(f"{path}: {name}"), archive.open(member) as file:
                if name == raw:
                    arrays[name] = file.read()
                else:
                    arrays[name] = check_text(npy_format.read_array(file, allow_pickle=False), f"{path}: {name}")
    return arrays


def npz_names(path: Path) -> set[str]:
    """The names of the arrays of a .npz file. Raises InputError where it is damaged."""
    with damage(path, ".npz file"), zipfile.ZipFile(path) as archive:
        return {name.removesuffix(".npy") for name in archive.namelist()}


def check_text(values: Array, where: str) -> Array:
    """The same values. Raises InputError for text that is none: numpy keeps any four bytes as a letter."""
    if values.dtype.kind == "U" and values.size and values.dtype.itemsize:
        letters = np.ascontiguousarray(values.astype(values.dtype.newbyteorder("="), copy=False)).view(np.uint32)
        if letters.max() > sys.maxunicode:
            raise InputError(f"{where}: holds text that cannot be read, is perhaps damaged; write or copy it again")
    return values


def whole_numbers(values: Array, where: str) -> Ints:
    """Values as whole numbers. Raises InputError for others, as NaN or 0.5."""
    if values.dtype.kind == "f" and not (np.isfinite(values).all() and (values == np.floor(values)).all()):
        raise InputError(f"{where}: holds values that are no whole numbers; write it again")
    if values.dtype.kind not in "uif":
        raise InputError(f"{where}: holds {values.dtype} values, not whole numbers; write it again")
    return values.astype(np.int64)


@contextmanager
def _refusals(where: str) -> Iterator[None]:
    with damage(where, "numpy file"):
        try:
            yield
        except FileNotFoundError:
            raise InputError(f"{where}: no such file; check the path") from None
        except ValueError as error:
            if "allow_pickle" not in str(error):
                raise
            line = f"{where}: holds pickled objects, refused as they may run code; save numbers, bools or text"
            raise UnsafeInputError(line) from error
