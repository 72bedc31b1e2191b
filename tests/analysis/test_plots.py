"""Pictures show what is in the dataset."""

from types import SimpleNamespace

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from ldmfilter.analysis.plots import (
    class_positions,
    leading_states,
    plot_behavior,
    plot_raster,
    plot_rates,
    plot_reports,
    plot_states,
    turned,
)
from ldmfilter.analysis.report.sections import SECTIONS
from ldmfilter.filter.training import Record

mpl.use("Agg")


@pytest.fixture
def latents():
    rng = np.random.default_rng(0)
    mean = rng.normal(size=(50, 3)) * [1.0, 5.0, 2.0]
    ci = np.stack([mean - 1, mean + 1], -1)
    return xr.Dataset(
        {
            "filtered_mean": (("time", "state"), mean),
            "ci": (("time", "state", "bound"), ci, {"level": 0.95}),
        },
        {"time": np.arange(50) * 0.1, "state": np.arange(3), "bound": ["lower", "upper"]},
    )


@pytest.fixture
def axes():
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_states_in_time(latents, axes):
    assert leading_states(latents, 2) == [1, 2]
    assert leading_states(latents, 3) == [0, 1, 2]  # in their order, though the first varies least
    plot_states(latents, axes, number=2)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), latents["filtered_mean"].sel(state=1))
    np.testing.assert_allclose(axes.lines[1].get_ydata(), latents["filtered_mean"].sel(state=2) + axes.get_yticks()[1])
    assert axes.get_yticks()[1] == pytest.approx(-np.ptp(latents["filtered_mean"].sel(state=1).to_numpy()))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["h1", "h2"]
    axes.clear()
    plot_states(latents.sel(state=[1, 2]), axes, number=4)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["h1", "h2"]
    axes.clear()
    plot_states(latents, axes, number=2)
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(latents["ci"].sel(state=1).min())
    assert "95%" in axes.get_ylabel()


def test_raster_has_a_tick_for_each_spike_that_is_shown(axes):
    trains = [np.array([0.5, 1.5, 2.5]), np.array([]), np.array([1.0, 1.9999, 2.0])]
    plot_raster(trains, axes, 1.0, 2.0)
    ticks = axes.lines[0].get_xydata().reshape(-1, 3, 2)[:, :2]
    assert ticks[:, 0, 0].tolist() == [1.5, 1.0, 1.9999]
    assert ticks.mean(1)[:, 1].tolist() == [0, 2, 2]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first unit is at the top
    plot_raster([np.array([])], axes, 5.0, 6.0)
    assert len(axes.lines[1].get_xdata()) == 0  # silence draws nothing


def test_rates_lie_beneath_the_rows_of_the_raster(axes):
    plot_raster([np.array([1.5]), np.array([1.0])], axes, 1.0, 2.0)
    limits = axes.get_xlim(), axes.get_ylim()
    shares = xr.DataArray([[0.5, 0.0], [1.0, 1.0]], {"time": [1.25, 1.75], "unit": [7, 8]}, ("time", "unit"))
    plot_rates(shares, axes)
    image = axes.images[0]
    np.testing.assert_allclose(image.get_array(), [[0.5, 1.0], [0.0, 1.0]])
    assert image.get_extent() == [1.0, 2.0, 1.5, -0.5]
    assert (axes.get_xlim(), axes.get_ylim()) == limits
    assert image.get_zorder() < axes.lines[0].get_zorder()


def circle(mean, true, low, high):
    time = np.arange(len(mean)) * 0.1
    return xr.Dataset(
        {
            "angle_mean": ("time", np.array(mean)),
            "angle_true": ("time", np.array(true)),
            "angle_ci": (("time", "bound"), np.stack([low, high], -1), {"level": 0.95}),
        },
        {"time": time, "bound": ["lower", "upper"]},
    )


def test_circular_behavior_is_not_drawn_across_its_end(axes):
    latents = circle([350.0, 355.0, 5.0, 10.0], [340.0, 350.0, 0.0, 10.0], [330, 335, -15, -10], [370, 375, 25, 30])
    plot_behavior(latents, "angle", axes, period=360.0)
    decoded, measured = axes.lines
    assert np.isnan(decoded.get_ydata()).tolist() == [False, False, True, False]
    assert np.isnan(measured.get_ydata()).tolist() == [False, False, True, False]
    # What sticks out at one end of the circle is drawn at the other: inside one turn, as wide as before in all.
    heights = [one.get_paths() for one in axes.collections]
    tops = [path.vertices[:, 1] for paths in heights for path in paths]
    assert min(map(np.min, tops)) >= 0
    assert max(map(np.max, tops)) <= 360
    assert {round(float(value)) for part in tops for value in part} >= {330, 360, 0, 10, 345}
    assert "95%" in axes.collections[0].get_label()


def test_behavior_on_a_line_keeps_its_band_and_lines(axes):
    latents = circle([1.0, 2.0], [1.5, 2.5], [0.0, 1.0], [2.0, 3.0])
    plot_behavior(latents, "angle", axes)
    assert axes.lines[0].get_ydata().tolist() == [1.0, 2.0]
    assert axes.lines[1].get_ydata().tolist() == [1.5, 2.5]
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert (band.min(), band.max()) == (0.0, 3.0)
    plot_behavior(latents.drop_vars("angle_ci"), "angle", axes)
    assert len(axes.collections) == 1  # no interval, no band


def test_a_class_is_found_whose_label_is_rounded():
    """Labels are float64 and values float32, as `read_behavior` gives them: 0.1 is not the same in both."""
    true = ("time", np.array([0.3, np.nan, 0.1], dtype=np.float32))
    latents = xr.Dataset({"side_true": true}, {"side_class": [0.1, 0.3]})
    np.testing.assert_array_equal(class_positions(latents, "side"), [1, np.nan, 0])


def test_calibration_bars_are_two_errors_to_each_side(axes):
    rows = [
        {"level": level, "coverage": share, "coverage_se": error}
        for level, share, error in ((0.5, 0.6, 0.05), (0.95, 0.9, 0.01))
    ]
    plot_reports([{"name": "a $x$", "categories": False, "intervals": rows}], axes)
    ends = [segment[:, 1].tolist() for segment in axes.collections[0].get_segments()]
    np.testing.assert_allclose(ends, [[0.5, 0.7], [0.88, 0.92]])
    assert not axes.get_legend().get_texts()[0].get_parse_math()


def drawn(section, name, **inputs):
    """The axes of a picture of the report."""
    _, pictures = SECTIONS[section](SimpleNamespace(**inputs))
    figure = Figure()
    pictures[name].draw(figure, False)
    return figure.axes


def test_training_marks_the_step_that_is_kept():
    history = [Record(step, 0.0, 0.0, score, 2.0, 50) for step, score in ((0, -1.0), (50, 2.0), (100, 1.0))]
    other = [Record(step, 0.0, 0.0, 3.0, 2.0, 0, "fast") for step in (0, 50)]
    part = SimpleNamespace(kept_record_=history[1])
    model = SimpleNamespace(history_=[*history, *other], parts=[part], candidates_=[], frame_=1.0)
    [axes] = drawn("training", "training", model=model)
    assert axes.lines[0].get_ydata().tolist() == [-1.0, 2.0, 1.0]
    assert axes.lines[1].get_ydata().tolist() == [3.0, 3.0]
    assert axes.lines[2].get_xydata().tolist() == [[50, 2.0]]


def test_diagnoses_are_drawn_as_they_are():
    measures = {
        "consistency": {
            "probability": [0.1, 0.5, 0.95], "chi2": [1.0, 4.0, 9.0], "nis": [2.0, 4.0, 16.0],
            "lag": [0.1, 0.2], "correlation": [0.3, 0.1], "white": [0.2, 0.2],
        },
        "spectrum": {"z": [3.0, 2.0, 1.0], "prediction": [0.9, 0.5, 0.1]},
        "memory": {"time_constant": [2.0, np.inf, 1.0]},
        "drift": {"start": [0.5, 1.5], "stop": [1.5, 2.5], "predictive_information": [0.5, 1.5], "nis": [1.0, 1.0]},
        "units": {"unit": ["b", "a $x$"], "loss": [1.0, 2.0], "share": [1 / 3, 2 / 3]},
    }  # fmt: skip
    groups = {name: {key: np.array(value) for key, value in one.items()} for name, one in measures.items()}
    diagnosis = SimpleNamespace(
        parts={}, to_dict=lambda: {"behavior": []}, **{name: SimpleNamespace(**one) for name, one in groups.items()}
    )
    [axes] = drawn("trust", "nis", diagnosis=diagnosis)
    np.testing.assert_allclose(axes.lines[1].get_xydata(), [[1, 2], [4, 4], [9, 16]])
    middle = axes.transData.transform([[0, 0], [4, 4], [16, 16]])  # square roots: 4 is half of 16's way
    np.testing.assert_allclose(middle[1] - middle[0], middle[2] - middle[1])
    [axes] = drawn("trust", "correlation", diagnosis=diagnosis)
    assert axes.lines[0].get_ydata().tolist() == [0.3, 0.1]
    assert [(bar.get_height(), bar.get_width()) for bar in axes.patches] == [(0.2, 0.1)] * 2
    [axes] = drawn("trust", "spectrum", diagnosis=diagnosis)
    assert [line.get_ydata().tolist() for line in axes.lines] == [[3.0, 2.0, 1.0], [0.9, 0.5, 0.1]]
    axes, _ = drawn("trust", "drift", diagnosis=diagnosis)
    assert axes.lines[0].get_ydata() == [1.0, 1.0]
    assert axes.lines[1].get_xydata().tolist() == [[1.0, 0.5], [2.0, 1.5]]
    assert axes.get_ylim()[0] == 0
    [axes] = drawn("units", "units", diagnosis=diagnosis)
    assert [bar.get_width() for bar in axes.patches] == [2.0, 1.0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a $x$", "b"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first is at the top


def test_ink_follows_the_style(axes):
    import matplotlib as mpl

    with mpl.rc_context({"text.color": "#ffffff"}):
        plot_raster([np.array([1.0])], axes, 0.0, 2.0)
    assert axes.lines[0].get_color() == "#ffffff"


@pytest.mark.parametrize("bins", [10, 30])
def test_of_few_bins_no_axes_are_told(bins):
    """No more bins than values, or within groups of values fewer than states."""
    rng, seen = np.random.default_rng(0), np.arange(50) < bins
    mean, values = rng.normal(size=(50, 16)), rng.normal(size=(50, 1))
    assert turned(mean, values, seen, 3) is None
    values[41:] = np.nan
    assert turned(mean, values, ~np.isnan(values[:, 0]), 3).shape == (50, 3)
