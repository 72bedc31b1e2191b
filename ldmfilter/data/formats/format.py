"""The declaration that each module of this folder makes of a file format."""

from collections.abc import Callable
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
