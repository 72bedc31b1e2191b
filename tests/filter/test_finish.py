"""Canonical coordinates, honest covariances, refitted dynamics."""

import copy

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from ldmfilter.config import FilterConfig
from ldmfilter.data.windows import split_windows
from ldmfilter.filter.batches import Stretches
from ldmfilter.filter.finish import (
    canonical_gauge,
    covariance_scale,
    optimism,
    population_activity,
    refit_dynamics,
    split_dynamics,
)
from ldmfilter.filter.kalman import LinearGaussian, filter
from ldmfilter.filter.linalg import one_thread
from ldmfilter.filter.model import LDMFilter
from ldmfilter.filter.network import Network
from ldmfilter.filter.online import OnlineFilter
from tests.filter.conftest import SMALL
from tests.worlds import linear_gaussian_world


def world(seed: int = 0, n: int = 4000):
    """A world's filter, its pseudo-observations and its states, around zero."""
    w = linear_gaussian_world(seed, n)
    P0 = solve_discrete_lyapunov(w.A, w.Q)
    model = LinearGaussian._make(torch.from_numpy(np.asarray(v)) for v in (w.A, w.Q, w.C, w.R, 0 * w.b, P0))
    return model, torch.from_numpy(w.z - w.C @ w.b), w.h - w.b


def filtered(model: LinearGaussian, z: torch.Tensor):
    return filter(model, z, torch.ones(len(z), dtype=torch.bool), torch.arange(len(z)) == 0)


def moments(result) -> tuple[np.ndarray, np.ndarray]:
    return result.filtered_mean.numpy(), result.filtered_cov.numpy().mean(0)


def changed(model: LinearGaussian, M: np.ndarray) -> LinearGaussian:
    """The same filter in coordinates M h."""
    A, Q, C, R, b, P0 = (v.numpy() for v in model)
    inverse = np.linalg.inv(M)
    parts = (M @ A @ inverse, M @ Q @ M.T, C @ inverse, R, M @ b, M @ P0 @ M.T)
    return LinearGaussian._make(map(torch.from_numpy, parts))


@pytest.mark.parametrize("seed", range(3))
def test_the_gauge_does_not_depend_on_the_coordinates_of_training(seed):
    model, z, h = world(seed)
    activity = population_activity(torch.from_numpy(h @ np.random.default_rng(seed).standard_normal((4, 6))).abs())
    segment = np.arange(len(z)) // 1000
    M = np.random.default_rng(10 + seed).standard_normal((4, 4)) + 2 * np.eye(4)
    states, same = (
        mean @ canonical_gauge(mean, cov, segment, activity, 3).T
        for mean, cov in (moments(filtered(model, z)), moments(filtered(changed(model, M), z)))
    )
    np.testing.assert_allclose(same, states, atol=1e-6)


def test_canonical_states_have_unit_covariance_the_slowest_first_and_rise_with_the_units():
    slow, fast = 0.98, 0.6
    A = np.array([[fast, 0.0], [0.0, slow]])
    Q = np.diag([1 - fast**2, 1 - slow**2])
    rng = np.random.default_rng(0)
    h = np.zeros((20_000, 2))
    for t in range(1, len(h)):
        h[t] = A @ h[t - 1] + rng.standard_normal(2) * np.sqrt(np.diag(Q))
    z = h + 0.5 * rng.standard_normal(h.shape)
    parts = (A, Q, np.eye(2), 0.25 * np.eye(2), np.zeros(2), np.eye(2))
    result = filtered(LinearGaussian._make(map(torch.from_numpy, parts)), torch.from_numpy(z))
    activity = population_activity(torch.from_numpy(np.stack([-h[:, 1], h[:, 0]], 1)))
    T = canonical_gauge(*moments(result), np.zeros(len(z), int), activity, 1)
    true = h @ T.T
    np.testing.assert_allclose(np.cov(true.T), np.eye(2), atol=0.05)
    lagged = [np.corrcoef(true[1:, i], true[:-1, i])[0, 1] for i in range(2)]
    np.testing.assert_allclose(lagged, [slow, fast], atol=0.02)
    assert np.corrcoef(true[:, 0], -h[:, 1])[0, 1] > 0.99
    assert np.corrcoef(true[:, 1], h[:, 0])[0, 1] > 0.99


def test_covariances_of_the_wrong_size_are_told_by_how_much():
    model, z, _ = world()
    large = model._replace(Q=4 * model.Q, R=4 * model.R, P0=4 * model.P0)
    held = np.arange(len(z)) % 2 == 0
    right, scale = covariance_scale(filtered(model, z), held), covariance_scale(filtered(large, z), held)
    assert right == pytest.approx(1, abs=0.05)
    assert scale == pytest.approx(right / 4, rel=1e-9)


def test_refitted_dynamics_are_those_of_the_world(monkeypatch):
    """A slow and a fast part of each dimension, and noise: both are found, and the first states are z less its noise.
    Bins that are not observed, whose z is far off, do not count."""
    slow, fast, white = 0.97, 0.5, 0.1
    rng = np.random.default_rng(0)
    h, u = rng.standard_normal((2, 100, 2))
    z = np.empty((100, 256, 2))
    for t in range(256):
        z[:, t] = 0.6 * h + 0.7 * u + white**0.5 * rng.standard_normal((100, 2))
        h = slow * h + (1 - slow**2) ** 0.5 * rng.standard_normal((100, 2))
        u = fast * u + (1 - fast**2) ** 0.5 * rng.standard_normal((100, 2))
    observed = rng.random((100, 256)) > 0.02
    z[~observed] = 50.0
    network = Network([3], FilterConfig(latent_dim=2, state_dim=2), 0.1)
    monkeypatch.setattr(network, "encode", lambda counts, session: torch.from_numpy(z.reshape(-1, 2)))
    starts = np.arange(25_600) % 256 == 0
    with one_thread():
        refit_dynamics(network, [Stretches(torch.zeros(25_600, 3), observed.ravel(), starts, observed.ravel())])
    found = network.system
    memory = np.sort(np.abs(np.linalg.eigvals(found.A.numpy())))
    np.testing.assert_allclose(memory[:2], fast, atol=0.1)
    np.testing.assert_allclose(memory[2:], slow, atol=0.04)
    np.testing.assert_allclose((found.C @ found.P0 @ found.C.mT).numpy(), 0.85 * np.eye(2), atol=0.08)
    np.testing.assert_allclose(found.R.numpy(), white * np.eye(2), atol=0.04)
    assert float(found.C[:, 2:].abs().max()) < 1e-9 < abs(float(torch.linalg.det(found.C[:, :2])))
    assert all(one.is_contiguous() for one in found)  # or rounding differs where it is read from a file
    again = Network([3], FilterConfig(latent_dim=2, state_dim=2), 0.1).take(network.state_dict())
    assert all(torch.equal(*pair) for pair in zip(again.linear_gaussian(), network.linear_gaussian(), strict=True))


def test_split_dynamics_change_slow_states_less_and_z_as_fast_as_before():
    """Three quarters of the states' variance change at two thirds of the speed, a quarter twice as fast; both are
    stationary."""
    network = Network([3], FilterConfig(latent_dim=2, state_dim=3), 0.02)
    with torch.no_grad():
        before = network.linear_gaussian()
        split_dynamics(network)
    A, Q, C, R, b, P0 = network.system
    np.testing.assert_allclose(C @ P0 @ C.mT + R, before.C @ before.P0 @ before.C.mT + before.R, atol=1e-12)
    np.testing.assert_allclose(C @ A @ P0 @ C.mT, before.C @ before.A @ before.P0 @ before.C.mT, atol=1e-4)
    memory = (2 * before.A + torch.eye(3)) / 4 + before.A @ before.A / 4
    np.testing.assert_allclose(C @ A @ P0 @ C.mT, before.C @ memory @ before.P0 @ before.C.mT, atol=1e-12)
    np.testing.assert_allclose(Q, P0 - A @ P0 @ A.mT, atol=1e-12)
    np.testing.assert_allclose(P0[:3, :3], 0.75 * before.P0, atol=1e-12)
    assert float(torch.linalg.eigvalsh(Q).min()) > 0
    assert not b.any()
    constants = 3 * 0.02 / -np.log(np.abs(np.linalg.eigvals(A.numpy())))
    np.testing.assert_allclose(np.sort(constants), np.repeat([7.5, 22.5], 3), rtol=0.05)  # of states of 5 s, times 3
    z = torch.randn(400, 2, dtype=torch.float64)
    changes = [filtered(one, z).filtered_mean[100:, :3].diff(dim=0).square().mean() for one in (before, network.system)]
    assert changes[1] < 0.5 * changes[0]
    again = Network([3], FilterConfig(latent_dim=2, state_dim=3), 0.02).take(network.state_dict())
    assert all(torch.equal(*pair) for pair in zip(again.linear_gaussian(), network.linear_gaussian(), strict=True))


@pytest.mark.parametrize(("name", "shape"), [("A", (3, 3)), ("R", ()), ("C", (1, 4)), ("b", (1,))])
def test_refitted_dynamics_of_a_file_have_to_fit_together(name, shape):
    network = Network([3], FilterConfig(latent_dim=2, state_dim=2), 0.1)
    eye = torch.eye(4, dtype=torch.float64)
    network.set_system(LinearGaussian(0.5 * eye, eye, eye[:2], eye[:2, :2], eye[0], eye))
    tensors = network.state_dict()
    network.take(tensors)
    with pytest.raises(ValueError, match="refitted dynamics do not fit together"):
        network.take(tensors | {f"system_{name}": torch.zeros(shape, dtype=torch.float64)})


@pytest.mark.parametrize("sizes", [{}, {"latent_dim": 1, "state_dim": 10}])
def test_a_refitted_filter_is_the_same_offline_and_online(counts, sizes):
    """Also of many more states than dimensions of z."""
    settings = SMALL | sizes
    model = LDMFilter(**settings, refit=True).fit(counts)
    latents = model.decode(counts[:300], smooth=True)
    assert latents["filtered_mean"].shape == (300, settings["state_dim"])
    assert latents["smoothed_cov"].shape == (300, settings["state_dim"], settings["state_dim"])
    online = OnlineFilter(model)
    for row in counts[:300].to_numpy():
        mean, cov = online.step(row)
    np.testing.assert_allclose(mean, latents["filtered_mean"][-1], atol=1e-5)
    np.testing.assert_allclose(cov, latents["filtered_cov"][-1], atol=1e-5)
    e, S = latents["innovation"].to_numpy()[-1], latents["innovation_cov"].to_numpy()[-1]
    assert (online.innovation**2).sum() == pytest.approx(e @ np.linalg.inv(S) @ e, rel=1e-4)


def test_a_fitted_filter_is_canonical_and_its_innovations_as_large_as_it_says(fitted, counts):
    latents = fitted.decode(counts)
    mean = latents["filtered_mean"].to_numpy()
    total = np.cov(mean.T) + latents["filtered_cov"].to_numpy().mean(0)
    np.testing.assert_allclose(total, np.eye(len(total)), atol=0.005)
    e, S = latents["innovation"].to_numpy(), latents["innovation_cov"].to_numpy()
    size = np.einsum("ti,ti->t", e, np.linalg.solve(S, e[..., None])[..., 0]).mean() / e.shape[1]
    assert size == pytest.approx(1, abs=0.15)
    raw = copy.deepcopy(fitted)
    raw.network_.covariance_scale.fill_(1.0)
    np.testing.assert_allclose(raw.decode(counts)["filtered_mean"], latents["filtered_mean"], atol=1e-5)


@pytest.mark.parametrize(("states", "latents"), [(4, 2), (3, 2), (5, 3)])
def test_parameters_that_dynamics_were_fitted_with_are_counted(states, latents):
    """As many as directions in which the autocovariances of z can change."""
    rng = np.random.default_rng(0)
    shapes = (states, states), (states, states), (latents, states), (latents, latents)
    A, Q, C, R = (torch.from_numpy(rng.standard_normal(shape)) for shape in shapes)
    A = 0.6 * A / torch.linalg.eigvals(A).abs().max()

    def autocovariances(A, Q, C, R):
        X = Q @ Q.mT
        for k in range(6):  # of a sum of A^k Q Q' A^k'
            X = X + torch.linalg.matrix_power(A, 2**k) @ X @ torch.linalg.matrix_power(A, 2**k).mT
        powers = [torch.linalg.matrix_power(A, k) for k in range(2 * states)]
        return torch.stack([C @ power @ X @ C.mT + (k == 0) * R @ R.mT for k, power in enumerate(powers)])

    jacobian = torch.autograd.functional.jacobian(autocovariances, (A, Q, C, R))
    free = int(torch.linalg.matrix_rank(torch.cat([one.flatten(3).flatten(0, 2) for one in jacobian], 1), rtol=1e-9))
    system = LinearGaussian(A, Q, C, R, A[0], Q)
    p = free / latents
    assert optimism(system, 500) == pytest.approx((500 + p) / (500 - p))
    assert optimism(system, 3) == pytest.approx(2 * p + 1)


def test_a_refit_predicts_better(counts, fitted):
    def sizes(model: LDMFilter) -> tuple[np.ndarray, np.ndarray]:
        latents = model.decode(counts)
        e, S = latents["innovation"].to_numpy(), latents["innovation_cov"].to_numpy()
        return np.einsum("ti,ti->t", e, np.linalg.solve(S, e[..., None])[..., 0]), S

    def log_likelihood(model: LDMFilter) -> float:
        size, S = sizes(model)
        return float(np.mean(-0.5 * (size + np.linalg.slogdet(2 * np.pi * S)[1])))

    again = LDMFilter(**SMALL, refit=True).fit(counts)
    assert again.kept_step_ == fitted.kept_step_
    assert log_likelihood(again) > log_likelihood(fitted) + 0.02
    held = split_windows(counts, 24, FilterConfig().held_out, 24).held_bins
    size = sizes(again)[0][held].mean() / 3
    assert size == pytest.approx(1 / optimism(again.network_.system, len(counts)), abs=1e-4)  # larger on new time
