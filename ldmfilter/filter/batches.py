"""Batches and windows of a session's counts, from the device's memory or read from where they lie."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ldmfilter.config import FilterConfig
from ldmfilter.data.windows import split_windows
from ldmfilter.errors import InputError

EVALUATION_WINDOWS = 256  # held-out windows at most, spread evenly
SCALING_BINS = 20_000  # bins at most that the mean and covariance of z are learnt from, spread evenly
RESIDENT = 2**28  # bytes of counts that are held in (the device's) memory; more are read from where they lie
STRETCH = 2**16  # bins read at a time then


def check_sessions(counts: Sequence[xr.DataArray]) -> None:
    """Raises: InputError for sessions of different bins, for the same session twice and for none."""
    if not counts:
        raise InputError("no session to train on; give one or more")
    seen: dict[str, str] = {}
    for one in counts:
        path, checksum = str(one.attrs.get("path") or "counts"), str(one.attrs.get("checksum", ""))
        size, first = float(one.attrs["bin_size"]), float(counts[0].attrs["bin_size"])
        if not np.isclose(size, first, rtol=1e-9):
            raise InputError(f"{path}: bins of {size:g} s beside others of {first:g} s; bin all sessions alike")
        if checksum and checksum in seen:
            raise InputError(f"{path}: is the same session as {seen[checksum]}; name each session once")
        seen[checksum] = path


class Stretches(NamedTuple):
    """Bins that a finished filter is measured on."""

    counts: Float[Tensor, "time unit"]  # on the CPU
    observed: np.ndarray  # (time,) bool
    starts: np.ndarray  # (time,) bool, first bins of a stretch
    held: np.ndarray  # (time,) bool, held out from training


class Recording:
    """A session's share of a training: its windows, and the counts in them.

    Attributes:
        windows: where training and held-out windows start.
        n_units: number of units.
        scaling: (bin, unit) counts that the mean and covariance of z are learnt from.
        held: (window, time, unit) counts of held-out windows.
    """

    def __init__(self, counts: xr.DataArray, config: FilterConfig, fabric: Any):
        self.windows = split_windows(counts, config.window, config.held_out)
        self.n_units = counts.sizes["unit"]
        self._segment, self._observed = np.asarray(counts["segment"]), np.asarray(counts["observed"])
        self._counts = _Counts(counts, fabric)
        self.scaling = self._counts.read(_spread(self.windows.train_bins, SCALING_BINS))
        self.held = self._read(_spread(self.windows.held_starts, EVALUATION_WINDOWS))

    def _read(self, starts: np.ndarray) -> Float[Tensor, "*batch time unit"]:
        return self._counts.read(starts[..., None] + np.arange(self.windows.window))

    def train(self, most: int) -> Float[Tensor, "window time unit"]:
        """At most so many training windows that do not overlap, spread evenly."""
        starts = self.windows.train_starts
        apart = starts[np.diff(starts // self.windows.window, prepend=-1) != 0]
        return self._read(_spread(apart, most))

    def batches(self, picks: np.ndarray) -> Iterator[Float[Tensor, "batch time unit"]]:
        """Training windows by their number (step, batch), a batch for each step."""
        starts = self.windows.train_starts[picks]
        if self._counts.resident:
            yield from map(self._read, starts)
        else:  # one pass over the recording serves all steps
            yield from self._read(starts)

    def stretches(self, most: int) -> Stretches:
        """All bins, or, of more than about so many, stretches around held-out ones."""
        bins, held = np.arange(self._segment.size), self.windows.held_bins
        if bins.size > most:
            half = most // 16
            around = np.unique(_spread(held, 8)[:, None] + np.arange(-half, half))
            bins = around[(around >= 0) & (around < bins.size)]
        starts = (np.diff(bins, prepend=-2) != 1) | (np.diff(self._segment[bins], prepend=-1) != 0)
        return Stretches(
            self._counts.read(bins).cpu(), self._observed[bins], starts, np.isin(bins, held, assume_unique=True)
        )


class _Counts:
    """Bins as float32, NaN where a unit was not observed. Few counts are held in the device's memory, in a small dtype;
    many are read from where they lie."""

    def __init__(self, counts: xr.DataArray, fabric: Any):
        self._fabric = fabric
        self._sources = [counts.variable]
        if "unit_observed" in counts.coords:
            self._sources.append(counts["unit_observed"].variable)
        self.resident = sum(source.nbytes for source in self._sources) <= RESIDENT
        if self.resident:
            self._tensors = [self._moved(source.to_numpy()) for source in self._sources]

    def read(self, bins: np.ndarray) -> Float[Tensor, "... unit"]:
        if self.resident:
            index = self._moved(bins)
            parts = [tensor[index] for tensor in self._tensors]
        else:
            parts = [self._moved(_gather(source, bins)) for source in self._sources]
        x = parts[0].float()
        return x if len(parts) == 1 else x.masked_fill(~parts[1], math.nan)

    def _moved(self, values: np.ndarray) -> Tensor:
        if values.dtype.kind == "u" and values.dtype.itemsize > 1:
            values = values.astype(np.int32)  # torch indexes no uint16 or uint32
        moved: Tensor = self._fabric.to_device(torch.from_numpy(np.ascontiguousarray(values)))
        return moved


def _gather(source: xr.Variable, bins: np.ndarray) -> np.ndarray:
    """source[bins], reading each stretch that holds some of them once."""
    out = np.empty((*bins.shape, source.shape[1]), source.dtype)
    stretch = bins // STRETCH
    for number in np.unique(stretch).tolist():
        inside = stretch == number
        first = number * STRETCH
        out[inside] = source[first : first + STRETCH].to_numpy()[bins[inside] - first]
    return out


def _spread(items: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the items, spread evenly."""
    return items if len(items) <= most else items[np.linspace(0, len(items) - 1, most).astype(np.int64)]
