"""Pictures: a decoded dataset, or plain arrays, onto axes of matplotlib, in a notebook or on the report's page.

Every function draws onto the `axes` that it is given and opens no figure. Lines that stand for the data itself take
matplotlib's text colour, so that a dark style needs no other functions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import Colormap
    from mpl_toolkits.mplot3d.art3d import Path3DCollection
    from mpl_toolkits.mplot3d.axes3d import Axes3D

    from ldmfilter.filter.training import Record

#: Colours that stay apart for colour-blind readers (Okabe & Ito 2008), grey in place of black, which is the text's.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#F0E442")
#: Around a circle, visible on white and on black.
CIRCLE = ("#d1495b", "#e08a2c", "#a9a52a", "#3a9d6b", "#2b8fb8", "#5b68c4", "#a557a5", "#d1495b")
BAND = 0.25  # opacity of an interval
SINGLE_TRIALS = 12  # of a condition that are drawn, at most


def leading_states(latents: xr.Dataset, number: int) -> list[int]:
    """The state dimensions whose filtered mean varies most, the slowest first."""
    variance = latents["filtered_mean"].var("time").to_numpy()
    return np.sort(np.argsort(-variance)[:number]).tolist()


def leading_components(mean: np.ndarray, number: int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components of states.

    Args:
        mean: (time, state) filtered means.
        number: how many components, no more than there are states.

    Returns:
        (time, number) the components, largest variance first, each turned so that its skewness is not negative;
        (number,) the share of the variance that each explains.
    """
    centred = np.asarray(mean, dtype=np.float64) - np.mean(mean, 0, dtype=np.float64)
    _, size, axes = np.linalg.svd(centred, full_matrices=False)
    components = centred @ axes[:number].T
    components = components * np.where((components**3).sum(0) < 0, -1.0, 1.0)
    return components, size[:number] ** 2 / max(float((size**2).sum()), np.finfo(float).tiny)


def plot_states(latents: xr.Dataset, axes: Axes, number: int = 3, spacing: float | None = None) -> None:
    """Filtered means in time with their intervals, the `number` dimensions that vary most, one above the other.

    Args:
        latents: from `LDMFilter.decode`, the stretch that is to be shown.
        number: how many dimensions.
        spacing: distance between the rows, in units of the state; None takes what keeps them apart.
    """
    chosen = leading_states(latents, number)
    time = latents["time"].to_numpy()
    if spacing is None:
        spread = latents["ci"].sel(state=chosen)
        spacing = float(np.nanmax(spread.max("time") - spread.min("time")))
    shifts = [-row * spacing for row in range(len(chosen))]
    for row, (state, shift) in enumerate(zip(chosen, shifts, strict=True)):
        one, colour = latents.sel(state=state), COLOURS[row % len(COLOURS)]
        low, high = (one["ci"].sel(bound=bound) + shift for bound in ("lower", "upper"))
        _band(axes, time, low, high, colour)
        axes.plot(time, one["filtered_mean"] + shift, color=colour, linewidth=1.2)
    axes.set_yticks(shifts, [f"h{state}" for state in chosen])
    _finish(axes, "time, s", f"state, {latents['ci'].attrs['level']:.0%} interval")


def plot_state_space(
    latents: xr.Dataset, axes: Axes, colour: np.ndarray, cmap: str | Colormap = "viridis"
) -> PathCollection:
    """Filtered means in the plane of the two slowest states, which come first (canonical gauge). As all states have the
    same variance, that of their principal components would be a plane like any other.

    Args:
        latents: from `LDMFilter.decode`.
        colour: (time,) a value for each bin, as the animal's place; bins where it is NaN are left out.
        cmap: matplotlib's name of the colour map, or the map itself.

    Returns:
        The points, for a colour bar.
    """
    first, second = latents["filtered_mean"].to_numpy()[np.isfinite(colour), :2].T
    points = axes.scatter(first, second, c=colour[np.isfinite(colour)], s=4, cmap=cmap, linewidths=0, alpha=0.8)
    axes.set(xticks=[], yticks=[])
    _finish(axes, "h0, the slowest state", "h1, the second slowest")
    return points


def plot_state_space_3d(
    points: np.ndarray, axes: Axes3D, colour: np.ndarray, cmap: str | Colormap = "viridis", size: float = 5.0
) -> Path3DCollection:
    """States in three dimensions.

    Args:
        points: (time, 3), of three states.
        axes: made with `projection="3d"`.
        colour: (time,) a value for each point; points where it is NaN are left out.
        cmap: matplotlib's name of the colour map, or the map itself.
        size: of a point, points squared.

    Returns:
        The points, for a colour bar.
    """
    known = np.isfinite(colour)
    drawn = axes.scatter(*points[known].T, c=colour[known], s=size, cmap=cmap, linewidths=0, alpha=0.85)
    for number, axis in enumerate((axes.xaxis, axes.yaxis, axes.zaxis), 1):
        axis.set_ticklabels([])
        axis.set_label_text(f"state {number}")
        axis.labelpad = -10
        axis.set_pane_color((0.5, 0.5, 0.5, 0.06))
    return drawn


def plot_raster(spike_times: Sequence[np.ndarray], axes: Axes, start: float, stop: float) -> None:
    """Spikes as ticks, from `start` to `stop`, s; a row for each unit's spike times, s, the first at the top."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path

    # One path for all: a picture of ten thousand separate lines would be ten times as large.
    shown = [times[(times >= start) & (times < stop)] for times in spike_times]
    x = np.concatenate([*shown, np.empty(0)])
    row = np.repeat(np.arange(len(shown)), [len(times) for times in shown])
    ends = np.stack([np.stack([x, row - 0.4], -1), np.stack([x, row + 0.4], -1)], 1).reshape(-1, 2)
    codes = np.tile([Path.MOVETO, Path.LINETO], len(x)).astype(np.uint8)
    if len(x):
        axes.add_patch(PathPatch(Path(ends, codes), fill=False, linewidth=0.6, edgecolor=_ink()))
    axes.set(xlim=(start, stop), ylim=(len(shown) - 0.3, -0.7), yticks=[])
    _finish(axes, "time, s", f"{len(shown)} units", left=False)


def plot_rates(shares: xr.DataArray, axes: Axes) -> None:
    """Rates (time, unit) of a stretch as shades beneath the rows of `plot_raster`: shares of a high rate of each unit,
    above which the shade is the same."""
    from matplotlib.colors import LinearSegmentedColormap, to_rgba

    time = shares["time"].to_numpy()
    half = 0.5 * (time[-1] - time[0]) / max(time.size - 1, 1)
    shades = LinearSegmentedColormap.from_list("shades", [to_rgba(COLOURS[0], alpha) for alpha in (0, 0.6)])
    extent = (time[0] - half, time[-1] + half, shares.sizes["unit"] - 0.5, -0.5)
    axes.imshow(shares.to_numpy().T, aspect="auto", extent=extent, vmin=0, vmax=1, cmap=shades, interpolation="nearest")


def plot_signal(signal: xr.DataArray, axes: Axes, start: float, stop: float) -> None:
    """A signal (time, unit) from `start` to `stop`, s: a row for each channel, in its deviations, the first on top."""
    time = signal["time"].to_numpy()
    values = (signal - signal.mean("time")) / (signal.std("time") + 1e-12)
    shown = values.isel(time=np.flatnonzero((time >= start) & (time < stop))).to_numpy().T
    extent = (start, stop, len(shown) - 0.5, -0.5)
    axes.imshow(shown, aspect="auto", extent=extent, vmin=-1, vmax=4, cmap="viridis", interpolation="nearest")
    axes.set(yticks=[])
    _finish(axes, "time, s", f"{len(shown)} channels", left=False)


def plot_behavior(latents: xr.Dataset, name: str, axes: Axes, period: float | None = None) -> None:
    """Behaviour decoded from the states, with its interval, over what was measured.

    Args:
        latents: with `<name>_mean`, `<name>_true` (time,) and, where intervals were calibrated, `<name>_ci`
            (time, bound), as `read_behavior` gives them; the stretch that is to be shown.
        name: which behaviour.
        period: of a circular variable, in its unit; lines are not drawn across its end.
    """
    time = latents["time"].to_numpy()
    true, mean = latents[f"{name}_true"].to_numpy(), latents[f"{name}_mean"].to_numpy()
    if period is not None:
        true, mean = _broken(true, period), _broken(mean, period)
    if f"{name}_ci" in latents:
        ci = latents[f"{name}_ci"]
        low, high = (ci.sel(bound=bound).to_numpy() for bound in ("lower", "upper"))
        parts = [(low, high)] if period is None else _wrapped(low, high, np.nanmin(true), period)
        level = f"{float(ci.attrs['level']):.0%}" if "level" in ci.attrs else "the"
        for number, (lower, upper) in enumerate(parts):
            _band(axes, time, lower, upper, COLOURS[0], None if number else f"{level} interval")
    axes.plot(time, mean, color=COLOURS[0], linewidth=1.3, label="decoded")
    axes.plot(time, true, color=_ink(), linewidth=1.0, linestyle=(0, (3, 1.5)), label="measured")
    _finish(axes, "time, s")


def plot_classes(latents: xr.Dataset, name: str, axes: Axes, measured: np.ndarray) -> None:
    """Probabilities of classes read from the states, a row for each, whose height is the probability; over it a line
    while the class was measured.

    Args:
        latents: with `<name>_probability` (time, `<name>_class`), as `read_behavior` gives it, of the stretch that is
            to be shown.
        name: which behaviour.
        measured: (time,) position of the class that was measured, NaN for none.
    """
    time, labels = latents["time"].to_numpy(), latents[f"{name}_class"].to_numpy().tolist()
    probability = latents[f"{name}_probability"].to_numpy()
    for row, _ in enumerate(labels):
        half = 0.45 * probability[:, row]
        _band(axes, time, row - half, row + half, COLOURS[0], None if row else "probability")
        line = np.where(measured == row, row, np.nan)
        axes.plot(time, line, color=_ink(), linewidth=1.2, label=None if row else "measured")
    axes.set_yticks(range(len(labels)), [x if isinstance(x, str) else f"{x:g}" for x in labels], parse_math=False)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    _finish(axes, "time, s")


def plot_trials(aligned: xr.Dataset, state: int, condition: np.ndarray, names: Sequence[str], axes: Axes) -> None:
    """A state along trials: the mean of each condition in its 95 % band (1.96 standard errors), single trials thin
    behind.

    Args:
        aligned: as `ldmfilter.align` gives it.
        state: which.
        condition: (trial,) position of each trial's condition among `names`, others are not drawn.
        names: of the conditions.
        axes: to draw onto.
    """
    time = aligned["time"].to_numpy()
    values = aligned["filtered_mean"].sel(state=state).where(aligned["observed"]).to_numpy()
    for number, name in enumerate(names):
        own, colour = values[condition == number], COLOURS[number % len(COLOURS)]
        for one in own[:: max(len(own) // SINGLE_TRIALS, 1)][:SINGLE_TRIALS]:
            axes.plot(time, one, color=colour, linewidth=0.5, alpha=0.3)
        known = np.isfinite(own)
        count = known.sum(0)
        mean = np.where(known, own, 0).sum(0) / np.where(count > 1, count, np.nan)
        spread = np.where(known, (own - mean) ** 2, 0).sum(0) / np.where(count > 1, count - 1, np.nan)
        half = 1.96 * np.sqrt(spread / np.where(count > 1, count, np.nan))
        _band(axes, time, mean - half, mean + half, colour)
        axes.plot(time, mean, color=colour, linewidth=1.6, label=name)
    if time[0] < 0 < time[-1]:
        axes.axvline(0, **_reference())
    _finish(axes, "time, s", f"h{state}")


def plot_read_along(
    time: np.ndarray, recall: np.ndarray, accuracy: np.ndarray, shuffled: np.ndarray, names: Sequence[str], axes: Axes
) -> None:
    """The share of trials whose condition is read right, along the trial.

    Args:
        time: (time,) s from the event.
        recall: (time, condition) of each condition's trials.
        accuracy: (time,) mean over conditions.
        shuffled: (time,) 95th percentile of the same when conditions are shuffled among trials.
        names: of the conditions.
        axes: to draw onto.
    """
    for number, values in enumerate(recall.T):
        axes.plot(time, values, color=COLOURS[number % len(COLOURS)], linewidth=0.8, alpha=0.7, label=names[number])
    axes.fill_between(time, 0, shuffled, color=_ink(), alpha=0.1, linewidth=0, label="shuffled, 95 %")
    axes.plot(time, accuracy, color=_ink(), linewidth=1.8, label="mean of the conditions")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylim(0, 1.03)
    if time[0] < 0 < time[-1]:
        axes.axvline(0, **_reference())
    _finish(axes, "time, s", "trials read right")


def plot_reports(reports: Sequence[Mapping[str, Any]], axes: Axes) -> None:
    """Calibration of behaviours, as `read_behavior` reports them, all with intervals or all of classes."""
    for one, colour in zip(reports, COLOURS, strict=False):
        classes = one["categories"]
        keys = ("probability", "share", "share_se") if classes else ("level", "coverage", "coverage_se")
        rows = one["calibration"] if classes else one["intervals"]
        nominal, observed, error = np.array([[row[key] for key in keys] for row in rows]).T
        words = ("probability of a class", "share of bins") if classes else ("level of the interval", "share inside")
        plot_calibration(nominal, observed, error, axes, colour, one["name"], words)
    for text in axes.legend(loc="upper left", frameon=False).get_texts():
        text.set_parse_math(False)


def plot_calibration(
    nominal: np.ndarray,
    observed: np.ndarray,
    error: np.ndarray,
    axes: Axes,
    colour: str = COLOURS[0],
    label: str = "",
    axis_labels: tuple[str, str] = ("level of the interval", "share inside"),
) -> None:
    """Share of bins inside an interval against the level that it was made for, or of classes against their probability.

    Args:
        nominal: (level,) between 0 and 1.
        observed: (level,) the share that was counted.
        error: (level,) its standard error; bars are twice as long to each side.
        colour: of points and bars.
        label: for a legend.
        axis_labels: of what stands along the axes.
    """
    axes.plot([nominal.min(), 1], [nominal.min(), 1], **_reference(), zorder=1)
    style: dict[str, Any] = {"color": colour, "fmt": "o-", "markersize": 4.5, "linewidth": 1.3}
    axes.errorbar(nominal, observed, 2 * np.asarray(error), label=label, **style)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:.0%}")
    _finish(axes, *axis_labels)


def plot_pit(shares: np.ndarray, error: np.ndarray, axes: Axes, colour: str = COLOURS[0], label: str = "") -> None:
    """Share of bins by the probability that was given to less than what happened: level where distributions are right,
    high at both ends where they are too narrow.

    Args:
        shares: (step,) of the bins, in equal steps of the probability.
        error: (step,) its standard error; bars are twice as long to each side.
        axes: to draw onto.
        colour: of line and bars.
        label: for a legend.
    """
    edges = np.linspace(0, 1, len(shares) + 1)
    axes.axhline(1 / len(shares), **_reference(), zorder=1)
    axes.stairs(shares, edges, color=colour, linewidth=1.3, label=label)
    axes.errorbar((edges[:-1] + edges[1:]) / 2, shares, 2 * np.asarray(error), color=colour, fmt="none", linewidth=1.0)
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_ylim(0, None)
    _finish(axes, "probability of less than what happened (PIT)", "share of bins")


def plot_lags(lag: np.ndarray, value: np.ndarray, axes: Axes, label: str, colour: str, name: str) -> None:
    """A number, over that without a lag, against the lag.

    Args:
        lag: (lag,) s.
        value: (lag + 1,) the number at each lag, and for smoothed states.
        axes: to draw on.
        label: of the number.
        colour: of line and points.
        name: for a legend.
    """
    axes.plot(lag, value[:-1], "o-", color=colour, linewidth=1.3, markersize=4.5, label=name)
    end = 1.25 * float(lag[-1])
    axes.plot([end], value[-1:], "D", color=colour, markersize=5)
    axes.axhline(1, **_reference())
    axes.set_xticks([*lag[lag % 0.5 == 0], end], [*(f"{one:g}" for one in lag[lag % 0.5 == 0]), "smoothed"])
    axes.set_ylim(0, max(1.15, axes.get_ylim()[1]))
    _finish(axes, "lag, s", f"{label}, relative")


def plot_nis(expected: np.ndarray, observed: np.ndarray, axes: Axes) -> None:
    """Quantiles of the normalised innovations squared e' S^-1 e against those of chi-square: on the line where the
    filter's covariance is right, above it where it is too small.

    Args:
        expected: (quantile,) of chi-square with as many degrees of freedom as the innovation has dimensions.
        observed: (quantile,) of the bins, at the same levels.
    """
    # On square roots, distances in deviations, the bulk and the tail are seen in one picture.
    scale: dict[str, Any] = {
        "value": "function",
        "functions": (lambda values: np.sqrt(np.maximum(values, 0)), np.square),
    }
    axes.set_xscale(**scale)
    axes.set_yscale(**scale)
    top = 1.05 * float(max(np.nanmax(expected), np.nanmax(observed)))
    axes.plot([0, top], [0, top], **_reference())
    axes.plot(expected, observed, color=COLOURS[0], linewidth=1.4, marker="o", markersize=3)
    axes.set(xlim=(0, top), ylim=(0, top))
    _finish(axes, "quantile of chi-square", "quantile of the innovations")


def plot_autocorrelation(lag: np.ndarray, correlation: np.ndarray, white: np.ndarray, axes: Axes) -> None:
    """Predictable rest of the innovations, by lag.

    Args:
        lag: (lag,) s.
        correlation: (lag,) largest correlation between the innovation and that so much earlier.
        white: (lag,) bound that white innovations stay below.
    """
    axes.fill_between(lag, 0, white, color=_ink(), alpha=0.1, linewidth=0, label="white noise")
    axes.plot(lag, correlation, color=COLOURS[0], linewidth=1.4, marker="o", markersize=3.5, label="innovations")
    axes.set_ylim(0, max(0.5, 1.15 * float(np.nanmax([*correlation, *white]))))
    _finish(axes, "lag, s", "largest correlation")


def plot_surrogates(value: float, surrogates: np.ndarray, axes: Axes, label: str) -> None:
    """A number of the recording beside the same number of surrogates (surrogate,); `label` names it and its unit."""
    # The height carries no meaning: it keeps neighbouring points apart.
    height = np.random.default_rng(0).uniform(-0.5, 0.5, len(surrogates))
    axes.plot(surrogates, height, "o", color=_ink(), alpha=0.4, markersize=4, markeredgewidth=0)
    axes.plot([value], [0], "D", color=COLOURS[1], markersize=8, markeredgewidth=0)
    axes.axvline(0, **_reference())
    axes.set(ylim=(-1.6, 1.6), yticks=[])
    _finish(axes, label, left=False)


def plot_drift(middle: np.ndarray, value: np.ndarray, axes: Axes, label: str) -> None:
    """A number (block,) by blocks of the session, `middle` (block,) their middles, s; `label` names it and its unit."""
    axes.axhline(float(np.nanmean(value)), **_reference())
    axes.plot(middle, value, "o-", color=COLOURS[0], linewidth=1.2, markersize=4)
    if np.nanmin(value) >= 0:
        axes.set_ylim(0, 1.25 * float(np.nanmax(value)))
    _finish(axes, "time, s", label)


def plot_training(history: Sequence[Record], kept: Sequence[Record], axes: Axes) -> None:
    """Held-out score of every evaluation in `model.history_`, nats per frame over a Gaussian without memory, a line for
    each candidate, and the steps that were kept."""
    for name in dict.fromkeys(record.candidate for record in history):
        score = {record.step: record.score for record in history if record.candidate == name}
        colour, width = (COLOURS[0], 1.4) if name in [one.candidate for one in kept] else (COLOURS[5], 1.0)
        axes.plot(list(score), list(score.values()), color=colour, linewidth=width, label=name)
    for one in kept:
        axes.plot([one.step], [one.score], "o", color=COLOURS[1], markersize=6)
        late = one.step > max(record.step for record in history) / 2
        place: dict[str, Any] = {"xytext": (0, -24), "textcoords": "offset points", "ha": "right" if late else "left"}
        axes.annotate(f"kept, step {one.step}", (one.step, one.score), color=COLOURS[1], **place)
    axes.axhline(0, **_reference())
    if len(axes.get_legend_handles_labels()[1]) > 1:
        axes.legend(frameon=False)
    _finish(axes, "training step", "predictive information\non held-out time, nats per frame")


def plot_spectrum(spectra: dict[str, np.ndarray], axes: Axes) -> None:
    """Variances (dimension,) along principal axes, largest first, a line for each name."""
    for (name, values), colour in zip(spectra.items(), COLOURS, strict=False):
        ordered = np.sort(np.asarray(values, dtype=np.float64))[::-1]
        where = np.arange(1, len(ordered) + 1)
        axes.plot(where, ordered, "o-", color=colour, markersize=4, linewidth=1.2, label=name)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    _finish(axes, "principal axis", "variance")


def plot_bars(names: Sequence[str], values: np.ndarray, axes: Axes, label: str) -> None:
    """Values (bar,) as horizontal bars with their names, the first at the top; `label` names the values and their
    unit."""
    rows = np.arange(len(names))
    axes.barh(rows, values, height=0.62, color=COLOURS[0], alpha=0.85, linewidth=0)
    # A name may hold dollar signs, which are no mathematics here.
    axes.set_yticks(rows, [str(name) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(0, color=_ink(), linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    _finish(axes, label, left=False)


def _finish(axes: Axes, x: str, y: str = "", left: bool = True) -> None:
    """Label the axes and hide all spines but the lower one and, unless `left` is False, the left one."""
    axes.set_xlabel(x)
    if y:
        axes.set_ylabel(y)
    axes.spines[["top", "right"] if left else ["top", "right", "left"]].set_visible(False)


def _band(axes: Axes, x: np.ndarray, low: Any, high: Any, colour: str, label: str | None = None) -> None:
    """An interval about a line."""
    axes.fill_between(x, low, high, color=colour, alpha=BAND, linewidth=0, label=label)


def _reference() -> dict[str, Any]:
    """The style of a dashed line to compare with."""
    return {"color": _ink(), "linewidth": 0.8, "linestyle": (0, (4, 3))}


def _ink() -> str:
    import matplotlib as mpl

    return str(mpl.rcParams["text.color"])


def _broken(values: np.ndarray, period: float) -> np.ndarray:
    """The same with NaN where a circular variable steps over its end."""
    jump = np.abs(np.diff(values, prepend=values[:1])) > period / 2
    return np.where(jump, np.nan, values)


def _wrapped(low: np.ndarray, high: np.ndarray, origin: float, period: float) -> list[tuple[np.ndarray, np.ndarray]]:
    """An interval on the circle as pieces on the line from the origin's turn: itself, and what sticks out at
    either end, brought back at the other."""
    base = np.floor(origin / period) * period if origin >= 0 else -period / 2
    top = base + period
    return [
        (np.clip(low, base, top), np.clip(high, base, top)),
        (np.where(high > top, base, np.nan), np.where(high > top, high - period, np.nan)),
        (np.where(low < base, low + period, np.nan), np.where(low < base, top, np.nan)),
    ]
