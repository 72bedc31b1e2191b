"""Files on a web server, read in pieces: a session is a small part of a file that may hold terabytes."""

import io
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

from ldmfilter.data.untrusted.damage import json_object
from ldmfilter.errors import InputError
from ldmfilter.files import AnyPath

_TIMEOUT = (10.0, 60.0)  # s: to connect, and between two pieces of an answer


def remote_address(path: AnyPath) -> str | None:
    """The address that a path is, with both slashes, of which `Path` keeps one; None for a path on this machine.

    >>> remote_address("https://host/a.nwb"), remote_address("a.nwb")
    ('https://host/a.nwb', None)

    Raises InputError for an address of another kind, as s3://.
    """
    text = os.fspath(path)
    match = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+", text)
    # One slash is enough only for those that are known: a folder's name may end with a colon.
    if not match or ("://" not in match[0] and match[1].lower() not in ("http", "https")):
        return None
    if match[1].lower() not in ("http", "https"):
        raise InputError(f"{text}: {match[1]}:// is not read; give the file's https:// address or download it")
    return f"{match[1].lower()}://{text[match.end() :]}"


def absolute(path: AnyPath) -> str:
    """A path or address as a process in another folder finds it."""
    return remote_address(path) or os.path.abspath(path)


def is_nwb_in_zarr(path: AnyPath) -> bool:
    """True for a folder that declares itself as NWB in zarr."""
    attributes = json_object(Path(path) / ".zattrs")
    return "nwb_version" in attributes or ".specloc" in attributes


def open_remote(url: str) -> tuple[str, Any, str]:
    """Open an HDF5 file on a server that serves ranges of bytes.

    Returns its address without a user's name and password, for messages and outputs; the file, which reads, seeks and
    tells as a binary file does; and its checksum: "etag:..." and the size as the server gives them, so that nothing is
    downloaded to compare files, or "" where it gives no ETag.

    Raises InputError where there is no such file, no answer or no access, where the server does not serve ranges,
    and for a file that is not HDF5.
    """
    from ldmfilter.data.untrusted.hdf5 import HEAD, has_signature

    where = re.sub(r"^(https?://)[^/?#]*@", r"\1", url)
    try:
        import remfile
        import requests
    except ImportError as error:
        raise InputError(f"{where}: `pip install remfile` to read files by https, or download it") from error

    try:
        with requests.get(url, headers={"Range": f"bytes=0-{HEAD - 1}"}, stream=True, timeout=_TIMEOUT) as answer:
            status = answer.status_code
            if status >= 400:
                line = _REFUSALS.get(status, "the server answers {0} {1}; try again later")
                raise InputError(f"{where}: {line.format(status, answer.reason)}")
            total = re.fullmatch(r"bytes \d+-\d+/(\d+)", answer.headers.get("Content-Range", ""))
            if status != 206 or not total:
                raise InputError(
                    f"{where}: the server does not serve ranges of bytes; download the file and give its path"
                )
            size = int(total[1])
            # Bytes beyond the range are never read.
            head = next(answer.iter_content(HEAD), b"") if size else b""
            etag = answer.headers.get("ETag", "")
    except requests.RequestException as error:
        raise InputError(f"{where}: {_why(error)}") from error
    if not has_signature(head):
        raise InputError(f"{where}: is not an NWB file (no HDF5 signature); give the address of an NWB file")
    checksum = f"etag:{etag}, {size} bytes" if etag else ""
    file = remfile.File(url, _size=size)
    file.session.get = partial(file.session.get, timeout=_TIMEOUT)  # remfile itself waits for ever
    return where, _Pieces(where, file, size), checksum


class _Pieces(io.RawIOBase):
    """A remote file whose failures are errors of one line."""

    def __init__(self, where: str, file: Any, size: int):
        self._where, self._file, self._size = where, file, size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        wanted = max(min(len(buffer), self._size - self.tell()), 0)
        if not wanted:
            return 0
        try:
            piece = self._file.read(wanted)
        except Exception as error:  # remfile raises the bare class once it has tried often enough
            raise InputError(f"{self._where}: {_why(error)}") from error
        buffer[: len(piece)] = piece
        return len(piece)


# What a server's answer means, by its status.
_REFUSALS = {
    **dict.fromkeys((404, 410), "no such file on the server ({0}); check the address"),
    **dict.fromkeys((401, 403), "the server gives no access ({0}); use an address that has not expired"),
    416: "is empty; check the address",
}


def _why(error: BaseException) -> str:
    import requests

    if isinstance(error, requests.exceptions.SSLError):
        return "the server's certificate cannot be trusted; check the address"
    if isinstance(error, requests.Timeout):
        return "the server does not answer; try again later"
    if isinstance(error, requests.ConnectionError):
        return "the server cannot be reached; check the address and the network"
    return f"cannot be fetched ({' '.join(str(error).split())[:200]}); try again or download it"
