"""`ldmfilter reproduce` as a person meets it."""

import json
import os
import re

import pytest

from ldmfilter.paper import fig2c
from ldmfilter.paper.experiment import FIGURES, Claim, Outcome
from tests.cli.conftest import here, on_a_terminal


@pytest.fixture
def quick(monkeypatch):
    """fig2c with few samples, and two claims more: one that fails, and one without a number."""
    monkeypatch.setitem(fig2c.SIZES, "small", fig2c.SIZES["tiny"])
    real = fig2c.run

    def run(*args):
        outcome = real(*args)
        claims = [
            Claim("Too much: of it", 0.123456, most=0.1, source="figure 9"),
            Claim("Unknown", float("nan"), least=-1.0, most=1.0),
        ]
        return Outcome(outcome.numbers, claims, outcome.picture, "mind the gap")

    monkeypatch.setattr(fig2c, "run", run)


def test_without_a_figure_all_are_listed(tmp_path):
    ended = here("reproduce", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    rows = [re.split(r" {2,}", line) for line in ended.out.splitlines()]
    assert [name for name, _ in rows] == list(FIGURES)
    said = dict(rows)
    for name, one in FIGURES.items():
        assert said[name].startswith(one.about)
        assert ("GPU" in said[name]) is one.gpu
        assert ("--data" in said[name]) is (name in ("fig3", "fig4f"))
    assert json.loads(here("reproduce", "--json", cwd=tmp_path).out) == {
        name: {"about": one.about, "gpu": one.gpu, "data": one.data} for name, one in FIGURES.items()
    }
    assert not list(tmp_path.iterdir())


def test_a_claim_that_fails_is_an_answer(quick, tmp_path):
    ended = here("reproduce", "fig2c", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "unmixed in closed form\n")
    assert ended.out.splitlines() == [
        "mind the gap",
        "FAILS  0.1235  Too much: of it (at most 0.1; limit: this package; statement: figure 9)",
        "FAILS  nan     Unknown (at least -1, at most 1; limit: this package)",
        "fig2c.png",
        "fig2c.json",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fig2c.json", "fig2c.png"]


def test_json_is_the_file(quick, tmp_path):
    ended = here("reproduce", "fig2c", "--json", "--quiet", "--seed", 3, cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out == (tmp_path / "fig2c.json").read_text()
    content = json.loads(ended.out)
    assert content["seed"] == 3
    assert [claim["value"] for claim in content["claims"]] == [0.123456, None]


def test_it_holds_as_it_comes(monkeypatch, tmp_path):
    monkeypatch.setitem(fig2c.SIZES, "small", fig2c.Settings(100_000))
    ended = here("reproduce", "fig2c", "--out", "figures", "--quiet", cwd=tmp_path)
    assert (ended.code, ended.err) == (0, "")
    claim, *files = ended.out.splitlines()
    assert re.fullmatch(
        r"holds  0\.0\d+ +The processes are recovered: Amari distance "
        r"\(at most 0\.02; limit: this package; statement: figure 2C\)",
        claim,
    )
    assert files == [os.path.join("figures", name) for name in ("fig2c.png", "fig2c.json")]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["fig9"], f"fig9: no such figure; choose one of {', '.join(FIGURES)}"),
        (["fig2c", "--size", "huge"], "huge: no such size; choose one of small, paper"),
        (["--size", "huge"], "huge: no such size; choose one of small, paper"),
        (["fig2c", "--seed", "-1"], "seed is -1; it must be a whole number from 0 to 4294967295"),
        (["fig2c", "--data", "x.nwb"], "x.nwb: fig2c takes no data; leave out --data"),
    ],
)
def test_what_is_refused(tmp_path, words, line):
    ended = here("reproduce", *words, cwd=tmp_path)
    assert (ended.code, ended.out, ended.err) == (3, "", f"ldmfilter: {line}\n")
    assert not list(tmp_path.iterdir())


def test_existing_files_are_replaced_only_where_asked(quick, tmp_path):
    (tmp_path / "fig2c.json").write_text("mine")
    ended = here("reproduce", "fig2c", cwd=tmp_path)
    line = "ldmfilter: fig2c.json: exists already; choose another name or overwrite it\n"
    assert (ended.code, ended.out, ended.err) == (3, "", line)
    assert (tmp_path / "fig2c.json").read_text() == "mine"
    assert here("reproduce", "fig2c", "--overwrite", cwd=tmp_path).code == 0
    assert json.loads((tmp_path / "fig2c.json").read_text())["figure"] == "fig2c"


def test_help_begins_with_an_example(tmp_path):
    ended = here("reproduce", "--help", cwd=tmp_path)
    assert ended.code == 0
    assert ended.out.split("Usage:")[1].split("\n", 1)[1].strip().startswith("Example: ldmfilter reproduce fig2b")


def test_a_narrow_terminal_gets_a_list_that_fits(tmp_path):
    """Words are folded into their column, none is lost."""
    lines = on_a_terminal("reproduce", cwd=tmp_path, columns=40)
    assert len(lines) > len(FIGURES)
    text = " ".join(" ".join(lines).split())
    for name, one in FIGURES.items():
        assert f"{name} {one.about}" in text
