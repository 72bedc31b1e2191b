"""The sections of a report: of each a function that computes its numbers and draws its pictures.

A section is a function here and a template of the same name, which writes its words. `SECTIONS` lists them in the
order of the page.
"""

from __future__ import annotations

import dataclasses
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmfilter.analysis import plots
from ldmfilter.analysis.report.inputs import Inputs
from ldmfilter.analysis.report.pictures import Picture
from ldmfilter.analysis.report.words import clean, finite, plain_number
from ldmfilter.config import Config, DataConfig, FilterConfig
from ldmfilter.data.counts import is_signal
from ldmfilter.data.windows import stretches
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ldmfilter.analysis.trials import Trials

POINTS = 3000  # of the state space, at most: what a phone turns smoothly
STATES_SHOWN = 60.0  # s
RASTER_SHOWN = 20.0  # s
UNITS_SHOWN = 10  # in the picture; the table has all
PHONE = 0.4  # share of a stretch that is shown on a phone
_LIBRARIES = ("torch", "numpy", "scipy", "xarray", "zarr", "pynwb", "scikit-learn", "pynapple", "matplotlib", "plotly")
#: Colours of the state space along a scale, that stay visible on white and on black.
_SCALE = ("#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#e3cf1f")


@dataclass(frozen=True)
class Section:
    """The numbers and pictures of a section.

    Attributes:
        data: keys of report.json and of the template, with their values.
        pictures: by name.
    """

    data: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Picture] = field(default_factory=dict)


def summary(inputs: Inputs) -> Section:
    """The session, the part of it that was used, and the model."""
    source, model, counts = inputs.session.source, inputs.model, inputs.counts
    observed, trained = (inputs.latents[name].to_numpy() for name in ("observed", "trained"))
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
        **dataclasses.asdict(source),
        "units_in_file": len(inputs.run.session_unit_ids),
        "units": counts.sizes["unit"],
        "signal": getattr(inputs.session, "name", ""),
        "spikes": None if is_signal(counts) else int(counts.sum()),
        "bins": counts.sizes["time"],
        "bin_size": size,
        "seconds": round(counts.sizes["time"] * size, 6),
        "start": spans[0][0],
        "stop": spans[-1][1],
        "stretches": len(spans),
        "bins_observed": int(observed.sum()),
        "bins_trained": int((trained & observed).sum()),
        "bins_judged": int((~trained & observed).sum()),
        "share_judged": float((~trained & observed).sum() / max(observed.sum(), 1)),
        "chosen": " and ".join(filter(None, chosen)) or "the whole session",
    }
    about = {
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
    about |= {k: parts[0][k] for k in ("kept_step", "held_out_predictive_information", "effective_rank")}
    title = source.session_id or source.identifier or Path(source.path).stem or "session"
    return Section({"title": title, "session": session, "model": about})


def states(inputs: Inputs) -> Section:
    """The states in time and in space, and the spikes."""
    pictures = {"states": _states(inputs), "space": _space(inputs), "raster": _raster(inputs)}
    return Section({name: picture.numbers for name, picture in pictures.items()}, pictures)


def _states(inputs: Inputs) -> Picture:
    start, stop = inputs.around(inputs.busiest(RASTER_SHOWN), STATES_SHOWN)
    shown = inputs.between(start, stop)
    unseen = ~shown["trained"].to_numpy()
    number = min(4, inputs.model.sized_.states)
    numbers = {
        "start": start,
        "stop": stop,
        "shown": plots.leading_states(shown, number),
        "level": float(inputs.latents["ci"].attrs["level"]),
        "of": inputs.model.sized_.states,
        "unseen_marked": bool(unseen.any() and not unseen.all()),
    }

    def draw(figure: Figure, narrow: bool) -> None:
        part = inputs.between(start, start + PHONE * (stop - start)) if narrow else shown
        time, axes = part["time"].to_numpy(), figure.add_subplot()
        plots.plot_states(part, axes, number=number)
        foot: dict[str, Any] = {"color": plots.COLOURS[1], "linewidth": 0, "step": "mid"}
        foot |= {"transform": axes.get_xaxis_transform(), "where": ~part["trained"].to_numpy()}
        axes.fill_between(time, 0, 0.012, **foot)
        axes.set(xlim=(time[0], time[-1]), ylabel="state")

    return Picture(draw, numbers, wide=(9.2, 3.9), narrow=(3.3, 3.4))


def _space(inputs: Inputs) -> Picture:
    """The still picture of the state space, and the points and colours that the page's script turns."""
    observed = np.flatnonzero(inputs.latents["observed"].to_numpy())
    mean = inputs.latents["filtered_mean"].to_numpy()[observed]
    # The slowest come first. As all states have the same variance, principal components would be no better a choice.
    slowest = np.pad(mean, ((0, 0), (0, max(3 - mean.shape[1], 0))))[:, :3]  # one or two states lie in a plane
    drawn = np.unique(np.linspace(0, len(observed) - 1, min(POINTS, len(observed))).astype(np.int64))
    points = slowest[drawn] / max(float(np.abs(slowest).max()), np.finfo(float).tiny)
    time = inputs.time[observed][drawn]
    choices = [_colouring(one, inputs.measured(one["name"])[observed][drawn]) for one in inputs.reports]
    choices.append(_colouring({"name": "time", "unit": "s"}, time))
    first = choices[0]
    values = np.array(first["values"], dtype=np.float64)

    def draw(figure: Figure, narrow: bool) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        colours = LinearSegmentedColormap.from_list("page", [colour for _, colour in first["colorscale"]])
        axes = figure.add_subplot(projection="3d")
        dots = plots.plot_state_space_3d(points[::2], axes, values[::2], cmap=colours, size=7)
        dots.set_clim(first["low"], first["high"])
        axes.view_init(elev=22, azim=45)

    numbers = {
        "shown": min(3, mean.shape[1]),
        "points": len(drawn),
        "bins": len(observed),
        "colours": [{key: one[key] for key in ("label", "low", "high")} for one in choices],
    }
    data = {**dict(zip("xyz", points.T.round(4), strict=True)), "time": time.round(2), "choices": choices}
    return Picture(draw, numbers, wide=(5.6, 4.6), data=finite(data))


def _colouring(about: Mapping[str, Any], values: np.ndarray) -> dict[str, Any]:
    """Colours of points (point,) by one variable, for the page's script and for the still picture. A variable of few
    values is shown as classes, by their rank."""
    known = values[np.isfinite(values)]
    classes = np.unique(known).tolist()
    low, high = (classes[0], classes[-1]) if classes else (0.0, 1.0)
    if about.get("circular") and about.get("period"):  # the colours go round once, whatever part of a turn was seen
        low = 0.0 if low > -2e-3 * about["period"] else -about["period"] / 2
        high = low + about["period"]
    names = about.get("classes")
    unit = f" {about['unit']}" if about["unit"] else ""
    labels = {"low_label": plain_number(low) + unit, "high_label": plain_number(high) + unit}
    stops: Sequence[str] = plots.CIRCLE if about.get("circular") else _SCALE
    named = None
    if names and classes:
        labels = {"low_label": names[int(low)], "high_label": names[int(high)]}
    if 2 <= len(classes) <= (len(plots.COLOURS) if names else 4):
        stops = plots.COLOURS[: len(classes)]
        values = np.where(np.isfinite(values), np.searchsorted(classes, values), np.nan)
        low, high = 0.0, float(len(classes) - 1)
        texts = [names[int(v)] if names else plain_number(v) + unit for v in classes]
        named = [{"label": v, "colour": c} for v, c in zip(texts, stops, strict=True)]
    return {
        "label": about["name"],
        "low": low,
        "high": high,
        **labels,
        "values": [float(f"{value:.5g}") for value in values.tolist()],
        "colorscale": list(zip(np.linspace(0, 1, len(stops)).tolist(), stops, strict=True)),
        "gradient": f"linear-gradient(90deg, {', '.join(stops)})",
        "classes": named,
    }


def _raster(inputs: Inputs) -> Picture:
    start, stop = inputs.busiest(RASTER_SHOWN)
    order, signal = inputs.unit_order(), is_signal(inputs.counts)
    trains = [] if signal else [t[(t >= start) & (t < stop)] for t in map(inputs.spike_times, order)]
    shown = inputs.between(start, stop)
    for name in inputs.names:  # a readout is shown only where it was not fitted
        kept = {key: shown[key] for key in (f"{name}_{end}" for end in ("mean", "ci", "probability")) if key in shown}
        shown = shown.assign({key: values.where(shown[f"{name}_fold"] >= 0) for key, values in kept.items()})
    behaviors = inputs.reports[:3]
    numbers = {
        "start": start,
        "stop": stop,
        "spikes": sum(map(len, trains)),
        "units": len(order),
        "unseen": not shown["trained"].any(),
        "rates": "rate" in shown,
        "behaviors": [one["name"] for one in behaviors],
    }

    def draw(figure: Figure, narrow: bool) -> None:
        end = start + (PHONE if narrow else 1) * (stop - start)
        part = shown.isel(time=np.flatnonzero(shown["time"].to_numpy() < end))
        heights = [2.6, *[1.0] * len(behaviors)]
        grid = figure.subplots(len(heights), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        if signal:
            plots.plot_signal(inputs.counts.isel(unit=order), grid[0], start, end)
        else:
            plots.plot_raster(trains, grid[0], start, end)
            if "rate" in part:
                shares = part["rate"] / inputs.latents["rate"].quantile(0.99, "time")
                plots.plot_rates(shares.isel(unit=order), grid[0])
        for one, axes in zip(behaviors, grid[1:], strict=True):
            if one["categories"]:
                measured = inputs.positions(one["name"], part[f"{one['name']}_true"].to_numpy())
                plots.plot_classes(part, one["name"], axes, measured)
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


def behavior(inputs: Inputs) -> Section:
    """The behaviours that were read, and the calibration of their intervals and probabilities."""
    calibrated = [one for one in inputs.reports if one["intervals"]]
    classes = [one for one in inputs.reports if one["categories"] and one["calibration"]]

    def draw(figure: Figure, narrow: bool) -> None:
        plots.plot_reports(calibrated, figure.add_subplot())

    def draw_classes(figure: Figure, narrow: bool) -> None:
        plots.plot_reports(classes, figure.add_subplot())

    def draw_pit(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        for one, colour in zip(calibrated, plots.COLOURS, strict=False):
            found = one["distribution"]
            plots.plot_pit(np.array(found["pit"]), np.array(found["pit_se"]), axes, colour, clean(one["name"]))
        for text in axes.legend(loc="lower center", frameon=False).get_texts():
            text.set_parse_math(False)

    drawn = {"calibration": (calibrated, draw), "pit": (calibrated, draw_pit), "probabilities": (classes, draw_classes)}
    pictures = {
        name: Picture(drawing, wide=(4.3, 3.6), narrow=(3.3, 3.1)) for name, (some, drawing) in drawn.items() if some
    }
    if inputs.lags:
        pictures["lags"] = Picture(lambda figure, narrow: _draw_lags(inputs, figure, narrow), wide=(9.2, 3.2))
    return Section({"behavior": list(inputs.reports), "lags": dict(inputs.lags)}, pictures)


def _draw_lags(inputs: Inputs, figure: Figure, narrow: bool) -> None:
    """Errors and widths at each lag over those without one; those of smoothed states as points at the right end."""
    for key, label, axes in zip(
        ("median_error", "width"), ("median error", "interval width"), _pair(figure, narrow), strict=True
    ):
        for (name, rows), colour in zip(inputs.lags.items(), plots.COLOURS, strict=False):
            values = np.array([row[key] for row in rows]) / rows[0][key]
            plots.plot_lags(np.array([row["lag"] for row in rows[:-1]]), values, axes, label, colour, clean(name))
    _legend(figure, figure.axes[0], narrow)


def trials(inputs: Inputs) -> Section:
    """States along trials by condition, and how well each condition is read from them."""
    found = inputs.trials
    if found is None:
        return Section({"trials": None, "trials_note": inputs.trials_note})
    known = np.isfinite(found.accuracy)
    best = int(np.nanargmax(found.accuracy)) if known.any() else 0
    data = {
        **{key: getattr(found, key) for key in ("event", "query", "condition", "names", "trials", "unseen", "note")},
        **{key: getattr(found, key) for key in ("time", "recall", "accuracy", "shuffled")},
        "best_recall": found.recall[best],
    }
    drawn = min(len(found.names), len(plots.COLOURS))
    shown = _most_apart(found, min(4, inputs.model.states))
    names = [clean(name) for name in found.names]

    def draw(figure: Figure, narrow: bool) -> None:
        grid = figure.subplots(len(shown), 1, sharex=True) if narrow else figure.subplots(-(-len(shown) // 2), 2)
        for state, axes in zip(shown, np.ravel(grid), strict=False):
            plots.plot_trials(found.aligned, state, found.number, names[:drawn], axes)
        _legend(figure, np.ravel(grid)[0], narrow)

    def draw_read(figure: Figure, narrow: bool) -> None:
        axes = figure.add_subplot()
        recall = found.recall[:, :drawn]
        plots.plot_read_along(found.time, recall, found.accuracy, found.shuffled, names[:drawn], axes)
        _legend(figure, axes, narrow)

    high = 2.3 * -(-len(shown) // 2) + 0.5
    about = {"shown": shown, "singles": plots.SINGLE_TRIALS, "undrawn": len(names) - drawn}
    numbers = {"best_time": found.time[best], "best": found.accuracy[best], "shuffled": found.shuffled[best]}
    return Section(
        {"trials": data, "trials_note": ""},
        {
            "trials": Picture(draw, about, wide=(9.2, high), narrow=(3.3, 1.8 * len(shown) + 0.8)),
            "conditions": Picture(draw_read, numbers, wide=(9.2, 3.4), narrow=(3.3, 3.6)),
        },
    )


def _most_apart(found: Trials, number: int) -> list[int]:
    """The states whose means over trials and time differ most between conditions, in order."""
    values = found.aligned["filtered_mean"].to_numpy()
    seen = found.aligned["observed"].to_numpy()
    means = np.stack([values[seen & (found.number == i)[:, None]].mean(0) for i in range(len(found.names))])
    apart = means.var(0)
    return np.sort(np.argsort(-apart)[:number]).tolist()


def _legend(figure: Figure, axes: Axes, narrow: bool) -> None:
    handles, names = axes.get_legend_handles_labels()
    legend = figure.legend(handles, names, loc="outside upper left", ncols=2 if narrow else 5)
    for text in legend.get_texts():
        text.set_parse_math(False)


def trust(inputs: Inputs) -> Section:
    """The diagnosis: checks, innovations, sharing, baselines, spectrum, time constants, drift."""
    pictures = {
        name + suffix: picture
        for suffix, measures in _parts(inputs).items()
        for draw in (_innovations, _sharing, _dimensions, _drift)
        for name, picture in draw(measures).items()
    }
    return Section({"diagnosis": dict(inputs.diagnosis)}, pictures)


def _parts(inputs: Inputs) -> dict[str, Mapping[str, Any]]:
    """The measures of each part of the filter, by what follows the names of its pictures."""
    parts = inputs.diagnosis["parts"]
    return {f"-{name}": parts[name] for name in parts} or {"": inputs.diagnosis}


def _arrays(measures: Mapping[str, Any], group: str, *names: str) -> tuple[np.ndarray, ...]:
    """Arrays of a group of measures, NaN where a value is not finite."""
    return tuple(np.asarray(measures[group][name], dtype=np.float64) for name in names)


def _innovations(measures: Mapping[str, Any]) -> dict[str, Picture]:
    probability, nis, chi2 = _arrays(measures, "consistency", "probability", "nis", "chi2")
    lag, correlation, white = _arrays(measures, "consistency", "lag", "correlation", "white")
    median, high = np.interp([0.5, 0.95], probability, nis / chi2)

    def draw(axes: Axes) -> None:
        plots.plot_autocorrelation(lag, correlation, white, axes)
        axes.legend(loc="upper right")

    return {
        "nis": _plot(lambda axes: plots.plot_nis(chi2, nis, axes), {"median_ratio": median, "quantile_95_ratio": high}),
        "correlation": _plot(draw),
    }


def _sharing(measures: Mapping[str, Any]) -> dict[str, Picture]:
    information, shifted_information = _arrays(measures, "sharing", "predictive_information", "surrogate_information")
    coupling, shifted_coupling = _arrays(measures, "sharing", "coupling", "surrogate_coupling")

    def draw(figure: Figure, narrow: bool) -> None:
        left, right = _pair(figure, narrow)
        plots.plot_surrogates(float(information), shifted_information, left, "predictive information, nats per second")
        plots.plot_surrogates(float(coupling), shifted_coupling, right, "correlation with other units' past")

    return {"sharing": Picture(draw, wide=(9.2, 1.7), narrow=(3.3, 2.8))}


def _dimensions(measures: Mapping[str, Any]) -> dict[str, Picture]:
    z, prediction = _arrays(measures, "spectrum", "z", "prediction")
    (seconds,) = _arrays(measures, "memory", "time_constant")
    seconds = np.sort(seconds[np.isfinite(seconds)])[::-1]

    def draw_spectrum(axes: Axes) -> None:
        plots.plot_spectrum({"pseudo-observation z": z, "its prediction": prediction}, axes)
        axes.legend(loc="lower left" if prediction[-1] > 0.3 else "upper right")

    def draw_memory(axes: Axes) -> None:
        plots.plot_bars([str(i + 1) for i in range(len(seconds))], seconds, axes, "time constant, s")
        axes.set_ylabel("slowest first")

    return {"spectrum": _plot(draw_spectrum), "memory": _plot(draw_memory)}


def _drift(measures: Mapping[str, Any]) -> dict[str, Picture]:
    start, stop, information, nis = _arrays(measures, "drift", "start", "stop", "predictive_information", "nis")

    def draw(figure: Figure, narrow: bool) -> None:
        first, second = _pair(figure, narrow, sharex=narrow)
        plots.plot_drift((start + stop) / 2, information, first, "predictive information,\nnats per second")
        plots.plot_drift((start + stop) / 2, nis, second, "NIS per dimension")
        if narrow:
            first.set_xlabel("")

    return {"drift": Picture(draw, wide=(9.2, 2.5), narrow=(3.3, 3.4))}


def units(inputs: Inputs) -> Section:
    """The units without which the filter predicts worst."""
    return Section({}, {f"units{suffix}": _units(measures) for suffix, measures in _parts(inputs).items()})


def _units(measures: Mapping[str, Any]) -> Picture:
    loss, share = _arrays(measures, "units", "loss", "share")
    order = np.argsort(-np.where(np.isfinite(loss), loss, -np.inf), kind="stable")
    shown = order[:UNITS_SHOWN]
    names = [clean(str(measures["units"]["unit"][i])) for i in shown]

    def draw(axes: Axes) -> None:
        plots.plot_bars(names, loss[shown], axes, "loss without the unit, nats per second")
        axes.set_ylabel("unit")

    numbers = {
        "order": order,
        "units": len(shown),
        "share": np.nansum(share[shown]),
        "largest": names[0],
        "loss": loss[shown[0]],
    }
    return _plot(draw, numbers, 1.0 + 0.2 * len(shown))


def training(inputs: Inputs) -> Section:
    """The evaluations of the training."""
    model = inputs.model
    kept = [part.kept_record_ for part in model.parts]
    picture = _plot(lambda axes: plots.plot_training(model.history_, kept, axes), high=2.8)
    data = {
        "training": [dataclasses.asdict(record) for record in model.history_],
        "candidates": [dataclasses.asdict(one) | {"label": one.label} for one in model.candidates_],
    }
    return Section(data, {"training": picture})


def made(inputs: Inputs) -> Section:
    """Settings, versions, and the commands that make the same run and the same page."""
    versions = {"ldmfilter": __version__, "Python": platform.python_version()}
    versions |= {name: version(name) for name in _LIBRARIES}
    run, folder = inputs.run, str(inputs.run.folder)
    given = [one.session for one in run.sessions if not one.added]
    which = ["--session", run.session_path] if len(run.sessions) > 1 else []
    commands = [
        ["ldmfilter", "train", *given, *_changed(run.config), "--run", folder],
        ["ldmfilter", "report", folder, *which, "--out", "report.html", *inputs.options],
    ]
    settings = {"settings": run.config.to_dict(), "versions": versions, "commands": list(map(shlex.join, commands))}
    return Section({"made": settings})


def _changed(config: Config) -> list[str]:
    """Every option that is not the default, as words of a command."""
    plain = Config(DataConfig(), FilterConfig(state_dim=config.filter.latent_dim)).to_dict()
    words = []
    for part, options in config.to_dict().items():
        for name, value in options.items():
            flag = f"--{name.replace('_', '-')}"
            if value == plain[part].get(name):
                continue
            if name == "spans":
                words += [word for start, stop in value for word in ("--span", f"{start!r}:{stop!r}")]
            elif isinstance(value, bool):
                words.append(flag if value else f"--no-{flag[2:]}")
            else:
                words += [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


def _plot(draw: Callable[[Axes], None], numbers: Mapping[str, Any] | None = None, high: float = 0.0) -> Picture:
    """A picture of one plot, the same in both sizes: as wide as half the page, or as wide as the page and so high."""
    sizes = ((9.2, high), (3.3, high)) if high else ((4.3, 3.3), (3.3, 2.9))
    return Picture(lambda figure, _: draw(figure.add_subplot()), numbers or {}, *sizes)


def _pair(figure: Figure, narrow: bool, **options: Any) -> Sequence[Axes]:
    """Axes of two plots: one above the other on a phone, else side by side."""
    return figure.subplots(2, 1, **options) if narrow else figure.subplots(1, 2, **options)


SECTIONS: dict[str, Callable[[Inputs], Section]] = {
    make.__name__: make for make in (summary, behavior, states, trials, trust, units, training, made)
}
