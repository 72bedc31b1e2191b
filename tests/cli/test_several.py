"""Several sessions in one command: here, and on a Dask cluster whose workers may die."""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ldmfilter.analysis.sweep import Sweep, run_sweeps
from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.filter.runs import Run
from tests.cli.conftest import here
from tests.cli.forked import FORKS, IMPORTED, Ended

SMALL = ["--hidden", 8, "--window", 2, "--batch-size", 8, "--dynamics", "fast"]
SMALL += ["--no-refit"]


def refused(ended: Ended, line: str) -> None:
    assert (ended.code, ended.out, ended.err) == (3, "", f"ldmfilter: {line}\n")


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Three sessions of the same twelve units, each one file, a bad one, and a run of the first."""
    folder = tmp_path_factory.mktemp("lab")
    for number, name in enumerate("abc"):
        counts = bin_spikes(linear_track_session(seed=number, n_units=12, duration=60.0, rest=10.0), 0.1)
        np.savez(folder / f"{name}.npz", counts=counts.values, time=counts["time"].values)
    (folder / "bad.npz").write_bytes(b"PK\x03\x04 and no more")
    ended = here("train", "a.npz", "--run", "run", "--latent-dim", 2, "--max-steps", 25, *SMALL, cwd=folder)
    assert ended.code == 0, ended.err
    return folder


@pytest.fixture
def work(lab, tmp_path):
    shutil.copytree(lab, tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture(scope="module")
def cluster():
    """Two workers, each a process that is begun again when it is killed."""
    from distributed import LocalCluster

    FORKS.set_forkserver_preload(IMPORTED)
    with LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=0, dashboard_address="127.0.0.1:0") as made:
        yield made


def states(path):
    with xr.open_zarr(path) as store:
        return store.load()


def same(path, other):
    """All values, and all attributes but the time of making."""
    one, two = (states(store).drop_attrs(deep=False).assign_attrs(
        {k: v for k, v in states(store).attrs.items() if k != "created"}) for store in (path, other))  # fmt: skip
    xr.testing.assert_identical(one, two)


def marks(folder, pattern="**/*"):
    """What changes when a file is written again."""
    files = sorted(path for path in folder.glob(pattern) if path.is_file())
    return [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in files]


def busy_with(cluster, path):
    """The process of the worker that has a file open."""
    for nanny in cluster.workers.values():
        for link in Path(f"/proc/{nanny.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link) == str(path):
                    return nanny.pid
    raise AssertionError(f"no worker reads {path}")


def wait_for(condition):
    end = time.monotonic() + 300  # for a machine that others use too; nothing is judged by it
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


class Pipe:
    """A session that is never read to its end: whoever reads it waits."""

    def __init__(self, path):
        self.path = path
        path.unlink()
        os.mkfifo(path)

    def has_reader(self):
        with contextlib.suppress(OSError):  # ENXIO, as long as nobody reads
            self.end = os.open(self.path, os.O_WRONLY | os.O_NONBLOCK)
            return True
        return False

    def replace(self, session):
        """From now on the path is a session; who waits for the pipe goes on waiting."""
        shutil.copy(session, self.path.with_name("copy"))
        os.replace(self.path.with_name("copy"), self.path)


@contextlib.contextmanager
def beside(steps):
    """Go through a function that yields conditions to wait for, while the block runs a command in this thread, which
    signals are for. Neither waits for the other in vain: the steps end with the block, and an error in them interrupts
    the command. Gives the errors."""
    over, errors = threading.Event(), []

    def unless_over(condition):
        assert not over.is_set(), "the command has ended"
        return condition()

    def go():
        try:
            for condition in steps():
                wait_for(functools.partial(unless_over, condition))
        except BaseException as error:
            errors.append(error)
            if not over.is_set():
                os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=go)
    thread.start()
    try:
        yield errors
    finally:
        over.set()
        thread.join()


ALL = ["a.npz", "b.npz", "c.npz"]


def test_a_store_for_each_as_if_decoded_alone(work):
    (work / "sub").mkdir()
    shutil.copy(work / "c.npz", work / "sub" / "b.npz")
    ended = here("decode", "a.npz", "bad.npz", "b.npz", "sub/b.npz", "a.npz", "--run", "run", "--out", "out", cwd=work)
    stores = ["out/a.zarr", f"out/{work.name}_b.zarr", "out/sub_b.zarr"]
    assert (ended.code, ended.out.splitlines()) == (3, stores)
    last = ended.err.splitlines()[-1]
    assert last.startswith(f"ldmfilter: {work}/bad.npz: is a damaged .npz file")
    assert ended.err.count("ldmfilter: ") == 1
    assert "session 4/4" in ended.err
    for session, store in zip(("a.npz", "b.npz", "sub/b.npz"), stores, strict=True):
        assert here("decode", work / session, "--run", "run", "--out", "alone.zarr", "--overwrite", cwd=work).code == 0
        same(work / store, work / "alone.zarr")
    assert sorted(path.name for path in (work / "out").iterdir()) == sorted(Path(store).name for store in stores)


def test_a_lag_that_is_rounded_down_is_told_once(work):
    command = ["decode", "a.npz", "b.npz", "--run", "run", "--out", "out"]
    ended = here(*command, "--lag", "0.25", cwd=work)
    assert ended.code == 0, ended.err
    assert ended.err.count("a lag of 0.25 s in whole frames is 0.2 s for fast states\n") == 1
    refused(
        here(*command, "--lag", "-1", cwd=work),
        "lag is -1 s; give a number of seconds above 0, as 0.5",
    )


def test_what_is_there_is_not_done_again(work):
    command = ["decode", *ALL, "--run", "run", "--out", "out"]
    assert here(*command[:3], *command[4:], cwd=work).code == 0  # without the last
    before = marks(work / "out")
    ended = here(*command, cwd=work)
    assert ended.code == 0
    there = "is there already, from the same model, session and options; not done again"
    assert [line for line in ended.err.splitlines() if there in line] == [f"out/{x}.zarr: {there}" for x in "ab"]
    assert [mark for mark in marks(work / "out") if "c.zarr" not in str(mark[0])] == before
    # Other options, another session: refused, or done where that is asked for.
    ended = here(*command, "--ci", 0.5, cwd=work)
    assert (ended.code, ended.out) == (3, "")
    assert [line for line in ended.err.splitlines() if line.startswith("ldmfilter")] == [
        f"ldmfilter: {work}/{x}.npz: {work}/out/{x}.zarr: exists already; choose another name or overwrite it"
        for x in "abc"
    ]
    shutil.copy(work / "b.npz", work / "c.npz")
    ended = here(*command, cwd=work)
    assert (ended.code, ended.out) == (3, "out/a.zarr\nout/b.zarr\n")
    before = marks(work / "out")
    ended = here(*command, "--overwrite", cwd=work)
    assert (ended.code, ended.err.count(there)) == (0, 2)
    assert states(work / "out" / "c.zarr").attrs["source_checksum"] == states(work / "out" / "b.zarr").attrs[
        "source_checksum"
    ]  # fmt: skip
    assert len(set(marks(work / "out")) & set(before)) == len(marks(work / "out", "[ab].zarr/**/*"))


def test_no_folder_of_stores(work):
    (work / "note").write_text("precious")
    assert here("decode", "a.npz", "--run", "run", "--out", "one.zarr", cwd=work).code == 0
    for name in ("note", "one.zarr"):
        ended = here("decode", *ALL, "--run", "run", "--out", name, cwd=work)
        refused(ended, f"{name}: is no folder, where the stores of several sessions would go; choose another name")
    ended = here("decode", *ALL, "--run", "run", "--out", "no/where", cwd=work)
    refused(ended, "no/where: its folder does not exist; make it first or write elsewhere")
    assert (work / "note").read_text() == "precious"


def test_dask_gives_the_same(work, cluster):
    address = cluster.scheduler_address
    assert here("decode", *ALL, "--run", "run", "--out", "here", "--smooth", cwd=work).code == 0
    ended = here("decode", *ALL, "bad.npz", "--run", "run", "--out", "there", "--smooth", "--dask", address, cwd=work)
    assert (ended.code, ended.out) == (3, "".join(f"there/{name}.zarr\n" for name in "abc"))
    assert [line.split()[1] for line in ended.err.splitlines()[:-1]] == ["1/4", "2/4", "3/4", "4/4"]
    assert ended.err.splitlines()[-1].startswith(f"ldmfilter: {work}/bad.npz: is a damaged .npz file")
    for name in "abc":
        same(work / "here" / f"{name}.zarr", work / "there" / f"{name}.zarr")
    assert sorted(path.name for path in (work / "there").iterdir()) == ["a.zarr", "b.zarr", "c.zarr"]


def test_dask_here_with_one_session(work):
    """The processes of a cluster of our own end with the command."""
    assert here("decode", "b.npz", "--run", "run", "--out", "here.zarr", cwd=work).code == 0
    ended = here("decode", "b.npz", "--run", "run", "--out", "there.zarr", "--dask", "local", cwd=work)
    assert (ended.code, ended.out, ended.err) == (0, "there.zarr\n", f"session 1/1  {work}/b.npz\n")
    same(work / "here.zarr", work / "there.zarr")


def test_a_killed_worker(work, cluster):
    """Its session is done again by another, the finished ones are not."""
    pipe, out, before = Pipe(work / "b.npz"), work / "out", []

    def kill():
        yield pipe.has_reader
        yield (out / "a.zarr").exists
        yield (out / "c.zarr").exists
        before.extend(marks(out))
        pid = busy_with(cluster, pipe.path)
        pipe.replace(work / "a.npz")
        os.kill(pid, signal.SIGKILL)
        os.close(pipe.end)

    with beside(kill) as errors:
        ended = here("decode", *ALL, "--run", "run", "--out", "out", "--dask", cluster.scheduler_address, cwd=work)
    assert not errors, (errors, ended.err)
    assert (ended.code, ended.out) == (0, "out/a.zarr\nout/b.zarr\nout/c.zarr\n"), ended.err
    assert set(before) < set(marks(out))
    assert "not done again" not in ended.err  # nor was any asked for again
    xr.testing.assert_equal(states(out / "a.zarr"), states(out / "b.zarr"))


def test_interrupted(work, cluster):
    """What is finished stays, what has not begun is taken back, and the same command goes on."""
    pipes = [Pipe(work / name) for name in ("b.npz", "c.npz")]
    shutil.copy(work / "a.npz", work / "d.npz")
    command = ["decode", *ALL, "d.npz", "--run", "run", "--out", "out", "--dask", cluster.scheduler_address]

    def interrupt():
        yield (work / "out" / "a.zarr").exists
        for pipe in pipes:
            yield pipe.has_reader
        os.kill(os.getpid(), signal.SIGINT)

    with beside(interrupt) as errors:
        ended = here(*command, cwd=work)
    assert not errors, (errors, ended.err)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.splitlines()[-1] == "ldmfilter: interrupted"
    before = marks(work / "out")
    for pipe in pipes:
        pipe.replace(work / "a.npz")
        os.close(pipe.end)  # whoever reads it sees an empty file
    ended = here(*command, cwd=work)
    assert ended.code == 0, ended.err
    assert set(before) < set(marks(work / "out"))


def command_of(folder, *words):
    return ["decode", folder / "a.npz", folder / "b.npz", "--run", folder / "run", "--out", folder / "out", *words]


def test_no_scheduler(work, monkeypatch):
    monkeypatch.setattr("ldmfilter.cluster._ANSWER", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = "tcp://{}:{}".format(*silent.getsockname())
        ended = here(*command_of(work, "--dask", address), cwd=work)
    end = "; give its address, as tcp://HOST:8786"
    refused(ended, f"--dask {address}: no Dask scheduler answers there (it is silent){end}")
    ended = here(*command_of(work, "--dask", "nowhere"), cwd=work)
    refused(ended, f"--dask nowhere: no Dask scheduler answers there (missing port number in address 'nowhere'){end}")


def test_no_package(work, monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    ended = here(*command_of(work, "--dask", "local"), cwd=work)
    refused(ended, "--dask: the package distributed is missing; pip install 'ldmfilter[dask]'")


def test_another_version(work, cluster, monkeypatch):
    monkeypatch.setattr("ldmfilter.cluster.__version__", "9.9")
    ended = here(*command_of(work, "--dask", cluster.scheduler_address), cwd=work)
    assert ended.err.endswith(": has ldmfilter 0.1.0, not 9.9 as the caller; install the same\n")
    where, worker, *_ = ended.err.split(": ")[1:]
    assert (where, worker.split()[0]) == (f"--dask {cluster.scheduler_address}", "worker")
    assert (ended.code, ended.out, ended.err.count("\n")) == (3, "", 1)


def test_a_worker_that_sees_other_files(work, cluster):
    """A path through this process's own folder leads elsewhere in another process."""
    hidden = Path("/proc/self/cwd/a.npz")
    ended = here(
        "decode", hidden, "b.npz", "--run", "run", "--out", "out", "--dask", cluster.scheduler_address, cwd=work
    )
    assert ended.err.startswith(f"ldmfilter: --dask {cluster.scheduler_address}: worker tcp://")
    assert f": {hidden}: is not seen on " in ended.err
    assert ended.err.endswith("; let all see the same files under the same paths\n")
    assert (ended.code, ended.out, ended.err.count("\n")) == (3, "", 1)
    assert list((work / "out").iterdir()) == []


SWEEP = ["--latent-dim", 2, 3, "--max-steps", 10, *SMALL]


def scores(summary):
    return [
        (one["options"], one["score"], [(run["seed"], run["step"]) for run in one["runs"]])
        for one in summary["combinations"]
    ]


def test_sweeps_of_several_sessions(work, cluster):
    """One sweep of each, the same here and on a cluster; what has ended is not done again."""
    ended = here("sweep", "a.npz", "bad.npz", "b.npz", *SWEEP, "--sweep", "here", "--json", cwd=work)
    assert ended.code == 3
    assert ended.err.splitlines()[-1].startswith("ldmfilter: bad.npz: is a damaged .npz file")
    plain = json.loads(ended.out)
    assert [one["sweep"] for one in plain] == ["here/a", "here/b"]
    command = ["sweep", "a.npz", "b.npz", *SWEEP, "--sweep", "there", "--json", "--dask", cluster.scheduler_address]
    ended = here(*command, cwd=work)
    assert ended.code == 0, ended.err
    dask = json.loads(ended.out)
    assert list(map(scores, dask)) == list(map(scores, plain))
    for place in ("a/000", "a/001", "b/000", "b/001"):
        ids = [Run.open(work / where / place).model().model_id_ for where in ("here", "there")]
        assert ids[0] == ids[1]
    said = [line for line in ended.err.splitlines() if " bits per spike, rank" in line]
    assert len(said) == 4
    assert said[-1].startswith("4/4  ")
    before = marks(work / "there", "*/0*/*")
    assert json.loads(here(*command, cwd=work).out) == dask
    resumed = here("sweep", "--resume", "there", "--quiet", cwd=work)
    assert resumed.out.splitlines()[0].endswith("a.npz")
    assert marks(work / "there", "*/0*/*") == before


def test_a_killed_worker_of_a_sweep(work, cluster):
    """Its run is gone on with: each step is taken once."""
    folder = work / "swept"

    def kill():
        yield (folder / "000" / "model.safetensors").exists
        os.kill(busy_with(cluster, folder / "000" / ".lock"), signal.SIGKILL)

    words = ["--latent-dim", 3, "--seed", 0, 1, "--max-steps", 150, *SMALL, "--dask", cluster.scheduler_address]
    with beside(kill) as errors:
        ended = here("sweep", "a.npz", *words, "--sweep", "swept", cwd=work)
    assert not errors, (errors, ended.err)
    assert ended.code == 0, ended.err
    runs = Sweep.open(folder).runs()
    assert [run.state for run in runs] == ["done", "done"]
    for run in runs:
        steps = [json.loads(line)["step"] for line in (run.folder / "log.jsonl").read_text().splitlines()]
        assert steps == list(range(0, 151, 25))


def test_an_interrupted_sweep_on_a_cluster(work, cluster):
    """Its workers stop at their next evaluation, and the runs are gone on with."""
    folder = work / "swept"

    def interrupt():
        yield (folder / "000" / "model.safetensors").exists
        os.kill(os.getpid(), signal.SIGINT)

    words = ["--latent-dim", 3, "--seed", 0, 1, "--max-steps", 100_000, *SMALL, "--dask", cluster.scheduler_address]
    with beside(interrupt) as errors:
        ended = here("sweep", "a.npz", *words, "--sweep", "swept", cwd=work)
    assert not errors, (errors, ended.err)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.splitlines()[-1] == "ldmfilter: interrupted; go on with `ldmfilter sweep --resume swept`"

    def is_free():
        with contextlib.closing(run_sweeps([Sweep.open(folder)])) as moves:
            _, move = next(moves, (None, None))
        return move is not None and move.number == 0

    wait_for(is_free)


def test_a_mistyped_value_is_no_session(work):
    ended = here("sweep", "a.npz", "--entropy", "knn", "stopgrad", "stopgard", cwd=work)
    assert (ended.code, ended.out) == (2, "")
    assert "stopgard is no file, nor a value of the option before it" in " ".join(ended.err.replace("│", " ").split())
    ended = here("sweep", "a.npz", *SWEEP, "--jobs", 2, "--dask", "local", cwd=work)
    assert ended.code == 2
