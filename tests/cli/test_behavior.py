"""`decode --behavior` from the command line."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from ldmfilter.data.session import Session
from ldmfilter.data.simulate import linear_track_session
from tests.cli.conftest import QUICK, here


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A session whose tracking also has two and eight columns, a run of it, and a run of all its time."""
    folder = tmp_path_factory.mktemp("behavior")
    session = linear_track_session(seed=3, n_units=16, duration=240.0, rest=20.0)
    track = session.behavior["processing/behavior/linear_position"]
    wide = np.stack([track.to_numpy() + i for i in range(8)], 1)
    wide[500:900] = -1
    for name, columns in (("led", 2), ("eight", 8)):
        session.behavior[f"processing/behavior/{name}"] = xr.DataArray(
            wide[:, :columns], dims=("time", "component"), coords={"time": track["time"]}, attrs={"unit": "cm"}
        )
    session.to_zarr(folder / "s.zarr")
    words = ["train", "s.zarr", "--interval", "epochs=run", *QUICK, "--quiet"]
    assert here(*words, "--run", "run", cwd=folder).code == 0
    assert here(*words, "--run", "all", "--reserve", "0", cwd=folder).code == 0
    return folder


def decode(folder, *words, run="run", out="l.zarr"):
    return here("decode", "--run", run, "--out", out, "--overwrite", *words, cwd=folder)


def test_behaviour_comes_with_the_states(folder):
    words = ["--interval", "epochs=run", "--behavior", "linear_position", "--behavior", "theta_phase"]
    ended = decode(folder, *words, "--min-speed", "5", "--ci", "0.9")
    assert ended.code == 0, ended.err
    assert ended.out == "l.zarr\n"
    assert "processing/behavior/theta_phase: taken as circular, one turn 2 pi" in ended.err
    assert "Bayesian decoder" in ended.err
    assert "slower than the lowest speed" in ended.err  # words in place of the names of reasons
    assert "width, cm" in ended.err
    with xr.open_zarr(folder / "l.zarr") as latents:
        assert latents["linear_position_ci"].dims == ("time", "bound")
        assert latents["linear_position_ci"].attrs["level"] == 0.9
        assert latents["linear_position_mean"].attrs["unit"] == "cm"
        judged = latents["linear_position_fold"].to_numpy() >= 0
        assert not (judged & latents["trained"].to_numpy()).any()
        assert np.isfinite(latents["linear_position_true"].to_numpy()[judged]).all()
        reports = json.loads(latents.attrs["behavior"])
    assert [r["name"] for r in reports] == ["linear_position", "theta_phase"]
    assert [r["circular"] for r in reports] == [False, True]
    assert reports[0]["bins"]["used"] == judged.sum()
    assert reports[0]["bins"]["slow"] > 0
    assert len(reports[0]["intervals"]) == 5


def test_the_report_as_json(folder):
    words = ["--behavior", "led", "--json", "--interval", "epochs=run", "--ahead", "1"]
    ended = decode(folder, *words)
    assert ended.code == 0, ended.err
    report = json.loads(ended.out)
    assert report["store"] == "l.zarr"
    assert [b["name"] for b in report["behavior"]] == ["led_0", "led_1"]
    assert all("-1 taken as tracking lost, 400 samples" in b["note"] for b in report["behavior"])
    assert report["behavior"][0]["decoder"]["median_error"] > 0
    assert [(b["name"], b["ahead"]) for b in report["behavior_ahead"]] == [("led_0", 1.0), ("led_1", 1.0)]
    assert {b["readout"] for b in report["behavior_ahead"]} <= {"linear", "neighbours"}
    with xr.open_zarr(folder / "l.zarr") as latents:
        read, truth = latents["led_0_ahead_mean"].to_numpy()[0], latents["led_0_true"].to_numpy()
        assert latents["led_0_ahead_ci"].dims == ("ahead", "time", "bound")
        judged, segment = latents["led_0_fold"].to_numpy() >= 0, latents["segment"].to_numpy()
        assert latents["led_0_ahead_mean"].attrs["unit"] == "cm"
    pairs = judged[:-10] & judged[10:] & (segment[:-10] == segment[10:])
    error = {later: np.nanmedian(np.abs(read[:-10] - np.roll(truth, -later)[:-10])[pairs]) for later in (0, 10)}
    assert error[10] < error[0]  # it is the place a second later
    assert error[10] == pytest.approx(report["behavior_ahead"][0]["median_error"], rel=0.3)


def test_classes_are_not_read_ahead(folder):
    asked = ["--behavior", "facing", "--ahead", "0.5", "--span", "5:60"]
    ended = decode(folder, *asked)
    assert ended.code == 0, ended.err
    assert "processing/behavior/facing: is of classes, which are read now and not ahead\n" in ended.err
    assert "behaviour ahead" not in ended.err
    both = decode(folder, *asked, "--behavior", "gain")
    assert both.err.count("not ahead") == both.err.count("behaviour ahead") == 1
    assert "error ahead may be smaller than the one now" in both.err
    assert json.loads(decode(folder, *asked, "--json").out)["behavior_ahead"] == []


def test_time_that_training_saw_shows_no_interval(folder):
    ended = decode(folder, "--behavior", "linear_position", "--interval", "epochs=run", run="all")
    assert ended.code == 0, ended.err
    assert "training saw all of the time" in ended.err
    with xr.open_zarr(folder / "l.zarr") as latents:
        assert "linear_position_mean" in latents
        assert "linear_position_ci" not in latents


@pytest.mark.parametrize(("span", "blocks"), [("5:60", "2 blocks"), ("60:75", "1 block")])
def test_a_stretch_too_short_to_calibrate_is_told(folder, span, blocks):
    ended = decode(folder, "--behavior", "facing", "--behavior", "gain", "--span", span)
    assert ended.code == 0, ended.err
    assert f" bins in {blocks}; left out " in ended.err
    few = f"({blocks[0]}, where 4 are needed)"
    assert f"too few blocks of time that training never saw to calibrate {few}: no intervals" in ended.err
    with xr.open_zarr(folder / "l.zarr") as latents:
        assert "gain_ci" not in latents


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--behavior", "nowhere"], "no behaviour 'nowhere'; it has"),
        (["--behavior", "eight"], "has 8 columns, more than 3"),
        (["--behavior", "led[2]"], "has 2 columns"),
        (["--behavior", "gain", "--circular", "speed"], "circular 'speed' is none of the chosen behaviours gain"),
        (["--behavior", "linear_position", "--span", "221:239"], "does not overlap with the decoded bins"),
        (["--behavior", "gain", "--min-speed", "1e9"], "no bin is left to read it in"),
    ],
)
def test_behaviour_that_cannot_be_used(folder, words, expected):
    ended = here("decode", "--run", "run", "--out", "none.zarr", *words, "--quiet", cwd=folder)
    assert ended.code == 3, ended.err
    assert ended.out == ""
    assert len(ended.err.strip().splitlines()) == 1, ended.err
    assert expected in ended.err
    assert not (folder / "none.zarr").exists()


def test_options_of_behaviour_without_it_are_wrong_usage(folder):
    assert here("decode", "--run", "run", "--out", "none.zarr", "--min-speed", "3", cwd=folder).code == 2


def test_a_session_without_behaviour(folder, tmp_path):
    Session.from_spikes([[0.5, 3.0]]).to_zarr(tmp_path / "bare.zarr")
    ended = here("decode", tmp_path / "bare.zarr", "--run", "run", "--out", "n.zarr", "--behavior", "x", cwd=folder)
    assert ended.code == 3
    assert "no behaviour 'x'; the session has none" in ended.err
