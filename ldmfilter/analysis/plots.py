"""Pictures: a decoded dataset, or plain arrays, onto axes of matplotlib, in a notebook or on the report's page.

Every function draws onto the `axes` that it is given and opens no figure. Lines that stand for the data itself take
matplotlib's text colour, so that a dark style needs no other functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr
from sklearn.cluster import KMeans
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from ldmfilter.analysis.behavior import positions
from ldmfilter.data.tables import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that stay apart for colour-blind readers (Okabe & Ito 2008), grey in place of black, which is the text's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#F0E442")
#: Around a circle, visible on white and on black.
CIRCLE = ("#d1495b", "#e08a2c", "#a9a52a", "#3a9d6b", "#2b8fb8", "#5b68c4", "#a557a5", "#d1495b")
BAND = 0.25  # opacity of an interval
GROUPS = 24  # of near values of behaviour at most, which `turned` tells apart
SINGLE_TRIALS = 12  # of a condition that are drawn, at most


def leading_states(latents: xr.Dataset, number: int) -> list[int]:
    """The state dimensions whose filtered mean varies most, the slowest first."""
    variance = latents["filtered_mean"].var("time").values
    return latents["state"].values[np.sort(np.argsort(-variance)[:number])].tolist()


def plot_states(latents: xr.Dataset, axes: Axes, number: int = 3) -> None:
    """Filtered means in time with their intervals, the `number` dimensions that vary most, one above the other."""
    chosen = leading_states(latents, number)
    time = latents["time"].values
    ci = latents["ci"].sel(state=chosen)
    spacing = float(np.nanmax(ci.max("time") - ci.min("time")))
    shifts = [-row * spacing for row in range(len(chosen))]
    for row, (state, shift) in enumerate(zip(chosen, shifts, strict=True)):
        one, colour = latents.sel(state=state), COLOURS[row % len(COLOURS)]
        low, high = (one["ci"].sel(bound=bound) + shift for bound in ("lower", "upper"))
        _band(axes, time, low, high, colour)
        axes.plot(time, one["filtered_mean"] + shift, color=colour, linewidth=1.2)
    axes.set_yticks(shifts, [f"h{state}" for state in chosen])
    finish(axes, "time, s", f"state, {latents['ci'].attrs['level']:.0%} interval")


def flat(values: Array, period: float | None) -> Array:
    """Values (bin,) as columns (bin, column) whose distances tell how far apart they are: of circular values the cosine
    and sine, of others the value in its deviations."""
    turn = 2 * np.pi * values / (period or np.inf)
    return np.column_stack([np.cos(turn), np.sin(turn)] if period else [values / (np.nanstd(values) or 1.0)])


def turned(mean: Array, values: Array, seen: Array, number: int) -> Array | None:
    """Filtered means (bin, state) along the axes (bin, number) on which they differ most between values (bin, column),
    in the bins `seen` (bin,) that have a value: a linear discriminant of the values, or of `GROUPS` groups of near
    ones, found by k-means. None where values or states are too few, or bins to know how states vary within a group."""
    seen = seen & np.isfinite(values).all(1)
    kinds, groups = np.unique(values[seen], axis=0, return_inverse=True)
    within = len(groups) - min(len(kinds), GROUPS)
    if min(len(kinds) - 1, mean.shape[1]) < number or within < mean.shape[1]:
        return None
    if len(kinds) > GROUPS:
        groups = KMeans(GROUPS, n_init=1, random_state=0).fit_predict(values[seen])
    axes = LinearDiscriminantAnalysis().fit(mean[seen], groups).scalings_[:, :number]
    return np.asarray((mean - mean.mean(0)) @ axes)


def plot_raster(spike_times: Sequence[Array], axes: Axes, start: float, stop: float) -> None:
    """Spikes as ticks, from `start` to `stop`, s; a row for each unit's spike times, s, the first at the top."""
    shown = [times[(times >= start) & (times < stop)] for times in spike_times]
    row = np.repeat(np.arange(len(shown)), [len(times) for times in shown])
    # One line with gaps for all: a picture of ten thousand separate ones would be ten times as large.
    ends = np.stack([row - 0.4, row + 0.4, np.full(len(row), np.nan)], 1).ravel()
    axes.plot(
        np.repeat(np.concatenate([*shown, np.empty(0)]), 3), ends, color=ink(), linewidth=0.6, solid_capstyle="butt"
    )
    axes.set(xlim=(start, stop), ylim=(len(shown) - 0.3, -0.7), yticks=[])
    finish(axes, "time, s", f"{len(shown)} units", left=False)


def plot_rates(shares: xr.DataArray, axes: Axes) -> None:
    """Rates (time, unit) of a stretch as shades beneath the rows of `plot_raster`: shares of a high rate of each unit,
    above which the shade is the same."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    time = shares["time"].values
    half = 0.5 * (time[-1] - time[0]) / max(time.size - 1, 1)
    shades = LinearSegmentedColormap.from_list("shades", [to_rgba(COLOURS[0], alpha) for alpha in (0, 0.6)])
    extent = (time[0] - half, time[-1] + half, shares.sizes["unit"] - 0.5, -0.5)
    axes.imshow(shares.values.T, aspect="auto", extent=extent, vmin=0, vmax=1, cmap=shades, interpolation="nearest")


def plot_signal(signal: xr.DataArray, axes: Axes, start: float, stop: float) -> None:
    """A signal (time, unit) from `start` to `stop`, s: a row for each channel, in its deviations, the first on top."""
    time = signal["time"].values
    values = (signal - signal.mean("time")) / (signal.std("time") + 1e-12)
    shown = values.isel(time=np.flatnonzero((time >= start) & (time < stop))).values.T
    extent = (start, stop, len(shown) - 0.5, -0.5)
    axes.imshow(shown, aspect="auto", extent=extent, vmin=-1, vmax=4, cmap="viridis", interpolation="nearest")
    axes.set(yticks=[])
    finish(axes, "time, s", f"{len(shown)} channels", left=False)


def plot_behavior(latents: xr.Dataset, name: str, axes: Axes, period: float | None = None) -> None:
    """Behaviour decoded from the states, with its interval, over what was measured.

    The states have `<name>_mean`, `<name>_true` (time,) and, where intervals were calibrated, `<name>_ci` (time,
    bound), as `read_behavior` gives them; classes are drawn by `_plot_classes`. Lines are not drawn across the end of a
    period, in the behaviour's unit.
    """
    finish(axes, "time, s")
    if f"{name}_class" in latents:
        _plot_classes(latents, name, axes)
        return
    time = latents["time"].values
    true, mean = latents[f"{name}_true"].values, latents[f"{name}_mean"].values
    if period is not None:
        true, mean = _broken(true, period), _broken(mean, period)
    if f"{name}_ci" in latents:
        ci = latents[f"{name}_ci"]
        low, high = (ci.sel(bound=bound).values for bound in ("lower", "upper"))
        label = f"{float(ci.attrs['level']):.0%} interval" if "level" in ci.attrs else "the interval"
        start, stop, turns = -np.inf, np.inf, [0.0]
        if period is not None:  # what sticks out at one end of the turn is brought back at the other
            start = np.floor(np.nanmin(true) / period) * period if np.nanmin(true) >= 0 else -period / 2
            stop, turns = start + period, [0.0, -period, period]
        for turn in turns:
            lower, upper = (np.clip(end + turn, start, stop) for end in (low, high))
            _band(axes, time, np.where(lower < upper, lower, np.nan), upper, COLOURS[0], None if turn else label)
    axes.plot(time, mean, color=COLOURS[0], linewidth=1.3, label="decoded")
    axes.plot(time, true, color=ink(), linewidth=1.0, linestyle=(0, (3, 1.5)), label="measured")


def class_positions(latents: xr.Dataset, name: str) -> Array:
    """Position (time,) among the labels of the class that was measured, NaN for none."""
    true = latents[f"{name}_true"].values
    labels = latents[f"{name}_class"].values.astype(true.dtype)
    return positions(true, labels)


def _plot_classes(latents: xr.Dataset, name: str, axes: Axes) -> None:
    """Probabilities of classes read from the states, `<name>_probability` (time, `<name>_class`), a row for each class,
    whose height is the probability; over it a line while the class was measured, by `<name>_true` (time,)."""
    time, labels = latents["time"].values, latents[f"{name}_class"].values.tolist()
    measured = class_positions(latents, name)
    probability = latents[f"{name}_probability"].values
    for row in range(len(labels)):
        half = 0.45 * probability[:, row]
        _band(axes, time, row - half, row + half, COLOURS[0], None if row else "probability")
        line = np.where(measured == row, row, np.nan)
        axes.plot(time, line, color=ink(), linewidth=1.2, label=None if row else "measured")
    axes.set_yticks(range(len(labels)), [x if isinstance(x, str) else f"{x:g}" for x in labels], parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)


def plot_trials(aligned: xr.Dataset, state: int, condition: Array, names: Sequence[str], axes: Axes) -> None:
    """A state along trials, as `ldmfilter.align` gives them: the mean of each condition in its 95 % band (1.96 standard
    errors), single trials thin behind. `condition` (trial,) is the position among `names`; other trials are not drawn.
    """
    time = aligned["time"].values
    values = aligned["filtered_mean"].sel(state=state).where(aligned["observed"]).values
    for number, name in enumerate(names):
        own, colour = values[condition == number], COLOURS[number % len(COLOURS)]
        for one in own[:: max(len(own) // SINGLE_TRIALS, 1)][:SINGLE_TRIALS]:
            axes.plot(time, one, color=colour, linewidth=0.5, alpha=0.3)
        frame = pd.DataFrame(own)
        half = 1.96 * frame.sem()  # NaN where there are fewer than two trials
        mean = frame.mean().where(half.notna())
        _band(axes, time, mean - half, mean + half, colour)
        axes.plot(time, mean, color=colour, linewidth=1.6, label=name)
    if time[0] < 0 < time[-1]:
        axes.axvline(0, **reference())
    finish(axes, "time, s", f"h{state}")


def plot_reports(reports: Sequence[Mapping[str, Any]], axes: Axes) -> None:
    """Calibration of behaviours, all with intervals or all of classes, as `read_behavior` reports them in plain types:
    the share of bins inside an interval against its level, or of a class against its probability, with bars of two
    standard errors to each side."""
    if reports[0]["categories"]:
        rows, keys = "calibration", ("probability", "share", "share_se")
        labels = "probability of a class", "share of bins"
    else:
        rows, keys = "intervals", ("level", "coverage", "coverage_se")
        labels = "level of the interval", "share inside"
    for one, colour in zip(reports, COLOURS, strict=False):
        nominal, observed, error = np.array([[row[key] for key in keys] for row in one[rows]]).T
        axes.plot([nominal.min(), 1], [nominal.min(), 1], **reference(), zorder=1)
        axes.errorbar(
            nominal, observed, 2 * error, fmt="o-", markersize=4.5, linewidth=1.3, color=colour, label=one["name"]
        )
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:.0%}")
    finish(axes, *labels)
    legend(axes, loc="upper left", frameon=False)


def legend(owner: Axes | Figure, **options: Any) -> None:
    """A legend of axes or of a figure. A name in it may hold dollar signs, which are no mathematics here."""
    for text in owner.legend(**options).get_texts():
        text.set_parse_math(False)


def finish(axes: Axes, x: str, y: str = "", left: bool = True) -> None:
    """Label the axes and hide all spines but the lower one and, unless `left` is False, the left one."""
    axes.set_xlabel(x)
    if x == "time, s":  # of many digits
        axes.locator_params("x", nbins=5)
    if y:
        axes.set_ylabel(y)
    axes.spines[["top", "right"] if left else ["top", "right", "left"]].set_visible(False)


def _band(axes: Axes, x: Array, low: Any, high: Any, colour: str, label: str | None = None) -> None:
    """An interval about a line."""
    axes.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0, label=label)


def reference() -> dict[str, Any]:
    """The style of a dashed line to compare with."""
    return {"color": ink(), "linewidth": 0.8, "linestyle": (0, (4, 3))}


def ink() -> str:
    """The colour of text, in matplotlib's current style."""
    import matplotlib as mpl

    return str(mpl.rcParams["text.color"])


def _broken(values: Array, period: float) -> Array:
    """The same with NaN where a circular variable steps over its end."""
    jump = np.abs(np.diff(values, prepend=values[:1])) > period / 2
    return np.where(jump, np.nan, values)
