"""Readout of classes from states: the probability of each class in each bin, its calibration, and a control.

As in `analysis.readout`, the states are fixed, and each fold of blocks or of whole trials is read by classifiers that
saw none of it. A classifier, and the temperature that its probabilities are raised to (Guo et al. 2017, ICML), are
chosen by log loss on inner folds of the others.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console
from scipy.optimize import minimize_scalar
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.neighbors import KNeighborsClassifier

from ldmfilter.analysis.bayesian_decoder import decode_counts
from ldmfilter.analysis.behavior import cross, thin
from ldmfilter.analysis.blocks import Bins, Judged, Surrogates, against_surrogates
from ldmfilter.analysis.intervals import MOST_FITTED, NEIGHBOURS, block_means
from ldmfilter.data.tables import Array
from ldmfilter.text import print_lines, print_table

SHRINKAGES = (0.1, 0.01)  # of the covariance within classes: candidates, the first is the control's
STEPS = 10  # of probability, in which calibration is judged
_LEAST = 1e-3  # probability at least, before the temperature: neighbours give 0
_MOST_CHOSEN = 5_000  # bins on which a classifier is chosen


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
        same: dict[str, Any] = {"unit": "", "period": None, "circular": False, "categories": True, "intervals": []}
        return {**asdict(self), **same, "calibrated": bool(self.calibration)}

    @property
    def kind(self) -> str:
        """What is special of the variable, in words that follow its path."""
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
        others = {"a guess": self.chance}
        if self.decoder:
            others = {f"Bayesian decoder, {self.decoder.window:g} s": self.decoder.balanced_accuracy} | others
        if self.control:
            others["shifted or shuffled, 95th percentile"] = self.control.shifted_95
        rows += [(name, f"{accuracy:.1%}", "", "") for name, accuracy in others.items()]
        print_table(console, ["readout", ">balanced accuracy", ">accuracy", ">nats a bin"], rows)
        if self.control:
            print_lines(console, f"p {self.control.p:.2g} against {self.control.shifts} surrogates")
        if self.recall:
            print_lines(console, "read right: " + ", ".join(f"{name} {one:.0%}" for name, one in self.recall.items()))
        if self.calibration:
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
    # Bins of no fold are read by what is fitted to all.
    rest, chosen = _read(bins, rows, new)
    probability[new] = rest[chosen]
    for train, test in cross(rows, bins.fold[rows]) if bins.folds > 1 else ():
        read, best = _read(bins, train, test)
        probability[test] = read[best]
        for kind, values in read.items():
            by_kind.setdefault(kind, np.full(probability.shape, np.nan))[test] = values
    tested, present = bins.tested, np.unique(bins.truth[rows]).astype(int)
    truth, told, block = bins.truth[tested].astype(int), probability[tested], bins.block[tested]
    seen = "" if bins.held_out or bins.note else "training saw all of the time: the readout is not judged on new time"
    judged: dict[str, Any] = {}
    if tested.any():
        right = told.argmax(1) == truth
        recall = recall_score(truth, told.argmax(1), labels=present, average=None)
        calibration = _calibration(truth, told, block)
        off = [abs(one.share - one.probability) for one in calibration]
        judged = {
            "control": _control(bins, shifts),
            "decoder": None if counts is None else _decoder(bins, counts),
            "recall": {variable.label(value): float(one) for value, one in zip(present, recall, strict=True)},
            "accuracy_se": block_means(block, right=right)["right_se"],
            "calibration": calibration,
            "calibration_error": float(np.average(off, weights=[one.pairs for one in calibration])),
        }
    report = ClassReport(
        **bins.about(seen),
        classes=[variable.label(value) for value in range(variable.kinds)],
        readouts={kind: _score(truth, values[tested]) for kind, values in by_kind.items()},
        chosen=chosen,
        read=_score(truth, told) if tested.any() else None,
        chance=1 / present.size,
        **judged,
    )
    return report, _variables(bins, probability)


def candidates(bins: int) -> dict[str, list[Any]]:
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
        result[:, seen] = classifier.fit(bins.states[train], y).predict_proba(bins.states[new])
    return result


def _tempered(probability: Array, temperature: float) -> Array:
    raised = np.clip(probability, _LEAST, None) ** (1 / temperature)
    return raised / raised.sum(1, keepdims=True)


def _loss(probability: Array, y: Array) -> float:
    return float(-np.log(probability[np.arange(y.size), y.astype(int)]).mean())


def _read(bins: Bins, rows: Array, new: Array) -> tuple[dict[str, Array], str]:
    """Probabilities (bin, class) of the bins `new` by the best candidate of each kind, fitted to `rows`, and the best
    kind."""
    some, rows = thin(rows, _MOST_CHOSEN), thin(rows, MOST_FITTED)
    inner, y = bins.fold[some], bins.truth[some]
    if np.unique(inner).size < 2:
        inner = 2 * np.arange(some.size) // some.size
    best: dict[str, tuple[float, int, float]] = {}
    for kind, classifiers in candidates(some.size // 2).items():
        found = []
        for i, classifier in enumerate(classifiers):
            held = np.zeros((some.size, bins.variable.kinds))
            for train, test in cross(np.arange(some.size), inner):
                held[test] = _predict(bins, classifier, y[train], some[train], some[test])

            def loss(power: float, held: Array = held) -> float:
                return _loss(_tempered(held, float(np.exp(power))), y)

            least = minimize_scalar(loss, bounds=(-1, 3), method="bounded")
            found.append((least.fun, i, float(np.exp(least.x))))
        best[kind] = min(found)
    fitted = candidates(rows.size)
    read = {
        kind: _tempered(_predict(bins, fitted[kind][i], bins.truth[rows], rows, new), temperature)
        for kind, (_, i, temperature) in best.items()
    }
    return read, min(best, key=lambda kind: best[kind][0])


def _score(truth: Array, probability: Array) -> ClassScore:
    read = probability.argmax(1)
    return ClassScore(
        float((read == truth).mean()), float(balanced_accuracy_score(truth, read)), _loss(probability, truth)
    )


def _calibration(truth: Array, probability: Array, block: Array) -> tuple[Calibration, ...]:
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


def _control(bins: Bins, shifts: int) -> ClassControl:
    """Compare the linear classifier of the classes with that of their surrogates."""
    rows, values = bins.surrogates(shifts)
    read = np.full(values.shape, np.nan)
    linear = candidates(rows.size)["linear"][0]
    for train, test in cross(np.arange(rows.size), bins.fold[rows]):
        for i in range(values.shape[1]):
            read[test, i] = _predict(bins, linear, values[train, i], rows[train], rows[test]).argmax(1)
    scores = np.array([balanced_accuracy_score(one, got) for one, got in zip(values.T, read.T, strict=True)])
    return ClassControl(accuracy=float(scores[0]), **against_surrogates(scores))


def _decoder(bins: Bins, counts: xr.DataArray) -> ClassDecoder:
    decoded, window = decode_counts(bins, counts)
    return ClassDecoder(float(balanced_accuracy_score(bins.truth[bins.tested], decoded.round())), window)


def _variables(bins: Bins, probability: Array) -> dict[str, Any]:
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
