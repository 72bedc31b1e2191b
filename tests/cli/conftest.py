"""A small session as a file, and the command run in an empty folder."""

import contextlib
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import ldmfilter_cli
import pytest
from ldmfilter_cli.main import app
from rich.cells import cell_len
from typer.testing import CliRunner

from ldmfilter.data.simulate import linear_track_session
from tests.cli.forked import Ended

QUICK = ["--dynamics", "fast", "--latent-dim", "2", "--max-steps", "50", "--hidden", "16", "--window", "2"]
QUICK += ["--batch-size", "8", "--no-refit"]


def ldmfilter(*words: object, cwd: Path, **more: object) -> Ended:
    """Run the command as a person does, in a process that has imported nothing."""
    command = [sys.executable, "-m", "ldmfilter_cli", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **more)
    return Ended(done.returncode, done.stdout, done.stderr)


def here(*words: object, cwd: Path) -> Ended:
    """Run the command in this process, which is quicker than in its own."""
    with contextlib.chdir(cwd):
        result = CliRunner().invoke(app, list(map(str, words)), prog_name="ldmfilter")
    return Ended(result.exit_code, result.stdout, result.stderr)


def on_a_terminal(*words: str, cwd: Path, columns: int) -> list[str]:
    """Lines that the command writes to a terminal of that width, none of them wider; its colours are taken away."""
    ours, theirs = pty.openpty()
    content = b""

    def read() -> None:
        nonlocal content
        with contextlib.suppress(OSError):  # the other end has closed
            while piece := os.read(ours, 65536):
                content += piece

    reader = threading.Thread(target=read)
    reader.start()
    with pytest.MonkeyPatch.context() as patch, open(theirs, "w", encoding="utf-8") as screen:
        for name, value in {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["ldmfilter", *words])
        patch.setattr(sys, "stdout", screen)
        patch.chdir(cwd)
        with pytest.raises(SystemExit) as end:
            ldmfilter_cli.run()
    reader.join()
    os.close(ours)
    assert end.value.code == 0
    lines = re.sub(r"\x1b\[[0-9;]*m|\r", "", content.decode()).splitlines()
    assert max(map(cell_len, lines)) <= columns
    return lines


@pytest.fixture(scope="session")
def session_file(tmp_path_factory) -> Path:
    """Sixteen units, 100 s of running and 20 s of rest, as a zarr store."""
    path = tmp_path_factory.mktemp("session") / "session.zarr"
    return linear_track_session(seed=3, n_units=16, duration=120.0, rest=20.0).to_zarr(path)


@pytest.fixture(scope="session")
def trained(session_file, tmp_path_factory) -> Path:
    """A folder in which `train` has run once, into `run`."""
    folder = tmp_path_factory.mktemp("trained")
    ended = here("train", session_file, "--run", "run", *QUICK, cwd=folder)
    assert ended.code == 0, ended.err
    return folder
