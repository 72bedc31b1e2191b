"""Readouts of behaviour from states, and their intervals: made from errors at other folds, calibrated, and judged.

The distribution for a bin is made of the readout's errors at the nearest states of other folds, each blurred by
W P W': the filter's covariance P through the local linear map W of the readout. Its nonconformity is measured on the
calibration folds as the distance of its probability at the true value from one half, and widens or narrows the
intervals (distributional conformal prediction: Chernozhukov, Wuthrich & Zhu 2021, PNAS 118 e2107794118). Distances
and W are in coordinates in which the filter's mean covariance is one, so that neither depends on the scale of the
states.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy.special import ndtr
from scipy.stats import rankdata
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ldmfilter.analysis.behavior import Behavior, cross, thin
from ldmfilter.analysis.blocks import Bins, split_halves
from ldmfilter.analysis.statistics import block_bootstrap
from ldmfilter.data.tables import Array

NEIGHBOURS = (10, 25, 50)  # candidates
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, in variances of a state: candidates
MOST_FITTED = 20_000  # bins that a readout is fitted on
_MOST_NETWORK = 3_000  # bins that networks are fitted on: with more they take most of the time
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
ERRORS = 80  # nearest states whose errors make a distribution: fewer say nothing of its tails
SLOPE_NEIGHBOURS = 40  # nearest states that a local linear map is fitted to
_SLOPE_PENALTY = 0.1  # of local maps, in variances of the filter's own uncertainty
_LEAST_WIDTH = 0.003  # of the behaviour's range: least blur of a distribution
_COMPARED = (0.8, 0.95)  # levels at which intervals that follow the state are compared with others
_MOST_COMPARED = 600  # bins, to that end
_CHUNK = 8_192  # bins handled at a time
SPIKES, SPEED = "spikes in the last second", "speed"  # what judged bins are ordered by, with width and value
BAND = 0.03  # coverage of each third may differ from its level by as much
TAIL = 4.0  # widths beyond the outermost error, where a distribution is taken to end
QUANTILES = (np.arange(100) + 0.5) / 100  # that the CRPS is summed over
TENTHS = 10  # of a histogram of probabilities

Bounds = Array | tuple[Array, Array]  # lower and upper (bin,)


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

    targets = TransformedTargetRegressor(estimator, func=bins.variable.encode, inverse_func=decode, check_inverse=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return targets.fit(bins.states[train], y)


#: A readout, and the number of one of its candidates.
Candidate = tuple[Readout, int]


@dataclass(frozen=True)
class IntervalScore:
    """Intervals of one level on bins that were not used to make them; `_se` are standard errors by block bootstrap.

    level, coverage: shares; width: mean, in the behaviour's unit; score: mean interval score (Winkler), same unit,
        smaller is better
    constant_*: the same of intervals of one width for all bins, calibrated on the same blocks
    same_coverage_score: of intervals of one width that is tuned on the judged bins to cover as many of them
    advantage: same_coverage_score - score, and its standard error, both scores on the same draws of blocks
    """

    level: float
    coverage: float
    coverage_se: float
    width: float
    width_se: float
    score: float
    score_se: float
    constant_coverage: float
    constant_width: float
    constant_score: float
    same_coverage_score: float
    advantage: float
    advantage_se: float


@dataclass(frozen=True)
class Third:
    """Intervals in a third of the judged bins; `_se` are standard errors by block bootstrap.

    by: what the bins were ordered by; low, high: its range in them
    coverage: share; width: mean, in the behaviour's unit
    outside: whether the coverage lies farther than chance explains (2 standard errors) beyond `BAND` of its level
    """

    by: str
    low: float
    high: float
    coverage: float
    coverage_se: float
    width: float
    width_se: float
    outside: bool

    def where(self, unit: str) -> str:
        """The quantity that the bins were ordered by, and its range in them, where the behaviour has this unit."""
        return f"{self.by} of {self.low:.3g} to {self.high:.3g}{unit_of(self.by, unit)}"


def unit_of(by: str, unit: str) -> str:
    """The unit of what a third is ordered by, with a space before it, where the behaviour has this one.

    >>> unit_of("speed", "cm"), unit_of("value", "cm"), unit_of("speed", "")
    (' cm/s', ' cm', '')
    """
    if not unit or by == SPIKES:
        return ""
    return f" {unit}/s" if by == SPEED else f" {unit}"


@dataclass(frozen=True)
class DistributionScore:
    """Predictive distributions on bins that were not used to make them; `_se` are standard errors by block bootstrap.

    crps: mean continuous ranked probability score, in the behaviour's unit, smaller is better
    pit: share of bins in each tenth of the PIT, the probability that the distribution gave to less than what happened:
        0.1 each where it is right, more at both ends where it is too narrow
    width_rank: rank correlation (Spearman) of the intervals' width with the absolute error: 0 where widths tell
        nothing of the error, or are all the same
    """

    crps: float
    crps_se: float
    pit: list[float]
    pit_se: list[float]
    width_rank: float
    width_rank_se: float


@dataclass(frozen=True, eq=False)
class ErrorDistribution:
    """Distribution of a readout's error for each bin: a mixture of Gaussians, in the behaviour's unit.

    errors: (bin, sample) centres of the Gaussians; (1, sample) where all bins have the same
    width: (bin,) or (1,) their standard deviation, above 0
    """

    errors: Array
    width: Array

    def _ends(self) -> tuple[Array, Array]:
        return self.errors.min(1) - TAIL * self.width, self.errors.max(1) + TAIL * self.width

    def _probability(self, error: Array) -> Array:
        return ndtr((error[:, None] - self.errors) / self.width[:, None]).mean(1)

    def score(self, error: Array) -> Array:
        """Nonconformity (bin,) of errors (bin,): the distance of their probability from one half; beyond the ends of
        the distribution one half plus the distance from the end."""
        low, high = self._ends()
        beyond = np.abs(error - np.clip(error, low, high))
        return np.where(beyond > 0, 0.5 + beyond, np.abs(self._probability(error) - 0.5))

    def pit(self, error: Array, scores: Array) -> Array:
        """Recalibrated probability (bin,) of less than these errors (bin,).

        The interval of level L, as the calibration's `scores` give it, has (1 - L) / 2 below and above; the L of the
        interval that ends at the error is the share of scores that are smaller.
        """
        level = (np.searchsorted(np.sort(scores), self.score(error)) + 0.5) / (scores.size + 1)
        return np.asarray(0.5 + 0.5 * level * np.sign(self._probability(error) - 0.5))

    def bounds(self, score: float) -> tuple[Array, Array]:
        """Lowest and highest error (bin,) whose nonconformity is at most `score`."""
        low, high = self._ends()
        if score >= 0.5:
            return low - (score - 0.5), high + (score - 0.5)
        return self._bisect(0.5 - score)[0], self._bisect(0.5 + score)[1]

    def _bisect(self, p: float) -> tuple[Array, Array]:
        """Errors (bin,) just below and just above the quantile p."""
        low, high = self._ends()
        for _ in range(20):
            middle = (low + high) / 2
            below = self._probability(middle) < p
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return low, high


def covered(truth: Array, bounds: Bounds) -> Array:
    """Mark the values (bin,) that lie within their intervals, bounds included."""
    lower, upper = bounds
    return (truth >= lower) & (truth <= upper)


def interval_score(truth: Array, bounds: Bounds, level: float) -> Array:
    """Interval score (bin,) of central intervals, in the unit of the truth; smaller is better.

    Width, and for a value outside 2 / (1 - level) times its distance from the interval
    (Winkler 1972; Gneiting & Raftery 2007, J. Am. Stat. Assoc. 102, eq. 43).

    >>> interval_score(np.array([0.0, 3.0]), np.array([[-1.0, -1.0], [1.0, 1.0]]), 0.5).tolist()
    [2.0, 10.0]
    """
    lower, upper = bounds
    return upper - lower + 2 / (1 - level) * np.abs(truth - np.clip(truth, lower, upper))


def crps(truth: Array, bounds: Bounds, levels: Sequence[float]) -> Array:
    """Continuous ranked probability score (bin,) of distributions that are given by central intervals.

    The score (Gneiting & Raftery 2007, J. Am. Stat. Assoc. 102, eq. 20) is twice the integral of the quantile loss over
    all probabilities (Laio & Tamea 2007, Hydrol. Earth Syst. Sci. 11): here the sum at the midpoints of hundredths.
    Quantiles between the intervals' bounds are interpolated linearly, those beyond the outermost bounds are these.

    Args:
        truth: (bin,) true values.
        bounds: (bound, bin, level) lower and upper bounds of the intervals.
        levels: nominal coverage, rising.
    """
    below = (1 - np.asarray(levels)) / 2
    known = np.concatenate([below[::-1], 1 - below])
    ends = np.concatenate([bounds[0][:, ::-1], bounds[1]], axis=1)
    weights = np.array([np.interp(QUANTILES, known, row) for row in np.eye(known.size)])
    total = np.zeros(truth.size)
    for p, weight in zip(QUANTILES, weights.T, strict=True):
        away = truth - ends @ weight
        total += np.maximum(p * away, (p - 1) * away)
    return 2 * total / QUANTILES.size


def score_distribution(loss: Array, pit: Array, width: Array, error: Array, block: Array) -> DistributionScore:
    """Score of distributions, from the CRPS (bin,), the PIT (bin,), the width of an interval (bin,), the absolute error
    (bin,) and the block of time (bin,) of each bin."""
    tenth = np.minimum((pit * TENTHS).astype(int), TENTHS - 1)
    ranks = [rankdata(one) - (one.size + 1) / 2 for one in (width, error)]
    together = np.prod([one / max(one.std(), 1e-12) for one in ranks], axis=0)
    return DistributionScore(**block_means(block, crps=loss, pit=np.eye(TENTHS)[tenth], width_rank=together))


def conformal_quantile(scores: Array, level: float) -> float:
    """Score that a new one does not exceed with a probability of at least `level`; inf where there are too few.

    The ceil((n + 1) level)-th smallest of n (Vovk et al. 2005; Lei et al. 2018, J. Am. Stat. Assoc. 113).

    >>> conformal_quantile(np.arange(1.0, 20.0), 0.95), conformal_quantile(np.arange(10.0), 0.95)
    (19.0, inf)
    """
    rank = int(np.ceil((scores.size + 1) * level - 1e-9))
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= scores.size else np.inf


def block_means(block: Array, **values: Array) -> dict[str, Any]:
    """Means of values (bin, ...) by their names, and as `<name>_se` their standard errors by bootstrap of the blocks
    (bin,)."""
    found = {}
    for name, one in values.items():
        found[name] = one.mean(0).tolist()
        found[f"{name}_se"] = block_bootstrap(one, block).std(0, ddof=1).tolist()
    return found


def thirds(of: Mapping[str, Array], hit: Array, width: Array, level: float, block: Array) -> tuple[Third, ...]:
    """Coverage and width in the lower, middle and upper third of bins by each quantity, (bin,) by name. What is NaN is
    left out, and a quantity with no three different thirds. Where a third or more of the bins have the least value,
    these are the first, and the others are halved.

    Of intervals of a nominal level: `hit` (bin,), whether they hold the value, and `width` (bin,); `block` (bin,) is
    the block of time.
    """
    found = []
    for by, values in of.items():
        edges = np.nanquantile(values, [0, 1 / 3, 2 / 3, 1]) if np.isfinite(values).any() else np.zeros(4)
        if edges[1] == edges[0] < edges[3]:  # rest, for one: halves of the others stand beside it
            edges[2] = np.median(values[values > edges[0]])
        if not (np.diff(edges)[1:] > 0).all():
            continue
        number = np.where(np.isfinite(values), np.searchsorted(edges[1:3], values), -1)
        for i, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
            rows = number == i
            means = block_means(block[rows], coverage=hit[rows], width=width[rows])
            far = abs(means["coverage"] - level) - BAND > 2 * means["coverage_se"]
            found.append(Third(by, low, high, **means, outside=far))
    return tuple(found)


def score_intervals(
    truth: Array,
    bounds: Bounds,
    of_width: Callable[[Array], Bounds],
    half: Array,
    error: Array,
    level: float,
    block: Array,
) -> IntervalScore:
    """Score intervals of a nominal level, with bounds (bound, bin), beside intervals of one width, by the true values
    (bin,) and the block of time (bin,) of each bin.

    Args:
        of_width: gives the bounds of intervals that reach so far to both sides.
        half: (bin,) half the width of the intervals of constant width from the same calibration.
        error: (bin,) absolute errors, of which the share that is covered tells the width that covers as many.
    """
    hit, constant = covered(truth, bounds), of_width(half)
    ours = interval_score(truth, bounds, level)
    theirs = interval_score(truth, of_width(np.quantile(error, hit.mean(), method="higher")), level)
    return IntervalScore(
        level=level,
        **block_means(block, coverage=hit, width=bounds[1] - bounds[0], score=ours, advantage=theirs - ours),
        constant_coverage=float(covered(truth, constant).mean()),
        constant_width=float((constant[1] - constant[0]).mean()),
        constant_score=float(interval_score(truth, constant, level).mean()),
        same_coverage_score=float(theirs.mean()),
    )


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
            variance = np.einsum("ts,tsr,tr->t", slope, covs.astype(float), slope)
            return ErrorDistribution(self.error[nearest], np.minimum(np.sqrt(variance), span / 4) + least)

        return near

    def at(self, new: Array, among: Array) -> Iterator[tuple[Array, ErrorDistribution]]:
        """The bins `new`, some at a time, with distributions from the errors in `among`."""
        near = self.among(among)
        for first in range(0, new.size, _CHUNK):
            rows = new[first : first + _CHUNK]
            yield rows, near(self.bins.states[rows], self.bins.covs[rows])

    def cross(self, rows: Array, among: Array) -> Iterator[tuple[Array, ErrorDistribution]]:
        """Bins of `rows` by fold, with distributions from the errors in `among` at other folds."""
        fold = self.bins.fold
        for _, held in cross(rows, fold):
            yield from self.at(held, among[fold[among] != fold[held[0]]])

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
    bounds (bound, time): by the level of the intervals; NaN where none are made
    constant (time,): half width of intervals of one width from the same calibration, by level
    pit (time,): probability of less than what happened, by the calibrated distribution
    chosen: the readout with the least error in all judged bins
    chosen_of, local_of: the readout of each fold, and True if its intervals follow the state
    reader: for states of other time; None where not calibrated
    """

    def __init__(self, bins: Bins, readouts: Sequence[Readout], ci: float):
        n = bins.truth.size
        self.bins, self.ci = bins, ci
        kept = [one for one in readouts if one.least_bins <= bins.judged.sum()]
        self.candidates = [(readout, i) for readout in kept for i in range(len(readout.candidates(1)))]
        self.mean, self.pit = np.full((2, n), np.nan)
        self.bounds = {level: np.full((2, n), np.nan) for level in sorted({*LEVELS, ci})}
        self.constant = {level: np.full(n, np.nan) for level in LEVELS}
        self.by_readout = {readout.name: np.full(n, np.nan) for readout in kept}
        self.chosen_of: list[str] = []
        self.local_of: list[bool] = []
        self.reader: Reader | None = None
        group = bins.fold if bins.folds > 1 else split_halves(bins.fold, bins.judged)
        readings = self._read_nested(group)
        scores = [self._read_fold(g, group, readings) for g in range(group.max() + 1)]
        self.chosen = self._read_rest(readings[:, group, np.arange(n)], np.concatenate(scores))

    def predict(self, candidates: Iterable[Candidate], y: Array, rows: Array, new: Array) -> Array:
        """Values (candidate, bin) or (candidate, bin, series) of `new` bins by candidates, fitted to y (bin,) or (bin,
        series) in the bins `rows`."""
        return np.stack([self._fit(one, y, rows).predict(self.bins.states[new]) for one in candidates])

    def _fit(self, candidate: Candidate, y: Array, rows: Array) -> Any:
        readout, i = candidate
        some = thin(np.arange(rows.size), readout.most_bins)
        return fit_bins(self.bins, readout.candidates(some.size)[i], y[some], rows[some])

    def _read_nested(self, group: Array) -> Array:
        """Readings (candidate, group, bin) that are honest for one group each.

        Those of g hold, for a bin of another group, the reading of the candidate fitted without g and without the bin's
        group; for a bin of g, the mean of all these fits. So with five folds ten pairs are fitted.
        """
        bins = self.bins
        inner = group if group.max() > 1 else split_halves(group, bins.judged)
        fits: dict[bytes, Array] = {}
        result = np.full((len(self.candidates), group.max() + 1, group.size), np.nan)
        for g in range(group.max() + 1):
            rows = np.flatnonzero(bins.judged & (group != g))
            outer, together = group == g, []
            for train, held in cross(rows, inner):
                if (key := train.tobytes()) not in fits:
                    new = np.flatnonzero((group >= 0) & ~np.isin(inner, inner[train]))
                    fits[key] = np.full((len(result), group.size), np.nan)
                    fits[key][:, new] = self.predict(self.candidates, bins.truth[train], train, new)
                together.append(fits[key][:, outer])
                part = inner == inner[held[0]]
                result[:, g, part] = fits[key][:, part]
            result[:, g, outer] = bins.variable.mean(np.stack(together), 0)
        return result

    def _choose(self, values: Array, rows: Array) -> dict[str, int]:
        """The row of the best candidate of each readout, by squared error of values (candidate, bin) in the bins
        `rows`; the best readout first."""
        squared = (self.bins.variable.difference(self.bins.truth[rows], values[:, rows]) ** 2).mean(1)
        best: dict[str, int] = {}
        for place in np.argsort(squared, kind="stable").tolist():
            best.setdefault(self.candidates[place][0].name, place)
        return best

    def _read_fold(self, g: int, group: Array, readings: Array) -> Array:
        """Read one group without anything seen of it. Returns the nonconformity scores that calibrated it."""
        bins, out = self.bins, np.flatnonzero(group == g)
        others = np.flatnonzero(bins.judged & (group != g))
        best = self._choose(readings[:, g], others)
        for name, place in best.items():
            self.by_readout[name][out] = readings[place, g, out]
        chosen, place = next(iter(best.items()))
        value = readings[place, g]
        self.mean[out] = value[out]
        self.chosen_of.append(chosen)
        if not bins.calibrated:
            return np.zeros(0)
        # Distributions follow the state, or do not, whichever gives the better intervals in the other folds.
        errors = min((_Errors(bins, value, local) for local in (True, False)), key=lambda one: one.cost(others))
        self.local_of.append(errors.local)
        scores = errors.scores(errors.cross(others, others))
        self._set_bounds(errors, out, others, scores, self.bounds)
        for level, half in self.constant.items():
            half[out] = conformal_quantile(np.abs(errors.error[others]), level)
        return scores

    def _read_rest(self, values: Array, scores: Array) -> str:
        """Read the bins of no fold by the readout that is best in all judged bins, fitted on all; return its name."""
        bins, rows = self.bins, np.flatnonzero(self.bins.judged)
        new = np.flatnonzero((bins.fold < 0) | (bins.folds < 2))
        chosen, place = next(iter(self._choose(values, rows).items()))
        fitted = self._fit(self.candidates[place], bins.truth[rows], rows)
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
        seen = self.bins.truth[among]
        for rows, near in errors.at(new, among):
            self.pit[rows] = near.pit(errors.error[rows], scores)
            for level in levels:
                ends = near.bounds(conformal_quantile(scores, level))
                self.bounds[level][:, rows] = self._clip(self.mean[rows], *ends, seen)

    def _clip(self, mean: Array, low: Any, high: Any, seen: Array) -> Array:
        """Bounds (bound, bin) from deviations: within the range of the values `seen`, on a circle within one turn."""
        variable = self.bins.variable
        ends = np.stack([mean + variable.within(low), mean + variable.within(high)])
        return ends if variable.period else np.clip(ends, seen.min(), seen.max())

    def scores(self, ordered: Mapping[str, Array]) -> dict[str, Any]:
        """Scores of the intervals and of their distribution in the judged bins: `intervals`, `distribution`,
        `thirds`, by quantities (time,), width and value, and `value_range` of a `BehaviorReport`."""
        if not self.bins.calibrated:
            return {}
        rows = self.bins.tested
        seen, mean, block = self.bins.truth[rows], self.mean[rows], self.bins.block[rows]
        # On a circle the truth is counted from the mean, as the bounds are.
        away = self.bins.variable.difference(seen, mean)
        truth, error = mean + away, np.abs(away)

        def of_width(half: Array) -> Array:
            return self._clip(mean, -half, half, seen)

        bounds = {level: both[:, rows] for level, both in self.bounds.items()}
        low, high = bounds[self.ci]
        of = {name: values[rows] for name, values in ordered.items()} | {"predicted width": high - low, "value": seen}
        loss = crps(truth, np.stack([*bounds.values()], axis=-1), [*bounds])
        return {
            "intervals": tuple(
                score_intervals(truth, bounds[level], of_width, half[rows], error, level, block)
                for level, half in self.constant.items()
            ),
            "distribution": score_distribution(loss, self.pit[rows], high - low, error, block),
            "thirds": thirds(of, covered(truth, bounds[self.ci]), high - low, self.ci, block),
            "value_range": (float(seen.min()), float(seen.max())),
        }

    def variables(self) -> dict[str, Any]:
        """The variables that are added to the states."""
        one, name = self.bins.variable, self.bins.variable.name
        circular = {} if one.period is None else {"period": one.period}
        about = {"unit": one.unit, "path": one.path, "calibrated": int(self.bins.calibrated)} | circular
        variables = {
            f"{name}_mean": ("time", self.mean.astype(np.float32), {**about, "time_index": "t|t"}),
            f"{name}_true": ("time", self.bins.truth.astype(np.float32), about),
            **self.bins.fold_variable(),
        }
        if self.bins.calibrated:
            about = about | {"level": self.ci, "of": f"{name}_mean"}
            if circular:
                about["long_name"] = "bounds are not wrapped: lower <= mean <= upper"
            variables[f"{name}_ci"] = (("time", "bound"), self.bounds[self.ci].T.astype(np.float32), about)
        return variables
