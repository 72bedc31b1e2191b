"""A small session as a file, and the command run in an empty folder."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

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
