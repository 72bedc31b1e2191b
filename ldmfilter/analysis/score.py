"""The score of states without labels: bits per spike on held-out time, beside simpler methods.

Four things are predicted by the same readouts (`filter.spikes_ahead`), fitted on training time: the counts of the bin
some time ahead of a causal state; the counts of units that were hidden when the state was computed (co-smoothing, Pei
et al. 2021), a quarter of the units at a time, in two groupings; the same where readouts learn from `FEW` bins
(few-shot co-smoothing, Dabholkar & Barak 2024), which costs states with superfluous dimensions more; and the counts
that the state has seen.

Training saw all units, hidden ones too: the weights know on training time what the hidden units did. The baselines
are fitted without the hidden units, and so are the peers. The baselines average over one of `WIDTHS`, chosen on
training time.

Fits of one session agree where an affine map takes the states of one to those of another (`compare`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from rich.console import Console
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import LinearRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

from ldmfilter.analysis.baselines import SMOOTHING, STATES, causal_pca, chosen
from ldmfilter.analysis.judged import GUARD, Bins, bins_of, check_model, excerpt, thinned
from ldmfilter.data.counts import where_of
from ldmfilter.data.prepare import as_counts
from ldmfilter.data.tables import Array, Floats
from ldmfilter.data.windows import outside
from ldmfilter.errors import InputError
from ldmfilter.files import AnyPath
from ldmfilter.filter.decode import sound
from ldmfilter.filter.forecast import check_horizons
from ldmfilter.filter.linalg import on_cores, one_thread
from ldmfilter.filter.model import LDMFilter
from ldmfilter.filter.runs import Run
from ldmfilter.filter.spikes_ahead import NOT_JUDGED, SpikesAhead, folds_of, quarters, spikes_ahead
from ldmfilter.html import table
from ldmfilter.progress import Told, teller
from ldmfilter.text import finite, plain, print_lines, print_table

AHEAD = (0.1, 0.2, 0.5, 1.0, 2.0)  # s
GROUPINGS = 2  # of the units into quarters that are hidden in turn
WIDTHS = (SMOOTHING, 0.1, 0.2, 1.0)  # s, of the baselines' averages; the first where none can be judged
MOST_CHOOSE = 5_000  # bins of each half of training time that judge a width
FEW, DRAWS = 500, 3  # bins that few-shot readouts learn from; times that they are drawn
MOST_JUDGED = 10_000  # bins
UNNAMED = "states"  # of a single model's, which has no name
HIDDEN, FEW_SHOT = "hidden units", f"hidden units, learnt from {FEW} bins"
THIS_BIN = "this bin, which the state has seen"
FOLDS, SHIFTS = 5, 20  # of an affine map; circular shifts of its control
IN_TRAINING = "spikes ahead, in training"

NONE = np.zeros(0, np.int64)  # no unit is hidden

States = Callable[[Array], Array]  # gets the numbers of the hidden units, gives states (time, state)


@dataclass(frozen=True, eq=False, repr=False)
class Scores:
    """Scores of states, a row for each thing that is predicted.

    Attributes
    ----------
    rows : dict
        For each row and each source of states the prediction of spikes: `value`, bits per spike, of a signal the share
        of variance; `error`, its standard error; `lead(other)`, its lead over another; NaN where it could not be
        judged.
    missing : dict
        The reason, for each row that could not be judged.
    widths : dict
        The simpler methods, and the time constant of their averages, s, chosen on training time.
    judged : int
        Number of held-out bins that judge, GUARD s away from training.
    spikes : int
        Number of spikes in them, of the units that are predicted; 0 of a signal.
    units : int
        Number of units that are predicted.
    silent : int
        Number of units left out, as they never fire on held-out time or never on training time.
    unit : str
        Of the scores.
    peers : list of str
        Sources of states that have seen bins after their own: NaN ahead, as that would be no forecast.
    """

    rows: dict[str, dict[str, SpikesAhead]]
    missing: dict[str, str]
    widths: dict[str, float]
    judged: int
    spikes: int
    units: int
    silent: int
    unit: str
    peers: list[str]

    @property
    def models(self) -> list[str]:
        """The sources of states that are filters."""
        return [name for name in next(iter(self.rows.values())) if name not in {*self.widths, *self.peers}]

    def __repr__(self) -> str:
        return plain(self.show)

    def _repr_html_(self) -> str:
        """For a notebook: the same table."""
        heads, rows = self._table()
        return table("score", rows, [head.lstrip(">") for head in heads], "; ".join(self._notes()))

    def show(self, console: Console) -> None:
        """Print a table of scores, and notes."""
        print_table(console, *self._table())
        print_lines(console, *self._notes())

    def _table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Heads and rows: a column for each source of states, the lead of each filter, that of the first over
        others."""
        first, *others = self.models
        leads = {"lead over the best of the simpler methods": (first, list(self.widths))}
        if others:
            leads = {f"lead of {name}": (name, list(self.widths)) for name in self.models}
            leads |= {f"lead of {first} over {name}": (first, [name]) for name in others}
        sources = [
            f">{source}, {self.widths[source]:g} s" if source in self.widths else f">{source}"
            for source in next(iter(self.rows.values()))
        ]
        return [self.unit, *sources, *leads], [
            (name, *map(_number, row.values()), *(_lead(row, *pair) for pair in leads.values()))
            for name, row in self.rows.items()
        ]

    def _notes(self) -> list[str]:
        """Lines that say which bins and units are scored, and the reasons for scores that are missing."""
        left = f"; {self.silent} left out, which never fire on held-out time or in training" if self.silent else ""
        spikes = f" with {self.spikes} spikes" * (self.spikes > 0)
        of = f"{self.judged} held-out bins, {self.units} units{spikes}{left}"
        notes = [f"{of}; in brackets standard errors over blocks of time"]
        if self.peers:
            seen = "have seen bins to come: not judged ahead, and not counted in the lead"
            notes.append(f"{'; '.join(self.peers)}: {seen}")
        return notes + [f"{name}: not judged: {reason}" for name, reason in self.missing.items()]

    def to_dict(self) -> dict[str, Any]:
        """Scores in plain types, as JSON takes them.

        Returns
        -------
        dict
            None where nothing could be judged.

        Examples
        --------
        >>> ldmfilter.score(model, counts).to_dict()["rows"]["hidden units"]  # doctest: +SKIP
        """
        rows = {}
        for name, row in self.rows.items():
            first = next(iter(row.values()))
            rows[name] = {
                source: {"score": one.value, "error": one.error}
                | ({} if one is first else {"first_leads_by": first.lead(one)})
                for source, one in row.items()
            }
        return dict(finite(vars(self) | {"rows": rows}))


def score_runs(
    runs: Sequence[Run],
    ahead: float | Sequence[float] = AHEAD,
    peers: Sequence[str] = (),
    progress: Told = False,
    session: AnyPath | None = None,
) -> Scores:
    """Score runs of one session, side by side; as `score`. `session` is where it lies now, None for where it lay.

    Raises:
        InputError: as `score`; runs of different sessions, bins or units; a session that cannot be read.
    """
    counts = common_counts(runs, session)
    return score({str(run.folder): run.model() for run in runs}, counts, ahead, peers, progress)


def common_counts(runs: Sequence[Run], session: AnyPath | None = None) -> xr.DataArray:
    """The counts of all runs. Raises: InputError, where they are of different sessions, or have other bins or units."""
    check_same_session(runs)
    counts = runs[0].recording(session)[1]
    for run in runs[1:]:
        other = run.recording(session)[1]
        if not all(counts[name].equals(other[name]) for name in ("time", "unit")):
            raise InputError(
                f"{run.folder}: has other time or units than {runs[0].folder}; score runs of the same counts"
            )
    return counts


def check_same_session(runs: Sequence[Run]) -> None:
    """Raises: InputError for runs of different sessions or bin sizes."""
    first, bin_size = runs[0], runs[0].config.data.bin_size
    for run in runs:
        if run.checksum != first.checksum:
            raise InputError(
                f"{run.folder}: is a run of {run.session_path}, {first.folder} one of {first.session_path}; "
                "compare runs of one session"
            )
        if run.config.data.bin_size != bin_size:
            raise InputError(
                f"{run.folder}: has bins of {run.config.data.bin_size:g} s, {first.folder} of {bin_size:g} s; "
                "compare runs with the same bins"
            )


def score(
    model: LDMFilter | Mapping[str, LDMFilter],
    counts: Any,
    ahead: float | Sequence[float] = AHEAD,
    peers: Sequence[str] = (),
    progress: Told = False,
) -> Scores:
    """Score a filter's states on held-out time, beside smoothed counts, a causal PCA and factor analysis of them.

    Parameters
    ----------
    model : LDMFilter or mapping of LDMFilter
        Fitted; or several by name.
    counts : xarray.DataArray (time, unit)
        Of the session it was trained on, or what `as_session` takes, reserved time included; of another one readouts
        are fitted on every other tenth.
    ahead : float or sequence of float
        Horizons, s, which are rounded to whole bins; the rows are named after those.
    peers : sequence of str
        "GPFA" and "CEBRA", which take minutes and need the extra `bench`. They see bins to come, and so have no score
        ahead; beside them stand the smoothed states of the first model, which see all bins.
    progress : bool or callable
        True prints what is being computed, on stderr; a function is called with it.

    Returns
    -------
    Scores
        `rows`: bits per spike, with standard errors, of counts ahead, of hidden units, and of the bin itself, by the
        source of the states; `missing`: the reason why a row could not be judged; `to_dict`.

    Raises
    ------
    InputError
        No model, one that is not fitted or has the name of a simpler method, counts of other units or bins, no or too
        little held-out time, a horizon that is no positive number, or a peer that is unknown or not installed.

    References
    ----------
    Hidden units: Pei et al. 2021, the Neural Latents Benchmark. Learnt from few bins: Dabholkar & Barak 2024, arXiv
    2405.14425. GPFA: Yu et al. 2009. CEBRA: Schneider, Lee & Mathis 2023.

    Examples
    --------
    >>> scores = ldmfilter.score(model, counts, ahead=[0.4])
    >>> list(scores.rows["0.4 s ahead"])
    ['states', 'smoothed counts', 'causal PCA', 'factor analysis']
    """
    tell, made = teller(progress), chosen(peers)
    models = dict(model) if isinstance(model, Mapping) else {UNNAMED: model}
    if not models:
        raise InputError("score: no model is given; give one that is fitted, or several by name")
    horizons, first = check_horizons(ahead), next(iter(models))
    for name in models:
        if name in {*STATES, *made}:
            raise InputError(f"model {name!r}: a method that it is compared with is called so; give it another name")
    with _judging(models, counts, horizons, smooth=bool(made)) as (judge, causal):
        tell("width of averages")
        width = judge.width()
        causal |= {name: partial(judge.made, make, width=width) for name, make in STATES.items()}
        others = {name: partial(judge.made, make) for name, make in made.items()}
        if made:
            others = {f"{first}, smoothed": partial(causal[first], smooth=True)} | others
        found = {}
        for name, states in causal.items():
            tell(name)
            found[name] = judge.scores(states)
        for name, states in others.items():
            found[name] = judge.scores(partial(_told, tell, name, states), causal=False)
    rows = {row: {name: one[row] for name, one in found.items()} for row in found[first]}
    missing = {row: judge.reason(row) for row, each in rows.items() if math.isnan(each[first].value)}
    unit = "share of variance" if judge.bins.signal else "bits per spike"
    units, n_judged = len(judge.units), int(judge.bins.judged.sum())
    silent = judge.bins.counts.shape[1] - units
    return Scores(
        rows, missing, dict.fromkeys(STATES, width), n_judged, judge.spikes, units, silent, unit, list(others)
    )


def hidden_units(models: Mapping[str, LDMFilter], counts: Any) -> dict[str, SpikesAhead]:
    """The row `HIDDEN` of `score` alone, of each model. Raises: InputError, as `score`."""
    with _judging(models, counts) as (judge, causal):
        return {name: judge.hidden(states) for name, states in causal.items()}


@contextlib.contextmanager
def _judging(
    models: Mapping[str, LDMFilter], counts: Any, ahead: Sequence[float] = (), smooth: bool = False
) -> Iterator[tuple[Judge, dict[str, Callable[..., Array]]]]:
    """A judge of the models, and their causal states. Raises: InputError, as `score`."""
    for one in models.values():
        check_model(one)
    leading = next(iter(models.values()))
    counts = excerpt(as_counts(counts, leading.bin_size_), 0)
    with one_thread(every_library=True), torch.no_grad(), sound(leading, counts):
        whole = {name: one.decode(counts, smooth=smooth) for name, one in models.items()}
        yield (
            Judge(_common(models, whole, counts), ahead),
            {name: partial(means_without, one, counts, whole[name]) for name, one in models.items()},
        )


class Judge:
    """The readouts and the held-out bins that judge states.

    Args:
        bins: of the recording.
        ahead: horizons, s.
    """

    def __init__(self, bins: Bins, ahead: Sequence[float] = ()):
        judged = thinned(bins.judged, MOST_JUDGED, bins.size, 0)
        at = bins.time[judged]  # on the clock: between trials there may be seconds that were not recorded
        near = np.searchsorted(at, bins.time - GUARD) < np.searchsorted(at, bins.time + GUARD, "right")
        counts = np.where(bins.observed[:, None], bins.counts, np.nan).astype(float)
        self.bins = bins = dataclasses.replace(bins, counts=counts, judged=judged, fit=bins.fit & ~near)
        steps = [(seconds, round(seconds / bins.size)) for seconds in ahead]
        self.ahead = {f"{n * bins.size if n else seconds:g} s ahead": n for seconds, n in steps}
        fired = [np.nan_to_num(counts[rows]).any(0) for rows in (bins.fit, judged)]
        self.units, self.mute = np.flatnonzero(fired[0] & fired[1]), np.flatnonzero(~fired[0])
        self.spikes = 0 if bins.signal else int(np.nansum(counts[judged][:, self.units]))

    def scores(self, states: States, causal: bool = True) -> dict[str, SpikesAhead]:
        """The score of every row; ahead only of causal states, as others have seen what they would predict."""
        whole, groups = states(NONE), list(self._groups(states))
        rows = self._ahead(whole) if causal else dict.fromkeys(self.ahead, NOT_JUDGED)
        rows[HIDDEN], rows[FEW_SHOT] = self._pooled(groups), self._pooled(groups, self._few())
        return rows | {THIS_BIN: self._predicted(whole, self.units)}

    def _ahead(self, states: Array) -> dict[str, SpikesAhead]:
        """The score of the counts at each horizon; one shorter than a bin is none."""
        found = on_cores(
            lambda steps: self._predicted(states, self.units, steps) if steps else NOT_JUDGED, list(self.ahead.values())
        )
        return dict(zip(self.ahead, found, strict=True))

    def hidden(self, states: States, groupings: int = GROUPINGS) -> SpikesAhead:
        """The score of the bin's spikes of units that are hidden, a quarter of them at a time."""
        return self._pooled(self._groups(states, groupings))

    def _groups(self, states: States, groupings: int = GROUPINGS) -> Iterator[tuple[Array, Array, int]]:
        """For each quarter of the units, in each grouping: states without them, their numbers, and their spikes.

        Units that fire are dealt to the quarters by their spikes, of a signal by its absolute values; a unit that is
        silent has no part.
        """
        size = np.nansum(np.abs(self.bins.counts[self.bins.judged]), 0)
        for turn in range(groupings if self.units.size > 1 else 0):
            quarter = quarters(size[self.units], turn)
            for number in np.unique(quarter):
                group = self.units[quarter == number]
                yield states(group), group, group.size if self.bins.signal else int(size[group].sum())

    def made(self, make: Callable[..., Array], hidden: Array, **options: float) -> Array:
        """States of a simpler method (`baselines.STATES`) without the hidden units, and without those that never fire
        where it is fitted, which would count among the units that set the number of factors."""
        kept = np.delete(self.bins.counts, np.union1d(hidden, self.mute), axis=1)
        return make(dataclasses.replace(self.bins, counts=kept), **options) if kept.size else np.zeros((len(kept), 1))

    def width(self) -> float:
        """The one of `WIDTHS`, s, with which a causal PCA is best on training time, in the mean over the counts `AHEAD`
        and those of hidden units, each half of the time judged by what was fitted on the other."""
        bins, values = self.bins, []
        half = folds_of(bins.fit, bins.size, 2)
        for number in range(2):
            judged = thinned(bins.fit & (half == number), MOST_CHOOSE, bins.size, 0)
            judge = Judge(dataclasses.replace(bins, fit=bins.fit & (half != number), judged=judged), AHEAD)
            for width in WIDTHS:
                states = partial(judge.made, causal_pca, width=width)
                found = [*judge._ahead(states(NONE)).values(), judge.hidden(states, 1)]
                values.append([one.value for one in found])
        scores = np.reshape(values, (2, len(WIDTHS), -1))
        return WIDTHS[int(np.where(np.isfinite(scores).all(1, keepdims=True), scores, 0).sum((0, 2)).argmax())]

    def reason(self, row: str) -> str:
        """The reason why a row could not be judged."""
        if not self.units.size:
            return "no unit fires on training time and on held-out time"
        if row not in self.ahead:
            return "too few bins or units"
        if not self.ahead[row]:
            return f"a bin has {self.bins.size:g} s"
        return "no stretch of training or of held-out time is long enough"

    def _predicted(self, states: Array, units: Array, steps: int = 0, few: Array | None = None) -> SpikesAhead:
        """The score of the units' counts so many bins ahead, 0 for those of the bin itself."""
        bins, horizons = self.bins, [(steps - 1, 1)]
        seen = bins.counts[:, units], bins.segment, bins.fit, bins.judged, bins.size, bins.signal
        return spikes_ahead(states, *seen, horizons, few, guard=0)

    def _pooled(
        self, groups: Iterable[tuple[Array, Array, int]], draws: Sequence[Array | None] = (None,)
    ) -> SpikesAhead:
        """The score of all groups' spikes together, where readouts learn from each of the draws (time,) of bins."""
        asked = [(*group, few) for group in groups for few in draws]
        found = on_cores(lambda one: self._predicted(one[0], one[1], few=one[3]), asked)
        weighed = zip((one[2] for one in asked), found, strict=True)
        known = [(weight, one.blocks) for weight, one in weighed if not math.isnan(one.value)]
        if not known:
            return NOT_JUDGED
        weights, blocks = zip(*known, strict=True)
        pooled = np.average(blocks, 0, weights)
        return SpikesAhead(float(pooled.sum()), pooled)

    def _few(self) -> list[Array]:
        """Draws (time,) of the fitted bins that few-shot readouts learn from."""
        rows, rng = np.flatnonzero(self.bins.fit), np.random.default_rng(0)
        if rows.size < 2 * FEW:
            return []
        return [np.isin(np.arange(len(self.bins.time)), rng.choice(rows, FEW, replace=False)) for _ in range(DRAWS)]


def _common(models: Mapping[str, LDMFilter], whole: Mapping[str, xr.Dataset], counts: xr.DataArray) -> Bins:
    """The bins that none of the models was trained on, to judge, and those that all were, to fit to; `whole` holds
    the states of all bins.

    Raises:
        InputError: they are too few, or no time is held out.
    """
    found = [bins_of(counts, whole[name]["trained"].values, one.trained_spans_) for name, one in models.items()]
    fit, judged = (np.all([getattr(one, name) for one in found], axis=0) for name in ("fit", "judged"))
    none = [name for name, one in zip(models, found, strict=True) if not one.held_out]
    if none or not judged.any() or not fit.any():
        of = "" if [*models] == [UNNAMED] else f"{none[0] if none else ', '.join(models)}: "
        raise InputError(
            f"{of}{where_of(counts)}: no time is held out, {GUARD:g} s away from training, to score states on; train "
            "with 0.4 of it reserved"
        )
    return dataclasses.replace(found[0], fit=fit, judged=judged)


def means_without(
    model: LDMFilter, counts: xr.DataArray, whole: xr.Dataset, hidden: Array, smooth: bool = False
) -> Array:
    """Filtered (or smoothed) means (time, state) of a model that is not shown the hidden units; `whole` holds those of
    all units."""
    if hidden.size:
        seen = counts.coords.get("unit_observed", xr.ones_like(counts, bool)).values
        seen = seen & ~np.isin(np.arange(counts.shape[1]), hidden)
        whole = model.decode(counts.assign_coords(unit_observed=(("time", "unit"), seen)), smooth=smooth)
    return whole["smoothed_mean" if smooth else "filtered_mean"].values.astype(float)


def _told(tell: Callable[[str], None], name: str, states: States, hidden: Array) -> Array:
    """Tell of states that take long, then make them."""
    tell(f"{name}, {hidden.size} units hidden")
    return states(hidden)


def _number(one: SpikesAhead) -> str:
    return "-" if math.isnan(one.value) else f"{one.value:.3f} ({one.error:.3f})"


def _lead(row: dict[str, SpikesAhead], name: str, others: list[str]) -> str:
    """The lead of a filter over the best of others, named where there are several."""
    best = max(others, key=lambda other: -math.inf if math.isnan(row[other].value) else row[other].value)
    lead, error = row[name].lead(row[best])
    over = f" over {best}" * (len(others) > 1)
    return "" if math.isnan(lead) else f"{lead:+.3f} ({error:.3f}){over}"


@dataclass(frozen=True)
class Comparison:
    """Pairwise agreement of runs of one session.

    Attributes:
        runs: (run,) their folders.
        r2: (run, run) R2 of the best affine map from the states of the run of the row to those of the run of the
            column, over all dimensions together, on held-out folds of time; 1 on the diagonal.
        control: (run, run) its 95th percentile where the states of the column are shifted in time.
        predicted: name of the row of `score` that is in `bits_per_spike`; `IN_TRAINING` where no time is held out by
            all runs, or their counts differ: then spikes ahead, as training had them.
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
