"""Commands in processes that are forked from one in which everything is imported, so that they begin at once."""

import multiprocessing
import os
import resource
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
IMPORTED = ["ldmfilter_cli.train", "ldmfilter.filter.runs", "lightning_fabric", "sklearn.neighbors", "scipy.signal"]
IMPORTED += ["zarr", "distributed"]


@dataclass
class Ended:
    """A command that has ended."""

    code: int | None
    out: str
    err: str


class Forked:
    """A command that has begun; `largest` is what a file that it writes may hold, in bytes."""

    def __init__(self, *words: object, cwd: Path, largest: int | None = None):
        FORKS.set_forkserver_preload(IMPORTED)  # which distributed sets too, when it is imported
        self._said = tempfile.TemporaryDirectory()
        self.process = FORKS.Process(target=_run, args=([*map(str, words)], cwd, self._said.name, largest))
        self.process.start()

    @property
    def running(self) -> bool:
        """True until it has ended."""
        return self.process.is_alive()

    def send(self, how: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, how)

    def end(self) -> Ended:
        """Wait for its end; the code is minus the signal that ended it."""
        self.process.join(120)
        out, err = ((Path(self._said.name) / name).read_text() for name in ("out", "err"))
        self._said.cleanup()
        return Ended(self.process.exitcode, out, err)


def _run(words: list[str], cwd: Path, said: str, largest: int | None) -> None:
    os.chdir(cwd)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{said}/{name}", os.O_WRONLY | os.O_CREAT), number)
    if largest is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = ["ldmfilter", *words]
    from ldmfilter_cli import run

    run()
