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
from rich.console import Console

from ldmfilter.analysis.bayesian_decoder import Decoder, decode_counts
from ldmfilter.analysis.behavior import Behavior, as_behavior, cross, r2, score, speed
from ldmfilter.analysis.blocks import GUARD, LEAST_FOLDS, Judged, Surrogates, against_surrogates, bins_of
from ldmfilter.analysis.classes import ClassReport, read_classes
from ldmfilter.analysis.intervals import FAST as FAST
from ldmfilter.analysis.intervals import LEVELS as LEVELS
from ldmfilter.analysis.intervals import (
    READOUTS,
    SPEED,
    SPIKES,
    DistributionScore,
    IntervalScore,
    Reader,
    Readout,
    Third,
    VariableReading,
)
from ldmfilter.data.counts import is_signal
from ldmfilter.data.frames import frame_bins, sum_frames
from ldmfilter.data.tables import Array
from ldmfilter.errors import InputError
from ldmfilter.filter.linalg import one_thread
from ldmfilter.html import table
from ldmfilter.text import print_lines, print_table

SHIFTS = 99  # of the control


@dataclass(frozen=True)
class ReadoutScore:
    """Accuracy of a readout on the test blocks: r2; median_error: median absolute error in the behaviour's unit."""

    r2: float
    median_error: float


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

    @property
    def circular(self) -> bool:
        """True for a variable with a period."""
        return self.period is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as JSON holds them."""
        return {**asdict(self), "circular": self.circular, "categories": False}

    @property
    def kind(self) -> str:
        """What is special of the variable, in words that follow its path."""
        return ", circular" * self.circular

    def row(self) -> tuple[str, str, str]:
        """Accuracy, error and coverage, in words."""
        of = [i for i in self.intervals if i.level == 0.95]
        accuracy, error = "", ""
        if self.read:
            accuracy, error = f"R2 {self.read.r2:.3f}", f"{self.read.median_error:.3g} {self.unit}, the median"
        return accuracy, error, "".join(f"{i.coverage:.1%}, {i.width:.3g} {self.unit} wide" for i in of)

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
        if self.intervals:
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
            print_lines(console, "Winkler score: the width, and more for values outside; the lower the better")
        if self.value_range:
            low, high = self.value_range
            print_lines(console, f"{self.name} goes from {low:.3g} to {high:.3g} {self.unit}".rstrip())
        if one := self.distribution:
            rank = f"{one.width_rank:.2f} +- {one.width_rank_se:.2f}"
            print_lines(
                console,
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
    total = counts.values.sum(1, dtype=np.float32)[:, None]
    return sum_frames(total, latents["segment"].values, k)[:, 0].astype(float)


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
    return Control(r2=float(best[0]), **against_surrogates(best))
