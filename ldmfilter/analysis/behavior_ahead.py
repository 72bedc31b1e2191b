"""Behaviour at other times than now: some time ahead, from forecasts of the state, and from states that wait.

Forecasts have intervals that are calibrated at each horizon. Behaviour is read at several lags, or without behaviour
the states' own certainty is measured there, so that a lag can be chosen.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import ndtri
from sklearn.neighbors import KNeighborsRegressor

from ldmfilter.analysis.behavior import Behavior, cross
from ldmfilter.analysis.blocks import GUARD, Bins, bins_of
from ldmfilter.analysis.intervals import FAST, conformal_quantile, fit_bins
from ldmfilter.analysis.readout import BehaviorReport, read_behavior
from ldmfilter.filter.linalg import one_thread
from ldmfilter.filter.model import LDMFilter

LEVEL = 0.95
SHIFTS = 20  # of the control, which is not reported
LAGS = (0.1, 0.2, 0.5, 1.0, 2.0)  # s
NEIGHBOURS = 25


@dataclasses.dataclass(frozen=True)
class BehaviorAhead:
    """Accuracy of one variable at one horizon, on blocks that its readout and its calibration did not see.

    Attributes:
        name: of the variable.
        ahead: s.
        readout: the one that is best there, of `readout.FAST`.
        r2: as of `ReadoutScore`; None without test blocks, as all that follows.
        median_error: median absolute error, in the behaviour's unit.
        coverage: share of values inside 95 % intervals; None where not calibrated.
        width: mean width of these, in the behaviour's unit; likewise.
    """

    name: str
    ahead: float
    readout: str
    r2: float | None
    median_error: float | None
    coverage: float | None
    width: float | None


def read_behavior_ahead(
    latents: xr.Dataset, behavior: Sequence[Behavior], ci: float = 0.95, min_speed: float = 0.0
) -> tuple[xr.Dataset, tuple[BehaviorAhead, ...]]:
    """Read behaviour from forecasts and add it: `<name>_ahead_mean` (ahead, time) and `<name>_ahead_ci` (ahead, time,
    bound), where calibrated, are of the time `ahead` s after the bin.

    At each horizon readouts (`readout.FAST`) are fitted, chosen and calibrated anew, as `read_behavior` does it, on
    forecasts and what came so much later: a forecast is drawn towards the mean, and a readout of filtered states would
    take it for a state there. Blocks are the horizon further apart.

    Parameters
    ----------
    latents : xarray.Dataset
        With `ahead_mean` and `ahead_cov`, of `LDMFilter.decode` with `ahead`.
    behavior : sequence of Behavior
        The variables, from `choose_behavior`; those of classes are left out.
    ci : float
        Level of the intervals.
    min_speed : float
        As `read_behavior` takes it, the speed at the time that the forecast is of.

    Returns
    -------
    latents : xarray.Dataset
        The states with what was read, its accuracy as JSON in the attribute `behavior_ahead`.
    accuracy : tuple of BehaviorAhead
        For each variable and horizon: readout, r2, median_error, coverage and width of 95 % intervals.

    Raises
    ------
    InputError
        As `read_behavior`.

    Examples
    --------
    >>> from ldmfilter.analysis.behavior_ahead import read_behavior_ahead
    >>> states = model.decode(counts, ahead=[0.4])
    >>> later, accuracy = read_behavior_ahead(states, ldmfilter.choose_behavior(session, ["linear_position"]))
    >>> later["linear_position_ahead_mean"].sizes["ahead"], accuracy[0].ahead
    (1, 0.4)
    """
    pieces: dict[str, list[xr.DataArray]] = {}
    found = []
    for i, horizon in enumerate(latents["ahead"].values.tolist()):
        later = [
            dataclasses.replace(one, time=one.time - horizon, stop=None if one.stop is None else one.stop - horizon)
            for one in behavior
        ]
        states = latents.assign(filtered_mean=latents["ahead_mean"][i], filtered_cov=latents["ahead_cov"][i])
        reading = read_behavior(states, later, None, ci, min_speed, GUARD + horizon, SHIFTS, FAST)
        for report in reading.reports:
            if not isinstance(report, BehaviorReport):
                continue
            at = {one.level: one for one in report.intervals}.get(LEVEL)
            score = [getattr(report.read, key, None) for key in ("r2", "median_error")]
            score += [getattr(at, key, None) for key in ("coverage", "width")]
            found.append(BehaviorAhead(report.name, horizon, report.chosen, *score))
            for end in ("mean", "ci"):
                if (name := f"{report.name}_{end}") in reading.latents:
                    values = reading.latents[name].drop_vars("ahead", errors="ignore")
                    pieces.setdefault(f"{report.name}_ahead_{end}", []).append(values)
    result = latents.copy()
    for name, parts in pieces.items():
        if len(parts) == latents.sizes["ahead"]:
            result[name] = xr.concat(parts, latents["ahead"])
            if name.endswith("_ci"):
                result[name].attrs["of"] = name.replace("_ci", "_mean")
    result.attrs["behavior_ahead"] = json.dumps([dataclasses.asdict(one) for one in found])
    return result, tuple(found)


#: By the name of a variable, or of a kind of states, a row for filtered states (`lag` 0), for each lag, s, and for
#: smoothed states (None).
Lags = dict[str, list[dict[str, Any]]]


@one_thread(every_library=True)
def read_at_lags(model: LDMFilter, counts: xr.DataArray, behavior: Sequence[Behavior], min_speed: float = 0.0) -> Lags:
    """Read behaviour at each of `LAGS`, in whole frames of the shortest, from 25 nearest neighbours in other
    blocks.

    Args:
        model: a fitted filter.
        counts: (time, unit) of the session.
        behavior, min_speed: as `read_behavior` takes them; variables of classes are left out.

    Returns:
        In the behaviour's unit the `median_error`, absolute, and the `width` of intervals of one width, which hold 95 %
        of the errors in other blocks; the `coverage`, the share of the values inside these. Without the variables whose
        judged time is a single block.

    Raises:
        InputError: as `read_behavior`.
    """
    found: Lags = {}
    for lag, latents in () if all(one.categories for one in behavior) else at_lags(model, counts):
        for bins in bins_of(latents, behavior, min_speed, GUARD):
            if bins.folds > 1 and not bins.variable.categories:
                found.setdefault(bins.variable.name, []).append({"lag": lag, **_errors(bins)})
    return found


def widths_at_lags(model: LDMFilter, counts: xr.DataArray) -> Lags:
    """The mean `width` of the states' 95 % intervals over observed bins, of standard deviations, at each of `LAGS`, by
    the kind of states ("slow states", "fast states", or "states" alone); for sessions without behaviour."""
    found: Lags = {}
    for lag, latents in at_lags(model, counts):
        cov = latents["filtered_cov"].values[latents["observed"].values]
        width = 2 * float(ndtri(0.5 + 0.5 * LEVEL)) * np.sqrt(np.diagonal(cov, axis1=1, axis2=2)).mean(0)
        kinds = latents["dynamics"].values if "dynamics" in latents else np.full(width.size, "")
        for kind in dict.fromkeys(kinds.tolist()):
            rows = found.setdefault(f"{kind} states".strip(), [])
            rows.append({"lag": lag, "width": float(width[kinds == kind].mean())})
    return found


def at_lags(model: LDMFilter, counts: xr.DataArray) -> Iterator[tuple[float | None, xr.Dataset]]:
    """Filtered states (0), those at each of `LAGS` (s) and smoothed ones (None), each as `filtered_mean` and
    `filtered_cov`."""
    frame = min(part.frame_bins_ for part in model.parts) * model.bin_size_
    seconds = counts.sizes["time"] * model.bin_size_
    lags = sorted({n * frame for n in (int(lag / frame + 1e-6) for lag in LAGS) if n and n * frame <= seconds})
    for lag in (0.0, *lags, None):
        latents = model.decode(counts, smooth=lag is None, lag=lag or None)
        kind = "smoothed" if lag is None else "lagged" if lag else "filtered"
        yield lag, latents.assign({f"filtered_{part}": latents[f"{kind}_{part}"] for part in ("mean", "cov")})


def _errors(bins: Bins) -> dict[str, float]:
    rows = np.flatnonzero(bins.judged)
    read, half = np.full((2, bins.truth.size), np.nan)
    for train, test in cross(rows, bins.fold):
        neighbours = KNeighborsRegressor(n_neighbors=min(NEIGHBOURS, train.size))
        read[test] = fit_bins(bins, neighbours, bins.truth[train], train).predict(bins.states[test])
    error = np.abs(bins.variable.difference(bins.truth, read))
    for train, test in cross(rows, bins.fold):
        half[test] = conformal_quantile(error[train], LEVEL)
    return {
        "median_error": float(np.median(error[rows])),
        "width": float(2 * half[rows].mean()),
        "coverage": float((error <= half)[rows].mean()),
    }
