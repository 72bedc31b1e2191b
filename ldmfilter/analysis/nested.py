"""Readouts: kinds of regression from states to behaviour, fitted on some folds and used on others."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
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

from ldmfilter.analysis.blocks import Bins, split_halves
from ldmfilter.analysis.statistics import Array
from ldmfilter.analysis.variable import cross, thin

NEIGHBOURS = (10, 25, 50)  # candidates
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, in variances of a state: candidates
MOST_FITTED = 20_000  # bins that a readout is fitted on
_MOST_NETWORK = 3_000  # bins that networks are fitted on: with more they take most of the time

Key = tuple[str, int]  # name of a readout, number of the candidate


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


def predict_all(bins: Bins, readouts: Sequence[Readout], y: Array, rows: Array, new: Array) -> dict[Key, Array]:
    """Values of `new` bins by every candidate, fitted to y (bin,) or (bin, series) in the bins `rows`."""
    result = {}
    for readout in readouts:
        some = thin(np.arange(rows.size), readout.most_bins)
        for i, estimator in enumerate(readout.candidates(some.size)):
            result[readout.name, i] = fit_bins(bins, estimator, y[some], rows[some]).predict(bins.states[new])
    return result


def read_nested(bins: Bins, readouts: Sequence[Readout], group: Array) -> dict[Key, Array]:
    """Readings (group, bin) of every candidate that are honest for one group each.

    Row g holds, for a bin of another group, the reading of the candidate fitted without g and without the bin's
    group; for a bin of g, the mean of all these fits. So with five folds ten pairs are fitted.
    """
    inner = group if group.max() > 1 else split_halves(group, bins.judged)
    fits: dict[bytes, dict[Key, Array]] = {}
    result: dict[Key, Array] = {}
    for g in range(group.max() + 1):
        rows = np.flatnonzero(bins.judged & (group != g))
        outer, together = group == g, []
        for train, held in cross(rows, inner[rows]):
            if (key := train.tobytes()) not in fits:
                new = np.flatnonzero((group >= 0) & ~np.isin(inner, inner[train]))
                fits[key] = {}
                for name, values in predict_all(bins, readouts, bins.truth[train], train, new).items():
                    fits[key][name] = np.full(group.size, np.nan)
                    fits[key][name][new] = values
            together.append(fits[key])
            part = inner == inner[held[0]]
            for name, values in fits[key].items():
                table = result.setdefault(name, np.full((group.max() + 1, group.size), np.nan))
                table[g, part] = values[part]
        for name, table in result.items():
            table[g, outer] = bins.variable.mean(np.stack([fit[name][outer] for fit in together]), 0)
    return result


def choose(bins: Bins, values: Mapping[Key, Array], rows: Array) -> dict[str, Key]:
    """The best candidate of each readout by squared error in the bins `rows`, the best readout first."""
    squared = {
        key: float((bins.variable.difference(bins.truth[rows], read[rows]) ** 2).mean()) for key, read in values.items()
    }
    best: dict[str, Key] = {}
    for key in sorted(squared, key=squared.__getitem__):
        best.setdefault(key[0], key)
    return best
