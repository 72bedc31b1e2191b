"""Zarr stores as data: arrays of numbers, bools and fixed-width text; objects and links are refused.

A chunk is checked before a C library trusts it. Runs on zarr 2 and 3 and reads zarr format 2.
"""

import json
import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numcodecs
import numpy as np
import zarr
from numcodecs.abc import Codec
from numcodecs.registry import codec_registry

from ldmfilter.data.tables import Array
from ldmfilter.data.untrusted.damage import DAMAGE, damage
from ldmfilter.errors import InputError, UnsafeInputError

ZARR_3 = not zarr.__version__.startswith("2.")
#: Errors on metadata or chunks that are cut short; zarr 2 has one of its own.
ZARR_DAMAGE = (*DAMAGE, getattr(zarr.errors, "MetadataError", ValueError))
_PLAIN_DTYPE = re.compile(r"[<>|][biufU]\d+")
# Reading a pickled chunk runs the code that it holds: only codecs that move bytes are let in.
_PLAIN_CODECS = {"blosc", "zstd", "zlib", "gzip", "lz4", "lzma", "bz2", "shuffle", "delta", "crc32", "crc32c"}


@contextmanager
def reading_store(path: Path, advice: str = "write or copy it again") -> Iterator[None]:
    """In this block, damage of a store in zarr format 2 is an InputError, and chunks are checked as they are opened.

    Raises InputError for format 3 too.
    """
    if (path / "zarr.json").exists():
        raise InputError(f"{path}: is zarr format 3; {advice.replace(' or copy', '')}, with zarr_format=2 or zarr < 3")
    with damage(path, "zarr store", advice, ZARR_DAMAGE), checked():
        yield


def is_store(path: Path) -> bool:
    """True for a folder with the metadata of a zarr group or array."""
    return any((path / name).exists() for name in (".zgroup", ".zmetadata", "zarr.json", ".zarray"))


def open_store(path: Path) -> Any:
    """The root group of a store, for reading; consolidated metadata, a copy that nobody checked, are left aside."""
    return zarr.open_group(str(path), mode="r", **({"zarr_format": 2, "use_consolidated": False} if ZARR_3 else {}))


def read_array(root: Any, path: Path, key: str, complete: bool) -> tuple[Array, dict[str, Any]]:
    """Values and attributes of an array.

    complete: refuse an array with missing chunks, which zarr reads as zeros. Raises InputError for one.
    """
    array = root[key]
    if complete and math.prod(array.shape) and array.nchunks_initialized < array.nchunks:
        lost = array.nchunks - array.nchunks_initialized
        raise InputError(f"{path}: {key}: {lost} chunks are missing; copy it again")
    return np.asarray(array[...]), dict(array.attrs)


def check_arrays(path: Path, long_text: bool = False) -> None:
    """Check every array of a store before zarr opens one.

    long_text: accept text of any length, as xarray writes it

    Raises InputError for an array that may run code, and as `check_links`; an error of `ZARR_DAMAGE` where metadata
    are damaged.
    """
    check_links(path)
    for metadata in sorted(path.rglob(".zarray")):
        check_array(metadata, f"{path}: {metadata.parent.relative_to(path).as_posix()}", long_text)


def check_links(path: Path) -> None:
    """Raises InputError for a link within a store, which could hide an array or lead to any file."""
    for folder, below, files in os.walk(path):
        for name in (*below, *files):
            if os.path.islink(os.path.join(folder, name)):
                raise InputError(f"{Path(folder, name)}: is a link within a store, refused; copy what it leads to")


def check_array(metadata: Path, where: str, long_text: bool = False) -> None:
    """Check one array's metadata before zarr sees them: it unpickles the fill value of objects on opening."""
    described = json.loads(metadata.read_text(encoding="utf-8"))
    codecs = [codec["id"] for codec in [described["compressor"], *(described["filters"] or [])] if codec]
    dtype = described["dtype"]
    if long_text and dtype == "|O" and "vlen-utf8" in codecs:
        codecs.remove("vlen-utf8")
        dtype = "<U1"
    foreign = [codec for codec in codecs if codec not in _PLAIN_CODECS]
    if foreign or not (isinstance(dtype, str) and _PLAIN_DTYPE.fullmatch(dtype)):
        what = f"codec {foreign[0]}" if foreign else f"type {dtype}"
        raise UnsafeInputError(f"{where}: {what} is refused, it may run code; store numbers, bools or fixed-width text")


_HEADER = struct.Struct("<4B3I")  # of Blosc 1: version, version of the codec, flags, size of an item; three lengths
_COPIED = 0x2  # the flag of a chunk that is stored as it is


class CheckedBlosc(numcodecs.Blosc):
    """Blosc that checks the lengths written in a chunk, which the C library trusts."""

    def decode(self, buf: Any, out: Any = None) -> Any:
        """The chunk, decompressed. Raises ValueError where its lengths are wrong."""
        chunk = memoryview(buf).cast("B")
        if len(chunk) < _HEADER.size:
            raise ValueError("a chunk that is cut short")
        _, _, flags, _, size, block, length = _HEADER.unpack_from(chunk)
        blocks = -(-size // block) if block else 0
        starts = _HEADER.size + 4 * blocks
        if length != len(chunk) or (size and not 0 < block <= size):
            raise ValueError("a chunk that is damaged")
        if not flags & _COPIED:
            if starts > length:
                raise ValueError("a chunk that is damaged")
            if any(not starts <= start <= length - 4 for (start,) in struct.iter_unpack("<i", chunk[16:starts])):
                raise ValueError("a chunk that is damaged")
        return super().decode(buf, out)


@contextmanager
def checked(*codecs: type[Codec]) -> Iterator[None]:
    """In this block, arrays in zarr are opened with `CheckedBlosc` and with these codecs, by their ids."""
    mine: tuple[Any, ...] = (*codecs, CheckedBlosc)
    with patch.dict(codec_registry, {codec.codec_id: codec for codec in mine}):
        yield
