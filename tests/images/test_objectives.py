"""Objectives on pairs of views: their parts against exact densities and brute force, and the losses they contain."""

import math

import mpmath
import numpy as np
import pytest
import torch
from scipy.special import ive
from scipy.stats import multivariate_normal, vonmises_fisher
from torch.nn.functional import normalize

from ldmfilter.errors import InputError
from ldmfilter.images import objectives
from ldmfilter.images.objectives import CELLS
from ldmfilter.images.options import check
from ldmfilter.ldm import entropy
from ldmfilter.ldm.alignment import gaussian_pair, log_sphere_area, log_vmf_norm, matching, von_mises_fisher

MI = pytest.mark.parametrize("mutual_information", [True, False], ids=["with MI", "without MI"])
EVERY_CELL = pytest.mark.parametrize("name", sorted(CELLS))


def views(n: int, d: int, seed: int = 0, noise: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    common = torch.randn(n, d, generator=g, dtype=torch.float64)
    return tuple(common + noise * torch.randn(n, d, generator=g, dtype=torch.float64) for _ in range(2))


def unit(n: int, d: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1)


class TestAlignment:
    def test_gaussian_pair(self):
        z, z2 = views(5, 3)
        cov = np.block([[np.eye(3), 0.7 * np.eye(3)], [0.7 * np.eye(3), np.eye(3)]])
        expected = multivariate_normal(np.zeros(6), cov).logpdf(torch.cat([z, z2], 1).numpy())
        np.testing.assert_allclose(gaussian_pair(z, z2, 0.7).numpy(), expected, rtol=1e-12)

    @pytest.mark.parametrize(("d", "kappa"), [(2, 0.3), (3, 5.0), (8, 40.0), (20, 2.0)])
    def test_von_mises_fisher(self, d, kappa):
        z, mean = unit(6, d), unit(6, d, 1)
        expected = [vonmises_fisher(m, kappa).logpdf(x) for x, m in zip(z.numpy(), mean.numpy(), strict=True)]
        np.testing.assert_allclose(von_mises_fisher(z, mean, kappa).numpy(), expected, rtol=1e-10)

    @pytest.mark.parametrize(("d", "kappa"), [(2048, 0.5), (2048, 9_000.0), (128, 600.0), (3, 1e-3), (3, 3_000.0)])
    def test_normaliser_where_the_bessel_function_leaves_the_floats(self, d, kappa):
        with mpmath.workdps(60):
            nu = mpmath.mpf(d) / 2 - 1
            exact = (
                nu * mpmath.log(kappa) - (nu + 1) * mpmath.log(2 * mpmath.pi) - mpmath.log(mpmath.besseli(nu, kappa))
            )
        assert log_vmf_norm(d, kappa) == pytest.approx(float(exact), rel=1e-10)

    def test_sphere_area(self):
        assert log_sphere_area(2) == pytest.approx(math.log(2 * math.pi))
        assert log_sphere_area(3) == pytest.approx(math.log(4 * math.pi))

    @pytest.mark.parametrize("d", [3, 16, 256])
    def test_concentration_gives_the_correlation(self, d):
        """The mean of z . mean is I_(nu+1) / I_nu."""
        for rho in (0.5, 0.9):
            kappa = objectives.concentration(rho, d)
            mean = ive(d / 2, kappa) / ive(d / 2 - 1, kappa)
            assert mean == pytest.approx(rho, abs=0.01)

    def test_matching(self):
        """A table, category by category."""
        q, q2 = torch.tensor([[0.2, 0.3, 0.5]]), torch.tensor([[0.6, 0.1, 0.3]])
        P = np.full((3, 3), 0.2 / 2 / 3)
        np.fill_diagonal(P, 0.8 / 3)
        assert P.sum() == pytest.approx(1)
        expected = sum(float(q[0, i] * q2[0, j]) * math.log(P[i, j]) for i in range(3) for j in range(3))
        assert float(matching(q, q2, 0.8)) == pytest.approx(expected, rel=1e-6)


class TestEntropiesOfTheSphere:
    @pytest.mark.parametrize("spheres", [1, 2])
    def test_kernel_density_is_that_of_scipy(self, spheres):
        z = torch.cat([unit(20, 4, seed) for seed in range(spheres)], 1)
        parts = z.numpy().reshape(20, spheres, 4)
        total = 0.0
        for i in range(20):
            kernels = [
                math.exp(sum(vonmises_fisher(parts[j, s], 6.0).logpdf(parts[i, s]) for s in range(spheres)))
                for j in range(20)
                if j != i
            ]
            total -= math.log(np.mean(kernels)) / 20
        assert float(entropy.vmf_kde(z, 6.0, spheres)) == pytest.approx(total, rel=1e-9)

    @pytest.mark.parametrize("spheres", [1, 2])
    def test_uniform(self, spheres):
        z = torch.cat([unit(4_000, 3, seed) for seed in range(spheres)], 1)
        exact = spheres * math.log(4 * math.pi)
        assert float(entropy.knn(z, manifold=2 * spheres)) == pytest.approx(exact, abs=0.06)
        assert float(entropy.vmf_kde(z, 20.0, spheres)) == pytest.approx(exact, abs=0.06)

    def test_von_mises_fisher(self):
        model = vonmises_fisher(np.array([0.0, 0.6, 0.8]), 8.0)
        z = torch.from_numpy(model.rvs(4_000, random_state=np.random.default_rng(0)))
        assert float(entropy.knn(z, manifold=2)) == pytest.approx(model.entropy(), abs=0.06)


class TestExpansionOfTheLogDeterminant:
    def correlated(self, strength: float) -> torch.Tensor:
        """Samples whose covariance is exactly D (I + strength E) D."""
        g = torch.Generator().manual_seed(0)
        z = torch.randn(50, 5, generator=g, dtype=torch.float64)
        z = z - z.mean(0)
        white = z @ torch.linalg.inv(torch.linalg.cholesky(z.mT @ z / 49)).mT
        E = torch.randn(5, 5, generator=g, dtype=torch.float64)
        E = (E + E.mT).fill_diagonal_(0)
        scale = torch.tensor([0.5, 1.0, 2.0, 3.0, 0.1], dtype=torch.float64)
        return white @ torch.linalg.cholesky(torch.eye(5) + strength * E).mT * scale

    def test_exact_without_correlation(self):
        z = self.correlated(0.0)
        assert float(entropy.logdet_second_order(z)) == pytest.approx(float(entropy.logdet(z, ridge=0.0)), abs=1e-12)

    def test_error_is_of_third_order(self):
        errors = []
        for strength in (0.01, 0.005, 0.0025):
            z = self.correlated(strength)
            errors.append(float(entropy.logdet_second_order(z) - entropy.logdet(z, ridge=0.0)))
        assert errors[0] / errors[1] == pytest.approx(8, rel=0.15)
        assert errors[1] / errors[2] == pytest.approx(8, rel=0.08)

    def test_its_gradient_is_that_of_vicreg(self):
        """Of white samples' neighbours: the covariance term pulls in one direction with both, to first order."""
        z = self.correlated(0.01)
        z = (z - z.mean(0)) / z.std(0)

        def covariance_part(z):
            return entropy.variance_covariance(z, 0.0, 1.0)

        grads = []
        for H in (entropy.logdet_second_order, covariance_part):
            x = z.clone().requires_grad_()
            (grad,) = torch.autograd.grad(H(x), x)
            # Along the sample matrix itself lies the change of scale, which the two weigh differently.
            scale = (grad * z).sum(0) / (z * z).sum(0)
            grads.append((grad - scale * z).flatten())
        assert float(torch.cosine_similarity(*grads, dim=0)) == pytest.approx(1, abs=1e-3)


def vicreg_as_published(z, z2, lam, mu, nu):
    d = z.shape[1]
    s = np.mean([np.sum((a - b) ** 2) for a, b in zip(z, z2, strict=True)])
    loss = lam * s
    for x in (z, z2):
        v = sum(max(0.0, 1.0 - math.sqrt(np.var(x[:, j], ddof=1) + 1e-4)) for j in range(d)) / d
        C = np.cov(x.T)
        c = sum(C[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d
        loss += mu * v + nu * c
    return loss


def ntxent_as_published(z, z2, temperature):
    x = np.concatenate([z, z2])
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    n, total = len(z), 0.0
    for i in range(2 * n):
        sims = np.exp(x @ x[i] / temperature)
        total -= math.log(sims[(i + n) % (2 * n)] / sum(sims[k] for k in range(2 * n) if k != i))
    return total / (2 * n)


class TestPublishedLosses:
    @pytest.mark.parametrize("weights", [(25.0, 25.0, 1.0), (3.0, 0.5, 2.0)])
    def test_vicreg(self, weights):
        z, z2 = views(30, 6)
        F = objectives.vicreg(0.8 * z, 0.8 * z2, *weights)
        expected = vicreg_as_published(0.8 * z.numpy(), 0.8 * z2.numpy(), *weights)
        assert float(F.value) == pytest.approx(-expected, rel=1e-10)

    @pytest.mark.parametrize("temperature", [0.07, 0.5, 2.0])
    def test_simclr(self, temperature):
        z, z2 = views(12, 5)
        F = objectives.simclr(z, z2, temperature)
        assert float(F.value) == pytest.approx(
            math.log(23) - ntxent_as_published(z.numpy(), z2.numpy(), temperature), rel=1e-9
        )

    def test_vicreg_weighs_invariance_as_the_plane_does(self):
        z, z2 = views(8, 3)
        moved = z2 + 0.1 * unit(8, 3)
        rho = 1 - 1 / (4 * 25.0)
        prior = (z + z2).square().sum(-1) / 4 / (1 + rho) - (z + moved).square().sum(-1) / 4 / (1 + rho)
        plane = (gaussian_pair(z, moved, rho) - gaussian_pair(z, z2, rho) - prior).mean()
        vicreg = objectives.vicreg(z, moved).alignment - objectives.vicreg(z, z2).alignment
        assert float(plane) == pytest.approx(float(vicreg), rel=1e-9)

    def test_simsiam(self):
        (z, z2), (p, p2) = views(9, 4), views(9, 4, seed=1)
        F = objectives.sphere_stopgrad(z, z2, p, p2, kappa=1.0)
        cos = [np.sum(a * b, 1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
               for a, b in ((p.numpy(), z2.numpy()), (p2.numpy(), z.numpy()))]  # fmt: skip
        simsiam = -0.5 * np.mean(cos[0]) - 0.5 * np.mean(cos[1])
        assert float(F.value) == pytest.approx(-simsiam + log_vmf_norm(4, 1.0), rel=1e-9)


@pytest.mark.parametrize("form", [objectives.plane_stopgrad, objectives.sphere_stopgrad])
def test_stopgrad_teaches_through_the_prediction_alone(form):
    tensors = [x.requires_grad_() for x in (*views(6, 3), *views(6, 3, seed=1))]
    F = form(*tensors)
    F.value.backward()
    assert [x.grad is None for x in tensors] == [True, True, False, False]
    assert F.entropy is None


def test_plane_stopgrad_is_the_conditional_density():
    (z, z2), (p, p2) = views(6, 3), views(6, 3, seed=1)
    cov = (1 - 0.8**2) * np.eye(3)
    logs = [multivariate_normal(m, cov).logpdf(x) for x, m in zip(z2.numpy(), p.numpy(), strict=True)]
    logs += [multivariate_normal(m, cov).logpdf(x) for x, m in zip(z.numpy(), p2.numpy(), strict=True)]
    assert float(objectives.plane_stopgrad(z, z2, p, p2, correlation=0.8).value) == pytest.approx(np.mean(logs))


@EVERY_CELL
@MI
class TestEveryCell:
    def test_parts_add_up(self, name, mutual_information):
        F = CELLS[name](*views(40, 5), mutual_information)
        assert float(F.value) == pytest.approx(float(F.alignment + F.entropy), rel=1e-12)

    def test_gradients(self, name, mutual_information):
        """Without clipping: a clipped distance is held where it is."""
        options = {"clip": 0.0} if name.endswith("knn") else {}
        z, z2 = (x.requires_grad_() for x in views(9, 3))
        assert torch.autograd.gradcheck(lambda a, b: CELLS[name](a, b, mutual_information, **options).value, (z, z2))

    def test_views_are_alike(self, name, mutual_information):
        z, z2 = views(40, 5)
        one, other = CELLS[name](z, z2, mutual_information), CELLS[name](z2, z, mutual_information)
        assert float(one.value) == pytest.approx(float(other.value), rel=1e-9)

    def test_single_precision(self, name, mutual_information):
        """More dimensions than samples: the covariance is singular but for its ridge."""
        values, grads = [], []
        for dtype in (torch.float64, torch.float32):
            z, z2 = (x.to(dtype).requires_grad_() for x in views(256, 384))
            F = CELLS[name](z, z2, mutual_information)
            grads.append(torch.autograd.grad(F.value, z)[0].double().flatten())
            values.append(float(F.value.detach()))
        assert values[1] == pytest.approx(values[0], rel=1e-4, abs=0.05)
        assert float(torch.cosine_similarity(*grads, dim=0)) > 0.9999

    def test_coinciding_views_have_finite_gradients(self, name, mutual_information):
        z = torch.zeros(8, 3, requires_grad=True)
        CELLS[name](z, z + 0.0, mutual_information).value.backward()
        assert torch.isfinite(z.grad).all()


def plane_pairs(n: int, d: int, rho: float) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    z, e = torch.randn(2, n, d, generator=g, dtype=torch.float64)
    return z, rho * z + math.sqrt(1 - rho**2) * e


def sphere_pairs(n: int, kappa: float) -> tuple[torch.Tensor, torch.Tensor]:
    """z uniform on the sphere in three dimensions, z' von Mises-Fisher around it, by its inverse distribution."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((n, 3))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    cos = 1 + np.log(rng.random(n) * (1 - math.exp(-2 * kappa)) + math.exp(-2 * kappa)) / kappa
    side = np.cross(z, rng.standard_normal((n, 3)))
    side /= np.linalg.norm(side, axis=1, keepdims=True)
    z2 = cos[:, None] * z + np.sqrt(1 - cos**2)[:, None] * side
    return torch.from_numpy(z), torch.from_numpy(z2)


class TestSamplesOfTheModel:
    """There KL[R || P] is 0: F is 0 without mutual information, and the mutual information with it."""

    @pytest.mark.parametrize(("name", "d", "options", "within"), [
        ("plane_logdet", 6, {}, 0.05), ("plane_knn", 2, {"clip": 0.0}, 0.15), ("plane_kde", 1, {"bandwidth": 0.19}, 0.1)
    ])  # fmt: skip
    def test_plane(self, name, d, options, within):
        z, z2 = plane_pairs(4_000, d, 0.5)
        information = -0.5 * d * math.log(1 - 0.5**2)
        exact = {True: information, False: 0.0}
        for mutual_information, expected in exact.items():
            F = CELLS[name](z, z2, mutual_information, correlation=0.5, **options)
            assert float(F.value) == pytest.approx(expected, abs=within)

    def test_in_many_dimensions_bias_is_larger_than_what_is_estimated(self):
        """As the module says: the neighbours hardly tell objectives apart that differ by 26.6 nats."""
        values = [float(objectives.plane_knn(*plane_pairs(128, 32, 0.9), mi).value) for mi in (True, False)]
        assert min(values) > 30
        assert abs(values[0] - values[1]) < 3
        both, neither = (float(objectives.plane_logdet(*plane_pairs(128, 32, 0.9), mi).value) for mi in (True, False))
        assert neither < -8
        assert both == pytest.approx(22, abs=1.5)

    def test_sphere(self):
        kappa = objectives.concentration(0.8, 3)
        z, z2 = sphere_pairs(4_000, kappa)
        model = vonmises_fisher(np.array([1.0, 0.0, 0.0]), kappa)
        information = math.log(4 * math.pi) - model.entropy()
        for mutual_information, expected in {True: information, False: 0.0}.items():
            F = objectives.sphere_knn(z, z2, mutual_information, correlation=0.8, clip=0.0)
            assert float(F.value) == pytest.approx(expected, abs=0.15)


class TestWidthOfKernels:
    @MI
    def test_the_models_own(self, mutual_information):
        """Kernels of the alignment's own width, by brute force."""
        z, z2 = views(12, 3)
        parts = [z.numpy(), z2.numpy()] if mutual_information else [torch.cat([z, z2], 1).numpy()]
        flat = sum(self.gaussian(x, math.sqrt(1 - 0.9**2)) for x in parts)
        assert float(objectives.plane_kde(z, z2, mutual_information).entropy) == pytest.approx(flat, rel=1e-9)
        kappa = objectives.concentration(0.9, 3)
        z, z2 = normalize(z, dim=1), normalize(z2, dim=1)
        parts = [[z], [z2]] if mutual_information else [[z, z2]]
        curved = sum(self.vmf([x.numpy() for x in spheres], kappa) for spheres in parts)
        assert float(objectives.sphere_kde(z, z2, mutual_information).entropy) == pytest.approx(curved, rel=1e-9)

    def gaussian(self, x, width):
        scale = math.sqrt(x.var(0, ddof=1).mean())
        cov = (width * scale) ** 2 * np.eye(x.shape[1])
        logs = [
            math.log(np.mean([multivariate_normal(b, cov).pdf(a) for j, b in enumerate(x) if j != i]))
            for i, a in enumerate(x)
        ]
        return -np.mean(logs)

    def vmf(self, spheres, kappa):
        n, total = len(spheres[0]), 0.0
        for i in range(n):
            kernels = [
                math.exp(sum(vonmises_fisher(x[j], kappa).logpdf(x[i]) for x in spheres)) for j in range(n) if j != i
            ]
            total -= math.log(np.mean(kernels)) / n
        return total

    def test_scale(self):
        z, z2 = views(20, 4)
        more = objectives.plane_kde(3 * z, 3 * z2).entropy - objectives.plane_kde(z, z2).entropy
        assert float(more) == pytest.approx(2 * 4 * math.log(3), rel=1e-9)

    def test_a_wide_kernel_rewards_spreading_less(self):
        """Why the width matters: what H gains where a cap on the sphere opens by a half."""
        gains = []
        for kernel in (None, 20.0):
            H = []
            for size in (0.6, 0.9):
                cap = normalize(torch.eye(16, dtype=torch.float64)[0] + size * unit(200, 16), dim=1)
                H.append(float(objectives.sphere_kde(cap, cap, kernel=kernel).entropy))
            gains.append(H[1] - H[0])
        assert gains[0] > 2 * gains[1]


Z = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("call", "words"), [
    (lambda: objectives.plane_knn(Z, Z, k=8), "k is 8; it must be below the 8 pairs"),
    (lambda: check(Z.shape, k=2.5), "k is 2.5; it must be a whole number from 1"),
    (lambda: objectives.sphere_knn(Z, Z, clip=1.0), "clip is 1.0"),
    (lambda: objectives.plane_logdet(Z[:1], Z[:1]), "at least 2 pairs, got 1"),
    (lambda: objectives.sphere_logdet(Z, Z, correlation=0.0), "0.0; it must be a number above 0 and below 1"),
    (lambda: objectives.plane_kde(Z, Z, correlation=1.0), "correlation is 1.0"),
    (lambda: objectives.plane_kde(Z, Z, bandwidth=0.0), "bandwidth is 0.0"),
    (lambda: objectives.sphere_kde(Z, Z, kernel=-1.0), "kernel is -1.0"),
    (lambda: objectives.sphere_kde(Z[:, :1], Z[:, :1]), "a sphere needs at least 2 dimensions"),
    (lambda: objectives.categorical(Z, Z, p_match=1.0), "p_match is 1.0"),
    (lambda: objectives.simclr(Z, Z, temperature=math.nan), "temperature is nan"),
    (lambda: objectives.vicreg(Z, Z, variance=-1), "variance is -1; it must be a number from 0"),
])  # fmt: skip
def test_options_that_are_none(call, words):
    with pytest.raises(InputError) as caught:
        call()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@EVERY_CELL
@MI
def test_scrambled_pairs_score_lower(name, mutual_information):
    z, z2 = views(200, 4)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    assert float(CELLS[name](z, z2, mutual_information).value) > float(
        CELLS[name](z, z2[order], mutual_information).value
    )


class TestCategorical:
    K, P_MATCH = 4, 0.85

    def test_against_a_table(self):
        g = torch.Generator().manual_seed(0)
        a, b = 2 * torch.randn(2, 30, self.K, generator=g, dtype=torch.float64)
        q, q2 = (np.exp(x.numpy()) / np.exp(x.numpy()).sum(1, keepdims=True) for x in (a, b))
        R = np.mean([np.outer(x, y) for x, y in zip(q, q2, strict=True)], axis=0)
        P = np.full((self.K, self.K), (1 - self.P_MATCH) / (self.K - 1) / self.K)
        np.fill_diagonal(P, self.P_MATCH / self.K)
        without = -np.sum(R * np.log(R / P))
        information = np.sum(R * np.log(R / np.outer(R.sum(1), R.sum(0))))
        assert float(objectives.categorical(a, b, self.P_MATCH, False).value) == pytest.approx(without, rel=1e-10)
        with_mi = objectives.categorical(a, b, self.P_MATCH)
        assert float(with_mi.value) == pytest.approx(without + information, rel=1e-9)

    @MI
    def test_gradients(self, mutual_information):
        a, b = (x.requires_grad_() for x in views(7, 3))
        assert torch.autograd.gradcheck(
            lambda a, b: objectives.categorical(a, b, 0.9, mutual_information).value, (a, b)
        )

    def test_the_models_own_table_is_the_most(self):
        """Certain categories, alike in the share of pairs that the model says."""
        c = torch.arange(400) % self.K
        c2 = torch.where(torch.arange(400) // self.K % 20 < 17, c, (c + 1 + torch.arange(400) // 80 % 3) % self.K)
        logits = [200 * torch.nn.functional.one_hot(x, self.K).double() for x in (c, c2)]
        assert float(objectives.categorical(*logits, self.P_MATCH, False).value) == pytest.approx(0, abs=2e-2)
        alike = [logits[0], logits[0]]
        assert float(objectives.categorical(*alike, self.P_MATCH, False).value) == pytest.approx(math.log(self.P_MATCH))

    def test_certainty_in_single_precision_has_finite_gradients(self):
        logits = (1e4 * torch.eye(3)).requires_grad_()
        objectives.categorical(logits, logits + 0.0).value.backward()
        assert torch.isfinite(logits.grad).all()


def test_large_batch_of_many_dimensions():
    """4,096 pairs in 2,048 dimensions: an array of N x N x dim would take 137 GB. All cells: tests/benchmarks."""
    z = torch.randn(4096, 2048, generator=torch.Generator().manual_seed(0))
    z2 = (0.9 * z + 0.4 * z.roll(1, 1)).requires_grad_()
    F = objectives.plane_knn(z, z2)
    F.value.backward()
    assert math.isfinite(float(F.value.detach()))
    assert torch.isfinite(z2.grad).all()
    assert float(z2.grad.abs().sum()) > 0
