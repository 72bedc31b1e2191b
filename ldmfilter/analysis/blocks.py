"""The bins in which behaviour is read and judged: blocks of time, or whole trials, dealt to folds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from rich.console import Console
from sklearn.model_selection import KFold, StratifiedKFold

from ldmfilter.analysis.behavior import Behavior, align, speed, thin
from ldmfilter.data.tables import Array, shorten
from ldmfilter.data.windows import outside, stretches
from ldmfilter.errors import InputError
from ldmfilter.text import plain, print_lines

GUARD = 2.0  # s between bins of different use: several time constants of the counts
FOLDS = 5
LEAST_FOLDS = 4  # for intervals: one judges, one calibrates, and two are needed to fit a readout and its errors
BLOCK_SECONDS = (10.0, 60.0)  # a block is a tenth of the judged time, but not shorter or longer
LEAST_BINS = 10  # a block of fewer usable bins is left out
MOST_CONTROL = 5_000  # bins of the control
REASONS = {
    "trained": "that training saw",
    "guard": "at the edges of blocks",
    "short block": "in blocks of too few bins",
    "unobserved": "without a frame of observed counts",
    "nan": "without a value",
    "lost": "where tracking was lost",
    "gap": "in gaps of the behaviour",
    "outside": "before, after or between its times",
    "slow": "slower than the lowest speed",
    "rare": "of classes in too few trials",
}


#: The block (time,) of each bin, -1 for none; the exclusion reason (time,), "" inside a block; True if training never
#: saw the blocks; and a note.
Blocks = tuple[Array, Array, bool, str]


def _known(latents: xr.Dataset) -> tuple[Array, Array, Array]:
    """The time (time,), s, of each bin, and True (time,) where it was observed, and where training saw it."""
    time, observed = latents["time"].values.astype(float), latents["observed"].values
    return time, observed, latents["trained"].values if "trained" in latents else np.zeros(time.size, dtype=bool)


def time_blocks(latents: xr.Dataset, guard: float) -> Blocks:
    """Cut the time that may judge into blocks."""
    size = float(latents.attrs["bin_size"])
    time, observed, trained = _known(latents)
    held_out = not trained[observed].all()
    trained = trained & held_out  # where training saw all, all may judge
    spans = stretches(latents[["segment"]].isel(time=np.flatnonzero(trained)))
    free = ~trained & outside(time, spans, guard)
    why = np.select([free, trained], ["", "trained"], "guard").astype("<U12")
    length = float(np.clip(free.sum() * size / (2 * FOLDS), *BLOCK_SECONDS))
    block, gap = np.full(time.size, -1), round(guard / size)
    # Trials that follow each other, or lie closer than a guard, are cut as one stretch: a break keeps nothing apart.
    rows = np.flatnonzero(free)
    ends = np.flatnonzero(np.diff(time[rows]) > max(guard + 0.75 * size, 1.5 * size)) + 1
    for stretch in np.split(rows, ends) if rows.size else ():
        at = (time[stretch] - time[stretch[0]]) / size  # bins from the first one
        pieces = max(1, int((at[-1] + 1 + gap) / (length / size + gap) + 1e-6))
        edges = np.linspace(0, round(at[-1]) + 1 + gap, pieces + 1).round()
        place = np.searchsorted(edges - 0.25, at, side="right") - 1
        inside = at < edges[place + 1] - gap - 0.25
        block[stretch[inside]] = block.max() + 1 + place[inside]
        why[stretch[~inside]] = "guard"
    why[(why == "") & ~observed] = "unobserved"
    return block, why, held_out, ""


def count_trials(values: Array) -> tuple[Array, Array, int]:
    """The distinct values (kind,) of trials, the number of trials of each, and the least that is read: a trial a fold,
    or as many as the second most frequent value has."""
    kinds, count = np.unique(values, return_counts=True)
    return kinds, count, min(FOLDS, int(np.sort(count)[-2]) if count.size > 1 else 0)


def trial_blocks(latents: xr.Dataset, variable: Behavior, truth: Array, where: str) -> Blocks:
    """Whole trials as blocks.

    Trials that training never saw are judged, where each value has enough of them; else all are. Of classes, those in
    fewer trials than there are folds are left out.
    """
    time, observed, trained = _known(latents)
    row = np.where(observed & np.isfinite(truth), variable.rows(time), -1)
    trials = np.unique(row[row >= 0])
    unseen = ~np.isin(trials, row[trained])
    kinds = variable.values[trials] if variable.categories else np.zeros(trials.size)
    found, count, least = count_trials(kinds)
    if variable.categories and least < 2:
        raise InputError(
            f"{where}: a value needs two trials or more to be read, and only {int((count > 1).sum())} of "
            f"{count.size} has them in the decoded time; decode more trials or choose another column"
        )
    notes, kept = [], found[count >= least]
    if rare := [variable.label(value) for value in found[count < least]]:
        notes.append(f"left out {shorten(rare)}, of fewer than {least} trials")
    in_kept = np.isin(kinds, kept)
    held_out = bool(unseen.all()) or all((unseen & (kinds == kind)).sum() >= FOLDS for kind in kept)
    if not held_out:
        notes.append("training, which sees no behaviour, saw some of the trials; all are judged, as too few are unseen")
    judged = np.isin(row, trials[in_kept & (unseen | (not held_out))])
    seen = (row >= 0) & ~judged
    why = np.select([~observed, np.isin(row, trials[~in_kept]), seen], ["unobserved", "rare", "trained"], "")
    return np.where(judged, row, -1), why, held_out, "; ".join(notes)


def count_reasons(reason: Array) -> dict[str, int]:
    """Number of bins by exclusion reason."""
    return dict(Counter(sorted(reason.tolist())))


def reason_in_words(name: str) -> str:
    """The exclusion reason of bins, as it is read after their number.

    >>> reason_in_words("trained"), reason_in_words("used")
    ('that training saw', 'used')
    """
    return REASONS.get(name, name)


@dataclass(frozen=True)
class Surrogates:
    """Scores of behaviour that was shifted in a circle among the judged bins, or shuffled among trials.

    shifts: their number; shifted_*: mean and 95th percentile; p: share of these, and the behaviour itself, that are
        read as well
    """

    shifts: int
    shifted_mean: float
    shifted_95: float
    p: float


@dataclass(frozen=True, repr=False)
class Judged:
    """A report on one variable: its bins, and the accuracy of its readouts.

    bins: number of bins that are used, and of others by exclusion reason
    blocks, folds: their number; guard: s between blocks of different use
    min_speed: bins in which the first variable changes more slowly, its unit per s, are left out
    held_out: whether training never saw the judged bins
    note: assumptions about the behaviour, or why something is missing
    readouts: the score of each kind on the test blocks, but of networks for few bins; empty without test blocks
    chosen: the readout with the least error on all judged blocks
    read: the score of each fold's chosen readout; None without test blocks
    """

    name: str
    path: str
    note: str
    bins: dict[str, int]
    blocks: int
    folds: int
    guard: float
    min_speed: float
    held_out: bool
    readouts: Mapping[str, Any]
    chosen: str
    read: Any

    def __repr__(self) -> str:
        return plain(self.show)

    def show(self, console: Console) -> None:
        """Print the bins of the variable, and the scores of its readouts."""
        left = ", ".join(f"{n} {reason_in_words(why)}" for why, n in self.bins.items() if why != "used")
        blocks = f"{self.blocks} block{'s' if self.blocks != 1 else ''}"
        print_lines(console, f"{self.path}{self.kind}, {self.name} in the store", style="bold")
        print_lines(
            console, f"{self.bins['used']} bins in {blocks}" + (f"; left out {left}" if left else ""), self.note
        )

    @property
    def kind(self) -> str:
        """The kind of the variable, in words that follow its path."""
        raise NotImplementedError

    @property
    def scores(self) -> dict[str, Any]:
        """Scores of what is read, each fold by the readout that is best on the others, and of each readout alone."""
        return {"as read: by the best on other blocks": self.read, **self.readouts} if self.read else {}


@dataclass(frozen=True, eq=False)
class Bins:
    """Bins of the decoded time, and their use for one variable.

    states (bin, state): filtered means in coordinates in which the mean of the filter's covariance is one;
    covs (bin, state, state): filtered covariances, in the original coordinates; metric (state, state): from these to
        the others
    truth (bin,): the variable; reason (bin,): "used" or the exclusion reason; judged (bin,): those used
    block, fold (bin,): of time or of trials, -1 for none; folds: their number
    size, guard, min_speed: s of a bin and between blocks of different use; as of `Judged`
    held_out: training never saw the judged bins
    note: what was left out, in words, or ""
    """

    variable: Behavior
    states: Array
    covs: Array
    metric: Array
    truth: Array
    reason: Array
    block: Array
    fold: Array
    folds: int
    size: float
    guard: float
    min_speed: float
    held_out: bool
    note: str = ""

    @cached_property
    def judged(self) -> Array:
        """The bins (bin,) that are used."""
        return self.reason == "used"

    @property
    def tested(self) -> Array:
        """The bins (bin,) that are read by readouts of other blocks: none where there is a single block."""
        return self.judged & (self.folds > 1)

    @property
    def calibrated(self) -> bool:
        """True where there are enough folds of held-out time for intervals."""
        return self.held_out and self.folds >= LEAST_FOLDS

    @property
    def blocks(self) -> int:
        """Number of the judged blocks."""
        return np.unique(self.block[self.judged]).size

    def surrogates(self, number: int) -> tuple[Array, Array]:
        """At most `MOST_CONTROL` judged bins (row,), and values (row, 1 + number) in them: as they are, then shifted in
        a circle, or of a column of a table shuffled among trials."""
        rows = thin(np.flatnonzero(self.judged), MOST_CONTROL)
        y = self.truth[rows]
        if self.variable.stop is None:
            steps = np.linspace(0.05 * rows.size, 0.95 * rows.size, number).round().astype(int)
            others = [np.roll(y, step) for step in steps]
        else:
            _, first, trial = np.unique(self.block[rows], return_index=True, return_inverse=True)
            rng = np.random.default_rng(0)
            others = [rng.permutation(y[first])[trial] for _ in range(number)]
        return rows, np.column_stack([y, *others])

    def about(self, note: str = "") -> dict[str, Any]:
        """The fields of `Judged`, with one more note."""
        seen = (
            "" if self.held_out or self.note else "training saw all of the time: the readout is not judged on new time"
        )
        notes = "; ".join(filter(None, (self.variable.note, self.note, seen, note)))
        found = {"bins": count_reasons(self.reason), "note": notes}
        found |= {key: getattr(self, key) for key in ("blocks", "folds", "guard", "min_speed", "held_out")}
        return found | {key: getattr(self.variable, key) for key in ("name", "path")}

    def fold_variable(self) -> dict[str, Any]:
        """The variable `<name>_fold` of the states."""
        fold = np.where(self.tested, self.fold, -1).astype(np.int8)
        about = {"long_name": "fold of a bin that is read by readouts of other blocks, or -1"}
        return {f"{self.variable.name}_fold": ("time", fold, about)}


def against_surrogates(scores: Array) -> tuple[int, float, float, float, float]:
    """The fields of `Surrogates` from scores of which all but the first are of surrogates, and the first."""
    others = scores[1:]
    p = float((1 + (others >= scores[0]).sum()) / scores.size)
    return others.size, float(others.mean()), float(np.quantile(others, 0.95)), p, float(scores[0])


def bins_of(latents: xr.Dataset, behavior: Sequence[Behavior], min_speed: float, guard: float) -> Iterator[Bins]:
    """The bins of each variable in turn: blocks of time with enough usable bins, or of a column of a table whole
    trials, dealt to folds. `min_speed` and `guard` are those of `Judged`.

    Raises:
        InputError: a variable does not overlap with the states; no bins are left, they are too few, or hold one value
            only.
    """
    time, segment = latents["time"].values.astype(float), latents["segment"].values
    size, path = float(latents.attrs["bin_size"]), str(latents.attrs.get("source_path") or "behaviour")
    aligned = [align(one, time, size) for one in behavior]
    for one, (truth, _) in zip(behavior, aligned, strict=True):
        if not np.isfinite(truth).any():
            known = one.time[np.isfinite(one.values)]
            raise InputError(
                f"{path}: {one.path} does not overlap with the decoded bins: it has values from {known[0]:g} to "
                f"{known[-1]:g} s, they lie from {time[0]:g} to {time[-1]:g} s"
            )
    slow = np.zeros(time.size, dtype=bool)
    if min_speed > 0:
        slow = ~(speed(behavior[0], aligned[0][0], segment, size) >= min_speed)
    for one, (truth, missing) in zip(behavior, aligned, strict=True):
        where = f"{path}: {one.path}"
        cut = time_blocks(latents, guard) if one.stop is None else trial_blocks(latents, one, truth, where)
        block, excluded, held_out, note = cut
        missing = np.where(slow & (missing == "used"), "slow", missing)
        reason = _usable(one, truth, block, np.where(excluded == "", missing, excluded), where)
        used = reason == "used"
        fold, folds = _deal(one, block, used, truth)
        covs = latents["filtered_cov"].values
        values, vectors = np.linalg.eigh(covs[used].mean(0, dtype=np.float64))
        metric = vectors / np.sqrt(np.maximum(values, 1e-9 * values[-1]))
        states = latents["filtered_mean"].values.astype(float) @ metric
        about = size, guard, min_speed, held_out, note
        yield Bins(one, states, covs, metric, truth, reason, block, fold, folds, *about)


def _usable(variable: Behavior, truth: Array, block: Array, reason: Array, where: str) -> Array:
    """The exclusion reasons (time,), "used" for none, with those of blocks of time that are too short. Raises:
    InputError, where too few bins are left."""
    used = reason == "used"
    if not used.any():
        left = ", ".join(f"{n} {reason_in_words(why)}" for why, n in count_reasons(reason).items())
        raise InputError(f"{where}: no bin is left to read it in ({left}); lower that speed or reserve time")
    if variable.stop is None:
        short = used & (np.bincount(block[used], minlength=block.max() + 1)[block] < LEAST_BINS)
        if (used & ~short).any():
            reason = np.where(short, "short block", reason)
    y = truth[reason == "used"]
    if y.size < 2 * LEAST_BINS:
        raise InputError(f"{where}: {y.size} usable bins are too few to fit a readout; decode or reserve more time")
    if np.ptp(y) == 0:
        only = variable.label(y[0])
        raise InputError(f"{where} is constant ({only}) in the {y.size} bins that can be used; choose another")
    return reason


def _deal(variable: Behavior, block: Array, used: Array, truth: Array) -> tuple[Array, int]:
    """The fold (time,) of each bin, -1 for none, and the number of folds. Blocks of time are dealt in turn, trials at
    random, and of classes as many of each to every fold."""
    numbers, first = np.unique(block[used], return_index=True)
    folds, fold = min(FOLDS, numbers.size), np.full(block.max() + 2, -1)  # the last one stands for no block
    if variable.stop is None:
        fold[numbers] = np.arange(numbers.size) % folds
        return fold[block], folds
    values, kind = truth[used][first], KFold
    if variable.categories:
        folds, kind = min(folds, int(np.unique(values, return_counts=True)[1].min())), StratifiedKFold
    splitter = kind(folds, shuffle=True, random_state=0)
    for number, (_, held) in enumerate(splitter.split(numbers, values)):
        fold[numbers[held]] = number
    return fold[block], folds


def split_halves(group: Array, judged: Array) -> Array:
    """Twice as many groups (bin,): each cut where half of its judged bins have passed."""
    result = 2 * group
    for number in range(group.max() + 1):
        rows = np.flatnonzero(judged & (group == number))
        result[(group == number) & (np.arange(group.size) >= rows[rows.size // 2])] += 1
    return result
