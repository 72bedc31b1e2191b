"""Small symmetric matrices, kept positive definite; factorised, never inverted."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from scipy.linalg.blas import dtrsm
from scipy.linalg.lapack import dgesv, dpotrf
from threadpoolctl import threadpool_limits
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldmfilter.filter import recursions

Item = TypeVar("Item")
Result = TypeVar("Result")
Square = Float[Tensor, "n n"]


class NotPositiveDefiniteError(torch.linalg.LinAlgError, ValueError):
    """A matrix that should be a covariance is not one, even after the jitter that rounding explains."""


class JitterWarning(RuntimeWarning):
    """A covariance needed a little added to its diagonal before it could be factorised."""


@contextmanager
def one_thread(every_library: bool = False) -> Iterator[None]:
    """Compute on one thread within the block.

    The matrices are small: a second thread gains little, and costs 15 times the time where another program
    holds its core. One thread also makes the result the same on any number of cores.

    every_library: not torch alone, but numpy, scipy and scikit-learn too; to set it takes some ms
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1) if every_library else nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)


def on_cores(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results of work by numpy, scipy and scikit-learn, one item a core at a time, each on one thread, so that they
    are the same on any number of cores. `OMP_NUM_THREADS` limits the cores."""
    limit = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    cores = min(int(limit) if limit.isdigit() else os.cpu_count() or 1, len(items))
    if cores < 2:
        return [work(item) for item in items]
    # OpenMP's number of threads is one of each thread.
    with ThreadPoolExecutor(cores, initializer=threadpool_limits, initargs=(1, "openmp")) as pool:
        return list(pool.map(work, items))


def symmetrise(P: Float[Tensor, "*batch n n"]) -> Float[Tensor, "*batch n n"]:
    """The symmetric part, (P + P') / 2."""
    return 0.5 * (P.mT + P)  # in this order the sum lies as P does, which is several times faster


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


def tell_repairs(power: int) -> None:
    """Tell what a loop of `recursions` returns, the power of jitter that it took.

    Raises:
        NotPositiveDefiniteError: none was enough.
    Warns:
        JitterWarning: with the power.
    """
    if power > 4:
        raise NotPositiveDefiniteError("a covariance is not positive definite")
    if power:
        warnings.warn(f"covariances repaired with a jitter of 10^{power} machine epsilons", JitterWarning, stacklevel=4)


def stationary_covariance(A: Square, Q: Square) -> Square:
    """X with X = A X A' + Q for a stable A, by doubling: after k rounds it holds the first 2^k terms of
    sum_i A^i Q A'^i (Smith's method, R. A. Smith 1968).

    Raises:
        NotPositiveDefiniteError: the sum does not converge, so A is not stable.
    """
    X, M = Q, A
    for _ in range(60):
        term = M @ X @ M.mT
        X = symmetrise(X + term)
        M = M @ M
        if not bool(torch.isfinite(X).all()):
            break
        if bool(term.abs().max() <= torch.finfo(X.dtype).eps * X.abs().max()):
            return X
    raise NotPositiveDefiniteError("A is not stable: the state has no stationary covariance")


def on_host(x: Tensor) -> np.ndarray:
    """A small matrix in float64 for numpy."""
    return x.detach().cpu().double().numpy()


def from_host(like: Tensor, *values: np.ndarray) -> tuple[Tensor, ...]:
    """Back to tensors with the dtype and device of `like`."""
    return tuple(torch.from_numpy(np.ascontiguousarray(value)).to(like) for value in values)


def _cho_solve(S: np.ndarray, B: np.ndarray) -> np.ndarray:
    """S^-1 B by Cholesky's factorisation."""
    L, info = dpotrf(S, lower=1)
    if info:
        L = safe_cholesky(torch.from_numpy(S)).numpy()
    return dtrsm(1.0, L, dtrsm(1.0, L, B, lower=1), lower=1, trans_a=1)


class _Riccati(torch.autograd.Function):
    """By structure-preserving doubling (Chu, Fan & Lin 2005): round k spans 2^k bins. Backwards by the implicit
    function theorem: with the gain at its optimum, dP = F dP F' + (direct terms), F = A - A K C.

    These are dozens of operations on tiny matrices, which cost what it takes to start them: numpy on the host
    starts them several times faster than torch, and in float64 at no price.
    """

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> tuple[Tensor, ...]:
        A, Q, C, R = map(on_host, inputs)
        n = len(A)
        eye, M, P = np.eye(n), A.T, Q
        G = C.T @ _cho_solve(R, C)
        for _ in range(40):
            # (I + G P)^-1 [M, G M'], one factorisation for both.
            right = np.concatenate([M, G @ M.T], 1)
            *_, solved, info = dgesv(eye + G @ P, right)
            step = M.T @ (P @ solved[:, :n])
            G = G + M @ solved[:, n:]
            M = M @ solved[:, :n]
            G, P = 0.5 * (G + G.T), P + 0.5 * (step + step.T)
            # Each step is of the size of the last one's square: the next would be lost in rounding.
            if info or abs(step).max() <= 1e-9 * abs(P).max():
                break
        if info or not abs(step).max() <= 1e-9 * abs(P).max():
            raise NotPositiveDefiniteError("the filter has no steady state: A is not stable")
        CP = C @ P
        S = CP @ C.T + R
        S = 0.5 * (S + S.T)
        K = _cho_solve(S, CP).T
        out = from_host(inputs[0], P, S, K)
        ctx.save_for_backward(*inputs, *out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        A, _, C, _, P, S, K = map(on_host, ctx.saved_tensors)
        gP, gS, gK = map(on_host, grads)
        # K = P C' S^-1, then S = C P C' + R, then the equation for P.
        gKS = _cho_solve(S, gK.T).T
        gS = gS - K.T @ gKS
        gS = 0.5 * (gS + gS.T)
        V = gP + gKS @ C + C.T @ gS @ C
        V = 0.5 * (V + V.T)
        AK = A @ K
        M = F = A - AK @ C
        for _ in range(60):
            term = M.T @ V @ M
            V = V + term
            M = M @ M
            if abs(term).max() <= 1e-9 * abs(V).max():
                break
        VFP = V @ F @ P
        gC = gKS.T @ P + 2 * gS @ C @ P - 2 * AK.T @ VFP
        return from_host(ctx.saved_tensors[0], 2 * VFP, V, gC, gS + AK.T @ V @ AK)


def riccati(
    A: Square, Q: Square, C: Float[Tensor, "k n"], R: Float[Tensor, "k k"]
) -> tuple[Square, Float[Tensor, "k k"], Float[Tensor, "n k"]]:
    """P, S = C P C' + R and K = P C' S^-1, with P the solution of the discrete algebraic Riccati equation

        P = A P A' - A P C' S^-1 C P A' + Q,

    differentiable once. Computed on the host in float64.

    Raises:
        NotPositiveDefiniteError: the doubling does not converge, so A is not stable, or R is no covariance.
    """
    return _Riccati.apply(A, Q, C, R)


class _Gains(torch.autograd.Function):
    """The Riccati recursion from a first covariance; on the host in float64, as `_Riccati`, for the same reason."""

    @staticmethod
    def forward(ctx: Any, time: int, *inputs: Tensor) -> tuple[Tensor, ...]:
        A, Q, C, R, P0 = (np.ascontiguousarray(on_host(value)) for value in inputs)
        never, starts = np.full_like(P0, np.nan), np.arange(time) == 0
        P, _, S, K, row, power = recursions.filter_covariances(A, Q, C, R, P0, P0, never, np.ones(time), starts)
        tell_repairs(power)
        ctx.save_for_backward(*inputs)
        ctx.each = P[row], S[row], K[row]
        return from_host(inputs[0], S[row], K[row])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (A, _, C, _, _), (P, S, K), (gS, gK) = map(on_host, ctx.saved_tensors), ctx.each, map(on_host, grads)
        K_t = K.swapaxes(1, 2)
        # P_next = A U A' + Q, U = H P H' + K R K' with H = I - K C, whose derivative by K is zero.
        H = np.eye(len(A)) - K @ C
        F, HP = A @ H, H @ P
        # K = P C' S^-1, then S = C P C' + R.
        gKS_t = np.linalg.solve(S, gK.swapaxes(1, 2))
        gKS = gKS_t.swapaxes(1, 2)
        gS = gS - K_t @ gKS
        gS = 0.5 * (gS + gS.swapaxes(1, 2))
        direct = gKS @ C + C.T @ gS @ C
        V, ahead = np.zeros_like(A), np.empty_like(P)  # of each covariance, of the next one of each bin
        for t in range(len(P) - 1, -1, -1):
            ahead[t] = V
            V = F[t].T @ V @ F[t] + direct[t]
            V = 0.5 * (V + V.T)
        gU = A.T @ ahead @ A
        gC = gKS_t @ P + 2 * gS @ C @ P - 2 * K_t @ gU @ HP
        gR = gS + K_t @ gU @ K
        summed = ((2 * ahead @ A @ HP).sum(0), ahead.sum(0), gC.sum(0), gR.sum(0), V)
        return None, *from_host(ctx.saved_tensors[0], *summed)


def gains(
    A: Square, Q: Square, C: Float[Tensor, "k n"], R: Float[Tensor, "k k"], P0: Square, time: int
) -> tuple[Float[Tensor, "time k k"], Float[Tensor, "time n k"]]:
    """S = C P C' + R and K = P C' S^-1 of `time` bins, P of the first being P0 and then A (P - K C P) A' + Q,
    differentiable once. Computed on the host in float64.

    Raises:
        NotPositiveDefiniteError: S is no covariance.
    """
    return _Gains.apply(time, A, Q, C, R, P0)


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


def block_diagonal(parts: Sequence[NDArray]) -> NDArray:
    """Square matrices (*batch, n, n) as the blocks of one.

    >>> block_diagonal([np.ones((1, 1)), np.ones((2, 2))]).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
    """
    ends = np.cumsum([part.shape[-1] for part in parts])
    whole = np.zeros((*parts[0].shape[:-2], ends[-1], ends[-1]), parts[0].dtype)
    for part, end in zip(parts, ends, strict=True):
        whole[..., end - part.shape[-1] : end, end - part.shape[-1] : end] = part
    return whole
