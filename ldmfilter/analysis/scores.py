"""What an interval is worth: coverage, width and interval score, each with its uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

DRAWS = 2000  # of the block bootstrap: its standard errors are then right to 2 %


@dataclass(frozen=True)
class IntervalScore:
    """Intervals of one level on bins that were not used to make them; `_se` are standard errors by block bootstrap.

    level, coverage: shares; width: mean, in the behaviour's unit; score: mean interval score (Winkler), same unit,
        the less the better
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


def covered(truth: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Whether each value (bin,) lies within its interval, bounds included."""
    return (truth >= lower) & (truth <= upper)


def interval_score(truth: np.ndarray, lower: np.ndarray, upper: np.ndarray, level: float) -> np.ndarray:
    """Interval score (bin,) of central intervals, in the unit of the truth; the less the better.

    Width, and for a value outside 2 / (1 - level) times its distance from the interval
    (Winkler 1972; Gneiting & Raftery 2007, J. Am. Stat. Assoc. 102, eq. 43).

    >>> interval_score(np.array([0.0, 3.0]), np.array([-1.0, -1.0]), np.array([1.0, 1.0]), 0.5).tolist()
    [2.0, 10.0]
    """
    outside = np.maximum(lower - truth, 0) + np.maximum(truth - upper, 0)
    return upper - lower + 2 / (1 - level) * outside


def conformal_quantile(scores: np.ndarray, level: float) -> float:
    """The score below which a new one lies with a probability of at least `level`; inf where they are too few.

    The ceil((n + 1) level)-th smallest of n (Vovk et al. 2005; Lei et al. 2018, J. Am. Stat. Assoc. 113).

    >>> conformal_quantile(np.arange(1.0, 20.0), 0.95), conformal_quantile(np.arange(10.0), 0.95)
    (19.0, inf)
    """
    rank = int(np.ceil((scores.size + 1) * level - 1e-9))
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= scores.size else np.inf


def block_bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray], sums: np.ndarray, draws: int = DRAWS, seed: int = 0
) -> np.ndarray:
    """Standard errors of a statistic of sums over bins, blocks of time drawn with replacement.

    Bins side by side are alike, blocks less so: blocks are what is drawn (Kunsch 1989, Ann. Stat. 17).

    Args:
        statistic: from sums (draw, quantity) to values (draw, value).
        sums: (block, quantity) sums over each block's bins.
        draws: how often.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    many = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    return np.asarray(statistic(many @ sums)).std(0, ddof=1)


def block_means(values: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means of values (bin, quantity) over the bins, and their standard errors over blocks (bin,)."""
    blocks, of = np.unique(block, return_inverse=True)
    sums = np.zeros((blocks.size, values.shape[1] + 1))
    np.add.at(sums, of, np.column_stack([values, np.ones(len(values))]))
    return values.mean(0), block_bootstrap(lambda total: total[:, :-1] / total[:, -1:], sums)


def score_intervals(
    truth: np.ndarray,
    lower: np.ndarray,
    upper: np.ndarray,
    constant_lower: np.ndarray,
    constant_upper: np.ndarray,
    same: Callable[[float], tuple[np.ndarray, np.ndarray]],
    level: float,
    block: np.ndarray,
) -> IntervalScore:
    """Judge intervals (bin,) beside those of a constant width.

    Args:
        truth: (bin,) what happened.
        lower: (bin,) bounds of the intervals.
        upper: the same.
        constant_lower: (bin,) bounds of the intervals of constant width from the same calibration.
        constant_upper: the same.
        same: from a coverage to the bounds of intervals of that one width that covers as many of these bins.
        level: what the intervals are meant to cover.
        block: (bin,) the block of time of each bin.
    """
    hit = covered(truth, lower, upper)
    same_lower, same_upper = same(float(hit.mean()))
    ours = interval_score(truth, lower, upper, level)
    theirs = interval_score(truth, same_lower, same_upper, level)
    (coverage, width, score, advantage), errors = block_means(
        np.column_stack([hit, upper - lower, ours, theirs - ours]), block
    )
    return IntervalScore(
        level=level,
        coverage=float(coverage),
        coverage_se=float(errors[0]),
        width=float(width),
        width_se=float(errors[1]),
        score=float(score),
        score_se=float(errors[2]),
        constant_coverage=float(covered(truth, constant_lower, constant_upper).mean()),
        constant_width=float((constant_upper - constant_lower).mean()),
        constant_score=float(interval_score(truth, constant_lower, constant_upper, level).mean()),
        same_coverage_score=float(theirs.mean()),
        advantage=float(advantage),
        advantage_se=float(errors[3]),
    )
