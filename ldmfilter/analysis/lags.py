"""The accuracy of behaviour read from states that wait for later bins, and the states' own certainty, by the lag, so
that one can be chosen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from scipy.special import ndtri
from sklearn.neighbors import KNeighborsRegressor

from ldmfilter.analysis.behavior import Behavior, cross
from ldmfilter.analysis.blocks import GUARD, Bins, bins_of
from ldmfilter.analysis.intervals import conformal_quantile
from ldmfilter.analysis.nested import fit_bins
from ldmfilter.filter.linalg import one_thread

if TYPE_CHECKING:
    from ldmfilter.filter.model import LDMFilter

LAGS = (0.1, 0.2, 0.5, 1.0, 2.0)  # s
NEIGHBOURS = 25
LEVEL = 0.95


@dataclass(frozen=True)
class AtLag:
    """Behaviour read from the states at one lag.

    Attributes:
        lag: s; 0 for filtered states, None for smoothed ones.
        median_error: median absolute error, in the behaviour's unit.
        width: of intervals of one width, which hold 95 % of the errors in other blocks, in the behaviour's unit.
        coverage: share of the values that lie inside these.
    """

    lag: float | None
    median_error: float
    width: float
    coverage: float


@one_thread(every_library=True)
def read_at_lags(
    model: LDMFilter, counts: xr.DataArray, behavior: Sequence[Behavior], min_speed: float = 0.0
) -> dict[str, tuple[AtLag, ...]]:
    """Read behaviour at each of `LAGS`, in whole frames of the shortest, from 25 nearest neighbours in other
    blocks.

    Args:
        model: a fitted filter.
        counts: (time, unit) of the session.
        behavior, min_speed: as `read_behavior` takes them; variables of classes are left out.

    Returns:
        By name of the variable a row for filtered states, for each lag, and for smoothed states; without those whose
        judged time is a single block.

    Raises:
        InputError: as `read_behavior`.
    """
    found: dict[str, list[AtLag]] = {one.name: [] for one in behavior if not one.categories}
    for lag, latents in states_at_lags(model, counts) if found else ():
        for bins in bins_of(latents, behavior, min_speed, GUARD):
            if bins.variable.name in found and bins.folds > 1:
                found[bins.variable.name].append(_read(lag, bins))
    return {name: tuple(rows) for name, rows in found.items() if rows}


def widths_at_lags(model: LDMFilter, counts: xr.DataArray) -> dict[str, list[dict[str, float | None]]]:
    """The mean width of the states' 95 % intervals, of standard deviations, at each of `LAGS`; for sessions without
    behaviour.

    Returns:
        By kind of states ("slow states", "fast states", or "states" alone) rows of `lag` and `width` over all observed
        bins, in the order of `read_at_lags`.
    """
    found: dict[str, list[dict[str, float | None]]] = {}
    for lag, latents in states_at_lags(model, counts):
        cov = latents["filtered_cov"].to_numpy()[latents["observed"].to_numpy()]
        width = 2 * float(ndtri(0.5 + 0.5 * LEVEL)) * np.sqrt(np.diagonal(cov, axis1=1, axis2=2)).mean(0)
        kinds = latents["dynamics"].to_numpy() if "dynamics" in latents else np.full(width.size, "")
        for kind in dict.fromkeys(kinds.tolist()):
            rows = found.setdefault(f"{kind} states".strip(), [])
            rows.append({"lag": lag, "width": float(width[kinds == kind].mean())})
    return found


def states_at_lags(model: LDMFilter, counts: xr.DataArray) -> Iterator[tuple[float | None, xr.Dataset]]:
    """Filtered states (0), those at each of `LAGS` (s) and smoothed ones (None), each as `filtered_mean` and
    `filtered_cov`."""
    frame = min(part.frame_bins_ for part in model.parts) * model.bin_size_
    seconds = counts.sizes["time"] * model.bin_size_
    lags = sorted({n * frame for n in (int(lag / frame + 1e-6) for lag in LAGS) if n and n * frame <= seconds})
    for lag in (0.0, *lags, None):
        latents = model.decode(counts, smooth=lag is None, lag=lag or None)
        kind = "filtered" if lag == 0 else "smoothed" if lag is None else "lagged"
        yield lag, latents.assign({f"filtered_{part}": latents[f"{kind}_{part}"] for part in ("mean", "cov")})


def _read(lag: float | None, bins: Bins) -> AtLag:
    rows = np.flatnonzero(bins.judged)
    error, fold = np.full(bins.truth.size, np.nan), bins.fold[rows]
    for train, test in cross(rows, fold):
        neighbours = KNeighborsRegressor(n_neighbors=min(NEIGHBOURS, train.size))
        read = fit_bins(bins, neighbours, bins.truth[train], train).predict(bins.states[test])
        error[test] = np.abs(bins.variable.difference(bins.truth[test], read))
    error = error[rows]
    half = np.array([conformal_quantile(error[fold != number], LEVEL) for number in fold])
    return AtLag(lag, float(np.median(error)), float(2 * half.mean()), float((error <= half).mean()))
