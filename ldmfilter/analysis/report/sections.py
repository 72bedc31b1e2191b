"""The sections of a report: for each a function that computes its numbers and draws its pictures.

The words of a section are in the template of the same name. `SECTIONS` has the order of the page.
"""

from __future__ import annotations

import itertools
import platform
import shlex
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ldmfilter.analysis.plots import (
    COLOURS,
    SINGLE_TRIALS,
    finish,
    ink,
    legend,
    plot_reports,
    plot_trials,
    reference,
)
from ldmfilter.analysis.report.inputs import Inputs
from ldmfilter.analysis.report.pictures import Picture, Section, one_plot, pair
from ldmfilter.analysis.report.states import states
from ldmfilter.analysis.report.trust import trust, units
from ldmfilter.config import Config, DataConfig, FilterConfig
from ldmfilter.data.counts import is_signal
from ldmfilter.data.windows import stretches
from ldmfilter.filter.candidates import labels
from ldmfilter.text import clean
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ldmfilter.analysis.trials import Trials
    from ldmfilter.filter.evaluation import Record

_LIBRARIES = ("torch", "numpy", "scipy", "xarray", "zarr", "pynwb", "scikit-learn", "pynapple", "matplotlib", "plotly")


def summary(inputs: Inputs) -> Section:
    """The session, the part of it that was used, and the model."""
    source, model, counts = inputs.session.source, inputs.model, inputs.counts
    observed = inputs.latents["observed"].to_numpy()
    unseen = observed & ~inputs.latents["trained"].to_numpy()
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
            axes.stairs(share, edges, color=colour, linewidth=1.3, label=clean(one["name"]))
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
        sizes = ((9.2, 3.2), (3.3, 4.8)) if inputs.reports else ((4.3, 3.3), (3.3, 2.9))
        pictures["lags"] = Picture(draw_lags, {}, *sizes)
    return {"behavior": inputs.reports, "lags": inputs.lags}, pictures


def trials(inputs: Inputs) -> Section:
    """States along trials by condition, and how well each condition is read from them."""
    found = inputs.trials
    if found is None:
        return {"trials": None, "trials_note": inputs.trials_note}, {}
    best = int(np.nanargmax(found.accuracy)) if np.isfinite(found.accuracy).any() else 0
    hidden = ("aligned", "number")  # of which there are pictures
    data = {key: value for key, value in vars(found).items() if key not in hidden}
    shown = _most_apart(found, 4)
    names = [clean(name) for name in found.names]
    drawn = names[: len(COLOURS)]

    def draw(figure: Figure, narrow: bool) -> None:
        grid = figure.subplots(len(shown), 1, sharex=True) if narrow else figure.subplots(-(-len(shown) // 2), 2)
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
        shuffled: dict[str, Any] = {"alpha": 0.1, "linewidth": 0, "label": "shuffled, 95 %"}
        axes.fill_between(time, 0, found.shuffled, color=ink(), **shuffled)
        axes.plot(time, found.accuracy, color=ink(), linewidth=1.8, label="mean of the conditions")
        axes.yaxis.set_major_formatter("{x:.0%}")
        axes.set_ylim(0, 1.03)
        if time[0] < 0 < time[-1]:
            axes.axvline(0, **reference())
        finish(axes, "time, s", "trials read right")
        _legend(figure, narrow)

    high = 2.3 * -(-len(shown) // 2) + 0.5
    about = {"shown": shown, "singles": SINGLE_TRIALS, "undrawn": len(names) - len(drawn)}
    numbers = {"best_time": found.time[best], "best": found.accuracy[best], "shuffled": found.shuffled[best]}
    data["best_recall"] = found.recall[best]
    return {"trials": data, "trials_note": ""}, {
        "trials": Picture(draw, about, wide=(9.2, high), narrow=(3.3, 1.8 * len(shown) + 0.8)),
        "conditions": Picture(draw_read, numbers, wide=(9.2, 3.4), narrow=(3.3, 3.6)),
    }


def _most_apart(found: Trials, number: int) -> list[int]:
    """The states whose means over trials and time differ most between conditions, in order."""
    values = found.aligned["filtered_mean"].to_numpy()
    seen = found.aligned["observed"].to_numpy()
    means = np.stack([values[seen & (found.number == i)[:, None]].mean(0) for i in range(len(found.names))])
    return np.sort(np.argsort(-means.var(0))[:number]).tolist()


def _legend(figure: Figure, narrow: bool) -> None:
    """One legend above all plots of a figure, with what the first one shows."""
    handles, labels = figure.axes[0].get_legend_handles_labels()
    legend(figure, handles=handles, labels=labels, loc="outside upper left", ncols=2 if narrow else 5)


def training(inputs: Inputs) -> Section:
    """The evaluations of the training, and the steps that were kept."""
    model = inputs.model
    frames = {one.name: one.frame for one in model.candidates_}  # s, by which nats per frame are divided

    def draw(axes: Axes) -> None:
        colours = dict(zip(dict.fromkeys(one.candidate for one in model.history_), itertools.cycle(COLOURS)))

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
        ["ldmfilter", "train", *given, *_changed(run.config), "--run", folder],
        ["ldmfilter", "report", folder, *which, "--out", "report.html", *inputs.options],
    ]
    settings = {"settings": run.config.to_dict(), "versions": versions, "commands": list(map(shlex.join, commands))}
    return {"made": settings}, {}


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


SECTIONS: dict[str, Callable[[Inputs], Section]] = {
    make.__name__: make for make in (summary, behavior, states, trials, trust, units, training, made)
}
