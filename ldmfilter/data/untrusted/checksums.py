"""Checksums of a session's files, "sha256:...", by which a file is known again."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def path_checksum(path: Path) -> str:
    """The checksum of a file, or of a folder."""
    return folder_checksum(path) if path.is_dir() else file_checksum(path)


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


def folder_checksum(root: Path) -> str:
    """The checksum of all files of a folder: their names, in order, and their contents."""
    digest = hashlib.sha256()
    files = {file.relative_to(root).as_posix(): file for file in root.rglob("*") if file.is_file()}
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes())
    return f"sha256:{digest.hexdigest()}"
