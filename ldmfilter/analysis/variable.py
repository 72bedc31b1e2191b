"""One behavioural variable: its samples, its values in bins, and errors of what is read, on a line or on a circle."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ldmfilter.analysis.statistics import Array

#: Behaviour is interpolated over gaps of at most so many bins, or of its own usual step where that is longer.
WIDEST_GAP = 3.0


@dataclass(frozen=True, eq=False)
class Behavior:
    """One behavioural variable, as it was sampled, or a column of an interval table.

    name: safe as the name of a variable; path: where it lies in the session, with the column as [0]
    unit: as the file gives it, "" where it gives none
    time (sample,), s, rising; values (sample,), NaN where missing; lost (sample,): where -1 or the like stood for
        "tracking lost"
    period: of a circular variable, in its unit (2 pi or 360); None for one on a line
    classes: labels, numbers or texts, of a variable of a few distinct values; its `values` are their positions
    stop (sample,), s: of a column of a table, whose value holds from `time` to `stop`, a trial; None for a series
    note: assumptions that were made about it, in words, or ""
    """

    name: str
    path: str
    unit: str
    time: Array
    values: Array
    lost: Array
    period: float | None = None
    classes: Array | None = None
    stop: Array | None = None
    note: str = ""

    @property
    def categories(self) -> bool:
        """True for a variable that is read as classes."""
        return self.classes is not None

    @property
    def kinds(self) -> int:
        """The number of classes."""
        return 0 if self.classes is None else self.classes.size

    def label(self, value: float) -> str:
        """A value as text: the name of a class, or a number."""
        if self.classes is None:
            return f"{value:g}"
        name = self.classes[int(value)]
        return str(name) if self.classes.dtype.kind == "U" else f"{name:g}"

    def rows(self, time: Array) -> Array:
        """The sample (time,) in whose trial each time, s, lies, -1 for none; of a column of a table."""
        assert self.stop is not None
        row = np.searchsorted(self.time, time, side="right") - 1
        return np.where((row >= 0) & (time < self.stop[row]), row, -1)

    def difference(self, a: Array, b: Array) -> Array:
        """a - b in the variable's unit, the short way round where it is circular.

        >>> Behavior("x", "x", "deg", *[np.zeros(0)] * 3, period=360.0).difference(np.array([350.0]), np.array([10.0]))
        array([-20.])
        """
        if self.period is None:
            return a - b
        return (a - b + self.period / 2) % self.period - self.period / 2

    def mean(self, values: Array, axis: int) -> Array:
        """Mean along an axis; of a circular variable the direction of the mean vector."""
        if self.period is None:
            return values.mean(axis)
        turn = 2 * np.pi / self.period
        return self.wrap(np.arctan2(np.sin(turn * values).mean(axis), np.cos(turn * values).mean(axis)) / turn)

    @property
    def start(self) -> float:
        """Lowest value of a circular variable: 0 or minus half a period, as the series has it."""
        half = (self.period or 0.0) / 2
        return -half if np.nanmin(self.values, initial=0.0) < -2e-3 * half else 0.0

    def wrap(self, values: Array) -> Array:
        """Bring circular values into the period that the series uses."""
        if self.period is None:
            return values
        return (values - self.start) % self.period + self.start

    def encode(self, values: Array) -> Array:
        """Targets for a regression of values (bin, series): themselves, or cosines, then sines, where circular."""
        if self.period is None:
            return values
        angle = 2 * np.pi / self.period * values
        return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)

    def decode(self, targets: Array) -> Array:
        """Values (bin, series) from predicted targets."""
        if self.period is None:
            return targets
        cosine, sine = np.split(targets, 2, axis=1)
        return self.wrap(np.arctan2(sine, cosine) * self.period / (2 * np.pi))


def score(variable: Behavior, truth: Array, read: Array) -> tuple[float, float]:
    """R2 and median absolute error of values (bin,), along the shorter arc where circular."""
    away = variable.difference(read, truth)
    return float(r2(variable, truth, read)), float(np.median(np.abs(away)))


def r2(variable: Behavior, truth: Array, read: Array) -> Array:
    """R2 over the bins of values (bin, ...), along the shorter arc where circular."""
    spread = variable.difference(truth, variable.mean(truth, 0))
    return np.asarray(1 - (variable.difference(read, truth) ** 2).mean(0) / (spread**2).mean(0))


def thin(rows: Array, most: int) -> Array:
    """At most so many of the rows, evenly spread."""
    return rows if rows.size <= most else rows[np.linspace(0, rows.size - 1, most).round().astype(int)]


def positions(values: Array, classes: Any, none: float = np.nan) -> Array:
    """Positions of values among the classes, which rise; `none` of those that are no class."""
    return np.where(np.isin(values, classes), np.searchsorted(classes, values), none)


def cross(rows: Array, fold: Array) -> Iterator[tuple[Array, Array]]:
    """For each fold the positions `rows` (row,) that lie in others, and those in it, by the fold (row,) of each."""
    for number in np.unique(fold):
        yield rows[fold != number], rows[fold == number]


def align(behavior: Behavior, time: Array, bin_size: float) -> tuple[Array, Array]:
    """Values (time,) of the variable in bins with rising centres `time` (time,), s, and "used" (time,), or the
    exclusion reason: "nan", "lost", "gap" or "outside".

    Interpolated at the bin's centre from the samples on both sides (along the shorter arc where circular); the nearest
    sample of a category. NaN where these lie too far apart.
    """
    if behavior.stop is not None:
        row = behavior.rows(time)
        values = np.where(row >= 0, behavior.values[row], np.nan)
        return values, np.select([row < 0, np.isnan(values)], ["outside", "nan"], "used")
    known = np.isfinite(behavior.values)
    t, v = behavior.time[known], behavior.values[known]
    step = float(np.median(np.diff(behavior.time))) if behavior.time.size > 1 else 0.0
    widest = max(WIDEST_GAP * bin_size, 1.5 * step)
    right = np.searchsorted(t, time).clip(0, t.size - 1)
    left = (right - (t[right] > time)).clip(0)
    near = np.where(time - t[left] <= t[right] - time, left, right)
    inside = (t[left] <= time) & (time <= t[right])
    usable = np.where(inside, t[right] - t[left] <= widest, np.abs(t[near] - time) <= bin_size)
    if behavior.categories:
        values = v[near]
    else:
        share = np.where(inside, (time - t[left]) / np.maximum(t[right] - t[left], 1e-12), 0.0)
        between = v[left] + share * behavior.difference(v[right], v[left])
        values = behavior.wrap(np.where(inside, between, v[near]))
    # The exclusion reason follows from the samples on both sides, missing ones included.
    after = np.searchsorted(behavior.time, time).clip(0, behavior.time.size - 1)
    both = np.stack([(after - 1).clip(0), after])
    beyond = (time < behavior.time[0]) | (time > behavior.time[-1])
    far = np.abs(behavior.time[both] - time).min(0) > widest
    lost, missing = behavior.lost[both].any(0), np.isnan(behavior.values[both]).any(0)
    reason = np.select([usable, beyond, far, lost, missing], ["used", "outside", "gap", "lost", "nan"], "gap")
    return np.where(usable, values, np.nan), reason


def speed(behavior: Behavior, values: Array, segment: Array, bin_size: float) -> Array:
    """Speed (time,), unit per s, of aligned values (time,): over the bins on both sides, over one side at an edge.

    NaN for a bin without a value or without a neighbour.
    """
    step = behavior.difference(values[1:], values[:-1]) / bin_size
    step[segment[1:] != segment[:-1]] = np.nan
    both = np.stack([np.append(np.nan, step), np.append(step, np.nan)])
    with np.errstate(invalid="ignore"):
        return np.where(np.isfinite(values), np.abs(np.nansum(both, 0)) / np.isfinite(both).sum(0), np.nan)
