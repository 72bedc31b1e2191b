"""Pictures: a decoded dataset onto axes. Needs matplotlib (the extra `plot`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import PathCollection

#: Colours that stay apart for colour-blind readers (Okabe & Ito 2008).
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def leading_states(latents: xr.Dataset, number: int) -> list[int]:
    """The state dimensions whose filtered mean varies most, the most first."""
    variance = latents["filtered_mean"].var("time").to_numpy()
    return np.argsort(-variance)[:number].tolist()


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
        axes.fill_between(time, low, high, color=colour, alpha=0.25, linewidth=0)
        axes.plot(time, one["filtered_mean"] + shift, color=colour, linewidth=1.2)
    axes.set_yticks([-row * spacing for row in range(len(chosen))], [f"h{state}" for state in chosen])
    axes.set_xlabel("time, s")
    axes.set_ylabel(f"state, {latents['ci'].attrs['level']:.0%} interval")
    axes.spines[["top", "right"]].set_visible(False)


def plot_state_space(latents: xr.Dataset, axes: Axes, colour: np.ndarray, cmap: str = "viridis") -> PathCollection:
    """Filtered means in the plane of their two leading principal components.

    Args:
        latents: from `LDMFilter.decode`.
        axes: where.
        colour: (time,) a value for each bin, as the animal's place; bins where it is NaN are left out.
        cmap: matplotlib's name of the colour map.

    Returns:
        The points, for a colour bar.
    """
    mean = latents["filtered_mean"].to_numpy()[np.isfinite(colour)]
    centred = mean - mean.mean(0)
    first, second = np.linalg.svd(centred, full_matrices=False)[2][:2] @ centred.T
    points = axes.scatter(first, second, c=colour[np.isfinite(colour)], s=4, cmap=cmap, linewidths=0, alpha=0.8)
    axes.set_xlabel("first component")
    axes.set_ylabel("second component")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["top", "right"]].set_visible(False)
    return points
