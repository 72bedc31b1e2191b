"""Do fits agree? How well an affine map takes the states of one run to those of another."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmfilter.data.counts import check_counts
from ldmfilter.data.windows import outside
from ldmfilter.errors import InputError
from ldmfilter.filter.runs import Run

GUARD = 2.0  # s, between what a run was trained on and what is judged
FOLDS = 5
SHIFTS = 20  # circular shifts of the shuffled control

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Pairwise agreement of runs of one session.

    Attributes:
        runs: (run,) their folders.
        r2: (run, run) R2 of the best affine map from the states of the run of the row to those of the run of the
            column, over all dimensions together, on held-out folds of time; 1 on the diagonal.
        control: (run, run) its 95th percentile where the states of the column are shifted in time.
        bins: number of bins that were judged.
        held_out: whether none of the runs was trained on these bins.
    """

    runs: tuple[str, ...]
    r2: Floats
    control: Floats
    bins: int
    held_out: bool

    @property
    def median(self) -> float:
        """Median R2 over all ordered pairs."""
        return float(np.median(self.r2[self._pairs]))

    @property
    def chance(self) -> float:
        """The highest control of any pair."""
        return float(self.control[self._pairs].max())

    @property
    def _pairs(self) -> NDArray[np.bool_]:
        return ~np.eye(len(self.runs), dtype=bool)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as JSON takes them."""
        return {
            "runs": list(self.runs),
            "r2": self.r2.tolist(),
            "control": self.control.tolist(),
            "median": self.median,
            "chance": self.chance,
            "bins": self.bins,
            "held_out": self.held_out,
        }


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare runs of one session, on time that none of them was trained on.

    With a Gaussian predictor the latents are determined up to an affine map (method.md, section 5): the R2 of the best
    one is to runs what the consistency of embeddings is to CEBRA (Schneider, Lee & Mathis 2023).

    Raises:
        InputError: fewer than two runs, of different sessions or bins, or without common time.
    """
    if len(runs) < 2:
        raise InputError("a comparison needs two runs or more; name another run folder")
    for run in runs[1:]:
        if run.checksum != runs[0].checksum:
            raise InputError(
                f"{run.folder}: is a run of {run.session_path}, {runs[0].folder} one of {runs[0].session_path}; "
                "compare runs of one session"
            )
        if run.config.data.bin_size != runs[0].config.data.bin_size:
            raise InputError(
                f"{run.folder}: has bins of {run.config.data.bin_size:g} s, {runs[0].folder} of "
                f"{runs[0].config.data.bin_size:g} s; compare runs with the same bins"
            )
    decoded = []
    for run in runs:
        _, counts = run.recording()
        decoded.append(run.model().decode(check_counts(counts))[["filtered_mean", "trained", "observed"]])
    bin_size = runs[0].config.data.bin_size
    # Times of the same bin may differ by a rounding error.
    numbers = [np.round((d["time"].to_numpy() - decoded[0]["time"].item(0)) / (0.25 * bin_size)) for d in decoded]
    common = numbers[0]
    for number in numbers[1:]:
        common = np.intersect1d(common, number)
    if common.size < 10 * FOLDS:
        raise InputError(
            f"{runs[0].folder}: {common.size} bins in common with the other runs; compare runs of one span"
        )
    rows = [d.isel(time=np.searchsorted(n, common)) for d, n in zip(decoded, numbers, strict=True)]
    time = rows[0]["time"].to_numpy()
    seen = np.all([d["observed"].to_numpy() for d in rows], axis=0)
    free = seen & np.all([outside(time, run.model().trained_spans_, GUARD) for run in runs], axis=0)
    held_out = bool(free.sum() >= 10 * FOLDS)
    judged = free if held_out else seen
    fold = _folds(time[judged], bin_size)
    states = [d["filtered_mean"].to_numpy().astype(np.float64)[judged] for d in rows]
    r2, control = np.eye(len(runs)), np.zeros((len(runs), len(runs)))
    for i, j in itertools.permutations(range(len(runs)), 2):
        r2[i, j], control[i, j] = agreement(states[i], states[j], fold)
    return Comparison(tuple(str(Path(run.folder)) for run in runs), r2, control, int(judged.sum()), held_out)


def agreement(one: Floats, other: Floats, fold: NDArray[np.integer]) -> tuple[float, float]:
    """Cross-validated R2 of the best affine map from `one` (time, state) to `other` (time, state_2), and the 95th
    percentile of the same for circular shifts of `other`."""
    shifts = np.linspace(0, len(one), SHIFTS + 2).astype(int)[1:-1]
    design = np.column_stack([one, np.ones(len(one))])
    targets = np.stack([other, *(np.roll(other, shift, axis=0) for shift in shifts)])  # (shift, time, state_2)
    residual, total = np.zeros(len(targets)), np.zeros(len(targets))
    for number in np.unique(fold):
        test = fold == number
        solve = np.linalg.pinv(design[~test])
        for i, target in enumerate(targets):
            residual[i] += ((target[test] - design[test] @ (solve @ target[~test])) ** 2).sum()
            total[i] += ((target[test] - target[~test].mean(0)) ** 2).sum()
    r2 = 1 - residual / np.maximum(total, np.finfo(float).tiny)
    return float(r2[0]), float(np.quantile(r2[1:], 0.95))


def _folds(time: Floats, bin_size: float) -> NDArray[np.integer]:
    """(time,) the fold of each bin: blocks of time dealt out in turn; a long stretch without a gap is cut first."""
    block: NDArray[np.integer] = np.cumsum(np.diff(time, prepend=time[0]) > 1.5 * bin_size)
    if block[-1] + 1 < FOLDS:
        block = np.arange(len(time)) * FOLDS // len(time)
    return block % FOLDS
