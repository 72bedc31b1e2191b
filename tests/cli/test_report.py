"""`ldmfilter report` as a person meets it."""

import json

import pytest

from tests.cli.conftest import here
from tests.cli.test_commands import refused


@pytest.fixture(scope="module")
def made(trained):
    """The page of the run, without behaviour."""
    return here("report", "run", "--out", "page.html", cwd=trained)


def test_prints_the_page_and_says_where_the_numbers_are(made, trained):
    assert made.code == 0, made.err
    assert made.out == "page.html\n"
    assert "page.json" in made.err
    content = json.loads((trained / "page.json").read_text())
    assert content["model"]["run"] == "run"
    assert content["behavior"] == []
    text = (trained / "page.html").read_text()
    assert "Behaviour, read from the states" not in text
    assert content["summary"]["verdict"].split("'")[0] in text


def test_refusals_before_any_work(made, trained):
    refused(here("report", "run", "--out", "page.html", cwd=trained), "page.html", "--overwrite")
    refused(here("report", "run", "--out", "page.json", cwd=trained), "page.json", ".html")
    refused(here("report", "run", "--out", "no/page.html", cwd=trained), "no/page.html", "folder does not exist")
    refused(here("report", "nowhere", "--out", "other.html", cwd=trained), "nowhere", "run folder")
    refused(here("report", "run", "--out", "other.html", "--behavior", "nothing", cwd=trained), "nothing")
    assert not (trained / "other.html").exists()
    assert not (trained / "other.json").exists()
