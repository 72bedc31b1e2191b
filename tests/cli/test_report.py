"""`ldmfilter report` as a person meets it."""

import json

import pytest

from tests.cli.conftest import here
from tests.cli.test_commands import refused
from tests.report_sample import sketched_reports


@pytest.fixture(scope="module")
def made(trained):
    """The page of the run, without behaviour and pictures."""
    with sketched_reports():
        return here("report", "run", "--out", "page.html", cwd=trained)


def test_prints_the_page_and_says_where_the_numbers_are(made, trained):
    assert made.code == 0, made.err
    assert made.out == "page.html\n"
    assert "page.json" in made.err
    content = json.loads((trained / "page.json").read_text())
    assert content["model"]["run"] == "run"
    assert content["behavior"] == []
    assert [row["lag"] for row in content["lags"]["states"]] == pytest.approx([0, 0.1, 0.2, 0.5, 1, 2, None])
    text = (trained / "page.html").read_text()
    assert "Behaviour, read from the states" not in text
    assert "Waiting for a surer state" in text
    assert content["summary"]["verdict"].split("'")[0] in text


def test_refusals_before_any_work(made, trained):
    refused(here("report", "run", "--out", "page.html", cwd=trained), "page.html", "overwrite it")
    refused(here("report", "run", "--out", "page.json", cwd=trained), "page.json", ".html")
    refused(here("report", "run", "--out", "no/page.html", cwd=trained), "no/page.html", "folder does not exist")
    refused(here("report", "nowhere", "--out", "page.html", cwd=trained), "nowhere", "run folder")
    refused(here("report", "run", "--out", "page.html", "--behavior", "nothing", cwd=trained), "no behaviour 'nothing'")
    refused(here("report", "run", "--out", "other.html", "--behavior", "nothing", cwd=trained), "nothing")
    assert not (trained / "other.html").exists()
    assert not (trained / "other.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["--condition", "side"], 3, "no column 'side' in interval table 'trials'"),
        (["--align", "trials.cue"], 3, "no column of times 'cue' in interval table 'trials'; it has start_time"),
        (["--align", "trials.start_time", "--condition", "side"], 3, "no column 'side' in interval table 'trials'"),
    ],
)
def test_trials_that_cannot_be_shown_are_told_before_the_work(trained, words, code, line):
    ended = here("report", "run", "--out", "none.html", *words, "--quiet", cwd=trained)
    assert (ended.code, ended.out) == (code, "")
    assert line in ended.err
    assert not (trained / "none.html").exists()
