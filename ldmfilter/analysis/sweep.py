"""Choosing a filter: many trainings of one session, compared on held-out time, never by behaviour.

A sweep folder holds run folders like any other, and what was asked for:

    sweep.json       the session, the options, and the values of those that take several
    draws.jsonl      Optuna's journal of the combinations it has drawn, where not all are tried
    000, 001, ...    the run folders, by number; each has an outcome.json besides: seconds, the reason of
                     a failure, and the score of hidden units
    best             a link to the best run
    sweep.png        the scores

The state of a run is read from its folder. Each process that works on a sweep takes the runs in order and passes over
those that have ended and those whose lock another process holds; a run that was left behind goes on from its
checkpoint.

**The score** is the one by which a training chooses kinds of states (`filter.spikes_ahead`): bits per spike of counts
0.5 to 3 s ahead, in blocks of training time that the readout did not see. It compares filters of any dimension,
entropy or frame, whose z, and log-likelihoods of z, are not the same. Reserved time (`reserve`) takes no part in the
choice, so that the chosen run can be judged there: beside the score stands the row `score.HIDDEN` of it, as
`ldmfilter score` has it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Container, Generator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from ldmfilter.analysis.combinations import Combination, Draws, Options, SweepRun, best_run, combinations, group
from ldmfilter.analysis.score import hidden_units
from ldmfilter.cluster import cancelled, work
from ldmfilter.config import Config, DataConfig, FilterConfig
from ldmfilter.data import read_session
from ldmfilter.data.prepare import prepare
from ldmfilter.data.session import Session
from ldmfilter.data.untrusted.remote import absolute
from ldmfilter.data.windows import reserve
from ldmfilter.errors import BusyError, InputError, TrainingError
from ldmfilter.files import AnyPath, disk_errors, plain_name, write_bytes
from ldmfilter.filter.candidates import candidates
from ldmfilter.filter.linalg import one_thread
from ldmfilter.filter.model import MODEL_FILE
from ldmfilter.filter.runs import RUNS, Run
from ldmfilter.filter.training import Training, read_history
from ldmfilter.tensors import read_tensors, reading
from ldmfilter.text import finite
from ldmfilter.version import __version__

SWEEP_FORMAT = 2  # 1 kept its runs in a database
MOST_RUNS = 2_000  # that are trained
_SWEEP, _DRAWS, _OUTCOME = "sweep.json", "draws.jsonl", "outcome.json"
_LOOK = 1.0  # s between looks at the runs that other processes train


class Sweep:
    """Trainings of one session with several values of some options, and with several seeds.

    Make one with `create` or open one with `open`; then `run_sweeps` does it, and `results` has the scores.

    Attributes:
        folder: where it lies.
        config: the options that all runs share.
        grid: the values of each swept option.
        seeds: each combination is trained with each.
        trials: combinations that are drawn from the grid; None for all.
        session_path: where the session lay.
        session: where it lies now.
        checksum: of that session.
        combinations: all that the grid allows; those with fewer states than latent dimensions are left out.
        ended, share: number of runs that are done or have failed, and of all training the share that is done, when
            `runs` was last called.
    """

    def __init__(self, folder: Path, about: dict[str, Any], session: AnyPath | None = None):
        self.folder = folder
        self.config = Config.from_dict(about["config"], str(folder / _SWEEP))
        self.grid: dict[str, tuple] = {name: tuple(map(_frozen, values)) for name, values in about["grid"].items()}
        self.seeds: tuple[int, ...] = tuple(about["seeds"])
        self.trials: int | None = about["trials"]
        if not all(type(count) is int for count in (*self.seeds, 0 if self.trials is None else self.trials)):
            raise TypeError("seeds and trials must be whole numbers")
        self.session_path = str(about["session"])
        self.session = session or self.session_path
        self.checksum = str(about["checksum"])
        self.identity = str(about["identity"])
        self.combinations = combinations(self.config, self.grid)
        self._draws = None if self.trials is None else Draws(folder / _DRAWS, self.grid, self.combinations)
        self.ended, self.share = 0, 0.0
        self._known: dict[int, SweepRun] = {}  # that have ended, as read before: they do not change

    @classmethod
    def create(
        cls,
        folder: AnyPath | None,
        session: AnyPath,
        config: Config,
        grid: Mapping[str, Sequence],
        seeds: Sequence[int],
        trials: int | None = None,
    ) -> Sweep:
        """Make a sweep folder, or open that of an equal call.

        Args:
            folder: where; None for one below `runs/`, named after the session and all that is asked for.
            config: the options that all runs share.
            grid: values of each swept option, by its name in `FilterConfig`; those of `SWEPT`.
            seeds: at least one.
            trials: number of combinations to draw from the grid, as `Draws.draw`; None for all.

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
        if len(seeds) * len(possible[:trials]) > MOST_RUNS:
            raise InputError(
                f"{len(possible)} combinations with {len(seeds)} seed(s) are too many; draw some with --trials N, "
                f"{MOST_RUNS} runs in all at most"
            )
        recorded, counts = _record(os.fspath(session), config.data)
        source = recorded.source
        for options in possible[:1]:  # an error that every run would end with comes before anything is written
            Training(config.replace(**options, seed=seeds[0]).filter, counts)
        asked = {
            "checksum": source.checksum,
            "config": config.to_dict(),
            "grid": {name: sorted(values) for name, values in sorted(grid.items())},
            "seeds": sorted(seeds),
            "trials": trials,
        }
        identity = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        default = RUNS / f"sweep-{plain_name(Path(source.path).stem)}-{identity[:8]}"
        path = default if folder is None else Path(folder)
        if not (path / _SWEEP).is_file():
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise InputError(f"{path}: exists already and is no sweep; choose another --sweep")
            with disk_errors(path):
                path.mkdir(parents=True, exist_ok=True)
            about = asked | {"grid": grid, "seeds": seeds, "session": source.path, "identity": identity}
            about |= {"format": SWEEP_FORMAT, "package_version": __version__}
            write_bytes(path / _SWEEP, json.dumps(about, indent=1).encode())
        found = cls.open(path)
        if found.identity != identity:
            raise InputError(
                f"{path}: holds a sweep of another session or other options; choose another --sweep, or go on with "
                f"that one by --resume {path}"
            )
        return found

    @classmethod
    def open(cls, folder: AnyPath, session: AnyPath | None = None) -> Sweep:
        """Open a sweep folder; `session` is where the session lies now, None for where it lay.

        Raises:
            InputError: it is not one, or is damaged or of a newer version.
        """
        path = Path(folder) / _SWEEP
        if not path.is_file():
            raise InputError(f"{folder}: is not a sweep folder (no {_SWEEP}); name one that `ldmfilter sweep` made")
        with reading(path):
            about = json.loads(path.read_text(encoding="utf-8"))
            if (made := about["format"]) != SWEEP_FORMAT:
                by = f", made by ldmfilter {about.get('package_version')}, is"
                newer = f"{by} newer than this package reads ({SWEEP_FORMAT}); update ldmfilter"
                older = " is not read any more; sweep anew. Its runs are run folders like any other"
                raise InputError(f"{path}: sweep format {made}{newer if made > SWEEP_FORMAT else older}")
            return cls(path.parent, about, session)

    @property
    def n_runs(self) -> int:
        """Runs in all: combinations times seeds."""
        return len(self.seeds) * len(self.combinations[: self.trials])

    @property
    def n_left(self) -> int:
        """Runs that are not done and have not failed."""
        self.runs()
        return self.n_runs - self.ended

    def recording(self) -> tuple[Session, xr.DataArray]:
        """The session, and its counts (time, unit) that every run trains on, without the reserved time. Raises:
        InputError, where it cannot be read, or has changed.
        """
        for _ in range(2):  # what was read before may have been another file at the same path
            recording = _record(os.fspath(self.session), self.config.data)
            if recording[0].source.checksum == self.checksum:
                return recording
            _record.cache_clear()
        raise InputError(
            f"{recording[0].source.path}: is not the session that {self.folder} sweeps over, or has changed; sweep anew"
        )

    def runs(self) -> list[SweepRun]:
        """The runs by number; where combinations are drawn, those of the draws so far."""
        runs = [self._read(number, *planned) for number, planned in enumerate(self._plan())]
        self.ended = sum(run.ended for run in runs)
        self.share = max(self.share, sum(run.trained for run in runs) / max(self.n_runs, 1))
        return runs

    def results(self) -> list[Combination]:
        """The combinations so far, the best first, those without a score last."""
        return group(self.runs())

    def train(self, number: int) -> Generator[None, None, None]:
        """Train one run, or go on with it from its checkpoint. It can be stopped at each yield: when the run begins, at
        each evaluation, and at its end. There is none where the run has ended, or another process trains it.

        Raises:
            InputError: as `recording`, the folder holds another run, or the disk is full.
        """
        recording = self.recording()
        while self._draws is not None and number >= len(self._plan()):
            self._draws.draw([(run.options, run.score) for run in self.runs() if run.ended and run.score is not None])
        before = self.runs()[number]
        if before.ended:
            return
        config = self.config.replace(**before.options, seed=before.seed)
        training = Training(config.filter, recording[1])
        try:
            run = _open_run(before.folder, config, training.config, recording)
            run.resume(training)
        except BusyError:
            return
        for scratch in self.folder.glob(f".{run.folder.name}.*.tmp"):  # of a process that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        started, ended, reason, hidden = time.monotonic(), False, "", None
        try:
            yield
            for _ in run.train(training):
                yield
            hidden = _hidden_units(run, prepare(recording[0], config.data))
            ended = True
        except TrainingError as error:
            reason = str(error)
        finally:
            if run.folder.exists():
                outcome = {"seconds": before.seconds + time.monotonic() - started, "ended": ended, "reason": reason}
                outcome |= {"hidden_units": hidden}
                write_bytes(run.folder / _OUTCOME, json.dumps(outcome).encode())
        yield

    @property
    def steps(self) -> int:
        """Training steps of a run, where these are not swept."""
        return _steps(self.config)

    def _plan(self) -> list[tuple[Options, int]]:
        """Options and seed of each run: the first seed of all combinations, then the second; of drawn ones, all seeds
        of the first combination, then of the second."""
        if self._draws is None:
            return [(options, seed) for seed in self.seeds for options in self.combinations]
        return [(options, seed) for options in self._draws.drawn() for seed in self.seeds][: self.n_runs]

    def _read(self, number: int, options: Options, seed: int) -> SweepRun:
        if number in self._known:
            return self._known[number]
        run = SweepRun(number, options, seed, self.folder / f"{number:03d}")
        if run.folder.exists():
            run = replace(run, **_state_of(run.folder, _steps(self.config.replace(**options))))
        if run.ended:
            self._known[number] = run
        return run


def _open_run(folder: Path, config: Config, sized: FilterConfig, recording: tuple[Session, xr.DataArray]) -> Run:
    """The run in a folder, made where there is none; one of an older version has `sized` settings. Raises: InputError,
    as `Sweep.train`."""
    if not folder.exists():
        try:
            return Run.create(folder, config, *recording)
        except InputError:
            if not folder.exists():
                raise
    run = Run.open(folder)  # of an earlier process, or of one that was faster
    if run.config not in (config, Config(config.data, sized)) or run.checksum != recording[0].source.checksum:
        raise InputError(f"{folder}: is not a run of this sweep; remove it, or sweep anew")
    return run


def _hidden_units(run: Run, counts: xr.DataArray) -> float | None:
    """The score of hidden units on reserved time; None where there is none, or it cannot be judged."""
    try:
        return finite(hidden_units({run.folder.name: run.model()}, counts)[run.folder.name].value)
    except InputError:
        return None


def _state_of(folder: Path, steps: int) -> dict[str, Any]:
    """The state of a run of so many steps, as its folder tells of it. Raises: InputError, where a file is damaged."""
    outcome: dict[str, Any] = {"seconds": 0.0, "ended": False, "reason": ""}
    with reading(path := folder / _OUTCOME):
        if path.exists():
            outcome = json.loads(path.read_text(encoding="utf-8"))
        ended, seconds, reason = outcome["ended"], float(outcome["seconds"]), str(outcome["reason"])
        hidden = _known(outcome.get("hidden_units"))  # none of a sweep of before
    with reading(path := folder / MODEL_FILE):
        header: dict[str, Any] = read_tensors(path)[1] if path.exists() else {}
        history, kept = read_history(header.get("history", [])), header.get("kept", {})
        score = _known(kept.get("bits_per_spike"))
    found = {"state": "done" if ended and history else "started", "seconds": seconds, "hidden_units": hidden}
    if history:
        step = kept.get("kept_step", history[-1].kept_step)
        own = (one for one in history if (one.candidate, one.step) == (kept.get("name", ""), step))
        done = sum({one.candidate: one.step for one in history}.values()) / steps
        found |= {"score": score, "step": step, "effective_rank": next(own, history[-1]).effective_rank}
        found["trained"] = 1.0 if ended else min(0.99, done)
        if ended and kept and score is None:
            reason = reason or "no spikes could be predicted on held-out time; try a longer span"
    return found | ({"reason": reason, "state": "failed", "score": None, "trained": 1.0} if reason else {})


def _known(value: Any) -> float | None:
    """A number of a file; None for none, and for what is not finite."""
    return None if value is None else finite(float(value))


@functools.lru_cache(maxsize=1)
def _record(path: str, config: DataConfig) -> tuple[Session, xr.DataArray]:
    """A session and the counts to train on, which are not read again for the next run."""
    session = read_session(path, None, config.bin_size, **config.reading)
    return session, reserve(prepare(session, config), config.reserve)


def _steps(config: Config) -> int:
    """Training steps of a run, of all its candidates."""
    return config.filter.max_steps * len(candidates(config.filter))


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Moves = Generator[tuple[Sweep, SweepRun | InputError | TrainingError], None, None]


def run_sweeps(sweeps: Sequence[Sweep], executor: Executor | None = None) -> Moves:
    """Do what is missing in sweeps: every run that has not ended, in order, from its last checkpoint. It may be stopped
    at any moment. An error ends its sweep, not the others.

    Args:
        sweeps: one of each session.
        executor: from `ldmfilter.cluster.workers`, its workers do runs of all sweeps, and another goes on with the run
            of a Dask worker that dies; None does them here.

    Yields:
        a sweep and the run that something has happened to, when it begins, while it goes on, and when it has ended; at
        the end the sweeps that could not go on, and why.
    """
    runs = [(sweep, number) for sweep in sweeps if sweep.n_left for number in range(sweep.n_runs)]
    failed: dict[Sweep, InputError | TrainingError] = {}
    moves = _run_here(runs, failed) if executor is None else _run_on(executor, runs)
    with closing(moves):
        for sweep, move in moves:
            if isinstance(move, Exception):
                failed.setdefault(sweep, move)
            else:
                yield sweep, move
    for sweep in sweeps:
        _point_to_best(sweep)
    for sweep, error in failed.items():
        if sweep.n_left or isinstance(error, InputError):
            yield sweep, error


def _run_here(runs: list[tuple[Sweep, int]], failed: Container[Sweep]) -> Moves:
    for sweep, number in runs:
        if sweep in failed:
            continue
        try:
            with closing(sweep.train(number)) as steps:
                for _ in steps:
                    yield sweep, _progress(sweep, number)
        except (InputError, TrainingError) as error:
            yield sweep, error


def _run_on(executor: Executor, runs: list[tuple[Sweep, int]]) -> Moves:
    tasks = [(os.path.abspath(sweep.folder), sweep.identity, number, absolute(sweep.session)) for sweep, number in runs]
    with closing(work(executor, _train_one, tasks, _LOOK)) as ends:
        for end in ends:
            if end is None:
                for sweep in dict(runs):
                    yield from ((sweep, run) for run in sweep.runs() if run.state == "started")  # its end comes below
                continue
            sweep, number = runs[end.task]
            if isinstance(end.result, InputError | TrainingError):
                yield sweep, end.result
            elif isinstance(end.result, Exception):
                again = f"go on with `ldmfilter sweep --resume {sweep.folder}`"
                yield sweep, TrainingError(f"{sweep.folder}: {end.result}; {again}")
            elif end.result:
                yield sweep, _progress(sweep, number)


def _train_one(folder: str, identity: str, number: int, session: str) -> bool:
    """Train a run of a sweep, on a worker. Returns True where it has ended here."""
    sweep = Sweep.open(folder, session)
    if sweep.identity != identity:
        raise InputError(f"{folder}: is another sweep on the worker; let all see the same files under the same paths")
    trained = False
    with one_thread(), closing(sweep.train(number)) as steps:
        for _ in steps:
            trained = True
            if cancelled():
                return False
    return trained


def _progress(sweep: Sweep, number: int) -> SweepRun:
    """A run that something has happened to; when it has ended, `best` leads to the best run."""
    run = sweep.runs()[number]
    if run.ended:
        _point_to_best(sweep)
    return run


def _point_to_best(sweep: Sweep) -> None:
    """Let `best` lead to the best run; beside the sweep too, where it lies below `runs/`: there it is found as the
    run that was made last, which is what `Run.latest` looks for."""
    best = best_run(sweep.results())
    if best is None:
        return
    _link(sweep.folder / "best", Path(best.folder.name))
    if sweep.folder.parent == RUNS:
        _link(RUNS / f"{sweep.folder.name}-best", Path(sweep.folder.name) / best.folder.name)


def _link(path: Path, target: Path) -> None:
    """Let a path lead to a folder beside it, or be a copy of it where the disk knows no links."""
    if path.is_symlink() and path.readlink() == target:
        return
    scratch = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with disk_errors(path):
        scratch.unlink(missing_ok=True)
        try:
            scratch.symlink_to(target, target_is_directory=True)
        except (OSError, NotImplementedError):
            shutil.copytree(path.parent / target, scratch)
        if path.is_dir() and not path.is_symlink():  # a copy, as this or another disk has made it
            shutil.rmtree(path)
        os.replace(scratch, path)
