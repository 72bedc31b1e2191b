"""The combinations of options that a sweep tries, all that a grid has or those that Optuna draws, and their scores."""

from __future__ import annotations

import io
import itertools
import math
import random
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmfilter.config import Config
from ldmfilter.data.untrusted.damage import DAMAGE, damage
from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors, write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna import Study

Options = Mapping[str, Any]
#: Options that a sweep may give several values. Those that change the bins that judge (their width, the time, the
#: units, the windows and what is held out) stay out: scores on other bins cannot be compared.
SWEPT = (
    "latent_dim", "state_dim", "hidden", "dropout", "entropy", "max_steps", "learning_rate", "batch_size",
    "weight_decay",
)  # fmt: skip
MOST_COMBINATIONS = 100_000  # that are listed to draw from
_TRIES = 20  # proposals of Optuna, before one of the combinations that are left is drawn at random
MOST_SHOWN = 30  # combinations in the picture


def combinations(config: Config, grid: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    """Every combination of the values, by option, that makes a filter with the other options of `config`; those with
    fewer states than latent dimensions do not.

    Raises:
        InputError: an option that is not swept, a value outside its range, too many combinations, or none left.
    """
    for name in grid:
        if name not in SWEPT:
            raise InputError(f"{name.replace('_', '-')} takes one value; several can be given to {', '.join(SWEPT)}")
    if (number := math.prod(map(len, grid.values()))) > MOST_COMBINATIONS:
        raise InputError(f"{number} combinations are more than the {MOST_COMBINATIONS} that can be drawn from")
    kept = []
    for values in itertools.product(*grid.values()):
        options = dict(zip(grid, values, strict=True))
        shape = config.replace(**options).filter
        if (shape.state_dim or math.inf) >= (shape.latent_dim or 1):
            shape.validate()
            kept.append(options)
    if not kept:
        config.replace(**{name: values[0] for name, values in grid.items()}).validate()
    return kept


class Draws:
    """Combinations that Optuna has drawn from the possible ones, in its journal file: a line of JSON each.

    Processes that draw at the same time need no lock. A draw is one record, the order of the journal counts, and a
    combination that is there twice counts once.
    """

    def __init__(self, path: Path, grid: Mapping[str, Sequence], possible: Sequence[Options]):
        self._path = path
        self._texts = {name: [str(value) for value in values] for name, values in grid.items()}
        self._possible = {self._key(options): options for options in possible}

    def drawn(self) -> list[Options]:
        """All so far, in order. Raises: InputError, where the journal is damaged or the disk refuses."""
        with self._journal():
            keys = dict.fromkeys(self._key(trial.params) for trial in self._study.get_trials(deepcopy=False))
            return [self._possible[key] for key in keys]

    def draw(self, scores: Iterable[tuple[Options, float]]) -> None:
        """Draw one more: ten at random, the others by Optuna's tree-structured Parzen estimator, from the scores that
        trainings came to so far, with their options. Raises: InputError, as `drawn`."""
        from optuna import create_study
        from optuna.distributions import CategoricalDistribution
        from optuna.samplers import TPESampler
        from optuna.trial import TrialState, create_trial

        drawn = {self._key(options) for options in self.drawn()}
        left = [key for key in self._possible if key not in drawn]
        # Categorical values of Optuna are plain ones, which tuples of widths are not.
        space: Any = {name: CategoricalDistribution(texts) for name, texts in self._texts.items()}
        # The sampler sees a study in memory, so that what it proposes in vain leaves no trace. Its random numbers
        # follow from how many were drawn: nothing of it has to be kept.
        memory = create_study(direction="maximize", sampler=TPESampler(seed=len(drawn)))
        for options, score in scores:
            params = dict(zip(self._texts, self._key(options), strict=True))
            memory.add_trial(create_trial(params=params, distributions=space, value=score))
        proposals = (self._key(memory.ask(space).params) for _ in range(_TRIES))
        key = next((key for key in proposals if key in left), None) or random.Random(len(drawn)).choice(left)
        params = dict(zip(self._texts, key, strict=True))
        with self._journal():
            self._study.add_trial(create_trial(state=TrialState.WAITING, params=params, distributions=space))

    @contextmanager
    def _journal(self) -> Iterator[None]:
        """Raises: InputError, for what is no journal of these combinations, and as `disk_errors`."""
        with damage(self._path, "journal", "sweep anew", (*DAMAGE, AssertionError)), disk_errors(self._path):
            yield

    def _key(self, options: Options) -> tuple[str, ...]:
        return tuple(str(options[name]) for name in self._texts)

    @cached_property
    def _study(self) -> Study:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        path = str(self._path.absolute())
        storage = JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
        return optuna.create_study(study_name="sweep", storage=storage, direction="maximize", load_if_exists=True)


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: a combination of options and a seed.

    Attributes:
        number: its place in the sweep.
        options: the swept options, by their names in `FilterConfig`.
        seed: of everything random.
        folder: its run folder.
        state: "waiting", "started" (running now, or left behind), "done" or "failed" (collapsed or diverged).
        score: prediction of spikes ahead in training, bits per spike; None where there is none (yet).
        step, effective_rank: the kept step while and after training, and the rank of held-out z there.
        seconds: of training, without those of a process that was killed.
        reason: why it failed, else "".
        trained: share of its steps that is done.
        hidden_units: that row of `score`, on reserved time, bits per spike; None where there is none.
    """

    number: int
    options: Options
    seed: int
    folder: Path
    state: str = "waiting"
    score: float | None = None
    step: int | None = None
    effective_rank: float | None = None
    seconds: float = 0.0
    reason: str = ""
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
