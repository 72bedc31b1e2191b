"""Work in processes of this machine ends with whoever asked for it, and a process that dies is told of."""

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, suppress
from pathlib import Path

import pytest

from ldmfilter.cluster import work, workers
from ldmfilter.errors import InputError

ROOT = Path(__file__).parents[1]
CALLER = """
from pathlib import Path
from ldmfilter.cluster import work, workers
from tests.test_cluster import sleep

if __name__ == "__main__":
    with workers(None, 2, (), Path("."), 3) as executor:
        list(work(executor, sleep, [(str(number),) for number in range(3)]))
"""


def sleep(name):
    Path(f"{name}.tmp").write_text(str(os.getpid()))
    os.replace(f"{name}.tmp", name)
    time.sleep(600)


def tell(what):
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "refuse":
        raise InputError("session.nwb: is no session")
    return what


def alive(pid):
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def wait_for(condition):
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes by /proc")
def test_processes_whose_caller_was_killed_end_and_begin_nothing(tmp_path):
    (tmp_path / "caller.py").write_text(CALLER)
    caller = subprocess.Popen(
        [sys.executable, "caller.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: (tmp_path / "0").exists() and (tmp_path / "1").exists())
    finally:
        caller.kill()
        caller.communicate()
    pids = [int((tmp_path / name).read_text()) for name in "01"]
    wait_for(lambda: not any(map(alive, pids)))
    assert not (tmp_path / "2").exists()


def test_results_and_errors_of_processes(tmp_path):
    tasks = [("a",), ("refuse",), ("b",)]
    for jobs in (1, 2):
        with workers(None, jobs, (), tmp_path, 3) as executor:
            assert (executor is None) == (jobs == 1)
            ends = {end.task: end.result for end in work(executor, tell, tasks)}
        assert (ends[0], ends[2]) == ("a", "b")
        assert isinstance(ends[1], InputError)
        assert str(ends[1]) == "session.nwb: is no session"


def test_a_process_that_dies(tmp_path):
    with (
        workers(None, 2, (), tmp_path, 2) as executor,
        closing(work(executor, tell, [("die",), ("die",)])) as ends,
    ):
        said = [str(end.result) for end in ends]
    assert said == ["a process was ended from outside; with fewer --jobs each has more memory"] * 2
