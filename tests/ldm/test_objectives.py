"""The predictive objective: its parts, and what each entropy lets through."""

import pytest
import torch
from torch.distributions import MultivariateNormal

from ldmfilter.ldm.alignment import generalized_gaussian, logistic, predictive_gaussian
from ldmfilter.ldm.entropy import ENTROPIES
from ldmfilter.ldm.objectives import independent_sources, predictive


@pytest.fixture
def latents():
    torch.manual_seed(0)
    z = torch.randn(6, 5, 3, dtype=torch.float64, requires_grad=True)
    zhat = torch.randn(6, 5, 3, dtype=torch.float64, requires_grad=True)
    B = torch.randn(3, 3, dtype=torch.float64)
    return z, zhat, B @ B.mT + torch.eye(3)


def test_alignment_is_the_gaussian_density(latents):
    z, zhat, S = latents
    expected = MultivariateNormal(zhat, S).log_prob(z)
    torch.testing.assert_close(predictive_gaussian(z, zhat, S), expected)


@pytest.mark.parametrize("name", sorted(name for name, one in ENTROPIES.items() if one.estimate))
def test_value_is_alignment_plus_entropy(latents, name):
    z, zhat, S = latents
    F = predictive(z, zhat, S, name)
    expected = MultivariateNormal(zhat, S).log_prob(z).mean() + ENTROPIES[name].estimate(z.flatten(0, 1))
    torch.testing.assert_close(F.value, expected)
    F.value.backward()
    assert z.grad.abs().sum() > 0


def test_stopgrad_teaches_through_the_prediction_alone(latents):
    z, zhat, S = latents
    F = predictive(z, zhat, S, "stopgrad")
    F.value.backward()
    assert z.grad is None
    assert zhat.grad.abs().sum() > 0
    assert F.entropy is None


def test_each_bin_of_a_window_may_have_its_own_covariance(latents):
    z, zhat, S = latents
    each = S * torch.arange(1, 6, dtype=torch.float64)[:, None, None]
    expected = MultivariateNormal(zhat, each).log_prob(z)
    torch.testing.assert_close(predictive_gaussian(z, zhat, each), expected)


@pytest.mark.parametrize("name", sorted(ENTROPIES))
def test_bins_that_do_not_count(latents, name):
    z, zhat, S = latents
    seen = torch.arange(5) < torch.tensor([5, 3, 4, 1, 2, 5])[:, None]
    F = predictive(torch.where(seen[..., None], z, torch.nan), zhat, S, name, weighed=seen)
    alone = predictive(z[seen][:, None], zhat[seen][:, None], S, name)
    torch.testing.assert_close(F.value, alone.value)
    (gradient,) = torch.autograd.grad(F.value, zhat)
    assert (gradient.abs().sum(-1) > 0).equal(seen)


def test_unknown_entropy(latents):
    with pytest.raises(KeyError):
        predictive(*latents, "none")


def test_independent_sources_are_the_likelihood_of_the_data():
    """By the change of variables: Gaussian sources make the data Gaussian with covariance (W' W)^-1."""
    torch.manual_seed(0)
    X, W = torch.randn(20, 3, dtype=torch.float64), torch.randn(3, 3, dtype=torch.float64)
    F = independent_sources(X @ W.mT, W, lambda z: generalized_gaussian(z, 2.0))
    expected = MultivariateNormal(torch.zeros(3, dtype=torch.float64), precision_matrix=W.mT @ W).log_prob(X).mean()
    torch.testing.assert_close(F.value, expected)
    torch.testing.assert_close(F.value, F.alignment + F.entropy)


@pytest.mark.parametrize("density", [lambda z: generalized_gaussian(z, 1.5, corner=0.01), logistic])
def test_gradients_of_independent_sources(density):
    torch.manual_seed(0)
    X = torch.randn(7, 3, dtype=torch.float64, requires_grad=True)
    W = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda X, W: independent_sources(X @ W.mT, W, density).value, (X, W))
