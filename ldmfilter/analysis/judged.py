"""The bins of a recording that a model is judged on, and those that baselines are fitted to."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ldmfilter.data.counts import check_counts, is_signal
from ldmfilter.data.tables import Array
from ldmfilter.data.windows import outside
from ldmfilter.errors import InputError
from ldmfilter.filter.kalman import Filtered, LinearGaussian, filter

GUARD = 2.0  # s between time that was trained on and time that is judged: the slowest part of behaviour's memory
LEAST_BINS = 100  # judged bins below which a number is too uncertain to report
MOST_BINS = 100_000  # longer recordings are judged on stretches of so many bins in all
MOST_VALUES = 3_000_000  # bins times units, likewise
STRETCH = 40.0  # s, of such a stretch


def check_model(model: Any) -> None:
    """Raises: InputError for what is no `LDMFilter`, and for one that is not fitted."""
    if not hasattr(model, "check_fitted"):
        raise InputError(f"model is {model!r}; give a fitted LDMFilter, as ldmfilter.load gives it")
    model.check_fitted()


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of a recording and their uses.

    Attributes:
        counts: (time, unit) float32, NaN where a unit is not observed.
        time: (time,) bin centres, s.
        size: of a bin, s.
        starts: (time,) bool, the first bins of gap-free stretches.
        observed: (time,) bool.
        fit: (time,) bool, the bins that baselines are fitted to.
        judged: (time,) bool; each has an observed bin before it.
        held_out: whether training saw none of the judged bins.
        signal: whether the counts are a signal.
    """

    counts: Array
    time: Array
    size: float
    starts: Array
    observed: Array
    fit: Array
    judged: Array
    held_out: bool
    signal: bool = False

    @property
    def segment(self) -> Array:
        """(time,) number of the gap-free stretch."""
        return np.cumsum(self.starts)

    @property
    def fresh(self) -> Array:
        """(time,) bool, the bins whose past is not known: those after a missing bin, and the first of stretches."""
        return _fresh(self.starts, self.observed)

    @property
    def halves(self) -> tuple[Array, Array]:
        """Bins to fit to and bins to judge on, never the same ones."""
        if not (self.fit & self.judged).any():
            return self.fit, self.judged
        odd = _alternating(self.time)
        return self.fit & odd, self.judged & ~odd

    def filter(self, model: LinearGaussian, z: Tensor, evidence: Tensor | None = None) -> Filtered:
        """`kalman.filter` of z (time, latent) over these bins, or of several such z, one after the other."""
        observed, starts = (torch.from_numpy(x).repeat(len(z) // len(x)) for x in (self.observed, self.starts))
        return filter(model, z, observed, starts, evidence=evidence)

    def piece(self, most: int, seed: int) -> Bins:
        """About `most` of the judged bins, with bins of `GUARD` s before each, in which a filter forgets its prior."""
        judged = thinned(self.judged, most, self.size, seed)
        ahead = round(GUARD / self.size)
        rows = np.flatnonzero(np.convolve(judged, np.ones(ahead + 1))[ahead:] > 0.5)
        starts = (np.diff(rows, prepend=rows[0] - 2) != 1) | self.starts[rows]
        same = {name: getattr(self, name)[rows] for name in ("counts", "time", "observed", "fit")}
        return dataclasses.replace(self, starts=starts, judged=judged[rows], **same)


def bins_of(counts: xr.DataArray, trained: Array, trained_spans: list[tuple[float, float]]) -> Bins:
    """Divide a recording into bins to fit to and bins to judge on.

    Judged are the bins `GUARD` s away from training, or where these are too few, training's own. Of a session that the
    model was not trained on every other tenth is fitted to, and the others are judged. Training saw the bins `trained`
    (time,) and the time of `trained_spans`, starts and stops in s.

    Raises:
        InputError: fewer than `LEAST_BINS` bins to fit to or to judge on.
    """
    time, segment, observed = (counts[name].values for name in ("time", "segment", "observed"))
    values = counts.values.astype(np.float32)
    if "unit_observed" in counts.coords:
        values[~counts["unit_observed"].values] = np.nan
    starts = np.diff(segment, prepend=segment[0] - 1) != 0
    usable = observed & ~_fresh(starts, observed)
    fit, judged, held_out = usable & trained, usable & outside(time, trained_spans, GUARD), True
    if not trained.any():
        odd = _alternating(time)
        fit, judged = usable & odd, usable & ~odd
    elif judged.sum() < LEAST_BINS:
        judged, held_out = fit, False
    if min(judged.sum(), fit.sum()) < LEAST_BINS:
        raise InputError(
            f"{counts.attrs.get('path') or 'counts'}: {int(judged.sum())} observed bins are too few to judge a filter "
            f"on; give a span of {LEAST_BINS} bins or more"
        )
    return Bins(
        values, time, float(counts.attrs["bin_size"]), starts, observed, fit, judged, held_out, is_signal(counts)
    )


def _fresh(starts: Array, observed: Array) -> Array:
    return starts | ~np.append(False, observed[:-1])


def excerpt(counts: xr.DataArray, seed: int) -> xr.DataArray:
    """At most `MOST_BINS` bins, in random stretches, so that a day is judged as fast as an hour."""
    n, units = counts.sizes["time"], counts.sizes["unit"]
    most = min(MOST_BINS, max(MOST_VALUES // max(units, 1), 10_000))
    kept = thinned(np.ones(n, dtype=bool), most, float(counts.attrs["bin_size"]), seed)
    return check_counts(counts.isel(time=np.flatnonzero(kept)))


def thinned(chosen: Array, most: int, bin_size: float, seed: int) -> Array:
    """About `most` of the chosen bins (time,), in stretches of `STRETCH` s at most that are drawn at random: reserved
    time is regular, and a regular choice could miss it."""
    if int(chosen.sum()) <= most:
        return chosen
    length = max(min(math.ceil(STRETCH / bin_size), most // 4), 1)
    stretch = (np.cumsum(chosen) - 1).clip(0) // length
    kept = np.random.default_rng(seed).permutation(int(stretch[-1]) + 1) < max(most // length, 1)
    return chosen & kept[stretch]


def _alternating(time: Array) -> Array:
    """(time,) bool: every other of ten equal stretches."""
    return (np.arange(len(time)) * 10 // max(len(time), 1)) % 2 == 0
