"""Small symmetric matrices, kept positive definite; factorised, never inverted."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor


class NotPositiveDefiniteError(ValueError):
    """A matrix that should be a covariance is not one, even after the jitter that rounding explains."""


class JitterWarning(RuntimeWarning):
    """A covariance needed a little added to its diagonal before it could be factorised."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread within the block.

    The matrices are small: a second thread gains little, and costs 15 times the time where another program
    holds its core. One thread also makes the result the same on any number of cores.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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


class _InverseSqrt(torch.autograd.Function):
    """Symmetric C^(-1/2). Its derivative by Daleckii & Krein (1965), with the divided differences of
    x^(-1/2) in closed form, -1 / (sqrt(a b) (sqrt a + sqrt b)): no quotient of differences of eigenvalues, so that
    equal ones, as of white samples, do no harm."""

    @staticmethod
    def forward(ctx, C: Tensor) -> Tensor:
        values, V = torch.linalg.eigh(C)
        root = values.clamp_min(torch.finfo(C.dtype).tiny).sqrt()
        ctx.save_for_backward(root, V)
        return (V / root) @ V.mT

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        root, V = ctx.saved_tensors
        slope = -1 / (root[:, None] * root * (root[:, None] + root))
        return V @ (slope * (V.mT @ symmetrise(grad) @ V)) @ V.mT


def whitening(z: Float[Tensor, "sample dim"], ridge: float = 1e-4) -> tuple[Tensor, Tensor]:
    """Mean and symmetric matrix W with (z - mean) W white: W = (Cov z + ridge)^(-1/2) (ZCA), differentiable.

    The symmetric root turns z as little as possible. `ridge` is in units of the mean variance: directions in
    which z varies less are not blown up, so that a collapse stays visible.
    """
    mean = z.mean(0)
    centred = z - mean
    cov = centred.mT @ centred / (len(z) - 1)
    variance = cov.diagonal().mean().clamp_min(torch.finfo(z.dtype).tiny)
    eye = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)
    W: Tensor = _InverseSqrt.apply(symmetrise(cov) + ridge * variance * eye)
    return mean, W
