"""The bins in which behaviour is read and judged: blocks of time, or whole trials, dealt to folds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import xarray as xr
from sklearn.model_selection import KFold, StratifiedKFold

from ldmfilter.analysis.behavior import Behavior, align
from ldmfilter.data.tables import shorten
from ldmfilter.data.windows import outside, stretches
from ldmfilter.errors import InputError

GUARD = 2.0  # s between bins of different use: several time constants of the counts
FOLDS = 5
LEAST_FOLDS = 4  # for intervals: one judges, one calibrates, and two are needed to fit a readout and its errors
BLOCK_SECONDS = (10.0, 60.0)  # a block is a tenth of the judged time, but not shorter or longer
LEAST_BINS = 10  # a block of fewer usable bins is left out
MOST_CONTROL = 5_000  # bins of the control


def align_bins(variable: Behavior, time: np.ndarray, size: float, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Values of a variable in the bins, and "used" or the exclusion reason."""
    values, reason = align(variable, time, size)
    if (reason == "outside").all() or not np.isfinite(values).any():
        known = variable.time[np.isfinite(variable.values)]
        raise InputError(
            f"{where} does not overlap with the decoded bins: it has values from {known[0]:g} to {known[-1]:g} s, "
            f"they lie from {time[0]:g} to {time[-1]:g} s"
        )
    return values, reason


def time_blocks(latents: xr.Dataset, guard: float) -> tuple[np.ndarray, np.ndarray, bool]:
    """Cut the time that may judge into blocks.

    Returns:
        the block (time,) of each bin, -1 for none; the exclusion reason (time,), "" inside a block; and True if
        training never saw the blocks.
    """
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


def trial_blocks(
    latents: xr.Dataset, variable: Behavior, truth: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray, bool, str]:
    """Whole trials as blocks, as `time_blocks` gives them, and a note.

    Trials that training never saw are judged, where each value has enough of them; else all are. Of classes, those in
    fewer trials than there are folds are left out.
    """
    time, observed = np.asarray(latents["time"], dtype=np.float64), np.asarray(latents["observed"])
    trained = np.asarray(latents["trained"]) if "trained" in latents else np.zeros(time.size, dtype=bool)
    row = np.where(observed & np.isfinite(truth), variable.rows(time), -1)
    trials, first = np.unique(row, return_index=True)
    first = first[trials >= 0]
    trials, values = trials[trials >= 0], truth[first]
    unseen = np.isin(trials, row[trained], invert=True)
    kinds = values if variable.categories else np.zeros(values.size)
    kept, least = np.unique(kinds), 2
    if variable.categories:
        number = np.sort(np.unique(kinds, return_counts=True)[1])[::-1]
        if number.size < 2 or number[1] < 2:
            raise InputError(
                f"{where}: a value needs two trials or more to be read, and only {int((number > 1).sum())} of "
                f"{number.size} has them in the decoded time; decode more trials or choose another column"
            )
        least = min(FOLDS, int(number[1]))
        classes, count = np.unique(kinds, return_counts=True)
        kept = classes[count >= least]
    in_kept = np.isin(kinds, kept)
    enough = all((unseen & (kinds == kind)).sum() >= FOLDS for kind in kept)
    chosen = in_kept & (unseen | (not enough))
    notes = []
    rare = [variable.label(value) for value in np.unique(kinds[~in_kept])]
    if rare:
        notes.append(f"left out {shorten(rare)}, of fewer than {least} trials")
    if not enough and not unseen.all():
        notes.append("training, which sees no behaviour, saw some of the trials; of others there are too few")
    why = np.full(time.size, "", dtype="<U12")
    why[(row >= 0) & ~np.isin(row, trials[chosen])] = "trained"
    why[np.isin(row, trials[~in_kept])] = "rare"
    why[~observed] = "unobserved"
    return np.where(np.isin(row, trials[chosen]), row, -1), why, enough or bool(unseen.all()), "; ".join(notes)


def count_reasons(reason: np.ndarray) -> dict[str, int]:
    names, counts = np.unique(reason, return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of the decoded time, and their use for one variable.

    states (bin, state): filtered means in coordinates in which the mean of the filter's covariance is one;
    covs (bin, state, state): filtered covariances, in the original coordinates; metric (state, state): from these to
        the others
    truth (bin,): the variable; reason (bin,): "used" or the exclusion reason; judged (bin,): those used
    block, fold (bin,): of time or of trials, -1 for none; folds: their number
    held_out: training never saw the judged bins
    note: what was left out, in words, or ""
    """

    variable: Behavior
    states: np.ndarray
    covs: np.ndarray
    metric: np.ndarray
    truth: np.ndarray
    reason: np.ndarray
    judged: np.ndarray
    block: np.ndarray
    fold: np.ndarray
    folds: int
    held_out: bool
    note: str = ""

    @property
    def calibrated(self) -> bool:
        return self.held_out and self.folds >= LEAST_FOLDS

    def surrogates(self, rows: np.ndarray, number: int) -> np.ndarray:
        """Values (row, 1 + number) of the bins `rows`: as they are, then shifted in a circle, or of a column of a table
        shuffled among trials."""
        y = self.truth[rows]
        if self.variable.stop is None:
            steps = np.linspace(0.05 * rows.size, 0.95 * rows.size, number).round().astype(int)
            return np.column_stack([y, *(np.roll(y, step) for step in steps.tolist())])
        _, first, trial = np.unique(self.block[rows], return_index=True, return_inverse=True)
        rng = np.random.default_rng(0)
        return np.column_stack([y, *(rng.permutation(y[first])[trial] for _ in range(number))])

    def span(self, rows: np.ndarray) -> float:
        """The period, or the range of the values in these bins."""
        return self.variable.period or max(float(np.ptp(self.truth[rows])), 1e-12)


def usable_bins(
    latents: xr.Dataset, variable: Behavior, truth: np.ndarray, missing: np.ndarray, guard: float, where: str
) -> Bins:
    """Deal the blocks with enough usable bins to folds; of a column of a table, whole trials.

    Args:
        latents: the states.
        variable: and its values `truth` (time,) in the bins.
        missing: (time,) "used", or why a bin has no value.
        guard: s between blocks of different use; trials are apart already.
        where: names file and variable in a message.

    Raises:
        InputError: no bins are left, they are too few, or hold one value only.
    """
    note = ""
    if variable.stop is None:
        block, excluded, held_out = time_blocks(latents, guard)
    else:
        block, excluded, held_out, note = trial_blocks(latents, variable, truth, where)
    reason = np.select([excluded != "", missing != "used"], [excluded, missing], "used")
    used = reason == "used"
    if not used.any():
        left = ", ".join(f"{n} {text}" for text, n in count_reasons(reason).items())
        raise InputError(f"{where}: no bin is left to read it in ({left}); lower --min-speed or reserve time")
    if variable.stop is None:
        short = used & (np.bincount(block[used], minlength=block.max() + 1)[block] < LEAST_BINS)
        if (used & ~short).any():
            reason = np.where(short, "short block", reason)
    judged = reason == "used"
    y = truth[judged]
    if y.size < 2 * LEAST_BINS:
        raise InputError(f"{where}: {y.size} usable bins are too few to fit a readout; decode or reserve more time")
    if np.ptp(y) == 0:
        only = variable.label(y[0])
        raise InputError(f"{where} is constant ({only}) in the {y.size} bins that can be used; choose another")
    numbers, first = np.unique(block[judged], return_index=True)
    folds = min(FOLDS, numbers.size)
    fold_of = np.full(block.max() + 2, -1)  # the last one stands for bins in no block
    if variable.stop is None:
        fold_of[numbers] = np.arange(numbers.size) % folds
    else:
        values = y[first]
        if variable.categories:
            folds = min(folds, int(np.unique(values, return_counts=True)[1].min()))
        splitter = (StratifiedKFold if variable.categories else KFold)(folds, shuffle=True, random_state=0)
        for number, (_, held) in enumerate(splitter.split(numbers, values if variable.categories else None)):
            fold_of[numbers[held]] = number
    covs = latents["filtered_cov"].to_numpy()
    values, vectors = np.linalg.eigh(covs[judged].mean(0, dtype=np.float64))
    metric = vectors / np.sqrt(np.maximum(values, 1e-9 * values[-1]))
    states = latents["filtered_mean"].to_numpy().astype(np.float64) @ metric
    return Bins(variable, states, covs, metric, truth, reason, judged, block, fold_of[block], folds, held_out, note)


def split_halves(group: np.ndarray, judged: np.ndarray) -> np.ndarray:
    """Twice as many groups (bin,): each cut where half of its judged bins have passed."""
    result = 2 * group
    for number in range(group.max() + 1):
        rows = np.flatnonzero(judged & (group == number))
        result[(group == number) & (np.arange(group.size) >= rows[rows.size // 2])] += 1
    return result
