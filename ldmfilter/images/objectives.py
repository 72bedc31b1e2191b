"""Objectives on pairs of views of an image (Mikulasch & Zenke 2026): one function a cell, an alignment plus an entropy.

Two views of an image become z and z', (sample, dim), row by row. Every objective is maximised; nats per pair.

    P_theta(z, z')   plane: standard normal, correlated by rho; sphere: uniform, and von Mises-Fisher around the other
    H                kde, logdet, knn
    with mutual information     <log P(z, z')> + H[z] + H[z'] = -KL[R || P] + I[z; z']
    without                     <log P(z, z')> + H[z, z']     = -KL[R || P]

The sphere's functions take z as it leaves the network and bring it to unit length.

Views are as near as rho says in both spaces: the concentration of the sphere's model is that at which z . z' is rho
on average. Kernels have Scott's width for the model's own spread, 1 in each dimension of the plane and 1 / sqrt(dim)
on the sphere. Nothing here holds an array of N x N x dim.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ldmfilter.ldm.alignment import gaussian_pair, log_sphere_area, matching, von_mises_fisher
from ldmfilter.ldm.entropy import discrete, kde, knn, logdet, scott, variance_covariance, vmf_kde
from ldmfilter.ldm.objectives import Objective

Views = Float[Tensor, "sample dim"]
Entropy = Callable[[Views, int], Tensor]

#: Correlation of two views under the latent model.
CORRELATION = 0.9


def concentration(correlation: float, dim: int) -> float:
    """The von Mises-Fisher concentration at which z . mean is `correlation` on average, about (Banerjee et al. 2005,
    equation 4.4)."""
    return correlation * (dim - correlation**2) / (1 - correlation**2)


def plane_kde(z: Views, z2: Views, mutual_information: bool = True, correlation: float = CORRELATION) -> Objective:
    """Plane, kernel density; the kernel's width follows the spread of z, so that scaling z by a adds d log a to H."""
    return _plane(z, z2, _scaled_kde, mutual_information, correlation)


def plane_logdet(z: Views, z2: Views, mutual_information: bool = True, correlation: float = CORRELATION) -> Objective:
    """Plane, log determinant of the covariance."""
    return _plane(z, z2, _logdet, mutual_information, correlation)


def plane_knn(
    z: Views,
    z2: Views,
    mutual_information: bool = True,
    correlation: float = CORRELATION,
    k: int = 3,
    clip: float = 0.1,
) -> Objective:
    """Plane, Kozachenko-Leonenko."""
    return _plane(z, z2, lambda x, _: knn(x, k=k, clip=clip), mutual_information, correlation)


def sphere_kde(
    z: Views,
    z2: Views,
    mutual_information: bool = True,
    correlation: float = CORRELATION,
    kernel: float | None = None,
) -> Objective:
    """Sphere, kernel density with a von Mises-Fisher kernel of concentration `kernel`; None takes Scott's."""

    def entropy(x: Tensor, spheres: int) -> Tensor:
        dim = x.shape[1] // spheres
        return vmf_kde(x, kernel or dim / scott(len(x), x.shape[1]) ** 2, spheres)

    return _sphere(z, z2, entropy, mutual_information, correlation)


def sphere_logdet(z: Views, z2: Views, mutual_information: bool = True, correlation: float = CORRELATION) -> Objective:
    """Sphere, log determinant of the covariance: entropy of the Gaussian around the sphere, per volume of space."""
    return _sphere(z, z2, _logdet, mutual_information, correlation)


def sphere_knn(
    z: Views,
    z2: Views,
    mutual_information: bool = True,
    correlation: float = CORRELATION,
    k: int = 3,
    clip: float = 0.1,
) -> Objective:
    """Sphere, Kozachenko-Leonenko with the sphere's own dimension, one less than that of space."""

    def entropy(x: Tensor, spheres: int) -> Tensor:
        return knn(x, k=k, clip=clip, manifold=x.shape[1] - spheres)

    return _sphere(z, z2, entropy, mutual_information, correlation)


#: Cells of the paper's figure 3 by name; each with and without mutual information.
CELLS: dict[str, Callable[..., Objective]] = {
    "plane_kde": plane_kde,
    "plane_logdet": plane_logdet,
    "plane_knn": plane_knn,
    "sphere_kde": sphere_kde,
    "sphere_logdet": sphere_logdet,
    "sphere_knn": sphere_knn,
}


def plane_stopgrad(
    z: Views, z2: Views, prediction: Views, prediction2: Views, correlation: float = CORRELATION
) -> Objective:
    """Plane, stop-gradient: each view predicted from the other, <log N(sg[z']; p(z), (1 - rho^2) I)>, both ways.

    `prediction` is the predictor's from z, of z'; `prediction2` the other way round. The target is detached, so that no
    entropy is needed.
    """
    log_norm = 0.5 * z.shape[1] * (math.log(2 * math.pi) + math.log1p(-(correlation**2)))

    def log_p(target: Tensor, mean: Tensor) -> Tensor:
        return (-0.5 * (target.detach() - mean).square().sum(-1) / (1 - correlation**2) - log_norm).mean()

    alignment = 0.5 * (log_p(z2, prediction) + log_p(z, prediction2))
    return Objective(alignment, alignment, None)


def sphere_stopgrad(
    z: Views, z2: Views, prediction: Views, prediction2: Views, kappa: float | None = None
) -> Objective:
    """Sphere, stop-gradient: <log vMF(sg[z']; p(z), kappa)>, both ways. Up to a factor and a constant that is the
    objective of SimSiam (Chen & He 2021) and, z being a slow copy's, of BYOL (Grill et al. 2020).

    `kappa`: None takes the concentration of `CORRELATION`.
    """
    kappa = concentration(CORRELATION, z.shape[1]) if kappa is None else kappa
    z, z2, p, p2 = (normalize(x, dim=1) for x in (z.detach(), z2.detach(), prediction, prediction2))
    alignment = 0.5 * (von_mises_fisher(z2, p, kappa) + von_mises_fisher(z, p2, kappa)).mean()
    return Objective(alignment, alignment, None)


def simclr(z: Views, z2: Views, temperature: float = 0.5) -> Objective:
    """SimCLR (Chen et al. 2020) as distribution matching on the sphere: F = log(2 N - 1) - NT-Xent.

    F = <log P(z' | z)> + H, both of von Mises-Fisher with concentration 1 / temperature: H is the kernel density
    estimate from all 2 N views, and stands for H[z] and H[z'] alike. It is `sphere_kde` with mutual information but
    for the second entropy: <log P(z' | z)> + H[z'] = I[z; z'] - <KL[R(z' | z) || P(z' | z)]>.
    """
    z, z2 = normalize(z, dim=1), normalize(z2, dim=1)
    alignment = von_mises_fisher(z2, z, 1 / temperature).mean()
    H = vmf_kde(torch.cat([z, z2]), 1 / temperature)
    return Objective(alignment + H, alignment, H)


def vicreg(z: Views, z2: Views, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Objective:
    """VICReg (Bardes, Ponce & LeCun 2022) as distribution matching on the plane: minus its loss.

    The alignment is that of `plane_logdet` without its prior, of rho = 1 - 1 / (4 `invariance`) and without constants;
    the entropy stands for the second order of the log det (`entropy.logdet_second_order`).
    """
    alignment = -invariance * (z - z2).square().sum(-1).mean()
    H = variance_covariance(z, variance, covariance) + variance_covariance(z2, variance, covariance)
    return Objective(alignment + H, alignment, H)


def categorical(
    logits: Float[Tensor, "sample category"],
    logits2: Float[Tensor, "sample category"],
    p_match: float = 0.9,
    mutual_information: bool = False,
) -> Objective:
    """Discrete latents c and c', of which each view says its probabilities; they match with probability `p_match`.

    R(c, c') is the mean over pairs of q(c) q'(c'), a table of K x K: its entropy, and those of its margins, are exact,
    and so is F = -KL[R || P], at most 0, reached where R is the latent model's own table: 1 / K for each category,
    and of each category the share `p_match` alike in both views.
    """
    q, q2 = logits.softmax(-1), logits2.softmax(-1)
    alignment = matching(q, q2, p_match).mean()
    H = discrete(q.mean(0)) + discrete(q2.mean(0)) if mutual_information else discrete(q.mT @ q2 / len(q))
    return Objective(alignment + H, alignment, H)


def _plane(z: Views, z2: Views, H: Entropy, mutual_information: bool, correlation: float) -> Objective:
    alignment = gaussian_pair(z, z2, correlation).mean()
    entropy = H(z, 1) + H(z2, 1) if mutual_information else H(torch.cat([z, z2], 1), 2)
    return Objective(alignment + entropy, alignment, entropy)


def _sphere(z: Views, z2: Views, H: Entropy, mutual_information: bool, correlation: float) -> Objective:
    z, z2 = normalize(z, dim=1), normalize(z2, dim=1)
    dim = z.shape[1]
    alignment = von_mises_fisher(z2, z, concentration(correlation, dim)).mean() - log_sphere_area(dim)
    entropy = H(z, 1) + H(z2, 1) if mutual_information else H(torch.cat([z, z2], 1), 2)
    return Objective(alignment + entropy, alignment, entropy)


def _logdet(x: Views, _: int) -> Tensor:
    # In single precision the covariance of 2,048 dimensions is not positive definite for the factorisation.
    return logdet(x.double()).to(x.dtype)


def _scaled_kde(x: Views, _: int) -> Tensor:
    scale = x.var(0).mean().clamp_min(torch.finfo(x.dtype).tiny).sqrt()
    return kde(x / scale) + x.shape[1] * scale.log()
