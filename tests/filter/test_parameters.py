"""Whatever the raw parameters are, the filter is valid and its gauge is fixed."""

import pytest
import torch

from ldmfilter.filter.linalg import (
    JitterWarning,
    NotPositiveDefiniteError,
    safe_cholesky,
    stationary_covariance,
    symmetrise,
    whitening,
)
from ldmfilter.filter.parameters import Dynamics


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
@pytest.mark.parametrize(("latent", "state"), [(1, 1), (3, 3), (3, 7)])
def test_valid_by_construction(size, latent, state):
    torch.manual_seed(0)
    for _ in range(20):
        dynamics = Dynamics(latent, state, 0.98, 0.9).double()
        with torch.no_grad():
            for parameter in dynamics.parameters():
                parameter.normal_(0, size)
        model = dynamics()
        assert torch.linalg.eigvals(model.A).abs().max() < 1
        assert torch.linalg.eigvalsh(model.Q).min() > 0
        assert torch.linalg.eigvalsh(model.R).min() > 0
        marginal = model.C @ model.P0 @ model.C.mT + model.R
        # Noise of 99.99 % and more is cut: there the variance exceeds one by that much.
        torch.testing.assert_close(marginal.diagonal(), torch.ones(latent).double(), rtol=0, atol=2e-4)
        assert torch.equal(model.C, torch.eye(latent, state).double())


@pytest.mark.parametrize(("latent", "state"), [(2, 2), (2, 5)])
def test_the_prior_is_stationary(latent, state):
    torch.manual_seed(1)
    dynamics = Dynamics(latent, state, 0.98, 0.9).double()
    with torch.no_grad():
        for parameter in dynamics.parameters():
            parameter.normal_()
    model = dynamics()
    torch.testing.assert_close(stationary_covariance(model.A, model.Q), model.P0, rtol=0, atol=1e-9)


def test_every_parameter_has_a_gradient():
    torch.manual_seed(2)
    dynamics = Dynamics(2, 4, 0.98, 0.9).double()
    with torch.no_grad():
        for parameter in dynamics.parameters():
            parameter.normal_()
    names = [name for name, _ in dynamics.named_parameters()]

    def model(*values):
        return torch.func.functional_call(dynamics, dict(zip(names, values, strict=True)), ())

    assert torch.autograd.gradcheck(model, tuple(p.detach().requires_grad_() for p in dynamics.parameters()))


def test_whitening_makes_white_and_turns_little():
    torch.manual_seed(3)
    z = torch.randn(5_000, 4, dtype=torch.float64) @ torch.randn(4, 4, dtype=torch.float64) + 3.0
    mean, W = whitening(z, ridge=0)
    torch.testing.assert_close(torch.cov(((z - mean) @ W).mT), torch.eye(4).double(), rtol=0, atol=1e-9)
    torch.testing.assert_close(W, W.mT)
    # Samples that are white already stay as they are, the point where eigenvalues coincide.
    again = (z - mean) @ W
    torch.testing.assert_close(whitening(again, ridge=0)[1], torch.eye(4).double(), rtol=0, atol=1e-9)


def test_whitening_gradients_where_eigenvalues_coincide():
    torch.manual_seed(4)
    z = torch.randn(30, 3, dtype=torch.float64)
    mean, W = whitening(z, ridge=0)
    white = ((z - mean) @ W).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: whitening(x)[1], (white,))


def test_whitening_does_not_hide_a_collapse():
    torch.manual_seed(5)
    z = torch.randn(1_000, 1) @ torch.ones(1, 3) + 1e-6 * torch.randn(1_000, 3)
    mean, W = whitening(z)
    variances = torch.linalg.eigvalsh(torch.cov(((z - mean) @ W).mT))
    assert variances[-1] > 0.9
    assert variances[:2].max() < 0.01


def test_cholesky_repairs_rounding_and_says_so():
    v = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    singular = v.mT @ v - 1e-15 * torch.eye(2)
    with pytest.warns(JitterWarning, match="1 covariance"):
        L = safe_cholesky(symmetrise(singular))
    torch.testing.assert_close(L @ L.mT, singular, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("value", "message"), [(-1.0, "not positive definite"), (float("nan"), "NaN")])
def test_cholesky_refuses_what_is_no_covariance(value, message):
    P = torch.diag(torch.tensor([1.0, value]))
    with pytest.raises(NotPositiveDefiniteError, match=message):
        safe_cholesky(P)
