"""Forecasts and lagged states are those of the joint Gaussian of all states and observations."""

import numpy as np
import pytest
import torch

from ldmfilter.errors import InputError
from ldmfilter.filter.forecast import Forecast
from ldmfilter.filter.kalman import LinearGaussian, filter, smooth_lagged
from tests.filter.reference import dense


def world(A: np.ndarray, latent: int = 2) -> LinearGaussian:
    """A system with these dynamics, not in canonical coordinates."""
    rng, n = np.random.default_rng(1), len(A)
    Q = rng.normal(size=(n, n))
    Q = Q @ Q.T + 0.1 * np.eye(n)
    X = np.linalg.solve(np.eye(n * n) - np.kron(A, A), Q.ravel()).reshape(n, n)
    R = np.eye(latent) + 0.3
    parts = (A, Q, rng.normal(size=(latent, n)), R, rng.normal(size=n), 0.5 * (X + X.T))
    return LinearGaussian(*map(torch.from_numpy, parts))


HALF = 0.9 * np.eye(3) + 0.15 * np.diag([1.0, -0.5], 1) - 0.1 * np.diag([1.0, 1.0], -1)  # turns, and is not normal


@pytest.fixture(scope="module")
def series():
    """A system, z (time, latent), which bins are observed, and where segments start."""
    model, rng = world(HALF @ HALF), np.random.default_rng(2)
    observed = np.ones(24, bool)
    observed[[0, 5, 6, 12, 19]] = False
    starts = np.zeros(24, bool)
    starts[[0, 13]] = True
    return model, 2 * rng.normal(size=(24, 2)), observed, starts


def filtered_of(series):
    model, z, observed, starts = series
    return filter(model, *map(torch.from_numpy, (z, observed, starts)))


def conditioned(series, t: int, last: int, at: int):
    """The state of bin `at` given the observed bins of t's segment up to `last`, by dense conditioning."""
    model, z, observed, starts = series
    first = max(np.flatnonzero(starts[: t + 1]))
    n = max(at, last) - first + 1
    seen, values = np.zeros(n, bool), np.zeros((n, 2))
    seen[: last + 1 - first], values[: last + 1 - first] = observed[first : last + 1], z[first : last + 1]
    mean, cov = dense(*(value.numpy() for value in model), values, seen)[2]
    return mean[at - first], cov[at - first]


@pytest.mark.parametrize("frames", [1, 4, 30])
def test_lagged_states_are_those_of_dense_conditioning(series, frames):
    model, z, _, starts = series
    found = smooth_lagged(model, filtered_of(series), torch.from_numpy(starts), frames)
    for t in range(len(z)):
        end = 12 if t < 13 else 23
        mean, cov = conditioned(series, t, min(t + frames, end), t)
        np.testing.assert_allclose(found.smoothed_mean[t], mean, atol=1e-9)
        np.testing.assert_allclose(found.smoothed_cov[t], cov, atol=1e-9)


@pytest.mark.parametrize("n", [3, 2])
def test_forecasts_are_those_of_dense_conditioning(series, n):
    """Also from a missing bin, and beyond the end of the segment; of all states, and of the first that are handed
    out."""
    model, z, *_ = series
    filtered = filtered_of(series)
    means, covs = Forecast.over(model, n, (0.2, 1.4), 0.2)(
        filtered.filtered_mean.numpy(), filtered.filtered_cov.numpy()
    )
    for t in range(len(z)):
        for i, steps in enumerate((1, 7)):
            mean, cov = conditioned(series, t, t, t + steps)
            np.testing.assert_allclose(means[i, t], mean[:n], atol=1e-9)
            np.testing.assert_allclose(covs[i, t], cov[:n, :n], atol=1e-9)


def test_a_forecast_between_frames_takes_half_a_step(series):
    """The dynamics were made as two half steps, each with its share of the noise."""
    model = series[0]
    b, X = model.b.numpy(), model.P0.numpy()
    noise = X - HALF @ X @ HALF.T
    assert np.linalg.eigvalsh(noise)[0] > 0
    mean, cov = np.array([1.0, -2.0, 0.5]), 0.1 * np.eye(3)
    means, covs = Forecast.over(model, 3, (0.1, 0.3), 0.2)(mean, cov)
    for step in range(3):
        mean, cov = b + HALF @ (mean - b), HALF @ cov @ HALF.T + noise
        if step != 1:
            np.testing.assert_allclose(means[step // 2], mean, atol=1e-9)
            np.testing.assert_allclose(covs[step // 2], cov, atol=1e-9)


def test_between_frames_without_a_power_forecasts_are_between_those_of_frames():
    """Of a state that changes sign with every frame, and of one that gains what it has lost. Covariances are positive,
    and no larger than those of states of which nothing is known."""
    rotation = 0.99 * np.array([[-0.9, 0.4], [-0.4, -0.9]])
    for A in (np.diag([0.9, -0.5]), rotation @ np.diag([1.0, 0.05])):
        model, mean = world(A), np.array([1.0, -2.0])
        X, some = model.P0.numpy(), 0.1 * model.P0.numpy()
        means, covs = Forecast.over(model, 2, (0.5, 0.7, 1.0, 0.2), 0.5)(mean, some)
        np.testing.assert_allclose(means[1], 0.6 * means[0] + 0.4 * means[2], atol=1e-12)
        np.testing.assert_allclose(means[3], 0.6 * mean + 0.4 * means[0], atol=1e-12)
        assert np.linalg.eigvalsh(covs).min() > 0
        assert np.linalg.eigvalsh(X - covs).min() > -1e-12


def test_variables_say_what_they_are(fitted, counts):
    np.testing.assert_array_equal(fitted.decode(counts, ahead=0.5)["ahead"], [0.5])
    latents = fitted.decode(counts, ci=0.9, ahead=[1.0, 0.25, 1.0], lag=0.25, smooth=True)
    assert latents["ahead"].to_numpy().tolist() == [0.25, 1.0]
    assert latents["ahead_cov"].dims == ("ahead", "time", "state", "state_2")
    assert latents["ahead_ci"].dims == ("ahead", "time", "state", "bound")
    assert latents["ahead_mean"].attrs["time_index"] == "t+ahead|t"
    assert latents["lagged_mean"].attrs["lag"] == latents.attrs["lag"] == 0.2
    assert latents["lagged_ci"].attrs["level"] == latents["ahead_ci"].attrs["level"] == 0.9
    width, half = np.diff(latents["ahead_ci"], axis=-1)[..., 0], np.sqrt(np.diagonal(latents["ahead_cov"], 0, 2, 3))
    np.testing.assert_allclose(width, 2 * 1.6448536 * half, rtol=1e-5)
    variance = [
        np.trace(latents[name].to_numpy(), axis1=-2, axis2=-1).mean()
        for name in ("smoothed_cov", "lagged_cov", "filtered_cov")
    ]
    variance += np.trace(latents["ahead_cov"].to_numpy(), axis1=-2, axis2=-1).mean(1).tolist()
    assert (np.diff(variance) > 0).all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"ahead": [0.5, 0]}, "ahead is 0 s; give a number of seconds above 0"),
        ({"ahead": [np.nan]}, "ahead is nan s"),
        ({"ahead": [1e4]}, "ahead is 10000 s, but the session has 300 s"),
        ({"lag": -1}, "lag is -1 s; give a number of seconds above 0"),
        ({"lag": np.inf}, "lag is inf s"),
        ({"lag": 0.05}, "lag is 0.05 s, but this filter looks at frames of 0.1 s.*give 0.1 s or more"),
        ({"lag": 1e4}, "lag is 10000 s, but the session has 300 s"),
        ({"ahead": 0}, "ahead is 0 s"),
        ({"ahead": ["x"]}, "ahead is 'x'; give a number of seconds above 0, as 0.5"),
        ({"ahead": "0.5"}, "ahead is '0.5'"),
        ({"ahead": None}, "ahead is None"),
        ({"lag": "x"}, "lag is 'x'; give a number"),
        ({"ci": "x"}, "ci is 'x'; it must be a level between 0 and 1"),
        ({"rates": "yes"}, "rates is 'yes'; give True, False or Rates"),
    ],
)
def test_times_that_cannot_be_used_are_refused(fitted, counts, asked, message):
    with pytest.raises(InputError, match=message):
        fitted.decode(counts, **asked)
