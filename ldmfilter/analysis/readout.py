"""Readout of behaviour from states, with conformal intervals, or as classes with probabilities; judged on time that
neither readouts nor intervals saw.

The states are causal and fixed; only the readout is fitted. The judged time is cut into blocks, or into whole trials,
which are dealt to folds. For each pair of folds every readout is fitted on the other folds and reads both. A fold is
judged by the mean of the readouts of all pairs that it is in. The errors of these readouts at the other fold of their
pair choose the readout and calibrate its intervals (`analysis.intervals`). None of this saw a block of the judged fold.

Classes of a fold are read by classifiers that saw none of it. A classifier, and the temperature that its probabilities
are raised to (Guo et al. 2017, ICML), are chosen by log loss on inner folds of the others.

Beside both stands a supervised baseline: a Bayesian decoder of the counts.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import minimize_scalar
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.neighbors import KNeighborsClassifier

from ldmfilter.analysis.behavior import Behavior, as_behavior, cross, r2, score, speed, thin
from ldmfilter.analysis.blocks import GUARD, LEAST_FOLDS, Bins, Judged, Surrogates, against_surrogates, bins_of
from ldmfilter.analysis.intervals import FAST as FAST
from ldmfilter.analysis.intervals import (
    MOST_FITTED,
    NEIGHBOURS,
    READOUTS,
    SPEED,
    SPIKES,
    DistributionScore,
    IntervalScore,
    Reader,
    Readout,
    Third,
    VariableReading,
    block_means,
)
from ldmfilter.data.counts import is_signal
from ldmfilter.data.frames import first_bins, frame_bins, sum_frames
from ldmfilter.data.tables import Array
from ldmfilter.errors import InputError
from ldmfilter.filter.linalg import one_thread
from ldmfilter.html import table
from ldmfilter.text import print_lines, print_table

SHIFTS = 99  # of the control
SHRINKAGES = (0.1, 0.01)  # of the covariance within classes: candidates, the first is the control's
STEPS = 10  # of probability, in which calibration is judged
_LEAST = 1e-3  # probability at least, before the temperature: neighbours give 0
_MOST_CHOSEN = 5_000  # bins on which a classifier is chosen
WINDOWS = (1, 3, 5, 9, 15)  # bins of counts, of which the decoded bin is the last
CURVE_BINS = 40  # of a tuning curve
MOST_COMPARED = 2_000  # bins on which a window is chosen


@dataclass(frozen=True)
class ReadoutScore:
    """Accuracy of a readout on the test blocks: r2; median_error: median absolute error in the behaviour's unit."""

    r2: float
    median_error: float


@dataclass(frozen=True)
class Decoder(ReadoutScore):
    """The supervised baseline: a Bayesian decoder of the counts of independent Poisson units.

    window: s of counts, the decoded bin's the last, chosen inside the fitted blocks (median over the folds)
    """

    window: float


def decode_counts(bins: Bins, counts: xr.DataArray) -> tuple[Array, float]:
    """Decode the values (row,) of a variable in the tested bins from counts (time, unit), each fold by tuning curves of
    the others. Returns them and the window, s."""
    variable, rows = bins.variable, np.flatnonzero(bins.tested)
    y, fold = bins.truth[rows], bins.fold[rows]
    windows = _trailing_means(counts, rows)
    edges = _edges(variable, y)

    def decode(window: int, train: Array, new: Array) -> Array:
        return _most_probable(windows[window][train], y[train], windows[window][new], edges, variable)

    decoded, chosen = np.full(rows.size, np.nan), []
    for train, test in cross(np.arange(rows.size), fold):
        some = thin(train, MOST_COMPARED)
        errors = dict.fromkeys(WINDOWS, 0.0)
        for inner, held in cross(some, fold) if np.unique(fold[some]).size > 1 else ():
            for window in WINDOWS:
                away = variable.difference(decode(window, inner, held), y[held])
                errors[window] += float((away != 0).sum() if variable.categories else np.abs(away).sum())
        chosen.append(min(errors, key=errors.__getitem__))
        decoded[test] = decode(chosen[-1], train, test)
    return decoded, float(np.median(chosen)) * bins.size


def _trailing_means(counts: xr.DataArray, rows: Array) -> dict[int, Array]:
    """For each window mean counts (bin, unit) of the bins up to this one in its segment; NaN for an unseen unit."""
    values = counts.values.astype(float)
    if "unit_observed" in counts.coords:
        values[~counts["unit_observed"].values] = np.nan
    before = (rows - first_bins(counts["segment"].values)[rows])[:, None]  # bins of the segment
    result, total = {}, np.zeros((rows.size, values.shape[1]))
    for back in range(max(WINDOWS)):
        total = total + np.where(before >= back, values[rows - back], 0.0)
        if back + 1 in WINDOWS:
            result[back + 1] = total / (np.minimum(before, back) + 1)
    return result


def _edges(variable: Behavior, y: Array) -> Array:
    """Edges of the tuning curves' bins: one bin a category, or `CURVE_BINS` over the range or the period."""
    if variable.categories:
        return np.arange(variable.kinds + 1) - 0.5
    if variable.period is None:
        return np.linspace(y.min(), y.max(), CURVE_BINS + 1)
    return np.linspace(variable.start, variable.start + variable.period, CURVE_BINS + 1)


def _most_probable(counted: Array, y: Array, new: Array, edges: Array, variable: Behavior) -> Array:
    """Most probable value (bin,) of counts `new` (bin, unit) under independent Poisson units and a flat prior (Zhang et
    al. 1998), by tuning curves of other counts and their values y (bin,). A unit is left out where it was not seen.

    Counts are means a bin over a window: a flat prior has its maximum at the same value as for their sum.
    """
    inside = np.eye(edges.size - 1)[np.digitize(y, edges[1:-1])].T
    occupancy, summed = inside @ np.isfinite(counted), inside @ np.nan_to_num(counted)  # (place, unit)
    if not variable.categories:
        # Neighbouring values are alike; what was visited seldom borrows from them.
        mode = "wrap" if variable.period is not None else "nearest"
        occupancy, summed = (gaussian_filter1d(one, 1.0, axis=0, mode=mode) for one in (occupancy, summed))
    visited = occupancy.max(1) > 0.1
    rate = (summed / np.maximum(occupancy, 1e-12))[visited].clip(0.02 / len(y))
    likelihood = np.nan_to_num(new) @ np.log(rate).T - np.isfinite(new) @ rate.T
    return ((edges[:-1] + edges[1:]) / 2)[visited][likelihood.argmax(1)]


@dataclass(frozen=True)
class Control(Surrogates):
    """Readout of surrogates of the behaviour, by R2, beside that of the behaviour as it was, `r2`.

    Only the fast readouts, `linear` and `neighbours`, of which the best counts, are fitted to surrogates. So r2 is
    theirs too, and may be below that of `BehaviorReport.read`.
    """

    r2: float


@dataclass(frozen=True, repr=False)
class BehaviorReport(Judged):
    """Accuracy of the readout of one variable, and of its intervals.

    As `Judged`, and
    calibrated: whether the intervals were calibrated
    chosen_in: share of the folds that are read by the chosen readout
    follow_state: share of the folds whose intervals are made of errors near the state, not of all errors; 0 without
        intervals
    intervals: one for each level, empty where not calibrated
    distribution: score of the distribution whose quantiles are the bounds of all intervals; None where not calibrated
    thirds: coverage and width of intervals of level `ci` in thirds of the judged bins by spikes in the last second,
        speed, predicted width, and the value itself; empty where not calibrated
    value_range: the least and the greatest value in the judged bins; None where not calibrated
    """

    unit: str
    period: float | None
    calibrated: bool
    chosen_in: float
    follow_state: float
    control: Control | None
    decoder: Decoder | None
    intervals: tuple[IntervalScore, ...] = ()
    distribution: DistributionScore | None = None
    thirds: tuple[Third, ...] = ()
    value_range: tuple[float, float] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as JSON holds them."""
        return {**asdict(self), "circular": self.period is not None, "categories": False}

    @property
    def kind(self) -> str:
        """The kind of the variable, in words that follow its path."""
        return ", circular" if self.period else ""

    def row(self) -> tuple[str, str, str]:
        """Accuracy, error and coverage, in words."""
        if not self.read:
            return "", "", ""
        held = [f"{i.coverage:.1%}, {i.width:.3g} {self.unit} wide" for i in self.intervals if i.level == 0.95]
        return f"R2 {self.read.r2:.3f}", f"{self.read.median_error:.3g} {self.unit}, the median", "".join(held)

    def show(self, console: Console) -> None:
        """Print the scores of each readout, beside the supervised decoder and chance, and of the intervals."""
        super().show(console)
        rows = [(name, f"{score.r2:.3f}", f"{score.median_error:.3g}") for name, score in self.scores.items()]
        read, decoder, unit = self.read, self.decoder, self.unit or "its unit"
        if decoder:
            rows.append((f"Bayesian decoder, {decoder.window:g} s", f"{decoder.r2:.3f}", f"{decoder.median_error:.3g}"))
        if self.control:
            rows.append(("shifted behaviour, 95th percentile", f"{self.control.shifted_95:.3f}", ""))
        if rows:
            print_table(console, ["readout", ">R2", f">median error, {unit}"], rows)
        if self.control:
            best = f"of the best of the fast readouts (R2 {self.control.r2:.3f})"
            print_lines(console, f"p {self.control.p:.2g} against {self.control.shifts} shifts, {best}")
        if read and decoder and (decoder.r2 < read.r2) != (decoder.median_error > read.median_error):
            print_lines(console, "R2 and median error disagree: R2 counts few large errors most, the median not at all")
        if self.value_range and (one := self.distribution):
            levels = [
                (
                    f"{i.level:.0%}",
                    f"{i.coverage:.1%} +- {i.coverage_se:.1%}",
                    f"{i.width:.3g} +- {i.width_se:.2g}",
                    f"{i.score:.4g} +- {i.score_se:.2g}",
                    f"{min(i.constant_score, i.same_coverage_score):.4g}",
                )
                for i in self.intervals
            ]
            heads = ["interval", ">covers", f">width, {unit}", ">Winkler score", ">best at one width"]
            print_table(console, heads, levels)
            low, high = self.value_range
            rank = f"{one.width_rank:.2f} +- {one.width_rank_se:.2f}"
            print_lines(
                console,
                "Winkler score: the width, and more for values outside; the lower the better",
                f"{self.name} goes from {low:.3g} to {high:.3g} {self.unit}".rstrip(),
                f"CRPS {one.crps:.4g} +- {one.crps_se:.2g} {self.unit}".rstrip(),
                f"rank correlation of width and error {rank} (0: widths tell nothing of the error)",
            )
        off = [
            f"intervals hold {third.coverage:.1%} +- {third.coverage_se:.1%} in bins with {third.where(self.unit)}"
            for third in self.thirds
            if third.outside
        ]
        end = "where they hold more than their level they are wider than needed, where less too narrow"
        print_lines(console, *off, end if off else "")


@dataclass(frozen=True)
class ClassScore:
    """Accuracy on the test blocks: share of bins read right, its mean over classes, and nats a bin."""

    accuracy: float
    balanced_accuracy: float
    log_loss: float


@dataclass(frozen=True)
class ClassControl(Surrogates):
    """Balanced accuracy of the linear classifier of surrogates, and `accuracy` of the classes as they were."""

    accuracy: float


@dataclass(frozen=True)
class ClassDecoder:
    """The supervised baseline, a Bayesian decoder of `window` s of counts, by balanced accuracy."""

    balanced_accuracy: float
    window: float


@dataclass(frozen=True)
class Calibration:
    """Bins and classes whose probability was about the same, all classes together.

    probability: mean, as it was read; share: of these, how many were the class, with its standard error by block
    bootstrap; pairs: their number
    """

    probability: float
    share: float
    share_se: float
    pairs: int


@dataclass(frozen=True, repr=False)
class ClassReport(Judged):
    """Accuracy and calibration of the readout of a variable that has classes.

    As `Judged` and `BehaviorReport`, and
    classes: the labels; recall: of each the share of its bins that is read right
    chance: balanced accuracy of a guess; accuracy_se: of read.accuracy, by block bootstrap
    calibration: by steps of probability; calibration_error: mean distance of probability and share, by pairs
    """

    classes: list[str]
    chance: float
    accuracy_se: float = math.nan
    recall: dict[str, float] = field(default_factory=dict)
    control: ClassControl | None = None
    decoder: ClassDecoder | None = None
    calibration: tuple[Calibration, ...] = ()
    calibration_error: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as JSON holds them; keys as of `BehaviorReport` where both have them."""
        same = asdict(self) | {"unit": "", "period": None, "circular": False, "categories": True, "intervals": []}
        return {**same, "calibrated": bool(self.calibration)}

    @property
    def kind(self) -> str:
        """The kind of the variable, in words that follow its path."""
        return f", {len(self.classes)} classes"

    def row(self) -> tuple[str, str, str]:
        """Accuracy, error and coverage, in words."""
        return f"balanced {self.read.balanced_accuracy:.1%}, chance {self.chance:.1%}" if self.read else "", "", ""

    def show(self, console: Console) -> None:
        """Print the scores of each classifier, beside the supervised decoder and chance, and the calibration."""
        super().show(console)
        rows = [
            (name, f"{score.balanced_accuracy:.1%}", f"{score.accuracy:.1%}", f"{score.log_loss:.3g}")
            for name, score in self.scores.items()
        ]
        if self.decoder:
            decoder = f"Bayesian decoder, {self.decoder.window:g} s"
            rows.append((decoder, f"{self.decoder.balanced_accuracy:.1%}", "", ""))
        rows.append(("a guess", f"{self.chance:.1%}", "", ""))
        if self.control:
            rows.append(("shifted or shuffled, 95th percentile", f"{self.control.shifted_95:.1%}", "", ""))
        print_table(console, ["readout", ">balanced accuracy", ">accuracy", ">nats a bin"], rows)
        if self.control:
            print_lines(console, f"p {self.control.p:.2g} against {self.control.shifts} surrogates")
            print_lines(console, "read right: " + ", ".join(f"{name} {one:.0%}" for name, one in self.recall.items()))
            steps = [
                (f"{i.probability:.1%}", f"{i.share:.1%} +- {i.share_se:.1%}", f"{i.pairs:,}") for i in self.calibration
            ]
            print_table(console, ["probability", ">share", ">bins and classes"], steps)


def read_classes(bins: Bins, counts: xr.DataArray | None, shifts: int) -> tuple[ClassReport, dict[str, Any]]:
    """Read the variable of `bins`, judge it, and give what is added to the states.

    Without counts (time, unit) the supervised decoder is left out. The control has `shifts` surrogates.
    """
    variable, rows, new = bins.variable, np.flatnonzero(bins.judged), np.flatnonzero(~bins.tested)
    probability = np.full((bins.truth.size, variable.kinds), np.nan)
    by_kind: dict[str, Array] = {}
    folds = cross(rows, bins.fold) if bins.folds > 1 else ()
    for train, test in (*folds, (rows, new)):  # bins of no fold are read by what is fitted to all
        read, chosen = _read_kinds(bins, train, test)
        probability[test] = read[chosen]
        for kind, values in read.items():
            by_kind.setdefault(kind, np.full(probability.shape, np.nan))[test] = values
    tested, present = bins.tested, np.unique(bins.truth[rows]).astype(int)
    truth, told, block = bins.truth[tested].astype(int), probability[tested], bins.block[tested]
    judged: dict[str, Any] = {"readouts": {}, "read": None}
    if tested.any():
        if counts is not None:
            decoded, window = decode_counts(bins, counts)
            judged["decoder"] = ClassDecoder(float(balanced_accuracy_score(truth, decoded.round())), window)
        recall = recall_score(truth, told.argmax(1), labels=present, average=None)
        calibration = _steps(truth, told, block)
        off = [abs(one.share - one.probability) for one in calibration]
        judged |= {
            "readouts": {kind: _class_score(truth, values[tested]) for kind, values in by_kind.items()},
            "read": _class_score(truth, told),
            "control": _class_control(bins, shifts),
            "recall": {variable.label(value): float(one) for value, one in zip(present, recall, strict=True)},
            "accuracy_se": block_means(block, right=told.argmax(1) == truth)["right_se"],
            "calibration": calibration,
            "calibration_error": float(np.average(off, weights=[one.pairs for one in calibration])),
        }
    report = ClassReport(
        **bins.about(),
        classes=[variable.label(value) for value in range(variable.kinds)],
        chosen=chosen,
        chance=1 / present.size,
        **judged,
    )
    return report, _class_variables(bins, probability)


def classifiers(bins: int) -> dict[str, list[Any]]:
    """Classifiers by kind, for so many fitted bins."""
    return {
        "linear": [LinearDiscriminantAnalysis(solver="lsqr", shrinkage=share) for share in SHRINKAGES],
        "neighbours": [KNeighborsClassifier(min(k, max(bins // 4, 1))) for k in NEIGHBOURS],
    }


def _predict(bins: Bins, classifier: Any, y: Array, train: Array, new: Array) -> Array:
    """Probabilities (bin, class) of the bins `new`, from y (train,) in the bins `train`."""
    result = np.zeros((new.size, bins.variable.kinds))
    seen = np.unique(y).astype(int)
    if seen.size == 1:
        result[:, seen] = 1.0
    elif new.size:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Only one sample")  # of a rare class
            result[:, seen] = classifier.fit(bins.states[train], y).predict_proba(bins.states[new])
    return result


def _tempered(probability: Array, temperature: float) -> Array:
    raised = np.clip(probability, _LEAST, None) ** (1 / temperature)
    return raised / raised.sum(1, keepdims=True)


def _temperature(probability: Array, y: Array) -> tuple[float, float]:
    """The least log loss of probabilities (bin, class), and the temperature that they are then raised to."""
    least = minimize_scalar(
        lambda power: _log_loss(_tempered(probability, float(np.exp(power))), y), bounds=(-1, 3), method="bounded"
    )
    return least.fun, float(np.exp(least.x))


def _log_loss(probability: Array, y: Array) -> float:
    return float(-np.log(probability[np.arange(y.size), y.astype(int)]).mean())


def _read_kinds(bins: Bins, rows: Array, new: Array) -> tuple[dict[str, Array], str]:
    """Probabilities (bin, class) of the bins `new` by the best candidate of each kind, fitted to `rows`, and the best
    kind."""
    some, rows = thin(rows, _MOST_CHOSEN), thin(rows, MOST_FITTED)
    inner, y = bins.fold[some], bins.truth[some]
    if np.unique(inner).size < 2:
        inner = 2 * np.arange(some.size) // some.size
    read, losses = {}, {}
    for kind, several in classifiers(some.size // 2).items():
        found = []
        for i, classifier in enumerate(several):
            held = np.zeros((some.size, bins.variable.kinds))
            for train, test in cross(np.arange(some.size), inner):
                held[test] = _predict(bins, classifier, y[train], some[train], some[test])
            loss, temperature = _temperature(held, y)
            found.append((loss, i, temperature))
        losses[kind], i, temperature = min(found)
        classifier = classifiers(rows.size)[kind][i]
        read[kind] = _tempered(_predict(bins, classifier, bins.truth[rows], rows, new), temperature)
    return read, min(losses, key=losses.__getitem__)


def _class_score(truth: Array, probability: Array) -> ClassScore:
    read = probability.argmax(1)
    return ClassScore(
        float((read == truth).mean()), float(balanced_accuracy_score(truth, read)), _log_loss(probability, truth)
    )


def _steps(truth: Array, probability: Array, block: Array) -> tuple[Calibration, ...]:
    """Probabilities (bin, class), by steps, and how often the class was there."""
    right = truth[:, None] == np.arange(probability.shape[1])
    blocks = np.broadcast_to(block[:, None], right.shape)
    step = np.minimum((probability * STEPS).astype(int), STEPS - 1)
    return tuple(
        Calibration(
            probability=float(probability[pairs].mean()),
            **block_means(blocks[pairs], share=right[pairs]),
            pairs=int(pairs.sum()),
        )
        for pairs in (step == one for one in np.unique(step))
    )


def _class_control(bins: Bins, shifts: int) -> ClassControl:
    """Compare the linear classifier of the classes with that of their surrogates."""
    rows, values = bins.surrogates(shifts)
    read = np.full(values.shape, np.nan)
    linear = classifiers(rows.size)["linear"][0]
    for train, test in cross(np.arange(rows.size), bins.fold[rows]):
        for i in range(values.shape[1]):
            read[test, i] = _predict(bins, linear, values[train, i], rows[train], rows[test]).argmax(1)
    scores = np.array([balanced_accuracy_score(one, got) for one, got in zip(values.T, read.T, strict=True)])
    return ClassControl(*against_surrogates(scores))


def _class_variables(bins: Bins, probability: Array) -> dict[str, Any]:
    """The variables that are added to the states."""
    variable, name = bins.variable, bins.variable.name
    classes = np.asarray(variable.classes)
    kind, none = ("U", "") if classes.dtype.kind == "U" else (np.float32, np.nan)
    labels = np.append(classes, none).astype(kind)  # the last one stands for none
    about = {"path": variable.path} | ({"unit": variable.unit} if variable.unit else {})
    return {
        f"{name}_class": (f"{name}_class", classes, about),
        f"{name}_probability": (
            ("time", f"{name}_class"),
            probability.astype(np.float32),
            {**about, "time_index": "t|t"},
        ),
        f"{name}_read": ("time", labels[probability.argmax(1)], {**about, "long_name": "the most probable class"}),
        f"{name}_true": ("time", labels[np.nan_to_num(bins.truth, nan=-1).astype(int)], about),
        **bins.fold_variable(),
    }


AnyReport = BehaviorReport | ClassReport


@dataclass(frozen=True, eq=False, repr=False)
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

    def __repr__(self) -> str:
        return "\n\n".join(map(repr, self.reports))

    def _repr_html_(self) -> str:
        """For a notebook: a row for each variable."""
        heads = ("behaviour", "read by", "accuracy", "error", "95 % intervals hold", "p", "")
        rows = (
            (one.name, one.chosen, *one.row(), f"{one.control.p:.2g}" if one.control else "", one.note)
            for one in self.reports
        )
        return table("behaviour, read from states", rows, heads)


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
    if isinstance(behavior, Behavior):
        behavior = [behavior]
    if isinstance(behavior, Mapping):
        behavior = as_behavior(behavior)
    if isinstance(behavior, str) or not all(isinstance(one, Behavior) for one in behavior):
        raise InputError("behavior holds names; give the variables, as choose_behavior(session, names) makes them")
    if shifts < 20 or not (min_speed >= 0 and guard >= 0):
        raise InputError(
            f"{shifts} shifts, speed {min_speed:g}, guard {guard:g} s: give 20 shifts or more, and no minus"
        )
    if counts is not None and is_signal(counts):  # which has no spikes to decode
        counts = None
    segment = latents["segment"].values
    added: dict[str, Any] = {}
    reports: list[AnyReport] = []
    readers: dict[str, Reader] = {}
    with one_thread(every_library=True):
        for bins in bins_of(latents, behavior, min_speed, guard):
            if bins.variable.categories:
                classes, variables = read_classes(bins, counts, shifts)
                reports.append(classes)
            else:
                reading = VariableReading(bins, readouts, ci)
                if reading.reader is not None:
                    readers[bins.variable.name] = reading.reader
                ordered = {
                    SPIKES: _spikes(latents, counts),
                    SPEED: speed(bins.variable, bins.truth, segment, bins.size),
                }
                reports.append(_report(reading, counts, shifts, ordered))
                variables = reading.variables()
            added |= variables
    result = latents.assign(added)
    result.attrs["behavior"] = json.dumps([report.to_dict() for report in reports])
    return Reading(result, tuple(reports), readers)


def _spikes(latents: xr.Dataset, counts: xr.DataArray | None) -> Array:
    """Spikes (time,) of all units in the second that ends with each bin; NaN without counts."""
    if counts is None:
        return np.full(latents.sizes["time"], np.nan)
    k = frame_bins(1.0, float(latents.attrs["bin_size"]))
    total = counts.values.sum(1, dtype=np.float32)[:, None]
    return sum_frames(total, latents["segment"].values, k)[:, 0].astype(float)


def _report(
    reading: VariableReading, counts: xr.DataArray | None, shifts: int, ordered: Mapping[str, Array]
) -> BehaviorReport:
    bins, variable, rows = reading.bins, reading.bins.variable, np.flatnonzero(reading.bins.tested)
    few = f"too few blocks of time that training never saw to calibrate ({bins.blocks}, where {LEAST_FOLDS} are needed)"
    note = "" if bins.calibrated else f"{few}: no intervals" if bins.held_out else "no intervals"

    def scored(values: Array) -> ReadoutScore:
        return ReadoutScore(*score(variable, bins.truth[rows], values[rows]))

    decoder = None
    if counts is not None and rows.size:
        decoded, window = decode_counts(bins, counts)
        decoder = Decoder(*score(variable, bins.truth[rows], decoded), window=window)
    return BehaviorReport(
        **bins.about(note),
        unit=variable.unit,
        period=variable.period,
        calibrated=bins.calibrated,
        readouts={name: scored(values) for name, values in reading.by_readout.items()} if rows.size else {},
        chosen=reading.chosen,
        chosen_in=reading.chosen_of.count(reading.chosen) / len(reading.chosen_of) if rows.size else 1.0,
        follow_state=float(np.mean(reading.local_of)) if reading.local_of else 0.0,
        read=scored(reading.mean) if rows.size else None,
        control=_control(reading, shifts) if rows.size else None,
        decoder=decoder,
        **reading.scores(ordered),
    )


def _control(reading: VariableReading, shifts: int) -> Control:
    """Compare the best fast readout of the behaviour with that of each of its surrogates."""
    bins, fast = reading.bins, [one for one in reading.candidates if one[0].fast]
    rows, shifted = bins.surrogates(shifts)
    read = np.full((len(fast), *shifted.shape), np.nan)
    for train, test in cross(np.arange(rows.size), bins.fold[rows]):
        read[:, test] = reading.predict(fast, shifted[train], rows[train], rows[test])
    best = np.max([r2(bins.variable, shifted, values) for values in read], axis=0)
    return Control(*against_surrogates(best))
