"""Work on a Dask cluster: functions with plain arguments, each done by some worker, and again where a worker has died.

Dask decides who does what. A function must therefore leave its output whole or not at all, and do nothing where the
output is there already: Dask may ask for it twice. Workers need this package and the same files under the same paths,
nothing else.

Dask sends functions and results between its own processes with pickle, and runs what it is sent: a cluster is a circle
of processes that trust each other. A task here is the name of a function of this package with paths and settings that
JSON could hold, so nothing of that protocol comes near the files, and no file is read by it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import queue
import sys
import tempfile
import threading
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ldmfilter.errors import InputError, TrainingError
from ldmfilter.files import disk_errors
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from distributed import Client, Future

LOCAL = "local"
_ANSWER = 5.0  # s that a scheduler has to answer
_LOOK = 5.0  # s of silence before asking whether there are workers
# Ctrl-C in a terminal is for this process, which ends the others. Dask runs the lines in each worker at its start.
_DEAF = ["import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"]
# Threads of a process share torch's settings, warnings and the HDF5 library: one task at a time in each.
_one_at_a_time = threading.Lock()

Tell = Callable[[Any], None]


class Stopped(Exception):  # noqa: N818 (it is no error)
    """Whoever asked for the task has ended."""


@dataclass(frozen=True)
class Word:
    """What a task says.

    Attributes:
        task: its number.
        said: what it told on its way; at its end what it returned, or why it failed.
        over: whether this is its end.
        warned: warnings that came up, at its end.
    """

    task: int
    said: Any
    over: bool = False
    warned: tuple[str, ...] = ()


@contextmanager
def connect(address: str, reads: Iterable[str], folder: Path, most: int) -> Iterator[Client]:
    """A cluster to work on: one that runs already, or one of processes on this machine that ends with the block.

    Args:
        address: of the scheduler, as tcp://HOST:8786; "local" for one process a core, of one thread each.
        reads: absolute paths that the workers must see; addresses are not asked for.
        folder: where they write.
        most: tasks that there are; no more processes are started.

    Raises:
        InputError: the package `distributed` is missing, no scheduler answers in time, a worker has other versions or
            does not see the files.
    """
    try:
        import distributed
        from dask.system import CPU_COUNT
    except ImportError:
        raise InputError("--dask: the package distributed is missing; pip install 'ldmfilter[dask]'") from None
    with ExitStack() as stack:
        for logger in map(logging.getLogger, ("distributed", "distributed.client")):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)  # what matters is told in our own words
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
                    preload=_DEAF,
                )
            )
        else:
            # A client waits for ever where something else listens, so ask who is there first.
            try:
                asyncio.run(asyncio.wait_for(_identity(address), _ANSWER))
            except Exception as error:  # what is no scheduler may answer anything
                reason = "it is silent" if isinstance(error, TimeoutError) else " ".join(str(error).split())[:100]
                raise InputError(
                    f"--dask {address}: no Dask scheduler answers there ({reason or type(error).__name__}); give its "
                    "address, as tcp://HOST:8786"
                ) from None
        client = stack.enter_context(distributed.Client(where, set_as_default=False))
        _check_workers(client, address, [path for path in reads if "://" not in path], folder.absolute())
        yield client


def work(client: Client | None, function: Callable[..., Any], tasks: Sequence[tuple]) -> Generator[Word, None, None]:
    """Do tasks, as many at a time as there are workers; without a client one after the other, here.

    Closed before its end, tasks that have not begun are taken back, and those under way stop at the next thing that
    they tell.

    Args:
        client: from `connect`, or None.
        function: of a module that workers can import. It takes a task's values and `tell`, which passes plain values
            on while the task goes on.
        tasks: plain values, those of a task each.

    Yields:
        what tasks tell, and the end of each, once.
    """
    if client is None:
        for i, values in enumerate(tasks):
            told: list[Word] = []
            ended = _do(function, (*values, lambda message, i=i, told=told: told.append(Word(i, message))))
            yield from (*told, _word(i, ended))
        return
    import distributed

    name = f"ldmfilter-{uuid.uuid4().hex}"
    said: queue.SimpleQueue[Word | tuple[int, Future]] = queue.SimpleQueue()
    stop = distributed.Event(name, client=client)
    client.subscribe_topic(name, lambda event: said.put(Word(*event[1])))
    left: dict[int, Future] = {}
    try:
        for i, values in enumerate(tasks):
            # A key of its own: Dask hands out again what it has done under a key that it knows.
            left[i] = client.submit(_perform, function, values, i, name, _versions(), key=f"{name}-{i}", pure=False)
        for i, future in left.items():
            future.add_done_callback(lambda future, i=i: said.put((i, future)))
        waiting = False
        while left:
            try:
                word = said.get(timeout=_LOOK)
            except queue.Empty:
                if client.status == "running" and not client.nthreads() and not waiting:
                    waiting = True
                    warnings.warn("the Dask cluster has no worker; waiting for one to join", stacklevel=2)
                continue
            if isinstance(word, tuple):
                i, future = word
                word = _end(i, future)
                del left[i], future  # or Dask would do it again should the worker that holds the result die
            elif word.task not in left:
                continue  # told before the end, and heard after it
            yield word
    finally:
        if client.status == "running":
            if left:
                stop.set()
                client.cancel(list(left.values()), force=True)
            client.unsubscribe_topic(name)


def _end(i: int, future: Future) -> Word:
    from distributed import KilledWorker

    try:
        ended = future.result()
    except KilledWorker:
        return Word(i, RuntimeError("each worker that began it has died; is its memory too short?"), True)
    except Exception as error:  # of Dask itself: the scheduler has gone, or a worker cannot load the task
        reason = getattr(error, "reason", None) or " ".join(str(error).split())[:200]
        return Word(i, RuntimeError(f"lost by the Dask cluster ({type(error).__name__}: {reason})"), True)
    return _word(i, ended)


def _word(i: int, ended: dict[str, Any]) -> Word:
    kinds = {"input": InputError, "training": TrainingError, "failure": RuntimeError}
    result = kinds[ended["failed"]](ended["result"]) if ended["failed"] else ended["result"]
    return Word(i, result, True, tuple(ended["warned"]))


def _perform(
    function: Callable[..., Any], values: tuple, i: int, name: str, versions: dict[str, str]
) -> dict[str, Any]:
    """One task, on a worker."""
    import distributed

    worker = distributed.get_worker()
    stop = distributed.Event(name, client=distributed.get_client())

    def tell(message: Any) -> None:
        if stop.is_set():
            raise Stopped
        worker.log_event(name, [i, message])

    def task(*values: Any) -> Any:
        if stop.is_set():
            raise Stopped
        _check_versions(versions, _versions(), worker.address)
        return function(*values)

    return _do(task, (*values, tell))


def _do(function: Callable[..., Any], values: tuple) -> dict[str, Any]:
    """What a task returns or why it fails, as plain values, and what it warned of."""
    failed = ""
    with _one_at_a_time, warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("default")
        for noise in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning):
            warnings.simplefilter("ignore", noise)
        try:
            result = function(*values)
        except InputError as error:
            failed, result = "input", str(error)
        except TrainingError as error:
            failed, result = "training", str(error)
        except Exception as error:
            failed, result = "failure", f"{type(error).__name__}: {' '.join(str(error).split())}"
        warned = [" ".join(str(one.message).split()) for one in noted]
    return {"failed": failed, "result": result, "warned": list(dict.fromkeys(warned))}


def _versions() -> dict[str, str]:
    """What must be the same everywhere, for tasks to be understood and results to be the same."""
    found = {name: version(name).partition("+")[0] for name in ("dask", "distributed", "torch")}
    return {"ldmfilter": __version__, "Python": "{}.{}".format(*sys.version_info)} | found


def _check_versions(ours: dict[str, str], theirs: dict[str, str], where: str) -> None:
    for name, mine in ours.items():
        if theirs.get(name, "none") != mine:
            raise InputError(f"{where}: has {name} {theirs.get(name, 'none')}, not {mine} as here; install the same")


def _look(paths: list[str]) -> dict[str, Any]:
    """What a worker is and what it does not see."""
    missing = [path for path in paths if not os.path.exists(path)]
    return {"versions": _versions(), "host": platform.node(), "missing": missing}


async def _identity(address: str) -> Any:
    """What a scheduler says of itself."""
    import distributed

    async with distributed.rpc(
        address, timeout=_ANSWER, connection_args=distributed.Security().get_connection_args("client")
    ) as scheduler:
        return await scheduler.identity()


def _check_workers(client: Client, address: str, reads: list[str], folder: Path) -> None:
    """Raises: InputError, as `connect`."""
    scheduler: Any = client.get_versions()
    scheduler = scheduler["scheduler"]["packages"]
    _check_versions({"distributed": _versions()["distributed"]}, scheduler, f"--dask {address}: its scheduler")
    # A folder of the same name may lie on each machine's own disk; a new file in it tells.
    with ExitStack() as stack:
        with disk_errors(folder):
            marker = stack.enter_context(tempfile.NamedTemporaryFile(dir=folder, prefix=".ldmfilter-", suffix=".tmp"))
        seen = client.run(_look, [*reads, marker.name], on_error="return")
    if not seen:
        warnings.warn(f"--dask {address}: no worker has joined yet; waiting for one", stacklevel=2)
    for worker, found in seen.items():
        if isinstance(found, Exception):
            raise InputError(
                f"--dask {address}: worker {worker} cannot start ({type(found).__name__}: "
                f"{' '.join(str(found).split())[:100]}); install ldmfilter {__version__} there"
            )
        _check_versions(_versions(), found["versions"], f"--dask {address}: worker {worker}")
        for path in found["missing"]:
            what = folder if path == marker.name else path
            raise InputError(
                f"{what}: is not seen by the Dask worker {worker} on {found['host']}; "
                "let all see the same files under the same paths"
            )
    if any(threads > 1 for threads in client.nthreads().values()):
        warnings.warn(
            f"--dask {address}: a worker does one session or run at a time, whatever its threads; start more workers "
            "with --nthreads 1",
            stacklevel=2,
        )
