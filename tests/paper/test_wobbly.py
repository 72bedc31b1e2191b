"""The oscillator and its images are what they claim to be."""

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from ldmfilter.paper.wobbly import NOISES, STEP, VARIANCE, Camera, advance, swirled, trajectories


def polar(time, state):
    """The same equations in polar coordinates, where they are simple."""
    _, theta = state
    return [0.5 * 4 * np.cos(4 * (theta + 3 * np.pi / 8)), 1.0]


@pytest.mark.parametrize(("r", "theta"), [(1.5, 0.3), (2.0, -2.0), (4.0, 3.1), (3.0, 1.5)])
def test_a_step_follows_the_equations(r, theta):
    start = np.array([r * np.cos(theta), r * np.sin(theta)])
    end = solve_ivp(polar, (0, STEP), [r, theta], rtol=1e-10, atol=1e-12).y[:, -1]
    exact = np.array([end[0] * np.cos(end[1]), end[0] * np.sin(end[1])])
    assert np.abs(advance(start) - exact).max() < 2e-2

    def many(steps):
        position = start
        for _ in range(steps):
            position = advance(position, STEP / steps)
        return np.abs(position - exact).max()

    assert many(16) < 1e-6
    assert many(4) / many(8) > 10  # order 4: 16 in the limit


def test_without_noise_the_radius_swings_and_comes_back():
    theta = np.linspace(0, 2 * np.pi, 7)[:-1]
    position = np.stack([2 * np.cos(theta), 2 * np.sin(theta)], axis=-1)
    radius = []
    for _ in range(400):
        radius.append(np.hypot(*position.T))
        position = advance(position, 2 * np.pi / 400)
    swing = np.array(radius)
    # r = r0 + a (sin k (theta - theta0) - sin k (theta_start - theta0)): half of peak to peak is the amplitude.
    np.testing.assert_allclose(np.ptp(swing, axis=0) / 2, 0.5, atol=1e-3)
    np.testing.assert_allclose(np.hypot(*position.T), 2.0, atol=1e-4)


@pytest.mark.parametrize("noise", NOISES)
def test_noise_has_its_variance(noise):
    path = trajectories(np.random.default_rng(0), 20_000, 6, noise)
    np.testing.assert_allclose(np.hypot(*path[:, 0].T), 1.0)
    error = path[:, 1:] - advance(path[:, :-1])
    assert error.var() == pytest.approx(VARIANCE, rel=0.05)
    kurtosis = np.mean(error**4) / error.var() ** 2
    if noise == "gaussian":
        assert kurtosis == pytest.approx(3, abs=0.1)
    elif noise == "bimodal":
        assert kurtosis == pytest.approx(1, abs=0.01)
    else:
        assert kurtosis > 30


def test_the_swirl_turns_by_its_formula():
    row, column = swirled(9, strength=2.0, radius=3.0)
    for i, j in ((0, 0), (4, 7), (8, 3)):
        x, y = j - 4.0, i - 4.0
        rho = np.hypot(x, y)
        turn = 2.0 * np.exp(-rho / (27 / 5 * np.log(2)))
        turned = np.exp(1j * turn) * (x + 1j * y)  # a turn keeps the distance
        assert column[i, j] - 4 == pytest.approx(turned.real)
        assert row[i, j] - 4 == pytest.approx(turned.imag)
    assert (row[4, 4], column[4, 4]) == (4, 4)


def test_an_image_is_a_blob_seen_through_the_swirl():
    camera = Camera(pixels=12, view=3.0, blob=1.5)
    position = np.array([0.8, -1.7])
    image = camera.images(position)
    row, column = swirled(12)
    at_row, at_column = 5.5 + 2 * 0.8, 5.5 - 2 * 1.7  # 2 pixels a unit
    i, j = 3, 7
    expected = np.exp(-((row[i, j] - at_row) ** 2 + (column[i, j] - at_column) ** 2) / (2 * 1.5**2))
    assert image[i, j] == pytest.approx(expected, rel=1e-6)
    assert image.shape == (12, 12)
    # Logarithms of three pixels are distances to three points: enough to solve for the position.
    log = -2 * 1.5**2 * np.log(image.astype(np.float64))
    looks = np.stack([row, column], axis=-1).reshape(-1, 2)
    near = np.argsort(log.ravel())[:12]
    A = np.column_stack([-2 * looks[near], np.ones(12)])
    solved = np.linalg.lstsq(A, log.ravel()[near] - (looks[near] ** 2).sum(1), rcond=None)[0]
    np.testing.assert_allclose(solved[:2], [at_row, at_column], atol=1e-4)


def test_the_centre_of_light_is_the_position_unless_the_image_is_folded():
    position = np.random.default_rng(0).uniform(-2, 2, (50, 4, 2))
    camera = Camera(pixels=16, view=4.0)
    images = camera.images(position).reshape(50, 4, 256).astype(np.float64)
    np.testing.assert_allclose(camera.centroid(images), position, atol=0.1)
    folded = Camera(pixels=16, view=4.0, folded=True)
    np.testing.assert_array_equal(folded.images(position), folded.images(position * [-1, 1]))
    assert not np.allclose(camera.images(position), camera.images(position * [-1, 1]))
