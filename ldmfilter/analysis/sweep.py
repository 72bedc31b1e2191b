"""Choosing a filter: many trainings of one session, compared on held-out time, never by behaviour.

A sweep folder holds the runs of a sweep, each a run folder like any other, and what keeps them together:

    sweep.json       which session, which options, which of them take which values
    sweep.db         Optuna's study in SQLite: one trial a run, all values as JSON
    000, 001, ...    the run folders, by the number of their trial
    best             points to the best run
    sweep.png        the scores
    .locks           who works on what, as long as the process lives

A process holds a run's lock while it trains it, and the operating system takes the lock away when the process ends,
however it ends. So a run that is begun, and whose lock is free, was left behind: whoever comes next goes on from its
checkpoint.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr

from ldmfilter import cluster
from ldmfilter.config import Config
from ldmfilter.data import read_session
from ldmfilter.data.prepare import prepare
from ldmfilter.data.session import Session
from ldmfilter.data.untrusted.remote import absolute
from ldmfilter.data.windows import reserve
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.files import disk_errors, plain_name, write_bytes
from ldmfilter.filter.linalg import one_thread
from ldmfilter.filter.runs import RUNS, Run
from ldmfilter.filter.training import Record, Training
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from distributed import Client
    from filelock import BaseFileLock
    from matplotlib.axes import Axes
    from optuna import Study
    from optuna.storages import RDBStorage
    from optuna.trial import FrozenTrial

SWEEP_FORMAT = 1
#: Options that a sweep may give several values. Those that change the bins that judge (their width, the time, the
#: units, the windows and what is held out) stay out: scores on other bins cannot be compared.
SWEPT = (
    "latent_dim", "state_dim", "hidden", "dropout", "entropy", "max_steps", "learning_rate", "batch_size",
    "weight_decay",
)  # fmt: skip
MOST_COMBINATIONS = 100_000  # that are listed to draw from
MOST_RUNS = 2_000  # that are trained
_SWEEP, _STUDY, _LOCKS, _BEST, PICTURE = "sweep.json", "sweep.db", ".locks", "best", "sweep.png"
_NAME = "sweep"
_PATIENCE = 60.0  # s to wait for a reader of the database from outside, as a dashboard, and for a job to end

Options = Mapping[str, Any]


@dataclass(frozen=True)
class SweepRun:
    """One run of a sweep: a combination of options and a seed.

    Attributes:
        number: of its trial in the study.
        options: the swept options, by their names in `FilterConfig`.
        seed: of everything random.
        state: "waiting", "started" (running now, or left behind), "done" or "failed" (collapsed or diverged).
        score: `Record.score` at the kept step, nats per bin; None where there is none (yet).
        step: the kept step while and after training.
        effective_rank: of held-out z at that step.
        seconds: of training, without what a killed process had spent.
        reason: why it failed, else "".
        folder: its run folder.
        trained: share of its steps that is behind it.
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

    @property
    def ended(self) -> bool:
        """Whether nothing is left to do."""
        return self.state in ("done", "failed")


@dataclass(frozen=True)
class Combination:
    """One combination of options, over its seeds.

    Attributes:
        options: the swept options, by their names in `FilterConfig`.
        score: median over the seeds that have ended, nats per bin, a failed one counting as worse than any; None where
            none has ended, or half of them failed.
        lowest, highest: scores of the seeds that ended well; None without one.
        runs: its runs, the best first.
    """

    options: Options
    score: float | None
    lowest: float | None
    highest: float | None
    runs: tuple[SweepRun, ...]


@dataclass(frozen=True)
class Progress:
    """How far a sweep is.

    Attributes:
        run: the run that something has happened to.
        ended: runs that are done or have failed, by whichever process.
        runs: all runs.
        share: of all training that is behind, from 0 to 1.
    """

    run: SweepRun
    ended: int
    runs: int
    share: float


@dataclass(frozen=True)
class Recording:
    """What every run of a sweep trains on.

    Attributes:
        session: as read.
        counts: (time, unit), without the reserved time.
    """

    session: Session
    counts: xr.DataArray


class Sweep:
    """Trainings of one session with several values of some options, and with several seeds.

    Make one with `create`, open one with `open`; then `run`, `results` and `best`.

    **What is compared.** `Record.score` at the step that it chose: how much better the filter predicts z_t from the
    bins before than a Gaussian without memory does, in nats per bin, on the blocks of training time that are held out
    (`held_out`). Reserved time (`reserve`) takes no part, so that what is told of the chosen run there stays honest.

        score = <log N(z_t; zhat_t, S)> - <log N(z_t; mean z, Cov z)>

    Every affine map of z leaves it as it is, so neither scale nor a rotation is rewarded. It sums over dimensions: one
    that cannot be predicted adds nothing, one that can adds what it brings beyond the others. For a Gaussian z it is
    a lower bound of the predictive information I(z_t; z_<t), and so comparable between dimensions and entropies. For
    another z it is that plus the negentropy of z, minus what the model misses: a dimension that is a curved function of
    the others is counted as new. This favours many dimensions, and "logdet", which maximises this very number, where
    "knn" and "kde" see through such a dimension. So the order is to be trusted more than the distances, and a small
    lead of a larger filter is no reason to take it. The step is chosen on the same blocks, which lifts all scores a
    little.

    Attributes:
        folder: where it lies.
        config: the options that all runs share.
        grid: the values of each swept option.
        seeds: each combination is trained with each.
        trials: combinations that are drawn from the grid; None for all.
        session_path: the session.
        checksum: of that session.
        combinations: all that the grid allows; those with fewer states than latent dimensions are left out.
    """

    def __init__(self, folder: Path, about: dict[str, Any]):
        self.folder = folder
        self.config = Config.from_dict(about["config"], str(folder / _SWEEP))
        self.grid: dict[str, tuple] = {name: tuple(map(_frozen, values)) for name, values in about["grid"].items()}
        self.seeds: tuple[int, ...] = tuple(about["seeds"])
        self.trials: int | None = about["trials"]
        if not all(type(count) is int for count in (*self.seeds, 0 if self.trials is None else self.trials)):
            raise TypeError("seeds and trials must be whole numbers")
        self.session_path = str(about["session"])
        self.checksum = str(about["checksum"])
        self.identity = str(about["identity"])
        self.combinations = combinations(self.config, self.grid)
        self._recording: Recording | None = None
        self._enqueued = False
        self._opened: tuple[RDBStorage, Study] | None = None

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str] | None,
        session: str | os.PathLike[str],
        config: Config,
        grid: Mapping[str, Sequence],
        seeds: Sequence[int],
        trials: int | None = None,
    ) -> Sweep:
        """Make a sweep folder, or open the one that an equal call has made.

        Args:
            folder: where; None for one below `runs/`, named after the session and all that is asked for.
            session: path of the session.
            config: the options that all runs share.
            grid: values of each swept option, by its name in `FilterConfig`; those of `SWEPT`.
            seeds: at least one.
            trials: number of combinations to draw from the grid: ten at random, the others by Optuna's
                tree-structured Parzen estimator; None for all.

        Raises:
            InputError: an option cannot be used, too many combinations, the folder holds something else.
            TrainingError: the device is not there.
        """
        grid = {name: tuple(dict.fromkeys(map(_frozen, values))) for name, values in grid.items()}
        seeds = tuple(dict.fromkeys(seeds))
        for seed in seeds:
            config.replace(seed=seed).filter.validate()
        config = config.replace(seed=min(seeds))
        possible = combinations(config, grid)
        runs = len(seeds) * (len(possible) if trials is None else min(trials, len(possible)))
        if runs > MOST_RUNS:
            raise InputError(
                f"{len(possible)} combinations with {len(seeds)} seed(s) are too many; draw some with --trials N, "
                f"{MOST_RUNS} runs in all at most"
            )
        recording = _record(session, config)
        for options in possible[:1]:  # what no run could start with is told before anything is written
            Training(_with(config, options, seeds[0]).filter, recording.counts)
        asked = {
            "checksum": recording.session.source.checksum,
            "config": config.to_dict(),
            "grid": {name: sorted(values) for name, values in sorted(grid.items())},
            "seeds": sorted(seeds),
            "trials": trials,
        }
        identity = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        path = _default_folder(recording.session, identity) if folder is None else Path(folder)
        if (path / _SWEEP).is_file():
            found = cls.open(path)
            if found.identity != identity:
                raise InputError(
                    f"{path}: holds a sweep of another session or other options; choose another --sweep, or go on with "
                    f"that one by --resume {path}"
                )
        else:
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise InputError(f"{path}: exists already and is no sweep; choose another --sweep")
            about = asked | {
                "format": SWEEP_FORMAT,
                "package_version": __version__,
                "session": recording.session.source.path,
                "identity": identity,
                "grid": {name: list(values) for name, values in grid.items()},
                "seeds": list(seeds),
            }
            with disk_errors(path):
                path.mkdir(parents=True, exist_ok=True)
            write_bytes(path / _SWEEP, json.dumps(about, indent=1).encode())
            found = cls.open(path)
        found._recording = recording
        return found

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Sweep:
        """Open a sweep folder.

        Raises:
            InputError: it is not one, or is damaged or of a newer version.
        """
        path = Path(folder)
        if not (path / _SWEEP).is_file():
            raise InputError(f"{path}: is not a sweep folder (no {_SWEEP}); name one that `ldmfilter sweep` made")
        try:
            about = json.loads((path / _SWEEP).read_text(encoding="utf-8"))
            if about["format"] > SWEEP_FORMAT:
                raise InputError(
                    f"{path / _SWEEP}: sweep format {about['format']}, made by ldmfilter "
                    f"{about.get('package_version')}, is newer than this package reads ({SWEEP_FORMAT}); "
                    "update ldmfilter"
                )
            return cls(path, about)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{path / _SWEEP}: damaged ({type(error).__name__}); sweep anew") from None

    @property
    def n_runs(self) -> int:
        """Runs in all: combinations times seeds."""
        number = len(self.combinations)
        return len(self.seeds) * (number if self.trials is None else min(self.trials, number))

    def recording(self, path: str | os.PathLike[str] | None = None) -> Recording:
        """What the runs train on.

        Args:
            path: where the session lies now; None for where it lay.

        Raises:
            InputError: the session cannot be read, or has changed since.
        """
        if self._recording is None:
            recording = _record(path or self.session_path, self.config)
            if recording.session.source.checksum != self.checksum:
                raise InputError(
                    f"{recording.session.source.path}: is not the session that {self.folder} sweeps over, or has "
                    "changed; sweep anew"
                )
            self._recording = recording
        return self._recording

    def release(self) -> None:
        """Forget what was read of the session, which takes memory; it is read again when it is needed."""
        self._recording = None

    def run(self, jobs: int = 1, session: str | os.PathLike[str] | None = None) -> Generator[Progress, None, None]:
        """Do what is missing: go on with runs that were left behind, then begin others. Ends when every run is done,
        has failed, or is being done by another process. It may be stopped at any moment.

        Args:
            jobs: processes; 1 stays in this one, more are spawned (a script needs `if __name__ == "__main__"`).
            session: where the session lies now; None for where it lay.

        Yields:
            one `Progress` when a run begins, at each of its evaluations, and when it has ended.

        Raises:
            InputError: the session has changed, or the disk is full.
            TrainingError: a process of a job was ended from outside.
        """
        left = self.n_left
        if not left:
            return
        self.recording(session)
        jobs, progress = min(jobs, left), self._progress()
        with closing(self._work(session) if jobs == 1 else self._spawn(jobs, session)) as working:
            yield from map(progress, working)

    def _progress(self) -> Callable[[SweepRun], Progress]:
        """What tells how far the sweep is, from each thing that happens to a run."""
        known = {run.number: run for run in self.runs()}
        share = 0.0

        def progress(run: SweepRun) -> Progress:
            nonlocal share
            if run.ended:
                known.update({other.number: other for other in self.runs() if other.ended})
            known[run.number] = run
            ended = sum(one.ended for one in known.values())
            behind = ended + sum(one.trained for one in known.values() if one.state == "started")
            share = max(share, behind / self.n_runs)
            return Progress(run, ended, self.n_runs, share)

        return progress

    @property
    def n_left(self) -> int:
        """Runs that are not done and have not failed."""
        return self.n_runs - sum(run.ended for run in self.runs())

    def runs(self) -> list[SweepRun]:
        """The runs so far, by number."""
        with self._study() as study:
            return [self._read(trial) for trial in study.get_trials(deepcopy=False)]

    def results(self) -> list[Combination]:
        """The combinations so far, the best first, those without a score last."""
        return _group(self.runs())

    def best(self) -> Run | None:
        """The run with the highest score among those of the best combination; None where none has ended well."""
        best = _best_run(self.results())
        return None if best is None else Run.open(best.folder)

    # One process's share of the work.

    def _work(self, session: str | os.PathLike[str] | None, most: int | None = None) -> Generator[SweepRun, None, None]:
        recording = self.recording(session)
        for _ in range(self.n_runs if most is None else most):
            if (claimed := self._claim()) is None:
                return
            run, lock = claimed
            try:
                with closing(self._train(run, recording)) as training:
                    yield from training
            finally:
                lock.release()

    def _claim(self) -> tuple[SweepRun, BaseFileLock] | None:
        """A run that nobody works on, its lock held: one that was left behind, else one that has not begun."""
        import optuna

        with self._study() as study:
            self._enqueue(study)
            for trial in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
                if (lock := self._lock_run(trial.number)) is not None:
                    return self._begun(study, trial.number), lock
            waiting = (optuna.trial.TrialState.WAITING,)
            if not study.get_trials(deepcopy=False, states=waiting):
                self._draw(study)
            if not study.get_trials(deepcopy=False, states=waiting):
                return None
            number = study.ask().number
            lock = self._lock_run(number)
            assert lock is not None, "a run that has not begun is locked by nobody"
            return self._begun(study, number), lock

    def _begun(self, study: Study, number: int) -> SweepRun:
        """Tell Optuna which values the trial has: for a trial that was left behind it may not know them all."""
        trial = self._trial(study, number)
        for name, values in self.grid.items():
            trial.suggest_categorical(name, [_plain(value) for value in values])
        return self._read(study.get_trials(deepcopy=False)[number])

    def _enqueue(self, study: Study) -> None:
        """All combinations with all seeds, each once: the first seed of all, then the second."""
        if self._enqueued or self.trials is not None:
            return
        there = {
            (_key(trial.user_attrs["options"]), trial.user_attrs["seed"]) for trial in study.get_trials(deepcopy=False)
        }
        for seed, options in itertools.product(self.seeds, self.combinations):
            if (_key(options), seed) not in there:
                self._add(study, options, seed)
        self._enqueued = True

    def _draw(self, study: Study) -> None:
        """One more combination, with all seeds, where not all that are asked for are there."""
        if self.trials is None:
            return
        import optuna

        trials = study.get_trials(deepcopy=False)
        there = {_key(trial.user_attrs["options"]) for trial in trials}
        pairs = {(_key(trial.user_attrs["options"]), trial.user_attrs["seed"]) for trial in trials}
        for options in self.combinations:  # a process may have ended between two seeds
            for seed in self.seeds:
                if _key(options) in there and (_key(options), seed) not in pairs:
                    self._add(study, options, seed)
                    return
        if len(there) >= min(self.trials, len(self.combinations)):
            return
        # The sampler sees a copy of the study, so that what it proposes in vain leaves no trace. Its random numbers
        # follow from how many were drawn: nothing of it has to be kept.
        sampler = optuna.samplers.TPESampler(seed=len(there))
        copy = optuna.create_study(direction="maximize", sampler=sampler)
        copy.add_trials([trial for trial in trials if trial.state == optuna.trial.TrialState.COMPLETE])
        space: dict[str, optuna.distributions.BaseDistribution] = {
            name: optuna.distributions.CategoricalDistribution([_plain(value) for value in values])
            for name, values in self.grid.items()
        }
        left = {_key(options): options for options in self.combinations if _key(options) not in there}
        drawn = None
        for _ in range(20):
            proposed = copy.ask(space).params
            asked = {name: _unplain(name, proposed[name]) for name in self.grid}
            if _key(asked) in left:
                drawn = left[_key(asked)]
                break
        if drawn is None:
            drawn = random.Random(len(there)).choice(list(left.values()))
        for seed in self.seeds:
            self._add(study, drawn, seed)

    def _add(self, study: Study, options: Options, seed: int) -> None:
        study.enqueue_trial(
            {name: _plain(value) for name, value in options.items()},
            user_attrs={
                "options": {k: list(v) if isinstance(v, tuple) else v for k, v in options.items()},
                "seed": seed,
            },
        )

    def _train(self, run: SweepRun, recording: Recording) -> Generator[SweepRun, None, None]:
        config = _with(self.config, run.options, run.seed)
        started, spent = time.monotonic(), run.seconds
        history: list[Record] = []
        reason, ended = "", False

        def now(state: str) -> SweepRun:
            kept = next((record for record in history if record.step == history[-1].kept_step), None)
            return replace(
                run,
                state=state,
                score=None if kept is None or not math.isfinite(kept.score) else kept.score,
                step=None if kept is None else kept.step,
                effective_rank=None if kept is None else kept.effective_rank,
                seconds=spent + time.monotonic() - started,
                reason=reason,
                trained=history[-1].step / config.filter.max_steps if history else 0.0,
            )

        try:
            training = Training(config.filter, recording.counts)
            if (run.folder / "run.json").exists():
                the_run = Run.open(run.folder)
                if the_run.config != config or the_run.checksum != self.checksum:
                    raise InputError(f"{run.folder}: is not a run of this sweep; remove it, or sweep anew")
                the_run.resume(training)
            else:
                for scratch in self.folder.glob(f".{run.folder.name}.*.tmp"):  # of a process that was killed
                    shutil.rmtree(scratch, ignore_errors=True)
                the_run = Run.create(run.folder, config, recording.session, recording.counts)
            history = training.history
            yield now("started")
            for _ in the_run.train(training, recording.counts):
                yield now("started")
            ended = True
        except TrainingError as error:
            reason, ended = str(error), True
        finally:
            if not ended:
                self._note(now("started"))
        result = now("failed" if reason else "done")
        if result.score is None and not reason:
            result = replace(result, state="failed", reason="no held-out score is a number; try other options")
        self._tell(result)
        yield result

    # Locks are files that a process holds; they are left where they are, since a file that is removed while another
    # process waits for it would be two locks.

    def _lock(self, name: str) -> BaseFileLock:
        from filelock import FileLock

        with disk_errors(self.folder):
            (self.folder / _LOCKS).mkdir(exist_ok=True)
        return FileLock(self.folder / _LOCKS / name)

    def _lock_run(self, number: int) -> BaseFileLock | None:
        from filelock import Timeout

        lock = self._lock(f"{number:03d}")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return None
        return lock

    # Several processes.

    def _spawn(self, jobs: int, session: str | os.PathLike[str] | None) -> Generator[SweepRun, None, None]:
        context = multiprocessing.get_context("spawn")
        where = None if session is None else os.fspath(session)
        processes: dict[Connection, Any] = {}
        broken: list[int] = []
        try:
            with _ignored_interrupt():  # which a child inherits: Ctrl-C is for this process, which ends the others
                for _ in range(jobs):
                    receiver, sender = context.Pipe(duplex=False)
                    process = context.Process(target=_worker, args=(self.folder, where, sender), daemon=True)
                    process.start()
                    sender.close()
                    processes[receiver] = process
            # A pipe for each process: of one that all share, a killed process would take the lock with it.
            while processes:
                for ready in wait(list(processes)):
                    assert isinstance(ready, Connection)
                    try:
                        message = ready.recv()
                    except (EOFError, OSError):
                        processes[ready].join()  # before it is forgotten: an interrupt may come here
                        process = processes.pop(ready)
                        if process.exitcode:
                            broken.append(process.exitcode)
                        continue
                    if isinstance(message, BaseException):
                        raise message
                    if message is not None:
                        yield message
        finally:
            for receiver in processes:  # a worker ends at the next thing that it cannot say
                receiver.close()
            for process in processes.values():
                process.join(_PATIENCE)
                process.terminate()
                process.join()
        left = self.n_left
        if broken and left:
            raise TrainingError(
                f"{len(broken)} of the processes ended before time (exit code {broken[0]}), and {left} runs are left; "
                f"go on with `ldmfilter sweep --resume {self.folder}`, with fewer --jobs if the memory was short"
            )

    # The study. All access goes through one lock: SQLite alone would let two processes begin the same trial, since
    # Optuna reads a trial's state and sets it in two steps.

    @contextmanager
    def _study(self) -> Iterator[Study]:
        with self._lock("sweep"), _database_errors(self.folder / _STUDY):
            if self._opened is None:
                self._opened = self._open_study()
            storage, study = self._opened
            try:
                yield study
            finally:
                storage.remove_session()

    def _open_study(self) -> tuple[RDBStorage, Study]:
        import optuna
        from sqlalchemy.pool import NullPool

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        # A path in a URL would have to be quoted, and braces in it mean something to Optuna. Without a pool,
        # connections are closed as soon as they are not used.
        connect = functools.partial(sqlite3.connect, self.folder / _STUDY, timeout=_PATIENCE)
        storage = optuna.storages.RDBStorage(
            f"sqlite:///{_STUDY}", engine_kwargs={"creator": connect, "poolclass": NullPool}
        )
        study = optuna.create_study(
            study_name=_NAME,
            storage=storage,
            direction="maximize",
            load_if_exists=True,
            sampler=optuna.samplers.RandomSampler(seed=0),  # draws nothing: every trial has its values
        )
        return storage, study

    def _trial(self, study: Study, number: int) -> Any:
        import optuna

        storage = study._storage  # optuna.Trial asks for an id, which no public method of a study tells
        study_id = storage.get_study_id_from_name(_NAME)
        return optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))

    def _note(self, run: SweepRun) -> None:
        with self._study() as study:
            self._keep(study, run)

    def _keep(self, study: Study, run: SweepRun) -> None:
        kept = {name: getattr(run, name) for name in ("step", "effective_rank", "seconds", "reason")}
        self._trial(study, run.number).set_user_attr("result", kept)

    def _tell(self, run: SweepRun) -> None:
        import optuna

        with self._study() as study:
            self._keep(study, run)
            if run.state == "done":
                study.tell(run.number, run.score)
            else:
                study.tell(run.number, state=optuna.trial.TrialState.FAIL)
            self._point([self._read(trial) for trial in study.get_trials(deepcopy=False)])

    def _point(self, runs: list[SweepRun]) -> None:
        """Let `best` lead to the best run; beside the sweep too, where it lies below `runs/`: there it is found as the
        run that was made last, which is what `Run.latest` looks for."""
        best = _best_run(_group(runs))
        if best is None:
            return
        _link(self.folder / _BEST, Path(best.folder.name))
        if self.folder.parent == RUNS:
            _link(RUNS / f"{self.folder.name}-best", Path(self.folder.name) / best.folder.name)

    def _read(self, trial: FrozenTrial) -> SweepRun:
        state = {"COMPLETE": "done", "FAIL": "failed", "WAITING": "waiting"}.get(trial.state.name, "started")
        options = {name: _frozen(value) for name, value in trial.user_attrs["options"].items()}
        result = {"step": None, "effective_rank": None, "seconds": 0.0, "reason": ""} | trial.user_attrs.get(
            "result", {}
        )
        score = trial.value if state == "done" else None
        folder = self.folder / f"{trial.number:03d}"
        ended = float(state in ("done", "failed"))
        return SweepRun(
            trial.number, options, trial.user_attrs["seed"], state, score, folder=folder, trained=ended, **result
        )


def run_sweeps(
    sweeps: Sequence[Sweep],
    jobs: int = 1,
    session: str | os.PathLike[str] | None = None,
    client: Client | None = None,
) -> Generator[tuple[Sweep, Progress | InputError | TrainingError], None, None]:
    """Do what is missing in several sweeps, as `Sweep.run` does in one. What ends one does not end the others.

    Args:
        sweeps: one of each session.
        jobs: processes, which do one sweep after the other.
        session: as in `Sweep.run`, of a single sweep.
        client: of a Dask cluster, from `ldmfilter.cluster.connect`; its workers then do runs of all sweeps. A run
            whose worker dies is gone on with by another.

    Yields:
        a sweep and how far it is, or why it cannot go on.
    """
    if client is not None:
        yield from _run_on(client, sweeps, session)
        return
    for sweep in sweeps:
        try:
            with closing(sweep.run(jobs, session)) as moves:
                for progress in moves:
                    yield sweep, progress
        except (InputError, TrainingError) as error:
            yield sweep, error
        if len(sweeps) > 1:
            sweep.release()


def _run_on(
    client: Client, sweeps: Sequence[Sweep], session: str | os.PathLike[str] | None
) -> Generator[tuple[Sweep, Progress | InputError | TrainingError], None, None]:
    # Each task does one run, whichever is the next that nobody works on: the workers share a sweep as processes do.
    tasks = [
        (i, (os.path.abspath(sweep.folder), sweep.identity, absolute(session or sweep.session_path)))
        for i, sweep in enumerate(sweeps)
        for _ in range(sweep.n_left)
    ]
    watching = [sweep._progress() for sweep in sweeps]
    failed: dict[int, InputError | TrainingError] = {}
    with closing(cluster.work(client, _one_run, [values for _, values in tasks])) as words:
        for word in words:
            i = tasks[word.task][0]
            if isinstance(word.said, dict):
                run = word.said | {"folder": sweeps[i].folder / word.said["folder"]}
                run["options"] = {name: _frozen(value) for name, value in run["options"].items()}
                yield sweeps[i], watching[i](SweepRun(**run))
            elif isinstance(word.said, InputError | TrainingError):
                failed.setdefault(i, word.said)
            elif isinstance(word.said, Exception):
                reason = f"{sweeps[i].folder}: {word.said}; go on with `ldmfilter sweep --resume {sweeps[i].folder}`"
                failed.setdefault(i, TrainingError(reason))
    for i, error in failed.items():
        if sweeps[i].n_left or isinstance(error, InputError):
            yield sweeps[i], error


def _one_run(folder: str, identity: str, session: str, tell: cluster.Tell) -> None:
    """What a worker of a cluster does: the next run of a sweep, if there is one."""
    sweep = Sweep.open(folder)
    if sweep.identity != identity:
        raise InputError(f"{folder}: is another sweep on the worker; let all see the same files under the same paths")
    sweep._recording = _last_recording(folder, identity, session)
    with one_thread(), closing(sweep._work(session, most=1)) as working:
        for run in working:
            tell(asdict(run) | {"folder": run.folder.name})


@functools.lru_cache(maxsize=1)
def _last_recording(folder: str, identity: str, session: str) -> Recording:
    """What a worker has read for the run before is not read again for the next: `identity` holds its checksum."""
    return Sweep.open(folder).recording(session)


def combinations(config: Config, grid: Mapping[str, Sequence]) -> list[dict[str, Any]]:
    """Every combination of the values that makes a filter; those with fewer states than latent dimensions do not.

    Args:
        config: the options that all share.
        grid: values by option.

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
        if shape.states >= shape.latent_dim:
            shape.validate()
            kept.append(options)
    if not kept:
        config.replace(**{name: values[0] for name, values in grid.items()}).validate()
    return kept


def plot_scores(results: Sequence[Combination], axes: Axes, most: int = 30) -> None:
    """Scores of the combinations, the best on top: a dot for each seed, a bar at their median, a cross for failures.

    Args:
        results: from `Sweep.results`.
        axes: where.
        most: how many combinations are shown.
    """
    from ldmfilter.analysis.plots import COLOURS

    shown = [one for one in results if one.score is not None or any(run.state == "failed" for run in one.runs)][:most]
    lowest = min((one.lowest for one in shown if one.lowest is not None), default=0.0)
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
    if lowest <= 0:
        axes.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel("gain of prediction over no memory on held-out time, nats per bin")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def draw_scores(sweep: Sweep) -> Path:
    """Draw `sweep.png` into the sweep's folder. Raises: InputError, when it cannot be written."""
    import io

    from matplotlib.figure import Figure

    results = sweep.results()
    rows = min(len(results), 30)
    figure = Figure(figsize=(8, 1.2 + 0.32 * rows), layout="constrained")
    axes = figure.subplots()
    plot_scores(results, axes)
    seeds = f", {len(sweep.seeds)} seeds (dots) and their median (bar)" if len(sweep.seeds) > 1 else ""
    axes.set_title(f"{Path(sweep.session_path).name}{seeds}", loc="left", fontsize=10)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=150)
    path = sweep.folder / PICTURE
    write_bytes(path, content.getvalue())
    return path


def describe(options: Options) -> str:
    """Options in a few words, as "latent-dim 4, entropy knn"."""
    return ", ".join(f"{name.replace('_', '-')} {show(value)}" for name, value in options.items()) or "as configured"


def show(value: Any) -> str:
    """An option's value as the command line takes it."""
    return (
        ",".join(map(str, value))
        if isinstance(value, tuple)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _group(runs: list[SweepRun]) -> list[Combination]:
    grouped: dict[str, list[SweepRun]] = {}
    for run in runs:
        grouped.setdefault(_key(run.options), []).append(run)
    combined = []
    for same in grouped.values():
        same.sort(key=lambda run: (-_or_worst(run.score), run.number))
        scores = [run.score for run in same if run.score is not None]
        ended = [_or_worst(run.score) for run in same if run.ended]
        median = statistics.median(ended) if ended else -math.inf
        combined.append(
            Combination(
                same[0].options,
                median if math.isfinite(median) else None,
                min(scores, default=None),
                max(scores, default=None),
                tuple(same),
            )
        )
    return sorted(combined, key=lambda one: (-_or_worst(one.score), min(run.number for run in one.runs)))


def _best_run(results: list[Combination]) -> SweepRun | None:
    return results[0].runs[0] if results and results[0].score is not None else None


def _or_worst(score: float | None) -> float:
    return -math.inf if score is None else score


def _record(path: str | os.PathLike[str], config: Config) -> Recording:
    data = config.data
    session = read_session(path, None, data.bin_size)
    return Recording(session, reserve(prepare(session, data), data.reserve))


def _with(config: Config, options: Options, seed: int) -> Config:
    """The configuration of one run, every option resolved."""
    own = config.replace(**options, seed=seed)
    return own.replace(state_dim=own.filter.states)


def _default_folder(session: Session, identity: str) -> Path:
    return RUNS / f"sweep-{plain_name(Path(session.source.path).stem)}-{identity[:8]}"


def _worker(folder: Path, session: str | None, sender: Connection) -> None:
    """One process of a job: says what it does, or why it cannot go on."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the caller has read the same session, and has told what there is to tell
    try:
        sender.send(None)  # is anyone there still?
        for run in Sweep.open(folder)._work(session):
            sender.send(run)
    except BrokenPipeError:
        pass  # whoever began this process has ended: so does this one
    except (InputError, TrainingError) as error:
        sender.send(type(error)(str(error)))
    except Exception as error:
        sender.send(RuntimeError(f"{type(error).__name__}: {error}"))


@contextmanager
def _ignored_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # elsewhere Python sets no handler, nor gets Ctrl-C
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _database_errors(path: Path) -> Iterator[None]:
    """Turn what SQLite answers into one line. Raises: InputError."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import DatabaseError

    try:
        yield
    except (DatabaseError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = str(getattr(cause, "orig", None) or cause)
        raise InputError(
            f"{path}: cannot be used ({reason}); free disk space, or see that it can be written and is whole"
        ) from error


def _link(path: Path, target: Path) -> None:
    """Let a path lead to a folder beside it; a copy where the disk knows no links. The path is replaced at once."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        scratch.unlink(missing_ok=True)
        try:
            scratch.symlink_to(target, target_is_directory=True)
        except (OSError, NotImplementedError):
            shutil.copytree(path.parent / target, scratch)
            if path.exists():
                shutil.rmtree(path)
        os.replace(scratch, path)


def _key(options: Options) -> str:
    return json.dumps({name: _plain(value) for name, value in sorted(options.items())})


# A categorical value of Optuna is a plain one: a tuple of widths is written as the command line takes it.


def _plain(value: Any) -> Any:
    return show(tuple(value)) if isinstance(value, tuple | list) else value


def _unplain(name: str, value: Any) -> Any:
    return tuple(map(int, value.split(","))) if name == "hidden" else value


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
