"""The evaluation of a filter in training: how well held-out windows are predicted, and how z fills its space."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import digamma
from torch import Tensor

from ldmfilter.filter.kalman import LinearGaussian
from ldmfilter.filter.network import Network
from ldmfilter.ldm.alignment import predictive_gaussian
from ldmfilter.ldm.entropy import logdet
from ldmfilter.ldm.spectrum import effective_rank

# Of innovations, so that a z that has become a constant leaves a covariance, by which it scores low. In finished
# filters 0.32 (sample session) to 1.00 (noise) was seen.
LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class Record:
    """One evaluation. All log-likelihoods are in nats per bin.

    Attributes:
        step: training steps done.
        loss: mean negative objective since the last evaluation (NaN before the first step).
        held_out_log_likelihood: of white z in held-out blocks, each bin predicted from those before, with covariances
            as large as the innovations of all sessions.
        score: predictive information, the same minus the log-likelihood of a Gaussian without memory, which makes it
            independent of the scale and correlation of z. The step with the highest is kept, unless it is an early
            one (`training.EARLY`).
        effective_rank: of held-out z, the exponential of the entropy of its covariance's normalised eigenvalues
            (Roy & Vetterli 2007); of several sessions the lowest.
        kept_step: the step with the highest score so far.
        candidate: that was trained (`candidates.Candidate`); empty in models of format 3 and before.
    """

    step: int
    loss: float
    held_out_log_likelihood: float
    score: float
    effective_rank: float
    kept_step: int
    candidate: str = ""

    @property
    def text(self) -> str:
        """The numbers on a line."""
        loss = f"loss {self.loss:.2f}  " if self.step else ""
        return (
            f"{self.candidate}  {loss}held-out log-likelihood {self.held_out_log_likelihood:.2f}  "
            f"predictive information {self.score:.2f} nats a frame  rank of z {self.effective_rank:.1f}"
        )


def read_history(raw: Any) -> list[Record]:
    """Records as a file holds them. Raises: TypeError, ValueError where they are none."""
    records = [Record(**record) for record in raw]
    for record in records:
        if not (type(record.step) is type(record.kept_step) is int and record.step >= 0):
            raise ValueError("a record of no step")
        if not all(isinstance(value, int | float) for value in dataclasses.astuple(record)[:-1]):
            raise TypeError("a record of no numbers")
    return records


@torch.no_grad()
def evaluate(
    network: Network,
    scaling: Sequence[Tensor],
    held: Sequence[tuple[Tensor, Tensor]],
    model: LinearGaussian,
    predict: Callable[[LinearGaussian, Tensor], tuple[Tensor, ...]],
) -> tuple[float, float, float]:
    """Measure z anew in training bins, which makes it white, and judge held-out windows: the log-likelihood, the score
    and the effective rank of `Record`.

    Args:
        network: whose encoders' means and whitening are set.
        scaling: raw pseudo-observations (bin, latent) of training bins, of each session.
        held: and of held-out windows (window, time, latent), with the bins of them that are weighed (window, time).
        model: the filter's parameters.
        predict: gives the predictions of windows and their covariances.
    """
    errors, entropies, ranks = [], [], []
    for i, (one, (other, weighed)) in enumerate(zip(scaling, held, strict=True)):
        network.encoder(i).fix_gauge(one)
        z = network.encoder(i).white(other)
        zhat, S, *_ = predict(model, z)
        at_mean = predictive_gaussian(zhat, zhat, S)[weighed]
        # (log N(zhat; zhat, S), e' S^-1 e) of each bin
        errors.append((at_mean, 2 * (at_mean - predictive_gaussian(z, zhat, S)[weighed])))
        bins = z[weighed]
        entropies.append(float(logdet(bins)) - covariance_bias(*bins.shape))
        ranks.append(effective_rank(bins))
    # The covariances as the finished filter will have them, of one size for all sessions. Those of training include
    # dropout's noise: by them a step scores the less the more is learnt (0.15 to 0.08 nats on the real session, where
    # it is 0.31 to 0.44), and nearly untrained ones are kept.
    d = model.C.shape[0]
    scale = max(float(torch.cat([squares for _, squares in errors]).mean()) / d, LEAST_SCALE)  # what is NaN stays it
    each = [float((at_mean - 0.5 * squares / scale).mean()) for at_mean, squares in errors]
    log_likelihood = float(np.mean(each)) - 0.5 * d * math.log(scale)
    # A Gaussian without memory, with the mean and covariance of these very bins, scores minus its entropy.
    return log_likelihood, log_likelihood + float(np.mean(entropies)), min(ranks)


def covariance_bias(n: int, d: int) -> float:
    """Expected 1/2 log det of the covariance of n independent samples of a Gaussian in d dimensions, minus that of
    the true one, nats: 1/2 sum_i psi((n - i) / 2) - log(n / 2), i = 1 .. d (of a Wishart matrix; Bishop 2006, B.82).
    Of few bins it is negative: a Gaussian fits the bins too well that it was fitted to."""
    i = np.arange(1, d + 1)
    return 0.5 * float((digamma(np.maximum(n - i, 1) / 2) - math.log(max(n, 1) / 2)).sum())
