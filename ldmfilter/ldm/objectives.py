"""Objectives of latent distribution matching: an alignment plus an entropy (Mikulasch & Zenke 2026)."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor

from ldmfilter.ldm.alignment import predictive_gaussian
from ldmfilter.ldm.entropy import ENTROPIES, linear


class Objective(NamedTuple):
    """F = alignment + entropy, to be maximised; nats per sample."""

    value: Float[Tensor, ""]
    alignment: Float[Tensor, ""]
    entropy: Float[Tensor, ""] | None


def predictive(
    z: Float[Tensor, "batch time latent"],
    zhat: Float[Tensor, "batch time latent"],
    S: Float[Tensor, "*shared latent latent"],
    entropy: str,
    samples: Float[Tensor, "sample latent"] | None = None,
    group: Int[Tensor, " sample"] | None = None,
    options: Mapping[str, int | float] | None = None,
    weighed: Bool[Tensor, "batch time"] | None = None,
) -> Objective:
    """Predictive LDM, F = <log N(z_t; zhat_t, S)> + H[z].

    Args:
        z: pseudo-observations, the bins that carry loss.
        zhat: their predictions from the bins before, t|t-1.
        S: covariance of the prediction, one that all share or one for each bin of a window.
        entropy: a key of `entropy.ENTROPIES`; "stopgrad" is a plug-in for the conditional entropy.
        samples: the pseudo-observations that H is estimated from. Default: all of z.
        group: the window that each of `samples` comes from; those of one window are never compared.
        options: for the entropy's estimator. Default: the estimator's own.
        weighed: the bins that count. Default: all.

    Raises:
        KeyError: an unknown entropy.
    """
    estimate = ENTROPIES[entropy].estimate
    density = predictive_gaussian(z.detach() if estimate is None else z, zhat, S)
    alignment = (density if weighed is None else density[weighed]).mean()
    if estimate is None:
        return Objective(alignment, alignment, None)
    if samples is None:
        samples = z.flatten(0, 1) if weighed is None else z[weighed]
    H = estimate(samples, group, **(options or {}))
    return Objective(alignment + H, alignment, H)


def independent_sources(
    z: Float[Tensor, "sample source"],
    W: Float[Tensor, "source feature"],
    log_density: Callable[[Tensor], Tensor],
) -> Objective:
    """Linear ICA, F = sum_i <log p_i(z_i)> + log|det W| for z = W x: up to H[x], which no W changes, it is
    -KL[R || P_theta] exactly.

    Args:
        z: latents.
        W: the encoder.
        log_density: log p_i(z_i) of every entry of z, (sample, source).
    """
    alignment = log_density(z).sum(-1).mean()
    H = linear(W)
    return Objective(alignment + H, alignment, H)
