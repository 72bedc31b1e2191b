"""Classes on worlds with known answers: accuracy, probabilities, whole trials held out."""

import json

import numpy as np
import pytest
import xarray as xr

from ldmfilter.analysis.behavior import Behavior, choose_behavior
from ldmfilter.analysis.readout import read_behavior
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError
from tests.analysis.test_readout import world

LENGTH = 2.0  # s of a trial


def read(latents: xr.Dataset, *variables: Behavior, shifts: int = 20):
    reading = read_behavior(latents, list(variables), shifts=shifts)
    return reading.latents, reading.reports[0]


def in_trials(**columns) -> Session:
    start = LENGTH * np.arange(len(next(iter(columns.values()))))
    table = {"start_time": start, "stop_time": start + LENGTH, **columns}
    return Session.from_spikes([[0.5]], intervals={"trials": table})


def trial_world(labels: np.ndarray, apart: float, trained=()) -> xr.Dataset:
    """States whose first dimension lies `apart` from 0 to either side, by the label 0 or 1 of the trial."""
    latents = world(LENGTH * labels.size, trained=trained)
    shift = np.repeat(np.where(labels == 1, apart, -apart), round(LENGTH / 0.1))
    latents["filtered_mean"][:, 0] += shift
    return latents


def test_probabilities_are_those_of_the_world():
    """A class drawn with a probability that the first state gives: what is read right is known."""
    latents = world(600)
    x = latents["filtered_mean"].to_numpy()[:, 0].astype(float)
    true = 1 / (1 + np.exp(-2.5 * x))
    drawn = (np.random.default_rng(1).random(x.size) < true).astype(float)
    time = latents["time"].to_numpy()
    lost = np.zeros(time.size, bool)
    behavior = Behavior("side", "side", "", time, drawn, lost, classes=np.array(["left", "right"]))
    out, report = read(latents, behavior)
    best = np.maximum(true, 1 - true).mean()
    assert report.read.accuracy == pytest.approx(best, abs=0.03)
    assert report.calibration_error < 0.04
    for step in report.calibration:
        assert step.share == pytest.approx(step.probability, abs=max(0.05, 3.5 * step.share_se))
    judged = out["side_fold"].to_numpy() >= 0
    probability = out["side_probability"].sel(side_class="right").to_numpy()
    assert np.abs(probability - true)[judged].mean() < 0.05
    np.testing.assert_allclose(out["side_probability"].sum("side_class"), 1, atol=1e-5)
    assert set(out["side_read"].to_numpy().tolist()) == {"left", "right"}
    assert out["side_true"].to_numpy()[:3].tolist() == [["left", "right"][int(v)] for v in drawn[:3]]
    assert report.control.p <= 1 / 21 + 1e-9
    assert json.loads(out.attrs["behavior"])[0]["classes"] == ["left", "right"]


def test_numbers_stay_numbers_and_no_interval_is_made():
    latents = world(200)
    time, x = latents["time"].to_numpy(), latents["filtered_mean"].to_numpy()[:, 0]
    series = xr.DataArray(np.where(x > 0, 1.0, -1.0), {"time": time}, ("time",), attrs={"unit": "a.u."})
    session = Session.from_spikes([[0.5]], behavior={"facing": series})
    out, report = read(latents, *choose_behavior(session, ["facing"]))
    assert report.read.balanced_accuracy > 0.95
    assert set(out["facing_read"].to_numpy().tolist()) == {-1.0, 1.0}
    assert out["facing_class"].to_numpy().tolist() == [-1.0, 1.0]
    assert "facing_ci" not in out
    assert "facing_mean" not in out


def test_a_few_numbers_of_a_table_are_classes_whatever_its_name_says():
    session = in_trials(phase=np.arange(40) % 3, orientation=np.arange(40) % 4 * 45.0, angle=np.arange(40) * 9.0)
    few = choose_behavior(session, ["trials.phase", "trials.orientation"])
    assert [one.classes.tolist() for one in few] == [[0, 1, 2], [0, 45, 90, 135]]
    assert [one.period for one in few] == [None, None]
    assert choose_behavior(session, "trials.angle")[0].period == 360
    forced = choose_behavior(session, "trials.orientation", "trials.orientation")[0]
    assert (forced.period, forced.values.max()) == (360, 135)
    session.intervals["angle_task"] = session.intervals["trials"].assign(score=("interval", np.arange(40) / 7))
    assert choose_behavior(session, "angle_task.score")[0].period is None  # the table's name is not the column's
    for column in (np.arange(40) * 90.0, ["left", "right"] * 20):
        with pytest.raises(InputError, match=r"trials.way: .* fit no turn of 2 pi or 360"):
            choose_behavior(in_trials(way=column), "trials.way", "trials.way")


def test_a_class_of_two_bins_is_read_without_a_word_of_another_library():
    latents = world(200)
    lick = np.zeros(latents.sizes["time"])
    lick[[500, 1500]] = 1
    session = Session.from_spikes([[0.5]], behavior={"lick": xr.DataArray(lick, {"time": latents["time"].values})})
    read(latents, *choose_behavior(session, "lick"))  # a warning is an error here


def test_whole_trials_are_held_out():
    """States that tell trials apart but not conditions: read by chance, though bins of a trial are alike."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 100)
    latents = trial_world(labels, 0.0)
    latents["filtered_mean"][:] = np.repeat(rng.normal(size=(100, 3)), 20, 0)
    session = in_trials(condition=np.array(["a", "b"])[labels])
    out, report = read(latents, *choose_behavior(session, ["trials.condition"]))
    assert report.read.balanced_accuracy == pytest.approx(0.5, abs=0.15)
    assert report.control.p > 0.04
    fold = out["trials_condition_fold"].to_numpy().reshape(100, 20)
    assert (fold == fold[:, :1]).all()
    assert report.blocks == 100


def test_trials_that_training_never_saw_are_judged():
    labels = np.tile([0, 1], 40)
    session = in_trials(condition=np.array(["a", "b"])[labels], rt=labels + np.linspace(0, 1, 80))
    latents = trial_world(labels, 3.0, trained=[(0.0, 81.0)])
    _, report = read(latents, *choose_behavior(session, ["trials.condition"]))
    assert report.held_out
    assert report.blocks == 39  # 41 trials were trained on, one of them in part
    assert report.read.balanced_accuracy > 0.97
    assert report.recall.keys() == {"a", "b"}
    _, line = read(latents, *choose_behavior(session, ["trials.rt"]))
    assert line.readouts["linear"].r2 > 0.5
    few = trial_world(labels, 3.0, trained=[(0.0, 156.0)])
    _, report = read(few, *choose_behavior(session, ["trials.condition"]))
    assert not report.held_out
    assert report.blocks == 80
    assert "saw some of the trials" in report.note


def test_a_rare_condition_is_left_out():
    labels = np.array([0, 1] * 20 + [2])
    session = in_trials(condition=np.array(["a", "b", "odd"])[labels])
    out, report = read(trial_world(labels, 3.0), *choose_behavior(session, ["trials.condition"]))
    assert "left out odd, of fewer than 5 trials" in report.note
    assert report.bins["rare"] == 20
    assert report.recall.keys() == {"a", "b"}
    assert "odd" not in out["trials_condition_read"].to_numpy()


@pytest.mark.parametrize(
    ("columns", "wanted", "line"),
    [
        ({"condition": ["a", "b", *["a"] * 10]}, "trials.condition", "a value needs two trials or more to be read"),
        ({"condition": ["a"] * 12}, "trials.condition", "trials.condition is constant (a)"),
        ({"condition": [""] * 12}, "trials.condition", "no row with a length holds a value"),
        ({"condition": [f"c{i}" for i in range(60)]}, "trials.condition", "60 distinct texts are more than 50"),
        (
            {"condition": ["a", "b"] * 6},
            "trials.cond",
            "no column 'cond' in interval table 'trials'; it has start_time",
        ),
        ({"condition": ["a", "b"] * 6}, "cond", "the session has none; or a column of trials, as trials.condition"),
    ],
)
def test_what_is_no_condition_is_told_in_a_line(columns, wanted, line):
    session = in_trials(**columns)
    latents = world(LENGTH * len(columns["condition"]))
    with pytest.raises(InputError) as error:
        read(latents, *choose_behavior(session, [wanted]))
    assert line in str(error.value)
