"""`ldmfilter check` as a person meets it."""

import json
from unittest import mock

import pytest

from ldmfilter.analysis import checks
from tests.cli.conftest import QUICK, here, on_a_terminal
from tests.cli.test_commands import refused


@pytest.fixture(scope="module")
def diagnosed(trained):
    """What the command wrote as JSON, and the diagnosis that it wrote."""
    made, real = [], checks.diagnose

    def kept(*args, **more):
        made.append(real(*args, **more))
        return made[-1]

    with mock.patch.object(checks, "diagnose", kept):
        ended = here("check", "run", "--json", cwd=trained)
    assert ended.code == 0, ended.err
    return json.loads(ended.out), made[0]


@pytest.fixture
def answer(diagnosed, monkeypatch):
    """The JSON; and the same diagnosis is not computed again."""
    monkeypatch.setattr(checks, "diagnose", lambda *_, **__: diagnosed[1])
    return diagnosed[0]


def test_json_holds_every_finding_and_the_numbers_behind_them(answer):
    assert answer["run"] == "run"
    assert answer["held_out"] is True
    for finding in answer["findings"]:
        assert set(finding) >= {"name", "question", "value", "threshold", "reason", "ok", "verdict", "remedy"}
    assert len(answer["units"]["loss"]) == 16
    assert answer["ok"] is all(finding["ok"] for finding in answer["findings"])


def test_a_pipe_gets_plain_lines_with_the_same_verdicts(trained, answer):
    ended = here("check", "run", "--quiet", cwd=trained)
    assert ended.code == 0
    assert ended.err == ""
    assert "\x1b[" not in ended.out
    first, *lines = ended.out.splitlines()
    assert first == f"run: {answer['summary']}"
    for finding, line in zip(answer["findings"], lines, strict=False):
        sign, name, value, _, _, verdict = map(str.strip, line.split("\t"))
        assert sign == ("!!" if not finding["ok"] else "ok~" if finding["doubtful"] else "ok")
        assert (name, verdict) == (finding["name"], finding["verdict"])
        assert float(value) == pytest.approx(finding["value"], rel=0.01, abs=1e-6)
    table = lines[: len(answer["findings"])]
    assert len({tuple(at for at, letter in enumerate(line) if letter == "\t") for line in table}) == 1  # aligned
    for finding in answer["findings"]:
        assert (f"Remedy: {finding['remedy']}." in ended.out) is not finding["ok"]


def test_in_a_python_console_it_is_a_table(diagnosed):
    content, diagnosis = diagnosed
    lines = repr(diagnosis).splitlines()
    assert lines[0] == content["summary"]
    for finding in content["findings"]:
        row = next(line.split() for line in lines if f" {finding['name']} " in line)
        assert float(row[len(finding["name"].split()) + 1]) == pytest.approx(finding["value"], rel=0.01, abs=1e-6)
        assert (f"Remedy: {finding['remedy']}." in lines) is not finding["ok"]


def test_strict_turns_findings_into_a_failure(trained, answer):
    assert not answer["ok"]  # 50 steps of training leave something to find
    ended = here("check", "run", "--strict", "--quiet", cwd=trained)
    assert ended.code == 1
    assert answer["summary"] in ended.out


def test_a_narrow_terminal_gets_a_table_that_fits(trained, answer):
    lines = on_a_terminal("check", "run", "--quiet", cwd=trained, columns=40)
    words = " ".join(" ".join(lines).split())
    for finding in answer["findings"]:
        assert finding["name"].split()[0] in words
        if not finding["ok"]:
            assert finding["remedy"].split()[-1] in words


def test_without_a_run_it_takes_the_latest(session_file, tmp_path):
    words = ["--run", "runs/one", "--reserve", 0, *QUICK, "--quiet"]
    assert here("train", session_file, *words, cwd=tmp_path).code == 0
    ended = here("check", cwd=tmp_path)
    assert ended.code == 0
    assert ended.out.startswith("runs/one: ")
    assert "optimistic" in ended.out.splitlines()[0]
    assert "spikes shifted in time ..." in ended.err


def test_help_begins_with_an_example(tmp_path):
    ended = here("check", "--help", cwd=tmp_path)
    assert ended.code == 0
    assert ended.out.split("Usage:")[1].split("\n", 1)[1].strip().startswith("Example: ldmfilter check")


def test_no_run_is_refused(tmp_path):
    refused(here("check", cwd=tmp_path), "runs", "ldmfilter train")
    refused(here("check", "nowhere", cwd=tmp_path), "nowhere", "no such run folder")
