"""Entropies against exact values and brute force; one test case that every estimator inherits."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import digamma, gammaln

from ldmfilter import config
from ldmfilter.ldm import entropy

ESTIMATES = {name: one.estimate for name, one in entropy.ENTROPIES.items() if one.estimate is not None}


def test_the_configuration_knows_every_entropy():
    """Its names are a copy, as the command line starts without torch."""
    assert tuple(entropy.ENTROPIES) == config.ENTROPIES


def gaussian(n: int, d: int, seed: int = 0) -> tuple[torch.Tensor, float]:
    """Samples of a correlated Gaussian and its exact entropy, nats."""
    g = torch.Generator().manual_seed(seed)
    B = 0.5 * torch.randn(d, d, generator=g, dtype=torch.float64) + 2 * torch.eye(d)
    z = torch.randn(n, d, generator=g, dtype=torch.float64) @ B.mT
    return z, 0.5 * math.log(np.linalg.det(2 * math.pi * math.e * (B @ B.mT).numpy()))


@pytest.mark.parametrize("name", sorted(ESTIMATES))
class TestEveryEntropy:
    def test_gaussian(self, name):
        z, exact = gaussian(3_000, 2)
        options = {"bandwidth": 0.4} if name == "kde" else {}
        assert float(ESTIMATES[name](z, **options)) == pytest.approx(exact, abs=0.12)

    def test_moving_changes_nothing(self, name):
        z, _ = gaussian(200, 3)
        assert float(ESTIMATES[name](z + 7.0)) == pytest.approx(float(ESTIMATES[name](z)), abs=1e-9)

    def test_spreading_out_raises_it(self, name):
        z, _ = gaussian(200, 3)
        assert float(ESTIMATES[name](1.5 * z)) > float(ESTIMATES[name](z)) + 0.3

    def test_gradients(self, name):
        z, _ = gaussian(12, 2)
        assert torch.autograd.gradcheck(ESTIMATES[name], (z.requires_grad_(),))

    def test_gradients_of_coinciding_samples_are_finite(self, name):
        z = torch.zeros(8, 2, dtype=torch.float64, requires_grad=True)
        ESTIMATES[name](z).backward()
        assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("name", ["knn", "logdet"])
@pytest.mark.parametrize("scale", [0.1, 10.0])
def test_scaling_adds_its_logarithm(name, scale):
    z, _ = gaussian(300, 4)
    difference = float(ESTIMATES[name](scale * z)) - float(ESTIMATES[name](z))
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
        ESTIMATES[name](torch.randn(6, 2), torch.zeros(6, dtype=torch.long))


def plain_knn(z, group, k, clip=0.0):
    """The definition: every pair's distance, differentiated through `topk`."""
    distance = (z[:, None] - z[None]).square().sum(-1).add(1e-300).sqrt()
    allowed = group[:, None] != group[None]
    log_eps = distance.masked_fill(~allowed, math.inf).topk(k, largest=False).values[:, -1].log()
    if clip:
        log_eps = log_eps.clamp_max(torch.quantile(log_eps.detach(), 1 - clip))
    d = z.shape[1]
    psi = float(np.mean(digamma(allowed.sum(1).numpy() + 1.0)) - digamma(k))
    return psi + 0.5 * d * math.log(math.pi) - float(gammaln(0.5 * d + 1)) + d * log_eps.mean()


def plain_kde(z, group, h):
    """The definition: the mean over the others of a Gaussian's density, for each sample."""
    squared = (z[:, None] - z[None]).square().sum(-1)
    allowed = (group[:, None] != group[None]).double()
    density = torch.exp(-squared / (2 * h**2)) / (2 * math.pi * h**2) ** (z.shape[1] / 2)
    return -((density * allowed).sum(1) / allowed.sum(1)).log().mean()


def value_and_gradient(function, z, *args):
    z = z.clone().requires_grad_()
    value = function(z, *args)
    return float(value.detach()), torch.autograd.grad(value, z)[0]


#: Sizes and dimensions on both sides of each choice: one tile, several tiles, a tree, a product of matrices.
SIZES = [(60, 3), (511, 2), (700, 4), (530, 12), (350, 20), (1400, 1), (300, 80)]
#: None; windows of 4; windows that follow each other closely; one of most samples; of very different sizes.
GROUPS = {
    "none": lambda n: None,
    "fours": lambda n: torch.arange(n) // 4,
    "shuffled": lambda n: torch.randperm(n, generator=torch.Generator().manual_seed(1)) // 4 - 7,
    "one large": lambda n: torch.where(torch.arange(n) < n - 20, 0, torch.arange(n)),
    "uneven": lambda n: (torch.arange(n).double() ** 0.5).long(),
}


@pytest.mark.parametrize("grouping", sorted(GROUPS))
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_equal_to_the_plain_definition(n, d, grouping, monkeypatch):
    monkeypatch.setattr(entropy, "TILE_CPU", 50_000)  # several tiles, the last of them not full
    z, _ = gaussian(n, d, seed=n)
    z = z + 3.0
    group = GROUPS[grouping](n)
    own = torch.arange(n) if group is None else group
    compared = [
        (lambda z: entropy.knn(z, group), lambda z: plain_knn(z, own, 3)),
        (lambda z: entropy.knn(z, group, k=5, clip=0.1), lambda z: plain_knn(z, own, 5, 0.1)),
        (lambda z: entropy.kde(z, group, 2.0), lambda z: plain_kde(z, own, 2.0)),
    ]
    for ours, plain in compared:
        (value, gradient), (expected, expected_gradient) = value_and_gradient(ours, z), value_and_gradient(plain, z)
        assert value == pytest.approx(expected, abs=1e-6)
        torch.testing.assert_close(gradient, expected_gradient, atol=1e-9, rtol=1e-6)


def test_windows_in_which_samples_crowd_together():
    """The tree gives up: the nearest 50 samples are all of the sample's own group."""
    g = torch.Generator().manual_seed(0)
    centres = 10 * torch.randn(16, 3, generator=g, dtype=torch.float64)
    z = (centres[:, None] + 0.01 * torch.randn(16, 50, 3, generator=g, dtype=torch.float64)).flatten(0, 1)
    group = torch.arange(16).repeat_interleave(50)
    value, gradient = value_and_gradient(entropy.knn, z, group)
    expected, expected_gradient = value_and_gradient(plain_knn, z, group, 3)
    assert value == pytest.approx(expected, abs=1e-9)
    torch.testing.assert_close(gradient, expected_gradient, atol=1e-12, rtol=1e-6)


@pytest.mark.parametrize("name", ["knn", "kde"])
@pytest.mark.parametrize("n", [200, 1000])
def test_the_same_to_the_last_bit_each_time(name, n):
    z, _ = gaussian(n, 3)
    z, group = z.float(), torch.arange(n) // 4
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, again = (value_and_gradient(ESTIMATES[name], z, group) for _ in range(2))
    finally:
        torch.use_deterministic_algorithms(before)
    assert first[0] == again[0]
    assert torch.equal(first[1], again[1])


@pytest.mark.parametrize("name", ["knn", "kde"])
def test_duplicates_in_large_samples_are_finite(name):
    value, gradient = value_and_gradient(ESTIMATES[name], torch.zeros(900, 2, dtype=torch.float64))
    assert math.isfinite(value)
    assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("n", [100, 900])
@pytest.mark.parametrize("name", ["knn", "kde"])
def test_nan_stays_nan(name, n):
    """A training that diverges has to see it."""
    z, _ = gaussian(n, 2)
    z[3, 1] = math.nan
    assert math.isnan(float(ESTIMATES[name](z)))


@pytest.mark.parametrize("name", ["knn", "kde"])
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(name):
    z, _ = gaussian(3_000, 6)
    group = torch.arange(3_000) // 4
    on_cpu, on_gpu = (
        value_and_gradient(ESTIMATES[name], z, group),
        value_and_gradient(ESTIMATES[name], z.cuda(), group.cuda()),
    )
    assert on_gpu[0] == pytest.approx(on_cpu[0], abs=1e-9)
    torch.testing.assert_close(on_gpu[1].cpu(), on_cpu[1], atol=1e-10, rtol=1e-6)


def test_linear_is_what_a_map_adds():
    """Of the entropy of a Gaussian and of its image, and for fewer latents of the axes that are kept."""
    rng = np.random.default_rng(0)
    W = torch.from_numpy(rng.standard_normal((3, 3)))
    cov = np.diag([1.0, 2.0, 5.0])
    before, after = (stats.multivariate_normal(cov=c).entropy() for c in (cov, W.numpy() @ cov @ W.numpy().T))
    assert float(entropy.linear(W)) == pytest.approx(after - before)
    kept = torch.from_numpy(rng.standard_normal((2, 5)))
    volume = np.log(np.linalg.svd(kept.numpy(), compute_uv=False)).sum()
    assert float(entropy.linear(kept)) == pytest.approx(volume)


@pytest.mark.parametrize("shape", [(3, 3), (2, 4)])
def test_gradients_of_linear(shape):
    W = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(entropy.linear, (W,))
