"""The frame of all experiments: what it refuses, what it leaves behind."""

import dataclasses
import errno
import importlib
import inspect
import json
import math
from types import ModuleType

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from ldmfilter import files
from ldmfilter.errors import InputError
from ldmfilter.paper import experiment
from ldmfilter.paper.experiment import FIGURES, OURS, Claim, Listed, Outcome, Reproduction, reproduce


@dataclasses.dataclass(frozen=True)
class Settings:
    steps: tuple[int, ...] = (1, 2)


@pytest.fixture
def figure(monkeypatch):
    """A figure "toy" in `FIGURES`: a module whose experiment draws two numbers."""
    module = ModuleType("toy")
    module.SIZES = {"tiny": Settings(), "small": Settings((3,))}
    module.asked = []

    def run(settings, seed, say, data):
        module.asked.append((settings, seed, data))
        say("under way")
        numbers = {
            "drawn": np.random.default_rng(seed).standard_normal(2),
            "none": math.nan,
            1: [np.float32(0.5), np.int64(7), -math.inf, np.bool_(True), "text", None],
        }
        return Outcome(numbers, [Claim("Low", 1.0, most=2.0), Claim("Unknown", math.nan, least=0.0)], Figure((1, 1)))

    module.run = run
    monkeypatch.setitem(FIGURES, "toy", Listed("Two numbers", False, "any path"))
    real = importlib.import_module
    monkeypatch.setattr(
        experiment.importlib,
        "import_module",
        lambda name, *more: module if name == "ldmfilter.paper.toy" else real(name, *more),
    )
    return module


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_what_the_frame_asks_for(name):
    module = importlib.import_module(f"ldmfilter.paper.{name}")
    assert {"tiny", "small", "paper"} <= set(module.SIZES)
    for settings in module.SIZES.values():
        json.dumps(dataclasses.asdict(settings))
    expected = ["settings", "seed", "say", *(["data"] if FIGURES[name].data else [])]
    assert list(inspect.signature(module.run).parameters) == expected


@pytest.mark.parametrize(
    ("value", "least", "most", "holds"),
    [
        (1.0, None, None, True),
        (1.0, 1.0, 1.0, True),
        (0.99, 1.0, None, False),
        (1.01, None, 1.0, False),
        (0.5, 0.0, 1.0, True),
        (math.nan, None, None, False),
        (math.nan, 0.0, 1.0, False),
        (math.inf, 0.0, None, False),
        (-math.inf, None, 0.0, False),
    ],
)
def test_a_claim_holds_within_its_limits(value, least, most, holds):
    assert Claim("", value, least, most).holds is holds


def test_a_picture_and_its_numbers(figure, tmp_path):
    heard = []
    done = reproduce("toy", "tiny", tmp_path, seed=5, data="given", say=heard.append)
    assert heard == ["under way"]
    (asked,) = figure.asked
    assert (asked[0], asked[1], str(asked[2])) == (Settings(), 5, "given")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.png"]
    assert done.picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert not done.holds
    content = json.loads(done.record.read_text(), parse_constant=pytest.fail)  # NaN and Infinity are no JSON
    assert content["settings"] == {"steps": [1, 2]}
    assert (content["figure"], content["about"], content["size"], content["seed"]) == ("toy", "Two numbers", "tiny", 5)
    assert content["holds"] is False
    assert [(claim["text"], claim["value"], claim["holds"]) for claim in content["claims"]] == [
        ("Low", 1.0, True),
        ("Unknown", None, False),
    ]
    assert content["numbers"] == {
        "drawn": np.random.default_rng(5).standard_normal(2).tolist(),
        "none": None,
        "1": [0.5, 7, None, True, "text", None],
    }


def test_all_claims_have_to_hold(tmp_path):
    both = [Claim("a", 1.0, most=2.0), Claim("b", 1.0, least=0.0)]
    for claims, holds in ((both, True), ([*both, Claim("c", 1.0, most=0.0)], False)):
        outcome = Outcome({}, claims, Figure())
        assert Reproduction("toy", "tiny", 0, 1.0, outcome, tmp_path, tmp_path).holds is holds


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"figure": "fig9"}, f"fig9: no such figure; choose one of {', '.join([*FIGURES, 'toy'])}"),
        ({"size": "large"}, "large: no such size; choose one of small, paper"),
        ({"seed": -1}, "seed is -1; it must be a whole number from 0 to 4294967295"),
        ({"seed": 2**32}, "seed is 4294967296; it must be a whole number from 0 to 4294967295"),
    ],
)
def test_what_cannot_be_run(figure, tmp_path, options, line):
    with pytest.raises(InputError) as refused:
        reproduce(**{"figure": "toy", "out": tmp_path} | options)
    assert str(refused.value) == line
    assert not figure.asked
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_the_first_and_the_last_seed(figure, tmp_path, seed):
    assert reproduce("toy", out=tmp_path, seed=seed).seed == seed


@pytest.mark.parametrize("existing", ["toy.png", "toy.json"])
def test_an_output_that_exists_is_refused_before_the_work(figure, tmp_path, existing):
    (tmp_path / existing).write_text("mine")
    with pytest.raises(InputError) as refused:
        reproduce("toy", out=tmp_path)
    assert str(refused.value) == f"{tmp_path / existing}: exists already; choose another name or overwrite it"
    assert not figure.asked
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "mine"
    reproduce("toy", out=tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.png"]
    assert (tmp_path / existing).read_bytes() != b"mine"


def test_a_missing_folder_is_made_and_one_that_cannot_be_is_refused_before_the_work(figure, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError) as refused:
        reproduce("toy", out=tmp_path / "file" / "below")
    assert str(refused.value).startswith(f"{tmp_path / 'file' / 'below'}: ")
    assert not figure.asked
    reproduce("toy", out=tmp_path / "new" / "below")
    assert sorted(path.name for path in (tmp_path / "new" / "below").iterdir()) == ["toy.json", "toy.png"]


class Torn(Figure):
    """Fails while it is written."""

    def savefig(self, path, **options):
        path.write_bytes(b"\x89PNG half")
        raise RuntimeError("torn")


def test_what_fails_leaves_old_files_as_they_were(figure, tmp_path):
    before = reproduce("toy", out=tmp_path)
    old = before.picture.read_bytes(), before.record.read_bytes()
    figure.run = lambda *_: Outcome({}, [], Torn())
    with pytest.raises(RuntimeError, match="torn"):
        reproduce("toy", out=tmp_path, overwrite=True)
    assert (before.picture.read_bytes(), before.record.read_bytes()) == old
    figure.run = lambda *_: Outcome({"no JSON": object()}, [], Figure())
    with pytest.raises(TypeError):
        reproduce("toy", out=tmp_path, overwrite=True)
    assert before.record.read_bytes() == old[1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["toy.json", "toy.png"]


def test_data_for_a_figure_that_makes_its_own(figure, tmp_path, monkeypatch):
    monkeypatch.setitem(FIGURES, "toy", Listed("Two numbers", False))
    figure.run = lambda settings, seed, say: Outcome({}, [], Figure())
    with pytest.raises(InputError) as refused:
        reproduce("toy", out=tmp_path, data=tmp_path)
    assert str(refused.value) == f"{tmp_path}: toy takes no data; leave out --data"
    assert not list(tmp_path.iterdir())
    assert reproduce("toy", out=tmp_path).holds


@pytest.mark.parametrize("name", [name for name, one in FIGURES.items() if not one.data])
def test_what_the_list_says_of_data_is_so(name, tmp_path):
    with pytest.raises(InputError, match=r"^x\.nwb: .*leave"):
        reproduce(name, "tiny", tmp_path, data="x.nwb")


def test_a_folder_that_refuses_is_told_before_the_work(figure, tmp_path, monkeypatch):
    def refuse(prefix, suffix, dir):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(files.tempfile, "mkdtemp", refuse)
    with pytest.raises(InputError) as refused:
        reproduce("toy", out=tmp_path)
    assert str(refused.value) == f"{tmp_path / 'toy.png'}: cannot be written (Permission denied); write elsewhere"
    assert not figure.asked


def test_a_claim_says_who_set_its_limit(figure, tmp_path):
    figure.run = lambda *_: Outcome({}, [Claim("a", 1, source="figure 9"), Claim("b", 1, limit="x")], Figure(), "mind")
    content = json.loads(reproduce("toy", out=tmp_path).record.read_text())
    assert [(claim["source"], claim["limit"]) for claim in content["claims"]] == [("figure 9", OURS), ("", "x")]
    assert content["note"] == "mind"


@pytest.mark.parametrize("name", ["fig3", "fig4", "fig5", "theorem1", "infoldm"])
def test_what_asks_for_a_gpu_is_listed_so(name, tmp_path, monkeypatch):
    class AskedError(Exception):
        pass

    def asked():
        raise AskedError

    monkeypatch.setattr(torch.cuda, "is_available", asked)
    with pytest.raises(AskedError):
        reproduce(name, "tiny", tmp_path)
    assert FIGURES[name].gpu
