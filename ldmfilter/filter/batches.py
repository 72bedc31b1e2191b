"""Batches and windows of a session's counts, from the device's memory or read from where they lie."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ldmfilter.data.counts import is_signal, seen_counts
from ldmfilter.data.frames import observed_frames, phases, sum_frames
from ldmfilter.data.windows import split_windows
from ldmfilter.errors import InputError
from ldmfilter.filter.spikes_ahead import thin
from ldmfilter.ranks import ranks

EVALUATION_WINDOWS = 256  # held-out windows at most, spread evenly
SCALING_BINS = 20_000  # bins at most that the mean and covariance of z are learnt from, spread evenly
RESIDENT = 2**26  # counts that are held in (the device's) memory, as float32; more are read from where they lie
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
        if is_signal(one) != is_signal(counts[0]):
            raise InputError(f"{path}: spikes beside a signal; train on one of them, and add the other")
        if checksum and checksum in seen:
            raise InputError(f"{path}: is the same session as {seen[checksum]}; name each session once")
        seen[checksum] = path


class Stretches(NamedTuple):
    """Bins that a finished filter is measured on."""

    counts: Float[Tensor, "time unit"]  # on the CPU
    observed: np.ndarray  # (time,) bool
    starts: np.ndarray  # (time,) bool, first bins of a stretch
    held: np.ndarray  # (time,) bool, held out from training


class Judged(NamedTuple):
    """Bins that predicted spikes are judged on."""

    bins: np.ndarray  # (time,) number in the recording
    frames: Float[Tensor, "time unit"]  # counts of the frame that ends with each bin, on the CPU
    counts: np.ndarray  # (time, unit) of the bin itself, NaN where a unit was not observed
    observed: np.ndarray  # (time,) bool, of the frame
    runs: np.ndarray  # (time,) number of the gap-free stretch


class Batch(NamedTuple):
    """Windows of a session in one training step."""

    counts: Float[Tensor, "batch time unit"]  # this process's share of them
    inside: Bool[Tensor, "windows time"]  # of all windows; False beyond the end of one that is shorter than others
    trial: Int[Tensor, " windows"]  # number of the trial that each lies in


class Recording:
    """A session's share of a training: its windows, and the frames of counts in them.

    Args:
        counts: (time, unit), as `bin_spikes` makes them.
        frame: bins in a frame.
        window: frames in a window, at most.
        held_out: share of the time that is held out.
        block: bins that a held-out block has at least.
        fabric: moves them to the device.
        unseen: (time,) bool, bins that its windows leave out, where a training on the others is judged.
        shortest: in trials, the fewest frames of a trial that is a window of its own (`split_windows`).

    Attributes:
        windows: where training and held-out windows start.
        n_units: number of units.
        signal: whether they are channels of a signal.
        frame: bins in a frame.
        unseen: (time,) bool, or None where training may use all bins.
        scaling: (frame, unit) counts that the mean and covariance of z are learnt from.
        held: (window, time, unit) counts of held-out windows.
        held_inside: (window, time) bool, False beyond the end of a window that is shorter than others.
    """

    def __init__(
        self,
        counts: xr.DataArray,
        frame: int,
        window: int,
        held_out: float,
        block: int,
        fabric: Any,
        unseen: np.ndarray | None = None,
        shortest: int | None = None,
    ):
        least = None if shortest is None else shortest * frame
        self.windows = split_windows(counts, window * frame, held_out, block, frame, unseen=unseen, shortest=least)
        self.n_units, self.signal = counts.sizes["unit"], is_signal(counts)
        self.frame, self.unseen, self._fabric = frame, unseen, fabric
        self._ends = frame - 1 + frame * np.arange(window)  # last bins of a window's frames
        self._counts, self._segment = counts, np.asarray(counts["segment"])
        self._observed = observed_frames(np.asarray(counts["observed"]), self._segment, frame)
        # Few frames are held in the device's memory; many are read from where they lie.
        self._resident: Tensor | None = None
        if counts.size <= RESIDENT:
            self._resident = self._moved(self._gather(np.arange(counts.sizes["time"]), frame))
        self.scaling = self._frames(thin(self.windows.train_bins, SCALING_BINS))
        held = thin(np.arange(len(self.windows.held_starts)), EVALUATION_WINDOWS)
        self.held_inside = self._inside(self.windows.held_lengths[held])
        self.held = self._windows(self.windows.held_starts[held], self.held_inside)

    def _inside(self, lengths: np.ndarray) -> Bool[Tensor, "*batch time"]:
        return torch.from_numpy(self._ends < lengths[..., None])

    def _windows(self, starts: np.ndarray, inside: Tensor) -> Float[Tensor, "*batch time unit"]:
        """The frames of windows, NaN beyond their ends."""
        frames = self._frames(np.minimum(starts[..., None] + self._ends, self._segment.size - 1))
        return frames if inside.all() else frames.masked_fill_(~inside.to(frames.device)[..., None], torch.nan)

    def _frames(self, bins: np.ndarray) -> Float[Tensor, "*batch unit"]:
        """The frames that end with these bins, NaN where a unit was not observed."""
        if self._resident is not None:
            return self._resident[self._moved(bins)]
        return self._moved(self._gather(bins, self.frame))

    def _gather(self, bins: np.ndarray, frame: int) -> np.ndarray:
        """Frames, float32, that end with these bins; each stretch of the recording that holds some is read once."""
        out = np.empty((*bins.shape, self.n_units), np.float32)
        stretch = bins // STRETCH
        for number in np.unique(stretch).tolist():
            inside = stretch == number
            first = max(number * STRETCH - frame + 1, 0)
            rows = slice(first, (number + 1) * STRETCH)
            values = seen_counts(self._counts[rows])
            out[inside] = sum_frames(values, self._segment[rows], frame)[bins[inside] - first]
        return out

    def _moved(self, values: np.ndarray) -> Tensor:
        moved: Tensor = self._fabric.to_device(torch.from_numpy(np.ascontiguousarray(values)))
        return moved

    def draw(self, shape: tuple[int, ...], generator: torch.Generator) -> np.ndarray:
        """Numbers of training windows at random, in trials those of each trial as often as it is long."""
        weights = self.windows.train_weights
        if weights is None:
            return torch.randint(len(self.windows.train_starts), shape, generator=generator).numpy()
        until = np.cumsum(weights)
        drawn = until[-1] * torch.rand(shape, generator=generator, dtype=torch.float64).numpy()
        return np.searchsorted(until[:-1], drawn, "right")

    def batches(self, picks: np.ndarray) -> Iterator[Batch]:
        """Training windows by their number (step, windows), a batch for each step."""
        among, windows = ranks(), self.windows
        own = picks.reshape(len(picks), among.size, -1)[:, among.rank]
        starts, own_inside = windows.train_starts[own], self._inside(windows.train_lengths[own])
        # Of a recording that is not resident, one pass serves all steps.
        resident = self._resident is not None
        counts = map(self._windows, starts, own_inside) if resident else self._windows(starts, own_inside)
        inside, trial = self._inside(windows.train_lengths[picks]), torch.from_numpy(windows.train_trials[picks])
        yield from map(Batch, counts, inside, trial)

    def stretches(self, most: int) -> Stretches:
        """Frames of one phase, which follow one another: all, or, of more than about so many, stretches around held-out
        ones."""
        rows, runs = self._rows(most * self.frame)
        last = phases(runs, self.frame) == self.frame - 1
        if self.unseen is not None:
            last &= ~self.unseen[rows]
        ends, runs = rows[last], runs[last]
        held = np.isin(ends, self.windows.held_bins, assume_unique=True)
        return Stretches(self._frames(ends).cpu(), self._observed[ends], np.diff(runs, prepend=-1) != 0, held)

    def _rows(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """All bins, or, of more than about so many, stretches around held-out ones and unseen ones; and the stretch of
        each."""
        bins, middle = np.arange(self._segment.size), thin(self.windows.held_bins, 8)
        if bins.size > most:
            if self.unseen is not None:
                middle = np.append(middle[::2], thin(np.flatnonzero(self.unseen), 4))
            half = most // 16
            around = np.unique(middle[:, None] + np.arange(-half, half))
            bins = around[(around >= 0) & (around < bins.size)]
        new = (np.diff(bins, prepend=-2) != 1) | (np.diff(self._segment[bins], prepend=-1) != 0)
        return bins, np.cumsum(new) - 1

    def judged(self, most: int) -> Judged:
        """Bins that predicted spikes are judged on: all, or, of more than about so many, stretches."""
        bins, runs = self._rows(most)
        counts = self._gather(bins, 1).astype(np.float64)
        return Judged(bins, self._frames(bins).cpu(), counts, self._observed[bins], runs)
