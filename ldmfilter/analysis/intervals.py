"""Intervals of what is read from states: made from errors at other folds, calibrated, and judged.

The distribution for a bin is made of the readout's errors at the nearest states of other folds, each blurred by
W P W': the filter's covariance P through the local linear map W of the readout. Its nonconformity is measured on the
calibration folds as the distance of its probability at the true value from one half, and widens or narrows the
intervals (distributional conformal prediction: Chernozhukov, Wuthrich & Zhu 2021, PNAS 118 e2107794118). Distances
and W are in coordinates in which the filter's mean covariance is one, so that neither depends on the scale of the
states.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from sklearn.neighbors import NearestNeighbors

from ldmfilter.analysis.blocks import Bins, split_halves
from ldmfilter.analysis.calibration import (
    ErrorDistribution,
    conformal_quantile,
    covered,
    crps,
    interval_score,
    score_distribution,
    score_intervals,
    thirds,
)
from ldmfilter.analysis.nested import MOST_FITTED, Readout, choose, fit_bins, keys_of, read_nested
from ldmfilter.analysis.statistics import Array
from ldmfilter.analysis.variable import Behavior, cross, thin

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
ERRORS = 80  # nearest states whose errors make a distribution: fewer say nothing of its tails
SLOPE_NEIGHBOURS = 40  # nearest states that a local linear map is fitted to
_SLOPE_PENALTY = 0.1  # of local maps, in variances of the filter's own uncertainty
_LEAST_WIDTH = 0.003  # of the behaviour's range: least blur of a distribution
_COMPARED = (0.8, 0.95)  # levels at which intervals that follow the state are compared with others
_MOST_COMPARED = 600  # bins, to that end
_CHUNK = 8_192  # bins handled at a time

#: Makes distributions of the error from states (bin, state), as `Bins` holds them, and their covariances.
Near = Callable[[Array, Array], ErrorDistribution]


@dataclass(frozen=True, eq=False)
class Reader:
    """The readout of one variable that is fitted to all judged bins, with calibrated errors, for states of other time.

    variable: what it reads
    scores (score,): nonconformity of judged bins, each read by a readout that had not seen its block
    bin_size: s, of the bins that it was fitted to
    """

    variable: Behavior
    scores: Array
    bin_size: float
    _metric: Array
    _fitted: Any
    _near: Near

    def read(self, mean: Array, cov: Array) -> tuple[Array, ErrorDistribution]:
        """Values (bin,), and the distributions of their errors, from filtered means (bin, state) and covariances (bin,
        state, state)."""
        states = mean @ self._metric
        return self._fitted.predict(states), self._near(states, cov)


@dataclass(frozen=True, eq=False)
class _Errors:
    """Errors of a chosen readout whose readings are `value` (time,), in bins that it was not fitted on.

    local: make distributions of the errors at the nearest states, not of all errors
    """

    bins: Bins
    value: Array
    local: bool

    @cached_property
    def error(self) -> Array:
        """The errors (time,)."""
        return self.bins.variable.difference(self.bins.truth, self.value)

    def among(self, rows: Array) -> Near:
        """A maker of distributions of the error at states, from the errors in the bins `rows`."""
        bins = self.bins
        span = bins.variable.period or max(float(np.ptp(bins.truth[rows])), 1e-12)
        least = _LEAST_WIDTH * span
        if not self.local:
            every = np.quantile(self.error[rows], (np.arange(ERRORS) + 0.5) / ERRORS)
            return lambda states, covs: ErrorDistribution(every[None], np.array([least]))
        rows = thin(rows, MOST_FITTED)
        search = NearestNeighbors(n_neighbors=min(ERRORS, rows.size)).fit(bins.states[rows])

        def near(states: Array, covs: Array) -> ErrorDistribution:
            nearest = rows[search.kneighbors(states, return_distance=False)]
            around = nearest[:, :SLOPE_NEIGHBOURS]
            values = self.value[around]
            values = bins.variable.difference(values, bins.variable.mean(values, 1)[:, None])
            slope = _local_slopes(bins.states[around], values) @ bins.metric.T
            variance = np.einsum("ts,tsr,tr->t", slope, covs.astype(np.float64), slope)
            return ErrorDistribution(self.error[nearest], np.minimum(np.sqrt(variance), span / 4) + least)

        return near

    def cross(self, rows: Array, among: Array) -> Iterator[tuple[Array, ErrorDistribution]]:
        """Bins of `rows` by fold, with distributions from the errors in `among` at other folds."""
        fold = self.bins.fold
        for _, held in cross(rows, fold[rows]):
            near = self.among(among[fold[among] != fold[held[0]]])
            for new in _chunks(held):
                yield new, near(self.bins.states[new], self.bins.covs[new])

    def scores(self, pairs: Iterable[tuple[Array, ErrorDistribution]]) -> Array:
        """Nonconformity (row,) of the errors in the bins that `cross` gave."""
        return np.concatenate([near.score(self.error[new]) for new, near in pairs])

    def cost(self, rows: Array) -> float:
        """Summed interval score in at most `_MOST_COMPARED` of the bins `rows`."""
        pairs = list(self.cross(thin(rows, _MOST_COMPARED), rows))
        scores = self.scores(pairs)
        total = 0.0
        for level, (new, near) in itertools.product(_COMPARED, pairs):
            bounds = near.bounds(conformal_quantile(scores, level))
            total += float(interval_score(self.error[new], bounds, level).sum())
        return total


def _chunks(rows: Array) -> Iterator[Array]:
    return (rows[first : first + _CHUNK] for first in range(0, rows.size, _CHUNK))


def _local_slopes(states: Array, values: Array) -> Array:
    """(bin, state) ridge regression of each bin's neighbours' values (bin, neighbour) on their states."""
    states = states - states.mean(1, keepdims=True)
    gram = np.einsum("tks,tkr->tsr", states, states)
    gram += _SLOPE_PENALTY * states.shape[1] * np.eye(states.shape[2])
    moment = np.einsum("tks,tk->ts", states, values - values.mean(1, keepdims=True))
    return np.linalg.solve(gram, moment[:, :, None])[:, :, 0]


class VariableReading:
    """Readings of one variable in every bin, with intervals where they are calibrated.

    mean (time,): the value; by_readout: the same by each readout, in bins of a fold
    levels: of intervals, with their positions; bounds (bound, time, level): of these intervals; NaN where not made
    constant (time, level): half width of intervals of one width from the same calibration
    pit (time,): probability of less than what happened, by the calibrated distribution
    chosen: the readout with the least error in all judged bins
    chosen_of, local_of: the readout of each fold, and True if its intervals follow the state
    reader: for states of other time; None where not calibrated
    """

    def __init__(self, bins: Bins, readouts: Sequence[Readout], ci: float):
        n = bins.truth.size
        self.bins, self.ci = bins, ci
        self.levels = {level: i for i, level in enumerate(sorted({*LEVELS, ci}))}
        self.readouts = {one.name: one for one in readouts if one.least_bins <= bins.judged.sum()}
        self.mean, self.pit = np.full((2, n), np.nan)
        self.bounds, self.constant = np.full((2, n, len(self.levels)), np.nan), np.full((n, len(self.levels)), np.nan)
        self.by_readout = {name: np.full(n, np.nan) for name in self.readouts}
        self.chosen_of: list[str] = []
        self.local_of: list[bool] = []
        self.reader: Reader | None = None
        group = bins.fold if bins.folds > 1 else split_halves(bins.fold, bins.judged)
        self._keys, readings = keys_of(self.readouts.values()), read_nested(bins, self.readouts.values(), group)
        scores = [self._read_fold(g, group, readings) for g in range(group.max() + 1)]
        self.chosen = self._read_rest(readings[:, group, np.arange(n)], np.concatenate(scores))

    def _read_fold(self, g: int, group: Array, readings: Array) -> Array:
        """Read one group without anything seen of it. Returns the nonconformity scores that calibrated it."""
        bins, out = self.bins, np.flatnonzero(group == g)
        others = np.flatnonzero(bins.judged & (group != g))
        best = choose(bins, self._keys, readings[:, g], others)
        for name, place in best.items():
            self.by_readout[name][out] = readings[place, g, out]
        chosen = next(iter(best))
        value = readings[best[chosen], g]
        self.mean[out] = value[out]
        self.chosen_of.append(chosen)
        if not bins.calibrated:
            return np.zeros(0)
        # Distributions follow the state, or do not, whichever gives the better intervals in the other folds.
        errors = min((_Errors(bins, value, local) for local in (True, False)), key=lambda one: one.cost(others))
        self.local_of.append(errors.local)
        scores = errors.scores(errors.cross(others, others))
        self._set_bounds(errors, out, others, scores, self.levels)
        self.constant[out] = [conformal_quantile(np.abs(errors.error[others]), level) for level in self.levels]
        return scores

    def _read_rest(self, values: Array, scores: Array) -> str:
        """Read the bins of no fold by the readout that is best in all judged bins, fitted on all; return its name."""
        bins, rows = self.bins, np.flatnonzero(self.bins.judged)
        new = np.flatnonzero((bins.fold < 0) | (bins.folds < 2))
        chosen, place = next(iter(choose(bins, self._keys, values, rows).items()))
        train = thin(rows, self.readouts[chosen].most_bins)
        estimator = self.readouts[chosen].candidates(train.size)[self._keys[place][1]]
        fitted = fit_bins(bins, estimator, bins.truth[train], train)
        if new.size:
            self.mean[new] = fitted.predict(bins.states[new])
        if bins.calibrated:
            errors = _Errors(bins, values[place], local=float(np.mean(self.local_of)) >= 0.5)
            self._set_bounds(errors, new, rows, scores, [self.ci])
            # Each judged bin has a score in the calibration of every fold but its own.
            few = thin(scores, rows.size)
            self.reader = Reader(bins.variable, few, bins.size, bins.metric, fitted, errors.among(rows))
        return chosen

    def _set_bounds(self, errors: _Errors, new: Array, among: Array, scores: Array, levels: Iterable[float]) -> None:
        """Set the bounds of the bins `new`, calibrated by `scores`."""
        bins, distributions = self.bins, errors.among(among)
        for rows in _chunks(new):
            near = distributions(bins.states[rows], bins.covs[rows])
            self.pit[rows] = near.pit(errors.error[rows], scores)
            for level in levels:
                ends = near.bounds(conformal_quantile(scores, level))
                self.bounds[:, rows, self.levels[level]] = self._clip(self.mean[rows], *ends, bins.truth[among])

    def _clip(self, mean: Array, low: Any, high: Any, seen: Array) -> Array:
        """Bounds (bound, bin) from deviations: within the range of the values `seen`, on a circle within one turn."""
        ends, period = np.stack([mean + low, mean + high]), self.bins.variable.period
        if period is not None:
            return np.clip(ends, mean - period / 2, mean + period / 2)
        return np.clip(ends, seen.min(), seen.max())

    def scores(self, ordered: Mapping[str, Array]) -> dict[str, Any]:
        """Scores of the intervals and of their distribution in the judged bins: `intervals`, `distribution`,
        `thirds`, by quantities (time,), width and value, and `value_range` of a `BehaviorReport`."""
        if not self.bins.calibrated:
            return {"intervals": (), "distribution": None, "thirds": (), "value_range": None}
        rows = self.bins.tested
        seen, mean, block = self.bins.truth[rows], self.mean[rows], self.bins.block[rows]
        bounds, half = self.bounds[:, rows], self.constant[rows]
        # On a circle the truth is counted from the mean, as the bounds are.
        away = self.bins.variable.difference(seen, mean)
        truth = mean + away

        def of_width(half: Any) -> Array:
            return self._clip(mean, -half, half, seen)

        def same(coverage: float) -> Array:
            return of_width(np.quantile(np.abs(away), coverage, method="higher"))

        intervals = tuple(
            score_intervals(truth, bounds[:, :, i], of_width(half[:, i]), same, level, block)
            for level, i in self.levels.items()
            if level in LEVELS
        )
        at_ci = bounds[:, :, self.levels[self.ci]]
        width, hit = at_ci[1] - at_ci[0], covered(truth, at_ci)
        loss = crps(truth, bounds, list(self.levels))
        distribution = score_distribution(loss, self.pit[rows], width, np.abs(away), block)
        of = {name: values[rows] for name, values in ordered.items()} | {"predicted width": width, "value": seen}
        return {
            "intervals": intervals,
            "distribution": distribution,
            "thirds": thirds(of, hit, width, self.ci, block),
            "value_range": (float(seen.min()), float(seen.max())),
        }

    def variables(self) -> dict[str, Any]:
        """The variables that are added to the states."""
        one, name = self.bins.variable, self.bins.variable.name
        about: dict[str, Any] = {"unit": one.unit, "path": one.path, "calibrated": int(self.bins.calibrated)}
        if one.period is not None:
            about["period"] = one.period
        variables = {
            f"{name}_mean": ("time", self.mean.astype(np.float32), {**about, "time_index": "t|t"}),
            f"{name}_true": ("time", self.bins.truth.astype(np.float32), about),
            **self.bins.fold_variable(),
        }
        if self.bins.calibrated:
            bounds = self.bounds[:, :, self.levels[self.ci]].T.astype(np.float32)
            about = about | {"level": self.ci, "of": f"{name}_mean"}
            if one.period is not None:
                about["long_name"] = "bounds are not wrapped: lower <= mean <= upper"
            variables[f"{name}_ci"] = (("time", "bound"), bounds, about)
        return variables
