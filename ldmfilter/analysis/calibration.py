"""Conformal calibration of intervals, and their judgement: coverage, width and interval score with standard errors."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtr
from scipy.stats import rankdata

from ldmfilter.analysis.statistics import Array, block_bootstrap

SPIKES, SPEED = "spikes in the last second", "speed"  # what judged bins are ordered by, with width and value
BAND = 0.03  # coverage of each third may differ from its level by as much
TAIL = 4.0  # widths beyond the outermost error, where a distribution is taken to end
QUANTILES = (np.arange(100) + 0.5) / 100  # that the CRPS is summed over
TENTHS = 10  # of a histogram of probabilities

Bounds = Array | tuple[Array, Array]  # lower and upper (bin,)


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
        number = np.where(np.isfinite(values), np.searchsorted(edges[1:3], values, side="left"), -1)
        for i, (low, high) in enumerate(itertools.pairwise(edges.tolist())):
            rows = number == i
            means = block_means(block[rows], coverage=hit[rows], width=width[rows])
            far = abs(means["coverage"] - level) - BAND > 2 * means["coverage_se"]
            found.append(Third(by, low, high, **means, outside=far))
    return tuple(found)


def score_intervals(
    truth: Array,
    bounds: Bounds,
    constant: Bounds,
    same: Callable[[float], Bounds],
    level: float,
    block: Array,
) -> IntervalScore:
    """Score intervals of a nominal level, with bounds (bound, bin), beside intervals of one width, by the true values
    (bin,) and the block of time (bin,) of each bin.

    Args:
        constant: bounds of the intervals of constant width from the same calibration.
        same: maps a coverage to the bounds of intervals of one width that cover that share of these bins.
    """
    hit = covered(truth, bounds)
    ours = interval_score(truth, bounds, level)
    theirs = interval_score(truth, same(float(hit.mean())), level)
    return IntervalScore(
        level=level,
        **block_means(block, coverage=hit, width=bounds[1] - bounds[0], score=ours, advantage=theirs - ours),
        constant_coverage=float(covered(truth, constant).mean()),
        constant_width=float((constant[1] - constant[0]).mean()),
        constant_score=float(interval_score(truth, constant, level).mean()),
        same_coverage_score=float(theirs.mean()),
    )
