"""A linear Gaussian system whose latents are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_discrete_lyapunov

from ldmfilter.data.tables import Floats


@dataclass(frozen=True, eq=False)
class LinearGaussianWorld:
    """A linear Gaussian system and one sequence drawn from it; float64, no units.

    h_t = b + A (h_{t-1} - b) + w_t, w ~ N(0, Q); z_t = C h_t + v_t, v ~ N(0, R); h_0 stationary.
    A, Q (state, state), C (latent, state), R (latent, latent), b (state,), h (time, state), z (time, latent)
    """

    A: Floats
    Q: Floats
    C: Floats
    R: Floats
    b: Floats
    h: Floats
    z: Floats


def linear_gaussian_world(
    seed: int = 0, n_steps: int = 200, state_dim: int = 4, latent_dim: int = 2, radius: float = 0.95
) -> LinearGaussianWorld:
    """Draw a stable system of a spectral radius, with full Q and R and C = [I 0], and a sequence of it."""
    rng = np.random.default_rng(seed)

    def covariance(dim: int, scale: float) -> Floats:
        root = rng.standard_normal((dim, dim))
        return scale * (root @ root.T / dim + 0.2 * np.eye(dim))

    A = radius * np.linalg.qr(rng.standard_normal((state_dim, state_dim)))[0]
    Q, R = covariance(state_dim, 0.3), covariance(latent_dim, 0.5)
    C = np.eye(latent_dim, state_dim)
    b = rng.standard_normal(state_dim)
    h = np.empty((n_steps, state_dim))
    h[0] = rng.multivariate_normal(b, solve_discrete_lyapunov(A, Q), method="cholesky")
    noise = rng.standard_normal((n_steps, state_dim)) @ np.linalg.cholesky(Q).T
    for t in range(1, n_steps):
        h[t] = b + A @ (h[t - 1] - b) + noise[t]
    z = h @ C.T + rng.standard_normal((n_steps, latent_dim)) @ np.linalg.cholesky(R).T
    return LinearGaussianWorld(A, Q, C, R, b, h, z)
