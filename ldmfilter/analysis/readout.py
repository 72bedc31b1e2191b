"""Readout of behaviour from states, with conformal intervals, judged on time that neither of them saw.

The states are causal and fixed; only the readout is fitted. The judged time is cut into blocks, which are dealt to
folds. For each pair of folds every readout is fitted on the other folds and reads both. A fold is judged by the mean
of the readouts of all pairs that it is in. The errors of these readouts at the other fold of their pair choose the
readout and calibrate its intervals (`analysis.intervals`). None of this saw a block of the judged fold.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr

from ldmfilter.analysis.bayesian_decoder import Decoder, decode_counts
from ldmfilter.analysis.behavior import Behavior, as_behavior, cross, r2, score, speed
from ldmfilter.analysis.blocks import GUARD, LEAST_FOLDS, Bins, Judged, against_surrogates, bins_of
from ldmfilter.analysis.classes import ClassReport, read_classes
from ldmfilter.analysis.intervals import LEVELS as LEVELS
from ldmfilter.analysis.intervals import DistributionScore, IntervalScore, Reader, Third, VariableReading
from ldmfilter.analysis.nested import FAST as FAST
from ldmfilter.analysis.nested import READOUTS, Readout, keys_of, predict_all
from ldmfilter.analysis.statistics import Array
from ldmfilter.analysis.text import SPEED, SPIKES
from ldmfilter.data.counts import is_signal
from ldmfilter.data.frames import frame_bins, sum_frames
from ldmfilter.errors import InputError
from ldmfilter.filter.linalg import one_thread
from ldmfilter.html import table

SHIFTS = 99  # of the control


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


@dataclass(frozen=True, repr=False)
class BehaviorReport(Judged):
    """Accuracy of the readout of one variable, and of its intervals.

    As `Judged`, and
    calibrated: whether the intervals were calibrated
    readouts: each of `READOUTS` on the test blocks, but networks for few bins; empty without test blocks
    chosen: the readout with the least error on all judged blocks; chosen_in: share of the folds that are read by it
    follow_state: share of the folds whose intervals are made of errors near the state, not of all errors; 0 without
        intervals
    read: of each fold its chosen readout, as `<name>_mean` holds them
    intervals: one for each level, empty where not calibrated
    distribution: score of the distribution whose quantiles are the bounds of all intervals; None where not calibrated
    thirds: coverage and width of intervals of level `ci` in thirds of the judged bins by spikes in the last second,
        speed, predicted width, and the value itself; empty where not calibrated
    value_range: the least and the greatest value in the judged bins; None where not calibrated
    """

    unit: str
    period: float | None
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
    value_range: tuple[float, float] | None

    @property
    def circular(self) -> bool:
        """True for a variable with a period."""
        return self.period is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as JSON holds them."""
        return {**asdict(self), "circular": self.circular, "categories": False}


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
        return table("behaviour, read from states", map(_row, self.reports), heads)


def _row(one: AnyReport) -> tuple[str, ...]:
    """A report as a row: name, readout, R2 or balanced accuracy, median error, coverage, p of the control, note."""
    accuracy = error = coverage = ""
    if isinstance(one, ClassReport):
        accuracy = f"balanced {one.read.balanced_accuracy:.1%}, chance {one.chance:.1%}" if one.read else ""
    else:
        error = f"{one.read.median_error:.3g} {one.unit}, the median" if one.read else ""
        accuracy = f"R2 {one.read.r2:.3f}" if one.read else ""
        of = [i for i in one.intervals if i.level == 0.95]
        coverage = "".join(f"{i.coverage:.1%}, {i.width:.3g} {one.unit} wide" for i in of)
    return one.name, one.chosen, accuracy, error, coverage, f"{one.control.p:.2g}" if one.control else "", one.note


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
    segment = np.asarray(latents["segment"])
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
                pace = speed(bins.variable, bins.truth, segment, bins.size)
                ordered = {SPIKES: _spikes(latents, counts), SPEED: pace}
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
    total = counts.to_numpy().sum(1, dtype=np.float32)[:, None]
    return sum_frames(total, np.asarray(latents["segment"]), k)[:, 0].astype(np.float64)


def _report(
    reading: VariableReading, counts: xr.DataArray | None, shifts: int, ordered: Mapping[str, Array]
) -> BehaviorReport:
    bins, variable, rows = reading.bins, reading.bins.variable, np.flatnonzero(reading.bins.tested)
    note = ""
    if not bins.held_out:
        note = "training saw all of the time: the readout is not judged on new time, and has no intervals"
    elif not bins.calibrated:
        few = f"({bins.blocks}, where {LEAST_FOLDS} are needed)"
        note = f"too few blocks of time that training never saw to calibrate {few}: no intervals"

    def scored(values: Array) -> ReadoutScore:
        return ReadoutScore(*score(variable, bins.truth[rows], values[rows]))

    decoder = None
    if counts is not None and rows.size:
        decoded, window = decode_counts(bins, counts)
        decoder = Decoder(*score(variable, bins.truth[rows], decoded), window=window)
    fast = [readout for readout in reading.readouts.values() if readout.fast]
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
        control=_control(bins, fast, shifts) if rows.size else None,
        decoder=decoder,
        **reading.scores(ordered),
    )


def _control(bins: Bins, readouts: Sequence[Readout], shifts: int) -> Control:
    """Compare the best fast readout of the behaviour with that of each of its surrogates."""
    rows, shifted = bins.surrogates(shifts)
    read = np.full((len(keys_of(readouts)), *shifted.shape), np.nan)
    for train, test in cross(np.arange(rows.size), bins.fold[rows]):
        read[:, test] = predict_all(bins, readouts, shifted[train], rows[train], rows[test])
    best = np.max([r2(bins.variable, shifted, values) for values in read], axis=0)
    return Control(r2=float(best[0]), **against_surrogates(best))
