"""States on their way out: blocks of time, columns with units, segments."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from ldmfilter.errors import InputError, one_line
from ldmfilter.filter.latents import reading, source_of

BLOCK = 2**16  # bins that are in memory at a time

Block = tuple[slice, xr.Dataset]  # some bins, and their place among all
Follow = Callable[[Iterator[Block]], Iterator[Block]]  # passes blocks on, and shows how far they are


def blocks(latents: xr.Dataset, names: Sequence[str] | None = None) -> Iterator[Block]:
    """Pieces along time, in memory, of some variables or of all, with the place of each."""
    chosen = latents if names is None else latents[list(names)]
    bins = latents.sizes["time"]
    for first in range(0, bins, BLOCK):
        where = slice(first, min(first + BLOCK, bins))
        with reading(source_of(latents)):
            part = chosen.isel(time=where).load().drop_encoding()
            for name, variable in part.variables.items():
                if variable.dtype.kind in "UT" and variable.ndim == 1:
                    texts = [clean(text) for text in variable.to_numpy().tolist()]
                    part = part.assign({name: part[name].copy(data=np.asarray(texts, dtype=np.str_))})
        yield where, part


def clean(text: object) -> str:
    """A text of a file as one line without control characters.

    >>> clean("run" + chr(10) + "fast")
    'run fast'
    """
    return one_line(str(text))


def segments(latents: xr.Dataset) -> pd.DataFrame:
    """The gap-free stretches of states: number `segment`, `start` and `stop`, edges of bins in s, and `label`."""
    with reading(source_of(latents)):
        segment, time = latents["segment"].to_numpy(), latents["time"].to_numpy()
        size = float(latents.attrs["bin_size"])
        # Bins outside of all segments share one number, whatever lies between them.
        begins = (np.diff(segment) != 0) | (np.diff(time) > 1.5 * size)
        first = np.append(0, np.flatnonzero(begins) + 1)
        last = np.append(first[1:], segment.size) - 1
        named = "interval" in latents.variables
        labels = [clean(text) for text in latents["interval"].to_numpy()[first].tolist()] if named else ""
    start, stop = time[first] - size / 2, time[last] + size / 2
    stop[:-1] = np.minimum(stop[:-1], start[1:])  # those that touch do not overlap by a rounding error
    return pd.DataFrame({"segment": segment[first], "start": start, "stop": stop, "label": labels})


def joined(stretches: pd.DataFrame, tolerance: float = 1e-6) -> tuple[np.ndarray, np.ndarray]:
    """Starts and stops, s, where stretches that touch within `tolerance` s are one."""
    start, stop = stretches["start"].to_numpy(), stretches["stop"].to_numpy()
    apart = start[1:] > stop[:-1] + tolerance
    return start[np.append(True, apart)], stop[np.append(apart, True)]


def read_names(latents: xr.Dataset, end: str, ndim: int) -> list[str]:
    """Names of the behaviour that was read from the states: those with a variable `<name><end>` of so many dims."""
    return [str(name).removesuffix(end) for name, x in latents.items() if str(name).endswith(end) and x.ndim == ndim]


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


def bounds(stem: str, variable: str, at: dict[str, int], unit: str = "") -> list[Column]:
    """The lower and the upper bound that a variable holds along its dim `bound`."""
    return [Column(f"{stem}_{end}", variable, at | {"bound": b}, unit) for b, end in enumerate(("lower", "upper"))]


def columns(latents: xr.Dataset) -> list[Column]:
    """The columns of a table of states, one row a bin."""
    table = [Column("time", "time", {}, "s")]
    table += [Column(n, n, {}) for n in ("segment", "interval", "observed", "trained") if n in latents.variables]
    for i in range(latents.sizes["state"]):
        table.append(Column(f"state_{i}", "filtered_mean", {"state": i}))
        table += bounds(f"state_{i}", "ci", {"state": i})
        for kind in ("smoothed", "lagged"):
            if f"{kind}_mean" in latents.variables:
                table.append(Column(f"state_{i}_{kind}", f"{kind}_mean", {"state": i}))
        if "ahead_mean" in latents.variables:
            for name, at in horizons(latents, "ahead_mean"):
                table.append(Column(f"state_{i}_{name.removesuffix('_mean')}", "ahead_mean", {"state": i, **at}))
    for i, unit in enumerate(latents["unit"].to_numpy().tolist() if "rate" in latents else ()):
        name = f"rate_{clean(unit)}"
        table.append(Column(name, "rate", {"unit": i}, "Hz"))
        table += bounds(name, "rate_ci", {"unit": i}, "Hz")
        for ahead, at in horizons(latents, "rate_ahead") if "rate_ahead" in latents else ():
            table.append(Column(f"{name}_{ahead.removeprefix('rate_')}", "rate_ahead", {"unit": i, **at}, "Hz"))
    for name in read_names(latents, "_mean", 1):
        unit = unit_of(latents, f"{name}_mean")
        table.append(Column(f"{name}_mean", f"{name}_mean", {}, unit))
        if f"{name}_ci" in latents:
            table += bounds(f"{name}_ci", f"{name}_ci", {}, unit)
        if f"{name}_true" in latents:
            table.append(Column(f"{name}_true", f"{name}_true", {}, unit))
    for name in read_names(latents, "_probability", 2):
        table += [Column(end, end, {}) for end in (f"{name}_read", f"{name}_true") if end in latents]
        for i, label in enumerate(latents[f"{name}_class"].to_numpy().tolist()):
            table.append(Column(f"{name}_probability_{clean(label)}", f"{name}_probability", {f"{name}_class": i}))
    return table


def horizons(latents: xr.Dataset, name: str) -> list[tuple[str, dict[str, int]]]:
    """The name of a variable, or for each horizon of a forecast one, as ahead_0.5s_mean; and where the horizon lies."""
    if "ahead" not in latents[name].dims:
        return [(name, {})]
    head, ahead, tail = name.rpartition("ahead")
    return [(f"{head}{ahead}_{seconds:g}s{tail}", {ahead: i}) for i, seconds in enumerate(latents[ahead].to_numpy())]


def series(latents: xr.Dataset) -> list[Column]:
    """The arrays of a file: every variable along time that is no text, bounds as two of them, each horizon apart."""
    result = [Column("segment", "segment", {})]
    for key, variable in latents.data_vars.items():
        if "time" not in variable.dims or variable.dtype.kind in "UT":
            continue
        unit = unit_of(latents, str(key))
        for name, at in horizons(latents, str(key)):
            if "bound" in variable.dims:
                result += bounds("filtered" if name == "ci" else name.removesuffix("_ci"), str(key), at, unit)
            else:
                result.append(Column(name, str(key), at, unit))
    names = [one.name for one in result]
    if len(set(names)) < len(names):
        raise InputError(f"{source_of(latents)}: two variables have one name without their bounds; decode it again")
    return result


def attributes(latents: xr.Dataset) -> dict[str, str | int | float]:
    """The attributes as JSON can hold them."""
    return {str(k): v.item() if isinstance(v, np.generic) else v for k, v in latents.attrs.items()}
