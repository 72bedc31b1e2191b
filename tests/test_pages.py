"""The Python of a page runs as it stands, after the commands that the page shows; the commands have these options."""

import re
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import typer
import xarray as xr
from ldmfilter_cli.main import app

from ldmfilter.data.sample import write_sample
from ldmfilter.data.simulate import linear_track_session
from tests.cli.conftest import QUICK, here

ROOT = Path(__file__).parents[1]
SMALL = linear_track_session(duration=240, rest=60, n_units=12)
PAGES = [*sorted((ROOT / "docs" / "howto").glob("*.md")), ROOT / "docs" / "index.md", ROOT / "README.md"]
COMMANDS = typer.main.get_command(app).commands
# A page trains for minutes, on a cluster; its test for a second, here.
IN_PLACE_OF = {
    "LDMFilter()": 'LDMFilter(latent_dim=2, dynamics="fast", max_steps=2, refit=False)',
    'Client("tcp://HOST:8786")': "Client(processes=False, dashboard_address=None)",
}


def blocks(page: Path, language: str) -> list[str]:
    """The code of a page: between fences of that language, or in the README indented below a title that names it."""
    text = page.read_text(encoding="utf-8")
    if page.name == "README.md":
        part = text.partition(f"lines of {language.title()}\n")[2].partition("\n## ")[0]
        return ["\n".join(line[4:] for line in part.splitlines() if line.startswith("    "))]
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder in which the commands of the pages were run, on a small session."""
    made = tmp_path_factory.mktemp("pages")
    with mock.patch("ldmfilter.data.sample.linear_track_session", return_value=SMALL):
        write_sample(made / "session.nwb")
    trials = ("--align", "trials.start_time")
    for words in (
        ("train", "session.nwb", "--run", "runs/monday", *QUICK),
        ("decode", "--out", "latents.zarr"),
        ("decode", "--behavior", "linear_position", "--out", "read.zarr"),
        ("decode", *trials, "--window", "-0.5:1.5", "--out", "trials.zarr"),
        ("decode", "--behavior", "trials.direction", *trials, "--window", "0:1.5", "--out", "conditions.zarr"),
    ):
        done = here(*words, "--quiet", cwd=made)
        assert done.code == 0, done.err
    return made


@pytest.mark.parametrize("page", [one for one in PAGES if blocks(one, "python")], ids=lambda page: page.stem)
def test_the_python_of_a_page_runs_as_it_stands(page, folder, monkeypatch):
    monkeypatch.chdir(folder)
    text = "\n".join(blocks(page, "python"))
    for shown, instead in IN_PLACE_OF.items():
        text = text.replace(shown, instead)
    names: dict = {"__name__": "__main__"}
    try:
        exec(compile(text, str(page), "exec"), names)
    finally:
        if "client" in names:
            names["client"].close()


def test_the_share_read_right_is_that_of_the_trials_that_reach_a_bin(tmp_path, monkeypatch):
    """Of trials of one, two and three bins; a bin that is not reached or judged is not among them."""
    said = np.array([["in", "", ""], ["out", "out", ""], ["in", "in", "out"], ["in", "in", "in"]])
    fold = np.where(said == "", -1, np.array([[0], [1], [2], [-1]]))
    trial = {"direction": ("trial", ["in", "out", "in", "out"])}
    variables = {"trials_direction_read": (("trial", "time"), said), "trials_direction_fold": (("trial", "time"), fold)}
    xr.Dataset(variables, trial).to_zarr(tmp_path / "conditions.zarr")
    (text,) = [
        one for one in blocks(ROOT / "docs" / "howto" / "align-to-events.md", "python") if "conditions.zarr" in one
    ]
    monkeypatch.chdir(tmp_path)
    names: dict = {"xr": xr}
    exec(text, names)
    assert names["share"].to_numpy().tolist() == [1, 1, 0]
    assert names["judged"].sum("trial").to_numpy().tolist() == [3, 2, 1]


SHELL = [
    (page, line)
    for page in sorted((ROOT / "docs").rglob("*.md"))
    if "_build" not in page.parts and page.name != "command-line.md"
    for block in blocks(page, "bash")
    for line in re.findall(r"ldmfilter (\w+.*?)(?: #.*| \| .*| > .*)?$", block, re.MULTILINE)
]


@pytest.mark.parametrize(("page", "line"), SHELL, ids=[f"{page.stem}: {line}" for page, line in SHELL])
def test_a_command_of_a_page_has_the_options_that_it_shows(page, line):
    name, *words = line.split()
    known = {opt for one in COMMANDS[name].params for opt in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("--")} <= known | {"--help"}
