"""Alignment: log-probabilities of latents under a latent model P_theta, in nats."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def predictive_gaussian(
    z: Float[Tensor, "*batch latent"],
    zhat: Float[Tensor, "*batch latent"],
    S: Float[Tensor, "latent latent"],
) -> Float[Tensor, "*batch"]:
    """log N(z; zhat, S) at each sample: the Kalman filter's predictive density, with a shared covariance.

    Raises:
        torch.linalg.LinAlgError: S is not positive definite.
    """
    L = torch.linalg.cholesky(S)
    error = (z - zhat).reshape(-1, z.shape[-1])
    white = torch.linalg.solve_triangular(L, error.mT, upper=False)
    log_norm = L.diagonal().log().sum() + 0.5 * z.shape[-1] * math.log(2 * math.pi)
    return (-0.5 * white.square().sum(0) - log_norm).reshape(z.shape[:-1])
