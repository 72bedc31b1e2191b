"""The functions of `ldmfilter.plot` draw what the dataset holds, onto the axes that they return."""

import json
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

import ldmfilter
from ldmfilter.analysis.readout import Reading

mpl.use("Agg")

TIME = np.arange(40) * 0.1 + 0.05


@pytest.fixture
def ax():
    import matplotlib.pyplot as plt

    yield plt.subplots()[1]
    plt.close("all")


@pytest.fixture
def latents():
    mean = np.random.default_rng(0).normal(size=(40, 3))
    intervals = [{"level": level, "coverage": level - 0.1, "coverage_se": 0.01} for level in (0.5, 0.8, 0.95)]
    report = {"name": "place", "unit": "cm", "period": None, "categories": False, "intervals": intervals}
    return xr.Dataset(
        {
            "filtered_mean": (("time", "state"), mean),
            "ci": (("time", "state", "bound"), np.stack([mean - 1, mean + 1], -1), {"level": 0.9}),
            "place_mean": ("time", np.arange(40.0)),
            "place_true": ("time", np.arange(40.0) + 1),
            "place_ci": (("time", "bound"), np.stack([np.arange(40.0) - 3, np.arange(40.0) + 3], -1)),
            "rate": (("time", "unit"), np.eye(40)[[30, 10]].T),
        },
        {"time": TIME, "state": range(3), "bound": ["lower", "upper"], "unit": [7, 8]},
        {"bin_size": 0.1, "behavior": json.dumps([report])},
    )


@pytest.fixture
def session():
    time = np.arange(0, 4, 0.02)
    behavior = {
        "heading": xr.DataArray(time % 6.28, dims="time", coords={"time": time}, attrs={"unit": "radians"}),
        "place": xr.DataArray(10 * time, dims="time", coords={"time": time}, attrs={"unit": "cm"}),
    }
    trials = {"start_time": [0.0, 2.0], "stop_time": [2.0, 4.0], "side": ["left", "right"]}
    return ldmfilter.Session.from_spikes([[0.0, 4.0]], intervals={"trials": trials}, behavior=behavior)


def test_states(latents, ax):
    assert ldmfilter.plot.states(latents, number=2, ax=ax) is ax
    assert len(ax.lines) == len(ax.collections) == 2
    assert "90%" in ax.get_ylabel()


def test_state_space_of_place(latents, session, ax):
    ldmfilter.plot.state_space(latents, "place", session, dims=(2, 0), ax=ax)
    points = ax.collections[0]
    np.testing.assert_allclose(points.get_offsets(), latents["filtered_mean"].to_numpy()[:, [2, 0]])
    np.testing.assert_allclose(points.get_array(), 10 * TIME, atol=1e-9)
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("h2", "h0")
    assert ax.figure.axes[1].get_ylabel() == "place, cm"


def test_the_plane_in_which_values_lie_apart(latents, ax):
    """Of three states the last two tell a direction; the plane is theirs."""
    angle = np.random.default_rng(0).uniform(0, 2 * np.pi, latents.sizes["time"])
    turned = latents.copy()
    turned["filtered_mean"] = latents["filtered_mean"].copy()
    turned["filtered_mean"][:, 1:3] = 5 * np.column_stack([np.cos(angle), np.sin(angle)])
    ldmfilter.plot.state_space(turned, angle, dims="by", period=2 * np.pi, ax=ax)
    design = np.column_stack([np.ones(len(angle)), np.asarray(ax.collections[0].get_offsets())])
    circle = turned["filtered_mean"].to_numpy()[:, 1:3]
    rest = circle - design @ np.linalg.lstsq(design, circle)[0]
    assert rest.var() < 0.05 * circle.var()
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("axis 1", "axis 2")
    for few in (np.sign(angle - 3), 0 * angle):
        with pytest.raises(ldmfilter.InputError, match="fewer than three values"):
            ldmfilter.plot.state_space(turned, few, dims="by", ax=ax)


def test_circular_colours_close(latents, session, ax):
    ldmfilter.plot.state_space(latents, "heading", session, ax=ax)
    points = ax.collections[0]
    np.testing.assert_allclose(points.get_clim(), (0, 2 * np.pi))
    np.testing.assert_allclose(points.to_rgba(0.0), points.to_rgba(2 * np.pi), atol=1e-6)


def test_classes_have_a_colour_each(latents, session, ax):
    ldmfilter.plot.state_space(latents, "trials.side", session, ax=ax)
    assert len(np.unique(ax.collections[0].to_rgba(ax.collections[0].get_array()), axis=0)) == 2
    assert [text.get_text() for text in ax.figure.axes[1].get_yticklabels()] == ["left", "right"]


def test_texts_and_chosen_variables_colour(latents, session, ax):
    ldmfilter.plot.state_space(latents, np.where(TIME < 2, "early", "late"), ax=ax)
    assert ax.collections[0].get_array().tolist() == [0] * 20 + [1] * 20
    assert [text.get_text() for text in ax.figure.axes[1].get_yticklabels()] == ["early", "late"]
    chosen = ldmfilter.choose_behavior(session, "place")
    for by in (chosen, chosen[0]):
        points = ldmfilter.plot.state_space(latents, by).collections[0]
        np.testing.assert_allclose(points.get_array(), 10 * TIME, atol=1e-9)
    points = ldmfilter.plot.state_space(latents, np.array(["a"] * 20 + ["b"] * 20, dtype=object)).collections[0]
    assert points.get_array().tolist() == [0] * 20 + [1] * 20


def test_what_cannot_be_drawn_is_told(latents, session, ax):
    with pytest.raises(ldmfilter.InputError, match="without their intervals, ci"):
        ldmfilter.plot.states(latents.drop_vars("ci"), ax=ax)
    with pytest.raises(ldmfilter.InputError, match="by holds no numbers and no texts"):
        ldmfilter.plot.state_space(latents, [{}] * 40, ax=ax)
    both = ldmfilter.choose_behavior(session, ["place", "heading"])
    with pytest.raises(ldmfilter.InputError, match="by is 2 behaviours; draw one at a time"):
        ldmfilter.plot.state_space(latents, both, ax=ax)
    for dims in ((0, 1, 2), (0, 9), 3, "x"):
        with pytest.raises(ldmfilter.InputError, match=r"dims is .*; give two of the 3 states, from 0, or 'by'"):
            ldmfilter.plot.state_space(latents, dims=dims, ax=ax)


def test_the_modules_are_there_without_an_import():
    assert {"plot", "export", "LDMFilter"} <= set(dir(ldmfilter))
    assert "plot" not in ldmfilter.__all__
    code = "import ldmfilter; ldmfilter.export.read_latents"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_values_must_fit_the_bins(latents, ax):
    ldmfilter.plot.state_space(latents, np.where(TIME < 1, np.nan, TIME), ax=ax)
    points = ax.collections[0].get_offsets()
    np.testing.assert_allclose(points, latents["filtered_mean"].to_numpy()[TIME >= 1, :2])
    assert len(points) == 30
    with pytest.raises(ldmfilter.InputError, match="one for each bin"):
        ldmfilter.plot.state_space(latents, TIME[1:], ax=ax)
    with pytest.raises(ldmfilter.InputError, match="give the session"):
        ldmfilter.plot.state_space(latents, "place", ax=ax)


def test_trials(ax):
    states = np.random.default_rng(1).normal(size=(4, 10, 2))
    aligned = xr.Dataset(
        {
            "filtered_mean": (("trial", "time", "state"), states),
            "observed": (("trial", "time"), np.ones((4, 10), bool)),
        },
        {"time": TIME[:10], "state": range(2), "side": ("trial", ["right", "left", "", "left"])},
    )
    ldmfilter.plot.trials(aligned, "side", state=1, ax=ax)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["left", "right"]
    ax.figure.draw_without_rendering()
    assert ax.get_window_extent().x1 <= ax.get_legend().get_window_extent().x0
    np.testing.assert_allclose(ax.lines[2].get_ydata(), states[[1, 3], :, 1].mean(0))  # after the two single trials
    with pytest.raises(ldmfilter.InputError, match="no column 'colour'"):
        ldmfilter.plot.trials(aligned, "colour")
    with pytest.raises(ldmfilter.InputError, match="no state 9; there are 2, from 0"):
        ldmfilter.plot.trials(aligned, "side", state=9)


def test_behavior_and_calibration(latents, ax):
    ldmfilter.plot.behavior(latents, "place", ax=ax)
    read, measured = ax.lines
    np.testing.assert_allclose(measured.get_ydata() - read.get_ydata(), 1)
    assert ax.get_ylabel() == "place, cm"
    other = ldmfilter.plot.calibration(Reading(latents, (), {}), "place")
    assert ldmfilter.plot.behavior(Reading(latents, (), {}), "place").get_ylabel() == "place, cm"
    diagonal, counted = other.lines[0], other.lines[1]
    assert list(diagonal.get_xdata()) == list(diagonal.get_ydata())
    np.testing.assert_allclose(counted.get_xdata() - counted.get_ydata(), 0.1)
    with pytest.raises(ldmfilter.InputError, match="it has place"):
        ldmfilter.plot.behavior(latents, "speed")


def test_rates_are_ordered_by_their_peaks(latents, ax):
    ldmfilter.plot.rates(latents, ax=ax)
    assert ax.images[0].get_array().argmax(1).tolist() == [10, 30]
    with pytest.raises(ldmfilter.InputError, match="without rates"):
        ldmfilter.plot.rates(latents.drop_vars("rate"))
