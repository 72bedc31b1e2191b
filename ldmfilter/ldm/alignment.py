"""Alignment: log-probabilities of latents under a latent model P_theta, in nats."""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def predictive_gaussian(
    z: Float[Tensor, "*batch latent"],
    zhat: Float[Tensor, "*batch latent"],
    S: Float[Tensor, "*shared latent latent"],
) -> Float[Tensor, "*batch"]:
    """log N(z; zhat, S) at each sample: the Kalman filter's predictive density.

    Args:
        z: samples.
        zhat: their predictions.
        S: covariance of the prediction, one that all share or one for each sample.

    Raises:
        torch.linalg.LinAlgError: S is not positive definite.
    """
    L = torch.linalg.cholesky(S)
    log_norm = L.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * z.shape[-1] * math.log(2 * math.pi)
    if S.ndim > 2:
        white = torch.linalg.solve_triangular(L, (z - zhat)[..., None], upper=False)[..., 0]
        return -0.5 * white.square().sum(-1) - log_norm
    error = (z - zhat).reshape(-1, z.shape[-1])
    white = torch.linalg.solve_triangular(L, error.mT, upper=False)
    return (-0.5 * white.square().sum(0) - log_norm).reshape(z.shape[:-1])
