"""Differential entropies of samples, in nats, differentiable. Each is written once and used everywhere.

Samples have shape (sample, dim). `group` marks samples that are not independent of one another (bins of one
training window): a sample is never compared with its own group (a Theiler window).

Nothing here holds all pairs of samples at once: a k-d tree finds neighbours in O(N log N) where one pays, and
elsewhere pairs are gone through in tiles, some rows of the N x N matrix of distances at a time.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial import cKDTree
from scipy.special import digamma
from torch import Tensor
from torch.autograd.function import once_differentiable

from ldmfilter.ldm.alignment import log_vmf_norm

Samples = Float[Tensor, "sample dim"]
Groups = Int[Tensor, " sample"]
Scalar = Float[Tensor, ""]

#: Pairs of samples in a tile. On the CPU the tile stays near the processor's caches; a GPU wants more at once.
TILE_CPU, TILE_CUDA = 2**18, 2**26
#: Where a k-d tree beats tiles, measured on one core with normal samples: in more dimensions it looks at nearly every
#: sample, and a few hundred samples are compared as fast as a tree is built.
TREE_MOST_DIMS, TREE_LEAST_SAMPLES = 12, 512
#: Above this many dimensions distances are taken from a product of matrices, of so many rows at a time that it pays.
PRODUCT_LEAST_DIMS, PRODUCT_LEAST_ROWS = 64, 256


def log_unit_ball(d: int) -> float:
    """Log volume of the unit ball in d dimensions."""
    return 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d + 1.0)


def scott(n: int, d: int) -> float:
    """Width of a Gaussian kernel by Scott's rule, for n samples of unit variance in each of d dimensions."""
    return n ** (-1.0 / (d + 4))


def _groups(z: Samples, group: Groups | None) -> tuple[Groups, Groups]:
    """Each sample's group, its own where none is given, and how many samples lie outside it."""
    group = torch.arange(len(z), device=z.device) if group is None else group
    _, group, size = torch.unique(group, return_inverse=True, return_counts=True)
    return group, len(z) - size[group]


def _tiles(
    z: Samples, group: Groups, of: Int[Tensor, " row"] | None = None
) -> Iterator[tuple[Int[Tensor, " tile_row"], Float[Tensor, "tile_row sample"]]]:
    """The matrix of distances some rows at a time, infinite within a group; the caller may overwrite a tile.

    `of`: the samples whose rows are wanted; None takes all.
    """
    of = torch.arange(len(z), device=z.device) if of is None else of
    height = max(1, (TILE_CPU if z.device.type == "cpu" else TILE_CUDA) // len(z))
    # Differences, not |a|^2 + |b|^2 - 2 a'b: this would lose the small distances to rounding. In many dimensions it is
    # many times as fast, and does no harm: kernels are about as wide as the samples are spread, and `knn` takes the
    # distance to a neighbour anew.
    many = z.shape[1] > PRODUCT_LEAST_DIMS
    if many:
        height = max(height, PRODUCT_LEAST_ROWS)
        x = z - z.mean(0)
        square = x.square().sum(1)
    for rows in of.split(height):
        if many:
            both = square[rows, None] + square
            distance = both.addmm_(x[rows], x.mT, alpha=-2).clamp_min_(0).sqrt_()
        else:
            distance = torch.cdist(z[rows], z, compute_mode="donot_use_mm_for_euclid_dist")
        yield rows, distance.masked_fill_(group[rows, None] == group[None, :], math.inf)


def _nearest_in_tree(x: np.ndarray, group: np.ndarray, k: int, ask: int, workers: int) -> np.ndarray:
    """Index of each sample's k-th nearest neighbour outside its own group, -1 where fewer than k of the nearest
    `ask` samples, itself among them, are outside."""
    tree = cKDTree(x)
    nearest = np.empty(len(x), np.int64)
    for rows in np.array_split(np.arange(len(x)), math.ceil(len(x) * ask / TILE_CPU)):
        found = tree.query(x[rows], ask, workers=workers)[1]
        rank = np.cumsum(group[found] != group[rows, None], axis=1)
        kth = found[np.arange(len(rows)), (rank == k).argmax(1)]
        nearest[rows] = np.where(rank[:, -1] >= k, kth, -1)
    return nearest


@torch.no_grad()
def _nearest(z: Samples, group: Groups, k: int, largest: int) -> Groups:
    """Index of each sample's k-th nearest neighbour outside its own group, of at most `largest` samples."""
    n, d = z.shape
    nearest = torch.full((n,), -1, device=z.device)
    in_tree = z.device.type == "cpu" and n > TREE_LEAST_SAMPLES and d <= TREE_MOST_DIMS
    if in_tree and bool(torch.isfinite(z).all()):  # a tree refuses NaN, which is the caller's to find in the result
        ask = k + min(largest, 3 * k)
        found = _nearest_in_tree(z.double().numpy(), group.numpy(), k, ask, torch.get_num_threads())
        nearest = torch.from_numpy(found)
    # What is left where there is no tree is all; else samples in the middle of a large group of their own.
    left = (nearest < 0).nonzero()[:, 0]
    for rows, distance in _tiles(z, group, left):
        nearest[rows] = distance.topk(k, largest=False).indices[:, -1]
    return nearest


def knn(
    z: Samples,
    group: Groups | None = None,
    k: int = 3,
    clip: float = 0.0,
    manifold: int | None = None,
) -> Scalar:
    """Kozachenko-Leonenko estimate from the distance eps to the k-th nearest neighbour,

        H = psi(N) - psi(k) + log V_d + d <log eps>

    with N the number of samples that a sample is compared with, plus one, and V_d the unit ball's volume
    (Kozachenko & Leonenko 1987). `clip`: the share of the largest distances whose logarithms are
    cut to their quantile at 1 - `clip`, interpolated between samples, so that outliers do not pull (the paper uses
    k = 3 and 0.1; exact only with 0). `manifold`: the number of dimensions d of the surface that the samples lie on,
    where it is not all of space; its density is then per unit area, and flat balls stand for its own, which small ones
    are.

    Which sample is the neighbour is found without gradient; only its distance is differentiated.

    Raises:
        ValueError: fewer than k samples outside a sample's own group.
    """
    group, others = _groups(z, group)
    fewest = int(others.min())
    if fewest < k:
        raise ValueError(f"kNN entropy needs at least {k} samples outside each group, got {fewest}")
    neighbour = z.index_select(0, _nearest(z.detach(), group, k, len(z) - fewest))
    eps2 = (z - neighbour).square().sum(-1).clamp_min(torch.finfo(z.dtype).tiny)
    log_eps = 0.5 * eps2.log()
    if clip > 0:
        log_eps = log_eps.clamp_max(torch.quantile(log_eps.detach(), 1.0 - clip))
    d = z.shape[1] if manifold is None else manifold
    psi_n = torch.digamma(others.to(z.dtype) + 1.0).mean()
    return psi_n - float(digamma(k)) + log_unit_ball(d) + d * log_eps.mean()


def logdet(z: Samples, group: Groups | None = None, ridge: float = 1e-6) -> Scalar:
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


def linear(W: Float[Tensor, "latent feature"]) -> Scalar:
    """The entropy that a linear encoder z = W x adds to that of x, log|det W|: exact, without samples.

    With fewer latents than features 1/2 log det(W W'): against the entropy of x on the axes that W keeps.
    """
    if W.shape[0] == W.shape[1]:
        return torch.linalg.slogdet(W).logabsdet
    return 0.5 * torch.linalg.slogdet(W @ W.mT).logabsdet


class _MeanLogKernel(torch.autograd.Function):
    """Mean over i of log sum_j exp(-|z_i - z_j|^2 / 2 h^2), j outside the group of i.

    The gradient is summed up tile by tile on the way forward, from the weights w_ij that the log-sum-exp has anyway:
    that of row i is sum_j (w_ij + w_ji) (z_j - z_i) / h^2, so that no tile is kept or computed twice.
    """

    @staticmethod
    def forward(ctx, z: Tensor, group: Tensor, h: float) -> Tensor:
        x = z - z.mean(0)  # sum_j w_ij (z_j - z_i) is taken as a difference of two sums: keep both small
        total = z.new_zeros(())
        pull = torch.zeros_like(z)
        for rows, distance in _tiles(z, group):
            log_kernel = distance.square_().mul_(-0.5 / h**2)
            log_sum = torch.logsumexp(log_kernel, 1, keepdim=True)
            total += log_sum.sum()
            if ctx.needs_input_grad[0]:
                weight = log_kernel.sub_(log_sum).exp_()
                pull[rows] += weight @ x - x[rows]
                pull += weight.mT @ x[rows] - weight.sum(0)[:, None] * x
        ctx.save_for_backward(pull / (len(z) * h**2))
        return total / len(z)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return grad * ctx.saved_tensors[0], None, None


def kde(
    z: Samples,
    group: Groups | None = None,
    bandwidth: float | None = None,
) -> Scalar:
    """Leave-one-out kernel density estimate with a Gaussian kernel, H = -<log p_-i(z_i)>, by log-sum-exp.

    `bandwidth` is the kernel's standard deviation, in the units of z; None takes Scott's rule for unit variance,
    N^(-1/(d+4)). Differentiable once.

    Raises:
        ValueError: a sample has nothing outside its own group.
    """
    n, d = z.shape
    group, others = _groups(z, group)
    if int(others.min()) < 1:
        raise ValueError("KDE entropy needs at least one sample outside each group")
    h = scott(n, d) if bandwidth is None else bandwidth
    log_kernel: Tensor = _MeanLogKernel.apply(z, group, h)
    log_p = log_kernel - others.to(z.dtype).log().mean() - d * math.log(h) - 0.5 * d * math.log(2 * math.pi)
    return -log_p


def vmf_kde(z: Samples, concentration: float, spheres: int = 1) -> Scalar:
    """Leave-one-out kernel density estimate on the unit sphere, by a von Mises-Fisher kernel.

    `spheres`: of how many points on spheres of their own, side by side, a sample is made; the kernel is the product of
    one for each. Of unit vectors, exp(kappa z . u) is exp(kappa) times a Gaussian kernel of variance 1 / kappa: only
    the normaliser is another than `kde`'s.
    """
    d = z.shape[1]
    log_gaussian = 0.5 * d * (math.log(concentration) - math.log(2 * math.pi))
    log_vmf = log_vmf_norm(d // spheres, concentration) + concentration
    return kde(z, bandwidth=concentration**-0.5) + log_gaussian - spheres * log_vmf


def logdet_second_order(z: Samples) -> Scalar:
    """`logdet` to second order in the correlations r between dimensions, without its ridge:

        H = 1/2 sum_i log(2 pi e Var z_i) - 1/4 sum_(i != j) r_ij^2

    from log det(I + E) = tr E - tr E^2 / 2 + O(E^3): a reward of variance and a punishment of correlation, as VICReg
    has them.
    """
    centred = z - z.mean(0)
    std = centred.square().sum(0).div(len(z) - 1).sqrt()
    white = centred / std
    r = white.mT @ white / (len(z) - 1)
    off = r.square().sum() - r.diagonal().square().sum()
    return std.log().sum() - 0.25 * off + 0.5 * z.shape[1] * math.log(2 * math.pi * math.e)


def variance_covariance(z: Samples, variance: float = 25.0, covariance: float = 1.0) -> Scalar:
    """VICReg's stand-in for the log det (Bardes, Ponce & LeCun 2022, equations 1 to 4): minus `variance` times the mean
    shortfall of the dimensions' standard deviations below 1, minus `covariance` / d times the sum of squared
    covariances between different dimensions."""
    n, d = z.shape
    centred = z - z.mean(0)
    cov = centred.mT @ centred / (n - 1)
    shortfall = (1.0 - (cov.diagonal() + 1e-4).sqrt()).clamp_min(0.0).mean()  # 1e-4: the published epsilon
    off = (cov.square().sum() - cov.diagonal().square().sum()) / d
    return -variance * shortfall - covariance * off


def discrete(p: Float[Tensor, "*category"]) -> Scalar:
    """Exact entropy of a table of probabilities."""
    return torch.special.entr(p.clamp_min(torch.finfo(p.dtype).tiny)).sum()


@dataclass(frozen=True)
class Entropy:
    """An entropy that training can use; adding one is a row of `ENTROPIES`, and its name in `config.ENTROPIES`.

    Attributes:
        estimate: (samples, group, **options) -> H in nats; None for the stop-gradient, which detaches the target z_t
            and needs no H.
        samples: bins of each window that are compared; None takes all. Bins of one window are never compared with one
            another, as neighbours in time are not independent.
        options: of the estimate in training.
    """

    estimate: Callable[..., Tensor] | None
    samples: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


#: By the name that `--entropy` takes.
ENTROPIES = {
    "logdet": Entropy(logdet),
    "knn": Entropy(knn, samples=12, options={"k": 3, "clip": 0.1}),  # the paper's k and clip
    "stopgrad": Entropy(None),
    "kde": Entropy(kde, samples=12),
}
