"""The declaration that each module of this folder makes of a file format."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import xarray as xr

from ldmfilter.data.clocks import Reading
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError


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


def one_series(group: xr.Dataset, where: str) -> xr.DataArray:
    """The series (time,) or (time, component) of a group that holds it and its `time`. Raises InputError for others."""
    values = [one for name, one in group.items() if name != "time"]
    if "time" not in group.variables or len(values) != 1 or values[0].ndim not in (1, 2):
        raise InputError(f"{where}: needs `time` and one more array; write the series anew")
    series, time = values[0], group["time"]
    if time.shape != series.shape[:1]:
        raise InputError(f"{where}: {time.size} times for {len(series)} values; write the series anew")
    if series.dims[0] != "time":
        series = series.rename({series.dims[0]: "time"})
    return series.assign_coords(time=("time", time.values, time.attrs))
