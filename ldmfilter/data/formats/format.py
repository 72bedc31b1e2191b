"""The declaration that each module of this folder makes of a file format; signatures and checksums of files.

A checksum is "sha256:...", by which a file is known again.
"""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ldmfilter.data.clocks import Reading
from ldmfilter.data.session import Session


@dataclass(frozen=True)
class Format:
    """A file format; a module's `FORMATS` holds its own by their names.

    recognises: True for a path that holds this format, judged by its content alone
    read: the session at an absolute `Path`, or an address, given what a person says of its times
    lies_in: "folder" or "file", where it is always one of them
    series: whether `read` takes `series`, the path of a signal to be read in place of spikes
    """

    recognises: Callable[[Path], bool]
    read: Callable[[Any, Reading], Session]
    lies_in: Literal["folder", "file"] | None = None
    series: bool = False


def starts_with(path: Path, *signatures: bytes) -> bool:
    """True for a file that begins with one of the signatures."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(max(map(len, signatures))).startswith(signatures)


def path_checksum(path: Path) -> str:
    """The checksum of a file, or of all files of a folder: their names, in order, and their contents."""
    if not path.is_dir():
        return file_checksum(path)
    digest = hashlib.sha256()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes())
    return f"sha256:{digest.hexdigest()}"


def file_checksum(path: Path) -> str:
    """The checksum of a file's bytes."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def files_checksum(paths: Iterable[Path], root: Path) -> str:
    """The checksum of several files: their names below `root` and the digests of their contents."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return f"sha256:{digest.hexdigest()}"
