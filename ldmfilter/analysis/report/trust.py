"""The sections on checks and units: innovations, spectrum, time constants, drift, importance of units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ldmfilter.analysis.measures import Measures
from ldmfilter.analysis.plots import COLOURS, finish, ink, reference
from ldmfilter.analysis.report.inputs import Inputs
from ldmfilter.analysis.report.pictures import Picture, Section, one_plot, pair
from ldmfilter.text import clean

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

UNITS_SHOWN = 10  # in the picture; the table has all


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
    seconds = np.sort(seconds[np.isfinite(seconds)])[::-1]
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

    return Picture(draw, wide=(9.2, 2.5), narrow=(3.3, 3.4))


def _units(measures: Measures) -> Picture:
    loss = measures.units.loss
    order = np.argsort(-np.where(np.isfinite(loss), loss, -np.inf), kind="stable")
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


def _bars(axes: Axes, names: list[str], values: np.ndarray, x: str, y: str) -> None:
    """Values as horizontal bars with their names, the first at the top."""
    rows = np.arange(len(names))
    axes.barh(rows, values, height=0.62, color=COLOURS[0], alpha=0.85, linewidth=0)
    # A name may hold dollar signs, which are no mathematics here.
    axes.set_yticks(rows, names, parse_math=False)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.axvline(0, color=ink(), linewidth=0.8)
    axes.tick_params(axis="y", length=0)
    finish(axes, x, y, left=False)
