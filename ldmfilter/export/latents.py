"""States on their way out: where they may go, blocks of time, columns with units, segments, and disks that are full."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ldmfilter.data.untrusted.damage import json_object
from ldmfilter.data.windows import stretches
from ldmfilter.errors import InputError, one_line
from ldmfilter.files import AnyPath, check_target
from ldmfilter.filter.latents import check_latents, open_latents, reading, source_of

#: Formats by name, and how their files end; a folder of pynapple's files has no ending.
FORMATS = {"nwb": ".nwb", "netcdf": ".nc", "csv": ".csv", "pynapple": "", "parquet": ".parquet"}
BLOCK = 2**16  # bins that are in memory at a time
PYNAPPLE, ABOUT = "ldmfilter-pynapple", "about.json"  # the format that a folder's file says, and that file

Block = tuple[slice, xr.Dataset]  # some bins, and their place among all
Follow = Callable[[Iterator[Block]], Iterator[Block]]  # passes blocks on, and shows how far they are


def read_latents(path: AnyPath) -> xr.Dataset:
    """Open a store of states that ``ldmfilter decode`` made; values are read when they are used.

    Parameters
    ----------
    path : str or os.PathLike
        Of the store, in zarr.

    Returns
    -------
    xarray.Dataset
        As `LDMFilter.decode` gives it.

    Raises
    ------
    InputError
        There is no such store, it is of another kind or damaged, or reading it would run code.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = latents.to_zarr(f"{folder}/latents.zarr")
    ...     again = ldmfilter.export.read_latents(f"{folder}/latents.zarr").load()
    >>> again["filtered_mean"].equals(latents["filtered_mean"])
    True
    """
    return open_latents(Path(path))


def check_export(to: str, out: AnyPath, overwrite: bool, kept: Sequence[AnyPath] = ()) -> None:
    """Refuse a target where states cannot be written, before they are computed.

    Parameters
    ----------
    to : str
        One of `FORMATS`.
    out : str or os.PathLike
        The target.
    overwrite : bool
        Whether an existing one is replaced.
    kept : sequence of str or os.PathLike
        What the target must not be, hold or lie in: the session, the store of states.

    Raises
    ------
    InputError
        An unknown format, or another ending than its own; the target exists, is of another kind, or is one of `kept`.

    Examples
    --------
    >>> ldmfilter.export.check_export("csv", "latents.csv", overwrite=False)
    """
    if to not in FORMATS:
        raise InputError(f"{to}: is no format to export to; choose one of {', '.join(FORMATS)}")
    if not str(out).lower().endswith(FORMATS[to]):
        raise InputError(f"{out}: must end in {FORMATS[to]}, by which other programs know {to}; choose another name")
    path = check_target(out, overwrite)
    target = path.resolve()
    for one in map(Path, kept):
        # A hard link is the same file under another name.
        same = path.exists() and one.exists() and path.samefile(one)
        if same or target in (one.resolve(), *one.resolve().parents) or one.resolve() in target.parents:
            raise InputError(f"{out}: is {one} or would replace a part of it; choose another name")
    if path.exists() and to == "pynapple":
        if json_object(path / ABOUT).get("format") != PYNAPPLE:
            raise InputError(f"{path}: is no folder of states for pynapple and is not replaced; choose another name")
    elif path.is_dir():
        raise InputError(f"{out}: is a folder, and {to} is one file; choose another name")


def checked(to: str, latents: xr.Dataset, out: AnyPath, overwrite: bool) -> Path:
    """The target, once states and target are known to be fit for each other."""
    check_latents(latents)
    store = latents.encoding.get("source")
    check_export(to, out, overwrite, [] if store is None else [store])
    return Path(out)


def blocks(latents: xr.Dataset, held: Sequence[Column] | None = None) -> Iterator[Block]:
    """Pieces along time, in memory, of the variables of some columns or of all, with the place of each."""
    chosen = latents if held is None else latents[sorted({one.variable for one in held})]
    bins = latents.sizes["time"]
    for first in range(0, bins, BLOCK):
        where = slice(first, min(first + BLOCK, bins))
        with reading(source_of(latents)):
            part = chosen.isel(time=where).load().drop_encoding()
            for name, variable in part.variables.items():
                if variable.dtype.kind in "UT" and variable.ndim == 1:
                    part = part.assign({name: part[name].copy(data=_cleaned(variable))})
        yield where, part


def clean(text: object) -> str:
    """A text of a file as one line without control characters.

    >>> clean("run" + chr(10) + "fast")
    'run fast'
    """
    return one_line(str(text))


_cleaned = np.vectorize(clean, otypes="U")


def segments(latents: xr.Dataset) -> pd.DataFrame:
    """The gap-free stretches of states: number `segment`, `start` and `stop`, edges of bins in s, and `label`."""
    with reading(source_of(latents)):
        start, stop = np.array(stretches(latents)).T
        first = np.searchsorted(latents["time"], start)
        segment = latents["segment"].to_numpy()[first]
        labels = _cleaned(latents["interval"][first]) if "interval" in latents else ""
    stop[:-1] = np.minimum(stop[:-1], start[1:])  # those that touch do not overlap by a rounding error
    return pd.DataFrame({"segment": segment, "start": start, "stop": stop, "label": labels})


@dataclass(frozen=True)
class Column:
    """A variable, or what it holds at a position of its further dims; `unit` is "" for what has none."""

    name: str
    variable: str
    at: dict[str, int]
    unit: str = ""

    def of(self, part: xr.Dataset) -> xr.DataArray:
        """The values (time, ...) of some bins."""
        return part[self.variable].isel(self.at).transpose("time", ...)


def left_out(to: str, latents: xr.Dataset) -> list[str]:
    """The variables that a format has no place for: covariances (CSV), texts (NWB, pynapple)."""
    if to == "csv":
        return beyond_tables(latents)
    texts = [str(name) for name, x in latents.items() if "time" in x.dims and x.dtype.kind in "UT"]
    return sorted(texts) if to in ("nwb", "pynapple") else []


_SPLIT = {"time", "ahead", "bound"}  # dims that are rows, or names of columns


def split(latents: xr.Dataset, key: str, stem: str, at: dict[str, int], unit: str = "") -> list[Column]:
    """The columns of a variable, none where it is missing: one for each horizon, as ahead_0.5s, and for each bound."""
    if key not in latents:
        return []
    dims, found = latents[key].dims, [Column(stem, key, at, unit)]
    if "ahead" in dims:
        head, ahead, tail = stem.rpartition("ahead")
        names = [f"{head}{ahead}_{seconds:g}s{tail}" for seconds in latents[ahead].to_numpy()]
        found = [Column(name, key, at | {ahead: i}, unit) for i, name in enumerate(names)]
    if "bound" in dims:
        ends = list(enumerate(("lower", "upper")))
        found = [replace(one, name=f"{one.name}_{end}", at=one.at | {"bound": b}) for one in found for b, end in ends]
    return found


_OF_STATES = {
    "filtered_mean": "",
    "ci": "",
    "smoothed_mean": "_smoothed",
    "lagged_mean": "_lagged",
    "lagged_ci": "_lagged",
    "ahead_mean": "_ahead",
    "ahead_ci": "_ahead",
    "predicted_mean": "_predicted",
}
_OF_UNITS = {"rate": "", "rate_ci": "", "rate_ahead": "_ahead", "rate_ahead_ci": "_ahead"}


def columns(latents: xr.Dataset) -> list[Column]:
    """The columns of a table of states, one row a bin: all but `beyond_tables`."""
    table = [Column("time", "time", {}, "s")]
    table += [Column(name, name, {}) for name in ("segment", "interval", "observed", "trained") if name in latents]
    units = latents["unit"].to_numpy().tolist() if "rate" in latents else ()
    for dim, stem, ends, labels, unit in (
        ("state", "state", _OF_STATES, range(latents.sizes["state"]), ""),
        ("unit", "rate", _OF_UNITS, units, "Hz"),
    ):
        for i, label in enumerate(labels):
            for key, end in ends.items():
                table += split(latents, key, f"{stem}_{clean(label)}{end}", {dim: i}, unit)
    for name in _read(latents, "_mean", 1):
        for key in (f"{name}_mean", f"{name}_ci", f"{name}_true"):
            table += split(latents, key, key, {}, _unit(latents, f"{name}_mean"))
    for name in _read(latents, "_probability", 2):
        for key in (f"{name}_read", f"{name}_true"):
            table += split(latents, key, key, {})
        for i, label in enumerate(latents[f"{name}_class"].to_numpy().tolist()):
            key = f"{name}_probability"
            table += split(latents, key, f"{key}_{clean(label)}", {f"{name}_class": i})
    taken, beyond = {one.variable for one in table}, beyond_tables(latents)
    for key, x in sorted((str(key), x) for key, x in latents.items()):
        if "time" in x.dims and key not in taken and key not in beyond:
            further = [str(dim) for dim in x.dims if dim not in _SPLIT]
            for at in [{dim: i} for dim in further for i in range(x.sizes[dim])] or [{}]:
                table += split(latents, key, "_".join([key, *map(str, at.values())]), at, _unit(latents, key))
    return table


def beyond_tables(latents: xr.Dataset) -> list[str]:
    """The variables that have no place in a row of a table: those of two dims a bin, the covariances."""
    found = ((str(key), {str(dim) for dim in x.dims} - _SPLIT) for key, x in latents.items() if "time" in x.dims)
    return sorted(key for key, further in found if len(further) > 1)


def _read(latents: xr.Dataset, end: str, ndim: int) -> list[str]:
    """Names of the behaviour that was read from the states: those with a variable `<name><end>` of so many dims."""
    return [str(name).removesuffix(end) for name, x in latents.items() if str(name).endswith(end) and x.ndim == ndim]


def _unit(latents: xr.Dataset, name: str) -> str:
    return clean(latents[name].attrs.get("unit", "")).strip()


def series(latents: xr.Dataset) -> list[Column]:
    """The arrays of a file: every variable along time that is no text, bounds as two of them, each horizon apart."""
    result = [Column("segment", "segment", {})]
    for key, variable in ((str(key), variable) for key, variable in latents.items()):
        if "time" in variable.dims and variable.dtype.kind not in "UT":
            bounds = "filtered" if key == "ci" else key.removesuffix("_ci")
            result += split(latents, key, bounds if "bound" in variable.dims else key, {}, _unit(latents, key))
    names = [one.name for one in result]
    if len(set(names)) < len(names):
        raise InputError(f"{source_of(latents)}: two variables have one name without their bounds; decode it again")
    return result


def attributes(latents: xr.Dataset) -> dict[str, str | int | float]:
    """The attributes as JSON can hold them."""
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in latents.attrs.items()}


_NUMBER = re.compile(r"errno(?: =|:)? (\d+)", re.IGNORECASE)


@contextmanager
def full_disks() -> Iterator[None]:
    """Turn errors of HDF5 that hold the number of a system's error in their text into an OSError of that number."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        found: BaseException | None = error
        while found is not None:
            match = _NUMBER.search(str(found))
            if match and (not isinstance(found, OSError) or found.errno is None or found is not error):
                raise OSError(int(match[1]), os.strerror(int(match[1]))) from error
            found = found.__cause__ or found.__context__
        raise


def reserve(folder: Path, latents: xr.Dataset) -> None:
    """Check for the space that states take at most: HDF5 may crash the process when it runs out of space.

    Raises OSError where the disk has less.
    """
    # A text takes some 48 bytes beside its letters.
    size = latents.nbytes + 48 * latents.sizes["time"] + 2**20
    if hasattr(os, "posix_fallocate"):
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, size)
    elif shutil.disk_usage(folder).free < size:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
