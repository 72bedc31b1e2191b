"""Disks that refuse, processes that meet on one run, and processes that are killed."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import QUICK, here
from tests.cli.forked import Ended, Forked
from tests.fuzzing import Worker
from tests.report_sample import sketched_reports

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def worker():
    made = Worker()
    yield made
    made.close()


@pytest.fixture
def disk(tmp_path):
    """Mounts small disks in memory at tmp_path / "disk", and takes them away again."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"no disk can be mounted here, only root may: {done.stderr.strip()}")
        return place

    if os.geteuid():
        pytest.skip("no disk can be mounted here, only root may")
    yield mount
    subprocess.run(["umount", str(place)], capture_output=True, check=False)


def words(name, session_file, trained, place):
    return {
        "train": ["train", session_file, "--run", place / "run", *QUICK],
        "decode": ["decode", "--run", trained / "run", "--out", place / "out.zarr"],
        "sweep": ["sweep", session_file, "--sweep", place / "sweep", "--seed", "1", "2", *QUICK],
        "report": ["report", trained / "run", "--out", place / "report.html"],
        "resume": ["train", "--resume", "--run", place / "run"],
    }[name]


def refusal(worker, asked, tmp_path):
    """The one line with which a command is refused."""
    cwd = tmp_path / "cwd"
    cwd.mkdir()
    if asked[0] == "report":  # which takes long unless it is a sketch
        with sketched_reports():
            ended = here(*asked, "--quiet", cwd=cwd)
    else:
        ended = Ended(*worker.run([*map(str, asked), "--quiet"], cwd))
    assert (ended.code, ended.out, ended.err.count("\n")) == (3, "", 1), ended.err
    assert list(cwd.iterdir()) == []
    return ended.err


@pytest.mark.parametrize("name", ["train", "decode", "sweep", "report"])
def test_a_full_disk_is_one_line(session_file, trained, worker, disk, tmp_path, name):
    place = disk("size=16k")
    line = refusal(worker, words(name, session_file, trained, place), tmp_path)
    assert line.startswith(f"ldmfilter: {place}/")
    assert "no space left on the disk" in line or "disk is full" in line
    # A sweep keeps what tells it how to go on; the others leave nothing.
    assert [path.name for path in place.iterdir()] == (["sweep"] if name == "sweep" else [])


@pytest.mark.parametrize("name", ["train", "decode", "sweep", "report", "resume"])
def test_a_disk_that_cannot_be_written_is_one_line(session_file, trained, worker, disk, tmp_path, name):
    place = disk("size=4m")
    shutil.copytree(trained / "run", place / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    asked = words(name, session_file, trained, place)
    if name == "train":
        asked[3] = place / "new"
    line = refusal(worker, asked, tmp_path)
    assert line.startswith(f"ldmfilter: {place}/")
    assert line.endswith(": cannot be written (Read-only file system); write elsewhere\n")


def test_a_run_that_cannot_be_written_can_be_decoded(trained, worker, disk, tmp_path):
    place = disk("size=4m")
    shutil.copytree(trained / "run", place / "run")
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    code, _, err = worker.run(["decode", "--run", str(place / "run"), "--out", "out.zarr", "--quiet"], tmp_path)
    assert (code, err) == (0, "")


def test_a_run_is_trained_by_one_process(session_file, trained, worker, tmp_path):
    asked = [*QUICK, "--max-steps", "1000000"]
    process = Forked("train", session_file, "--run", "run", *asked, cwd=tmp_path)
    try:
        while not (tmp_path / "run" / "model.safetensors").exists() and process.running:
            time.sleep(0.02)
        code, out, err = worker.run(["train", "--resume", "--run", "run", "--quiet"], tmp_path)
        assert (code, out) == (3, "")
        assert err == (
            "ldmfilter: run: another process trains this run; wait for it, end it, or choose another --run\n"
        )
        code, _, err = worker.run(["train", str(session_file), "--run", "run", "--quiet"], tmp_path)
        assert (code, err) == (
            3, "ldmfilter: run: exists already; choose another --run, or --resume to go on with it\n",
        )  # fmt: skip
        code, _, err = worker.run(["decode", "--run", "run", "--out", "out.zarr", "--quiet"], tmp_path)
        assert (code, err) == (0, "")
        assert process.running, "the first was to go on meanwhile"
    finally:
        process.send(signal.SIGKILL)
        process.end()
    # The lock has died with its process, and what that was writing is cleared away.
    scratch = tmp_path / "run" / ".model.safetensors.1.tmp"
    scratch.write_bytes(b"half a model")
    from ldmfilter.filter.runs import Run

    lock = Run.open(tmp_path / "run")
    lock._hold()
    assert not scratch.exists()
    code, _, err = worker.run(["train", "--resume", "--run", "run", "--quiet"], tmp_path)
    assert (code, "another process trains this run" in err) == (3, True)


def test_two_that_make_one_run_at_once(session_file, tmp_path):
    """Whoever is second finds the folder there, at whichever moment."""
    words = ["train", session_file, "--run", "run", *QUICK, "--max-steps", "5"]
    both = [Forked(*words, cwd=tmp_path) for _ in range(2)]
    trained, refused = sorted((process.end() for process in both), key=lambda ended: ended.code)
    assert (trained.code, refused.code) == (0, 3), (trained, refused)
    assert refused.err.splitlines()[-1].startswith("ldmfilter: run: exists already; ")
    assert here("decode", "--run", "run", "--out", "out.zarr", cwd=tmp_path).code == 0


def test_killed_at_random_moments(tmp_path):
    """A few of what tests/benchmarks/kills.py does often, and with more commands."""
    done = subprocess.run(
        [
            sys.executable, ROOT / "tests" / "benchmarks" / "kills.py", "--kills", "2",
            "--commands", "train,overwrite,in-place", "--json", tmp_path / "kills.json",
        ],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "kills.json").read_text())["rows"]
    assert sum(row["killed"] + row["ended before"] for row in rows) == 2 * len(rows)
    assert sum(row["killed"] for row in rows) > 0
