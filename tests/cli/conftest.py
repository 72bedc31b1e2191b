"""A small session as a file, and the command run in an empty folder."""

import os
import pty
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.cells import cell_len

from ldmfilter.data.simulate import linear_track_session

QUICK = ["--latent-dim", "2", "--max-steps", "50", "--hidden", "16", "--window", "20", "--batch-size", "8"]


@dataclass
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


def ldmfilter(*words: object, cwd: Path, **more: object) -> Ended:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "ldmfilter_cli", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, check=False, **more)
    return Ended(done.returncode, done.stdout, done.stderr)


def on_a_terminal(*words: str, cwd: Path, columns: int) -> list[str]:
    """Lines that the command writes to a terminal of that width, none of them wider; its colours are taken away."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(columns), "TERM": "xterm", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "ldmfilter_cli", *words]
    with subprocess.Popen(command, cwd=cwd, stdout=theirs, env=environment) as process:
        os.close(theirs)
        content = b""
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # the other end has closed
                break
            if not piece:
                break
            content += piece
    os.close(ours)
    assert process.returncode == 0
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
    ended = ldmfilter("train", session_file, "--run", "run", *QUICK, cwd=folder)
    assert ended.code == 0, ended.err
    return folder
