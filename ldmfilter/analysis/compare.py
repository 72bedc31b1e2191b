"""Agreement of fits: how well an affine map takes the states of one run to those of another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from ldmfilter.analysis.judged import GUARD
from ldmfilter.analysis.score import HIDDEN, check_same_session, common_counts, hidden_units
from ldmfilter.data.tables import Array, Floats
from ldmfilter.data.windows import outside
from ldmfilter.errors import InputError
from ldmfilter.files import AnyPath
from ldmfilter.filter.runs import Run
from ldmfilter.text import finite

FOLDS = 5
SHIFTS = 20  # circular shifts of the shuffled control
IN_TRAINING = "spikes ahead, in training"


@dataclass(frozen=True)
class Comparison:
    """Pairwise agreement of runs of one session.

    Attributes:
        runs: (run,) their folders.
        r2: (run, run) R2 of the best affine map from the states of the run of the row to those of the run of the
            column, over all dimensions together, on held-out folds of time; 1 on the diagonal.
        control: (run, run) its 95th percentile where the states of the column are shifted in time.
        predicted: name of the row of `score` that is in `bits_per_spike`; `IN_TRAINING` where no time is held out by
            all runs, or their counts differ: then that by which training chose (`filter.spikes_ahead`).
        unjudged: why hidden units could not be judged, else "".
        bits_per_spike: (run,) of a signal the share of variance; None where it could not be judged.
        bins: number of bins that were judged.
        held_out: whether none of the runs was trained on these bins.
        median: of R2 over all ordered pairs.
        chance: the highest control of any pair.
    """

    runs: tuple[str, ...]
    r2: Floats
    control: Floats
    predicted: str
    unjudged: str
    bits_per_spike: tuple[float | None, ...]
    bins: int
    held_out: bool
    median: float
    chance: float

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as JSON takes them."""
        return dict(finite(vars(self)))


def compare(runs: Sequence[Run], session: AnyPath | None = None) -> Comparison:
    """Compare runs of one session, on time that none of them was trained on. `session` is where it lies now, None for
    where it lay.

    With a Gaussian predictor the latents are determined up to an affine map (method.md, section 5): the R2 of the best
    one is to runs what the consistency of embeddings is to CEBRA (Schneider, Lee & Mathis 2023).

    Raises:
        InputError: fewer than two runs, of different sessions or bins, or without common time.
    """
    if len(runs) < 2:
        raise InputError("a comparison needs two runs or more; name another run folder")
    check_same_session(runs)
    bin_size = runs[0].config.data.bin_size
    decoded: list[xr.Dataset] = []
    models = {str(run.folder): run.model() for run in runs}
    for run in runs:
        model = models[str(run.folder)]
        latents = model.decode(run.recording(session)[1])[["filtered_mean", "observed"]]
        latents["free"] = "time", outside(latents["time"].values, model.trained_spans_, GUARD)
        if decoded:  # at the bins of the first run, whose times may differ by a rounding error
            absent = {"filtered_mean": np.nan, "observed": False, "free": False}
            latents = latents.reindex_like(
                decoded[0]["time"], method="nearest", tolerance=bin_size / 8, fill_value=absent
            )
        decoded.append(latents)
    seen, free = (np.all([one[name].values for one in decoded], axis=0) for name in ("observed", "free"))
    if seen.sum() < 10 * FOLDS:
        raise InputError(f"{runs[0].folder}: {seen.sum()} bins in common with the other runs; compare runs of one span")
    held_out = bool((seen & free).sum() >= 10 * FOLDS)
    judged = seen & free if held_out else seen
    fold = _folds(decoded[0]["time"].values[judged], bin_size)
    states = [one["filtered_mean"].values.astype(float)[judged] for one in decoded]
    r2, control = np.eye(len(runs)), np.zeros((len(runs), len(runs)))
    for i, j in itertools.permutations(range(len(runs)), 2):
        r2[i, j], control[i, j] = agreement(states[i], states[j], fold)
    others = ~np.eye(len(runs), dtype=bool)
    median, chance = float(np.median(r2[others])), float(control[others].max())
    unjudged = ""
    try:
        found = hidden_units(models, common_counts(runs, session))
        predicted, scores = HIDDEN, {name: one.value for name, one in found.items()}
    except InputError as error:
        unjudged = str(error)
        predicted, scores = IN_TRAINING, {name: one.kept_.bits_per_spike for name, one in models.items()}
    names = tuple(str(run.folder) for run in runs)
    bits = tuple(finite(scores[name]) for name in names)
    return Comparison(names, r2, control, predicted, unjudged, bits, int(judged.sum()), held_out, median, chance)


def agreement(one: Floats, other: Floats, fold: Array) -> tuple[float, float]:
    """Cross-validated R2 of the best affine map from `one` (time, state) to `other` (time, state_2), and the 95th
    percentile of the same for circular shifts of `other`."""
    shifts = np.linspace(0, len(one), SHIFTS + 2).astype(int)[:-1]
    targets = np.concatenate([np.roll(other, shift, axis=0) for shift in shifts], axis=1)

    def squares(regressor: LinearRegression | DummyRegressor) -> Floats:
        error = targets - cross_val_predict(regressor, one, targets, cv=PredefinedSplit(fold))
        return (error.reshape(len(one), len(shifts), -1) ** 2).sum((0, 2))

    residual, total = squares(LinearRegression()), squares(DummyRegressor())
    r2 = 1 - residual / np.maximum(total, np.finfo(float).tiny)
    return float(r2[0]), float(np.quantile(r2[1:], 0.95))


def _folds(time: Floats, bin_size: float) -> Array:
    """(time,) the fold of each bin: blocks of time dealt out in turn; a long stretch without a gap is cut first."""
    block: Array = np.cumsum(np.diff(time, prepend=time[0]) > 1.5 * bin_size)
    if block[-1] + 1 < FOLDS:
        block = np.arange(len(time)) * FOLDS // len(time)
    return block % FOLDS
