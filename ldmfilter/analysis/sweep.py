"""Choosing a filter: many trainings of one session, compared on held-out time, never by behaviour.

A sweep folder holds run folders like any other, and what was asked for:

    sweep.json       the session, the options, and the values of those that take several
    draws.jsonl      Optuna's journal of the combinations it has drawn, where not all are tried
    000, 001, ...    the run folders, by number; each has an outcome.json besides: seconds, and the reason of a failure
    best             a link to the best run
    sweep.png        the scores

The state of a run is read from its folder. Each process that works on a sweep takes the runs in order and passes over
those that have ended and those whose lock another process holds; a run that was left behind goes on from its
checkpoint.

**The score** is that by which a training keeps one of its candidates (`filter.spikes_ahead`): bits per spike of counts
0.5 to 3 s ahead, in blocks of training time that the readout did not see. It compares filters of any dimension,
entropy or frame, whose z, and log-likelihoods of z, are not the same. Reserved time (`reserve`) takes no part, so that
the chosen run can be judged there.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr

from ldmfilter.analysis.combinations import Draws, combinations
from ldmfilter.analysis.sweep_scores import Combination, Options, SweepRun, group
from ldmfilter.config import Config, DataConfig
from ldmfilter.data import read_session
from ldmfilter.data.prepare import prepare
from ldmfilter.data.session import Session
from ldmfilter.data.windows import reserve
from ldmfilter.errors import BusyError, InputError, TrainingError
from ldmfilter.files import disk_errors, plain_name, write_bytes
from ldmfilter.filter.candidates import candidates
from ldmfilter.filter.model import MODEL_FILE
from ldmfilter.filter.runs import RUNS, Run
from ldmfilter.filter.training import Training, read_history
from ldmfilter.tensors import damaged, read_tensors
from ldmfilter.version import __version__

SWEEP_FORMAT = 2  # 1 kept its runs in a database
MOST_RUNS = 2_000  # that are trained
_SWEEP, _DRAWS, _OUTCOME, _BEST = "sweep.json", "draws.jsonl", "outcome.json", "best"
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
        self._draws = None if self.trials is None else Draws(folder / _DRAWS, self.grid, self.combinations)
        self.share = 0.0  # of all training that is done, as last seen
        self._ended: dict[int, SweepRun] = {}  # as read before: they do not change

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
        runs = len(seeds) * (len(possible) if trials is None else min(trials, len(possible)))
        if runs > MOST_RUNS:
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
            order = {"grid": {name: list(values) for name, values in grid.items()}, "seeds": list(seeds)}
            _write_new(path, asked | order | {"session": source.path, "identity": identity})
        found = cls.open(path)
        if found.identity != identity:
            raise InputError(
                f"{path}: holds a sweep of another session or other options; choose another --sweep, or go on with "
                f"that one by --resume {path}"
            )
        return found

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> Sweep:
        """Open a sweep folder.

        Raises:
            InputError: it is not one, or is damaged or of a newer version.
        """
        path = Path(folder) / _SWEEP
        if not path.is_file():
            raise InputError(f"{folder}: is not a sweep folder (no {_SWEEP}); name one that `ldmfilter sweep` made")
        try:
            about = json.loads(path.read_text(encoding="utf-8"))
            if about["format"] > SWEEP_FORMAT:
                raise InputError(
                    f"{path}: sweep format {about['format']}, made by ldmfilter {about.get('package_version')}, is "
                    f"newer than this package reads ({SWEEP_FORMAT}); update ldmfilter"
                )
            if about["format"] < SWEEP_FORMAT:
                raise InputError(
                    f"{path}: sweep format {about['format']} is not read any more; sweep anew. Its runs are run "
                    "folders like any other"
                )
            return cls(path.parent, about)
        except InputError:
            raise
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{path}: damaged ({type(error).__name__}); sweep anew") from None

    @property
    def n_runs(self) -> int:
        """Runs in all: combinations times seeds."""
        number = len(self.combinations)
        return len(self.seeds) * (number if self.trials is None else min(self.trials, number))

    @property
    def n_left(self) -> int:
        """Runs that are not done and have not failed."""
        return self.n_runs - sum(run.ended for run in self.runs())

    def recording(self, path: str | os.PathLike[str] | None = None) -> tuple[Session, xr.DataArray]:
        """The session, and its counts (time, unit) that every run trains on, without the reserved time.

        It is read where it lies now, `path`, or where it lay. Raises: InputError, where it cannot be read, or has
        changed.
        """
        for _ in range(2):  # what was read before may have been another file at the same path
            recording = _record(os.fspath(path or self.session_path), self.config.data)
            if recording[0].source.checksum == self.checksum:
                return recording
            _record.cache_clear()
        raise InputError(
            f"{recording[0].source.path}: is not the session that {self.folder} sweeps over, or has changed; sweep anew"
        )

    def runs(self) -> list[SweepRun]:
        """The runs by number; where combinations are drawn, those of the draws so far."""
        return [self._read(number, *planned) for number, planned in enumerate(self._plan())]

    def results(self) -> list[Combination]:
        """The combinations so far, the best first, those without a score last."""
        return group(self.runs())

    def train(self, number: int, session: str | os.PathLike[str] | None = None) -> Generator[None, None, None]:
        """Train one run, or go on with it from its checkpoint. It can be stopped at each yield: when the run begins, at
        each evaluation, and at its end. There is none where the run has ended, or another process trains it.

        Raises:
            InputError: as `recording`, the folder holds another run, or the disk is full.
        """
        recording = self.recording(session)
        while self._draws is not None and number >= len(self._plan()):
            self._draws.draw([(run.options, run.score) for run in self.runs() if run.ended and run.score is not None])
        before = self.runs()[number]
        if before.ended:
            return
        config = self.config.replace(**before.options, seed=before.seed)
        training = Training(config.filter, recording[1])
        try:
            run = _open_run(before.folder, Config(config.data, training.config), recording)
            run.resume(training)
        except BusyError:
            return
        for scratch in self.folder.glob(f".{run.folder.name}.*.tmp"):  # of a process that was killed
            shutil.rmtree(scratch, ignore_errors=True)
        started, ended, reason = time.monotonic(), False, ""
        try:
            yield
            for _ in run.train(training):
                yield
            ended = True
        except TrainingError as error:
            reason = str(error)
        finally:
            if run.folder.exists():
                outcome = {"seconds": before.seconds + time.monotonic() - started, "ended": ended, "reason": reason}
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
        if number not in self._ended:
            run = SweepRun(number, options, seed, "waiting", None, None, None, 0.0, "", self.folder / f"{number:03d}")
            run = _read_run(run, _steps(self.config.replace(**options, seed=seed)))
            if not run.ended:
                return run
            self._ended[number] = run
        return self._ended[number]


def _open_run(folder: Path, config: Config, recording: tuple[Session, xr.DataArray]) -> Run:
    """The run in a folder, made where there is none. Raises: InputError, as `Sweep.train`."""
    if not folder.exists():
        try:
            return Run.create(folder, config, *recording)
        except InputError:
            if not folder.exists():
                raise
    run = Run.open(folder)  # of an earlier process, or of one that was faster
    if run.config != config or run.checksum != recording[0].source.checksum:
        raise InputError(f"{folder}: is not a run of this sweep; remove it, or sweep anew")
    return run


def _read_run(run: SweepRun, steps: int) -> SweepRun:
    """A waiting run, as its folder tells of it. Raises: InputError, where a file in it is damaged."""
    if not run.folder.exists():
        return run
    run, ended = replace(run, state="started"), False
    path = run.folder / _OUTCOME
    try:
        if path.exists():
            outcome = json.loads(path.read_text(encoding="utf-8"))
            ended = outcome["ended"]
            run = replace(run, seconds=float(outcome["seconds"]), reason=str(outcome["reason"]))
        path = run.folder / MODEL_FILE
        header = read_tensors(path)[1] if path.exists() else {}
        history, kept = read_history(header.get("history", [])), header.get("kept", {})
    except InputError:
        raise
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged(path, error) from None
    if history:
        score, step = kept.get("bits_per_spike"), kept.get("kept_step", history[-1].kept_step)
        own = [one for one in history if one.candidate == kept.get("name", "")]
        record = next((one for one in own if one.step == step), history[-1])
        done = sum({one.candidate: one.step for one in history}.values()) / steps
        run = replace(
            run,
            score=None if score is None or not math.isfinite(score) else score,
            step=step,
            effective_rank=record.effective_rank,
            trained=1.0 if ended else min(0.99, done),
        )
        if ended and kept and run.score is None:
            run = replace(run, reason=run.reason or "no spikes could be predicted on held-out time; try a longer span")
    if run.reason:
        return replace(run, state="failed", score=None, trained=1.0)
    return replace(run, state="done") if ended and history else run


def _write_new(path: Path, about: dict[str, Any]) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path}: exists already and is no sweep; choose another --sweep")
    with disk_errors(path):
        path.mkdir(parents=True, exist_ok=True)
    about = about | {"format": SWEEP_FORMAT, "package_version": __version__}
    write_bytes(path / _SWEEP, json.dumps(about, indent=1).encode())


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
