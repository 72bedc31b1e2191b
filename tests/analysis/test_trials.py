"""Conditions read along trials, and their section of the report."""

import dataclasses

import numpy as np
import pytest
import xarray as xr

import ldmfilter.analysis.trials
from ldmfilter.analysis.report.page import write_section
from ldmfilter.analysis.report.sections import SECTIONS, Inputs
from ldmfilter.analysis.trials import Trials, choose_condition, read_trials
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError
from ldmfilter.text import finite

BIN, BINS, TRIALS = 0.1, 10, 60
HARM = "<b>up $x$</b>"


def recording(conditions: list, trained: np.ndarray | None = None) -> tuple[xr.Dataset, Session]:
    """Trials of 1 s, 2 s apart, whose condition moves the first state from 0.5 s on."""
    n = len(conditions)
    start = 2.0 * np.arange(n)
    time = (start[:, None] + BIN * (np.arange(BINS) + 0.5)).ravel()
    kinds = np.unique(conditions, return_inverse=True)[1]
    mean = np.random.default_rng(0).normal(size=(n, BINS, 2))
    mean[:, BINS // 2 :, 0] += 6 * kinds[:, None]
    mean = mean.reshape(-1, 2)
    coords = {
        "time": time,
        "segment": ("time", np.repeat(np.arange(n), BINS)),
        "state": [0, 1],
        "state_2": [0, 1],
        "bound": ["lower", "upper"],
    }
    variables = {
        "filtered_mean": (("time", "state"), mean),
        "filtered_cov": (("time", "state", "state_2"), np.tile(np.eye(2), (len(time), 1, 1))),
        "ci": (("time", "state", "bound"), np.stack([mean, mean], -1)),
        "observed": ("time", np.ones(len(time), bool)),
        "trained": ("time", np.repeat(np.zeros(n, bool) if trained is None else trained, BINS)),
    }
    table = {"start_time": start, "stop_time": start + 1, "number": np.arange(n), "side": conditions}
    session = Session.from_spikes([[0.5]], intervals={"trials": table})
    return xr.Dataset(variables, coords, {"bin_size": BIN, "format": "ldmfilter-latents"}), session


@pytest.fixture(scope="module", autouse=True)
def few_shuffles():
    """Enough to see that shuffled conditions are read by chance."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ldmfilter.analysis.trials, "SHUFFLES", 4)
        yield


@pytest.fixture(scope="module")
def found(few_shuffles) -> Trials:
    return read_trials(*recording([HARM, "down", "left"] * (TRIALS // 3) + ["once"]), "trials.start_time")


def test_a_condition_is_read_from_where_it_is(found):
    assert found.condition == "side"  # the first column whose values recur
    assert found.names == [HARM, "down", "left"]
    assert found.trials == dict.fromkeys(found.names, TRIALS // 3)
    assert found.note == "once left out, of fewer than 5 trials"
    assert found.number[-1] == -1
    np.testing.assert_allclose(found.time, BIN * (np.arange(BINS) + 0.5))  # to the median trial's end
    assert found.accuracy[BINS // 2 :].min() > 0.95
    assert found.accuracy[: BINS // 2].max() < 0.55
    assert found.shuffled.max() < 0.6
    assert found.recall.shape == (BINS, 3)


def test_trials_that_training_never_saw_are_read():
    trained = np.arange(TRIALS) < 20
    assert set(read_trials(*recording(["a", "b"] * 30, trained), "trials.start_time").trials.values()) == {20}
    trained = np.arange(TRIALS) < 56
    all_of_them = read_trials(*recording(["a", "b"] * 30, trained), "trials.start_time")
    assert not all_of_them.unseen
    assert set(all_of_them.trials.values()) == {30}


@pytest.mark.parametrize("rare", [5, 2])
def test_a_rare_condition_is_read_without_a_word_of_another_library(rare):
    found = read_trials(*recording(["a"] * 40 + ["b"] * rare), "trials.start_time")  # a warning is an error here
    assert found.trials == {"a": 40, "b": rare}
    assert found.accuracy[BINS // 2 :].min() > 0.95


def test_the_section_shows_what_was_read(found):
    from matplotlib.figure import Figure

    class Model:
        states = 2

    inputs = Inputs(None, None, None, Model(), None, {}, trials=found)  # type: ignore[arg-type]
    data, pictures = SECTIONS["trials"](inputs)
    content = {**data, "figures": {k: p.numbers for k, p in pictures.items()}}
    content = finite(content | {"diagnosis": {"baselines": [], "signal": False}})
    page = str(write_section("trials", content, pictures))
    assert "<b>up" not in page
    assert "&lt;b&gt;up $x$" in page
    assert "trials that training never saw" in content["figures"]["conditions"]["finding"]
    figure = Figure()
    pictures["trials"].draw(figure, False)
    axes = figure.axes[0]
    mean = next(line for line in axes.lines if line.get_label() == "left").get_ydata()
    own = found.aligned["filtered_mean"].to_numpy()[found.number == 2, :, 0]
    np.testing.assert_allclose(mean, own.mean(0))
    band = axes.collections[2].get_paths()[0].vertices
    half = 1.96 * own.std(0, ddof=1) / np.sqrt(len(own))
    assert band[:, 1].max() == pytest.approx((own.mean(0) + half).max())
    nothing, _ = SECTIONS["trials"](Inputs(None, None, None, None, None, {}, trials_note="Trials are not shown: no."))  # type: ignore[arg-type]
    assert "not shown" in str(write_section("trials", nothing | {"diagnosis": {"baselines": [], "signal": False}}, {}))


@pytest.mark.parametrize("narrow", [False, True])
def test_no_place_in_the_picture_is_empty(found, narrow):
    from matplotlib.figure import Figure

    one = dataclasses.replace(found, aligned=found.aligned.isel(state=[0]))
    _, pictures = SECTIONS["trials"](Inputs(None, None, None, None, None, {}, trials=one))  # type: ignore[arg-type]
    figure = Figure()
    pictures["trials"].draw(figure, narrow)
    assert [axes.get_ylabel() for axes in figure.axes] == ["h0"]


@pytest.mark.parametrize(
    ("conditions", "asked", "window", "line"),
    [
        (["a", "b"] * 5, "number", None, "number does not have two values of two trials or more"),
        (["a", *["b"] * 9], "side", None, "side does not have two values of two trials or more; conditions are in"),
        (["a", "b"] * 5, "hue", None, "no column 'hue' in interval table 'trials'"),
        (["a", "b"] * 5, None, (5, 6), "no trial reaches the window 5:6 s"),
        ([f"c{i}" for i in range(8)], None, None, "no column holds conditions, values that recur in several trials"),
    ],
)
def test_what_cannot_be_shown_is_told_in_a_line(conditions, asked, window, line):
    latents, session = recording(conditions)
    with pytest.raises(InputError) as error:
        read_trials(latents, session, "trials.start_time", window, condition=asked)
    assert line in str(error.value)


def test_a_table_s_name_before_the_condition_is_taken():
    assert choose_condition(recording(["a", "b"] * 5)[1], "trials.start_time", None, "trials.side") == "side"


def test_a_condition_of_bools_can_be_asked_for():
    latents, session = recording([True, False] * 5)
    assert read_trials(latents, session, "trials.start_time", condition="side").trials == {"False": 5, "True": 5}
