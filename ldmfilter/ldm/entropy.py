"""Differential entropies of samples, in nats, differentiable. Each is written once and used everywhere.

Samples have shape (sample, dim). `group` marks samples that are not independent of one another (bins of one
training window): a sample is never compared with its own group (a Theiler window).
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor


def log_unit_ball(d: int) -> float:
    """Log volume of the unit ball in d dimensions."""
    return 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1.0)


def _distances(
    z: Float[Tensor, "sample dim"], group: Int[Tensor, " sample"] | None
) -> tuple[Float[Tensor, "sample sample"], Tensor]:
    """Squared distances between all pairs, and which pairs may be compared."""
    squared = (z[:, None, :] - z[None, :, :]).square().sum(-1)
    if group is None:
        group = torch.arange(len(z), device=z.device)
    return squared, group[:, None] != group[None, :]


def knn(
    z: Float[Tensor, "sample dim"],
    group: Int[Tensor, " sample"] | None = None,
    k: int = 3,
    clip: float = 0.0,
) -> Float[Tensor, ""]:
    """Kozachenko-Leonenko estimate from the distance eps to the k-th nearest neighbour,

        H = psi(N) - psi(k) + log V_d + d <log eps>

    with N the number of samples that a sample is compared with, plus one, and V_d the unit ball's volume
    (Kozachenko & Leonenko 1987). `clip`: the share of the largest distances that is set to the largest one
    below it, so that outliers do not pull (the paper uses k = 3 and 0.1; exact only with 0).

    Raises:
        ValueError: fewer than k samples outside a sample's own group.
    """
    squared, allowed = _distances(z, group)
    others = allowed.sum(1)
    if int(others.min()) < k:
        raise ValueError(f"kNN entropy needs at least {k} samples outside each group, got {int(others.min())}")
    with torch.no_grad():
        nearest = squared.masked_fill(~allowed, math.inf).topk(k, largest=False).indices[:, -1]
    eps2 = (z - z[nearest]).square().sum(-1).clamp_min(torch.finfo(z.dtype).tiny)
    log_eps = 0.5 * eps2.log()
    if clip > 0:
        log_eps = log_eps.clamp_max(torch.quantile(log_eps.detach(), 1.0 - clip))
    d = z.shape[1]
    psi_n = torch.digamma(others.to(z.dtype) + 1.0).mean()
    psi_k = torch.digamma(torch.tensor(float(k), dtype=z.dtype, device=z.device))
    return psi_n - psi_k + log_unit_ball(d) + d * log_eps.mean()


def logdet(
    z: Float[Tensor, "sample dim"], group: Int[Tensor, " sample"] | None = None, ridge: float = 1e-6
) -> Float[Tensor, ""]:
    """Entropy of the Gaussian with the samples' covariance, 1/2 log det(2 pi e Cov z): an upper bound.

    `ridge` is added to the diagonal, so that a collapsed z gives a finite, large gradient back. `group` is not
    used: a covariance compares each sample with the mean.
    """
    d = z.shape[1]
    centred = z - z.mean(0)
    cov = centred.mT @ centred / (len(z) - 1)
    cov = cov + ridge * torch.eye(d, dtype=z.dtype, device=z.device)
    half_logdet = torch.linalg.cholesky(cov).diagonal().log().sum()
    return half_logdet + 0.5 * d * math.log(2 * math.pi * math.e)


def kde(
    z: Float[Tensor, "sample dim"],
    group: Int[Tensor, " sample"] | None = None,
    bandwidth: float | None = None,
) -> Float[Tensor, ""]:
    """Leave-one-out kernel density estimate with a Gaussian kernel, H = -<log p_-i(z_i)>, by log-sum-exp.

    `bandwidth` is the kernel's standard deviation; None takes Scott's rule for unit variance, N^(-1/(d+4)).

    Raises:
        ValueError: a sample has nothing outside its own group.
    """
    n, d = z.shape
    squared, allowed = _distances(z, group)
    others = allowed.sum(1)
    if int(others.min()) < 1:
        raise ValueError("KDE entropy needs at least one sample outside each group")
    h = n ** (-1.0 / (d + 4)) if bandwidth is None else bandwidth
    log_kernel = (-0.5 / h**2 * squared).masked_fill(~allowed, -math.inf)
    log_p = torch.logsumexp(log_kernel, 1) - others.to(z.dtype).log()
    return -(log_p - d * math.log(h) - 0.5 * d * math.log(2 * math.pi)).mean()


#: Entropy estimators by the name that `--entropy` takes; the stop-gradient needs none (see `objectives`).
ENTROPIES: dict[str, Callable[..., Tensor]] = {"knn": knn, "logdet": logdet, "kde": kde}
