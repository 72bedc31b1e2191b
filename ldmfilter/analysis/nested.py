"""Readouts: kinds of regression from states to behaviour, fitted on some folds and used on others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ldmfilter.analysis.behavior import cross, thin
from ldmfilter.analysis.blocks import Bins, split_halves
from ldmfilter.data.tables import Array

NEIGHBOURS = (10, 25, 50)  # candidates
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, in variances of a state: candidates
MOST_FITTED = 20_000  # bins that a readout is fitted on
_MOST_NETWORK = 3_000  # bins that networks are fitted on: with more they take most of the time


@dataclass(frozen=True)
class Readout:
    """A kind of regression from states to behaviour.

    candidates: scikit-learn estimators for a number of fitted bins, always as many; the choice among them is made on
        inner folds. Inputs are states in coordinates of unit filter covariance, targets `Behavior.encode`.
    most_bins: it is fitted on at most so many, evenly spread; least_bins: with fewer judged bins it is left out
    fast: whether the shift control uses it
    """

    name: str
    candidates: Callable[[int], list[Any]]
    most_bins: int = MOST_FITTED
    least_bins: int = 1
    fast: bool = True


def _networks(bins: int) -> list[Any]:
    network = MLPRegressor(
        hidden_layer_sizes=(64, 64), alpha=1e-2, early_stopping=bins >= 100, n_iter_no_change=5, max_iter=80,
        batch_size=min(500, max(bins // 10, 8)), learning_rate_init=5e-3,
    )  # fmt: skip
    ensemble = BaggingRegressor(network, n_estimators=3, bootstrap=False, random_state=0)
    return [make_pipeline(StandardScaler(), TransformedTargetRegressor(ensemble, transformer=StandardScaler()))]


#: The readouts that are compared.
READOUTS = (
    Readout("linear", lambda bins: [make_pipeline(StandardScaler(), Ridge(alpha=p * bins)) for p in PENALTIES]),
    Readout(
        "neighbours", lambda bins: [KNeighborsRegressor(n_neighbors=min(k, max(bins // 4, 1))) for k in NEIGHBOURS]
    ),
    Readout("networks", _networks, most_bins=_MOST_NETWORK, least_bins=1_000, fast=False),
)
FAST = tuple(readout for readout in READOUTS if readout.fast)


def fit_bins(bins: Bins, estimator: Any, y: Array, train: Array) -> Any:
    """The estimator, fitted to values y (bin,) or (bin, series) in the bins `train`; on a line it reads none beyond."""

    def decode(targets: Array) -> Array:
        values = bins.variable.decode(targets)
        return values if bins.variable.period is not None else np.clip(values, y.min(0), y.max(0))

    both = {"func": bins.variable.encode, "inverse_func": decode, "check_inverse": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return TransformedTargetRegressor(estimator, **both).fit(bins.states[train], y)


#: A readout, and the number of one of its candidates.
Candidate = tuple[Readout, int]


def candidates_of(readouts: Iterable[Readout]) -> list[Candidate]:
    """Every candidate of the readouts."""
    return [(readout, i) for readout in readouts for i in range(len(readout.candidates(1)))]


def fit_candidate(bins: Bins, candidate: Candidate, y: Array, rows: Array) -> Any:
    """The candidate, fitted to y (bin,) or (bin, series) in the bins `rows`."""
    readout, i = candidate
    some = thin(np.arange(rows.size), readout.most_bins)
    return fit_bins(bins, readout.candidates(some.size)[i], y[some], rows[some])


def predict_all(bins: Bins, candidates: Iterable[Candidate], y: Array, rows: Array, new: Array) -> Array:
    """Values (candidate, bin) or (candidate, bin, series) of `new` bins by every candidate, fitted as
    `fit_candidate`."""
    return np.stack([fit_candidate(bins, one, y, rows).predict(bins.states[new]) for one in candidates])


def read_nested(bins: Bins, candidates: Collection[Candidate], group: Array) -> Array:
    """Readings (candidate, group, bin) that are honest for one group each.

    Those of g hold, for a bin of another group, the reading of the candidate fitted without g and without the bin's
    group; for a bin of g, the mean of all these fits. So with five folds ten pairs are fitted.
    """
    inner = group if group.max() > 1 else split_halves(group, bins.judged)
    fits: dict[bytes, Array] = {}
    result = np.full((len(candidates), group.max() + 1, group.size), np.nan)
    for g in range(group.max() + 1):
        rows = np.flatnonzero(bins.judged & (group != g))
        outer, together = group == g, []
        for train, held in cross(rows, inner[rows]):
            if (key := train.tobytes()) not in fits:
                new = np.flatnonzero((group >= 0) & ~np.isin(inner, inner[train]))
                fits[key] = np.full((len(result), group.size), np.nan)
                fits[key][:, new] = predict_all(bins, candidates, bins.truth[train], train, new)
            together.append(fits[key][:, outer])
            part = inner == inner[held[0]]
            result[:, g, part] = fits[key][:, part]
        result[:, g, outer] = bins.variable.mean(np.stack(together), 0)
    return result


def choose(bins: Bins, candidates: Sequence[Candidate], values: Array, rows: Array) -> dict[str, int]:
    """The row of the best candidate of each readout, by squared error of values (candidate, bin) in the bins `rows`;
    the best readout first."""
    squared = (bins.variable.difference(bins.truth[rows], values[:, rows]) ** 2).mean(1)
    best: dict[str, int] = {}
    for place in np.argsort(squared, kind="stable").tolist():
        best.setdefault(candidates[place][0].name, place)
    return best
