"""Work done by several processes: those of this machine, or the workers of a Dask cluster.

Both are executors of `concurrent.futures`. A task is a function of this package and plain values. It writes its output
whole or not at all, and does nothing where the output exists, because Dask may run a task twice. Workers need this
package and the same files under the same paths.

Dask sends functions and results between its processes with pickle, and runs them: all processes of a cluster must trust
each other. No file is read with pickle.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import platform
import signal
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for_end
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmfilter.errors import InputError, TrainingError
from ldmfilter.files import disk_errors
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from distributed import Client

LOCAL = "local"
_ANSWER = 5.0  # s that a scheduler has to answer
_NOISE = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning)
# Ctrl-C in a terminal is for this process, which ends the others. Dask runs the lines in each worker at its start.
_IGNORE_INTERRUPT = ["import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"]
_LOST = {
    "KilledWorker": "each worker that began it has died; is its memory too short?",
    "BrokenProcessPool": "a process was ended from outside; with fewer --jobs each has more memory",
    "CancelledError": "lost by the Dask cluster",
}
# Threads of a process share torch's settings, warnings and the HDF5 library: one task at a time in each.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True)
class Done:
    """The end of a task: its number, its result or the exception that ended it, and the warnings that it gave."""

    task: int
    result: Any
    warned: tuple[str, ...] = ()


@contextmanager
def workers(dask: str | None, jobs: int, reads: Iterable[str], folder: Path, most: int) -> Iterator[Executor | None]:
    """An executor for `work`; None where this process does everything itself.

    Args:
        dask: address of a cluster's scheduler, as tcp://HOST:8786, or "local" for one process a core, of one thread
            each; None for `jobs` processes of this machine.
        reads: absolute paths that the workers of a cluster must see, and addresses, which are not looked at.
        folder: where they write.
        most: number of tasks; no more processes are started.

    Raises InputError where the package `distributed` is missing, no scheduler answers in time, or a worker has other
    versions or does not see the files.
    """
    if dask is not None:
        with _connect(dask, most) as client:
            _check_workers(client, dask, [path for path in reads if "://" not in path], folder.absolute())
            yield client.get_executor(pure=False)
    elif min(jobs, most) > 1:
        with _processes(min(jobs, most)) as pool:
            yield pool
    else:
        yield None


def work(
    executor: Executor | None, function: Callable[..., Any], tasks: Sequence[tuple], every: float | None = None
) -> Generator[Done | None, None, None]:
    """Do tasks, as many at a time as there are workers; yield the end of each, and None after `every` s without one.

    When the generator is closed early, tasks that have not begun are cancelled.

    Args:
        executor: from `workers`; None for one task after the other, here.
        function: of a module that workers can import.
        tasks: the arguments of each task, plain values.
    """
    if executor is None:
        for i, values in enumerate(tasks):
            yield Done(i, *_perform(function, values, _versions()))
        return
    with _ignored_interrupt():  # which a child inherits
        futures = {executor.submit(_perform, function, values, _versions()): i for i, values in enumerate(tasks)}
    try:
        while futures:
            ended, _ = wait(futures, every, FIRST_COMPLETED)
            if not ended:
                yield None
            for future in ended:  # forgotten, or Dask would do it again should the worker that holds the result die
                yield _end(futures.pop(future), future)
            del ended
    finally:
        for future in futures:
            future.cancel()


def cancelled() -> bool:
    """True where the Dask cluster has cancelled the task of this thread."""
    distributed = sys.modules.get("distributed")
    try:
        worker = distributed.get_worker() if distributed else None
    except ValueError:  # this is no worker
        return False
    if worker is None:
        return False
    task = worker.state.tasks.get(worker.get_current_task())
    return task is None or task.state == "cancelled"


def _end(task: int, future: Future) -> Done:
    try:
        return Done(task, *future.result())
    except (Exception, CancelledError) as error:  # of the executor itself: a task's own errors are results
        name = type(error).__name__
        return Done(task, RuntimeError(_LOST.get(name) or f"{name}: {_short(error, 200)}"))


def _perform(function: Callable[..., Any], values: tuple, versions: dict[str, str]) -> tuple[Any, tuple[str, ...]]:
    """The result of a task, or the error that ended it, and its warnings."""
    result: Any
    with _one_at_a_time, warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("default")
        for noise in _NOISE:
            warnings.simplefilter("ignore", noise)
        try:
            _check_versions(versions)
            result = function(*values)
        except (InputError, TrainingError) as error:
            result = type(error)(str(error))
        except Exception as error:
            result = RuntimeError(f"{type(error).__name__}: {_short(error)}")
        warned = dict.fromkeys(_short(one.message) for one in noted)
    return result, tuple(warned)


# Processes of this machine.


@contextmanager
def _processes(jobs: int) -> Iterator[Executor]:
    """Processes that end at once when the block or this process ends, however that is."""
    context = multiprocessing.get_context("spawn")
    here, ours = context.Pipe(duplex=False)
    with here, ProcessPoolExecutor(jobs, context, _begin, (here,)) as pool, ours:
        yield pool


def _begin(caller: Connection) -> None:
    def end_with_it() -> None:
        wait_for_end([caller])  # nothing is ever sent: the other end was closed
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, which ends this process
    threading.Thread(target=end_with_it, daemon=True).start()


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


# Workers of a Dask cluster.


@contextmanager
def _connect(address: str, most: int) -> Iterator[Client]:
    """A Dask cluster: one that runs already, or one of processes on this machine that ends with the block.

    Raises InputError, as `workers`.
    """
    try:
        import distributed
        from dask.system import CPU_COUNT
    except ImportError:
        raise InputError("--dask: the package distributed is missing; pip install 'ldmfilter[dask]'") from None
    with ExitStack() as stack:
        for logger in map(logging.getLogger, ("distributed", "distributed.client")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)  # what matters is an error of ours
        where: Any = address
        if address == LOCAL:
            # No limit of memory, as for processes without Dask: it would be a core's share, whatever others need.
            where = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=max(1, min(CPU_COUNT, most)),
                    threads_per_worker=1,
                    memory_limit=0,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                    preload=_IGNORE_INTERRUPT,
                )
            )
        else:
            # A client waits for ever where something else listens, so the scheduler is asked first.
            try:
                asyncio.run(asyncio.wait_for(_identity(address), _ANSWER))
            except Exception as error:  # what is no scheduler may answer anything
                reason = "it is silent" if isinstance(error, TimeoutError) else _short(error, 100)
                raise InputError(
                    f"--dask {address}: no Dask scheduler answers there ({reason or type(error).__name__}); give its "
                    "address, as tcp://HOST:8786"
                ) from None
        yield stack.enter_context(distributed.Client(where, set_as_default=False))


async def _identity(address: str) -> Any:
    """A scheduler's description of itself."""
    import distributed

    secure = distributed.Security().get_connection_args("client")
    async with distributed.rpc(address, timeout=_ANSWER, connection_args=secure) as scheduler:
        return await scheduler.identity()


def _check_workers(client: Client, address: str, reads: list[str], folder: Path) -> None:
    """Raises: InputError, as `workers`."""
    # A folder of the same name may lie on each machine's own disk; a new file in it tells.
    with disk_errors(folder), tempfile.NamedTemporaryFile(dir=folder, prefix=".ldmfilter-", suffix=".tmp") as marker:
        paths = [(path, path) for path in reads] + [(marker.name, str(folder))]
        answers = client.run(_look, _versions(), paths, on_error="return")
    if not answers:
        warnings.warn(f"--dask {address}: no worker has joined yet; waiting for one", stacklevel=2)
    for worker, error in answers.items():
        if isinstance(error, InputError):
            raise InputError(f"--dask {address}: worker {worker}: {error}")
        if error is not None:
            why = f"{type(error).__name__}: {_short(error, 100)}"
            raise InputError(
                f"--dask {address}: worker {worker} cannot start ({why}); install ldmfilter {__version__} there"
            )
    if any(threads > 1 for threads in client.nthreads().values()):
        warnings.warn(
            f"--dask {address}: a worker does one session or run at a time, whatever its threads; start more workers "
            "with --nthreads 1",
            stacklevel=2,
        )


def _look(versions: dict[str, str], paths: list[tuple[str, str]]) -> None:
    """Raises: InputError on a worker that has other versions, or does not see a path, which is told by its name."""
    _check_versions(versions)
    for path, name in paths:
        if not os.path.exists(path):
            raise InputError(
                f"{name}: is not seen on {platform.node()}; let all see the same files under the same paths"
            )


def _versions() -> dict[str, str]:
    """Versions that must be the same everywhere for results to be the same; Dask compares its own version itself."""
    python = "{}.{}".format(*sys.version_info)
    return {"ldmfilter": __version__, "Python": python, "torch": version("torch").partition("+")[0]}


def _check_versions(wanted: dict[str, str]) -> None:
    for name, ours in _versions().items():
        if ours != wanted[name]:
            raise InputError(
                f"{platform.node()}: has {name} {ours}, not {wanted[name]} as the caller; install the same"
            )


def _short(error: object, most: int | None = None) -> str:
    return " ".join(str(error).split())[:most]
