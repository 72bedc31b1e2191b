"""Conditions of trials: how well each is read from the states along the trial."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import xarray as xr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import recall_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from ldmfilter.analysis.behavior import TIMES, as_labels, classes_of, distinct, positions, text_of, thin
from ldmfilter.analysis.blocks import count_trials
from ldmfilter.data.selection import choose_trials, find_column, flat_columns
from ldmfilter.data.session import Session
from ldmfilter.data.tables import Array, shorten
from ldmfilter.errors import InputError
from ldmfilter.filter.aligned import align

SHRINKAGE = 0.1  # of the covariance within conditions; a fixed one, as one that is estimated takes twice the time
SHUFFLES = 20  # of conditions among trials; the 95th percentile is then the largest but one
MOST_TIMES = 15  # bins of the trial in which conditions are read
LONGEST = 10.0  # s of a trial that are shown without a window


@dataclass(frozen=True, eq=False)
class Trials:
    """States in trials, and how well their conditions are read along them.

    event, query, condition: TABLE.COLUMN of the event, the query that chose trials or "", and the conditions' column
    names (condition,): labels; number (trial,): position of a trial's condition among them, -1 for none or a rare one
    trials: number of trials read of each condition; unseen: whether training saw none of them
    time (time,), s from the event; recall (time, condition): share of a condition's trials read right, accuracy
        (time,) its mean, shuffled (time,) the 95th percentile of the same when conditions are shuffled among trials;
        NaN where too few trials reach
    note: conditions that were left out, in words, or ""
    """

    aligned: xr.Dataset
    event: str
    query: str
    condition: str
    names: list[str]
    number: Array
    trials: dict[str, int]
    unseen: bool
    time: Array
    recall: Array
    accuracy: Array
    shuffled: Array
    note: str


def choose_condition(session: Session, event: str, query: str | None, condition: str | None) -> str:
    """The column of the event's table whose values are conditions: as asked, or the first that has some.

    Raises:
        InputError: as `choose_trials`; no such column, or none whose values recur in two trials or more.
    """
    table, _ = choose_trials(session, event, query)
    name, _ = find_column(session, event)
    where = f"{session.source.path}: {name}"
    columns = {key: classes_of(values) for key, values in flat_columns(table).items() if key not in TIMES}
    most = table.sizes["interval"] // 2
    usable = [key for key, classes in columns.items() if classes is not None and 1 < classes.size <= most]
    if condition is not None:
        _, column = find_column(session, f"{name}.{condition.removeprefix(f'{name}.')}")
        values = as_labels(table[column].values)
        if count_trials(values[np.isin(values, distinct(values))])[2] < 2:
            others = [one for one in usable if one != column]
            raise InputError(
                f"{where}: {column} does not have two values of two trials or more; conditions are in "
                f"{shorten(others) or 'no other column'}"
            )
        return column
    if usable:
        return usable[0]
    have = shorten(columns) or "only times"
    raise InputError(
        f"{where}: no column holds conditions, values that recur in several trials, by which trials are shown; it has "
        f"{have}; add such a column, or show no trials of this table"
    )


def read_trials(
    latents: xr.Dataset,
    session: Session,
    event: str,
    window: tuple[float, float] | None = None,
    query: str | None = None,
    condition: str | None = None,
) -> Trials:
    """Align states, and read the condition from them in each bin of the trial, by linear discriminant analysis on whole
    trials that it was not fitted to. Trials that training never saw are read, where each condition has enough of them;
    else all.

    Args:
        latents, session, event, query: as `ldmfilter.align` takes them.
        window: s from the event; without it from the event to the median trial's end.
        condition: a column of the table; without it the first that holds values that recur.

    Raises:
        InputError: as `align` and `choose_condition`; fewer than two conditions have two trials in the window.
    """
    column = choose_condition(session, event, query, condition)
    table, at = choose_trials(session, event, query)
    aligned = align(latents, session, event, window or (0.0, _length(table, at, latents.attrs["bin_size"])), query)
    observed = aligned["observed"].values
    values = as_labels(table[column].values)
    known = observed.any(1) & np.isin(values, distinct(values))
    found, count, folds = count_trials(values[known])
    if folds < 2:
        raise InputError(
            f"{session.source.path}: {column}: fewer than two conditions have two trials in the window; widen it or "
            "choose another condition"
        )
    kept, rare = found[count >= folds], found[count < folds]
    names = [*map(text_of, kept)]
    number = np.where(known, positions(values, kept, -1), -1)
    seen = (aligned["trained"].values & observed).any(1)
    unseen = all(((number == place) & ~seen).sum() >= folds for place in range(kept.size))
    read = np.where(seen & unseen, -1, number)
    states, bins = aligned["filtered_mean"].values, observed.shape[1]
    times = thin(np.arange(bins), MOST_TIMES)
    along = [_read(states[:, t], np.where(observed[:, t], read, -1), kept.size, folds) for t in times]
    recall, shuffled = map(np.array, zip(*along, strict=True))
    return Trials(
        aligned=aligned,
        event=event,
        query=query or "",
        condition=column,
        names=names,
        number=number,
        trials={name: int((read == place).sum()) for place, name in enumerate(names)},
        unseen=unseen,
        time=aligned["time"].values[times],
        recall=recall,
        accuracy=recall.mean(1),
        shuffled=shuffled,
        note=f"{shorten(map(text_of, rare))} left out, of fewer than {folds} trials" if rare.size else "",
    )


def _length(table: xr.Dataset, at: str, size: float) -> float:
    """From the event to the end of the median trial, s, a bin at least."""
    length = table["stop_time"].values - table[at].values
    length = length[np.isfinite(length) & (length > 0)]
    return float(np.clip(np.median(length), size, LONGEST)) if length.size else LONGEST


def _read(states: Array, number: Array, conditions: int, folds: int) -> tuple[Array, float]:
    """Share of each condition's trials that are read right from states (trial, state), and the 95th percentile of its
    mean when conditions are shuffled; NaN where a condition has fewer trials than there are folds."""
    rows = np.flatnonzero(number >= 0)
    y = number[rows]
    if np.bincount(y, minlength=conditions).min() < folds:
        return np.full(conditions, np.nan), np.nan
    x = states[rows].astype(float)
    splits = list(StratifiedKFold(folds, shuffle=True, random_state=0).split(x, y))
    linear = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)

    def recall(x: Array) -> Array:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Only one sample")  # of two trials, one is fitted to
            read = cross_val_predict(linear, x, y, cv=splits)
        return np.asarray(recall_score(y, read, labels=np.arange(conditions), average=None))

    rng = np.random.default_rng(0)
    # States are shuffled, not conditions: so that each fold has its share of every condition here too.
    shuffled = [recall(rng.permutation(x)).mean() for _ in range(SHUFFLES)]
    return recall(x), float(np.quantile(shuffled, 0.95))
