"""Behaviour read from states, with intervals that are calibrated on time of their own.

The states are causal and fixed; only the readout is fitted. Everything is judged on time that training never saw, cut
into blocks that are dealt to folds. For each pair of folds one readout is fitted on the blocks of the others and reads
both: its errors at one of them calibrate what it says of the other. A fold is judged with the readouts of all pairs
that it is in, taken together: none of them, and none of the errors that calibrate them, ever saw a block of that fold.

For a bin with state m and covariance P a readout gives a distribution: its own value plus the errors that it made at
the nearest states, in blocks that it had not been fitted on, each blurred by W P W', the filter's variance through
the readout's linear map (of the neighbourhood, where the readout is one of neighbours). How far this
distribution is from right is measured on the calibration blocks, as the distance of its value at what happened from
one half, and the intervals are widened or narrowed by it (distributional conformal prediction: Chernozhukov, Wuthrich
& Zhu 2021, PNAS 118 e2107794118). Nearness and W are in the metric of the filter's own uncertainty, so that neither
depends on how the states are scaled.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import ndtr

from ldmfilter.analysis.behavior import REASONS, Behavior, align, speed
from ldmfilter.analysis.scores import IntervalScore, conformal_quantile, interval_score, score_intervals
from ldmfilter.data.windows import outside, stretches
from ldmfilter.errors import InputError

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
GUARD = 2.0  # s between bins of different use: several time constants of the counts
FOLDS = 5
LEAST_FOLDS = 4  # for intervals: one judges, one calibrates, and two are needed to choose a readout
BLOCK_SECONDS = (10.0, 60.0)  # a block is a tenth of the judged time, but not shorter or longer
LEAST_BINS = 10  # a block of fewer usable bins is left out
NEIGHBOURS = (10, 25, 50)  # of the readout's own value: one is chosen
SAMPLES = 80  # nearest states whose errors a distribution is made of: fewer know nothing of its tails
SLOPE_SAMPLES = 40  # nearest states that a local linear map is fitted to
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, in variances of a state
SHIFTS = 99  # of the control
DECODER_WINDOWS = (1, 3, 5, 9, 15)  # bins of the Bayesian decoder's counts, this one the last
DECODER_BINS = 40  # of a tuning curve
_SLOPE_PENALTY = 0.1  # of local maps, in variances of the filter's own uncertainty
_FLOOR = 0.003  # of the behaviour's range: a width below which no distribution is blurred
_COMPARED = (0.8, 0.95)  # levels at which intervals that follow the state are compared with others
_MOST_COMPARED = 600  # bins, to that end
_MOST_FITTED = 20_000  # bins that neighbours are looked for among
_CHUNK = 8_192  # bins handled at a time
_EDGE = 4.0  # widths beyond the outermost deviation, where a distribution is taken to end
KINDS = ("linear", "neighbours")


@dataclass(frozen=True)
class ReadoutScore:
    """One readout on the test blocks: r2; median_error: median absolute error in the behaviour's unit."""

    r2: float
    median_error: float


@dataclass(frozen=True)
class Control:
    """The same readouts of behaviour that was shifted in a circle among the judged bins.

    r2: of the best readout, with the behaviour as it was; shifted_*: of the best one for each shift; p: share of
    shifts, and the behaviour itself, that are read as well
    """

    shifts: int
    r2: float
    shifted_mean: float
    shifted_95: float
    p: float


@dataclass(frozen=True)
class Decoder:
    """The supervised peer: a Bayesian decoder of the counts, of independent Poisson units (pynapple).

    window: s of counts, this bin's the last, chosen inside the fitted blocks (median over the folds)
    """

    r2: float
    median_error: float
    window: float


@dataclass(frozen=True)
class BehaviorReport:
    """How well one variable is read, and what its intervals are worth.

    bins: number of bins by what became of them: used, or why not
    blocks, folds: of time; guard: s between them
    held_out: whether training never saw the judged bins; calibrated: whether the intervals were calibrated
    readouts: "linear" and "neighbours" on the test blocks; empty where nothing could be set apart
    chosen: the readout that an inner choice on all judged blocks takes; chosen_in: how many of the nested fits took it
    follow_state: share of the nested fits whose intervals are made of errors near the state, not of all errors
    read: the chosen readouts together, as `<name>_mean` holds them
    intervals: one for each level, empty where not calibrated
    note: what was taken for granted, or why something is missing
    """

    name: str
    path: str
    unit: str
    period: float | None
    categories: bool
    bins: dict[str, int]
    blocks: int
    folds: int
    guard: float
    min_speed: float
    held_out: bool
    calibrated: bool
    readouts: dict[str, ReadoutScore]
    chosen: str
    chosen_in: float
    follow_state: float
    read: ReadoutScore | None
    control: Control | None
    decoder: Decoder | None
    intervals: tuple[IntervalScore, ...]
    note: str

    @property
    def circular(self) -> bool:
        """Whether the variable comes back after a turn."""
        return self.period is not None

    def to_dict(self) -> dict[str, Any]:
        """The same in plain types, as JSON holds them."""
        return {**asdict(self), "circular": self.circular, "intervals": [asdict(one) for one in self.intervals]}


@dataclass(frozen=True, eq=False)
class Reading:
    """States with behaviour beside them.

    latents: the states and, for each variable, `<name>_mean` (time,), `<name>_ci` (time, bound) where calibrated,
        `<name>_true` (time,) NaN where masked, `<name>_fold` (time,): the fold of a judged bin, read by readouts that
        never saw its block, and -1 for the others. The attribute `behavior` holds the reports as JSON.
    reports: one for each variable
    """

    latents: xr.Dataset
    reports: tuple[BehaviorReport, ...]


def read_behavior(
    latents: xr.Dataset,
    behavior: Sequence[Behavior],
    counts: xr.DataArray | None = None,
    ci: float = 0.95,
    min_speed: float = 0.0,
    guard: float = GUARD,
    shifts: int = SHIFTS,
) -> Reading:
    """Read behaviour from filtered states, judge it, and add it to them.

    Args:
        latents: as `LDMFilter.decode` makes them: filtered_mean, filtered_cov, observed, trained, segment, bin_size.
        behavior: the variables, from `choose_behavior`.
        counts: (time, unit) that the states were decoded from, for the supervised Bayesian decoder; None leaves it out.
        ci: level of `<name>_ci`.
        min_speed: bins in which the first variable changes more slowly (its unit per s) are neither fitted nor judged.
        guard: s between bins of different use.
        shifts: number of the control's shifts, at least 20.

    Raises:
        InputError: a variable does not overlap with the states, is constant in the bins that are left, or no bins are.
    """
    if not behavior:
        raise InputError("no behaviour is named; give at least one")
    if shifts < 20 or not (min_speed >= 0 and guard >= 0):
        raise InputError(
            f"{shifts} shifts, speed {min_speed:g}, guard {guard:g} s: give 20 shifts or more, and no minus"
        )
    size = float(latents.attrs["bin_size"])
    time, segment = np.asarray(latents["time"], dtype=np.float64), np.asarray(latents["segment"])
    where = str(latents.attrs.get("source_path") or "behaviour")
    block, why_not, held_out = _blocks(latents, guard)
    aligned = []
    for one in behavior:
        values, why = align(one, time, size)
        if (why == REASONS.index("outside")).all() or not np.isfinite(values).any():
            raise InputError(
                f"{where}: {one.path} does not overlap with the decoded bins: it has values from "
                f"{one.time[np.isfinite(one.values)][0]:g} to {one.time[np.isfinite(one.values)][-1]:g} s, "
                f"they lie from {time[0]:g} to {time[-1]:g} s"
            )
        aligned.append((values, why))
    pace = speed(behavior[0], aligned[0][0], segment, size)
    slow = ~(pace >= min_speed) if min_speed > 0 else np.zeros(time.size, dtype=bool)
    added: dict[str, Any] = {}
    reports = []
    for one, (values, why) in zip(behavior, aligned, strict=True):
        fate = np.select(
            [why_not != "", why > 0, slow], [why_not, np.asarray(REASONS)[why], np.full(time.size, "slow")], "used"
        )
        if not (fate == "used").any():
            left = ", ".join(f"{n} {text}" for text, n in _number(fate).items())
            raise InputError(
                f"{where}: {one.path}: no bin is left to read it in ({left}); lower --min-speed or reserve time"
            )
        read = _One(latents, one, values, fate, block, held_out, ci, f"{where}: {one.path}")
        report, variables = read.report(counts, shifts, guard, min_speed)
        reports.append(report)
        added |= variables
    result = latents.assign(added)
    result.attrs["behavior"] = json.dumps([report.to_dict() for report in reports])
    return Reading(result, tuple(reports))


def _blocks(latents: xr.Dataset, guard: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """Blocks of time that may judge: their numbers (time,), -1 outside; why a bin is in none (time,), "" inside; and
    whether training never saw them."""
    size = float(latents.attrs["bin_size"])
    time, observed = np.asarray(latents["time"], dtype=np.float64), np.asarray(latents["observed"])
    trained = np.asarray(latents["trained"]) if "trained" in latents else np.zeros(time.size, dtype=bool)
    seen = trained & observed
    held_out = not seen[observed].all()
    spans = []
    if held_out:
        spans = stretches(latents["filtered_mean"].isel(time=np.flatnonzero(trained)).assign_attrs(bin_size=size))
    free = (~trained | (not held_out)) & outside(time, spans, guard)
    why = np.where(free, "", np.where(trained, "trained", "guard")).astype("<U12")
    total = max(float(free.sum()) * size, size)
    length = float(np.clip(total / (2 * FOLDS), *BLOCK_SECONDS))
    block, number = np.full(time.size, -1), 0
    gap = round(guard / size)
    # Trials that follow each other, or lie closer than a guard, are cut as one stretch: a break keeps nothing apart.
    rows = np.flatnonzero(free)
    ends = np.flatnonzero(np.diff(time[rows]) > max(guard + 0.75 * size, 1.5 * size)) + 1
    for stretch in np.split(rows, ends) if rows.size else ():
        at = (time[stretch] - time[stretch[0]]) / size  # bins from the first one
        pieces = max(1, int((at[-1] + 1 + gap) / (length / size + gap) + 1e-6))
        edges = np.linspace(0, round(at[-1]) + 1 + gap, pieces + 1).round()
        for start, stop in itertools.pairwise(edges.tolist()):
            block[stretch[(at > start - 0.25) & (at < stop - gap - 0.25)]] = number
            why[stretch[(at > stop - gap - 0.25) & (at < stop - 0.25)]] = "guard"
            number += 1
    why[(why == "") & ~observed] = "unobserved"
    return block, why, held_out


def _number(fate: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(fate, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class _Guess:
    """A distribution for each bin: mean (bin,), deviations from it (bin, sample), and their blur (bin, sample), the
    same for all of a bin's."""

    mean: np.ndarray
    deviation: np.ndarray
    width: np.ndarray

    def rows(self, which: np.ndarray) -> _Guess:
        return _Guess(self.mean[which], self.deviation[which], self.width[which])

    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        return (self.deviation - _EDGE * self.width).min(1), (self.deviation + _EDGE * self.width).max(1)

    def score(self, deviation: np.ndarray) -> np.ndarray:
        """How far out (bin,) a deviation from the mean lies: distance of its probability from one half, and beyond
        the ends of the distribution one half and the distance from the end, in the behaviour's unit."""
        low, high = self._ends()
        beyond = np.maximum(low - deviation, 0) + np.maximum(deviation - high, 0)
        inside = np.abs(ndtr((deviation[:, None] - self.deviation) / self.width).mean(1) - 0.5)
        return np.where(beyond > 0, 0.5 + beyond, inside)

    def bounds(self, score: float) -> tuple[np.ndarray, np.ndarray]:
        """The deviations (bin,) whose score is at most this: from a lower one to an upper one."""
        low, high = self._ends()
        if score >= 0.5:
            return low - (score - 0.5), high + (score - 0.5)
        return self._quantile(0.5 - score, low, high)[0], self._quantile(0.5 + score, low, high)[1]

    def _quantile(self, p: float, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Bounds on both sides of where the distribution reaches p, the length between the ends times 1e-6 apart."""
        for _ in range(20):
            middle = (low + high) / 2
            below = ndtr((middle[:, None] - self.deviation) / self.width).mean(1) < p
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return low, high


def _together(one: Behavior, mean: np.ndarray, guesses: list[_Guess]) -> _Guess:
    """One distribution of several: their deviations pooled, and for speed neighbours in order made one, so that it has
    no more samples than each of them."""
    if len(guesses) == 1:
        return guesses[0]
    # Deviations from the common mean; on a circle they stay within one turn.
    deviation = np.concatenate([one.difference(g.mean[:, None] + g.deviation, mean[:, None]) for g in guesses], 1)
    deviation.sort(1)
    kept = min(g.deviation.shape[1] for g in guesses)
    pooled = [part.mean(1) for part in np.array_split(deviation, kept, axis=1)]
    width = np.mean([g.width[:, 0] for g in guesses], 0)
    return _Guess(mean, np.column_stack(pooled), np.broadcast_to(width[:, None], (mean.size, kept)))


class _Fit:
    """Both readouts, fitted on some bins, and which of them read blocks better that it had not been fitted on."""

    def __init__(self, one: Behavior, states: np.ndarray, covs: np.ndarray, y: np.ndarray, block: np.ndarray):
        self.one = one
        if y.size > _MOST_FITTED:
            keep = np.linspace(0, y.size - 1, _MOST_FITTED).round().astype(int)
            states, covs, y, block = states[keep], covs[keep], y[keep], block[keep]
        self.metric = _metric(covs)
        self.span = one.period or max(float(np.ptp(y)), 1e-12)
        blocks = np.unique(block)
        if blocks.size == 1:
            block, blocks = (np.arange(y.size) >= y.size // 2).astype(int), np.arange(2)
        # The choice, inside: each block read by readouts of the others.
        errors = {key: np.zeros(y.size) for key in _choices(y.size)}
        linear = {}
        for number in blocks:
            held = block == number
            inner = states[~held], y[~held], self.metric
            _, index = _nearest(inner[0] @ self.metric, states[held] @ self.metric, max(NEIGHBOURS))
            for k in _ks(y.size):
                errors["neighbours", k][held] = one.difference(y[held], one.mean(inner[1][index[:, :k]], 1))
            for penalty in PENALTIES:
                line = _Line(one, inner[0], inner[1], penalty)
                linear[penalty] = line
                errors["linear", penalty][held] = one.difference(y[held], line.mean(states[held]))
        squared = {key: float((error**2).mean()) for key, error in errors.items()}
        self.best = {
            kind: min((key for key in squared if key[0] == kind), key=squared.__getitem__)[1] for kind in KINDS
        }
        self.kind = min(KINDS, key=lambda kind: squared[kind, self.best[kind]])
        self.line = _Line(one, states, y, self.best["linear"])
        self.residual = {kind: errors[kind, self.best[kind]] for kind in KINDS}
        self.points, self.y = states @ self.metric, y
        self.samples = min(SAMPLES, y.size - int(np.unique(block, return_counts=True)[1].max()))
        self.local = self._local_is_better(states, covs, block)

    def _local_is_better(self, states: np.ndarray, covs: np.ndarray, block: np.ndarray) -> bool:
        """Whether intervals that follow the state score better, each block's made of the errors of the others."""
        error = self.residual[self.kind]
        some = np.unique(np.linspace(0, error.size - 1, _MOST_COMPARED).round().astype(int))
        total = []
        for self.local in (True, False):
            guess = _Guess(np.zeros(error.size), *[np.zeros((error.size, self.samples)) for _ in range(2)])
            for number in np.unique(block[some]):
                held = some[block[some] == number]
                guess.deviation[held], guess.width[held] = self._errors(states[held], covs[held], block != number)
            guess, away = guess.rows(some), error[some]
            scores = guess.score(away)
            total.append(0.0)
            for level in _COMPARED:
                low, high = guess.bounds(conformal_quantile(scores, level))
                total[-1] += float(interval_score(away, low, high, level).mean())
        return total[0] <= total[1]

    def means(self, states: np.ndarray) -> dict[str, np.ndarray]:
        """Both readouts' values (bin,)."""
        _, index = _nearest(self.points, states @ self.metric, int(self.best["neighbours"]))
        return {"linear": self.line.mean(states), "neighbours": self.one.mean(self.y[index], 1)}

    def guess(self, states: np.ndarray, covs: np.ndarray) -> _Guess:
        """The chosen readout's distributions."""
        deviation, width = self._errors(states, covs, np.ones(self.y.size, dtype=bool))
        return _Guess(self.means(states)[self.kind], deviation, width)

    def _errors(self, states: np.ndarray, covs: np.ndarray, among: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Deviations (bin, sample) to be expected, from the errors of the fitted bins `among`, and their blur."""
        points, y, error = self.points[among], self.y[among], self.residual[self.kind][among]
        shape = (len(states), self.samples)
        if not self.local:
            every = np.quantile(error, (np.arange(self.samples) + 0.5) / self.samples)
            return np.broadcast_to(every, shape), np.full(shape, _FLOOR * self.span)
        _, index = _nearest(points, states @ self.metric, max(self.samples, SLOPE_SAMPLES))
        if self.kind == "linear":
            slope = self.line.slope(states)
        else:
            around = index[:, :SLOPE_SAMPLES]
            away = self.one.difference(y[around], self.one.mean(y[around], 1)[:, None])
            slope = _slopes(points[around], away) @ self.metric.T
        variance = np.einsum("ts,tsr,tr->t", slope, covs, slope)
        width = np.minimum(np.sqrt(variance), self.span / 4) + _FLOOR * self.span
        return error[index[:, : self.samples]], np.broadcast_to(width[:, None], shape)


def _ks(bins: int) -> list[int]:
    return [k for k in NEIGHBOURS if k <= bins // 4] or [max(1, bins // 4)]


def _choices(bins: int) -> list[tuple[str, float]]:
    return [("linear", penalty) for penalty in PENALTIES] + [("neighbours", k) for k in _ks(bins)]


def _metric(covs: np.ndarray) -> np.ndarray:
    """(state, state) map into coordinates in which the filter's mean covariance is one."""
    values, vectors = np.linalg.eigh(covs.mean(0))
    return vectors / np.sqrt(np.maximum(values, 1e-9 * values[-1]))


def _nearest(points: np.ndarray, at: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=min(k, len(points))).fit(points).kneighbors(at)


def _slopes(points: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """(bin, state) ridge regression of each bin's neighbours' deviations on where they lie."""
    points = points - points.mean(1, keepdims=True)
    gram = np.einsum("tks,tkr->tsr", points, points)
    gram += _SLOPE_PENALTY * points.shape[1] * np.eye(points.shape[2])
    moment = np.einsum("tks,tk->ts", points, deviation - deviation.mean(1, keepdims=True))
    return np.linalg.solve(gram, moment[:, :, None])[:, :, 0]


class _Line:
    """Ridge regression of a variable on standardised states; of a circular one through its cosine and sine."""

    def __init__(self, one: Behavior, states: np.ndarray, y: np.ndarray, penalty: float):
        from sklearn.linear_model import Ridge

        self.one = one
        self.turn = 2 * np.pi / one.period if one.period else None
        target = y[:, None] if self.turn is None else np.column_stack([np.cos(self.turn * y), np.sin(self.turn * y)])
        self.centre, self.scale = states.mean(0), np.maximum(states.std(0), 1e-12)
        ridge = Ridge(alpha=penalty * y.size).fit((states - self.centre) / self.scale, target)
        self.weights, self.offset = ridge.coef_.reshape(target.shape[1], -1), ridge.intercept_

    def _plane(self, states: np.ndarray) -> np.ndarray:
        return (states - self.centre) / self.scale @ self.weights.T + self.offset

    def mean(self, states: np.ndarray) -> np.ndarray:
        plane = self._plane(states)
        if self.turn is None:
            return plane[:, 0]
        return self.one.wrap(np.arctan2(plane[:, 1], plane[:, 0]) / self.turn)

    def slope(self, states: np.ndarray) -> np.ndarray:
        """(bin, state) W: how the value changes with the state."""
        if self.turn is None:
            return np.broadcast_to(self.weights[0] / self.scale, states.shape)
        cosine, sine = self._plane(states).T[:, :, None]
        square = np.maximum(cosine**2 + sine**2, 1e-6)
        return (cosine * self.weights[1] - sine * self.weights[0]) / square / self.turn / self.scale


class _One:
    """One variable: its fits, what they read, and how well."""

    def __init__(
        self,
        latents: xr.Dataset,
        one: Behavior,
        values: np.ndarray,
        fate: np.ndarray,
        block: np.ndarray,
        held_out: bool,
        ci: float,
        where: str,
    ):
        self.latents, self.one, self.ci, self.held_out, self.where = latents, one, ci, held_out, where
        self.states = latents["filtered_mean"].to_numpy().astype(np.float64)
        self.covs = latents["filtered_cov"].to_numpy()
        self.truth, self.block = values, block
        used = np.bincount(block[fate == "used"], minlength=block.max() + 1)
        short = (fate == "used") & (used[block] < LEAST_BINS)
        if (fate == "used").sum() > short.sum():
            fate = np.where(short, "short block", fate)
        self.fate = fate
        self.judged = fate == "used"
        numbers = np.unique(block[self.judged])
        self.folds = min(FOLDS, numbers.size)
        self.blocks = numbers.size
        fold_of = np.full(block.max() + 2, -1)  # the last one stands for bins in no block
        fold_of[numbers] = np.arange(numbers.size) % self.folds
        self.fold = fold_of[block]
        y = self.truth[self.judged]
        if y.size < 2 * LEAST_BINS:
            raise InputError(f"{where}: {y.size} usable bins are too few to fit a readout; decode or reserve more time")
        if np.ptp(y) == 0:
            raise InputError(f"{where} is constant ({y[0]:g}) in the {y.size} bins that can be used; choose another")
        self.low, self.high = float(y.min()), float(y.max())
        self.calibrated = held_out and self.folds >= LEAST_FOLDS

    def _fit(self, *without: int) -> _Fit:
        rows = np.flatnonzero(self.judged & ~np.isin(self.fold, without))
        return _Fit(self.one, self.states[rows], self.covs[rows].astype(np.float64), self.truth[rows], self.block[rows])

    def _guesses(self, fit: _Fit, rows: np.ndarray) -> Iterator[tuple[np.ndarray, _Guess]]:
        for first in range(0, rows.size, _CHUNK):
            some = rows[first : first + _CHUNK]
            yield some, fit.guess(self.states[some], self.covs[some].astype(np.float64))

    def report(
        self, counts: xr.DataArray | None, shifts: int, guard: float, min_speed: float
    ) -> tuple[BehaviorReport, dict[str, Any]]:
        one, n = self.one, self.truth.size
        self.mean = np.full(n, np.nan)
        self.by_kind = {kind: np.full(n, np.nan) for kind in KINDS}
        levels = sorted({*LEVELS, self.ci})
        self.lower, self.upper = np.full((n, len(levels)), np.nan), np.full((n, len(levels)), np.nan)
        self.constant = np.full((n, len(levels)), np.nan)
        final = self._fit()
        took = self._nested(levels) if self.calibrated else self._plain()
        rest = np.flatnonzero((self.fold < 0) | (self.folds < 2))
        for some, guess in self._guesses(final, rest):
            self._take([guess], some, levels if self.calibrated else [], only=self.ci)
        notes = [one.note] if one.note else []
        if not self.held_out:
            notes.append("training saw all of the time: the readout is not judged on new time, and has no intervals")
        elif not self.calibrated:
            notes.append(
                f"too few blocks of time that training never saw to calibrate ({self.blocks}, where {LEAST_FOLDS} are "
                "needed): no intervals"
            )
        judged = self.judged & (self.folds > 1)
        report = BehaviorReport(
            name=one.name,
            path=one.path,
            unit=one.unit,
            period=one.period,
            categories=one.categories,
            bins=_number(self.fate),
            blocks=self.blocks,
            folds=self.folds,
            guard=guard,
            min_speed=min_speed,
            held_out=self.held_out,
            calibrated=self.calibrated,
            readouts={k: self._score(v, judged) for k, v in self.by_kind.items()} if judged.any() else {},
            chosen=final.kind,
            chosen_in=float(np.mean([fit.kind == final.kind for fit in took])) if took else 1.0,
            follow_state=float(np.mean([fit.local for fit in took])) if took else float(final.local),
            read=self._score(self.mean, judged) if judged.any() else None,
            control=self._control(shifts) if judged.any() else None,
            decoder=self._decoder(counts) if counts is not None and judged.any() else None,
            intervals=tuple(self._interval(i, level) for i, level in enumerate(levels) if level in LEVELS)
            if self.calibrated
            else (),
            note="; ".join(notes),
        )
        return report, self._variables(levels)

    def _nested(self, levels: list[float]) -> list[_Fit]:
        """Every fold read, and calibrated, by readouts that never saw it."""
        guesses: dict[tuple[int, int], list[tuple[np.ndarray, _Guess]]] = {}
        means: dict[tuple[int, int], dict[str, np.ndarray]] = {}
        scores: dict[tuple[int, int], np.ndarray] = {}
        plain: dict[tuple[int, int], np.ndarray] = {}
        took: list[_Fit] = []
        for a in range(self.folds):
            for b in range(a):
                fit = self._fit(a, b)
                took.append(fit)
                for this, other in ((a, b), (b, a)):
                    rows = np.flatnonzero(self.fold == this)
                    guesses[this, other] = list(self._guesses(fit, rows))
                    means[this, other] = fit.means(self.states[rows])
                    pairs = []
                    for some, guess in guesses[this, other]:
                        known = self.judged[some]
                        away = self.one.difference(self.truth[some], guess.mean)[known]
                        pairs.append((guess.rows(known).score(away), np.abs(away)))
                    scores[this, other] = np.concatenate([pair[0] for pair in pairs])
                    plain[this, other] = np.concatenate([pair[1] for pair in pairs])
        for test in range(self.folds):
            others = [fold for fold in range(self.folds) if fold != test]
            # Scores of the calibration fold under the readout that saw neither it nor the test fold.
            calibration = np.concatenate([scores[fold, test] for fold in others])
            distance = np.concatenate([plain[fold, test] for fold in others])
            cuts = [conformal_quantile(calibration, level) for level in levels]
            fitted = self.judged & (self.fold != test)
            limits = float(self.truth[fitted].min()), float(self.truth[fitted].max())
            for parts in zip(*[guesses[test, fold] for fold in others], strict=True):
                self._take([guess for _, guess in parts], parts[0][0], levels, cuts, limits)
            rows = np.flatnonzero(self.fold == test)
            for kind in KINDS:
                self.by_kind[kind][rows] = self.one.mean(
                    np.column_stack([means[test, fold][kind] for fold in others]), 1
                )
            self.constant[rows] = [conformal_quantile(distance, level) for level in levels]
        self.all_scores = np.concatenate(list(scores.values()))
        return took

    def _plain(self) -> list[_Fit]:
        """Every fold read by a readout of the others, without intervals."""
        took: list[_Fit] = []
        for test in range(self.folds) if self.folds > 1 else ():
            fit, rows = self._fit(test), np.flatnonzero(self.fold == test)
            took.append(fit)
            for kind, values in fit.means(self.states[rows]).items():
                self.by_kind[kind][rows] = values
            self.mean[rows] = self.by_kind[fit.kind][rows]
        return took

    def _take(
        self,
        guesses: list[_Guess],
        rows: np.ndarray,
        levels: list[float],
        cuts: list[float] | None = None,
        limits: tuple[float, float] | None = None,
        only: float | None = None,
    ) -> None:
        """Put the guesses' common mean and intervals where they belong; `only` one level where time matters."""
        mean = self.one.mean(np.column_stack([guess.mean for guess in guesses]), 1)
        self.mean[rows] = mean
        if not levels:
            return
        whole = _together(self.one, mean, guesses)
        for i, level in enumerate(levels):
            if only in (None, level):
                cut = conformal_quantile(self.all_scores, level) if cuts is None else cuts[i]
                low, high = whole.bounds(cut)
                self.lower[rows, i], self.upper[rows, i] = self._clip(mean, low, high, limits)

    def _clip(
        self, mean: np.ndarray, low: np.ndarray, high: np.ndarray, limits: tuple[float, float] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds from deviations: within the range that was seen, on a circle within one turn."""
        if self.one.period is not None:
            half = self.one.period / 2
            return mean + np.clip(low, -half, half), mean + np.clip(high, -half, half)
        lowest, highest = limits or (self.low, self.high)
        return np.clip(mean + low, lowest, highest), np.clip(mean + high, lowest, highest)

    def _score(self, values: np.ndarray, rows: np.ndarray) -> ReadoutScore:
        return ReadoutScore(*_worth(self.one, self.truth[rows], values[rows]))

    def _interval(self, i: int, level: float) -> IntervalScore:
        rows = self.judged
        mean, half = self.mean[rows], self.constant[rows, i]
        # On a circle the truth is counted from the mean, as the bounds are.
        away = self.one.difference(self.truth[rows], mean)
        truth = mean + away

        def same(coverage: float) -> tuple[np.ndarray, np.ndarray]:
            width = np.full(mean.size, np.quantile(np.abs(away), coverage, method="higher"))
            return self._clip(mean, -width, width)

        return score_intervals(
            truth, self.lower[rows, i], self.upper[rows, i], *self._clip(mean, -half, half), same, level,
            self.block[rows],
        )  # fmt: skip

    def _control(self, shifts: int) -> Control:
        """The best plain readout of behaviour shifted in a circle, beside the best one of behaviour as it was."""
        rows = np.flatnonzero(self.judged)
        if rows.size > _MOST_FITTED // 4:
            rows = rows[np.linspace(0, rows.size - 1, _MOST_FITTED // 4).round().astype(int)]
        states, y, fold, n = self.states[rows], self.truth[rows], self.fold[rows], rows.size
        steps = np.linspace(0.05 * n, 0.95 * n, shifts).round().astype(int)
        metric = _metric(self.covs[rows].astype(np.float64))
        turn = None if self.one.period is None else 2 * np.pi / self.one.period
        shifted = np.column_stack([np.roll(y, step) for step in (0, *steps.tolist())])
        read = {key: np.full(shifted.shape, np.nan) for key in _choices(n)}
        for test in range(self.folds):
            out = fold == test
            _, index = _nearest(states[~out] @ metric, states[out] @ metric, max(NEIGHBOURS))
            centre, scale = states[~out].mean(0), np.maximum(states[~out].std(0), 1e-12)
            x, new = (states[~out] - centre) / scale, (states[out] - centre) / scale
            parts = [shifted[~out]] if turn is None else [np.cos(turn * shifted[~out]), np.sin(turn * shifted[~out])]
            for kind, value in read:
                if kind == "neighbours":
                    read[kind, value][out] = np.column_stack(
                        [self.one.mean(column[index[:, : int(value)]], 1) for column in shifted[~out].T]
                    )
                    continue
                gram = x.T @ x + value * len(x) * np.eye(x.shape[1])
                planes = [new @ np.linalg.solve(gram, x.T @ (p - p.mean(0))) + p.mean(0) for p in parts]
                read[kind, value][out] = (
                    planes[0] if turn is None else self.one.wrap(np.arctan2(planes[1], planes[0]) / turn)
                )
        best = np.max(
            [[_worth(self.one, s, v)[0] for s, v in zip(shifted.T, r.T, strict=True)] for r in read.values()], 0
        )
        others = best[1:]
        return Control(
            shifts=shifts,
            r2=float(best[0]),
            shifted_mean=float(others.mean()),
            shifted_95=float(np.quantile(others, 0.95)),
            p=float((1 + (others >= best[0]).sum()) / (1 + shifts)),
        )

    def _decoder(self, counts: xr.DataArray) -> Decoder:
        """A Bayesian decoder fitted on all folds but the one that it reads, its window chosen inside them."""
        rows = np.flatnonzero(self.judged)
        size = float(self.latents.attrs["bin_size"])
        windows = _trailing(counts, rows)
        y, fold = self.truth[rows], self.fold[rows]
        edges = self._edges(y)
        read, taken = np.full(rows.size, np.nan), []
        for test in range(self.folds):
            inner = np.flatnonzero(fold != test)
            some = inner[np.linspace(0, inner.size - 1, min(inner.size, 2000)).round().astype(int)]
            errors = []
            for counted in windows:
                away = [
                    np.abs(
                        self.one.difference(_bayes(counted[fit], y[fit], counted[new], edges, size, self.one), y[new])
                    )
                    for held in np.unique(fold[some])
                    for fit, new in [(some[fold[some] != held], some[fold[some] == held])]
                    if fit.size
                ]
                errors.append(float(np.mean(np.concatenate(away))) if away else 0.0)
            best = int(np.argmin(errors))
            taken.append(DECODER_WINDOWS[best])
            new = np.flatnonzero(fold == test)
            read[new] = _bayes(windows[best][inner], y[inner], windows[best][new], edges, size, self.one)
        return Decoder(*_worth(self.one, y, read), window=float(np.median(taken)) * size)

    def _edges(self, y: np.ndarray) -> np.ndarray:
        if self.one.categories:
            values = np.unique(y)
            middle = (values[1:] + values[:-1]) / 2
            return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])
        if self.one.period is not None:
            start = float(self.one.wrap(np.asarray([-1e-9 * self.one.period]))[0] > 0)
            first = 0.0 if start else -self.one.period / 2
            return np.linspace(first, first + self.one.period, DECODER_BINS + 1)
        return np.linspace(self.low, self.high, DECODER_BINS + 1)

    def _variables(self, levels: list[float]) -> dict[str, Any]:
        one, name = self.one, self.one.name
        about = {"unit": one.unit, "path": one.path, "calibrated": int(self.calibrated)}
        if one.period is not None:
            about["period"] = one.period  # type: ignore[assignment]
        fold = np.where(self.judged & (self.folds > 1), self.fold, -1).astype(np.int8)
        variables: dict[str, Any] = {
            f"{name}_mean": ("time", self.mean.astype(np.float32), {**about, "time_index": "t|t"}),
            f"{name}_true": ("time", self.truth.astype(np.float32), about),
            f"{name}_fold": (
                "time",
                fold,
                {"long_name": "fold of a bin that is read by readouts of other blocks, or -1"},
            ),
        }
        if self.calibrated:
            i = levels.index(self.ci)
            bounds = np.stack([self.lower[:, i], self.upper[:, i]], -1).astype(np.float32)
            extra = {"level": self.ci, "of": f"{name}_mean"}
            if one.period is not None:
                extra["long_name"] = "bounds are not wrapped: lower <= mean <= upper"
            variables[f"{name}_ci"] = (("time", "bound"), bounds, {**about, **extra})
        return variables


def _worth(one: Behavior, truth: np.ndarray, read: np.ndarray) -> tuple[float, float]:
    """R2 and median absolute error, both along the shorter arc where circular."""
    away = one.difference(read, truth)
    spread = one.difference(truth, one.mean(truth, 0))
    return float(1 - (away**2).mean() / (spread**2).mean()), float(np.median(np.abs(away)))


def _trailing(counts: xr.DataArray, rows: np.ndarray) -> list[np.ndarray]:
    """For each window mean counts (row, unit) of the bins up to this one, in its segment; NaN for an unseen unit."""
    values = counts.to_numpy().astype(np.float64)
    if "unit_observed" in counts.coords:
        values = np.where(counts["unit_observed"].to_numpy(), values, np.nan)
    segment = np.asarray(counts["segment"])
    result, total = [], np.zeros((rows.size, values.shape[1]))
    number = np.zeros(rows.size)
    for back in range(max(DECODER_WINDOWS)):
        at = np.maximum(rows - back, 0)
        there = (rows >= back) & (segment[at] == segment[rows])
        total = total + np.where(there[:, None], values[at], 0.0)
        number += there
        if back + 1 in DECODER_WINDOWS:
            result.append(total / number[:, None])
    return result


def _bayes(
    counted: np.ndarray, y: np.ndarray, new: np.ndarray, edges: np.ndarray, size: float, one: Behavior
) -> np.ndarray:
    """Most probable value (bin,) under independent Poisson units and a flat prior (Zhang et al. 1998).

    Counts are means a bin over a window: a flat prior has its maximum at the same value as for their sum.
    """
    import pynapple as nap
    from scipy.ndimage import gaussian_filter1d

    # Every bin is decoded by itself, so the bins are lined up on a clock without gaps, as pynapple wants them.
    clock = size * (np.arange(max(len(counted), len(new))) + 0.5)
    units = np.arange(counted.shape[1])
    curves = nap.compute_tuning_curves(
        nap.TsdFrame(t=clock[: len(counted)], d=np.nan_to_num(counted) / size, columns=units),
        nap.Tsd(t=clock[: len(y)], d=y),
        bins=[edges],
        feature_names=["value"],
    )
    occupancy = curves.attrs["occupancy"]
    if not one.categories:
        # Neighbouring values are alike; what was visited seldom borrows from them.
        mode = "wrap" if one.period is not None else "nearest"
        weight = gaussian_filter1d(occupancy, 1.0, mode=mode)
        summed = gaussian_filter1d(np.nan_to_num(curves.to_numpy()) * occupancy, 1.0, axis=1, mode=mode)
        curves = curves.copy(data=summed / np.maximum(weight, 1e-12))
        occupancy = weight
    curves = curves.isel(value=np.flatnonzero(occupancy > 0.1))
    curves = curves.clip(min=0.02 / max(size * len(y), size))
    result = []
    for first in range(0, len(new), 2000):
        part = nap.TsdFrame(t=clock[: len(new[first : first + 2000])], d=new[first : first + 2000], columns=units)
        decoded, _ = nap.decode_bayes(curves, part, epochs=part.time_support, bin_size=size)
        result.append(decoded.values)
    return np.concatenate(result)
