"""Entropies against exact values and brute force; one test case that every estimator inherits."""

import math

import numpy as np
import pytest
import torch
from scipy.special import digamma, gammaln

from ldmfilter.ldm import entropy
from ldmfilter.ldm.entropy import ENTROPIES


def gaussian(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, float]:
    """Samples of a correlated Gaussian and its exact entropy, nats."""
    g = torch.Generator().manual_seed(seed)
    B = 0.5 * torch.randn(d, d, generator=g, dtype=torch.float64) + 2 * torch.eye(d)
    z = torch.randn(n, d, generator=g, dtype=torch.float64) @ B.mT
    return z, 0.5 * math.log(np.linalg.det(2 * math.pi * math.e * (B @ B.mT).numpy()))


@pytest.mark.parametrize("name", sorted(ENTROPIES))
class TestEveryEntropy:
    def test_gaussian(self, name):
        z, exact = gaussian(3_000, 2)
        options = {"bandwidth": 0.4} if name == "kde" else {}
        assert float(ENTROPIES[name](z, **options)) == pytest.approx(exact, abs=0.12)

    def test_moving_changes_nothing(self, name):
        z, _ = gaussian(200, 3)
        assert float(ENTROPIES[name](z + 7.0)) == pytest.approx(float(ENTROPIES[name](z)), abs=1e-9)

    def test_spreading_out_raises_it(self, name):
        z, _ = gaussian(200, 3)
        assert float(ENTROPIES[name](1.5 * z)) > float(ENTROPIES[name](z)) + 0.3

    def test_gradients(self, name):
        z, _ = gaussian(12, 2)
        assert torch.autograd.gradcheck(ENTROPIES[name], (z.requires_grad_(),))

    def test_gradients_of_coinciding_samples_are_finite(self, name):
        z = torch.zeros(8, 2, dtype=torch.float64, requires_grad=True)
        ENTROPIES[name](z).backward()
        assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("name", ["knn", "logdet"])
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_scaling_adds_its_logarithm(name, scale):
    z, _ = gaussian(300, 4)
    difference = float(ENTROPIES[name](scale * z)) - float(ENTROPIES[name](z))
    assert difference == pytest.approx(4 * math.log(scale), abs=0.01)


def test_knn_uniform():
    z = torch.rand(4_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(entropy.knn(z)) == pytest.approx(0.0, abs=0.06)
    assert float(entropy.knn(5 * z)) == pytest.approx(2 * math.log(5), abs=0.06)


@pytest.mark.parametrize("k", [1, 3])
def test_knn_against_brute_force_with_groups(k):
    z, _ = gaussian(40, 3)
    group = torch.arange(10).repeat_interleave(4)
    x, g = z.numpy(), group.numpy()
    total = 0.0
    for i in range(40):
        others = sorted(np.linalg.norm(x[i] - x[j]) for j in range(40) if g[i] != g[j])
        total += 3 * math.log(others[k - 1])
    ball = 1.5 * math.log(math.pi) - gammaln(2.5)
    expected = digamma(37) - digamma(k) + ball + total / 40
    assert float(entropy.knn(z, group, k=k)) == pytest.approx(expected, abs=1e-12)


def test_knn_clips_the_largest_tenth():
    z = torch.cat([torch.arange(20.0).double(), torch.tensor([1e6, 2e6]).double()])[:, None]
    clipped = float(entropy.knn(z, k=1, clip=0.1))
    assert clipped < float(entropy.knn(z, k=1)) - 0.5
    assert clipped == pytest.approx(float(entropy.knn(torch.arange(22.0).double()[:, None], k=1)), abs=0.3)


def test_kde_against_brute_force_with_groups():
    z, _ = gaussian(30, 2)
    group = torch.arange(10).repeat_interleave(3)
    x, g, h = z.numpy(), group.numpy(), 0.7
    logs = []
    for i in range(30):
        kernel = [
            math.exp(-np.sum((x[i] - x[j]) ** 2) / (2 * h**2)) / (2 * math.pi * h**2) for j in range(30) if g[i] != g[j]
        ]
        logs.append(math.log(np.mean(kernel)))
    assert float(entropy.kde(z, group, bandwidth=h)) == pytest.approx(-np.mean(logs), abs=1e-10)


@pytest.mark.parametrize("name", ["knn", "kde"])
def test_too_few_samples_are_refused(name):
    with pytest.raises(ValueError, match="at least"):
        ENTROPIES[name](torch.randn(6, 2), torch.zeros(6, dtype=torch.long))
