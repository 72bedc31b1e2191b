"""The runs of a sweep, their scores side by side, and the picture of them."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmfilter.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Options = Mapping[str, Any]
MOST_SHOWN = 30  # combinations in the picture


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: a combination of options and a seed.

    Attributes:
        number: its place in the sweep.
        options: the swept options, by their names in `FilterConfig`.
        seed: of everything random.
        state: "waiting", "started" (running now, or left behind), "done" or "failed" (collapsed or diverged).
        score: prediction of spikes ahead in training, bits per spike; None where there is none (yet).
        step, effective_rank: the kept step while and after training, and the rank of held-out z there.
        seconds: of training, without those of a process that was killed.
        reason: why it failed, else "".
        folder: its run folder.
        trained: share of its steps that is done.
        hidden_units: that row of `score`, on reserved time, bits per spike; None where there is none.
    """

    number: int
    options: Options
    seed: int
    state: str
    score: float | None
    step: int | None
    effective_rank: float | None
    seconds: float
    reason: str
    folder: Path
    trained: float = 0.0
    hidden_units: float | None = None

    @property
    def ended(self) -> bool:
        """True where nothing is left to do."""
        return self.state in ("done", "failed")


@dataclass(frozen=True)
class Combination:
    """One combination of options, over its seeds.

    Attributes:
        options: the swept options, by their names in `FilterConfig`.
        score: median over the seeds that have ended, bits per spike, a failed one counting as worse than any; None
            where none has ended, or half of them failed.
        lowest, highest: scores of the seeds that ended well; None without one.
        runs: its runs, the best first.
    """

    options: Options
    score: float | None
    lowest: float | None
    highest: float | None
    runs: tuple[SweepRun, ...]


def group(runs: Sequence[SweepRun]) -> list[Combination]:
    """Runs by their options, the best combination first, those without a score last."""
    grouped: dict[tuple, list[SweepRun]] = {}
    for run in runs:
        grouped.setdefault(tuple(run.options.items()), []).append(run)
    combined = []
    for same in grouped.values():
        same.sort(key=lambda run: -_or_worst(run.score))
        scores = [run.score for run in same if run.score is not None]
        median = statistics.median([_or_worst(run.score) for run in same if run.ended] or [-math.inf])
        score = median if math.isfinite(median) else None
        combined.append(
            Combination(same[0].options, score, min(scores, default=None), max(scores, default=None), tuple(same))
        )
    return sorted(combined, key=lambda one: -_or_worst(one.score))


def best_run(results: Sequence[Combination]) -> SweepRun | None:
    """The run with the highest score of the best combination; None where none has a score."""
    return results[0].runs[0] if results and results[0].score is not None else None


def _or_worst(score: float | None) -> float:
    return -math.inf if score is None else score


def plot_scores(results: Sequence[Combination], axes: Axes) -> None:
    """Scores of combinations, the best on top: a dot for each seed, a bar at their median, a cross for failures."""
    from ldmfilter.analysis.plots import COLOURS, finish

    shown = [one for one in results if one.score is not None or any(run.state == "failed" for run in one.runs)]
    shown = shown[:MOST_SHOWN]
    for row, one in enumerate(shown):
        scores = [run.score for run in one.runs if run.score is not None]
        colour = COLOURS[0] if row == 0 and one.score is not None else "0.45"
        axes.plot(scores, [row] * len(scores), "o", color=colour, markersize=6, alpha=0.7, markeredgewidth=0)
        if one.score is not None and len(one.runs) > 1:
            axes.plot([one.score] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2.5)
        failed = sum(run.state == "failed" for run in one.runs)
        if failed:
            left = axes.get_yaxis_transform()  # at the left edge: a failed run has no score
            axes.plot(0.01, row, "x", color=COLOURS[1], transform=left)
            axes.text(0.025, row, f"{failed} of {len(one.runs)} failed", color=COLOURS[1], va="center", transform=left)
    axes.set_yticks(range(len(shown)), [describe(one.options) for one in shown])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.margins(x=0.15)
    if axes.dataLim.x0 <= 0:
        axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    finish(axes, "spikes predicted ahead in training, bits per spike", left=False)
    axes.tick_params(axis="y", length=0)


def draw_scores(results: Sequence[Combination], session: str, path: Path) -> None:
    """Draw the scores of a sweep into a PNG file; the title names the session. Raises: InputError, where it cannot be
    written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.32 * min(len(results), MOST_SHOWN)), layout="constrained")
    axes = figure.subplots()
    plot_scores(results, axes)
    seeds = max(len(one.runs) for one in results)
    told = f", {seeds} seeds (dots) and their median (bar)" if seeds > 1 else ""
    axes.set_title(f"{Path(session).name}{told}", loc="left", fontsize=10)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    write_bytes(path, content.getvalue())


def describe(options: Options) -> str:
    """Options in a few words, as "latent-dim 4, entropy knn"."""
    return ", ".join(f"{name.replace('_', '-')} {show(value)}" for name, value in options.items()) or "as configured"


def show(value: Any) -> str:
    """An option's value as the command line takes it."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
