"""Readout of classes from states: the probability of each class in each bin, its calibration, and a control.

As in `analysis.readout`, the states are fixed, and each fold of blocks or of whole trials is read by classifiers that
saw none of it. A classifier, and the temperature that its probabilities are raised to (Guo et al. 2017, ICML), are
chosen by log loss on inner folds of the others.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.optimize import minimize_scalar
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import balanced_accuracy_score, recall_score
from sklearn.model_selection import LeaveOneGroupOut
from sklearn.neighbors import KNeighborsClassifier

from ldmfilter.analysis.bayesian_decoder import decode_counts
from ldmfilter.analysis.blocks import MOST_CONTROL, Bins, Judged, against_surrogates
from ldmfilter.analysis.calibration import block_means
from ldmfilter.analysis.variable import thin

NEIGHBOURS = (10, 25, 50)  # candidates
SHRINKAGES = (0.1, 0.01)  # of the covariance within classes: candidates, the first is the control's
STEPS = 10  # of probability, in which calibration is judged
_LEAST = 1e-3  # probability at least, before the temperature: neighbours give 0
_MOST_CHOSEN = 5_000  # bins on which a classifier is chosen
_MOST_FITTED = 20_000


@dataclass(frozen=True)
class ClassScore:
    """Accuracy on the test blocks: share of bins read right, its mean over classes, and nats a bin."""

    accuracy: float
    balanced_accuracy: float
    log_loss: float


@dataclass(frozen=True)
class ClassControl:
    """Balanced accuracy of the linear classifier: `accuracy` of the classes as they were, shifted_* when they are
    shifted in a circle among the judged bins, or shuffled among trials; p: share of these, and the classes
    themselves, that are read as well."""

    shifts: int
    accuracy: float
    shifted_mean: float
    shifted_95: float
    p: float


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
    readouts: dict[str, ClassScore]
    chosen: str
    read: ClassScore | None
    accuracy_se: float
    chance: float
    recall: dict[str, float]
    control: ClassControl | None
    decoder: ClassDecoder | None
    calibration: tuple[Calibration, ...]
    calibration_error: float
    note: str

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as JSON holds them; keys as of `BehaviorReport` where both have them."""
        same: dict[str, Any] = {"unit": "", "period": None, "circular": False, "categories": True, "intervals": []}
        return {**asdict(self), **same, "calibrated": bool(self.calibration)}


def read_classes(bins: Bins, counts: xr.DataArray | None, shifts: int) -> tuple[ClassReport, dict[str, Any]]:
    """Read the variable of `bins`, judge it, and give what is added to the states.

    Without counts (time, unit) the supervised decoder is left out. The control has `shifts` surrogates.
    """
    assert bins.variable.classes is not None
    number, n = bins.variable.classes.size, bins.truth.size
    rows = np.flatnonzero(bins.judged)
    new = np.flatnonzero(~bins.tested)
    probability = np.full((n, number), np.nan)
    by_kind: dict[str, np.ndarray] = {}
    # Bins of no fold are read by what is fitted to all.
    rest, chosen = _read(bins, rows, new, number)
    probability[new] = rest[chosen]
    if bins.folds > 1:
        for train, test in LeaveOneGroupOut().split(rows, groups=bins.fold[rows]):
            read, best = _read(bins, rows[train], rows[test], number)
            probability[rows[test]] = read[best]
            for kind, values in read.items():
                by_kind.setdefault(kind, np.full((n, number), np.nan))[rows[test]] = values
    return _report(bins, probability, by_kind, chosen, counts, shifts), _variables(bins, probability)


def candidates(bins: int) -> dict[tuple[str, int], Any]:
    """Classifiers by kind and number, for so many fitted bins."""
    made: dict[tuple[str, int], Any] = {
        ("linear", i): LinearDiscriminantAnalysis(solver="lsqr", shrinkage=s) for i, s in enumerate(SHRINKAGES)
    }
    made |= {("neighbours", k): KNeighborsClassifier(min(k, max(bins // 4, 1))) for k in NEIGHBOURS}
    return made


def _predict(bins: Bins, classifier: Any, y: np.ndarray, train: np.ndarray, new: np.ndarray, number: int) -> np.ndarray:
    """Probabilities (bin, class) of the bins `new`, from y (train,) in the bins `train`."""
    result = np.zeros((new.size, number))
    seen = np.unique(y).astype(int)
    if seen.size == 1:
        result[:, seen] = 1.0
    elif new.size:
        result[:, seen] = classifier.fit(bins.states[train], y).predict_proba(bins.states[new])
    return result


def _tempered(probability: np.ndarray, temperature: float) -> np.ndarray:
    raised = np.clip(probability, _LEAST, None) ** (1 / temperature)
    return raised / raised.sum(1, keepdims=True)


def _loss(probability: np.ndarray, y: np.ndarray) -> float:
    return float(-np.log(probability[np.arange(y.size), y.astype(int)]).mean())


def _read(bins: Bins, rows: np.ndarray, new: np.ndarray, number: int) -> tuple[dict[str, np.ndarray], str]:
    """Probabilities (bin, class) of the bins `new` by the best candidate of each kind, fitted to `rows`, and the best
    kind."""
    some = thin(rows, _MOST_CHOSEN)
    inner = bins.fold[some]
    if np.unique(inner).size < 2:
        inner = 2 * np.arange(some.size) // some.size
    y = bins.truth[some]
    best: dict[str, tuple[float, tuple[str, int], float]] = {}
    for key, classifier in candidates(some.size // 2).items():
        held = np.zeros((some.size, number))
        for train, test in LeaveOneGroupOut().split(some, groups=inner):
            held[test] = _predict(bins, classifier, y[train], some[train], some[test], number)

        def loss(power: float, held: np.ndarray = held) -> float:
            return _loss(_tempered(held, float(np.exp(power))), y)

        found = minimize_scalar(loss, bounds=(-1, 3), method="bounded")
        if key[0] not in best or found.fun < best[key[0]][0]:
            best[key[0]] = (found.fun, key, float(np.exp(found.x)))
    all_rows = thin(rows, _MOST_FITTED)
    fitted = candidates(all_rows.size)
    read = {
        kind: _tempered(_predict(bins, fitted[key], bins.truth[all_rows], all_rows, new, number), temperature)
        for kind, (_, key, temperature) in best.items()
    }
    return read, min(best, key=lambda kind: best[kind][0])


def _score(truth: np.ndarray, probability: np.ndarray) -> ClassScore:
    read = probability.argmax(1)
    return ClassScore(
        float((read == truth).mean()), float(balanced_accuracy_score(truth, read)), _loss(probability, truth)
    )


def _report(
    bins: Bins,
    probability: np.ndarray,
    by_kind: dict[str, np.ndarray],
    chosen: str,
    counts: xr.DataArray | None,
    shifts: int,
) -> ClassReport:
    variable, rows = bins.variable, np.flatnonzero(bins.tested)
    truth = bins.truth[rows].astype(int)
    present = np.unique(bins.truth[bins.judged]).astype(int)
    notes = [note for note in (variable.note, bins.note) if note]
    if not bins.held_out and not bins.note:
        notes.append("training saw all of the time: the readout is not judged on new time")
    about: dict[str, Any] = {
        **bins.about(),
        "classes": [variable.label(value) for value in range(probability.shape[1])],
        "chosen": chosen,
        "chance": 1 / present.size,
        "note": "; ".join(notes),
    }
    if not rows.size:
        about |= {"read": None, "control": None, "decoder": None, "readouts": {}, "recall": {}, "calibration": ()}
        return ClassReport(**about, accuracy_se=float("nan"), calibration_error=0.0)
    read = probability[rows].argmax(1)
    recall = recall_score(truth, read, labels=present, average=None)
    calibration = _calibration(truth, probability[rows], bins.block[rows])
    off = np.average([abs(one.share - one.probability) for one in calibration], weights=[x.pairs for x in calibration])
    return ClassReport(
        **about,
        read=_score(truth, probability[rows]),
        control=_control(bins, shifts),
        decoder=None if counts is None else _decoder(bins, counts, rows),
        readouts={kind: _score(truth, values[rows]) for kind, values in by_kind.items()},
        recall={variable.label(value): float(one) for value, one in zip(present, recall, strict=True)},
        accuracy_se=block_means(bins.block[rows], right=read == truth)["right_se"],
        calibration=calibration,
        calibration_error=float(off),
    )


def _calibration(truth: np.ndarray, probability: np.ndarray, block: np.ndarray) -> tuple[Calibration, ...]:
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
    rows = thin(np.flatnonzero(bins.judged), MOST_CONTROL)
    values = bins.surrogates(rows, shifts)
    read = np.full(values.shape, np.nan)
    number = int(values.max()) + 1
    linear = candidates(rows.size)["linear", 0]
    for train, test in LeaveOneGroupOut().split(rows, groups=bins.fold[rows]):
        for i in range(values.shape[1]):
            read[test, i] = _predict(bins, linear, values[train, i], rows[train], rows[test], number).argmax(1)
    scores = np.array([balanced_accuracy_score(values[:, i], read[:, i]) for i in range(values.shape[1])])
    return ClassControl(accuracy=float(scores[0]), **against_surrogates(scores))


def _decoder(bins: Bins, counts: xr.DataArray, rows: np.ndarray) -> ClassDecoder:
    decoded, window = decode_counts(bins.variable, counts, rows, bins.truth[rows], bins.fold[rows])
    return ClassDecoder(float(balanced_accuracy_score(bins.truth[rows], decoded.round())), window)


def _variables(bins: Bins, probability: np.ndarray) -> dict[str, Any]:
    """The variables that are added to the states."""
    variable, name = bins.variable, bins.variable.name
    assert variable.classes is not None
    text = variable.classes.dtype.kind == "U"
    kind = "U" if text else np.float32
    labels = np.append(variable.classes, "" if text else np.nan)  # the last one stands for none
    true = labels[np.where(np.isfinite(bins.truth), np.nan_to_num(bins.truth), -1).astype(int)]
    read = labels[probability.argmax(1)]
    about = {"path": variable.path} | ({"unit": variable.unit} if variable.unit else {})
    filtered = {**about, "time_index": "t|t"}
    return {
        f"{name}_class": (f"{name}_class", variable.classes, about),
        f"{name}_probability": (("time", f"{name}_class"), probability.astype(np.float32), filtered),
        f"{name}_read": ("time", read.astype(kind), {**about, "long_name": "the most probable class"}),
        f"{name}_true": ("time", true.astype(kind), about),
        **bins.fold_variable(),
    }
