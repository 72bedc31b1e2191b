"""The recurrent predictor and its objective."""

import dataclasses

import numpy as np
import pytest
import torch

from ldmfilter.paper import recurrent
from ldmfilter.paper.readout import affine, affine_r2, apply
from ldmfilter.paper.recurrent import WARMUP, Training, train
from ldmfilter.paper.recurrent import network as new_network
from ldmfilter.paper.sequences import error_covariance, objective
from ldmfilter.trainer import ascend

SETTINGS = Training(steps=3, batch=8, samples=3, hidden=8, memory=4)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(20, 6, 9, generator=torch.Generator().manual_seed(0))


def test_the_prediction_knows_the_past_alone(images):
    torch.manual_seed(0)
    network = new_network(9, 2, 8, 4)
    z = network.encode(images)
    zhat = network.predictor(z).zhat[:, 1:]
    assert zhat.shape == (20, 5, 2)
    changed = z.clone()
    changed[:, 3:] += 1.0
    again = network.predictor(changed).zhat[:, 1:]
    torch.testing.assert_close(again[:, :3], zhat[:, :3])  # of steps 1 to 3, from steps 0 to 2
    assert (again[:, 3:] - zhat[:, 3:]).abs().min() > 1e-6


@pytest.mark.parametrize("entropy", ["stopgrad", "knn", "logdet", "kde"])
def test_the_objective_is_a_gaussian_likelihood_plus_an_entropy_of_white_latents(images, entropy):
    torch.manual_seed(0)
    network = new_network(9, 2, 8, 4).double()
    value = objective(network, images.double(), entropy, WARMUP, 5, torch.Generator().manual_seed(0)).value.item()
    # By numpy: whiten, predict, log-density.
    raw = network.encoder(images.double()).detach().numpy()
    flat = raw.reshape(-1, 2) - raw.reshape(-1, 2).mean(0)
    variance, axes = np.linalg.eigh(np.cov(flat.T) + 1e-4 * np.eye(2) * np.cov(flat.T).diagonal().mean())
    z = (flat @ axes / np.sqrt(variance) @ axes.T).reshape(raw.shape)
    error = z[:, 1:] - network.predictor(torch.from_numpy(z)).zhat[:, 1:].detach().numpy()
    error = error.reshape(-1, 2)
    S = error.T @ error / len(error)
    likelihood = -0.5 * np.linalg.slogdet(2 * np.pi * S)[1] - 1
    if entropy == "stopgrad":
        assert value == pytest.approx(likelihood, abs=1e-4)
    elif entropy == "logdet":
        seen = np.cov(z[:, 1:].reshape(-1, 2).T)
        assert value == pytest.approx(likelihood + 0.5 * np.linalg.slogdet(2 * np.pi * np.e * seen)[1], abs=1e-4)
    else:
        # All samples take part; of 100 white ones an estimate comes near a Gaussian's entropy.
        assert value - likelihood == pytest.approx(np.log(2 * np.pi * np.e), abs=0.6)


def test_the_target_is_detached_for_stopgrad_alone(images):
    torch.manual_seed(0)
    network = new_network(9, 2, 8, 4)
    # Without a predictor that hears the past nothing reaches the encoder but through the target.
    with torch.no_grad():
        network.predictor.readout.weight.zero_()
    for entropy, reached in (("stopgrad", False), ("logdet", True)):
        network.zero_grad()
        objective(network, images, entropy, WARMUP, 3, torch.Generator().manual_seed(0)).value.backward()
        slope = max(float(p.grad.abs().max()) for p in network.encoder.parameters())
        assert (slope > 1e-4) == reached


def test_training_is_the_same_every_time_and_leaves_random_numbers_alone(images):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, history = train(images, 2, "knn", SETTINGS, seed=1)
    assert torch.equal(torch.rand(3), expected)
    two, again = train(images, 2, "knn", SETTINGS, seed=1)
    other, _ = train(images, 2, "knn", SETTINGS, seed=2)
    np.testing.assert_array_equal(history, again)
    assert torch.equal(one.encode(images), two.encode(images))
    assert not torch.allclose(one.encode(images), other.encode(images))
    white = one.encode(images).detach().flatten(0, 1)
    torch.testing.assert_close(torch.cov(white.mT), torch.eye(2), atol=0.01, rtol=0)


def test_training_goes_on_from_a_copy_of_a_network(images):
    one, _ = train(images, 2, "knn", SETTINGS, seed=1)
    before = one.encode(images)
    same, _ = train(images, 2, "stopgrad", SETTINGS, seed=1, steps=0, start=one)
    torch.testing.assert_close(same.encode(images), before, atol=1e-5, rtol=1e-5)
    onward, history = train(images, 2, "stopgrad", SETTINGS, seed=1, start=one)
    assert torch.equal(one.encode(images), before)
    assert len(history) == SETTINGS.steps
    assert not torch.allclose(onward.encode(images), before, atol=1e-3)


def test_of_several_starts_the_one_with_the_highest_objective_goes_on(images, monkeypatch):
    tried = []

    def recorded(module, *args, **kwargs):
        tried.append((module, ascend(module, *args, **kwargs)))
        return tried[-1][1]

    monkeypatch.setattr(recurrent, "ascend", recorded)
    network, history = train(images, 2, "logdet", dataclasses.replace(SETTINGS, steps=48, starts=3), seed=2)
    *trials, (onward, rest) = tried
    assert [len(values) for _, values in trials] == [8, 8, 8]
    ends = [values[-2:].mean() for _, values in trials]
    assert len(set(ends)) == 3
    best, values = trials[int(np.argmax(ends))]  # the second
    assert network is onward is best
    np.testing.assert_array_equal(history, np.concatenate([values, rest]))
    assert len(history) == 48


def test_the_error_covariance_has_the_largest_likelihood():
    error = torch.randn(4, 50, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ torch.tensor(
        [[2.0, 0.3], [0.0, 0.5]], dtype=torch.float64
    )

    def likelihood(S: torch.Tensor) -> float:
        density = torch.distributions.MultivariateNormal(torch.zeros(2, dtype=S.dtype), S)
        return float(density.log_prob(error).mean())

    best = error_covariance(error)
    for change in ([[0.1, 0.0], [0.0, 0.0]], [[-0.1, 0.0], [0.0, 0.0]], [[0.0, 0.05], [0.05, 0.02]]):
        assert likelihood(best) > likelihood(best + torch.tensor(change, dtype=torch.float64))


def test_affine_r2():
    rng = np.random.default_rng(0)
    z = rng.standard_normal((400, 2))
    truth = z @ rng.standard_normal((2, 3)) + 5
    weights = affine(z, truth)
    np.testing.assert_allclose(apply(weights, z), truth)
    assert affine_r2(z, truth, z[:100] * 1.0, truth[:100]) == pytest.approx(1)
    noisy = truth + 0.5 * rng.standard_normal(truth.shape)
    expected = 1 - 0.25 * 3 / noisy.var(0).sum()  # noise over all variance
    assert affine_r2(z, noisy, z, noisy) == pytest.approx(expected, abs=0.02)
    assert abs(affine_r2(z, rng.standard_normal((400, 3)), z, rng.standard_normal((400, 3)))) < 0.05
