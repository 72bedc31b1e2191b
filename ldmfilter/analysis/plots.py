"""Pictures: a decoded dataset, or plain arrays, onto axes of matplotlib, in a notebook or on the report's page.

Every function draws onto the axes that it is given and opens no figure. Lines that stand for the data itself take
matplotlib's text colour, so that a dark style needs no other functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection
    from matplotlib.colors import Colormap
    from mpl_toolkits.mplot3d.art3d import Path3DCollection
    from mpl_toolkits.mplot3d.axes3d import Axes3D

    from ldmfilter.filter.training import Record

#: Colours that stay apart for colour-blind readers (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
BAND = 0.25  # opacity of an interval


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
    """Filtered means in time with their intervals, the dimensions that vary most, one above the other.

    Args:
        latents: from `LDMFilter.decode`, the stretch that is to be shown.
        axes: where.
        number: how many dimensions.
        spacing: distance between the rows, in units of the state; None takes what keeps them apart.
    """
    chosen = leading_states(latents, number)
    time = latents["time"].to_numpy()
    if spacing is None:
        spread = latents["ci"].sel(state=chosen)
        spacing = float(np.nanmax(spread.max("time") - spread.min("time")))
    for row, state in enumerate(chosen):
        shift = -row * spacing
        one = latents.sel(state=state)
        colour = COLOURS[row % len(COLOURS)]
        low, high = one["ci"].sel(bound="lower") + shift, one["ci"].sel(bound="upper") + shift
        axes.fill_between(time, low, high, color=colour, alpha=BAND, linewidth=0)
        axes.plot(time, one["filtered_mean"] + shift, color=colour, linewidth=1.2)
    axes.set_yticks([-row * spacing for row in range(len(chosen))], [f"h{state}" for state in chosen])
    axes.set_xlabel("time, s")
    axes.set_ylabel(f"state, {latents['ci'].attrs['level']:.0%} interval")
    axes.spines[["top", "right"]].set_visible(False)


def plot_state_space(latents: xr.Dataset, axes: Axes, colour: np.ndarray, cmap: str = "viridis") -> PathCollection:
    """Filtered means in the plane of the two slowest states, which come first (canonical gauge). As all states have the
    same variance, that of their principal components would be a plane like any other.

    Args:
        latents: from `LDMFilter.decode`.
        axes: where.
        colour: (time,) a value for each bin, as the animal's place; bins where it is NaN are left out.
        cmap: matplotlib's name of the colour map.

    Returns:
        The points, for a colour bar.
    """
    first, second = latents["filtered_mean"].to_numpy()[np.isfinite(colour), :2].T
    points = axes.scatter(first, second, c=colour[np.isfinite(colour)], s=4, cmap=cmap, linewidths=0, alpha=0.8)
    axes.set_xlabel("h0, the slowest state")
    axes.set_ylabel("h1, the second slowest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)
    return points


def plot_state_space_3d(
    points: np.ndarray, axes: Axes3D, colour: np.ndarray, cmap: str | Colormap = "viridis", size: float = 5.0
) -> Path3DCollection:
    """States in three dimensions.

    Args:
        points: (time, 3), as `leading_components` gives them.
        axes: where, made with `projection="3d"`.
        colour: (time,) a value for each point; points where it is NaN are left out.
        cmap: matplotlib's name of the colour map, or the map itself.
        size: of a point, points squared.

    Returns:
        The points, for a colour bar.
    """
    known = np.isfinite(colour)
    drawn = axes.scatter(*points[known].T, c=colour[known], s=size, cmap=cmap, linewidths=0, alpha=0.85)
    for axis, name in zip((axes.xaxis, axes.yaxis, axes.zaxis), ("1", "2", "3"), strict=True):
        axis.set_ticklabels([])
        axis.set_label_text(f"component {name}")
        axis.labelpad = -10
        axis.set_pane_color((0.5, 0.5, 0.5, 0.06))
    return drawn


def plot_raster(spike_times: Sequence[np.ndarray], axes: Axes, start: float, stop: float) -> None:
    """Spikes as ticks, a row for each unit, the first at the top.

    Args:
        spike_times: for each unit its spike times, s, in the order of the rows.
        axes: where.
        start, stop: the stretch that is shown, s.
    """
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
    axes.set_xlim(start, stop)
    axes.set_ylim(len(shown) - 0.3, -0.7)
    axes.set_yticks([])
    axes.set_ylabel(f"{len(shown)} units")
    axes.set_xlabel("time, s")
    axes.spines[["top", "right", "left"]].set_visible(False)


def plot_behavior(latents: xr.Dataset, name: str, axes: Axes, period: float | None = None) -> None:
    """Behaviour decoded from the states, with its interval, over what was measured.

    Args:
        latents: with `<name>_mean`, `<name>_true` (time,) and, where intervals were calibrated, `<name>_ci`
            (time, bound), as `read_behavior` gives them; the stretch that is to be shown.
        name: which behaviour.
        axes: where.
        period: of a circular variable, in its unit; lines are not drawn across its end.
    """
    time = latents["time"].to_numpy()
    true, mean = latents[f"{name}_true"].to_numpy(), latents[f"{name}_mean"].to_numpy()
    if period is not None:
        true, mean = _broken(true, period), _broken(mean, period)
    if f"{name}_ci" in latents:
        low, high = (latents[f"{name}_ci"].sel(bound=bound).to_numpy() for bound in ("lower", "upper"))
        parts = [(low, high)] if period is None else _wrapped(low, high, np.nanmin(true), period)
        for i, (lower, upper) in enumerate(parts):
            label = f"{_level(latents[f'{name}_ci'])} interval" if i == 0 else None
            axes.fill_between(time, lower, upper, color=COLOURS[0], alpha=BAND, linewidth=0, label=label, step=None)
    axes.plot(time, mean, color=COLOURS[0], linewidth=1.3, label="decoded")
    axes.plot(time, true, color=_ink(), linewidth=1.0, linestyle=(0, (3, 1.5)), label="measured")
    axes.set_xlabel("time, s")
    axes.spines[["top", "right"]].set_visible(False)


def plot_calibration(
    nominal: np.ndarray, observed: np.ndarray, error: np.ndarray, axes: Axes, colour: str = COLOURS[0], label: str = ""
) -> None:
    """Share of bins inside an interval against the level that it was made for.

    Args:
        nominal: (level,) between 0 and 1.
        observed: (level,) the share that was counted.
        error: (level,) its standard error; bars are twice as long to each side.
        axes: where.
        colour: of points and bars.
        label: for a legend.
    """
    axes.plot([0.4, 1], [0.4, 1], color=_ink(), linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    axes.errorbar(
        nominal, observed, 2 * np.asarray(error), color=colour, fmt="o-", markersize=4.5, linewidth=1.3, label=label
    )
    axes.set_xlabel("level of the interval")
    axes.set_ylabel("share inside")
    axes.xaxis.set_major_formatter("{x:.0%}")
    axes.yaxis.set_major_formatter("{x:.0%}")
    axes.set_xlim(0.45, 1.03)
    axes.spines[["top", "right"]].set_visible(False)


def plot_nis(expected: np.ndarray, observed: np.ndarray, axes: Axes) -> None:
    """Quantiles of the normalised innovations squared e' S^-1 e against those of chi-square: on the line where the
    filter's covariance is right, above it where the filter is too sure.

    Args:
        expected: (quantile,) of chi-square with as many degrees of freedom as the innovation has dimensions.
        observed: (quantile,) of the bins, at the same levels.
        axes: where.
    """
    # On square roots, distances in deviations, the bulk and the tail are seen in one picture.
    axes.set_xscale("function", functions=(_root, np.square))
    axes.set_yscale("function", functions=(_root, np.square))
    top = 1.05 * float(max(np.nanmax(expected), np.nanmax(observed)))
    axes.plot([0, top], [0, top], color=_ink(), linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(expected, observed, color=COLOURS[0], linewidth=1.4, marker="o", markersize=3)
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_xlabel("quantile of chi-square")
    axes.set_ylabel("quantile of the innovations")
    axes.spines[["top", "right"]].set_visible(False)


def plot_autocorrelation(lag: np.ndarray, correlation: np.ndarray, white: np.ndarray, axes: Axes) -> None:
    """What is left to predict in the innovations, by lag.

    Args:
        lag: (lag,) s.
        correlation: (lag,) largest correlation between the innovation and that so much earlier.
        white: (lag,) what white innovations would stay below.
        axes: where.
    """
    axes.fill_between(lag, 0, white, color=_ink(), alpha=0.1, linewidth=0, label="white noise")
    axes.plot(lag, correlation, color=COLOURS[0], linewidth=1.4, marker="o", markersize=3.5, label="innovations")
    axes.set_ylim(0, max(0.5, 1.15 * float(np.nanmax([*correlation, *white]))))
    axes.set_xlabel("lag, s")
    axes.set_ylabel("largest correlation")
    axes.spines[["top", "right"]].set_visible(False)


def plot_surrogates(value: float, surrogates: np.ndarray, axes: Axes, label: str) -> None:
    """A number of the recording beside the same number of surrogates.

    Args:
        value: of the recording.
        surrogates: (surrogate,).
        axes: where.
        label: of the number, with its unit.
    """
    # The height carries no meaning: it keeps neighbouring points apart.
    height = np.random.default_rng(0).uniform(-0.5, 0.5, len(surrogates))
    axes.plot(surrogates, height, "o", color=_ink(), alpha=0.4, markersize=4, markeredgewidth=0)
    axes.plot([value], [0], "D", color=COLOURS[1], markersize=8, markeredgewidth=0)
    axes.axvline(0, color=_ink(), linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_ylim(-1.6, 1.6)
    axes.set_yticks([])
    axes.set_xlabel(label)
    axes.spines[["top", "right", "left"]].set_visible(False)


def plot_drift(middle: np.ndarray, value: np.ndarray, axes: Axes, label: str) -> None:
    """A number by blocks of the session.

    Args:
        middle: (block,) s.
        value: (block,).
        axes: where.
        label: of the number, with its unit.
    """
    axes.axhline(float(np.nanmean(value)), color=_ink(), linewidth=0.8, linestyle=(0, (4, 3)))
    axes.plot(middle, value, "o-", color=COLOURS[0], linewidth=1.2, markersize=4)
    if np.nanmin(value) >= 0:
        axes.set_ylim(0, 1.25 * float(np.nanmax(value)))
    axes.set_xlabel("time, s")
    axes.set_ylabel(label)
    axes.spines[["top", "right"]].set_visible(False)


def plot_training(history: Sequence[Record], axes: Axes) -> None:
    """Held-out score of every evaluation, nats per bin over a Gaussian without memory, and the step that was kept.

    Args:
        history: `model.history_`.
        axes: where.
    """
    steps = np.array([record.step for record in history])
    score = np.array([record.score for record in history])
    kept = history[-1].kept_step
    at = int(np.flatnonzero(steps == kept)[0])
    axes.plot(steps, score, color=COLOURS[0], linewidth=1.4)
    axes.plot([kept], [score[at]], "o", color=COLOURS[1], markersize=6)
    axes.annotate(
        f"kept, step {kept}",
        (kept, score[at]),
        xytext=(0, -24),
        textcoords="offset points",
        ha="right" if at > len(steps) / 2 else "left",
        color=COLOURS[1],
    )
    axes.axhline(0, color=_ink(), linewidth=0.8, linestyle=(0, (4, 3)))
    axes.set_xlabel("training step")
    axes.set_ylabel("held-out gain, nats per bin")
    axes.spines[["top", "right"]].set_visible(False)


def plot_spectrum(spectra: dict[str, np.ndarray], axes: Axes) -> None:
    """Variances along principal axes, largest first.

    Args:
        spectra: name -> (dimension,) variances.
        axes: where.
    """
    for index, (name, values) in enumerate(spectra.items()):
        ordered = np.sort(np.asarray(values, dtype=np.float64))[::-1]
        where = np.arange(1, len(ordered) + 1)
        axes.plot(where, ordered, "o-", color=COLOURS[index], markersize=4, linewidth=1.2, label=name)
    axes.set_ylim(bottom=0)
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("principal axis")
    axes.set_ylabel("variance")
    axes.spines[["top", "right"]].set_visible(False)


def plot_bars(names: Sequence[str], values: np.ndarray, axes: Axes, label: str) -> None:
    """Values as horizontal bars, the first at the top: units that matter, time constants.

    Args:
        names: one for each bar.
        values: (bar,).
        axes: where.
        label: of the value's axis, with its unit.
    """
    rows = np.arange(len(names))
    axes.barh(rows, values, height=0.62, color=COLOURS[0], alpha=0.85, linewidth=0)
    # A name may hold dollar signs, which are no mathematics here.
    axes.set_yticks(rows, [str(name) for name in names], parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(0, color=_ink(), linewidth=0.8)
    axes.set_xlabel(label)
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _root(values: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(values, 0))


def _ink() -> str:
    import matplotlib as mpl

    return str(mpl.rcParams["text.color"])


def _level(ci: xr.DataArray) -> str:
    return f"{float(ci.attrs['level']):.0%}" if "level" in ci.attrs else "the"


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
