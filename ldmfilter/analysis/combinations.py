"""The combinations of options that a sweep tries: all that a grid has, or those that Optuna draws from it."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmfilter.analysis.sweep_scores import Options
from ldmfilter.config import Config
from ldmfilter.data.untrusted.damage import DAMAGE, damage
from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors

if TYPE_CHECKING:
    from optuna import Study

#: Options that a sweep may give several values. Those that change the bins that judge (their width, the time, the
#: units, the windows and what is held out) stay out: scores on other bins cannot be compared.
SWEPT = (
    "latent_dim", "state_dim", "hidden", "dropout", "entropy", "max_steps", "learning_rate", "batch_size",
    "weight_decay",
)  # fmt: skip
MOST_COMBINATIONS = 100_000  # that are listed to draw from
_TRIES = 20  # proposals of Optuna, before one of the combinations that are left is drawn at random


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
