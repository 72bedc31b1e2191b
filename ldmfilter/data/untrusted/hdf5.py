"""Checks of an HDF5 file before libhdf5 reads it, which could hang, crash, or read any other file.

An array may declare the bytes of any other file as its own: such an array is never read. Links to other HDF5 files are
followed.
"""

import mmap
import os
from pathlib import Path

import h5py
import numpy as np

from ldmfilter.data.untrusted.damage import damage
from ldmfilter.errors import InputError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
# The superblock starts at byte 0 or, behind a user block, at 512, 1024, 2048, ...
_OFFSETS = (0, 512, 1024, 2048)
#: Bytes at the start of a file that hold the signature.
HEAD = _OFFSETS[-1] + len(_SIGNATURE)
_HEAP = b"GCOL\x01\x00\x00\x00"


def has_signature(head: bytes) -> bool:
    """True where the first `HEAD` bytes of a file hold the signature of HDF5."""
    return any(head[offset:].startswith(_SIGNATURE) for offset in _OFFSETS)


def is_hdf5(path: Path) -> bool:
    """True for a file with the signature of HDF5, be it whole or not."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return has_signature(file.read(HEAD))


def check_heaps(path: Path) -> None:
    """Refuse a file whose heaps of references and text would make libhdf5 loop without end.

    A heap is "GCOL", version 1, its size, and objects one behind the other: index, count and size in 16 bytes, then
    the content. Index 0 is free space, whose size counts those 16 bytes too; with less the walk does not go on.
    Raises InputError for such a heap.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if not size:
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            heap = content.find(_HEAP)
            while heap >= 0:
                stop = min(heap + int.from_bytes(content[heap + 8 : heap + 16], "little"), size)
                here = heap + 16
                while here + 16 <= stop:
                    index = int.from_bytes(content[here : here + 2], "little")
                    length = int.from_bytes(content[here + 8 : here + 16], "little")
                    if index == 0 and length < 16:
                        raise InputError(f"{path}: is a damaged HDF5 file (a heap without end); copy it again")
                    here += length if index == 0 else 16 + (length + 7) // 8 * 8
                heap = content.find(_HEAP, heap + 8)


def is_foreign(data: object) -> bool:
    """True for an array whose values lie in another file: raw bytes of any, or arrays of another HDF5 file."""
    if not isinstance(data, h5py.Dataset):
        return False
    return bool(data.external) or (data.is_virtual and any(s.file_name != "." for s in data.virtual_sources()))


def check_scalars(file: h5py.File, where: str) -> None:
    """Raise InputError for a file whose single values, which are read on opening, lie in another file."""

    def look(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.shape == () and is_foreign(item):
            raise InputError(f"{where}: {name}: its value lies in another file, refused; write the file anew")

    file.visititems(look)


def check_netcdf(path: Path) -> None:
    """Check the arrays of a netCDF file: with more scales than dims libhdf5 would write beyond its memory.

    Raises InputError for such an array, for one whose scales are no references, and for one whose values lie in
    another file.
    """

    def look(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if is_foreign(item):
            raise InputError(f"{path}: {name}: its values lie in another file, refused; write the file anew")
        for key in ("DIMENSION_LIST", "DIMENSION_LABELS"):
            if key in item.attrs:
                attribute = item.attrs.get_id(key)
                references = h5py.check_ref_dtype(h5py.check_vlen_dtype(attribute.dtype) or np.dtype("u1"))
                if attribute.shape != (item.ndim,) or (key == "DIMENSION_LIST" and references is not h5py.Reference):
                    raise InputError(f"{path}: {name}: its {key} does not fit its dims; write or copy it again")
        if "REFERENCE_LIST" in item.attrs:
            kind = item.attrs.get_id("REFERENCE_LIST").dtype
            if kind.names != ("dataset", "dimension") or h5py.check_ref_dtype(kind["dataset"]) is not h5py.Reference:
                raise InputError(f"{path}: {name}: its REFERENCE_LIST holds no references; write or copy it again")

    with damage(path, "HDF5 file"), h5py.File(path, "r") as file:
        file.visititems(look)
