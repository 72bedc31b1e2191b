"""`ldmfilter compare`, as a person types it."""

import json
import shutil

import pytest

from tests.cli.conftest import QUICK, here


def test_a_table_of_runs(trained, session_file):
    ended = here("train", session_file, "--run", "second", "--seed", "1", *QUICK, cwd=trained)
    assert ended.code == 0, ended.err
    try:
        ended = here("compare", "run", "second", cwd=trained)
        assert ended.code == 0, ended.err
        assert "2 second" in ended.out
        first, *_, last = ended.out.splitlines()
        assert first == "R2 of the best affine map"
        assert last.startswith("median")
        assert last.endswith("no run was trained on")
        assert "hidden units" in ended.out
        ended = here("compare", "run", "second", "--json", cwd=trained)
        assert json.loads(ended.out)["runs"] == ["run", "second"]
        ended = here("score", "run", "second", "--ahead", 1, cwd=trained)
        heads, row, *_ = ended.out.splitlines()
        assert [head.strip() for head in heads.split("lead of ")[1:]] == ["run", "second", "run over second"]
        assert row.count(") over ") == 2
    finally:
        shutil.rmtree(trained / "second")


@pytest.mark.parametrize("runs", [[], ["--run", "run"]])
def test_one_run_is_not_enough(trained, runs):
    ended = here("compare", *runs, cwd=trained)
    assert ended.code == 3
    assert ended.err == "ldmfilter: a comparison needs two runs or more; name another run folder\n"
