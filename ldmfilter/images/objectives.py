"""Objectives on pairs of views of an image (Mikulasch & Zenke 2026): one function a cell of figure 3,
an alignment plus an entropy.

Two views of an image become z and z', (sample, dim), row by row. Every objective is maximised; nats per pair.

    P_theta(z, z')   plane: standard normal, correlated by rho; sphere: uniform, and von Mises-Fisher around the other
    H                kde, logdet, knn
    with mutual information     <log P(z, z')> + H[z] + H[z'] = -KL[R || P] + I[z; z']
    without                     <log P(z, z')> + H[z, z']     = -KL[R || P]

The sphere's functions take z as it leaves the network and bring it to unit length.

rho sets the nearness of views in both spaces: the concentration of the sphere's model is that at which z . z' is rho
on average. A kernel is as wide as the model's own density of a view given the other, as SimCLR takes one temperature
for both: sqrt(1 - rho^2) on the plane, the alignment's concentration on the sphere. A wider one (Scott's rule gives
twice that in 32 dimensions) does not resolve a contracted z, and leaves it in a few dimensions, on the sphere in a cap.
No function makes an array of N x N x dim.

F in nats is an estimate: it differs from -KL + I by the entropy's bias, which in the dimensions used here is larger
than what is estimated. On samples of the model itself, in the plane, where -KL is 0:

    pairs, dimensions    exact, with / without    knn              kde            logdet
    128, 32              26.6 / 0                 35.4 / 34.5      128 / 131      22.0 / -10.2
    512, 128             106.3 / 0                160.9 / 160.5    723 / 737      88.6 / -39.8

(means of five draws; Scott's kernels 38.8 / 35.1 and 175.7 / 170.6). Compare values of one estimator, never those of
two. With `knn` and `kde` the objectives with and without mutual information are nearly the same, far nearer than the
information between views: their similar accuracies are partly due to the estimators.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from ldmfilter.images.options import check
from ldmfilter.ldm.alignment import gaussian_pair, log_sphere_area, matching, von_mises_fisher
from ldmfilter.ldm.entropy import discrete, kde, knn, logdet, variance_covariance, vmf_kde
from ldmfilter.ldm.objectives import Objective

Views = Float[Tensor, "sample dim"]
Entropy = Callable[[Views, int], Tensor]

#: Correlation of two views under the latent model.
CORRELATION = 0.9


def concentration(correlation: float, dim: int) -> float:
    """The von Mises-Fisher concentration at which z . mean is `correlation` on average, about (Banerjee et al. 2005,
    equation 4.4)."""
    return correlation * (dim - correlation**2) / (1 - correlation**2)


def plane_kde(
    z: Views,
    z2: Views,
    mutual_information: bool = True,
    correlation: float = CORRELATION,
    bandwidth: float | None = None,
) -> Objective:
    """Plane, kernel density with a Gaussian kernel of standard deviation `bandwidth`, in units of the spread of z; None
    takes the model's own, sqrt(1 - rho^2).

    In units of the spread, so that scaling z by a adds d log a to H: the entropy by a fixed narrow kernel grows with
    the square of the distance between samples, faster than any prior of z holds it.
    """

    def entropy(x: Tensor, _: int) -> Tensor:
        width = math.sqrt(1 - correlation**2) if bandwidth is None else bandwidth
        scale = x.var(0).mean().clamp_min(torch.finfo(x.dtype).tiny).sqrt()
        return kde(x / scale, bandwidth=width) + x.shape[1] * scale.log()

    return _plane(z, z2, entropy, mutual_information, correlation, bandwidth=bandwidth)


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
    return _plane(z, z2, lambda x, _: knn(x, k=k, clip=clip), mutual_information, correlation, k=k, clip=clip)


def sphere_kde(
    z: Views,
    z2: Views,
    mutual_information: bool = True,
    correlation: float = CORRELATION,
    kernel: float | None = None,
) -> Objective:
    """Sphere, kernel density with a von Mises-Fisher kernel of concentration `kernel`; None takes the model's own, that
    of the alignment."""

    def entropy(x: Tensor, spheres: int) -> Tensor:
        return vmf_kde(x, concentration(correlation, z.shape[1]) if kernel is None else kernel, spheres)

    return _sphere(z, z2, entropy, mutual_information, correlation, kernel=kernel)


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

    return _sphere(z, z2, entropy, mutual_information, correlation, k=k, clip=clip)


#: Cells of the paper's figure 3 by name; each with and without mutual information.
CELLS: dict[str, Callable[..., Objective]] = {
    function.__name__: function
    for function in (plane_kde, plane_logdet, plane_knn, sphere_kde, sphere_logdet, sphere_knn)
}


def plane_stopgrad(
    z: Views, z2: Views, prediction: Views, prediction2: Views, correlation: float = CORRELATION
) -> Objective:
    """Plane, stop-gradient: each view predicted from the other, <log N(sg[z']; p(z), (1 - rho^2) I)>, both ways.

    `prediction` is the predictor's from z, of z'; `prediction2` the other way round. The target is detached, so that no
    entropy is needed.

    Nothing holds z's dimensions apart: with figure 3's small training on digits its effective rank falls from 8.9 to
    4.9 of 32, at a linear readout of 97.8 %.
    """
    check(z.shape, correlation=correlation)
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
    check(z.shape, sphere=True, kappa=kappa)
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
    check(z.shape, sphere=True, temperature=temperature)
    z, z2 = normalize(z, dim=1), normalize(z2, dim=1)
    alignment = von_mises_fisher(z2, z, 1 / temperature).mean()
    H = vmf_kde(torch.cat([z, z2]), 1 / temperature)
    return Objective(alignment + H, alignment, H)


def vicreg(z: Views, z2: Views, invariance: float = 25.0, variance: float = 25.0, covariance: float = 1.0) -> Objective:
    """VICReg (Bardes, Ponce & LeCun 2022) as distribution matching on the plane: minus its loss.

    The alignment is that of `plane_logdet` without its prior, of rho = 1 - 1 / (4 `invariance`) and without constants;
    the entropy stands for the second order of the log det (`entropy.logdet_second_order`).
    """
    check(z.shape, invariance=invariance, variance=variance, covariance=covariance)
    alignment = -invariance * (z - z2).square().sum(-1).mean()
    H = variance_covariance(z, variance, covariance) + variance_covariance(z2, variance, covariance)
    return Objective(alignment + H, alignment, H)


def categorical(
    logits: Float[Tensor, "sample category"],
    logits2: Float[Tensor, "sample category"],
    p_match: float = 0.9,
    mutual_information: bool = True,
) -> Objective:
    """Discrete latents c and c', with probabilities predicted from each view; they match with probability `p_match`.

    R(c, c') is the mean over pairs of q(c) q'(c'), a table of K x K: its entropy, and those of its margins, are exact.
    Without mutual information F = -KL[R || P] is at most 0, reached where R is the latent model's own table: 1 / K for
    each category, and of each category the share `p_match` alike in both views.
    """
    check(logits.shape, p_match=p_match, mutual_information=mutual_information)
    q, q2 = logits.softmax(-1), logits2.softmax(-1)
    alignment = matching(q, q2, p_match).mean()
    H = discrete(q.mean(0)) + discrete(q2.mean(0)) if mutual_information else discrete(q.mT @ q2 / len(q))
    return Objective(alignment + H, alignment, H)


def _plane(z: Views, z2: Views, H: Entropy, mutual_information: bool, correlation: float, **options: Any) -> Objective:
    check(z.shape, mutual_information=mutual_information, correlation=correlation, **options)
    return _matched(gaussian_pair(z, z2, correlation).mean(), z, z2, H, mutual_information)


def _sphere(z: Views, z2: Views, H: Entropy, mutual_information: bool, correlation: float, **options: Any) -> Objective:
    check(z.shape, sphere=True, mutual_information=mutual_information, correlation=correlation, **options)
    z, z2 = normalize(z, dim=1), normalize(z2, dim=1)
    kappa = concentration(correlation, z.shape[1])
    alignment = von_mises_fisher(z2, z, kappa).mean() - log_sphere_area(z.shape[1])
    return _matched(alignment, z, z2, H, mutual_information)


def _matched(alignment: Tensor, z: Views, z2: Views, H: Entropy, mutual_information: bool) -> Objective:
    entropy = H(z, 1) + H(z2, 1) if mutual_information else H(torch.cat([z, z2], 1), 2)
    return Objective(alignment + entropy, alignment, entropy)


def _logdet(x: Views, _: int) -> Tensor:
    # In single precision the covariance of 2,048 dimensions is not positive definite for the factorisation.
    return logdet(x.double()).to(x.dtype)
