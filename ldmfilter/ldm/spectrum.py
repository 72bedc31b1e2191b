"""The effective rank of latents, from the eigenvalues of their covariance."""

import torch
from jaxtyping import Float
from torch import Tensor


def eigenspectrum(z: Float[Tensor, "sample latent"]) -> Float[Tensor, " latent"]:
    """Eigenvalues of Cov z as shares of their sum, the largest first; float64."""
    values = torch.linalg.eigvalsh(torch.cov(z.double().mT).reshape(z.shape[1], z.shape[1])).clamp_min(0).flip(0)
    return values / values.sum().clamp_min(torch.finfo(torch.float64).tiny)


def effective_rank(z: Float[Tensor, "sample latent"]) -> float:
    """Exponential of the entropy of the normalised eigenvalues of Cov z (Roy & Vetterli 2007)."""
    return rank_of(eigenspectrum(z))


def rank_of(variances: Float[Tensor, " latent"]) -> float:
    """Effective rank of a covariance with these eigenvalues, in any unit."""
    shares = variances.clamp_min(0)
    shares = shares / shares.sum().clamp_min(torch.finfo(shares.dtype).tiny)
    return float(torch.special.entr(shares).sum().exp())
