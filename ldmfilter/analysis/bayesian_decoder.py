"""Bayesian decoder of behaviour from counts: a supervised baseline for readouts of the states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter1d

from ldmfilter.analysis.behavior import Behavior, cross, thin
from ldmfilter.analysis.blocks import Bins
from ldmfilter.data.tables import Array

WINDOWS = (1, 3, 5, 9, 15)  # bins of counts, of which the decoded bin is the last
CURVE_BINS = 40  # of a tuning curve
MOST_COMPARED = 2_000  # bins on which a window is chosen


@dataclass(frozen=True)
class Decoder:
    """The supervised baseline: a Bayesian decoder of the counts of independent Poisson units.

    r2; median_error: median absolute error, in the behaviour's unit
    window: s of counts, the decoded bin's the last, chosen inside the fitted blocks (median over the folds)
    """

    r2: float
    median_error: float
    window: float


def decode_counts(bins: Bins, counts: xr.DataArray) -> tuple[Array, float]:
    """Decode the values (row,) of a variable in the tested bins from counts (time, unit), each fold by tuning curves of
    the others. Returns them and the window, s."""
    variable, rows = bins.variable, np.flatnonzero(bins.tested)
    y, fold = bins.truth[rows], bins.fold[rows]
    windows = _trailing_means(counts, rows)
    edges = _edges(variable, y)

    def decode(window: int, train: Array, new: Array) -> Array:
        return _most_probable(windows[window][train], y[train], windows[window][new], edges, variable)

    decoded, chosen = np.full(rows.size, np.nan), []
    for train, test in cross(np.arange(rows.size), fold):
        some = thin(train, MOST_COMPARED)
        errors = dict.fromkeys(WINDOWS, 0.0)
        for inner, held in cross(some, fold[some]) if np.unique(fold[some]).size > 1 else ():
            for window in WINDOWS:
                away = variable.difference(decode(window, inner, held), y[held])
                errors[window] += float((away != 0).sum() if variable.categories else np.abs(away).sum())
        chosen.append(min(errors, key=errors.__getitem__))
        decoded[test] = decode(chosen[-1], train, test)
    return decoded, float(np.median(chosen)) * bins.size


def _trailing_means(counts: xr.DataArray, rows: Array) -> dict[int, Array]:
    """For each window mean counts (bin, unit) of the bins up to this one in its segment; NaN for an unseen unit."""
    values = counts.values.astype(float)
    if "unit_observed" in counts.coords:
        values = np.where(counts["unit_observed"].values, values, np.nan)
    segment = counts["segment"].values
    result, total = {}, np.zeros((rows.size, values.shape[1]))
    number = np.zeros(rows.size)
    for back in range(max(WINDOWS)):
        at = np.maximum(rows - back, 0)
        there = (rows >= back) & (segment[at] == segment[rows])
        total = total + np.where(there[:, None], values[at], 0.0)
        number += there
        if back + 1 in WINDOWS:
            result[back + 1] = total / number[:, None]
    return result


def _edges(variable: Behavior, y: Array) -> Array:
    """Edges of the tuning curves' bins: one bin a category, or `CURVE_BINS` over the range or the period."""
    if variable.categories:
        return np.arange(variable.kinds + 1) - 0.5
    low, high = float(y.min()), float(y.max())
    if variable.period is not None:
        low, high = variable.start, variable.start + variable.period
    return np.linspace(low, high, CURVE_BINS + 1)


def _most_probable(counted: Array, y: Array, new: Array, edges: Array, variable: Behavior) -> Array:
    """Most probable value (bin,) of counts `new` (bin, unit) under independent Poisson units and a flat prior (Zhang et
    al. 1998), by tuning curves of other counts and their values y (bin,). A unit is left out where it was not seen.

    Counts are means a bin over a window: a flat prior has its maximum at the same value as for their sum.
    """
    place = (np.searchsorted(edges, y, side="right") - 1).clip(0, edges.size - 2)
    inside = np.eye(edges.size - 1)[place].T
    occupancy, summed = inside @ np.isfinite(counted), inside @ np.nan_to_num(counted)  # (place, unit)
    if not variable.categories:
        # Neighbouring values are alike; what was visited seldom borrows from them.
        mode = "wrap" if variable.period is not None else "nearest"
        occupancy, summed = (gaussian_filter1d(one, 1.0, axis=0, mode=mode) for one in (occupancy, summed))
    visited = occupancy.max(1) > 0.1
    rate = (summed / np.maximum(occupancy, 1e-12))[visited].clip(0.02 / len(y))
    likelihood = np.nan_to_num(new) @ np.log(rate).T - np.isfinite(new) @ rate.T
    middle = (edges[:-1] + edges[1:]) / 2
    return middle[visited][likelihood.argmax(1)]
