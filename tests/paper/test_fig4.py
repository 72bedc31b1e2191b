"""Videos of a moving dot: their statistics in closed form, the filter with varying noise, and a short run."""

import cmath
import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from ldmfilter.errors import InputError, TrainingError
from ldmfilter.filter.kalman import LinearGaussian, filter_windows, steady_state
from ldmfilter.filter.parameters import Dynamics
from ldmfilter.ldm.alignment import predictive_gaussian
from ldmfilter.ldm.objectives import predictive
from ldmfilter.paper import fig4
from ldmfilter.paper.experiment import reproduce
from ldmfilter.paper.sequences import (
    LinearPredictor,
    SequenceModel,
    SequenceTraining,
    entropy_gradients,
    filter_varying,
    fit_predictor,
    measure,
    objective,
    train,
)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


@pytest.mark.parametrize("shape", fig4.SHAPES)
def test_paths(shape):
    phase = torch.linspace(0, 2 * math.pi, 401)
    x, y = ((fig4.place(shape, phase) - 4.5) / 3).unbind(-1)
    torch.testing.assert_close(x[0], x[-1], atol=1e-5, rtol=0)
    if shape == "circle":
        torch.testing.assert_close(x**2 + y**2, torch.ones(401))
    elif shape == "square":  # its border, with the same speed everywhere
        torch.testing.assert_close(torch.maximum(x.abs(), y.abs()), torch.ones(401))
        torch.testing.assert_close(x.diff().abs() + y.diff().abs(), torch.full((400,), 0.02), atol=1e-4, rtol=0)
    else:  # the lemniscate of Gerono: y^2 = 4 x^2 (1 - x^2)
        torch.testing.assert_close(y**2, 4 * x**2 * (1 - x**2), atol=1e-5, rtol=0)


def test_videos_have_the_statistics_that_they_say():
    frames, position, level = fig4.draw_videos("circle", 400, 60)
    away = (position - 4.5) / 3
    phase = torch.atan2(away[..., 1], away[..., 0])
    for lag in (1, 10):
        turned = phase[:, lag:] - phase[:, :-lag] - lag * 2 * math.pi / 25
        # The mean of exp(i lag steps' noise) is exp(-lag variance / 2).
        assert float(turned.cos().mean()) == pytest.approx(math.exp(-lag * 0.05**2 / 2), abs=0.002)
    columns = torch.arange(10.0)
    dot = torch.exp(
        -0.5 * ((columns - position[..., 0, None, None]) ** 2 + (columns[:, None] - position[..., 1, None, None]) ** 2)
    )
    noise = frames.reshape(400, 60, 10, 10) - dot
    ratio = noise.square().mean((-2, -1)) / level.square()
    assert float(ratio.mean()) == pytest.approx(1, abs=0.005)
    # Uniform from 0 to 0.3, redrawn with probability 1/15: correlation (14/15)^lag.
    assert float(level.mean()) == pytest.approx(0.15, abs=0.005)
    assert float(level.var()) == pytest.approx(0.3**2 / 12, rel=0.06)
    same = torch.corrcoef(torch.stack([level[:, :-10].flatten(), level[:, 10:].flatten()]))[0, 1]
    assert float(same) == pytest.approx((14 / 15) ** 10, abs=0.04)
    assert set(fig4.draw_videos("square", 3, 5).level.flatten().tolist()) == {np.float32(0.3)}


def random_model(state=3, latent=2):
    A, Q, C, R, b, P0 = (value.double() for value in Dynamics(latent, state, decay=0.8, noise=0.4)())
    return LinearGaussian(A.detach(), Q.detach(), C, R.detach(), b + 0.3, P0.detach())


def test_filter_with_varying_noise_is_the_dense_gaussian():
    """The states of all bins as one Gaussian, conditioned on the observations bin by bin."""
    model, time = random_model(), 5
    A, Q, C, R, b, P0 = model
    noise = torch.tensor([1.0, 0.2, 3.0, 1.5, 0.5], dtype=torch.float64)
    z = torch.randn(1, time, 2, dtype=torch.float64)
    cov = torch.zeros(3 * time, 3 * time, dtype=torch.float64)
    for i in range(time):
        var = P0
        for _ in range(i):
            var = A @ var @ A.mT + Q
        for j in range(i, time):
            lagged = torch.linalg.matrix_power(A, j - i) @ var
            cov[3 * j : 3 * j + 3, 3 * i : 3 * i + 3] = lagged
            cov[3 * i : 3 * i + 3, 3 * j : 3 * j + 3] = lagged.mT
    H = torch.block_diag(*[C] * time)
    of_z = H @ cov @ H.mT + torch.block_diag(*[f * R for f in noise])
    found = filter_varying(model, z, noise[None])
    error = (z[0] - C @ b).flatten()
    for t in range(time):
        state = slice(3 * t, 3 * t + 3)
        for upto, mean, spread in ((t, None, None), (t + 1, found.mean[0, t], found.cov[0, t])):
            seen = slice(0, 2 * upto)
            gain = cov[state] @ H.mT[:, seen] @ torch.linalg.inv(of_z[seen, seen])
            m, P = b + gain @ error[seen], cov[state, state] - gain @ H[seen] @ cov[:, state]
            if mean is None:
                torch.testing.assert_close(found.zhat[0, t], C @ m)
                torch.testing.assert_close(found.S[0, t], C @ P @ C.mT + noise[t] * R)
            else:
                torch.testing.assert_close(mean, m)
                torch.testing.assert_close(spread, P)


def test_constant_noise_ends_in_the_steady_state():
    predictor = LinearPredictor(2, 3, decay=0.8, noise=0.4).double()
    z = torch.randn(2, 60, 2, dtype=torch.float64)
    steady, varying = predictor(z), predictor(z, torch.ones(2, 60, dtype=torch.float64))
    torch.testing.assert_close(varying.S[:, -1], steady.S.expand(2, -1, -1), atol=1e-8, rtol=0)
    torch.testing.assert_close(varying.cov[:, -1], steady.cov.expand(2, -1, -1), atol=1e-8, rtol=0)
    torch.testing.assert_close(varying.zhat[:, -1], steady.zhat[:, -1], atol=1e-6, rtol=0)
    torch.testing.assert_close(steady.zhat, filter_windows(predictor.dynamics(), z)[0])


def test_density_with_a_covariance_for_each_bin():
    z, zhat, B = torch.randn(4, 5, 3), torch.randn(4, 5, 3), torch.randn(4, 5, 3, 3)
    S = B @ B.mT + torch.eye(3)
    torch.testing.assert_close(predictive_gaussian(z, zhat, S), MultivariateNormal(zhat, S).log_prob(z))


def small_model(**settings):
    model = fig4.build("square", fig4.SIZES["tiny"])
    training = SequenceTraining(2, sequences=16, **settings)
    return model, lambda n: fig4.draw_videos("square", n, training.frames).frames, training


def test_what_is_encoded_is_white():
    model, draw, training = small_model()
    z = model.encode(draw(64), measure=True).flatten(0, 1)
    torch.testing.assert_close(torch.cov(z.mT), torch.eye(5), atol=0.01, rtol=0)
    measure(model, draw, training)
    again = model.encode(draw(256)).flatten(0, 1)
    torch.testing.assert_close(torch.cov(again.mT), torch.eye(5), atol=0.2, rtol=0)


def test_stopgrad_is_the_alignment_and_what_stands_for_the_entropy():
    """Both paths through the target cancel: the gradient of the alignment and of the entropy in its place, together, is
    that of the objective with the target detached, where the gauge is fixed."""
    model, draw, training = small_model()
    frames = draw(16)
    with torch.no_grad():
        model.encode(frames, measure=True)
    weights = list(model.encoder.parameters())
    _, stands_in = entropy_gradients(model, frames, training)

    def gradient(detached):
        z = model.encode(frames)
        zhat, S, _, _ = model.predictor(z)
        z, zhat = z[:, training.warmup :], zhat[:, training.warmup :]
        F = predictive_gaussian(z.detach() if detached else z, zhat, S).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(F, weights)])

    torch.testing.assert_close(gradient(False) + stands_in, gradient(True), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("n", [-2, 0, 2, 3])
def test_stopgrad_turns_what_distorts_a_circle(n):
    """The rate at which the n-th harmonic of a path in z grows, conj(G) (1 - G) / S with G the filter's frequency
    response from z to zhat, written out for a state that turns and decays."""
    decay, turn = 0.96, 2 * math.pi / 25
    eye, time = torch.eye(2, dtype=torch.float64), torch.arange(500, dtype=torch.float64)

    def harmonic(k):
        return torch.stack([(k * turn * time).cos(), (k * turn * time).sin()], -1)

    A = decay * torch.tensor([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]).double()
    model = LinearGaussian(A, (1 - decay**2) * 0.96 * eye, eye, 0.04 * eye, torch.zeros(2).double(), 0.96 * eye)
    a = torch.tensor([0.1, 0.05], dtype=torch.float64, requires_grad=True)
    quarter = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=torch.float64)
    z = (harmonic(1) + a[0] * harmonic(n) + a[1] * harmonic(n) @ quarter)[None]
    zhat, S, _ = filter_windows(model, z)
    # Whole turns, long after the start.
    (g,) = torch.autograd.grad(predictive(z[:, 100:], zhat[:, 100:], S, "stopgrad").value, a)

    _, S, K = steady_state(model)
    pole, gain = decay * cmath.exp(1j * turn), float(K[0, 0])
    G = gain * pole / (cmath.exp(1j * n * turn) - (1 - gain) * pole)
    rate = G.conjugate() * (1 - G) / float(S[0, 0])
    assert complex(*g.tolist()) / complex(*a.tolist()) == pytest.approx(rate, rel=1e-6)
    assert abs(rate.imag) > 2.5 * abs(rate.real)


def test_fitting_the_predictor_leaves_the_encoder():
    model, draw, training = small_model()
    measure(model, draw, training)
    frames = draw(128)
    with torch.no_grad():
        z = model.encode(frames)

    def likelihood():
        zhat, S, _, _ = model.predictor(z)
        return float(predictive_gaussian(z, zhat, S).detach().mean())

    before = likelihood()
    fit_predictor(model, draw, training, 120)
    with torch.no_grad():
        torch.testing.assert_close(model.encode(frames), z, atol=0, rtol=0)
    assert likelihood() > before + 0.3


def test_training_raises_the_objective():
    model, draw, _ = small_model()
    training = SequenceTraining(40, sequences=32)
    frames = draw(128)
    before = objective(model, frames, "logdet", training.warmup, training.samples).value.item()
    train(model, draw, "logdet", training)
    assert objective(model, frames, "logdet", training.warmup, training.samples).value.item() > before + 0.2


def test_a_training_that_diverges_says_so():
    model, draw, training = small_model()
    with pytest.raises(TrainingError, match="with logdet diverged"):
        train(model, lambda n: draw(n) * math.nan, "logdet", training)


def test_noise_factor_is_bounded():
    model = fig4.build("circle", fig4.SIZES["tiny"])
    frames = fig4.draw_videos("circle", 2, 3).frames
    torch.testing.assert_close(model.noise_factor(frames), torch.ones(2, 3))
    with torch.no_grad():
        model.noise[-1].bias.fill_(1e6)
    torch.testing.assert_close(model.noise_factor(frames), torch.full((2, 3), math.exp(4)))
    assert SequenceModel(model.encoder, model.predictor, 2).noise_factor(frames) is None


def test_a_short_run_reads_more_than_before_training():
    lines = []
    state = torch.get_rng_state()
    outcome = fig4.run(fig4.SIZES["tiny"], 0, lines.append)
    torch.testing.assert_close(torch.get_rng_state(), state)
    assert len(lines) == 6
    for shape in ("square", "eight"):
        for entropy in fig4.ENTROPIES:
            found = outcome.numbers[shape][entropy]
            assert found["position_r2"] > found["untrained"]["position_r2"] + 0.1
            assert np.abs(found["gradient_similarity"]).max() <= 1
    # The noise needs more steps than these; that it varies shows in the numbers of the circle alone.
    assert "uncertainty_correlation" in outcome.numbers["circle"]["knn"]
    assert "uncertainty_correlation" not in outcome.numbers["eight"]["knn"]
    assert len(outcome.claims) == 6 + 4 + 3 + 3


def test_videos_take_no_data(tmp_path):
    with pytest.raises(InputError, match="--data"):
        reproduce("fig4", "tiny", tmp_path, data=tmp_path)
