"""Pictures show what is in the dataset."""

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr

from ldmfilter.analysis.plots import leading_states, plot_state_space, plot_states

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
    plot_states(latents, axes, number=2, spacing=100.0)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), latents["filtered_mean"].sel(state=1))
    np.testing.assert_allclose(axes.lines[1].get_ydata(), latents["filtered_mean"].sel(state=2) - 100)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["h1", "h2"]
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == pytest.approx(latents["ci"].sel(state=1).min())
    assert "95%" in axes.get_ylabel()


def test_state_space_leaves_out_bins_without_a_colour(latents, axes):
    colour = np.where(np.arange(50) < 20, np.nan, 1.0)
    points = plot_state_space(latents, axes, colour)
    assert len(points.get_offsets()) == 30
    # The first component is the axis of the largest variance.
    assert np.var(points.get_offsets()[:, 0]) > np.var(points.get_offsets()[:, 1])
