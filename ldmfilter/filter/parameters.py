"""Raw, unconstrained parameters to a valid linear-Gaussian filter."""

import math

import torch
from torch import nn

from ldmfilter.filter.kalman import LinearGaussian
from ldmfilter.filter.linalg import symmetrise

COUPLING = 0.03  # initial deviation of the coupling between latent and further state dimensions


class Dynamics(nn.Module):
    """Every linear-Gaussian filter with unit-variance pseudo-observations, and nothing else, by construction.

    With X the stationary covariance of h, X = L L', any stable A with positive Q is A = L W L^-1 and
    Q = L (I - W W') L' for a W of norm below one, and any such W is G^-1 M with G G' = I + M M'. So M and L are
    free, A is stable, Q is positive definite, and the prior of each segment is X itself, with no equation
    to solve. The gauge: b = 0, X has variance 1 - r_i in the i-th latent dimension, where the observation noise
    R = diag(r) has the rest, so that z has variance one, as the whitened encoder gives it; the state
    dimensions beyond the latent ones have variance one. C = [I 0].

    Args:
        latent_dim: dimensions of z.
        state_dim: dimensions of h, at least latent_dim.
        decay: the initial eigenvalue of A, per bin.
        noise: the initial share r of a latent dimension's variance that is observation noise.
    """

    def __init__(self, latent_dim: int, state_dim: int, decay: float, noise: float):
        super().__init__()
        self.latent_dim = latent_dim
        M = torch.eye(state_dim) * (decay / math.sqrt(1 - decay**2))
        # Without a little coupling the dimensions beyond the latent ones have no gradient, and never get one.
        M[:latent_dim, latent_dim:] = COUPLING * torch.randn(latent_dim, state_dim - latent_dim)
        M[latent_dim:, :latent_dim] = COUPLING * torch.randn(state_dim - latent_dim, latent_dim)
        self.contraction = nn.Parameter(M)
        self.correlation = nn.Parameter(torch.zeros(state_dim, state_dim))
        self.noise = nn.Parameter(torch.full((latent_dim,), math.log(noise / (1 - noise))))

    def forward(self) -> LinearGaussian:
        """The filter's parameters, differentiable."""
        M = self.contraction
        n = len(M)
        eye = torch.eye(n, dtype=M.dtype, device=M.device)
        # Rows of unit norm and a positive diagonal: the Cholesky factor of a correlation matrix.
        # Bounded below the diagonal, so that L stays well conditioned and A is stable in floating point too.
        below = self.correlation.tril(-1)
        L = below / (1 + below.square().sum(1, keepdim=True) / 9).sqrt() + eye
        L = L / L.norm(dim=1, keepdim=True)
        # A hundredth of the variance is noise at least, so that the gain stays below one.
        r = 0.01 + 0.99 * torch.sigmoid(self.noise)
        scale = torch.cat([(1 - r).clamp_min(1e-4).sqrt(), r.new_ones(n - self.latent_dim)])
        L = scale[:, None] * L
        G = torch.linalg.cholesky(eye + M @ M.mT)
        W = torch.linalg.solve_triangular(G, M, upper=False)
        A = torch.linalg.solve_triangular(L, L @ W, upper=False, left=False)  # L W L^-1
        LZ = L @ torch.linalg.solve_triangular(G, eye, upper=False)  # I - W W' = G^-1 G'^-1
        return LinearGaussian(
            A=A,
            Q=symmetrise(LZ @ LZ.mT),
            C=eye[: self.latent_dim],
            R=torch.diag(r),
            b=r.new_zeros(n),
            P0=symmetrise(L @ L.mT),
        )
