"""Figures 2B and 2C in tiny sizes, and what they are made of."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy import stats
from sklearn.datasets import load_sample_image

from ldmfilter.errors import InputError
from ldmfilter.ica import LDMICA, amari_distance
from ldmfilter.paper import fig2b, fig2c
from ldmfilter.paper.experiment import reproduce


def test_ornstein_uhlenbeck_against_closed_forms():
    """Stationary from the first step: variance sigma^2 / 2 theta, correlation exp(-theta lag), nothing between both."""
    settings = fig2c.Settings(200_000, theta=(2.0, 0.5), sigma=0.3, dt=0.1)
    x = fig2c.ornstein_uhlenbeck(settings, np.random.default_rng(0))
    theta = np.array(settings.theta)
    variance = 0.3**2 / (2 * theta)
    np.testing.assert_allclose(x.var(0), variance, rtol=0.06)  # 4 standard errors, sqrt(2 / theta T) = 0.014
    np.testing.assert_allclose(x.mean(0), 0, atol=4 * (0.3 / theta / np.sqrt(20_000)).max())
    for lag in (1, 5):
        correlation = [np.corrcoef(x[:-lag, i], x[lag:, i])[0, 1] for i in (0, 1)]
        np.testing.assert_allclose(correlation, np.exp(-theta * lag * 0.1), atol=0.02)
    assert abs(np.corrcoef(x.T)[0, 1]) < 0.03
    # What is new at a step is white, Gaussian and as large as the transition says.
    new = x[1:] - np.exp(-theta * 0.1) * x[:-1]
    np.testing.assert_allclose(new.var(0), variance * (1 - np.exp(-2 * theta * 0.1)), rtol=0.02)
    assert max(abs(np.corrcoef(new[:-1, i], new[1:, i])[0, 1]) for i in (0, 1)) < 0.01
    assert (np.abs(stats.kurtosis(new)) < 0.05).all()


def test_ornstein_uhlenbeck_begins_stationary():
    first = np.array([fig2c.ornstein_uhlenbeck(fig2c.Settings(2), np.random.default_rng(seed)) for seed in range(4000)])
    variance = 0.3**2 / (2 * np.array([2.0, 0.2]))
    for step in (0, 1):
        np.testing.assert_allclose(first[:, step].var(0), variance, rtol=0.1)  # standard error 0.022


def test_autoregression_against_its_closed_forms():
    """Unit variance from the first step on, correlation keep^lag."""
    keep = np.array([0.9, 0.2])
    x = fig2c.autoregression(np.random.default_rng(0), 100_000, keep)
    np.testing.assert_allclose(x.var(0), 1, atol=0.04)
    for lag in (1, 3):
        np.testing.assert_allclose((x[lag:] * x[:-lag]).mean(0) / x.var(0), keep**lag, atol=0.02)
    first = fig2c.autoregression(np.random.default_rng(0), 2, np.full(5_000, 0.98))
    np.testing.assert_allclose(first.var(1), 1, atol=0.08)  # standard error 0.02


def test_two_processes(tmp_path):
    done = reproduce("fig2c", "tiny", tmp_path)
    numbers = json.loads(done.record.read_text())["numbers"]
    angle = np.pi / 4
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert numbers["amari_distance_of_mixtures"] == pytest.approx(amari_distance(np.eye(2), rotation))
    assert numbers["amari_distance"] < 0.03
    assert numbers["amari_distance"] < 0.1 * numbers["amari_distance_of_mixtures"]
    P = np.array(numbers["unmixing_times_mixing"])
    np.testing.assert_allclose(np.abs(P), np.eye(2), atol=0.03)
    assert numbers["variances"] == pytest.approx([0.0225, 0.225])
    assert [claim.source for claim in done.outcome.claims] == ["figure 2C"]


def test_wrong_variances_turn_the_processes_around():
    """The control: with the variances exchanged, the same data come out in the other order."""
    settings = fig2c.Settings(20_000)
    mixed = fig2c.ornstein_uhlenbeck(settings, np.random.default_rng(0)) @ fig2c.ROTATION.T
    known = {"density": "gaussian_known_variance"}
    W = LDMICA(variances=[0.225, 0.0225], **known).fit(mixed).components_
    np.testing.assert_allclose(np.abs(W @ fig2c.ROTATION), [[0, 1], [1, 0]], atol=0.03)


def test_two_images(tmp_path):
    done = reproduce("fig2b", "tiny", tmp_path)
    numbers = json.loads(done.record.read_text())["numbers"]
    assert numbers["amari_distance_of_mixtures"] == pytest.approx(0.7)
    assert numbers["amari_distance"] < 0.05
    assert numbers["whole_images"]["amari_distance"] < 0.05
    assert min(numbers["correlation_with_sources"]) > 0.99
    assert numbers["converged"] is True
    assert numbers["pixels"] == 100 * 100
    assert f"{numbers['whole_images']['amari_distance']:.4f}" in done.outcome.claims[0].text
    # The crop is chosen by the images alone.
    crops = numbers["crops"]
    assert len(crops) == 9
    (taken,) = [crop for crop in crops if {"row": crop["row"], "column": crop["column"]} == numbers["crop"]]
    assert abs(taken["correlation_of_sources"]) == min(abs(crop["correlation_of_sources"]) for crop in crops)
    assert taken["amari_distance"] == numbers["amari_distance"]
    corner = next(crop for crop in crops if (crop["row"], crop["column"]) == (0, 0))
    flat = fig2b._images()[:, :400:4, :400:4].reshape(2, -1)
    assert corner["correlation_of_sources"] == pytest.approx(np.corrcoef(flat)[0, 1])


def test_images_are_luma_of_colours():
    images = fig2b._images()
    assert images.shape == (2, 427, 640)
    for grey, name in zip(images, ("china.jpg", "flower.jpg"), strict=True):
        pillow = np.asarray(Image.fromarray(load_sample_image(name)).convert("L"))  # luma in whole numbers
        np.testing.assert_allclose(grey, pillow, atol=0.51)


@pytest.mark.parametrize("name", ["fig2b", "fig2c"])
def test_no_data_are_needed(name, tmp_path):
    with pytest.raises(InputError, match=rf"^data.npy: {name} takes no data; leave out --data$"):
        reproduce(name, "tiny", tmp_path, data="data.npy")
    assert not list(tmp_path.iterdir())
