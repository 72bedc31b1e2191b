"""Two processes that train together come to what one does; the first alone writes and speaks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import QUICK, Ended


def torchrun(*words: object, cwd: Path) -> Ended:
    """The command in two processes, which meet by gloo."""
    # Behind "--" torchrun takes no option of ours, --run, for one of its own.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "--"]
    command += ["ldmfilter_cli", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240, check=False)
    return Ended(done.returncode, done.stdout, done.stderr)


def records(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_two_processes_have_the_loss_curve_of_one(session_file, trained, tmp_path):
    """With the same global batch and the same dropout."""
    ended = torchrun("train", session_file, "--run", "run", *QUICK, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out == "run\n"
    assert sum(line.startswith("step 50/50") for line in ended.err.splitlines()) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run"]
    one, two = records(trained / "run"), records(tmp_path / "run")
    assert [r["step"] for r in two] == [0, 25, 50]
    for expected, found in zip(one, two, strict=True):
        assert found == {k: v if v is None else pytest.approx(v, abs=1e-5) for k, v in expected.items()}
    key = "held_out_log_likelihood"
    assert one[-1][key] > one[0][key] + 0.02  # something was learnt in which they could differ


def test_a_failure_is_one_line_and_ends_all(session_file, tmp_path):
    ended = torchrun("train", session_file, "--run", "run", *QUICK, "--batch-size", "9", cwd=tmp_path)
    assert ended.code != 0
    assert ended.out == ""
    ours = [line for line in ended.err.splitlines() if line.startswith("ldmfilter: ")]
    assert ours == ["ldmfilter: batch-size is 9; it must be a multiple of the 2 processes"]
    assert not (tmp_path / "run").exists()
