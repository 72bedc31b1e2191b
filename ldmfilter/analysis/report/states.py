"""The section of the states: in time, in space, and beside the spikes and the behaviour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmfilter.analysis import plots
from ldmfilter.analysis.report.inputs import Inputs
from ldmfilter.analysis.report.page import plain_number
from ldmfilter.analysis.report.pictures import Picture, Section
from ldmfilter.data.counts import is_signal
from ldmfilter.text import clean, finite

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 3000  # of the state space, at most: what a phone turns smoothly
STATES_SHOWN = 60.0  # s
RASTER_SHOWN = 20.0  # s
PHONE, SHORT = 0.4, 5.0  # share of a stretch that is shown on a phone; s, of one that is shown whole
#: Colours of the state space along a scale, that stay visible on white and on black.
_SCALE: tuple[str, ...] = ("#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#e3cf1f")


def states(inputs: Inputs) -> Section:
    """The states in time and in space, and the spikes."""
    pictures = {"states": _states(inputs), "space": _space(inputs), "raster": _raster(inputs)}
    return {name: picture.numbers for name, picture in pictures.items()}, pictures


def _end(start: float, stop: float, narrow: bool) -> float:
    """The end of what is shown of a stretch, s."""
    return start + PHONE * (stop - start) if narrow and stop - start > SHORT else stop


def _states(inputs: Inputs) -> Picture:
    start, stop = inputs.around(inputs.busiest(RASTER_SHOWN), STATES_SHOWN)
    shown = inputs.latents.sel(time=slice(start, stop))
    unseen = ~shown["trained"].to_numpy()
    marked, evidence = bool(unseen.any() and not unseen.all()), inputs.model.evidence > 0
    leading = plots.leading_states(shown, 4)
    numbers = {
        "start": start,
        "stop": stop,
        "narrow_stop": _end(start, stop, narrow=True),
        "shown": leading,
        "level": float(inputs.latents["ci"].attrs["level"]),
        "of": inputs.model.sized_.states,
        "unseen_marked": marked,
        "evidence": evidence,
    }

    def draw(figure: Figure, narrow: bool) -> None:
        part = shown.sel(time=slice(_end(start, stop, narrow)))
        time = part["time"].to_numpy()
        if evidence:
            axes, *below = figure.subplots(3, 1, sharex=True, height_ratios=[4, 0.8, 0.8])
            _evidence(inputs, part, leading, *below)
        else:
            axes = figure.add_subplot()
        plots.plot_states(part.sel(state=leading), axes, number=4)
        if marked:
            foot: Any = {"where": ~part["trained"].to_numpy(), "transform": axes.get_xaxis_transform(), "step": "mid"}
            axes.fill_between(time, 0, 0.012, color=plots.COLOURS[1], linewidth=0, **foot)
        axes.set(xlim=(time[0], time[-1]), ylabel="state", xlabel="" if evidence else axes.get_xlabel())

    more = 1.7 * evidence
    return Picture(draw, numbers, wide=(9.2, 3.9 + more), narrow=(3.3, 3.4 + more))


def _evidence(inputs: Inputs, part: xr.Dataset, shown: Sequence[int], above: Axes, below: Axes) -> None:
    """Spikes of each bin, and below them the mean width of the states' intervals, over its mean in the recording."""

    def widths(latents: xr.Dataset) -> xr.DataArray:
        return latents["ci"].sel(state=shown).diff("bound").mean(("state", "bound"))

    time = part["time"].to_numpy()
    spikes = inputs.counts.sum("unit").sel(time=time)
    above.fill_between(time, spikes, step="mid", color="0.5", alpha=0.6, linewidth=0)
    above.set_ylim(0, None)
    below.plot(time, 100 * widths(part) / widths(inputs.latents).mean(), color=plots.COLOURS[0])
    plots.finish(above, "", "spikes")
    plots.finish(below, "time, s", "width, %")


def _space(inputs: Inputs) -> Picture:
    """The still picture of the state space, and the points and colours that the page's script turns."""
    observed = np.flatnonzero(inputs.latents["observed"].to_numpy())
    mean = inputs.latents["filtered_mean"].to_numpy()[observed].astype(np.float64)
    axes_by, shown = _apart(inputs, mean, observed), mean
    if axes_by is not None:
        shown = (mean - mean.mean(0)) @ axes_by
    # The slowest come first. As all states have the same variance, principal components would be no better a choice.
    shown = np.pad(shown, ((0, 0), (0, max(3 - shown.shape[1], 0))))[:, :3]  # one or two states lie in a plane
    drawn = np.unique(np.linspace(0, len(observed) - 1, min(POINTS, len(observed))).astype(np.int64))
    points = shown[drawn] / max(float(np.abs(shown).max()), np.finfo(float).tiny)
    labels = [f"h{number}" if axes_by is None else f"axis {number + 1}" for number in range(3)]
    time = inputs.time[observed][drawn]
    choices = [_colouring(one, inputs.measured(one["name"])[observed][drawn]) for one in inputs.reports]
    choices.append(_colouring({"name": "time", "unit": "s"}, time))
    first = choices[0]
    values = np.array(first["values"], dtype=np.float64)

    def draw(figure: Figure, narrow: bool) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("page", [colour for _, colour in first["colorscale"]])
        axes: Any = figure.add_subplot(projection="3d")
        x, y, z, value = np.column_stack([points, values])[::2][np.isfinite(values[::2])].T
        limits = {"vmin": first["low"], "vmax": first["high"]}
        axes.scatter(x, y, z, c=value, s=7, cmap=colours, linewidths=0, alpha=0.85, **limits)
        for label, axis in zip(labels, (axes.xaxis, axes.yaxis, axes.zaxis), strict=True):
            axis.set_ticklabels([])
            axis.set_label_text(label)
            axis.labelpad = -10
            axis.set_pane_color((0.5, 0.5, 0.5, 0.06))
        axes.set_box_aspect(np.ptp(points, axis=0) + 0.1)
        axes.view_init(elev=43, azim=45)

    numbers = {
        "shown": min(3, mean.shape[1]),
        "apart": None if axes_by is None else _series(inputs.reports[0]).split("/")[-1],
        "points": len(drawn),
        "bins": len(observed),
        "unmeasured": not np.isfinite(values).all(),
        "colours": [{key: one[key] for key in ("label", "low", "high")} for one in choices],
    }
    data = {**dict(zip("xyz", points.T.round(4), strict=True)), "time": time.round(2)}
    data |= {"choices": choices, "axes": labels}
    return Picture(draw, numbers, wide=(5.6, 4.6), data=finite(data))


def _apart(inputs: Inputs, mean: np.ndarray, observed: np.ndarray) -> np.ndarray | None:
    """Axes (state, 3) along which the first behaviour, all columns of its series, differs most in filtered means
    (bin, state), found where training was; None where there are none, or no more than three states."""
    first = [one for one in inputs.reports if _series(one) == _series(inputs.reports[0])]
    if not first or mean.shape[1] <= 3:
        return None
    columns = [plots.flat(inputs.measured(one["name"])[observed], one.get("period")) for one in first]
    values = np.concatenate(columns, 1)
    seen = np.isfinite(values).all(1) & inputs.latents["trained"].to_numpy()[observed]
    return plots.directions(mean[seen], values[seen], 3) if seen.any() else None


def _series(report: Mapping[str, Any]) -> str:
    """The path of the series that a behaviour is a column of."""
    return str(report["path"].split("[")[0])


def _colouring(about: Mapping[str, Any], values: np.ndarray) -> dict[str, Any]:
    """Colours of points (point,) by one variable, for the page's script and for the still picture. A variable of few
    values is shown as classes, by their rank."""
    classes = np.unique(values[np.isfinite(values)]).tolist()
    low, high = (classes[0], classes[-1]) if classes else (0.0, 1.0)
    names, stops, named = about.get("classes") if classes else None, _SCALE, None
    unit = f" {about['unit']}" if about["unit"] else ""

    def label(value: float) -> str:
        return names[int(value)] if names else plain_number(value) + unit

    if about.get("circular"):
        stops = plots.CIRCLE
        if period := about["period"]:  # the colours go round once, whatever part of a turn was seen
            low = 0.0 if low > -2e-3 * period else -period / 2
            high = low + period
    ends = {"low_label": label(low), "high_label": label(high)}
    if 2 <= len(classes) <= (len(plots.COLOURS) if names else 4):
        stops = plots.COLOURS[: len(classes)]
        named = [{"label": label(one), "colour": colour} for one, colour in zip(classes, stops, strict=True)]
        values = np.where(np.isfinite(values), np.searchsorted(classes, values), np.nan)
        low, high = 0.0, float(len(classes) - 1)
    return {
        "label": about["name"],
        "low": low,
        "high": high,
        **ends,
        "values": [float(f"{value:.5g}") for value in values.tolist()],
        "colorscale": list(zip(np.linspace(0, 1, len(stops)).tolist(), stops, strict=True)),
        "gradient": f"linear-gradient(90deg, {', '.join(stops)})",
        "classes": named,
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
    numbers = {
        "start": start,
        "stop": stop,
        "narrow_stop": _end(start, stop, narrow=True),
        "spikes": sum(map(len, trains)),
        "units": len(order),
        "unseen": not shown["trained"].any(),
        "rates": "rate" in shown,
        "behaviors": [one["name"] for one in behaviors],
    }

    def draw(figure: Figure, narrow: bool) -> None:
        end = _end(start, stop, narrow)
        part = shown.sel(time=slice(end))
        heights = [2.6, *[1.0] * len(behaviors)]
        grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        if signal:
            plots.plot_signal(inputs.counts.isel(unit=order), grid[0], start, end)
        else:
            plots.plot_raster(trains, grid[0], start, end)
            if "rate" in part:
                known = inputs.latents["rate"].dropna("unit", how="all")  # others never fired in training
                high = known.quantile(0.99, "time").reindex(unit=part["unit"])
                plots.plot_rates((part["rate"] / high).isel(unit=order), grid[0])
        for one, axes in zip(behaviors, grid[1:], strict=True):
            if one["categories"]:
                plots.plot_classes(part, one["name"], axes)
            else:
                plots.plot_behavior(part, one["name"], axes, one["period"])
            axes.set_ylabel(clean("\n".join(filter(None, (one["name"], one["unit"])))), parse_math=False)
        for axes in grid[:-1]:
            axes.set_xlabel("")
            axes.tick_params(axis="x", length=0)
        if behaviors:
            grid[0].spines["bottom"].set_visible(False)
            grid[1].legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=1 if narrow else 3, borderaxespad=0)

    high = 3.4 + 1.3 * len(behaviors)
    return Picture(draw, numbers, wide=(9.2, high), narrow=(3.3, high))
