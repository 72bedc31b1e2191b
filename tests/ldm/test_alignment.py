"""Densities of single sources, against scipy's and by integration."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from ldmfilter.ldm.alignment import generalized_gaussian, logistic

Y = torch.linspace(-6, 6, 101, dtype=torch.float64)


@pytest.mark.parametrize("sd", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0, 4.0, 12.0])
def test_generalized_gaussian_is_scipy_s(beta, sd):
    scale = sd / stats.gennorm(beta).std()
    expected = stats.gennorm(beta, scale=scale).logpdf(Y.numpy())
    np.testing.assert_allclose(generalized_gaussian(Y, beta, sd).numpy(), expected, rtol=1e-9, atol=1e-9)


def test_generalized_gaussian_holds_laplace_s_and_the_gaussian():
    laplace = stats.laplace(scale=math.sqrt(0.5)).logpdf(Y.numpy())
    np.testing.assert_allclose(generalized_gaussian(Y, 1.0).numpy(), laplace, atol=1e-12)
    np.testing.assert_allclose(generalized_gaussian(Y, 2.0, 0.7).numpy(), stats.norm.logpdf(Y, scale=0.7), atol=1e-9)


def test_a_shape_and_a_scale_for_each_source():
    y = Y[:, None].expand(-1, 3)
    beta = torch.tensor([1.0, 3.0, 8.0], dtype=torch.float64)
    sd = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    alone = [generalized_gaussian(Y, float(b), float(s)) for b, s in zip(beta, sd, strict=True)]
    torch.testing.assert_close(generalized_gaussian(y, beta, sd), torch.stack(alone, 1))


@pytest.mark.parametrize("sd", [0.3, 1.0, 2.5])
def test_logistic_is_scipy_s(sd):
    density = stats.logistic(scale=sd * math.sqrt(3) / math.pi)
    assert density.std() == pytest.approx(sd)
    np.testing.assert_allclose(logistic(Y, sd).numpy(), density.logpdf(Y.numpy()), atol=1e-12)


def test_logistic_does_not_overflow_far_out():
    y = torch.tensor([-1e6, 1e6], requires_grad=True)
    value = logistic(y)
    value.sum().backward()
    slope = math.pi / math.sqrt(3)
    np.testing.assert_allclose(value.detach().numpy(), -1e6 * slope, rtol=1e-5)
    np.testing.assert_allclose(y.grad.numpy(), [slope, -slope], rtol=1e-5)


@pytest.mark.parametrize("beta", [1.0, 1.2, 2.0, 4.0, 12.0])
def test_a_rounded_corner_leaves_a_density(beta):
    """Integral 1 within 0.001, the same variance within 0.01, and a slope of zero at zero."""

    def density(y: float, power: int = 0) -> float:
        log_p = generalized_gaussian(torch.tensor(y, dtype=torch.float64), beta, corner=0.01)
        return y**power * math.exp(float(log_p))

    total, variance = (
        2 * sum(integrate.quad(density, *ends, args=(power,))[0] for ends in ((0, 0.1), (0.1, 3), (3, 25)))
        for power in (0, 2)
    )
    assert total == pytest.approx(1, abs=0.001)
    assert variance == pytest.approx(1, abs=0.01)
    zero = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    generalized_gaussian(zero, beta, corner=0.01).sum().backward()
    assert float(zero.grad) == 0
    curve = torch.tensor([-1e-3, 0.0, 2e-3], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda y: generalized_gaussian(y, beta, corner=0.01), (curve,))
