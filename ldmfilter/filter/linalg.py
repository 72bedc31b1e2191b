"""Small symmetric matrices, kept positive definite; factorised, never inverted."""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor


class NotPositiveDefiniteError(ValueError):
    """A matrix that should be a covariance is not one, even after the jitter that rounding explains."""


class JitterWarning(RuntimeWarning):
    """A covariance needed a little added to its diagonal before it could be factorised."""


def symmetrise(P: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The symmetric part, (P + P') / 2."""
    return 0.5 * (P + P.mT)


def safe_cholesky(P: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """Lower Cholesky factor of a covariance; jitter is added only where the plain factorisation fails.

    Raises:
        NotPositiveDefiniteError: P is not finite, or is indefinite beyond what rounding explains
            (10^4 machine epsilons of its mean diagonal).
    Warns:
        JitterWarning: with the number of matrices that were repaired.
    """
    L, info = torch.linalg.cholesky_ex(P)
    bad = info != 0
    if not bool(bad.any()):
        return L
    if not bool(torch.isfinite(P).all()):
        raise NotPositiveDefiniteError("a covariance holds NaN or infinity")
    n = P.shape[-1]
    scale = P.diagonal(dim1=-2, dim2=-1).mean(-1).clamp_min(torch.finfo(P.dtype).tiny)
    eye = torch.eye(n, dtype=P.dtype, device=P.device)
    for power in (1, 2, 3, 4):
        jitter = torch.where(bad, scale * torch.finfo(P.dtype).eps * 10**power, torch.zeros_like(scale))
        L, info = torch.linalg.cholesky_ex(P + jitter[..., None, None] * eye)
        if not bool((info != 0).any()):
            warnings.warn(
                f"{int(bad.sum())} covariance(s) repaired with a jitter of 10^{power} machine epsilons",
                JitterWarning,
                stacklevel=2,
            )
            return L
    raise NotPositiveDefiniteError(f"{int((info != 0).sum())} covariance(s) are not positive definite")


def stationary_covariance(
    A: Float[Tensor, "n n"], Q: Float[Tensor, "n n"], max_doublings: int = 60
) -> Float[Tensor, "n n"]:
    """X with X = A X A' + Q for a stable A, by doubling: after k rounds it holds the first 2^k terms of
    sum_i A^i Q A'^i (Smith's method, R. A. Smith 1968).

    Raises:
        NotPositiveDefiniteError: the sum does not converge, so A is not stable.
    """
    X, M = Q, A
    for _ in range(max_doublings):
        term = M @ X @ M.mT
        X = symmetrise(X + term)
        M = M @ M
        if not bool(torch.isfinite(X).all()):
            break
        if bool(term.abs().max() <= torch.finfo(X.dtype).eps * X.abs().max()):
            return X
    raise NotPositiveDefiniteError("A is not stable: the state has no stationary covariance")
