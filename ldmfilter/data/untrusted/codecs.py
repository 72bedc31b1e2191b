"""Codecs of zarr that check a chunk before a C library trusts it."""

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numcodecs
from numcodecs.abc import Codec
from numcodecs.registry import codec_registry

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
