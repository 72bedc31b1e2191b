"""The work of sweeps: their runs, trained in this process, by several processes, or on a Dask cluster."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ldmfilter.analysis.sweep import Sweep
from ldmfilter.analysis.sweep_scores import SweepRun, best_run
from ldmfilter.cluster import cancelled, work
from ldmfilter.data.untrusted.remote import absolute
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.files import disk_errors
from ldmfilter.filter.linalg import one_thread
from ldmfilter.filter.runs import RUNS

if TYPE_CHECKING:
    from concurrent.futures import Executor

_BEST = "best"
_LOOK = 1.0  # s between looks at the runs that other processes train


@dataclass(frozen=True)
class Progress:
    """Progress of a sweep.

    Attributes:
        run: the run that something has happened to.
        ended, runs: number of runs that are done or have failed, by whichever process, and of all.
        share: of all training that is done, from 0 to 1.
    """

    run: SweepRun
    ended: int
    runs: int
    share: float


Moves = Generator[tuple[Sweep, Progress | InputError | TrainingError], None, None]


def run_sweeps(
    sweeps: Sequence[Sweep], session: str | os.PathLike[str] | None = None, executor: Executor | None = None
) -> Moves:
    """Do what is missing in sweeps: every run that has not ended, in order, from its last checkpoint. It may be stopped
    at any moment. An error ends its sweep, not the others.

    Args:
        sweeps: one of each session.
        session: where the session of a single sweep lies now; None for where it lay.
        executor: from `ldmfilter.cluster.workers`, its workers do runs of all sweeps, and another goes on with the run
            of a Dask worker that dies; None does them here.

    Yields:
        a sweep and its progress when a run begins, while it goes on, and when it has ended; at the end the sweeps that
        could not go on, and why.
    """
    runs = [(sweep, number) for sweep in sweeps if sweep.n_left for number in range(sweep.n_runs)]
    failed: dict[Sweep, InputError | TrainingError] = {}
    moves = _run_here(runs, session) if executor is None else _run_on(executor, runs, session)
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


def _run_here(runs: list[tuple[Sweep, int]], session: str | os.PathLike[str] | None) -> Moves:
    failed = []
    for sweep, number in runs:
        if sweep in failed:
            continue
        try:
            with closing(sweep.train(number, session)) as steps:
                for _ in steps:
                    yield sweep, _progress(sweep, number)
        except (InputError, TrainingError) as error:
            failed.append(sweep)
            yield sweep, error


def _run_on(executor: Executor, runs: list[tuple[Sweep, int]], session: str | os.PathLike[str] | None) -> Moves:
    tasks = [
        (os.path.abspath(sweep.folder), sweep.identity, number, absolute(session or sweep.session_path))
        for sweep, number in runs
    ]
    with closing(work(executor, _train_one, tasks, _LOOK)) as ends:
        for end in ends:
            if end is None:
                for sweep in dict(runs):
                    started = [run.number for run in sweep.runs() if run.state == "started"]
                    moves = [_progress(sweep, number) for number in started[-1:]]
                    yield from ((sweep, move) for move in moves if not move.run.ended)  # its end comes below
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
    sweep = Sweep.open(folder)
    if sweep.identity != identity:
        raise InputError(f"{folder}: is another sweep on the worker; let all see the same files under the same paths")
    trained = False
    with one_thread(), closing(sweep.train(number, session)) as steps:
        for _ in steps:
            trained = True
            if cancelled():
                return False
    return trained


def _progress(sweep: Sweep, number: int) -> Progress:
    """The state of a sweep after something has happened to a run; `best` leads to the best run then."""
    runs = sweep.runs()
    if runs[number].ended:
        _point_to_best(sweep)
    sweep.share = max(sweep.share, sum(run.trained for run in runs) / sweep.n_runs)
    return Progress(runs[number], sum(run.ended for run in runs), sweep.n_runs, sweep.share)


def _point_to_best(sweep: Sweep) -> None:
    """Let `best` lead to the best run; beside the sweep too, where it lies below `runs/`: there it is found as the
    run that was made last, which is what `Run.latest` looks for."""
    best = best_run(sweep.results())
    if best is None:
        return
    _link(sweep.folder / _BEST, Path(best.folder.name))
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
