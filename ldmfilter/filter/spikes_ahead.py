"""Spikes ahead: how well the causal state tells what the population will do next, in bits per spike.

For bin t with state m_t and each horizon, y_u is the count of unit u in a stretch of time that begins some time after
t. Its rate is predicted twice, by a ridge and by the nearest neighbours of m_t, both fitted elsewhere, and compared
with the unit's mean rate in the fitted bins:

    bits per spike = sum_(t,u) [y log2(rate / mean) - (rate - mean) / ln 2] / sum_(t,u) y

the gain in Poisson log-likelihood of Pillow et al. 2008 (Nature 454:995), by which the Neural Latents Benchmark judges
forward prediction (Pei et al. 2021). The mean over horizons and readouts is one number for filters whose z differ, and
whose log-likelihoods cannot be compared. It knows no behaviour.

Of a signal, in place of spikes, y is the mean of a channel over the stretch, standardised over fitted bins, and the
number is the variance explained by its prediction p: sum_(t,u) [(y - mean)^2 - (y - p)^2] / sum_(t,u) (y - mean)^2, the
gain in Gaussian log-likelihood over the mean as a share of what could be gained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ldmfilter.data.frames import first_bins, sums
from ldmfilter.data.tables import Array, Floats
from ldmfilter.filter.linalg import on_cores, one_thread

#: (start, length), s after the bin: what is nearer is told by fast states alone, what is farther by none.
HORIZONS = ((0.5, 0.5), (1.0, 1.0), (2.0, 1.0))
ENOUGH = (
    0.25  # of the judged bins have counts at the farthest horizon; else all horizons are halved, as in short trials
)
GUARD = 2.0  # s between bins that a readout is fitted on and bins that judge it
NEIGHBOURS = 50
PSEUDO_COUNTS = 5  # of the mean, beside the neighbours' counts
PENALTY = 0.01  # of the ridge, in variances of a state
LEAST_RATE = 0.1  # of the mean rate: no prediction is lower
BLOCK = 5.0  # s, in which bits are summed for their standard error
MOST_FITTED = 10_000  # bins that a readout is fitted on
MOST_JUDGED = 2_000  # bins that it is judged on: neighbours differ little in what lies ahead
QUARTERS = 4  # groups of units that are hidden in turn
FOLDS = 5  # of the readout, where all bins are judged in turn
FOLD_BLOCKS, FOLD_BLOCK = 20, 10.0  # blocks that are dealt to folds at most, and the least length of one of time, s


@dataclass(frozen=True, eq=False)
class SpikesAhead:
    """Prediction of spikes ahead, over horizons and readouts.

    Attributes:
        value: bits per spike, or of a signal the share of variance; NaN where nothing could be judged.
        blocks: (block,) contributions of blocks of `BLOCK` s, whose sum is the value.
    """

    value: float
    blocks: Floats

    @property
    def error(self) -> float:
        """Standard error of the value over blocks; NaN where there is one block."""
        return _spread(self.blocks)

    def lead(self, other: SpikesAhead) -> tuple[float, float]:
        """Lead over another and its standard error, in the value's unit; NaN where they were judged on other bins."""
        if len(self.blocks) != len(other.blocks):
            return np.nan, np.nan
        difference = self.blocks - other.blocks
        return float(difference.sum()), _spread(difference)


NOT_JUDGED = SpikesAhead(np.nan, np.full(1, np.nan))


def _spread(blocks: Floats) -> float:
    """Standard error of the sum of independent contributions (block,)."""
    return float(blocks.std(ddof=1) * np.sqrt(len(blocks))) if len(blocks) > 1 else np.nan


def spikes_ahead(
    states: Floats,
    counts: Floats,
    segment: Array,
    fit: Array,
    judge: Array,
    bin_size: float,
    signal: bool = False,
    horizons: Sequence[tuple[int, int]] | None = None,
    learn: Array | None = None,
    guard: float = GUARD,
) -> SpikesAhead:
    """Bits per spike of counts ahead of the states, against each unit's mean rate; of a signal the explained variance.

    Args:
        states: (time, state) causal states, NaN where there is none.
        counts: (time, unit) of the same bins, NaN where a unit was not observed; of the units that are predicted.
        segment: (time,) of a gap-free stretch.
        fit: (time,) bins that readouts are fitted on; those within `guard` of a judged one are left out.
        judge: (time,) bins that judge, with the counts ahead of them.
        bin_size: s.
        signal: whether the counts are a signal.
        horizons: (start, length) in bins, after the bin, of the stretches that are counted; the bin itself is (-1, 1).
            Without them `HORIZONS`, of which at most `MOST_JUDGED` bins judge, as these stretches overlap.
        learn: (time,) those of the fitted bins that readouts learn from, where the mean is that of all; without it all.
            States outside of their range enter as its edge then: few bins tell nothing of what lies beyond.
        guard: s of bins, as if there was no time between segments.
    """
    apart = round(guard / bin_size)
    near = np.convolve(judge, np.ones(2 * apart + 1))[apart : apart + len(judge)] > 0.5
    fit, known = fit & ~near, np.isfinite(states).all(1)
    n_blocks = max(1, int(np.ceil(len(counts) * bin_size / BLOCK)))
    block = np.arange(len(counts)) * n_blocks // len(counts)
    if signal:  # what is missing counts as the mean, as it does in the encoder
        counts = standardised(counts, fit)
    score = _explained if signal else _bits
    parts = []
    for start, length in horizons_of(counts, segment, judge, bin_size) if horizons is None else horizons:
        ahead, there = _counts_ahead(counts, segment, judge, start, length)
        train, test = np.flatnonzero(fit & known & there), np.flatnonzero(judge & known & there)
        train, test = thin(train, MOST_FITTED), thin(test, MOST_JUDGED if horizons is None else len(test))
        learnt = train if learn is None else train[learn[train]]
        if len(learnt) <= NEIGHBOURS or not ahead[test].any():
            continue
        seen = states[test] if learn is None else states[test].clip(states[learnt].min(0), states[learnt].max(0))
        mean = ahead[train].mean(0) + 1e-9
        for readout in READOUTS:
            gain, whole = score(ahead[test], readout(states[learnt], ahead[learnt], seen, mean), mean)
            parts.append(np.bincount(block[test], gain, n_blocks) / whole)
    if not parts:
        return NOT_JUDGED
    blocks = np.mean(parts, 0)[np.bincount(block[judge], minlength=n_blocks) > 0]
    return SpikesAhead(float(blocks.sum()), blocks)


def standardised(values: Floats, fit: Array) -> Floats:
    """Values (time, channel) less their mean, over their deviation, in the bins `fit` (time,); 0 where a channel does
    not vary or was not seen in them, NaN where it is missing."""
    seen = fit[:, None] & ~np.isnan(values)
    n = np.maximum(seen.sum(0), 1)
    centred = values - np.where(seen, values, 0).sum(0) / n
    deviation = np.sqrt((np.where(seen, centred, 0) ** 2).sum(0) / n)
    result: Floats = centred / np.where(deviation > 0, deviation, np.inf)
    return result


@one_thread(every_library=True)
def spikes_ahead_of_all(
    states: Floats,
    counts: Floats,
    segment: Array,
    judge: Array,
    bin_size: float,
    signal: bool = False,
    horizons: Sequence[tuple[int, int]] | None = None,
    unseen: Array | None = None,
) -> SpikesAhead:
    """`spikes_ahead`, where the bins `unseen` (time,), of whole trials, judge, by readouts that were fitted on the
    others; without them all bins in turn, in blocks of time, or of whole trials, that are dealt to folds."""
    given = states, counts, segment
    if unseen is not None:
        return spikes_ahead(*given, judge & ~unseen, judge & unseen, bin_size, signal, horizons, guard=0.0)
    begins = (np.diff(segment, prepend=segment[:1]) != 0) | (judge & ~np.append(False, judge[:-1]))
    trial = np.unique(np.cumsum(begins)[judge], return_inverse=True)[1]
    sizes, fold, guard = np.bincount(trial, minlength=1), np.zeros(len(judge), np.int64), GUARD
    if len(sizes) >= FOLD_BLOCKS and np.median(sizes[trial]) * bin_size < FOLD_BLOCK:
        fold[judge], guard = trial * FOLD_BLOCKS // len(sizes) % FOLDS, 0.0
    else:
        fold = folds_of(judge, bin_size, FOLDS)
    each = [(judge & (fold != one), judge & (fold == one)) for one in np.unique(fold)]

    def judged(some: tuple[Array, Array]) -> SpikesAhead:
        return spikes_ahead(*given, *some, bin_size, signal, horizons, guard=guard)

    return mean_of(on_cores(judged, each))


def folds_of(judge: Array, bin_size: float, folds: int) -> Array:
    """(time,) the fold of each bin: blocks of time, of as many of the bins `judge` each, dealt out in turn."""
    share = np.cumsum(judge) / max(judge.sum(), 1)
    blocks = max(2, min(FOLD_BLOCKS, int(judge.sum() * bin_size / FOLD_BLOCK)))
    fold: Array = np.minimum((share * blocks).astype(np.int64), blocks - 1) % folds
    return fold


def quarters(size: Floats, turn: int = 0) -> Array:
    """(unit,) the quarter in which each unit is hidden, by the units' numbers of spikes: ranked and dealt out in turn,
    so that all quarters have units of all rates. In the next turn of hiding the next four begin one quarter later."""
    rank = np.argsort(np.argsort(-size, kind="stable"))
    quarter: Array = (rank + turn * (rank // QUARTERS)) % QUARTERS
    return quarter


def mean_of(found: Sequence[SpikesAhead]) -> SpikesAhead:
    """The mean of those that could be judged, on different bins."""
    found = [one for one in found if np.isfinite(one.value)]
    if not found:
        return NOT_JUDGED
    value = float(np.mean([one.value for one in found]))
    return SpikesAhead(value, np.concatenate([one.blocks for one in found]) / len(found))


def thin(items: Array, most: int) -> Array:
    """At most so many of the items, evenly spread."""
    return items if len(items) <= most else items[np.linspace(0, len(items) - 1, most).astype(np.int64)]


def horizons_of(counts: Floats, segment: Array, judge: Array, bin_size: float) -> list[tuple[int, int]]:
    """`HORIZONS` in bins, halved until enough judged bins have counts at the farthest."""
    nearer, judged = 1.0, judge & ~np.isnan(counts).all(1)
    while True:
        bins = [
            (round(nearer * start / bin_size), max(1, round(nearer * length / bin_size))) for start, length in HORIZONS
        ]
        _, there = _counts_ahead(counts, segment, judge, *bins[-1])
        if (there & judged).sum() >= ENOUGH * judged.sum() or bins[-1] == (0, 1):
            return bins
        nearer /= 2


def _counts_ahead(counts: Floats, segment: Array, judge: Array, start: int, length: int) -> tuple[Floats, Array]:
    """Counts (time, unit) in the `length` bins that begin `start` bins after each bin, and whether all of these (time,)
    are observed, in the bin's segment, and on the bin's side of the judged blocks' edges."""
    n = len(counts)
    lost = np.isnan(counts).all(1)
    low, high = np.minimum(np.arange(n) + start + 1, n), np.arange(n) + start + 1 + length
    inside, high = high <= n, np.minimum(high, n)
    side = np.cumsum(np.diff(judge, prepend=judge[:1])) + 2 * n * first_bins(segment)
    missing = np.concatenate([[0], np.cumsum(lost)])
    there = inside & (side[high - 1] == side) & (missing[high] == missing[low])
    return sums(np.nan_to_num(counts), low, high), there


def _bits(counts: Floats, rate: Floats, mean: Floats) -> tuple[Floats, float]:
    """Gain (time,) of predicted rates over the mean, bits, and the number of spikes."""
    rate = np.maximum(rate, LEAST_RATE * mean)
    return (counts * np.log2(rate / mean) - (rate - mean) / np.log(2)).sum(1), float(counts.sum())


def _explained(values: Floats, predicted: Floats, mean: Floats) -> tuple[Floats, float]:
    """Gain (time,) of a prediction over the mean, in squared error, and the squared error of the mean."""
    of_mean = ((values - mean) ** 2).sum(1)
    return of_mean - ((values - predicted) ** 2).sum(1), float(of_mean.sum())


def _by_neighbours(states: Floats, counts: Floats, others: Floats, mean: Floats) -> Floats:
    from sklearn.neighbors import NearestNeighbors

    scale = states.std(0) + 1e-12
    total = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(states / scale).kneighbors_graph(others / scale) @ counts
    rate: Floats = (total + PSEUDO_COUNTS * mean) / (NEIGHBOURS + PSEUDO_COUNTS)
    return rate


def _by_ridge(states: Floats, counts: Floats, others: Floats, mean: Floats) -> Floats:
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), Ridge(PENALTY * len(states))).fit(states, counts)
    return np.asarray(model.predict(others)).reshape(len(others), -1)


READOUTS: tuple[Callable[[Floats, Floats, Floats, Floats], Floats], ...] = (_by_neighbours, _by_ridge)
