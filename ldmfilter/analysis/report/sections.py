"""The sections of a report: for each a function that computes its numbers and draws its pictures.

The words of a section are in the template of the same name. `SECTIONS` has the order of the page.
"""

from __future__ import annotations

import itertools
import math
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from sklearn.decomposition import PCA

from ldmfilter.analysis.checks import Diagnosis
from ldmfilter.analysis.measures import Measures
from ldmfilter.analysis.plots import (
    CIRCLE,
    COLOURS,
    SINGLE_TRIALS,
    class_positions,
    finish,
    flat,
    ink,
    leading_states,
    legend,
    plot_behavior,
    plot_raster,
    plot_rates,
    plot_reports,
    plot_signal,
    plot_states,
    plot_trials,
    reference,
    turned,
)
from ldmfilter.analysis.report.page import HALF, Picture, Section, one_plot, pair, plain_number
from ldmfilter.analysis.trials import Trials
from ldmfilter.config import Config
from ldmfilter.data.counts import is_signal
from ldmfilter.data.session import Session
from ldmfilter.data.tables import Array
from ldmfilter.data.windows import stretches
from ldmfilter.filter.candidates import WITHOUT, labels
from ldmfilter.filter.evaluation import Record
from ldmfilter.filter.model import LDMFilter
from ldmfilter.filter.runs import Run
from ldmfilter.filter.spikes_ahead import thin
from ldmfilter.text import clean, finite
from ldmfilter.version import __version__

Span = tuple[float, float]
_PLACES = 20  # bins of the first behaviour by which units are ordered, with as many observations in each
_LIBRARIES = ("torch", "numpy", "scipy", "xarray", "zarr", "pynwb", "scikit-learn", "pynapple", "matplotlib", "plotly")
POINTS = 3000  # of the state space, at most: what a phone turns smoothly
STATES_SHOWN = 60.0  # s
RASTER_SHOWN = 20.0  # s
PHONE, SHORT = 0.4, 5.0  # share of a stretch that is shown on a phone; s, of one that is shown whole
#: Colours of the state space along a scale, that stay visible on white and on black.
_SCALE: tuple[str, ...] = ("#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#e3cf1f")
UNITS_SHOWN = 10  # in the picture; the table has all


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
        options: of the command that makes this report.
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
    options: Mapping[str, Any] = field(default_factory=dict)
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
            return float((np.std if self.names else np.sum)(inside)) if inside.size else -1.0

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


def summary(inputs: Inputs) -> Section:
    """The session, the part of it that was used, and the model."""
    source, model, counts = inputs.session.source, inputs.model, inputs.counts
    observed = inputs.latents["observed"].values
    unseen = observed & ~inputs.latents["trained"].values
    size, spans = float(counts.attrs["bin_size"]), stretches(counts)
    data = inputs.run.config.data
    parts = [
        {
            "dynamics": part.kept_.label or model.dynamics,
            "frame": part.frame_,
            "kept_step": part.kept_record_.step,
            "held_out_predictive_information": part.kept_record_.score / part.frame_,
            "effective_rank": part.kept_record_.effective_rank,
        }
        for part in model.parts
    ]
    chosen = [data.interval, *(f"{start:g}:{stop:g} s" for start, stop in data.spans)]
    session = {
        **vars(source),
        "units_in_file": len(inputs.run.session_unit_ids),
        "units": counts.sizes["unit"],
        "signal": getattr(inputs.session, "name", ""),
        "spikes": None if is_signal(counts) else int(counts.sum()),
        "bins": observed.size,
        "bin_size": size,
        "seconds": round(observed.size * size, 6),
        "start": spans[0][0],
        "stop": spans[-1][1],
        "stretches": len(spans),
        "bins_observed": observed.sum(),
        "bins_trained": observed.sum() - unseen.sum(),
        "bins_judged": unseen.sum(),
        "share_judged": unseen.sum() / max(observed.sum(), 1),
        "chosen": " and ".join(filter(None, chosen)) or "the whole session",
    }
    about = parts[0] | {
        "run": str(inputs.run.folder),
        "id": model.model_id_,
        "created": inputs.run.created,
        "latent_dim": model.sized_.latents,
        "state_dim": model.sized_.states,
        "entropy": model.entropy,
        "seed": model.seed,
        "steps": model.history_[-1].step,
        "max_steps": model.max_steps,
        "dynamics": model.kept_.label or model.dynamics,
        "frame": model.frame_,
        "parts": parts,
    }
    title = source.session_id or source.identifier or Path(source.path).stem or "session"
    return {"title": title, "session": session, "model": about}, {}


def behavior(inputs: Inputs) -> Section:
    """The behaviours that were read, and the calibration of their intervals and probabilities."""
    calibrated = [one for one in inputs.reports if one["intervals"]]
    classes = [one for one in inputs.reports if one["categories"] and one["calibration"]]

    def draw_pit(axes: Axes) -> None:
        for one, colour in zip(calibrated, COLOURS, strict=False):
            share, error = (np.array(one["distribution"][key]) for key in ("pit", "pit_se"))
            edges = np.linspace(0, 1, len(share) + 1)
            axes.axhline(1 / len(share), **reference(), zorder=1)
            axes.stairs(share, edges, color=colour, linewidth=1.3, label=one["name"])
            axes.errorbar((edges[:-1] + edges[1:]) / 2, share, 2 * error, color=colour, fmt="none")
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:.3g}%")
        axes.set_ylim(0, None)
        finish(axes, "probability of less than what happened (PIT)", "share of bins")
        legend(axes, loc="lower center")

    labels = ({"median_error": "median error"} if inputs.reports else {}) | {"width": "interval width"}

    def draw_lags(figure: Figure, narrow: bool) -> None:
        """Errors and widths over those without a lag; those of smoothed states as points at the right end."""
        both = pair(figure, narrow) if inputs.reports else [figure.add_subplot()]
        for (key, label), axes in zip(labels.items(), both, strict=True):
            for (name, rows), colour in zip(inputs.lags.items(), COLOURS, strict=False):
                lag = np.array([row["lag"] for row in rows[:-1]])
                value = np.array([row[key] for row in rows]) / rows[0][key]
                end = 1.25 * float(lag[-1])
                axes.plot(lag, value[:-1], "o-", color=colour, label=clean(name))
                axes.plot([end], value[-1:], "D", color=colour)
                halves = lag[lag % 0.5 == 0]
                axes.set_xticks([*halves, end], [*(f"{one:g}" for one in halves), "smoothed"])
            axes.axhline(1, **reference())
            axes.set_ylim(0, 1.05 * max(1.1, axes.dataLim.y1))
            finish(axes, "lag, s", f"{label}, relative")
        _legend(figure, narrow)

    pictures: dict[str, Picture] = {}
    if calibrated:
        pictures["calibration"] = one_plot(lambda axes: plot_reports(calibrated, axes))
        pictures["pit"] = one_plot(draw_pit)
    if classes:
        pictures["probabilities"] = one_plot(lambda axes: plot_reports(classes, axes))
    if inputs.lags:
        pictures["lags"] = Picture(draw_lags, {}, *(((3.2, 4.8),) if inputs.reports else HALF))
    return {"behavior": inputs.reports, "lags": inputs.lags}, pictures


def states(inputs: Inputs) -> Section:
    """The states in time and in space, and the spikes."""
    pictures = {"states": _states(inputs), "space": _space(inputs), "raster": _raster(inputs)}
    return {name: picture.numbers for name, picture in pictures.items()}, pictures


def _shown(start: float, stop: float) -> dict[str, Any]:
    """What is shown of a stretch on a wide page and on a narrow one, s."""
    narrow_stop = start + PHONE * (stop - start) if stop - start > SHORT else stop
    return {"start": start, "stop": stop, "narrow_stop": narrow_stop}


def _states(inputs: Inputs) -> Picture:
    span = inputs.around(inputs.busiest(RASTER_SHOWN), STATES_SHOWN)
    shown = inputs.latents.sel(time=slice(*span))
    unseen = ~shown["trained"].values
    marked, evidence = bool(unseen.any() and not unseen.all()), inputs.model.evidence > 0
    leading = leading_states(shown, 4)
    numbers = _shown(*span) | {
        "shown": leading,
        "level": float(inputs.latents["ci"].attrs["level"]),
        "of": inputs.model.sized_.states,
        "unseen_marked": marked,
        "evidence": evidence,
    }

    def draw(figure: Figure, narrow: bool) -> None:
        part = shown.sel(time=slice(numbers["narrow_stop" if narrow else "stop"]))
        time = part["time"].values
        if evidence:
            axes, *below = figure.subplots(3, 1, sharex=True, height_ratios=[4, 0.8, 0.8])
            _evidence(inputs, part, leading, *below)
        else:
            axes = figure.add_subplot()
        plot_states(part.sel(state=leading), axes, number=4)
        if marked:
            axes.fill_between(
                time, 0, 0.012, ~part["trained"].values,
                step="mid", transform=axes.get_xaxis_transform(), color=COLOURS[1], linewidth=0,
            )  # fmt: skip
        axes.set(xlim=(time[0], time[-1]), ylabel="state", xlabel="" if evidence else axes.get_xlabel())

    more = 1.7 * evidence
    return Picture(draw, numbers, (3.9 + more, 3.4 + more))


def _evidence(inputs: Inputs, part: xr.Dataset, shown: Sequence[int], above: Axes, below: Axes) -> None:
    """Spikes of each bin, and below them the mean width of the states' intervals, over its mean in the recording."""

    def widths(latents: xr.Dataset) -> xr.DataArray:
        return latents["ci"].sel(state=shown).diff("bound").mean(("state", "bound"))

    time = part["time"].values
    spikes = inputs.counts.sum("unit").sel(time=time)
    above.fill_between(time, spikes, step="mid", color="0.5", alpha=0.6, linewidth=0)
    above.set_ylim(0, None)
    below.plot(time, 100 * widths(part) / widths(inputs.latents).mean(), color=COLOURS[0])
    finish(above, "", "spikes")
    finish(below, "time, s", "width, %")


def _space(inputs: Inputs) -> Picture:
    """The still picture of the state space, and the points and colours that the page's script turns."""
    observed = np.flatnonzero(inputs.latents["observed"].values)
    mean = inputs.latents["filtered_mean"].values[observed].astype(float)
    apart = _apart(inputs, mean, observed)
    shown = mean if apart is None else apart
    # The slowest come first. As all states have the same variance, principal components would be no better a choice.
    shown = np.pad(shown, ((0, 0), (0, max(3 - shown.shape[1], 0))))[:, :3]  # one or two states lie in a plane
    drawn = thin(np.arange(len(observed)), POINTS)
    at = observed[drawn]
    points = shown[drawn] / max(float(np.abs(shown).max()), np.finfo(float).tiny)
    labels = [f"h{number}" if apart is None else f"axis {number + 1}" for number in range(3)]
    time = inputs.time[at]
    choices = [_colouring(one, inputs.measured(one["name"])[at]) for one in inputs.reports]
    choices.append(_colouring({"name": "time", "unit": "s"}, time))
    first = choices[0]
    values = np.array(first["values"], dtype=np.float64)

    def draw(figure: Figure, narrow: bool) -> None:
        colours = LinearSegmentedColormap.from_list("page", [colour for _, colour in first["colorscale"]])
        axes: Any = figure.add_subplot(projection="3d")
        x, y, z, value = np.column_stack([points, values])[::2][np.isfinite(values[::2])].T
        shades = {"cmap": colours, "vmin": first["low"], "vmax": first["high"]}
        axes.scatter(x, y, z, c=value, s=7, linewidths=0, alpha=0.85, **shades)
        for label, axis in zip(labels, (axes.xaxis, axes.yaxis, axes.zaxis), strict=True):
            axis.set_ticklabels([])
            axis.set_label_text(label)
            axis.labelpad = -10
            axis.set_pane_color((0.5, 0.5, 0.5, 0.06))
        axes.set_box_aspect(np.ptp(points, axis=0) + 0.1)
        axes.view_init(elev=43, azim=45)

    numbers = {
        "shown": min(3, mean.shape[1]),
        "apart": None if apart is None else _series(inputs.reports[0]).split("/")[-1],
        "points": len(drawn),
        "bins": len(observed),
        "unmeasured": not np.isfinite(values).all(),
        "colours": [{key: one[key] for key in ("label", "low", "high")} for one in choices],
    }
    data = {**dict(zip("xyz", points.T.round(4), strict=True)), "time": time.round(2)}
    data |= {"choices": choices, "axes": labels}
    return Picture(draw, numbers, (4.6, 3.0), 5.6, finite(data))


def _apart(inputs: Inputs, mean: Array, observed: Array) -> Array | None:
    """Filtered means (bin, state) along three axes (bin, 3) on which the first behaviour, all columns of its series,
    differs most, found where training was; None where there are none, or no more than three states."""
    first = [one for one in inputs.reports if _series(one) == _series(inputs.reports[0])]
    if not first or mean.shape[1] <= 3:
        return None
    values = np.hstack([flat(inputs.measured(one["name"])[observed], one.get("period")) for one in first])
    return turned(mean, values, inputs.latents["trained"].values[observed], 3)


def _series(report: Mapping[str, Any]) -> str:
    """The path of the series that a behaviour is a column of."""
    return str(report["path"].split("[")[0])


def _colouring(about: Mapping[str, Any], values: Array) -> dict[str, Any]:
    """Colours of points (point,) by one variable, for the page's script and for the still picture. A variable of few
    values is shown as classes, by their rank."""
    classes = np.unique(values[np.isfinite(values)]).tolist()
    low, high = (classes[0], classes[-1]) if classes else (0.0, 1.0)
    names, stops, shown = about.get("classes") if classes else None, _SCALE, []
    unit = f" {about['unit']}" if about["unit"] else ""

    def label(value: float) -> str:
        return names[int(value)] if names else plain_number(value) + unit

    if period := about.get("period"):  # the colours go round once, whatever part of a turn was seen
        stops, low = CIRCLE, 0.0 if low > -2e-3 * period else -period / 2
        high = low + period
    found = {"label": about["name"], "low_label": label(low), "high_label": label(high)}
    if 2 <= len(classes) <= (len(COLOURS) if names else 4):
        stops, shown = COLOURS[: len(classes)], list(map(label, classes))
        values = np.where(np.isfinite(values), np.searchsorted(classes, values), np.nan)
        low, high = 0.0, float(len(classes) - 1)
    return found | {
        "low": low,
        "high": high,
        "values": [float(f"{value:.5g}") for value in values.tolist()],
        "colorscale": list(zip(np.linspace(0, 1, len(stops)).tolist(), stops, strict=True)),
        "classes": shown,
    }


def _raster(inputs: Inputs) -> Picture:
    start, stop = inputs.busiest(RASTER_SHOWN)
    order, signal = inputs.unit_order(), is_signal(inputs.counts)
    trains = [] if signal else [t[(t >= start) & (t < stop)] for t in map(inputs.spike_times, order)]
    shown = inputs.latents.sel(time=slice(start, stop))
    for name in inputs.names:  # a readout is shown only where it was not fitted
        for key in {f"{name}_mean", f"{name}_ci", f"{name}_probability"} & set(shown):
            shown[key] = shown[key].where(shown[f"{name}_fold"] >= 0)
    behaviors = inputs.reports[:3]
    numbers = _shown(start, stop) | {
        "spikes": sum(map(len, trains)),
        "units": len(order),
        "unseen": not shown["trained"].any(),
        "rates": "rate" in shown,
        "behaviors": [one["name"] for one in behaviors],
    }

    def draw(figure: Figure, narrow: bool) -> None:
        end = numbers["narrow_stop" if narrow else "stop"]
        part = shown.sel(time=slice(end))
        heights = [2.6, *[1.0] * len(behaviors)]
        grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        if signal:
            plot_signal(inputs.counts.isel(unit=order), grid[0], start, end)
        else:
            plot_raster(trains, grid[0], start, end)
            if "rate" in part:
                known = inputs.latents["rate"].dropna("unit", how="all")  # others never fired in training
                high = known.quantile(0.99, "time").reindex(unit=part["unit"])
                plot_rates((part["rate"] / high).isel(unit=order), grid[0])
        for one, axes in zip(behaviors, grid[1:], strict=True):
            plot_behavior(part, one["name"], axes, one["period"])
            axes.set_ylabel("\n".join(filter(None, (one["name"], one["unit"]))), parse_math=False)
        for axes in grid[:-1]:
            axes.set_xlabel("")
            axes.tick_params(axis="x", length=0)
        if behaviors:
            grid[0].spines["bottom"].set_visible(False)
            grid[1].legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=1 if narrow else 3, borderaxespad=0)

    high = 3.4 + 1.3 * len(behaviors)
    return Picture(draw, numbers, (high, high))


def trials(inputs: Inputs) -> Section:
    """States along trials by condition, and how well each condition is read from them."""
    found = inputs.trials
    if found is None:
        return {"trials": None, "trials_note": inputs.trials_note}, {}
    best = int(np.nanargmax(found.accuracy)) if np.isfinite(found.accuracy).any() else 0
    data = {**vars(found), "best_recall": found.recall[best]}
    del data["aligned"], data["number"]  # of which there are pictures
    shown = _most_apart(found, 4)
    names = [clean(name) for name in found.names]
    drawn = names[: len(COLOURS)]

    def draw(figure: Figure, narrow: bool) -> None:
        grid = figure.subplots(len(shown), 1, sharex=True) if narrow else figure.subplots(math.ceil(len(shown) / 2), 2)
        for state, axes in itertools.zip_longest(shown, np.ravel(grid)):
            if state is None:  # the grid has an even number of places
                axes.remove()
            else:
                plot_trials(found.aligned, state, found.number, drawn, axes)
        _legend(figure, narrow)

    def draw_read(figure: Figure, narrow: bool) -> None:
        axes, time = figure.add_subplot(), found.time
        for name, recall, colour in zip(drawn, found.recall.T, COLOURS, strict=False):
            axes.plot(time, recall, color=colour, linewidth=0.8, alpha=0.7, label=name)
        axes.fill_between(time, 0, found.shuffled, color=ink(), alpha=0.1, linewidth=0, label="shuffled, 95 %")
        axes.plot(time, found.accuracy, color=ink(), linewidth=1.8, label="mean of the conditions")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_ylim(0, 1.03)
        if time[0] < 0 < time[-1]:
            axes.axvline(0, **reference())
        finish(axes, "time, s", "trials read right")
        _legend(figure, narrow)

    high = 2.3 * math.ceil(len(shown) / 2) + 0.5
    about = {"shown": shown, "singles": SINGLE_TRIALS, "undrawn": len(names) - len(drawn)}
    numbers = {"best_time": found.time[best], "best": found.accuracy[best], "shuffled": found.shuffled[best]}
    return {"trials": data, "trials_note": ""}, {
        "trials": Picture(draw, about, (high, 1.8 * len(shown) + 0.8)),
        "conditions": Picture(draw_read, numbers, (3.4, 3.6)),
    }


def _most_apart(found: Trials, number: int) -> list[int]:
    """The states whose means over trials and time differ most between conditions, in order."""
    values = found.aligned["filtered_mean"].values
    seen = found.aligned["observed"].values
    means = np.stack([values[seen & (found.number == i)[:, None]].mean(0) for i in range(len(found.names))])
    return np.sort(np.argsort(-means.var(0))[:number]).tolist()


def _legend(figure: Figure, narrow: bool) -> None:
    """One legend above all plots of a figure, with what the first one shows."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend(figure, handles=handles, labels=labels, loc="outside upper left", ncols=2 if narrow else 5)


def trust(inputs: Inputs) -> Section:
    """The diagnosis, and a picture of each group of measures."""
    draws = {"nis": _nis, "correlation": _correlation, "spectrum": _spectrum, "memory": _memory, "drift": _drift}
    parts = _parts(inputs)
    pictures = {name + suffix: draw(parts[suffix]) for suffix in parts for name, draw in draws.items()}
    diagnosis = inputs.diagnosis.to_dict()
    del diagnosis["behavior"]  # which has a place of its own
    return {"diagnosis": diagnosis}, pictures


def units(inputs: Inputs) -> Section:
    """The units without which the filter predicts worst."""
    return {}, {f"units{suffix}": _units(measures) for suffix, measures in _parts(inputs).items()}


def _parts(inputs: Inputs) -> dict[str, Measures]:
    """The measures of each part of the filter, by the ending of its pictures' names."""
    diagnosis = inputs.diagnosis
    return {f"-{name}": one for name, one in diagnosis.parts.items()} or {"": diagnosis}


def _nis(measures: Measures) -> Picture:
    """Quantiles of the normalised innovations squared against those of chi-square: on the line where the filter's
    covariance is right, above it where the covariance is too small."""
    nis, chi2 = measures.consistency.nis, measures.consistency.chi2
    median, high = np.interp([0.5, 0.95], measures.consistency.probability, nis / chi2)
    top = 1.05 * float(max(np.nanmax(chi2), np.nanmax(nis)))

    def draw(axes: Axes) -> None:
        # Axes in square roots, which are distances in standard deviations, show both the bulk and the tail.
        for set_scale in (axes.set_xscale, axes.set_yscale):
            set_scale("function", functions=(lambda values: np.sqrt(np.maximum(values, 0)), np.square))
        axes.plot([0, top], [0, top], **reference())
        axes.plot(chi2, nis, "o-", color=COLOURS[0])
        axes.set(xlim=(0, top), ylim=(0, top))
        finish(axes, "quantile of chi-square", "quantile of the innovations")

    return one_plot(draw, {"median_ratio": median, "quantile_95_ratio": high})


def _correlation(measures: Measures) -> Picture:
    """The largest correlation between innovations, by lag, and the bound of white noise."""
    found = measures.consistency

    def draw(axes: Axes) -> None:
        axes.bar(found.lag, found.white, width=found.lag[0], color=ink(), alpha=0.1, linewidth=0, label="white noise")
        axes.plot(found.lag, found.correlation, "o-", color=COLOURS[0], label="innovations")
        axes.set_ylim(0, max(0.5, 1.15 * float(np.nanmax([found.correlation, found.white]))))
        finish(axes, "lag, s", "largest correlation")
        axes.legend(loc="upper right")

    return one_plot(draw)


def _spectrum(measures: Measures) -> Picture:
    """Variances along the principal axes of z and of its prediction."""

    def draw(axes: Axes) -> None:
        lines = {"pseudo-observation z": measures.spectrum.z, "its prediction": measures.spectrum.prediction}
        for (name, values), colour in zip(lines.items(), COLOURS, strict=False):
            axes.plot(1 + np.arange(len(values)), values, "o-", color=colour, label=name)
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        finish(axes, "principal axis", "variance")
        axes.legend(loc="lower left" if measures.spectrum.prediction[-1] > 0.3 else "upper right")

    return one_plot(draw)


def _memory(measures: Measures) -> Picture:
    seconds = measures.memory.time_constant
    seconds = seconds[np.isfinite(seconds)]
    names = [str(i + 1) for i in range(len(seconds))]
    return one_plot(lambda axes: _bars(axes, names, seconds, "time constant, s", "slowest first"))


def _drift(measures: Measures) -> Picture:
    """Two numbers by blocks of the session."""
    drift = measures.drift
    lines = {
        "predictive information,\nnats per second": drift.predictive_information,
        "normalised innovation\nsquared per dimension": drift.nis,
    }

    def draw(figure: Figure, narrow: bool) -> None:
        both = pair(figure, narrow, sharex=narrow)
        for (label, value), axes in zip(lines.items(), both, strict=True):
            axes.axhline(float(np.nanmean(value)), **reference())
            axes.plot((drift.start + drift.stop) / 2, value, "o-", color=COLOURS[0])
            if np.nanmin(value) >= 0:
                axes.set_ylim(0, 1.25 * float(np.nanmax(value)))
            finish(axes, "time, s", label)
        if narrow:
            both[0].set_xlabel("")

    return Picture(draw, heights=(2.5, 3.4))


def _units(measures: Measures) -> Picture:
    loss = measures.units.loss
    order = np.argsort(-loss, kind="stable")
    shown = order[:UNITS_SHOWN]
    names = [clean(str(measures.units.unit[i])) for i in shown]
    numbers = {
        "order": order,
        "units": len(shown),
        "share": np.nansum(measures.units.share[shown]),
        "largest": names[0],
        "loss": loss[shown[0]],
    }
    label = "loss without the unit, nats per second"
    return one_plot(lambda axes: _bars(axes, names, loss[shown], label, "unit"), numbers, 1.0 + 0.2 * len(shown))


def _bars(axes: Axes, names: list[str], values: Array, x: str, y: str) -> None:
    """Values as horizontal bars with their names, the first at the top."""
    rows = np.arange(len(names))
    axes.barh(rows, values, height=0.62, color=COLOURS[0], alpha=0.85, linewidth=0)
    # A name may hold dollar signs, which are no mathematics here.
    axes.set_yticks(rows, names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(0, color=ink(), linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    finish(axes, x, y, left=False)


def training(inputs: Inputs) -> Section:
    """The evaluations of the training, and the steps that were kept."""
    model = inputs.model
    frames = {one.name: one.frame for one in model.candidates_}  # s, by which nats per frame are divided

    def draw(axes: Axes) -> None:
        names = dict.fromkeys(one.candidate for one in model.history_ if WITHOUT not in one.candidate)
        colours = dict(zip(names, itertools.cycle(COLOURS)))

        def line(records: Sequence[Record], style: str, label: str) -> None:
            name = records[0].candidate
            score = [one.score / frames.get(name, model.frame_) for one in records]
            axes.plot([one.step for one in records], score, style, color=colours[name], label=label)

        for name in colours:
            line([one for one in model.history_ if one.candidate == name], "-", name)
        for number, part in enumerate(model.parts):
            line([part.kept_record_], "o", "" if number else "kept")
        axes.axhline(0, **reference())
        legend(axes)
        finish(axes, "training step", "predictive information\non held-out time, nats per second")

    named = zip(model.candidates_, labels(model.candidates_), strict=True)
    data = {
        "training": list(map(vars, model.history_)),
        "candidates": [vars(one) | {"label": label} for one, label in named],
    }
    return data, {"training": one_plot(draw, high=2.8)}


def made(inputs: Inputs) -> Section:
    """Settings, versions, and the commands that make the same run and the same page."""
    versions = {"ldmfilter": __version__, "Python": platform.python_version()}
    versions |= {name: version(name) for name in _LIBRARIES}
    run, folder = inputs.run, str(inputs.run.folder)
    given = [one.session for one in run.sessions if not one.added]
    which = ["--session", run.session_path] if len(run.sessions) > 1 else []
    commands = [
        ["ldmfilter", "train", *given, *_words(_changed(run.config)), "--run", folder],
        ["ldmfilter", "report", folder, *which, "--out", "report.html", *_words(inputs.options)],
    ]
    settings = {"settings": run.config.to_dict(), "versions": versions, "commands": list(map(shlex.join, commands))}
    return {"made": settings}, {}


def _changed(config: Config) -> dict[str, Any]:
    """Every option that is not the default, as the command line takes it."""
    plain = Config().replace(state_dim=config.filter.latent_dim).to_dict()
    changed = {}
    for part, options in config.to_dict().items():
        for name, value in options.items():
            if value == plain[part].get(name):
                continue
            if name == "spans":
                name, value = "span", [f"{start!r}:{stop!r}" for start, stop in value]
            changed[name] = ",".join(map(str, value)) if name == "hidden" else value
    return changed


def _words(options: Mapping[str, Any]) -> list[str]:
    """Options as words of a command: each of several values has the flag before it, one without a value has none.

    >>> _words({"align": None, "behavior": ["place", "speed"], "min_rate": 0.5, "refit": False})
    ['--behavior', 'place', '--behavior', 'speed', '--min-rate', '0.5', '--no-refit']
    """
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            several = value if isinstance(value, list | tuple) else [value]
            words += [word for one in several if one not in (None, "") for word in (f"--{flag}", str(one))]
    return words


SECTIONS: dict[str, Callable[[Inputs], Section]] = {
    make.__name__: make for make in (summary, behavior, states, trials, trust, units, training, made)
}
