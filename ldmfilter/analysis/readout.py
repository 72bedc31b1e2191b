"""Readout of behaviour from states, with conformal intervals, judged on time that neither of them saw.

The states are causal and fixed; only the readout is fitted. The judged time is cut into blocks, which are dealt to
folds. For each pair of folds every readout is fitted on the other folds and reads both. A fold is judged by the mean
of the readouts of all pairs that it is in. The errors of these readouts at the other fold of their pair choose the
readout and calibrate its intervals. None of this saw a block of the judged fold.

The distribution for a bin is made of the readout's errors at the nearest states of other folds, each blurred by
W P W': the filter's covariance P through the local linear map W of the readout. Its nonconformity is measured on the
calibration folds as the distance of its probability at the true value from one half, and widens or narrows the
intervals (distributional conformal prediction: Chernozhukov, Wuthrich & Zhu 2021, PNAS 118 e2107794118). Distances
and W are in coordinates in which the filter's mean covariance is one, so that neither depends on the scale of the
states.
"""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import BaggingRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.neighbors import KNeighborsRegressor, NearestNeighbors
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ldmfilter.analysis.bayesian_decoder import Decoder, decode_counts
from ldmfilter.analysis.behavior import Behavior, as_behavior, r2, score, speed, thin
from ldmfilter.analysis.blocks import (
    GUARD,
    LEAST_FOLDS,
    MOST_CONTROL,
    Bins,
    align_bins,
    count_reasons,
    split_halves,
    usable_bins,
)
from ldmfilter.analysis.calibration import (
    DistributionScore,
    ErrorDistribution,
    IntervalScore,
    Third,
    conformal_quantile,
    covered,
    crps,
    interval_score,
    score_distribution,
    score_intervals,
    thirds,
)
from ldmfilter.analysis.classes import ClassReport, read_classes
from ldmfilter.data.counts import is_signal
from ldmfilter.data.frames import frame_bins, sum_frames
from ldmfilter.errors import InputError

LEVELS = (0.5, 0.8, 0.9, 0.95, 0.99)
NEIGHBOURS = (10, 25, 50)  # candidates
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # of the ridge, in variances of a state: candidates
ERRORS = 80  # nearest states whose errors make a distribution: fewer say nothing of its tails
SLOPE_NEIGHBOURS = 40  # nearest states that a local linear map is fitted to
SHIFTS = 99  # of the control
_SLOPE_PENALTY = 0.1  # of local maps, in variances of the filter's own uncertainty
_LEAST_WIDTH = 0.003  # of the behaviour's range: least blur of a distribution
_COMPARED = (0.8, 0.95)  # levels at which intervals that follow the state are compared with others
_MOST_COMPARED = 600  # bins, to that end
_MOST_FITTED = 20_000  # bins that a readout is fitted on
_MOST_NETWORK = 3_000  # bins that networks are fitted on: with more they take most of the time
_CHUNK = 8_192  # bins handled at a time


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
    most_bins: int = _MOST_FITTED
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


@dataclass(frozen=True)
class ReadoutScore:
    """Accuracy of a readout on the test blocks: r2; median_error: median absolute error in the behaviour's unit."""

    r2: float
    median_error: float


@dataclass(frozen=True)
class Control:
    """Readout of behaviour that was shifted in a circle among the judged bins, or shuffled among trials.

    Only the fast readouts, `linear` and `neighbours`, are fitted to shifted behaviour. So r2 is theirs too, and may
    be below that of `BehaviorReport.read`.

    r2: of the best fast readout, with the behaviour as it was; shifted_*: of the best one for each shift; p: share of
    shifts, and the behaviour itself, that are read as well
    """

    shifts: int
    r2: float
    shifted_mean: float
    shifted_95: float
    p: float


@dataclass(frozen=True)
class BehaviorReport:
    """Accuracy of the readout of one variable, and of its intervals.

    bins: number of bins that are used, and of others by exclusion reason
    blocks, folds: of time; guard: s between them
    held_out: whether training never saw the judged bins; calibrated: whether the intervals were calibrated
    readouts: each of `READOUTS` on the test blocks, but networks for few bins; empty without test blocks
    chosen: the readout with the least error on all judged blocks; chosen_in: share of the folds that are read by it
    follow_state: share of the folds whose intervals are made of errors near the state, not of all errors; 0 without
        intervals
    read: of each fold its chosen readout, as `<name>_mean` holds them
    intervals: one for each level, empty where not calibrated
    distribution: of the quantiles that all intervals together are; None where not calibrated
    thirds: coverage and width of intervals of level `ci` in thirds of the judged bins by spikes in the last second,
        speed, predicted width, and the value itself; empty where not calibrated
    note: assumptions about the behaviour, or why something is missing
    """

    name: str
    path: str
    unit: str
    period: float | None
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
    distribution: DistributionScore | None
    thirds: tuple[Third, ...]
    note: str

    @property
    def circular(self) -> bool:
        """True for a variable with a period."""
        return self.period is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as JSON holds them."""
        lists = {name: list(map(asdict, getattr(self, name))) for name in ("intervals", "thirds")}
        return {**asdict(self), "circular": self.circular, "categories": False, **lists}


AnyReport = BehaviorReport | ClassReport


@dataclass(frozen=True, eq=False)
class Reading:
    """States together with behaviour.

    Attributes
    ----------
    latents : xarray.Dataset
        The states and, for each variable, `<name>_mean` (time,), `<name>_ci` (time, bound) where calibrated,
        `<name>_true` (time,) NaN where masked, `<name>_fold` (time,): the fold of a judged bin, read by readouts that
        never saw its block, and -1 for the others. Of classes, `<name>_probability` (time, `<name>_class`) in place of
        the mean and the interval, and `<name>_read` (time,), the most probable. The attribute `behavior` holds the
        reports as JSON.
    reports : tuple of BehaviorReport or ClassReport
        One for each variable.
    readers : dict
        By name, the readout of each variable whose intervals are calibrated, for `OnlineReadout`.
    """

    latents: xr.Dataset
    reports: tuple[AnyReport, ...]
    readers: dict[str, Reader]


def read_behavior(
    latents: xr.Dataset,
    behavior: Sequence[Behavior] | Mapping[str, xr.DataArray],
    counts: xr.DataArray | None = None,
    ci: float = 0.95,
    min_speed: float = 0.0,
    guard: float = GUARD,
    shifts: int = SHIFTS,
    readouts: Sequence[Readout] = READOUTS,
) -> Reading:
    """Read behaviour from filtered states, judge it, and add it to them.

    Parameters
    ----------
    latents : xarray.Dataset
        As `LDMFilter.decode` makes them: filtered_mean, filtered_cov, observed, trained, segment, bin_size.
    behavior : sequence of Behavior, or mapping of xarray.DataArray
        The variables, from `choose_behavior`; or series (time,) by their names, as a session holds.
    counts : xarray.DataArray (time, unit), optional
        That the states were decoded from, for the supervised Bayesian decoder; None leaves it out, and a signal does.
    ci : float
        Level of `<name>_ci`.
    min_speed : float
        Bins in which the first variable changes more slowly (its unit per s) are neither fitted nor judged.
    guard : float
        s between bins of different use.
    shifts : int
        Number of the control's shifts, at least 20.
    readouts : sequence of Readout
        Kinds to choose from, at least one of them fast.

    Returns
    -------
    Reading
        `latents`, the states with `<name>_mean`, `<name>_ci` and `<name>_true`, and `reports`, how well each was read.

    Raises
    ------
    InputError
        A variable does not overlap with the states, is constant in the bins that are left, or no bins are.

    References
    ----------
    Chernozhukov, Wuthrich & Zhu 2021, "Distributional conformal prediction", PNAS 118 e2107794118.

    Examples
    --------
    >>> reading = ldmfilter.read_behavior(latents, ldmfilter.choose_behavior(session, ["linear_position"]))
    >>> reading.latents["linear_position_ci"].dims
    ('time', 'bound')
    >>> [one.level for one in reading.reports[0].intervals]
    [0.5, 0.8, 0.9, 0.95, 0.99]
    """
    if not behavior:
        raise InputError("no behaviour is named; give at least one")
    if isinstance(behavior, Mapping):
        behavior = as_behavior(behavior)
    if shifts < 20 or not (min_speed >= 0 and guard >= 0):
        raise InputError(
            f"{shifts} shifts, speed {min_speed:g}, guard {guard:g} s: give 20 shifts or more, and no minus"
        )
    size = float(latents.attrs["bin_size"])
    time, segment = np.asarray(latents["time"], dtype=np.float64), np.asarray(latents["segment"])
    path = str(latents.attrs.get("source_path") or "behaviour")
    if counts is not None and is_signal(counts):  # which has no spikes to decode
        counts = None
    aligned = [align_bins(variable, time, size, f"{path}: {variable.path}") for variable in behavior]
    slow = np.zeros(time.size, dtype=bool)
    if min_speed > 0:
        slow = ~(speed(behavior[0], aligned[0][0], segment, size) >= min_speed)
    added: dict[str, Any] = {}
    reports: list[AnyReport] = []
    readers: dict[str, Reader] = {}
    for variable, (truth, missing) in zip(behavior, aligned, strict=True):
        reason = np.where(slow & (missing == "used"), "slow", missing)
        bins = usable_bins(latents, variable, truth, reason, guard, f"{path}: {variable.path}")
        if variable.categories:
            report, variables = read_classes(bins, counts, shifts, guard, min_speed)
            reports.append(report)
        else:
            reading = _VariableReading(bins, readouts, sorted({*LEVELS, ci}), ci, size)
            if reading.reader is not None:
                readers[variable.name] = reading.reader
            pace = speed(variable, truth, segment, size)
            ordered = {"spikes in the last second": _spikes(latents, counts), "speed": pace}
            reports.append(_report(reading, counts, shifts, guard, min_speed, ordered))
            variables = reading.variables()
        added |= variables
    result = latents.assign(added)
    result.attrs["behavior"] = json.dumps([report.to_dict() for report in reports])
    return Reading(result, tuple(reports), readers)


def _spikes(latents: xr.Dataset, counts: xr.DataArray | None) -> np.ndarray:
    """Spikes (time,) of all units in the second that ends with each bin; NaN where they are not known."""
    if counts is None or is_signal(counts):
        return np.full(latents.sizes["time"], np.nan)
    k = frame_bins(1.0, float(latents.attrs["bin_size"]))
    total = counts.to_numpy().sum(1, dtype=np.float32)[:, None]
    return sum_frames(total, np.asarray(latents["segment"]), k)[:, 0].astype(np.float64)


def predict_bins(bins: Bins, estimator: Any, y: np.ndarray, train: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Values (bin, series) of `new` bins by an estimator fitted to y (bin, series) in the bins `train`."""
    return _predict(bins.variable, _fit(bins, estimator, y, train), bins.states[new])


def _fit(bins: Bins, estimator: Any, y: np.ndarray, train: np.ndarray) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        targets = bins.variable.encode(y)
        return estimator.fit(bins.states[train], targets.ravel() if targets.shape[1:] == (1,) else targets)


def _predict(variable: Behavior, fitted: Any, states: np.ndarray) -> np.ndarray:
    return variable.decode(fitted.predict(states).reshape(len(states), -1))


_Key = tuple[str, int]  # name of a readout, number of the candidate


def _predict_all(
    bins: Bins, readouts: Sequence[Readout], y: np.ndarray, rows: np.ndarray, new: np.ndarray
) -> dict[_Key, np.ndarray]:
    """Values of `new` bins by every candidate, fitted to y (time, series) in the bins `rows`."""
    result = {}
    for readout in readouts:
        train = thin(rows, readout.most_bins)
        for i, estimator in enumerate(readout.candidates(train.size)):
            result[readout.name, i] = predict_bins(bins, estimator, y[train], train, new)
    return result


def _read_nested(bins: Bins, readouts: Sequence[Readout], group: np.ndarray) -> dict[_Key, np.ndarray]:
    """Readings (group, bin) of every candidate that are honest for one group each.

    Row g holds, for a bin of another group, the reading of the candidate fitted without g and without the bin's
    group; for a bin of g, the mean of all these fits. So with five folds ten pairs are fitted.
    """
    inner = group if group.max() > 1 else split_halves(group, bins.judged)
    fits: dict[bytes, dict[_Key, np.ndarray]] = {}
    result: dict[_Key, np.ndarray] = {}
    for g in range(group.max() + 1):
        rows = np.flatnonzero(bins.judged & (group != g))
        outer, together = np.flatnonzero(group == g), []
        for fitted, held in LeaveOneGroupOut().split(rows, groups=inner[rows]):
            train, part = rows[fitted], inner[rows[held[0]]]
            if (key := train.tobytes()) not in fits:
                new = np.flatnonzero((group >= 0) & ~np.isin(inner, inner[train]))
                fits[key] = {}
                for name, values in _predict_all(bins, readouts, bins.truth[:, None], train, new).items():
                    fits[key][name] = np.full(group.size, np.nan)
                    fits[key][name][new] = values[:, 0]
            together.append(fits[key])
            for name, values in fits[key].items():
                table = result.setdefault(name, np.full((group.max() + 1, group.size), np.nan))
                table[g, inner == part] = values[inner == part]
        for name, table in result.items():
            table[g, outer] = bins.variable.mean(np.stack([fit[name][outer] for fit in together]), 0)
    return result


def _choose(bins: Bins, values: Mapping[_Key, np.ndarray], rows: np.ndarray) -> dict[str, _Key]:
    """The best candidate of each readout by squared error in the bins `rows`, the best readout first."""
    squared = {
        key: float((bins.variable.difference(bins.truth[rows], read[rows]) ** 2).mean()) for key, read in values.items()
    }
    best: dict[str, _Key] = {}
    for key in sorted(squared, key=squared.__getitem__):
        best.setdefault(key[0], key)
    return best


#: Makes distributions of the error from states (bin, state), as `Bins` holds them, and their covariances.
Near = Callable[[np.ndarray, np.ndarray], ErrorDistribution]


@dataclass(frozen=True, eq=False)
class Reader:
    """The readout of one variable that is fitted to all judged bins, with calibrated errors, for states of other time.

    variable: what it reads
    scores (score,): nonconformity of judged bins, each read by a readout that had not seen its block
    bin_size: s, of the bins that it was fitted to
    """

    variable: Behavior
    scores: np.ndarray
    bin_size: float
    _metric: np.ndarray
    _fitted: Any
    _near: Near

    def read(self, mean: np.ndarray, cov: np.ndarray) -> tuple[np.ndarray, ErrorDistribution]:
        """Values (bin,), and the distributions of their errors, from filtered means (bin, state) and covariances (bin,
        state, state)."""
        states = mean @ self._metric
        return _predict(self.variable, self._fitted, states)[:, 0], self._near(states, cov)


@dataclass(frozen=True, eq=False)
class _Errors:
    """Errors (time,) of a chosen readout, and its readings `value` (time,), in bins that it was not fitted on.

    local: make distributions of the errors at the nearest states, not of all errors
    """

    bins: Bins
    error: np.ndarray
    value: np.ndarray
    local: bool

    def among(self, rows: np.ndarray) -> Near:
        """A maker of distributions of the error at states, from the errors in the bins `rows`."""
        bins, span = self.bins, self.bins.span(rows)
        least = _LEAST_WIDTH * span
        if not self.local:
            every = np.quantile(self.error[rows], (np.arange(ERRORS) + 0.5) / ERRORS)
            return lambda states, covs: ErrorDistribution(
                np.broadcast_to(every, (len(states), ERRORS)), np.full(len(states), least)
            )
        rows = thin(rows, _MOST_FITTED)
        search = NearestNeighbors(n_neighbors=min(ERRORS, rows.size)).fit(bins.states[rows])

        def near(states: np.ndarray, covs: np.ndarray) -> ErrorDistribution:
            nearest = rows[search.kneighbors(states, return_distance=False)]
            around = nearest[:, :SLOPE_NEIGHBOURS]
            values = self.value[around]
            values = bins.variable.difference(values, bins.variable.mean(values, 1)[:, None])
            slope = _local_slopes(bins.states[around], values) @ bins.metric.T
            variance = np.einsum("ts,tsr,tr->t", slope, covs.astype(np.float64), slope)
            return ErrorDistribution(self.error[nearest], np.minimum(np.sqrt(variance), span / 4) + least)

        return near

    def cross(self, rows: np.ndarray, among: np.ndarray) -> Iterator[tuple[np.ndarray, ErrorDistribution]]:
        """Bins of `rows` by fold, with distributions from the errors in `among` at other folds."""
        fold = self.bins.fold
        for number in np.unique(fold[rows]):
            near = self.among(among[fold[among] != number])
            for new in _chunks(rows[fold[rows] == number]):
                yield new, near(self.bins.states[new], self.bins.covs[new])

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """Nonconformity (row,) of the errors in the bins `rows`, by fold."""
        return np.concatenate([near.score(self.error[new]) for new, near in self.cross(rows, rows)])

    def cost(self, rows: np.ndarray) -> float:
        """Summed interval score in at most `_MOST_COMPARED` of the bins `rows`."""
        pairs = list(self.cross(thin(rows, _MOST_COMPARED), rows))
        scores = np.concatenate([near.score(self.error[new]) for new, near in pairs])
        total = 0.0
        for level, (new, near) in itertools.product(_COMPARED, pairs):
            lower, upper = near.bounds(conformal_quantile(scores, level))
            total += float(interval_score(self.error[new], lower, upper, level).sum())
        return total


def _chunks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[first : first + _CHUNK] for first in range(0, rows.size, _CHUNK))


def _local_slopes(states: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(bin, state) ridge regression of each bin's neighbours' values (bin, neighbour) on their states."""
    states = states - states.mean(1, keepdims=True)
    gram = np.einsum("tks,tkr->tsr", states, states)
    gram += _SLOPE_PENALTY * states.shape[1] * np.eye(states.shape[2])
    moment = np.einsum("tks,tk->ts", states, values - values.mean(1, keepdims=True))
    return np.linalg.solve(gram, moment[:, :, None])[:, :, 0]


class _VariableReading:
    """Readings of one variable in every bin, with intervals where they are calibrated.

    mean (time,), lower, upper, constant (time, level): the value, its bounds, and the half width of intervals of one
        width from the same calibration; NaN where not made
    pit (time,): probability of less than what happened, by the calibrated distribution
    by_readout: values (time,) of each readout, in bins of a fold
    chosen: the readout with the least error in all judged bins
    reader: for states of other time; None where not calibrated
    chosen_of, local_of: the readout of each fold, and True if its intervals follow the state
    """

    def __init__(self, bins: Bins, readouts: Sequence[Readout], levels: list[float], ci: float, bin_size: float):
        n = bins.truth.size
        self.bin_size = bin_size
        self.reader: Reader | None = None
        self.bins, self.levels, self.ci = bins, levels, ci
        self.readouts = [readout for readout in readouts if readout.least_bins <= bins.judged.sum()]
        self.mean, self.pit = np.full((2, n), np.nan)
        self.lower, self.upper, self.constant = np.full((3, n, len(levels)), np.nan)
        self.by_readout = {readout.name: np.full(n, np.nan) for readout in self.readouts}
        self.chosen_of: list[str] = []
        self.local_of: list[bool] = []
        group = bins.fold if bins.folds > 1 else split_halves(bins.fold, bins.judged)
        readings = _read_nested(bins, self.readouts, group)
        scores = [self._read_fold(g, group, readings) for g in range(group.max() + 1)]
        honest = {key: table[group, np.arange(n)] for key, table in readings.items()}
        self.chosen = self._read_rest(honest, np.concatenate(scores))

    @property
    def judged(self) -> np.ndarray:
        """Bins (time,) that are read by readouts of other blocks."""
        return self.bins.judged & (self.bins.folds > 1)

    def _read_fold(self, g: int, group: np.ndarray, readings: Mapping[_Key, np.ndarray]) -> np.ndarray:
        """Read one group without anything seen of it. Returns the nonconformity scores that calibrated it."""
        bins, out = self.bins, np.flatnonzero(group == g)
        others = np.flatnonzero(bins.judged & (group != g))
        best = _choose(bins, {key: table[g] for key, table in readings.items()}, others)
        for name, key in best.items():
            self.by_readout[name][out] = readings[key][g, out]
        chosen = next(iter(best))
        value = readings[best[chosen]][g]
        self.mean[out] = value[out]
        self.chosen_of.append(chosen)
        if not bins.calibrated:
            return np.zeros(0)
        errors = _best_errors(bins, bins.variable.difference(bins.truth, value), value, others)
        self.local_of.append(errors.local)
        scores = errors.scores(others)
        self._set_bounds(errors, out, others, scores, self.levels)
        self.constant[out] = [conformal_quantile(np.abs(errors.error[others]), level) for level in self.levels]
        return scores

    def _read_rest(self, values: Mapping[_Key, np.ndarray], scores: np.ndarray) -> str:
        """Read the bins of no fold by the readout that is best in all judged bins, fitted on all; return its name."""
        bins, rows = self.bins, np.flatnonzero(self.bins.judged)
        new = np.flatnonzero((bins.fold < 0) | (bins.folds < 2))
        chosen, key = next(iter(_choose(bins, values, rows).items()))
        readout = next(readout for readout in self.readouts if readout.name == chosen)
        train = thin(rows, readout.most_bins)
        fitted = _fit(bins, readout.candidates(train.size)[key[1]], bins.truth[train, None], train)
        if new.size:
            self.mean[new] = _predict(bins.variable, fitted, bins.states[new])[:, 0]
        if bins.calibrated:
            error = bins.variable.difference(bins.truth, values[key])
            errors = _Errors(bins, error, values[key], local=float(np.mean(self.local_of)) >= 0.5)
            self._set_bounds(errors, new, rows, scores, [self.ci])
            # Each judged bin has a score in the calibration of every fold but its own.
            few = thin(scores, rows.size)
            self.reader = Reader(bins.variable, few, self.bin_size, bins.metric, fitted, errors.among(rows))
        return chosen

    def _set_bounds(
        self, errors: _Errors, new: np.ndarray, among: np.ndarray, scores: np.ndarray, levels: list[float]
    ) -> None:
        """Set the bounds of the bins `new`, calibrated by `scores`."""
        bins, limits, distributions = self.bins, self.bins.truth[among], errors.among(among)
        for rows in _chunks(new):
            near = distributions(bins.states[rows], bins.covs[rows])
            self.pit[rows] = near.pit(errors.error[rows], scores)
            for level in levels:
                i = self.levels.index(level)
                low, high = near.bounds(conformal_quantile(scores, level))
                self.lower[rows, i], self.upper[rows, i] = self._clip(self.mean[rows], low, high, limits)

    def _clip(
        self, mean: np.ndarray, low: np.ndarray, high: np.ndarray, seen: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bounds from deviations: within the range of `seen`, on a circle within one turn."""
        if self.bins.variable.period is not None:
            half = self.bins.variable.period / 2
            return mean + np.clip(low, -half, half), mean + np.clip(high, -half, half)
        return np.clip(mean + low, seen.min(), seen.max()), np.clip(mean + high, seen.min(), seen.max())

    def score(self, values: np.ndarray) -> ReadoutScore:
        """Accuracy of values (time,) in the judged bins."""
        return ReadoutScore(*score(self.bins.variable, self.bins.truth[self.judged], values[self.judged]))

    def interval(self, level: float) -> IntervalScore:
        """Score of the intervals of one level in the judged bins."""
        rows, i = self.judged, self.levels.index(level)
        seen = self.bins.truth[rows]
        mean, half = self.mean[rows], self.constant[rows, i]
        # On a circle the truth is counted from the mean, as the bounds are.
        away = self.bins.variable.difference(seen, mean)

        def same(coverage: float) -> tuple[np.ndarray, np.ndarray]:
            width = np.full(mean.size, np.quantile(np.abs(away), coverage, method="higher"))
            return self._clip(mean, -width, width, seen)

        return score_intervals(
            mean + away, self.lower[rows, i], self.upper[rows, i], *self._clip(mean, -half, half, seen), same, level,
            self.bins.block[rows],
        )  # fmt: skip

    def distribution(self) -> DistributionScore:
        """Score of the distribution that the intervals of all levels are, in the judged bins."""
        rows = self.judged
        truth = self.mean[rows] + self.bins.variable.difference(self.bins.truth[rows], self.mean[rows])
        loss = crps(truth, self.lower[rows], self.upper[rows], self.levels)
        return score_distribution(loss, self.pit[rows], self.bins.block[rows])

    def thirds(self, ordered: Mapping[str, np.ndarray]) -> tuple[Third, ...]:
        """Intervals of level `ci` in thirds of the judged bins, by quantities (time,), width and value."""
        rows, i = self.judged, self.levels.index(self.ci)
        lower, upper, truth = self.lower[rows, i], self.upper[rows, i], self.bins.truth[rows]
        of = {name: values[rows] for name, values in ordered.items()}
        of |= {"predicted width": upper - lower, "value": truth}
        away = self.mean[rows] + self.bins.variable.difference(truth, self.mean[rows])
        return thirds(of, covered(away, lower, upper), upper - lower, self.ci, self.bins.block[rows])

    def variables(self) -> dict[str, Any]:
        """The variables that are added to the states."""
        one, name = self.bins.variable, self.bins.variable.name
        about = {"unit": one.unit, "path": one.path, "calibrated": int(self.bins.calibrated)}
        if one.period is not None:
            about["period"] = one.period  # type: ignore[assignment]
        fold = np.where(self.judged, self.bins.fold, -1).astype(np.int8)
        variables: dict[str, Any] = {
            f"{name}_mean": ("time", self.mean.astype(np.float32), {**about, "time_index": "t|t"}),
            f"{name}_true": ("time", self.bins.truth.astype(np.float32), about),
            f"{name}_fold": (
                "time",
                fold,
                {"long_name": "fold of a bin that is read by readouts of other blocks, or -1"},
            ),
        }
        if self.bins.calibrated:
            i = self.levels.index(self.ci)
            bounds = np.stack([self.lower[:, i], self.upper[:, i]], -1).astype(np.float32)
            extra = {"level": self.ci, "of": f"{name}_mean"}
            if one.period is not None:
                extra["long_name"] = "bounds are not wrapped: lower <= mean <= upper"
            variables[f"{name}_ci"] = (("time", "bound"), bounds, {**about, **extra})
        return variables


def _best_errors(bins: Bins, error: np.ndarray, value: np.ndarray, rows: np.ndarray) -> _Errors:
    """Errors whose distributions follow the state, or do not, whichever gives the better intervals in `rows`."""
    return min((_Errors(bins, error, value, local) for local in (True, False)), key=lambda errors: errors.cost(rows))


def _report(
    reading: _VariableReading,
    counts: xr.DataArray | None,
    shifts: int,
    guard: float,
    min_speed: float,
    ordered: Mapping[str, np.ndarray],
) -> BehaviorReport:
    bins, variable, judged = reading.bins, reading.bins.variable, reading.judged
    blocks = np.unique(bins.block[bins.judged]).size
    notes = [note for note in (variable.note, bins.note) if note]
    if not bins.held_out:
        notes.append("training saw all of the time: the readout is not judged on new time, and has no intervals")
    elif not bins.calibrated:
        notes.append(
            f"too few blocks of time that training never saw to calibrate ({blocks}, where {LEAST_FOLDS} are needed): "
            "no intervals"
        )
    rows = np.flatnonzero(judged)
    tested = rows.size > 0
    return BehaviorReport(
        name=variable.name,
        path=variable.path,
        unit=variable.unit,
        period=variable.period,
        bins=count_reasons(bins.reason),
        blocks=blocks,
        folds=bins.folds,
        guard=guard,
        min_speed=min_speed,
        held_out=bins.held_out,
        calibrated=bins.calibrated,
        readouts={name: reading.score(values) for name, values in reading.by_readout.items()} if tested else {},
        chosen=reading.chosen,
        chosen_in=reading.chosen_of.count(reading.chosen) / len(reading.chosen_of) if tested else 1.0,
        follow_state=float(np.mean(reading.local_of)) if reading.local_of else 0.0,
        read=reading.score(reading.mean) if tested else None,
        control=_control(bins, [readout for readout in reading.readouts if readout.fast], shifts) if tested else None,
        decoder=_decoder(bins, counts, rows) if counts is not None and tested else None,
        intervals=tuple(map(reading.interval, LEVELS)) if bins.calibrated else (),
        distribution=reading.distribution() if bins.calibrated else None,
        thirds=reading.thirds(ordered) if bins.calibrated else (),
        note="; ".join(notes),
    )


def _decoder(bins: Bins, counts: xr.DataArray, rows: np.ndarray) -> Decoder:
    decoded, window = decode_counts(bins.variable, counts, rows, bins.truth[rows], bins.fold[rows])
    return Decoder(*score(bins.variable, bins.truth[rows], decoded), window=window)


def _control(bins: Bins, readouts: Sequence[Readout], shifts: int) -> Control:
    """Compare the best fast readout of the behaviour with that of each of its surrogates."""
    rows = thin(np.flatnonzero(bins.judged), MOST_CONTROL)
    shifted = np.full((bins.truth.size, 1 + shifts), np.nan)
    shifted[rows] = bins.surrogates(rows, shifts)
    read: dict[_Key, np.ndarray] = {}
    for train, test in LeaveOneGroupOut().split(rows, groups=bins.fold[rows]):
        for key, values in _predict_all(bins, readouts, shifted, rows[train], rows[test]).items():
            read.setdefault(key, np.full((rows.size, 1 + shifts), np.nan))[test] = values
    best = np.max([r2(bins.variable, shifted[rows], values) for values in read.values()], axis=0)
    others = best[1:]
    return Control(
        shifts=shifts,
        r2=float(best[0]),
        shifted_mean=float(others.mean()),
        shifted_95=float(np.quantile(others, 0.95)),
        p=float((1 + (others >= best[0]).sum()) / (1 + shifts)),
    )
