"""Behaviour some time ahead, read from forecasts of the state, with intervals that are calibrated at each horizon."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import xarray as xr

from ldmfilter.analysis.behavior import Behavior
from ldmfilter.analysis.blocks import GUARD
from ldmfilter.analysis.nested import FAST
from ldmfilter.analysis.readout import BehaviorReport, read_behavior

LEVEL = 0.95
SHIFTS = 20  # of the control, which is not reported


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
    for i, horizon in enumerate(latents["ahead"].to_numpy().tolist()):
        later = [
            dataclasses.replace(one, time=one.time - horizon, stop=None if one.stop is None else one.stop - horizon)
            for one in behavior
        ]
        states = latents.assign(filtered_mean=latents["ahead_mean"][i], filtered_cov=latents["ahead_cov"][i])
        reading = read_behavior(states, later, None, ci, min_speed, GUARD + horizon, SHIFTS, FAST)
        for report in reading.reports:
            if not isinstance(report, BehaviorReport):
                continue
            at = next((one for one in report.intervals if one.level == LEVEL), None)
            score = [getattr(report.read, key, None) for key in ("r2", "median_error")]
            score += [getattr(at, key, None) for key in ("coverage", "width")]
            found.append(BehaviorAhead(report.name, horizon, report.chosen, *score))
            for end in ("mean", "ci"):
                if f"{report.name}_{end}" in reading.latents:
                    values = reading.latents[f"{report.name}_{end}"].drop_vars("ahead", errors="ignore")
                    pieces.setdefault(f"{report.name}_ahead_{end}", []).append(values)
    result = latents.copy()
    for name, parts in pieces.items():
        if len(parts) == latents.sizes["ahead"]:
            result[name] = xr.concat(parts, latents["ahead"]).transpose("ahead", "time", ...)
            result[name].attrs = parts[0].attrs | ({"of": name.replace("_ci", "_mean")} if name.endswith("_ci") else {})
    result.attrs["behavior_ahead"] = json.dumps([dataclasses.asdict(one) for one in found])
    return result, tuple(found)
