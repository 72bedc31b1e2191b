"""The report: what a run found and how sure it may be, as one page and as the same numbers in JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import platform
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from ldmfilter.analysis import plots
from ldmfilter.analysis.page import Picture, asset, clean, document, figure_of
from ldmfilter.analysis.sections import body
from ldmfilter.config import Config, DataConfig, FilterConfig
from ldmfilter.data.counts import check_counts
from ldmfilter.data.windows import stretches
from ldmfilter.files import check_target, replacing
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

    from ldmfilter.data.session import Session
    from ldmfilter.filter.model import LDMFilter
    from ldmfilter.filter.runs import Run

FORMAT = 1
POINTS = 3000  # of the state space, at most: what a phone turns smoothly
STATES_SHOWN = 60.0  # s
RASTER_SHOWN = 20.0  # s
UNITS_SHOWN = 10  # in the picture; the table has all
CHANCE = 0.05  # of a shift being read as well: above it a behaviour is said not to be read
PHONE = 0.4  # of a stretch is shown on a phone
_LIBRARIES = ("torch", "numpy", "scipy", "xarray", "zarr", "pynwb", "scikit-learn", "pynapple", "matplotlib", "plotly")


@dataclass(frozen=True, eq=False)
class Report:
    """A report, ready to be written.

    Attributes:
        content: every number and every sentence, as plain JSON types.
        pictures: by name, in the order of the page.
        space: points and colourings of the state space, for the page's script.
    """

    content: dict[str, Any]
    pictures: dict[str, Picture]
    space: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """What `report.json` holds."""
        return self.content

    def html(self) -> str:
        """The page, in one file that needs no network."""
        from plotly.offline import get_plotlyjs

        # A browser reads every line end as \n, and checks the script's hash after that.
        scripts = [text.replace("\r\n", "\n") for text in (get_plotlyjs(), asset("report.js"))]
        return document(
            f"{self.content['title']}: ldmfilter report", body(self.content, self.pictures, self.space), scripts
        )

    def write(self, path: str | os.PathLike[str], overwrite: bool = False) -> tuple[Path, Path]:
        """Write the page, and its numbers beside it as JSON with the same stem: both whole or not at all.

        Returns:
            Where the page and the JSON lie.

        Raises:
            InputError: one of them exists and `overwrite` is False, or the disk refuses.
        """
        page, numbers = check_report(path, overwrite)
        text, data = self.html(), json.dumps(self.content, indent=1, allow_nan=False, ensure_ascii=False)
        with replacing(numbers, overwrite) as second, replacing(page, overwrite) as first:
            second.write_text(data + "\n", encoding="utf-8")
            first.write_text(text, encoding="utf-8")
        return page, numbers


def check_report(path: str | os.PathLike[str], overwrite: bool) -> tuple[Path, Path]:
    """Where a report's page and numbers will lie; called early, it saves a person from waiting for a refusal.

    Raises:
        InputError: the name ends in .json, one of them exists and `overwrite` is False, or the folder is missing.
    """
    from ldmfilter.errors import InputError

    target = Path(path)
    if target.suffix.lower() == ".json" or not target.suffix:
        raise InputError(f"{path}: is no name of a page; end it in .html, as report.html")
    return check_target(target, overwrite), check_target(target.with_suffix(".json"), overwrite)


def report_run(
    run: Run,
    behavior: Sequence[str] = (),
    circular: Sequence[str] = (),
    min_speed: float = 0.0,
    tell: Callable[[str], None] | None = None,
) -> Report:
    """A run's report, from its folder and its session.

    Args:
        run: the run folder.
        behavior: paths of the behaviours that are read from the states, as `inspect` prints them.
        circular: which of them are circular whatever their unit and name say.
        min_speed: bins in which the first behaviour changes more slowly (its unit per s) are not judged.
        tell: called with what is being computed.

    Raises:
        InputError: the session is not there any more or has changed; a behaviour cannot be used.
    """
    from ldmfilter.analysis.behavior import choose_behavior
    from ldmfilter.analysis.checks import diagnose
    from ldmfilter.analysis.readout import read_behavior

    say = tell or (lambda _: None)
    model = run.model()
    session, counts = run.recording()
    chosen = choose_behavior(session, behavior, circular)
    counts = check_counts(counts)
    latents = model.decode(counts)
    reports: tuple[Mapping[str, Any], ...] = ()
    if chosen:
        say(f"behaviour: {_and([one.name for one in chosen])}")
        reading = read_behavior(latents, chosen, counts, min_speed=min_speed)
        latents, reports = reading.latents, tuple(report.to_dict() for report in reading.reports)
    diagnosis = diagnose(model, counts, progress=lambda what: say(f"diagnoses: {what}"))
    options = [word for path in behavior for word in ("--behavior", path)]
    options += [word for name in circular for word in ("--circular", name)]
    options += ["--min-speed", f"{min_speed:g}"] if min_speed else []
    return make_report(run, session, counts, model, latents, diagnosis.to_dict(), reports, options)


def make_report(
    run: Run,
    session: Session,
    counts: xr.DataArray,
    model: LDMFilter,
    latents: xr.Dataset,
    diagnosis: Mapping[str, Any],
    reports: Sequence[Mapping[str, Any]] = (),
    options: Sequence[str] = (),
) -> Report:
    """Gather what a run found: numbers, sentences, pictures.

    Args:
        run: the run folder.
        session: its session, with the behaviour.
        counts: (time, unit) in the run's own stretches, reserved time included, as `run.recording` gives them.
        model: the run's model.
        latents: of these counts, from `model.decode`; with `<name>_mean`, `<name>_ci`, `<name>_true` where
            behaviour was read, as `read_behavior` adds them.
        diagnosis: `diagnose(model, counts).to_dict()`.
        reports: `to_dict()` of the reports of `read_behavior`, one for each behaviour.
        options: of the command that makes this report, as words.
    """
    return _Maker(run, session, counts, model, latents, dict(diagnosis), list(reports), list(options)).make()


@dataclass(eq=False)
class _Maker:
    """The parts of one report, each made once."""

    run: Run
    session: Session
    counts: xr.DataArray
    model: LDMFilter
    latents: xr.Dataset
    diagnosis: dict[str, Any]
    reports: list[Mapping[str, Any]]
    options: list[str]

    def make(self) -> Report:
        content: dict[str, Any] = {
            "format": "ldmfilter-report",
            "format_version": FORMAT,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "title": self._name(),
            "session": self._session(),
            "model": self._model(),
            "made": self._made(),
        }
        states, raster, training = (
            make(content) for make in (self._picture_states, self._picture_raster, self._picture_training)
        )
        space, data = self._picture_space(content)
        pictures = [states, space, raster, training, *self._pictures_diagnosis()]
        content["diagnosis"] = self.diagnosis
        content["behavior"] = self.reports
        if self._scaled():
            pictures.append(self._picture_calibration())
        pictures = [dataclasses.replace(one, finding=_bound(one.finding)) for one in pictures]
        content["under"] = self._under(content)
        content["summary"] = _bound(self._summary(content))
        content["figures"] = {one.name: {"title": one.title, "finding": one.finding} for one in pictures}
        return Report(_finite(content), {one.name: one for one in pictures}, _finite(data))

    def _name(self) -> str:
        source = self.session.source
        return source.session_id or source.identifier or Path(source.path).stem or "session"

    def _session(self) -> dict[str, Any]:
        source, size = self.session.source, float(self.counts.attrs["bin_size"])
        seen = self.latents["trained"].to_numpy()
        observed = self.latents["observed"].to_numpy()
        spans = stretches(self.counts)
        return {
            **dataclasses.asdict(source),
            "units_in_file": len(self.run.session_unit_ids),
            "units": int(self.counts.sizes["unit"]),
            "spikes": int(self.counts.sum()),
            "bins": int(self.counts.sizes["time"]),
            "bin_size": size,
            "seconds": round(int(self.counts.sizes["time"]) * size, 6),
            "start": spans[0][0],
            "stop": spans[-1][1],
            "stretches": len(spans),
            "bins_observed": int(observed.sum()),
            "bins_trained": int((seen & observed).sum()),
            "bins_judged": int((~seen & observed).sum()),
            "share_judged": float((~seen & observed).sum() / max(observed.sum(), 1)),
            "chosen": _chosen(self.run.config),
        }

    def _model(self) -> dict[str, Any]:
        kept = next(record for record in self.model.history_ if record.step == self.model.kept_step_)
        return {
            "run": str(self.run.folder),
            "id": self.model.model_id_,
            "created": self.run.created,
            "latent_dim": self.model.latent_dim,
            "state_dim": self.model.states,
            "entropy": self.model.entropy,
            "seed": self.model.seed,
            "steps": self.model.history_[-1].step,
            "max_steps": self.model.max_steps,
            "kept_step": kept.step,
            "held_out_gain": kept.score,
            "effective_rank": kept.effective_rank,
        }

    def _made(self) -> dict[str, Any]:
        return {
            "settings": self.run.config.to_dict(),
            "versions": {
                "ldmfilter": __version__,
                "Python": platform.python_version(),
                **{name: version(name) for name in _LIBRARIES},
            },
            "commands": self._commands(),
        }

    def _commands(self) -> list[str]:
        """What to type for the same run and the same page: every option that is not the default."""
        words = ["ldmfilter", "train", *(one.session for one in self.run.sessions if not one.added)]
        config, plain = self.run.config, Config(DataConfig(), FilterConfig())
        same = ("state_dim", config.filter.latent_dim)  # what it is where nothing is said
        for part, default in ((config.data, plain.data), (config.filter, plain.filter)):
            for field in dataclasses.fields(default):
                value = getattr(part, field.name)
                if field.name == "spans":
                    words += [word for start, stop in value for word in ("--span", f"{start!r}:{stop!r}")]
                elif isinstance(value, bool):
                    flag = field.name.replace("_", "-")
                    words += [] if value == getattr(default, field.name) else [f"--{flag}" if value else f"--no-{flag}"]
                elif value != getattr(default, field.name) and (field.name, value) != same:
                    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
                    words += [f"--{field.name.replace('_', '-')}", text]
        which = ["--session", self.run.session_path] if len(self.run.sessions) > 1 else []
        report = ["ldmfilter", "report", str(self.run.folder), *which, "--out", "report.html", *self.options]
        return [shlex.join([*words, "--run", str(self.run.folder)]), shlex.join(report)]

    def _under(self, content: dict[str, Any]) -> str:
        about, model = content["session"], content["model"]
        return (
            f"{figure_of(about['units'])} units, {figure_of(about['bins'])} bins of {about['bin_size']:g} s "
            f"({about['chosen']}), {_states(model['state_dim'])}, trained {model['created'][:10]}"
        )

    def _summary(self, content: dict[str, Any]) -> dict[str, Any]:
        """The page in a minute: a verdict, some sentences, the numbers that matter most."""
        about, findings = content["session"], self.diagnosis["findings"]
        wrong = [one["name"] for one in findings if not one["ok"]]
        share, judged = 100 * about["share_judged"], self.diagnosis["held_out"]
        every = about["units"] == about["units_in_file"]
        sentences = [
            f"{'All ' if every else ''}{figure_of(about['units'])} "
            f"{'units' if every else 'of ' + figure_of(about['units_in_file']) + ' units'} of the session, in "
            f"{figure_of(about['bins'])} bins of {about['bin_size']:g} s ({about['chosen']}), were given to a filter "
            f"of {_states(content['model']['state_dim'])}, which was trained without "
            + (
                f"labels. {share:.0f} % of the time was kept from training, in blocks: there it is judged."
                if judged
                else "labels on all of the time. No time was kept to judge it on, so all that follows flatters."
            )
        ]
        gain, size = self._finding("predictive information"), self._finding("innovation size")
        keys = []
        if gain:
            low, high = (figure_of(v) for v in gain["interval"])
            keys.append(_key("Predictive information", figure_of(gain["value"]), f"{gain['unit']} ({low} to {high})"))
        if size:
            low, high = (figure_of(v) for v in size["interval"])
            keys.append(
                _key("Innovations, over what is expected", figure_of(size["value"]), f"1 is right ({low} to {high})")
            )
        for one in self.reports:
            sentence, key = _read(one)
            sentences.append(sentence)
            if one is self.reports[0] and key:
                keys.append(key)
        keys.append(_key("Checks in order", f"{len(findings) - len(wrong)} of {len(findings)}", "verdicts below"))
        verdict = _verdict(self.diagnosis["predictive"], wrong, len(findings))
        return {"verdict": verdict, "sentences": sentences, "keys": keys}

    def _finding(self, name: str) -> dict[str, Any] | None:
        return next((one for one in self.diagnosis["findings"] if one["name"] == name and one["interval"]), None)

    @property
    def names(self) -> list[str]:
        """The behaviours that were read, in the order in which they were asked for."""
        return [str(one["name"]) for one in self.reports]

    def _of(self, name: str) -> Mapping[str, Any]:
        """What the readout says of one behaviour."""
        return next(one for one in self.reports if one["name"] == name)

    def _train(self, row: int) -> np.ndarray:
        wanted = self.model.unit_ids_[row]
        rows = self.session.units["unit"].to_numpy()
        return self.session.spikes_of(int(np.flatnonzero(rows == wanted)[0]))

    def _order(self) -> np.ndarray:
        """Rows of the raster: units by the value of the first behaviour at which they fire most; without one, by
        how they go with the leading component of the states."""
        counts = self.counts.to_numpy().astype(np.float64)
        if not self.names:
            leading = plots.leading_components(self.latents["filtered_mean"].to_numpy(), 1)[0][:, 0]
            return np.argsort((counts - counts.mean(0)).T @ leading / np.sqrt(counts.sum(0) + 1), kind="stable")
        value = self.latents[f"{self.names[0]}_true"].to_numpy()
        known = np.isfinite(value)
        edges = np.quantile(value[known], np.linspace(0, 1, 21))
        place = np.clip(np.searchsorted(edges, value[known], side="right") - 1, 0, 19)
        there = np.stack(
            [counts[known][place == i].mean(0) if (place == i).any() else 0 * counts[0] for i in range(20)]
        )
        smooth = there + 0.5 * np.roll(there, 1, 0) + 0.5 * np.roll(there, -1, 0)
        return np.argsort(smooth.argmax(0), kind="stable")

    # Which stretch of time is looked at closely: one that training never saw, where there is one.

    def _judged(self) -> np.ndarray:
        observed = self.latents["observed"].to_numpy()
        judged = ~self.latents["trained"].to_numpy() & observed
        return judged if judged.any() else observed

    def _stretch(self, seconds: float) -> tuple[float, float]:
        """Start and stop, s, of so many seconds of judged time, or of its longest stretch: those in which the first
        behaviour varies most, or without behaviour those of the most spikes."""
        spans = stretches(self.counts.isel(time=np.flatnonzero(self._judged())))
        seconds = min(seconds, max(stop - start for start, stop in spans))
        parts = [
            (first, first + seconds)
            for start, stop in spans
            if stop - start >= seconds - 1e-6
            for first in np.linspace(start, stop - seconds, 1 + math.ceil(2 * (stop - start) / seconds - 2 - 1e-6))
        ]
        time = self.latents["time"].to_numpy()
        if self.names:
            value = self.latents[f"{self.names[0]}_true"].to_numpy()
        else:
            value = self.counts.sum("unit").to_numpy().astype(np.float64)

        def liveliness(part: tuple[float, float]) -> float:
            inside = value[(time >= part[0]) & (time < part[1])]
            inside = inside[np.isfinite(inside)]
            return float(np.std(inside) if self.names else np.sum(inside)) if inside.size else -1.0

        return max(parts, key=liveliness)

    def _around(self, stretch: tuple[float, float], seconds: float) -> tuple[float, float]:
        """A longer stretch about the other, inside the piece of the recording that holds it."""
        middle = sum(stretch) / 2
        start, stop = next(s for s in stretches(self.counts) if s[0] <= middle <= s[1])
        first = min(max(middle - seconds / 2, start), max(stop - seconds, start))
        return first, min(first + seconds, stop)

    # The pictures.

    def _picture_states(self, content: dict[str, Any]) -> Picture:
        start, stop = self._around(self._stretch(RASTER_SHOWN), STATES_SHOWN)
        time = self.latents["time"].to_numpy()
        shown = self.latents.isel(time=np.flatnonzero((time >= start) & (time < stop)))
        number_shown = min(4, self.model.states)
        chosen = plots.leading_states(shown, number_shown)
        level = float(self.latents["ci"].attrs["level"])
        content["states"] = {"start": start, "stop": stop, "shown": chosen, "level": level, "of": self.model.states}
        fresh = ~shown["trained"].to_numpy()

        def draw(figure: Canvas, narrow: bool) -> None:
            part, marked = shown, fresh
            if narrow:
                keep = np.flatnonzero(shown["time"].to_numpy() < start + PHONE * (stop - start))
                part, marked = shown.isel(time=keep), fresh[keep]
            axes = figure.add_subplot()
            plots.plot_states(part, axes, number=number_shown)
            moments = part["time"].to_numpy()
            axes.fill_between(
                moments, 0, 0.012, where=marked, transform=axes.get_xaxis_transform(), color=plots.COLOURS[1],
                linewidth=0, step="mid",
            )  # fmt: skip
            axes.set_xlim(moments[0], moments[-1])
            axes.set_ylabel("state")

        mark = " The line along the foot marks time that training never saw." if fresh.any() and not fresh.all() else ""
        finding = (
            f"Filtered means of the {_states(number_shown)} of {self.model.states} that vary most, "
            f"{_clock(start)} to {_clock(stop)} s, in their {100 * level:g} % intervals.{mark}"
        )
        return Picture("states", "States in time", finding, draw, wide=(9.2, 3.9), narrow=(3.3, 3.4))

    def _picture_space(self, content: dict[str, Any]) -> tuple[Picture, dict[str, Any]]:
        observed = np.flatnonzero(self.latents["observed"].to_numpy())
        mean = self.latents["filtered_mean"].to_numpy()[observed]
        if mean.shape[1] < 3:  # a filter of one or two states lies in a plane
            mean = np.pad(mean, ((0, 0), (0, 3 - mean.shape[1])))
        components, explained = plots.leading_components(mean, 3)
        drawn = np.unique(np.linspace(0, len(observed) - 1, min(POINTS, len(observed))).astype(np.int64))
        points = components[drawn] / max(float(np.abs(components).max()), np.finfo(float).tiny)
        time = self.latents["time"].to_numpy()[observed][drawn]
        choices = [
            _colouring(name, self.latents[f"{name}_true"].to_numpy()[observed][drawn], self._of(name))
            for name in self.names
        ]
        choices.append(_colouring("time", time, {"unit": "s"}))
        content["space"] = {
            "explained": explained.tolist(), "points": len(drawn), "bins": len(observed),
            "colours": [{key: one[key] for key in ("label", "low", "high")} for one in choices],
        }  # fmt: skip
        first = choices[0]
        values = np.array([np.nan if v is None else v for v in first["values"]], dtype=np.float64)

        def draw(figure: Canvas, narrow: bool) -> None:
            from matplotlib.colors import LinearSegmentedColormap

            colours = LinearSegmentedColormap.from_list("page", [colour for _, colour in first["colorscale"]])
            axes = figure.add_subplot(projection="3d")
            drawn = plots.plot_state_space_3d(points[::2], axes, values[::2], cmap=colours, size=7)
            drawn.set_clim(first["low"], first["high"])
            axes.view_init(elev=22, azim=45)

        share = 100 * float(explained.sum())
        finding = (
            f"The three leading components of the filtered states hold {share:.0f} % of their variance; "
            f"{figure_of(len(drawn))} of {figure_of(len(observed))} bins are drawn, coloured by {first['label']}."
        )
        data = {
            **{axis: [round(float(v), 4) for v in points[:, i]] for i, axis in enumerate("xyz")},
            "time": [round(float(t), 2) for t in time],
            "choices": choices,
        }
        return Picture("space", "States in three dimensions", finding, draw, wide=(5.6, 4.6)), data

    def _picture_raster(self, content: dict[str, Any]) -> Picture:
        start, stop = self._stretch(RASTER_SHOWN)
        order = self._order()
        trains = [t[(t >= start) & (t < stop)] for t in (self._train(row) for row in order)]
        time = self.latents["time"].to_numpy()
        inside = np.flatnonzero((time >= start) & (time < stop))
        shown = self.latents.isel(time=inside)
        for name in self.names:  # what a readout saw when it was fitted is not shown as if it were read
            read = shown[f"{name}_fold"] >= 0
            for key in (f"{name}_mean", f"{name}_ci"):
                if key in shown:
                    shown[key] = shown[key].where(read)
        content["raster"] = {"start": start, "stop": stop, "spikes": int(sum(map(len, trains))), "units": len(trains)}
        names = self.names[:3]

        def draw(figure: Canvas, narrow: bool) -> None:
            end = start + (PHONE if narrow else 1) * (stop - start)
            heights = [2.6, *[1.0] * len(names)]
            grid = figure.subplots(1 + len(names), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
            plots.plot_raster(trains, grid[0], start, end)
            part = shown.isel(time=np.flatnonzero(shown["time"].to_numpy() < end))
            for name, axes in zip(names, grid[1:], strict=True):
                about = self._of(name)
                plots.plot_behavior(part, name, axes, about["period"])
                unit = f"\n{about['unit']}" if about["unit"] else ""
                axes.set_ylabel(f"{name}{unit}", parse_math=False)
            for axes in grid[:-1]:
                axes.set_xlabel("")
                axes.tick_params(axis="x", length=0)
            if names:
                grid[0].spines["bottom"].set_visible(False)
                grid[1].legend(loc="lower left", bbox_to_anchor=(0, 0.98), ncols=1 if narrow else 3, borderaxespad=0)

        what = "Spikes" + (" and the behaviour decoded from the states" if names else " of all units")
        finding = (
            f"{figure_of(len(trains))} units from {_clock(start)} to {_clock(stop)} s"
            + ("" if bool(shown["trained"].any()) else ", time that training never saw")
            + f"; units in the order of {f'the {names[0]} they prefer' if names else 'their share in the state'}."
            + (f" Below, {_and(names)}: measured, and decoded by readers that never saw these blocks." if names else "")
        )
        high = 3.4 + 1.3 * len(names)
        return Picture("raster", what, finding, draw, wide=(9.2, high), narrow=(3.3, high))

    def _picture_training(self, content: dict[str, Any]) -> Picture:
        history = self.model.history_
        content["training"] = [dataclasses.asdict(record) for record in history]
        about = content["model"]

        def draw(figure: Canvas, narrow: bool) -> None:
            plots.plot_training(history, figure.add_subplot())

        finding = (
            "Gain of prediction over no memory on time held out from the steps, at each evaluation. The step with the "
            f"highest, {about['kept_step']} of {about['max_steps']}, is kept: {figure_of(about['held_out_gain'])} nats "
            "per bin."
        )
        return Picture("training", "Training", finding, draw, wide=(9.2, 2.8), narrow=(3.3, 2.6))

    def _scaled(self) -> list[Mapping[str, Any]]:
        """Behaviours with calibrated intervals on a scale; of a few values only, an interval is no measure."""
        return [one for one in self.reports if one["intervals"] and not one["categories"]]

    def _picture_calibration(self) -> Picture:
        shown = self._scaled()

        def draw(figure: Canvas, narrow: bool) -> None:
            axes = figure.add_subplot()
            for one, colour in zip(shown, plots.COLOURS, strict=False):
                level, observed, error = (
                    np.array([interval[key] for interval in one["intervals"]])
                    for key in ("level", "coverage", "coverage_se")
                )
                plots.plot_calibration(level, observed, error, axes, colour, label=str(one["name"]))
            for text in axes.legend(loc="lower right").get_texts():
                text.set_parse_math(False)

        parts = []
        for one in shown:
            near = min(one["intervals"], key=lambda interval: abs(interval["level"] - 0.95))
            parts.append(
                f"{100 * near['level']:.0f} % intervals of {one['name']} hold {_percent(near['coverage'])} of what "
                f"happened, give or take {_percent(near['coverage_se'])}"
            )
        finding = f"{'; '.join(parts)}. Bars are two standard errors; on the dashed line the intervals keep their word."
        return Picture("calibration", "Calibration", finding, draw, wide=(4.3, 3.6), narrow=(3.3, 3.1))

    # What the diagnosis shows.

    def _array(self, part: str, name: str) -> np.ndarray:
        """An array of the diagnosis; what is not finite is NaN."""
        return np.asarray(self.diagnosis[part][name], dtype=np.float64)

    def _pictures_diagnosis(self) -> list[Picture]:
        return [
            self._picture_nis(),
            self._picture_correlation(),
            self._picture_sharing(),
            self._picture_spectrum(),
            self._picture_memory(),
            self._picture_drift(),
            self._picture_units(),
        ]

    def _picture_nis(self) -> Picture:
        expected, observed = self._array("consistency", "chi2"), self._array("consistency", "nis")
        probability = self._array("consistency", "probability")
        middle, high = (float(np.interp(p, probability, observed / expected)) for p in (0.5, 0.95))

        def draw(figure: Canvas, narrow: bool) -> None:
            plots.plot_nis(expected, observed, figure.add_subplot())

        finding = (
            f"Normalised innovations squared: their median is {figure_of(middle)} times what the filter expects, their "
            f"95 % quantile {figure_of(high)} times. Below the dashed line the filter is not sure enough, above it too "
            "sure."
        )
        return Picture("nis", "Size of the innovations", finding, draw, wide=(4.3, 3.3), narrow=(3.3, 2.9))

    def _picture_correlation(self) -> Picture:
        lag, value, white = (self._array("consistency", name) for name in ("lag", "correlation", "white"))
        worst = int(np.nanargmax(value))

        def draw(figure: Canvas, narrow: bool) -> None:
            axes = figure.add_subplot()
            plots.plot_autocorrelation(lag, value, white, axes)
            axes.legend(loc="upper right")

        finding = (
            f"What the filter leaves to predict: the largest correlation of an innovation with an earlier one is "
            f"{figure_of(float(value[worst]))}, {figure_of(float(lag[worst]))} s before; white noise stays in the band."
        )
        return Picture("correlation", "Memory of the innovations", finding, draw, wide=(4.3, 3.3), narrow=(3.3, 2.9))

    def _picture_sharing(self) -> Picture:
        sharing = self.diagnosis["sharing"]
        gain, coupling = float(sharing["predictive_information"]), float(sharing["coupling"])
        gains, couplings = self._array("sharing", "surrogate_information"), self._array("sharing", "surrogate_coupling")

        def draw(figure: Canvas, narrow: bool) -> None:
            both = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
            plots.plot_surrogates(gain, gains, both[0], "gain of prediction, nats per bin")
            plots.plot_surrogates(coupling, couplings, both[1], "correlation with other units' past")

        finding = (
            f"The recording (diamond) beside {len(gains)} surrogates (dots), in which each unit is shifted in time by "
            f"itself: prediction gains {figure_of(gain)} nats per bin, against {figure_of(float(gains.max()))} in the "
            f"best surrogate; other units' past explains a correlation of {figure_of(coupling)}, against "
            f"{figure_of(float(couplings.max()))}."
        )
        return Picture("sharing", "Is it shared between units", finding, draw, wide=(9.2, 1.7), narrow=(3.3, 2.8))

    def _picture_spectrum(self) -> Picture:
        spectrum = self.diagnosis["spectrum"]
        spectra = {
            "pseudo-observation z": self._array("spectrum", "z"),
            "its prediction": self._array("spectrum", "prediction"),
        }

        def draw(figure: Canvas, narrow: bool) -> None:
            axes = figure.add_subplot()
            plots.plot_spectrum(spectra, axes)
            axes.legend(loc="lower left" if spectra["its prediction"][-1] > 0.3 else "upper right")

        finding = (
            f"Of {len(spectra['its prediction'])} dimensions, z fills {figure_of(float(spectrum['z_rank']))} and what "
            f"can be predicted of it {figure_of(float(spectrum['prediction_rank']))} (effective ranks)."
        )
        return Picture("spectrum", "Spectrum", finding, draw, wide=(4.3, 3.2), narrow=(3.3, 2.8))

    def _picture_memory(self) -> Picture:
        seconds = np.sort(self._array("memory", "time_constant"))[::-1]
        known = seconds[np.isfinite(seconds)]

        def draw(figure: Canvas, narrow: bool) -> None:
            axes = figure.add_subplot()
            plots.plot_bars([str(i + 1) for i in range(len(known))], known, axes, "time constant, s")
            axes.set_ylabel("slowest first")

        finding = (
            f"How long the states remember: time constants from {figure_of(float(known.min()))} to "
            f"{figure_of(float(known.max()))} s."
        )
        return Picture("memory", "Time constants", finding, draw, wide=(4.3, 3.2), narrow=(3.3, 2.8))

    def _picture_drift(self) -> Picture:
        middle = (self._array("drift", "start") + self._array("drift", "stop")) / 2
        gain, nis = self._array("drift", "predictive_information"), self._array("drift", "nis")

        def draw(figure: Canvas, narrow: bool) -> None:
            both = figure.subplots(2, 1, sharex=True) if narrow else figure.subplots(1, 2)
            plots.plot_drift(middle, gain, both[0], "gain, nats per bin")
            plots.plot_drift(middle, nis, both[1], "NIS per dimension")
            if narrow:
                both[0].set_xlabel("")

        finding = (
            f"Over {len(middle)} blocks of the session the gain of prediction goes from {figure_of(float(gain.min()))} "
            f"to {figure_of(float(gain.max()))} nats per bin, and the normalised innovation squared per dimension, "
            f"which should be 1, from {figure_of(float(nis.min()))} to {figure_of(float(nis.max()))}."
        )
        return Picture("drift", "Drift over the session", finding, draw, wide=(9.2, 2.5), narrow=(3.3, 3.4))

    def _picture_units(self) -> Picture:
        units = self.diagnosis["units"]
        loss = self._array("units", "loss")
        order = np.argsort(-np.where(np.isfinite(loss), loss, -np.inf), kind="stable")[:UNITS_SHOWN]
        names = [clean(str(units["unit"][i])) for i in order]

        def draw(figure: Canvas, narrow: bool) -> None:
            axes = figure.add_subplot()
            plots.plot_bars(names, loss[order], axes, "loss without the unit, nats per bin")
            axes.set_ylabel("unit")

        share = 100 * float(np.nansum(self._array("units", "share")[order]))
        finding = (
            f"What the predictive log-likelihood loses when a unit is not seen. The {_words(len(order))} units that "
            f"count most carry {share:.0f} % of all losses; unit {names[0]} costs "
            f"{figure_of(float(loss[order[0]]))} nats per bin."
        )
        high = 1.0 + 0.2 * len(order)
        return Picture("units", "Units that matter", finding, draw, wide=(9.2, high), narrow=(3.3, high))


#: Colours of the state space that stay visible on white and on black: along a scale, and around a circle.
_SCALE = ("#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#e3cf1f")
_CIRCLE = ("#d1495b", "#e08a2c", "#a9a52a", "#3a9d6b", "#2b8fb8", "#5b68c4", "#a557a5", "#d1495b")


def _colouring(label: str, values: np.ndarray, about: Mapping[str, Any]) -> dict[str, Any]:
    """How points are coloured by one variable: for the page's script, and for the still picture.

    A variable of two to four values is shown as classes, by their rank.
    """
    known = values[np.isfinite(values)]
    classes = np.unique(known).tolist()
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    unit = f" {about['unit']}" if about.get("unit") else ""
    words = {"low_label": _clock(low) + unit, "high_label": _clock(high) + unit}
    named = None
    if 2 <= len(classes) <= 4:
        stops = plots.COLOURS[: len(classes)]
        values = np.where(np.isfinite(values), np.searchsorted(classes, values), np.nan)
        low, high = 0.0, float(len(classes) - 1)
        named = [{"label": _clock(v) + unit, "colour": colour} for v, colour in zip(classes, stops, strict=True)]
    else:
        stops = _CIRCLE if about.get("circular") else _SCALE
    steps = np.linspace(0, 1, len(stops)).tolist()
    return {
        "label": label,
        "low": low,
        "high": high,
        **words,
        "values": [float(f"{v:.5g}") if math.isfinite(v) else None for v in values.tolist()],
        "colorscale": [[step, colour] for step, colour in zip(steps, stops, strict=True)],
        "gradient": f"linear-gradient(90deg, {', '.join(stops)})",
        "classes": named,
    }


def _key(name: str, shown: str, note: str) -> dict[str, str]:
    """A number that stands large on the page."""
    return {"name": name, "shown": shown, "note": note}


def _bound(text: Any) -> Any:
    """Sentences in which no line ends between a number and its percent sign."""
    if isinstance(text, Mapping):
        return {key: _bound(one) for key, one in text.items()}
    return [_bound(one) for one in text] if isinstance(text, list) else text.replace(" %", "\u202f%")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _read(one: Mapping[str, Any]) -> tuple[str, dict[str, str] | None]:
    """How well one behaviour was read: a sentence, and the number that stands large."""
    name, score, unit = one["name"], one["read"], f" {one['unit']}" if one["unit"] else ""
    if score is None:
        return f"{name} was read from the states, but nothing could be set apart to judge it: {one['note']}.", None
    error = "" if one["categories"] else f" and a median error of {figure_of(score['median_error'])}{unit}"
    control, by_chance = one["control"], ""
    if control and control["p"] > CHANCE:
        by_chance = f"no better than when it is shifted in time (p = {control['p']:.2g}), "
    parts = [f"{name} is read from the states {by_chance}with an R\u00b2 of {figure_of(score['r2'])}{error}"]
    if peer := one["decoder"]:
        error = "" if one["categories"] else f" and {figure_of(peer['median_error'])}{unit}"
        parts.append(f"a Bayesian decoder, trained on it, reaches {figure_of(peer['r2'])}{error}")
    if one["intervals"] and not one["categories"]:
        near = min(one["intervals"], key=lambda interval: abs(interval["level"] - 0.95))
        parts.append(f"its {100 * near['level']:.0f} % intervals hold {_percent(near['coverage'])} of what happened")
    if control:
        high = figure_of(control["shifted_95"])
        parts.append(f"shifted in time, as a control, it is read with an R\u00b2 below {high} in 95 % of trials")
    note = "R\u00b2" + ("" if one["categories"] else f"; median error {figure_of(score['median_error'])}{unit}")
    return "; ".join(parts) + ".", _key(f"Reading {name}", figure_of(score["r2"]), note)


def _clock(value: float) -> str:
    """A time, or another value on a scale, with no digits that say nothing."""
    return f"{round(value, 2):,.10g}".replace("-", "\u2212")


def _chosen(config: Config) -> str:
    """Which part of the session was asked for, in words."""
    data = config.data
    parts = [data.interval] if data.interval else []
    parts += [f"{start:g}:{stop:g} s" for start, stop in data.spans]
    return " and ".join(parts) if parts else "the whole session"


def _finite(value: Any) -> Any:
    """The same as JSON takes it: NaN and infinities become null, numpy's types plain ones, texts clean."""
    if isinstance(value, Mapping):
        return {str(key): _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, np.generic):
        return _finite(value.item())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean(value) if isinstance(value, str) else value


_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def _verdict(predictive: bool, wrong: Sequence[str], checks: int) -> str:
    """What the checks say together; `wrong` are the names of those that are not in order."""
    if not predictive:
        return (
            "Nothing predictive was found that the units share. These states follow noise, or each unit's own rhythm: "
            "do not read them as what the population encodes."
        )
    found = "The filter found states, shared by the units, that predict what the population does next"
    if not wrong:
        return f"{found}, and its uncertainty agrees with what happened."
    ask = "asks" if len(wrong) == 1 else "ask"
    return (
        f"{found}. {_words(len(wrong)).capitalize()} of {checks} checks {ask} for a look before its uncertainty is "
        f"trusted: {_and(wrong)}."
    )


def _words(count: int) -> str:
    """A small number in words."""
    return _NUMBERS[count] if count < len(_NUMBERS) else figure_of(count)


def _states(count: int) -> str:
    return f"{count} state{'s' if count != 1 else ''}"


def _and(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
