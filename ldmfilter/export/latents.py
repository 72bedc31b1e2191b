"""States on their way out: a store opened without running anything, blocks of time, columns with units."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import zarr

from ldmfilter.data.untrusted.codecs import checked
from ldmfilter.data.untrusted.npy import check_text
from ldmfilter.data.untrusted.zarr_store import ZARR_3, ZARR_DAMAGE, check_arrays
from ldmfilter.errors import InputError

FORMAT = "ldmfilter-latents"
BLOCK = 2**16  # bins that are in memory at a time

Block = tuple[slice, xr.Dataset]  # some bins, and their place among all
Follow = Callable[[Iterator[Block]], Iterator[Block]]  # passes blocks on, and shows how far they are

#: Variables of states and their dims; the first ones are in every store.
REQUIRED = {
    "time": ("time",),
    "segment": ("time",),
    "observed": ("time",),
    "filtered_mean": ("time", "state"),
    "filtered_cov": ("time", "state", "state_2"),
    "ci": ("time", "state", "bound"),
}
KNOWN = REQUIRED | {
    "trained": ("time",),
    "interval": ("time",),
    "predicted_mean": ("time", "state"),
    "predicted_cov": ("time", "state", "state_2"),
    "smoothed_mean": ("time", "state"),
    "smoothed_cov": ("time", "state", "state_2"),
    "innovation": ("time", "latent"),
    "innovation_cov": ("time", "latent", "latent_2"),
}
# Names of variables become names of files, columns and objects.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,200}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def open_latents(path: Path) -> xr.Dataset:
    """A store of states, its values read when they are used. Raises InputError as `read_latents`."""
    if not path.exists():
        raise InputError(f"{path}: no such store; `ldmfilter decode --out {path}` makes one")
    if not (path / ".zgroup").exists():
        raise InputError(f"{path}: is no store of latent states; give one that `ldmfilter decode` made")
    with reading(path), checked():
        attributes = json.loads((path / ".zattrs").read_text(encoding="utf-8"))
        if not isinstance(attributes, dict) or attributes.get("format") != FORMAT:
            raise InputError(f"{path}: is no store of latent states; give one that `ldmfilter decode` made")
        check_arrays(path)
        # Consolidated metadata are a copy of what was just checked, or not.
        version: dict[str, Any] = {"zarr_format": 2} if ZARR_3 else {}
        group = zarr.open_group(str(path), mode="r", **version)
        for name, array in group.arrays():
            if array.dtype.kind == "U":
                check_text(array[...], f"{path}: {name}")
        latents = xr.open_zarr(path, chunks=None, consolidated=False, **version)
        latents.encoding["source"] = str(path)
        check_latents(latents)
        for name in ("time", "filtered_mean", "filtered_cov"):
            # What is not there reads as NaN or 0. These three are never all NaN or 0, so that zarr writes all chunks.
            lost = group[name].nchunks - group[name].nchunks_initialized
            if lost:
                raise InputError(f"{path}: {name}: {lost} chunks are missing; decode it again")
    return latents


def check_latents(latents: xr.Dataset) -> None:
    """Raises InputError for a dataset that is not one of states: variables missing, of other dims or odd names."""
    where = source_of(latents)
    for name, dims in KNOWN.items():
        if name not in latents.variables:
            if name in REQUIRED:
                raise InputError(f"{where}: holds no {name}; give states as `ldmfilter decode` makes them")
        elif latents[name].dims != dims:
            raise InputError(f"{where}: {name} has dims {latents[name].dims}, not {dims}; decode it again")
    for key, variable in latents.variables.items():
        name = str(key)
        if not _NAME.fullmatch(name) or variable.dtype.kind not in "biufUT":
            raise InputError(f"{where}: {name!r} is no variable of latent states; decode it again")
    if latents.sizes["time"] == 0 or latents.sizes["bound"] != 2:
        raise InputError(f"{where}: holds no bins, or intervals without two bounds; decode it again")
    size = latents.attrs.get("bin_size")
    if not isinstance(size, int | float | np.number) or not 0 < size < np.inf:
        raise InputError(f"{where}: its bin_size is {size}; decode it again")
    time = latents["time"].to_numpy()
    if time.dtype.kind != "f" or not np.isfinite(time).all() or (np.diff(time) <= 0).any():
        raise InputError(f"{where}: its time does not rise; decode it again")


def source_of(latents: xr.Dataset) -> str:
    """What to call states in a message."""
    return str(latents.encoding.get("source", "states"))


@contextmanager
def reading(path: object) -> Iterator[None]:
    """Turn what zarr says of damaged stores into one line. Raises: InputError."""
    try:
        yield
    except InputError:
        raise
    except ZARR_DAMAGE as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InputError(f"{path}: is a damaged store of states ({reason}); decode it again") from error


def blocks(latents: xr.Dataset, names: Sequence[str] | None = None) -> Iterator[Block]:
    """Pieces along time, in memory, of some variables or of all, with the place of each."""
    chosen = latents if names is None else latents[list(names)]
    bins = latents.sizes["time"]
    for first in range(0, bins, BLOCK):
        where = slice(first, min(first + BLOCK, bins))
        with reading(source_of(latents)):
            part = chosen.isel(time=where).load().drop_encoding()
            for name in ("interval", "unit"):
                if name in part.coords and part[name].dtype.kind in "UT":
                    texts = [clean(text) for text in part[name].to_numpy().tolist()]
                    part = part.assign_coords({name: part[name].copy(data=np.asarray(texts, dtype=np.str_))})
        yield where, part


def clean(text: object) -> str:
    """A text of a file as one line without control characters.

    >>> clean("run" + chr(10) + "fast")
    'run fast'
    """
    return _CONTROL.sub(" ", str(text))


@dataclass(frozen=True)
class Segments:
    """The gap-free stretches, each from the edge of its first bin to that of its last, s; labels are cleaned."""

    start: np.ndarray
    stop: np.ndarray
    number: np.ndarray
    label: list[str]

    def joined(self, tolerance: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
        """Starts and stops where stretches that touch within `tolerance` s are one."""
        apart = self.start[1:] > self.stop[:-1] + tolerance
        return self.start[np.append(True, apart)], self.stop[np.append(apart, True)]


def segments(latents: xr.Dataset) -> Segments:
    """The gap-free stretches of states."""
    with reading(source_of(latents)):
        segment, time = latents["segment"].to_numpy(), latents["time"].to_numpy()
        size = float(latents.attrs["bin_size"])
        # Bins outside of all segments share one number, whatever lies between them.
        begins = (np.diff(segment) != 0) | (np.diff(time) > 1.5 * size)
        first = np.append(0, np.flatnonzero(begins) + 1)
        last = np.append(first[1:], segment.size) - 1
        labels = (
            latents["interval"].to_numpy()[first].tolist() if "interval" in latents.variables else [""] * first.size
        )
    start, stop = time[first] - size / 2, time[last] + size / 2
    stop[:-1] = np.minimum(stop[:-1], start[1:])  # those that touch do not overlap by a rounding error
    return Segments(start, stop, segment[first], [clean(label) for label in labels])


def behaviors(latents: xr.Dataset) -> list[str]:
    """Names of the behaviour that was read from the states: those of which there is a `<name>_mean` (time,)."""
    ends = "_mean"
    return [
        str(name)[: -len(ends)] for name, x in latents.data_vars.items() if str(name).endswith(ends) and x.ndim == 1
    ]


def unit_of(latents: xr.Dataset, name: str) -> str:
    """The unit of a behaviour's values, "" where it has none."""
    return clean(latents[name].attrs.get("unit", "")).strip()


@dataclass(frozen=True)
class Column:
    """A variable, or what it holds at a position of its further dims; `unit` is "" for what has none."""

    name: str
    variable: str
    at: dict[str, int]
    unit: str = ""

    def of(self, part: xr.Dataset) -> np.ndarray:
        """The values (time, ...) of some bins."""
        return part[self.variable].isel(self.at).to_numpy()


def columns(latents: xr.Dataset) -> list[Column]:
    """What a table of states holds, one row a bin."""
    table = [Column("time", "time", {}, "s")]
    table += [Column(n, n, {}) for n in ("segment", "interval", "observed", "trained") if n in latents.variables]
    for i in range(latents.sizes["state"]):
        table.append(Column(f"state_{i}", "filtered_mean", {"state": i}))
        table += [
            Column(f"state_{i}_{end}", "ci", {"state": i, "bound": b}) for b, end in enumerate(("lower", "upper"))
        ]
        if "smoothed_mean" in latents.variables:
            table.append(Column(f"state_{i}_smoothed", "smoothed_mean", {"state": i}))
    for name in behaviors(latents):
        unit = unit_of(latents, f"{name}_mean")
        table.append(Column(f"{name}_mean", f"{name}_mean", {}, unit))
        if f"{name}_ci" in latents:
            ends = enumerate(("lower", "upper"))
            table += [Column(f"{name}_ci_{end}", f"{name}_ci", {"bound": b}, unit) for b, end in ends]
        if f"{name}_true" in latents:
            table.append(Column(f"{name}_true", f"{name}_true", {}, unit))
    return table


def series(latents: xr.Dataset) -> list[Column]:
    """What files hold that know arrays: every variable along time that is no text, bounds as two of them."""
    result = [Column("segment", "segment", {})]
    for key, variable in latents.data_vars.items():
        name = str(key)
        if variable.dims[:1] != ("time",) or variable.dtype.kind in "UT":
            continue
        unit = unit_of(latents, name)
        if "bound" in variable.dims:
            stem = "filtered" if name == "ci" else name.removesuffix("_ci")
            ends = enumerate(("lower", "upper"))
            result += [Column(f"{stem}_{end}", name, {"bound": b}, unit) for b, end in ends]
        else:
            result.append(Column(name, name, {}, unit))
    names = [one.name for one in result]
    if len(set(names)) < len(names):
        raise InputError(f"{source_of(latents)}: two variables have one name without their bounds; decode it again")
    return result


def attributes(latents: xr.Dataset) -> dict[str, str | int | float]:
    """The attributes as JSON can hold them."""
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in latents.attrs.items()}
