"""Baselines against loops, closed forms, and the true parameters of a world."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from scipy.stats import multivariate_normal

from ldmfilter.analysis import baselines
from ldmfilter.analysis.judged import Bins
from ldmfilter.analysis.statistics import log_likelihood
from ldmfilter.filter import linear_system
from ldmfilter.filter.kalman import LinearGaussian, filter
from ldmfilter.filter.linalg import stationary_covariance
from ldmfilter.filter.linear_system import fit_linear_system
from tests.worlds import linear_gaussian_world


def system_of(world, Q=1.0, R=1.0) -> LinearGaussian:
    """The world's own parameters, with Q and R as many times as large."""
    A, Q, C, R, b = (torch.from_numpy(x) for x in (world.A, Q * world.Q, world.C, R * world.R, world.b))
    return LinearGaussian(A, Q, C, R, b, stationary_covariance(A, Q))


def bins_of(counts, fit) -> Bins:
    time = np.arange(len(counts))
    return Bins(counts, 0.1 * time, 0.1, time == 0, time >= 0, fit, ~fit, True)


def test_smoothing_errors_as_a_loop():
    rng = np.random.default_rng(7)
    z, starts, gain = rng.standard_normal((60, 2)), np.zeros(60, bool), np.array([0.2, 1.0])
    starts[[0, 25, 26]] = True
    expected = np.zeros_like(z)
    for t in range(60):
        if starts[t]:
            level = z[t].copy()
        else:
            expected[t] = z[t] - level
            level = level + gain * (z[t] - level)
    np.testing.assert_allclose(baselines.smoothing_errors(z, starts, gain), expected, atol=1e-10)


def test_local_level_finds_the_steady_gain():
    rng, q, r = np.random.default_rng(8), np.array([0.01, 0.5]), np.array([1.0, 0.5])
    z = np.cumsum(rng.standard_normal((5000, 2)) * np.sqrt(q), 0) + rng.standard_normal((5000, 2)) * np.sqrt(r)
    starts = np.arange(5000) == 0
    P = 0.5 * (q + np.sqrt(q**2 + 4 * q * r))  # predicted variance, from P = P - P^2 / (P + r) + q
    np.testing.assert_allclose(baselines.fit_local_level(z, starts, ~starts), P / (P + r), rtol=0.25)


@pytest.mark.parametrize("state_dim", [2, 4])
def test_linear_system_comes_near_the_true_one(state_dim):
    """A world of as many states, seen in segments; judged on a part that was not fitted to."""
    world = linear_gaussian_world(2, n_steps=3500, state_dim=state_dim, latent_dim=2)
    z, half = world.z, 2000
    fitted = fit_linear_system(z[:half], np.arange(half) % 500 == 0, state_dim)

    def score(system, mean=0.0):
        result = filter(system, torch.from_numpy(z[half:] - mean))
        return log_likelihood(result.innovation.numpy(), result.innovation_cov.numpy())[20:].mean()

    memoryless = log_likelihood(z[half:] - z.mean(0), np.cov(z.T)).mean()
    true = score(system_of(world))
    assert true - memoryless > 0.1
    assert true - score(fitted, z[:half].mean(0)) < 0.1 * (true - memoryless)


@pytest.mark.parametrize(("n", "latent", "state_dim"), [(30, 3, 7), (40, 3, 7), (60, 2, 4)])
def test_a_linear_system_of_few_bins_is_the_best_that_was_seen(monkeypatch, n, latent, state_dim):
    """Its likelihood is that of the normal distribution of all bins together."""
    seen, real = [], linear_system._log_likelihood
    monkeypatch.setattr(linear_system, "_log_likelihood", lambda filtered: seen.append(real(filtered)) or seen[-1])
    fell = 0
    for seed in range(8):
        rng, z = np.random.default_rng(seed), np.zeros((n, latent))
        for t in range(1, n):
            z[t] = 0.9 * z[t - 1] + 0.44 * rng.standard_normal(latent)
        z += 0.7 * rng.standard_normal((n, latent))
        seen.clear()
        A, Q, C, R, *_ = (one.numpy() for one in fit_linear_system(z, np.arange(n) == 0, state_dim))
        X, cov = solve_discrete_lyapunov(A, Q), np.zeros((n, latent, n, latent))
        for t in range(n):
            for s in range(t + 1):
                cov[t, :, s] = C @ np.linalg.matrix_power(A, t - s) @ X @ C.T + (t == s) * R
                cov[s, :, t] = cov[t, :, s].T
        normal = multivariate_normal(cov=cov.reshape(n * latent, -1), allow_singular=True)
        found = normal.logpdf((z - z.mean(0)).ravel()) / n + latent / 2 * np.log(2 * np.pi)
        found += 0.5 * np.linalg.slogdet(np.cov(z.T, bias=True))[1]  # it is fitted to white z
        assert found == pytest.approx(max(seen), abs=1e-6)
        fell += seen[-1] < max(seen)
    assert fell


def test_smoothed_counts_of_a_unit_that_readouts_cannot_learn_of_are_0():
    counts = np.random.default_rng(0).poisson(1.0, (400, 3)).astype(float)
    fit = np.arange(400) >= 200
    counts[fit, 2] = 0  # its spikes before leave traces below 1e-100 in the fitted bins
    smooth = baselines.smoothed_roots(bins_of(counts, fit))
    assert not smooth[:, 2].any()
    average, rows = 0.0, np.sqrt(counts[:, 0]) - np.sqrt(counts[fit, 0]).mean()
    for t, row in enumerate(rows):
        average += (1 - np.exp(-0.1 / baselines.SMOOTHING)) * (row - average)
        assert smooth[t, 0] == pytest.approx(average)


def test_a_causal_pca_of_few_bins_is_the_same_every_time():
    counts, every = np.random.default_rng(0).poisson(1.0, (550, 60)).astype(float), np.ones(550, dtype=bool)
    one, other = (baselines.causal_pca(bins_of(counts, every)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
