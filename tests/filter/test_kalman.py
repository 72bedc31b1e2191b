"""Filter, smoother and steady state against oracles that share no code with them."""

import numpy as np
import pytest
import torch

from ldmfilter.filter.kalman import LinearGaussian, filter, filter_windows, smooth, steady_state
from ldmfilter.filter.linalg import NotPositiveDefiniteError, stationary_covariance, symmetrise
from tests.filter.reference import dense, loop


def make_model(seed: int, state: int, latent: int, radius: float = 0.95) -> LinearGaussian:
    """A stable filter with a full C, a full R and a mean away from zero."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    A = normal(state, state)
    A = radius * A / torch.linalg.eigvals(A).abs().max()
    B, D = normal(state, state), normal(latent, latent)
    Q = B @ B.mT / state + 0.1 * torch.eye(state)
    R = D @ D.mT / latent + 0.1 * torch.eye(latent)
    return LinearGaussian(A, Q, normal(latent, state), R, normal(state), stationary_covariance(A, Q))


def as_numpy(model: LinearGaussian) -> list[np.ndarray]:
    return [value.numpy() for value in model]


def observations(seed: int, time: int, latent: int, missing: float = 0.2):
    rng = np.random.default_rng(seed)
    z = 2 * rng.normal(size=(time, latent))
    observed = rng.random(time) >= missing
    return z, observed


@pytest.mark.parametrize(("state", "latent"), [(1, 1), (3, 2), (5, 5)])
def test_agrees_with_the_dense_joint_gaussian(state, latent):
    model = make_model(state, state, latent)
    z, observed = observations(state, 14, latent)
    predicted, filtered, smoothed = dense(*as_numpy(model), z, observed)
    ours = filter(model, torch.from_numpy(z), torch.from_numpy(observed))
    back = smooth(model, ours)
    for got, expected in [
        (ours.predicted_mean, predicted[0]),
        (ours.predicted_cov, predicted[1]),
        (ours.filtered_mean, filtered[0]),
        (ours.filtered_cov, filtered[1]),
        (back.smoothed_mean, smoothed[0]),
        (back.smoothed_cov, smoothed[1]),
    ]:
        np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("state", "latent"), [(2, 1), (4, 3), (16, 8)])
def test_agrees_with_the_plain_loop_over_segments_and_missing_bins(state, latent):
    model = make_model(10 + state, state, latent)
    z, observed = observations(state, 200, latent, missing=0.3)
    starts = np.zeros(200, dtype=bool)
    starts[[0, 50, 51, 120]] = True
    observed[51] = False  # a segment that starts with a missing bin
    expected = loop(*as_numpy(model), z, observed, starts)
    z[~observed] = np.nan  # what a missing bin holds must not matter
    ours = filter(model, torch.from_numpy(z), torch.from_numpy(observed), torch.from_numpy(starts))
    back = smooth(model, ours, torch.from_numpy(starts))
    got = (ours.predicted_mean, ours.predicted_cov, ours.filtered_mean, ours.filtered_cov, *back)
    for value, other in zip(got, expected, strict=True):
        np.testing.assert_allclose(value.numpy(), other, rtol=0, atol=1e-9)
    assert np.isnan(ours.innovation.numpy()).all(1).tolist() == (~observed).tolist()


def test_segments_do_not_touch():
    model = make_model(3, 4, 2)
    z = torch.from_numpy(observations(3, 60, 2)[0])
    z[:25] = torch.nan
    starts = torch.zeros(60, dtype=torch.bool)
    starts[25] = True
    both = filter(model, z, starts=starts)
    alone = filter(model, z[25:])
    torch.testing.assert_close(both.filtered_mean[25:], alone.filtered_mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(
        smooth(model, both, starts).smoothed_mean[25:], smooth(model, alone).smoothed_mean, rtol=0, atol=1e-12
    )


def test_a_batch_is_its_sequences():
    model = make_model(5, 3, 2)
    z = torch.from_numpy(np.stack([observations(s, 30, 2)[0] for s in range(4)]))
    observed = torch.from_numpy(np.stack([observations(s, 30, 2)[1] for s in range(4)]))
    batch = filter(model, z, observed)
    for i in range(4):
        one = filter(model, z[i], observed[i])
        torch.testing.assert_close(batch.filtered_mean[i], one.filtered_mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(batch.filtered_cov[i], one.filtered_cov, rtol=0, atol=1e-12)


def test_covariances_stay_symmetric_and_positive_over_ten_thousand_bins_in_float32():
    model = make_model(6, 6, 2, radius=0.999).to(torch.float32)
    z = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        P = filter(model, z).filtered_cov[-1]
    assert torch.equal(P, P.mT)
    assert torch.linalg.eigvalsh(P).min() > 0


def test_steady_state_is_where_the_loop_ends():
    model = make_model(7, 5, 3)
    P, S, _ = steady_state(model)
    ours = filter(model, torch.zeros(400, 3, dtype=torch.float64))
    torch.testing.assert_close(P, ours.predicted_cov[-1], rtol=0, atol=1e-10)
    torch.testing.assert_close(S, ours.innovation_cov[-1], rtol=0, atol=1e-10)


def test_steady_state_gradients():
    A, Q, C, R, b, P0 = make_model(8, 3, 2)
    inputs = tuple(value.clone().requires_grad_() for value in (A, Q, C, R))

    def limits(A, Q, C, R):
        return steady_state(LinearGaussian(A, symmetrise(Q), C, symmetrise(R), b, P0))

    assert torch.autograd.gradcheck(limits, inputs)


def test_unstable_dynamics_have_no_stationary_covariance():
    A = torch.eye(2, dtype=torch.float64) * 1.01
    with pytest.raises(NotPositiveDefiniteError, match="not stable"):
        stationary_covariance(A, torch.eye(2, dtype=torch.float64))


@pytest.mark.parametrize("time", [1, 2, 31, 32, 33])
def test_windows_follow_the_constant_gain(time):
    model = make_model(9, 4, 2)
    A, _, C, _, b, _ = as_numpy(model)
    _, S, K = (value.numpy() for value in steady_state(model))
    z = np.stack([observations(s, time, 2)[0] for s in range(3)])
    m = np.tile(b, (3, 1))
    zhat, means = np.zeros_like(z), np.zeros((3, time, 4))
    for t in range(time):
        before = b + (m - b) @ A.T if t else np.tile(b, (3, 1))
        zhat[:, t] = before @ C.T
        m = before + (z[:, t] - zhat[:, t]) @ K.T
        means[:, t] = m
    got_zhat, got_S, got_m = filter_windows(model, torch.from_numpy(z))
    np.testing.assert_allclose(got_zhat, zhat, atol=1e-10)
    np.testing.assert_allclose(got_m, means, atol=1e-10)
    np.testing.assert_allclose(got_S, S, atol=1e-12)


def test_windows_predict_as_the_filter_does_after_warm_up():
    model = make_model(11, 4, 4, radius=0.8)
    z = torch.from_numpy(observations(1, 200, 4)[0])
    zhat, _, _ = filter_windows(model, z[None])
    whole = filter(model, z)
    expected = whole.predicted_mean @ model.C.mT
    torch.testing.assert_close(zhat[0, 100:], expected[100:], rtol=0, atol=1e-8)
