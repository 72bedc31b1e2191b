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


def generalized_gaussian(
    y: Float[Tensor, "*batch"],
    shape: float | Float[Tensor, "*#batch"],
    sd: float | Float[Tensor, "*#batch"] = 1.0,
    corner: float = 0.0,
) -> Float[Tensor, "*batch"]:
    """log p(y) of one source with mean zero and standard deviation `sd`,

        p(y) = beta / (2 alpha Gamma(1/beta)) exp(-|y / alpha|^beta),  alpha = sd sqrt(Gamma(1/beta) / Gamma(3/beta))

    with beta = `shape`: 1 is Laplace's density, 2 the Gaussian (alpha^2 = 2 sd^2), and large ones come close to the
    uniform (Nadarajah 2005, *A generalized normal distribution*).

    `corner` rounds |y / alpha| to sqrt((y / alpha)^2 + corner^2): a gradient method then finds a smooth objective where
    beta < 2. Exact only with 0; with 0.01 the density integrates to 1 within 0.001.
    """
    beta = torch.as_tensor(shape, dtype=y.dtype, device=y.device)
    log_alpha = 0.5 * (torch.lgamma(1 / beta) - torch.lgamma(3 / beta)) + torch.as_tensor(sd, dtype=y.dtype).log()
    x = y / log_alpha.exp()
    size = (x.square() + corner**2).pow(0.5 * beta) if corner else x.abs().pow(beta)
    return (beta / 2).log() - log_alpha - torch.lgamma(1 / beta) - size


def logistic(y: Float[Tensor, "*batch"], sd: float = 1.0) -> Float[Tensor, "*batch"]:
    """log p(y) of one source with mean zero and standard deviation `sd`,

        p(y) = 1 / (4 s) sech^2(y / 2 s),  s = sd sqrt(3) / pi

    the density behind infomax ICA (Bell & Sejnowski 1995; MacKay 1996).
    """
    s = sd * math.sqrt(3) / math.pi
    size = y.abs() / s  # p is even; of the two ways to write it, this one never overflows
    return -size - 2 * torch.log1p(torch.exp(-size)) - math.log(s)
