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
        S: covariance of the prediction, one for all, or one for each index of the last dimensions of the batch.

    Raises:
        torch.linalg.LinAlgError: S is not positive definite.
    """
    L = torch.linalg.cholesky(S)
    log_norm = L.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * z.shape[-1] * math.log(2 * math.pi)
    error = (z - zhat).reshape(-1, *S.shape[:-1]).movedim(0, -1)  # those of one covariance are solved for together
    white = torch.linalg.solve_triangular(L, error, upper=False)
    return (-0.5 * white.square().sum(-2) - log_norm[..., None]).movedim(-1, 0).reshape(z.shape[:-1])


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


def gaussian_pair(
    z: Float[Tensor, "sample dim"], z2: Float[Tensor, "sample dim"], correlation: float
) -> Float[Tensor, " sample"]:
    """log P(z, z') of two views on the plane: standard normal each, correlated by rho in every dimension.

    In the coordinates s = (z + z') / sqrt 2 and t = (z - z') / sqrt 2 this is N(s; 0, (1 + rho) I) N(t; 0, (1 - rho) I)
    and the pull of two views towards each other is that of t, of weight 1 / 4 (1 - rho) on |z - z'|^2.
    """
    common, different = (z + z2).square().sum(-1), (z - z2).square().sum(-1)
    log_norm = z.shape[-1] * (math.log(2 * math.pi) + 0.5 * math.log1p(-(correlation**2)))
    return -0.25 * common / (1 + correlation) - 0.25 * different / (1 - correlation) - log_norm


def log_sphere_area(dim: int) -> float:
    """Log area of the unit sphere in `dim` dimensions."""
    return math.log(2) + 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim)


def log_vmf_norm(dim: int, concentration: float) -> float:
    """Log normaliser of the von Mises-Fisher density in `dim` dimensions, (2 pi)^(-nu - 1) kappa^nu / I_nu(kappa) with
    nu = dim / 2 - 1 (Mardia & Jupp 2000, 9.3.4).

    The Bessel function's power series has positive terms alone: it is summed by logarithms, where I_nu itself would
    leave the range of floats.
    """
    nu = 0.5 * dim - 1
    k = torch.arange(int(concentration) + 64, dtype=torch.float64)
    terms = 2 * k * math.log(0.5 * concentration) - torch.lgamma(k + 1) - torch.lgamma(k + nu + 1)
    return nu * math.log(2) - float(torch.logsumexp(terms, 0)) - (nu + 1) * math.log(2 * math.pi)


def von_mises_fisher(
    z: Float[Tensor, "sample dim"], mean: Float[Tensor, "sample dim"], concentration: float
) -> Float[Tensor, " sample"]:
    """Log density on the unit sphere at each sample, kappa z . mean + log normaliser; both arguments of unit length."""
    return concentration * (z * mean).sum(-1) + log_vmf_norm(z.shape[-1], concentration)


def matching(
    q: Float[Tensor, "sample category"], q2: Float[Tensor, "sample category"], p_match: float
) -> Float[Tensor, " sample"]:
    """<log P(c, c')> of two discrete latents that are c with probability q_c and c' with q'_c, independently.

    Latent model: c is any of K categories alike; c' is the same with probability p_match, else any other alike.
    """
    n = q.shape[-1]
    same = (q * q2).sum(-1)
    return same * math.log(p_match) + (1 - same) * math.log((1 - p_match) / (n - 1)) - math.log(n)
