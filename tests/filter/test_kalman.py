"""Filter, smoother and steady state against oracles that share no code with them."""

import numpy as np
import pytest
import torch

from ldmfilter.filter.kalman import LinearGaussian, filter, filter_trials, filter_windows, predict, smooth, steady_state
from ldmfilter.filter.linalg import (
    NotPositiveDefiniteError,
    one_thread,
    stationary_covariance,
    symmetrise,
)
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


@pytest.fixture(autouse=True)
def on_one_thread():
    """The matrices are small; threads that wait for each other take longer."""
    with one_thread():
        yield


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
    got = (
        ours.predicted_mean,
        ours.predicted_cov,
        ours.filtered_mean,
        ours.filtered_cov,
        back.smoothed_mean,
        back.smoothed_cov,
    )
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


def test_covariances_stay_symmetric_and_positive_over_ten_thousand_bins_in_float32():
    model = make_model(6, 6, 2, radius=0.999).to(torch.float32)
    z = torch.randn(10_000, 2, generator=torch.Generator().manual_seed(0))
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


def pattern(kind: str, time: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Missing bins and segment starts that lead through each route of the filter."""
    rng = np.random.default_rng(7)
    starts = np.zeros(time, dtype=bool)
    starts[[time // 3, time // 3 + 1, 2 * time // 3]] = True
    gap = np.ones(time, dtype=bool)
    gap[[0, time // 2, time // 2 + 1, time - 4]] = False
    observed = {
        "whole": None,
        "segments": None,
        "gaps": gap,
        "scattered": rng.random(time) > 0.4,
        "both": rng.random(time) > 0.3,
        "nothing": np.zeros(time, dtype=bool),
    }[kind]
    return (
        None if observed is None else torch.from_numpy(observed),
        torch.from_numpy(starts) if kind in ("segments", "both") else None,
    )


@pytest.mark.parametrize("length", [1, 3, 10, 20, 45])
def test_many_short_segments_are_each_alone(length):
    model = make_model(31, 3, 2, radius=0.99)
    z, observed = (torch.from_numpy(x) for x in observations(31, 900, 2))
    starts = torch.zeros(900, dtype=torch.bool)
    starts[::length] = True
    expected = loop(*as_numpy(model), z.numpy(), observed.numpy(), starts.numpy())
    for value, other in zip(results(model, z, observed, starts), expected, strict=True):
        np.testing.assert_allclose(value.numpy(), other, rtol=0, atol=1e-9)


PATTERNS = ["whole", "segments", "gaps", "scattered", "both", "nothing"]


def results(model, z, observed, starts) -> list[torch.Tensor]:
    """Everything that filter and smoother return, as tensors along time."""
    ours = filter(model, z, observed, starts)
    back = smooth(model, ours, starts)
    means = ours.predicted_mean, ours.predicted_cov, ours.filtered_mean, ours.filtered_cov
    return [*means, back.smoothed_mean, back.smoothed_cov]


def expected_results(model, z, observed, starts) -> list[np.ndarray]:
    """The same from the loop, float64."""
    seen = np.ones(len(z), bool) if observed is None else observed.numpy()
    first = np.zeros(len(z), bool) if starts is None else starts.numpy()
    return loop(*as_numpy(model), z.numpy(), seen, first)


@pytest.mark.parametrize("kind", PATTERNS)
@pytest.mark.parametrize(("state", "latent", "radius"), [(1, 1, 0.5), (4, 2, 0.97), (6, 6, 0.8)])
def test_every_route_agrees_with_the_loop(kind, state, latent, radius):
    model = make_model(20 + state, state, latent, radius)
    z = torch.from_numpy(observations(0, 700, latent)[0])
    observed, starts = pattern(kind, 700)
    expected = expected_results(model, z, observed, starts)
    for got, value in zip(results(model, z, observed, starts), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), value, rtol=0, atol=1e-9)
    single = LinearGaussian._make(value.float() for value in model)
    for got, value in zip(results(single, z.float(), observed, starts), expected, strict=True):
        assert got.dtype == torch.float32
        scale = np.abs(value).max()
        np.testing.assert_allclose(got.numpy() / scale, value / scale, rtol=0, atol=1e-4)


@pytest.mark.parametrize("radius", [0.9, 0.999])
def test_the_switch_to_the_steady_state_is_bounded(radius):
    """Few covariances stand for all bins, and each bin's differs from the exact one by what was promised."""
    model = make_model(40, 3, 1, radius)
    z, _ = observations(0, 8_000, 1)
    observed = np.ones(8_000, dtype=bool)
    observed[[3_000, 3_010, 3_011, 5_000]] = False
    observed[6_000:6_040] = False
    _, P_pred, _, P, _, Ps = loop(*as_numpy(model), z, observed, np.zeros(8_000, bool))
    ours = filter(model, torch.from_numpy(z), torch.from_numpy(observed))
    back = smooth(model, ours)
    assert len(ours.covariances.predicted) < 1_500
    for got, value in ((ours.predicted_cov, P_pred), (ours.filtered_cov, P), (back.smoothed_cov, Ps)):
        error = np.abs(got.numpy() - value).max((1, 2)) / np.abs(value).max((1, 2))
        assert error.max() < 1e-10


def test_covariances_do_not_grow_with_the_recording():
    """Where gaps are alike their covariances are shared; without a limit they are those of the bins that differ."""
    model = make_model(41, 3, 1, radius=0.9)
    for gap in (0, 1, 7):
        counts = []
        for time in (4_000, 40_000):
            observed = torch.arange(time) % 1_000 >= gap
            counts.append(len(filter(model, torch.zeros(time, 1, dtype=torch.float64), observed).covariances.predicted))
        assert counts[0] == counts[1] < 500
    nothing = filter(model, torch.zeros(40_000, 1, dtype=torch.float64), torch.zeros(40_000, dtype=torch.bool))
    assert len(nothing.covariances.predicted) < 1_000


def test_many_segments_share_their_covariances():
    model = make_model(42, 3, 2, radius=0.99)
    time = 50 * 200
    starts = torch.arange(time) % 200 == 0
    ours = filter(model, torch.zeros(time, 2, dtype=torch.float64), starts=starts)
    assert len(ours.covariances.predicted) <= 200
    torch.testing.assert_close(ours.predicted_cov[200:400], ours.predicted_cov[:200], rtol=0, atol=0)


def test_unstable_but_observed_dynamics_are_filtered():
    model = make_model(43, 3, 3, radius=0.9)
    model = model._replace(A=model.A * 1.2)
    z = torch.from_numpy(observations(0, 100, 3)[0])
    for kind in ("whole", "gaps"):
        observed, starts = pattern(kind, 100)
        expected = expected_results(model, z, observed, starts)
        for got, value in zip(results(model, z, observed, starts), expected, strict=True):
            np.testing.assert_allclose(got.numpy(), value, rtol=1e-9, atol=1e-9)


def test_a_random_walk_nobody_sees_is_filtered():
    """No steady state: the covariance grows for ever."""
    one = torch.eye(2, dtype=torch.float64)
    model = LinearGaussian(one, one, torch.tensor([[1.0, 0.0]]).double(), one[:1, :1], one[0], one)
    z = torch.from_numpy(observations(0, 300, 1)[0])
    expected = expected_results(model, z, None, None)
    for got, value in zip(results(model, z, None, None), expected, strict=True):
        np.testing.assert_allclose(got.numpy(), value, rtol=1e-9, atol=1e-9)


def test_covariances_that_are_none_are_refused():
    model = make_model(44, 2, 1)
    with pytest.raises(NotPositiveDefiniteError):
        filter(model._replace(R=-10 * torch.eye(1, dtype=torch.float64)), torch.zeros(5, 1, dtype=torch.float64))


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


@pytest.mark.parametrize("time", [1, 2, 7])
def test_gradients_of_windows(time):
    A, Q, C, R, b, P0 = make_model(12, 3, 2)
    z = torch.from_numpy(np.stack([observations(s, time, 2)[0] for s in range(2)]))

    def windows(A, Q, C, R, b, z):
        return filter_windows(LinearGaussian(A, symmetrise(Q), C, symmetrise(R), b, P0), z)

    inputs = tuple(value.clone().requires_grad_() for value in (A, Q, C, R, b, z))
    assert torch.autograd.gradcheck(windows, inputs)


@pytest.mark.parametrize("time", [1, 2, 40])
def test_trials_are_filtered_exactly(time):
    model = make_model(9, 4, 2)
    z = torch.from_numpy(np.stack([observations(s, time, 2)[0] for s in range(3)]))
    zhat, S, m = filter_trials(model, z)
    for i in range(3):
        expected = filter(model, z[i])
        torch.testing.assert_close(z[i] - zhat[i], expected.innovation, rtol=0, atol=1e-9)
        torch.testing.assert_close(S, expected.innovation_cov, rtol=0, atol=1e-9)
        torch.testing.assert_close(m[i], expected.filtered_mean, rtol=0, atol=1e-9)


@pytest.mark.parametrize("time", [1, 2, 5])
def test_gradients_of_trials(time):
    A, Q, C, R, b, P0 = make_model(12, 3, 2)
    z = torch.from_numpy(np.stack([observations(s, time, 2)[0] for s in range(2)]))

    def trials(A, Q, C, R, b, P0, z):
        return filter_trials(LinearGaussian(A, symmetrise(Q), C, symmetrise(R), b, symmetrise(P0)), z)

    inputs = tuple(value.clone().requires_grad_() for value in (A, Q, C, R, b, P0, z))
    assert torch.autograd.gradcheck(trials, inputs)


def test_trials_of_no_covariance_are_refused():
    model = make_model(9, 4, 2)
    with pytest.raises(NotPositiveDefiniteError):
        filter_trials(model._replace(R=-10 * torch.eye(2, dtype=torch.float64)), torch.zeros(1, 3, 2).double())


def test_windows_predict_as_the_filter_does_after_warm_up():
    model = make_model(11, 4, 4, radius=0.8)
    z = torch.from_numpy(observations(1, 200, 4)[0])
    zhat, _, _ = filter_windows(model, z[None])
    whole = filter(model, z)
    expected = whole.predicted_mean @ model.C.mT
    torch.testing.assert_close(zhat[0, 100:], expected[100:], rtol=0, atol=1e-8)


@pytest.mark.parametrize("cut", [1, 37, 50, 51, 199])
def test_pieces_one_after_the_other_are_the_whole(cut):
    model = make_model(21, 4, 2)
    z, observed = (torch.from_numpy(x) for x in observations(21, 200, 2))
    starts = torch.zeros(200, dtype=torch.bool)
    starts[[0, 50, 120]] = True
    whole = filter(model, z, observed, starts)
    one = filter(model, z[:cut], observed[:cut], starts[:cut])
    ahead = predict(model, one.filtered_mean[-1], one.filtered_cov[-1])
    two = filter(model, z[cut:], observed[cut:], starts[cut:], ahead)
    for name in ("predicted_mean", "predicted_cov", "filtered_mean", "filtered_cov", "innovation_cov"):
        both = torch.cat([getattr(one, name), getattr(two, name)])
        torch.testing.assert_close(both, getattr(whole, name), rtol=0, atol=1e-10)
