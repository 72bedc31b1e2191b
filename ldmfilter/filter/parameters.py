"""Raw, unconstrained parameters to a valid linear-Gaussian filter."""

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.linalg.blas import dtrsm
from scipy.linalg.lapack import dpotrf
from scipy.special import expit
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ldmfilter.filter.kalman import LinearGaussian
from ldmfilter.filter.linalg import from_host, on_host

COUPLING = 0.03  # initial deviation of the coupling between latent and further state dimensions


class Dynamics(nn.Module):
    """Raw parameters, each of any value, to a stable linear-Gaussian filter of unit-variance pseudo-observations.

    With X the stationary covariance of h, X = L L', any stable A with positive Q is A = L W L^-1 and
    Q = L (I - W W') L' for a W of norm below one, and any such W is G^-1 M with G G' = I + M M'. So M and L are
    free, A is stable, Q is positive definite, and the prior of each segment is X itself, with no equation
    to solve. The gauge: b = 0, X has variance 1 - r_i in the i-th latent dimension, where the observation noise
    R = diag(r) has the rest, so that z has variance one, as the whitened encoder gives it; the state
    dimensions beyond the latent ones have variance one. C = [I 0].

    Args:
        latent_dim: dimensions of z.
        state_dim: dimensions of h, at least latent_dim.
        decay: the initial eigenvalue of A, per bin, or one for each state.
        noise: the initial share r of a latent dimension's variance that is observation noise.
    """

    def __init__(self, latent_dim: int, state_dim: int, decay: ArrayLike, noise: float):
        super().__init__()
        self.latent_dim = latent_dim
        a = np.broadcast_to(np.asarray(decay, dtype=np.float64), state_dim)
        M = torch.diag(torch.from_numpy(a / np.sqrt(1 - a**2)).float())
        # Without a little coupling the dimensions beyond the latent ones have no gradient, and never get one.
        M[:latent_dim, latent_dim:] = COUPLING * torch.randn(latent_dim, state_dim - latent_dim)
        M[latent_dim:, :latent_dim] = COUPLING * torch.randn(state_dim - latent_dim, latent_dim)
        self.contraction = nn.Parameter(M)
        self.correlation = nn.Parameter(torch.zeros(state_dim, state_dim))
        self.noise = nn.Parameter(torch.full((latent_dim,), math.log(noise / (1 - noise))))

    def forward(self) -> LinearGaussian:
        """The filter's parameters, differentiable."""
        A, Q, r, P0 = _Valid.apply(self.contraction, self.correlation, self.noise)
        n = len(A)
        C = torch.eye(self.latent_dim, n, dtype=A.dtype, device=A.device)
        return LinearGaussian(A=A, Q=Q, C=C, R=torch.diag(r), b=r.new_zeros(n), P0=P0)


class _Valid(torch.autograd.Function):
    """The map of `Dynamics`, M, raw L and raw r to A, Q, r and P0, with its derivative written out.

    On the host in float64 by numpy, as `linalg.riccati`, and for the same reason. BLAS's dtrsm stays on
    one thread for small matrices, where LAPACK's dtrtrs waits for others.
    """

    @staticmethod
    def forward(ctx: Any, contraction: Tensor, correlation: Tensor, noise: Tensor) -> tuple[Tensor, ...]:
        M, raw, logit = map(on_host, (contraction, correlation, noise))
        n, latent = len(M), len(logit)
        # Rows of unit norm and a positive diagonal: the Cholesky factor of a correlation matrix.
        # Bounded below the diagonal, so that L stays well conditioned and A is stable in floating point too.
        below = np.tril(raw, -1)
        bound = (1 + (below**2).sum(1, keepdims=True) / 9) ** -0.5
        rows = below * bound + np.eye(n)
        norm = (rows**2).sum(1, keepdims=True) ** 0.5
        unit = rows / norm
        # A hundredth of the variance is noise at least, so that the gain stays below one.
        share = expit(logit)
        r = 0.01 + 0.99 * share
        scale = np.ones((n, 1))
        scale[:latent, 0] = np.maximum(1 - r, 1e-4) ** 0.5
        L = scale * unit
        G, _ = dpotrf(np.eye(n) + M @ M.T, lower=1)
        W = dtrsm(1.0, G, M, lower=1)
        A = dtrsm(1.0, L, L @ W, lower=1, side=1)  # L W L^-1
        Z = dtrsm(1.0, G, L, lower=1, side=1)  # L G^-1, as I - W W' = G^-1' G^-1
        ctx.save_for_backward(contraction)
        ctx.steps = M, below, bound, norm, unit, share, scale, L, G, W, A, Z
        return from_host(contraction, A, Z @ Z.T, r, L @ L.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        M, below, bound, norm, unit, share, scale, L, G, W, A, Z = ctx.steps
        gA, gQ, gr, gP0 = map(on_host, grads)
        latent = len(gr)
        gLZ = dtrsm(1.0, G, (gQ + gQ.T) @ Z, lower=1, side=1, trans_a=1)
        X = dtrsm(1.0, L, gA, lower=1, side=1, trans_a=1)
        Y = dtrsm(1.0, G, L.T @ X, lower=1, trans_a=1)
        gL = (gP0 + gP0.T) @ L + gLZ + X @ W.T - A.T @ X
        gG = -Z.T @ gLZ - Y @ W.T
        # Through the Cholesky factor of I + M M' (Murray 2016).
        inner = np.tril(G.T @ gG)
        inner[np.diag_indices_from(inner)] *= 0.5
        outer = dtrsm(1.0, G, dtrsm(1.0, G, inner, lower=1, trans_a=1), lower=1, side=1)
        gM = Y + (outer + outer.T) @ M
        # Through the scale, the unit norm and the bound of the rows of L.
        g_scale = (gL * unit).sum(1)[:latent]
        g_unit = scale * gL
        g_rows = (g_unit - unit * (g_unit * unit).sum(1, keepdims=True)) / norm
        g_bound = (g_rows * below).sum(1, keepdims=True)
        g_raw = np.tril(g_rows * bound - below * (bound**3 * g_bound / 9), -1)
        inside = 0.99 * (1 - share) > 1e-4
        g_logit = 0.99 * share * (1 - share) * (gr - np.where(inside, 0.5 * g_scale / scale[:latent, 0], 0))
        return from_host(ctx.saved_tensors[0], gM, g_raw, g_logit)
