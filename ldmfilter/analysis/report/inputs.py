"""A decoded run, and the choice of the stretches of time and the order of units in which the report shows it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.decomposition import PCA

from ldmfilter.analysis.checks import Diagnosis
from ldmfilter.analysis.plots import class_positions
from ldmfilter.analysis.trials import Trials
from ldmfilter.data.counts import is_signal
from ldmfilter.data.session import Session
from ldmfilter.data.tables import Array
from ldmfilter.data.windows import stretches
from ldmfilter.filter.model import LDMFilter
from ldmfilter.filter.runs import Run

Span = tuple[float, float]
_PLACES = 20  # bins of the first behaviour by which units are ordered, with as many observations in each


@dataclass(frozen=True, eq=False)
class Inputs:
    """All that a report is made of.

    Attributes:
        run, session: the run folder, and its session, with the behaviour.
        counts: (time, unit) in the run's own stretches, reserved time included, as `run.recording` gives them.
        model: the run's model.
        latents: of these counts, from `model.decode`; with `<name>_mean`, `<name>_ci`, `<name>_true` where behaviour
            was read, as `read_behavior` adds them.
        diagnosis: as `check` gives it.
        reports: `to_dict()` of the reports of `read_behavior`, one for each behaviour.
        options: of the command that makes this report, as words.
        trials, trials_note: states in trials and how well their conditions are read, or why there are none.
        lags: behaviour read at each lag, as `read_at_lags` gives it, plain types; without behaviour `widths_at_lags`.
    """

    run: Run
    session: Session
    counts: xr.DataArray
    model: LDMFilter
    latents: xr.Dataset
    diagnosis: Diagnosis
    reports: Sequence[Mapping[str, Any]] = ()
    options: Sequence[str] = ()
    trials: Trials | None = None
    trials_note: str = ""
    lags: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """The behaviours that were read, in the order in which they were asked for."""
        return [str(one["name"]) for one in self.reports]

    @property
    def time(self) -> Array:
        """(time,) middles of the bins, s."""
        return self.latents["time"].values

    @property
    def judged(self) -> Array:
        """(time,) observed bins that training never saw; where there are none, all observed ones."""
        observed = self.latents["observed"].values
        judged = ~self.latents["trained"].values & observed
        return judged if judged.any() else observed

    def measured(self, name: str) -> Array:
        """(time,) a behaviour as it was measured, of classes their positions; NaN where it was not."""
        if f"{name}_class" in self.latents:
            return class_positions(self.latents, name)
        return self.latents[f"{name}_true"].values

    def spike_times(self, column: int) -> Array:
        """(spike,) s, of the unit in a column of the counts."""
        units = self.session.units["unit"].values
        return self.session.spikes_of(int(np.flatnonzero(units == self.model.unit_ids_[column])[0]))

    def busiest(self, seconds: float) -> Span:
        """The `seconds` of judged time in which the first behaviour varies most, or without behaviour those of the
        most spikes; where no judged stretch is so long, the longest one."""
        spans = stretches(self.counts.isel(time=np.flatnonzero(self.judged)))
        seconds = min(seconds, max(stop - start for start, stop in spans))
        value = self.measured(self.names[0]) if self.names else self.counts.sum("unit").values.astype(float)

        def activity(start: float) -> float:
            inside = value[(self.time >= start) & (self.time < start + seconds) & np.isfinite(value)]
            return float(np.std(inside) if self.names else np.sum(inside)) if inside.size else -1.0

        starts = [
            first  # half a length apart
            for start, stop in spans
            if stop - start >= seconds - 1e-6
            for first in np.linspace(start, stop - seconds, 1 + math.ceil(2 * (stop - start) / seconds - 2 - 1e-6))
        ]
        start = max(starts, key=activity)
        return start, start + seconds

    def around(self, span: Span, seconds: float) -> Span:
        """A span of `seconds` about another, inside the stretch of the recording that holds it."""
        middle = sum(span) / 2
        start, stop = next(s for s in stretches(self.counts) if s[0] <= middle <= s[1])
        first = min(max(middle - seconds / 2, start), max(stop - seconds, start))
        return first, min(first + seconds, stop)

    def unit_order(self) -> Array:
        """Columns of the counts, by the value of the first behaviour at which units fire most; without behaviour, by
        their covariance with the leading component of the states."""
        counts = self.counts.values.astype(float)
        if not self.names:
            leading = PCA(1).fit_transform(self.latents["filtered_mean"].values.astype(float))[:, 0]
            scale = counts.std(0) + 1e-12 if is_signal(self.counts) else np.sqrt(counts.sum(0) + 1)
            return np.argsort((counts - counts.mean(0)).T @ leading / scale, kind="stable")
        value = self.measured(self.names[0])
        known = np.isfinite(value)
        place = pd.qcut(value[known], _PLACES, labels=False, duplicates="drop")
        means = pd.DataFrame(counts[known]).groupby(place).mean().values
        smooth = means + 0.5 * np.roll(means, 1, 0) + 0.5 * np.roll(means, -1, 0)
        return np.argsort(smooth.argmax(0), kind="stable")
