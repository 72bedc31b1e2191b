"""Bayesian decoder of behaviour from counts: a supervised baseline for readouts of the states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from sklearn.model_selection import LeaveOneGroupOut

from ldmfilter.analysis.behavior import Behavior, thin

WINDOWS = (1, 3, 5, 9, 15)  # bins of counts, of which the decoded bin is the last
CURVE_BINS = 40  # of a tuning curve
MOST_COMPARED = 2_000  # bins on which a window is chosen
_CHUNK = 2_000  # bins decoded at a time


@dataclass(frozen=True)
class Decoder:
    """The supervised baseline: a Bayesian decoder of the counts of independent Poisson units (pynapple).

    r2; median_error: median absolute error, in the behaviour's unit
    window: s of counts, the decoded bin's the last, chosen inside the fitted blocks (median over the folds)
    """

    r2: float
    median_error: float
    window: float


def decode_counts(
    variable: Behavior, counts: xr.DataArray, rows: np.ndarray, y: np.ndarray, fold: np.ndarray
) -> tuple[np.ndarray, float]:
    """Decode each fold by tuning curves of the others.

    Args:
        variable: the behaviour.
        counts: (time, unit).
        rows: (bin,) positions in time of the bins to decode.
        y: (bin,) values of the behaviour in them.
        fold: (bin,) folds, two or more.

    Returns:
        (bin,) decoded values, and the window, s.
    """
    size = float(counts.attrs["bin_size"])
    windows = _trailing_means(counts, rows)
    edges = _edges(variable, y)

    def decode(window: int, train: np.ndarray, new: np.ndarray) -> np.ndarray:
        return _most_probable(windows[window][train], y[train], windows[window][new], edges, size, variable)

    decoded, chosen = np.full(rows.size, np.nan), []
    splitter = LeaveOneGroupOut()
    for train, test in splitter.split(rows, groups=fold):
        some = thin(train, MOST_COMPARED)
        errors = dict.fromkeys(WINDOWS, 0.0)
        if np.unique(fold[some]).size > 1:
            for inner, held in splitter.split(some, groups=fold[some]):
                for window in WINDOWS:
                    away = variable.difference(decode(window, some[inner], some[held]), y[some[held]])
                    errors[window] += float((away != 0).sum() if variable.categories else np.abs(away).sum())
        chosen.append(min(errors, key=errors.__getitem__))
        decoded[test] = decode(chosen[-1], train, test)
    return decoded, float(np.median(chosen)) * size


def _trailing_means(counts: xr.DataArray, rows: np.ndarray) -> dict[int, np.ndarray]:
    """For each window mean counts (bin, unit) of the bins up to this one in its segment; NaN for an unseen unit."""
    values = counts.to_numpy().astype(np.float64)
    if "unit_observed" in counts.coords:
        values = np.where(counts["unit_observed"].to_numpy(), values, np.nan)
    segment = np.asarray(counts["segment"])
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


def _edges(variable: Behavior, y: np.ndarray) -> np.ndarray:
    """Edges of the tuning curves' bins: one bin a category, or `CURVE_BINS` over the range or the period."""
    if variable.categories:
        values = np.unique(y)
        middle = (values[1:] + values[:-1]) / 2
        return np.concatenate([[2 * values[0] - middle[0]], middle, [2 * values[-1] - middle[-1]]])
    low, high = float(y.min()), float(y.max())
    if variable.period is not None:
        low = variable.start
        high = low + variable.period
    return np.linspace(low, high, CURVE_BINS + 1)


def _most_probable(
    counted: np.ndarray, y: np.ndarray, new: np.ndarray, edges: np.ndarray, size: float, variable: Behavior
) -> np.ndarray:
    """Most probable value (bin,) under independent Poisson units and a flat prior (Zhang et al. 1998).

    Counts are means a bin over a window: a flat prior has its maximum at the same value as for their sum.
    """
    import pynapple as nap
    from scipy.ndimage import gaussian_filter1d

    # Every bin is decoded by itself, so the bins are lined up on a clock without gaps, as pynapple wants them.
    clock = size * (np.arange(max(len(counted), len(new))) + 0.5)
    units = np.arange(counted.shape[1])
    curves = nap.compute_tuning_curves(
        nap.TsdFrame(t=clock[: len(counted)], d=np.nan_to_num(counted) / size, columns=units),
        nap.Tsd(t=clock[: len(y)], d=y),
        bins=[edges],
        feature_names=["value"],
    )
    occupancy = curves.attrs["occupancy"]
    if not variable.categories:
        # Neighbouring values are alike; what was visited seldom borrows from them.
        mode = "wrap" if variable.period is not None else "nearest"
        weight = gaussian_filter1d(occupancy, 1.0, mode=mode)
        summed = gaussian_filter1d(np.nan_to_num(curves.to_numpy()) * occupancy, 1.0, axis=1, mode=mode)
        curves = curves.copy(data=summed / np.maximum(weight, 1e-12))
        occupancy = weight
    curves = curves.isel(value=np.flatnonzero(occupancy > 0.1))
    curves = curves.clip(min=0.02 / max(size * len(y), size))
    result = []
    for first in range(0, len(new), _CHUNK):
        part = nap.TsdFrame(t=clock[: len(new[first : first + _CHUNK])], d=new[first : first + _CHUNK], columns=units)
        decoded, _ = nap.decode_bayes(curves, part, epochs=part.time_support, bin_size=size)
        result.append(decoded.values)
    return np.concatenate(result)
