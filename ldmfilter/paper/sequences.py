"""Predictive latent distribution matching on sequences of any kind: an encoder, a predictor, new sequences at every step.

`ldmfilter.filter` is this for spike counts. Here any module encodes a frame, and any predictor says what comes next: the
linear filter (`LinearPredictor`), or another module with the same `forward`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ldmfilter.errors import TrainingError
from ldmfilter.filter.kalman import LinearGaussian, filter_windows, gain, predict, steady_state
from ldmfilter.filter.linalg import NotPositiveDefiniteError, whitening
from ldmfilter.filter.parameters import Dynamics
from ldmfilter.ldm.alignment import predictive_gaussian
from ldmfilter.ldm.entropy import knn
from ldmfilter.ldm.objectives import Objective, predictive

KNN_OPTIONS: dict[str, int | float] = {"k": 3, "clip": 0.1}  # the paper's
GRADIENT_NORM = 5.0  # gradients are clipped to it
WARM_STEPS = 50  # in which the step size rises

#: From a number of sequences to that many new ones, (sequence, time, ...), as the encoder takes them.
Draw = Callable[[int], Tensor]


class Prediction(NamedTuple):
    """What a predictor says of a batch of sequences. The last two are of the state, after the bin was seen."""

    zhat: Tensor  # (batch, time, latent), t|t-1
    S: Tensor  # (latent, latent) or (batch, time, latent, latent), covariance of z around zhat
    mean: Tensor  # (batch, time, state), t|t
    cov: Tensor  # (state, state) or (batch, time, state, state), t|t


class Predictor(Protocol):
    """What predicts pseudo-observations (batch, time, latent) from those before; `noise` (batch, time) multiplies the
    observation noise of each bin, None says that it is constant."""

    def __call__(self, z: Tensor, noise: Tensor | None = None) -> Prediction: ...


class LinearPredictor(nn.Module):
    """The Kalman filter as a predictor, its parameters those of `Dynamics`."""

    def __init__(self, latent_dim: int, state_dim: int, decay: float = 0.9, noise: float = 0.5):
        super().__init__()
        self.dynamics = Dynamics(latent_dim, state_dim, decay, noise)

    def forward(self, z: Tensor, noise: Tensor | None = None) -> Prediction:
        """Filter from the prior's mean on: with the steady gain, or, where the noise varies, bin by bin."""
        model = self.dynamics()
        if noise is not None:
            return filter_varying(model, z, noise)
        zhat, S, mean = filter_windows(model, z)
        P, _, K = steady_state(model)
        return Prediction(zhat, S, mean, P - K @ model.C @ P)


def filter_varying(model: LinearGaussian, z: Tensor, noise: Tensor) -> Prediction:
    """The Kalman filter where bin t has the observation noise noise_t R: the covariances then differ from bin to bin and
    from sequence to sequence, and are computed in a loop over bins.

    Args:
        model: the linear-Gaussian parameters.
        z: (batch, time, latent) pseudo-observations.
        noise: (batch, time) factors of R, above 0.
    """
    batch, time, _ = z.shape
    mean, cov = model.b.expand(batch, -1), model.P0.expand(batch, -1, -1)
    zhat, S, means, covs = [], [], [], []
    for t in range(time):
        if t:
            mean, cov = predict(model, mean, cov)
        S_t, K, updated = gain(model._replace(R=noise[:, t, None, None] * model.R), cov)
        held = noise[:, t - 1] - noise[:, t] if t else 1 - noise[:, 0]
        zhat.append(mean @ model.C.mT)
        S.append(S_t + held[:, None, None] * model.R)
        mean, cov = mean + (K @ (z[:, t] - zhat[-1])[..., None])[..., 0], updated
        means.append(mean)
        covs.append(cov)
    return Prediction(torch.stack(zhat, 1), torch.stack(S, 1), torch.stack(means, 1), torch.stack(covs, 1))


class SequenceModel(nn.Module):
    """Encoder and predictor, with the gauge that is measured and not learnt: pseudo-observations are white, and factors of
    the noise are one in the mean.

    Args:
        encoder: from frames (batch, time, ...) to (batch, time, latent), or one more where the noise varies: the
            logarithm of the factor that it multiplies R by.
        predictor: see `Predictor`.
        latent_dim: dimensions of the pseudo-observation.
        varying_noise: whether the encoder gives the noise.
    """

    z_mean: Tensor
    z_whiten: Tensor
    log_noise: Tensor

    def __init__(self, encoder: nn.Module, predictor: nn.Module, latent_dim: int, varying_noise: bool = False):
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.latent_dim = latent_dim
        self.varying_noise = varying_noise
        self.register_buffer("z_mean", torch.zeros(latent_dim))
        self.register_buffer("z_whiten", torch.eye(latent_dim))
        self.register_buffer("log_noise", torch.zeros(()))

    def encode(self, frames: Tensor, measure: bool = False) -> tuple[Tensor, Tensor | None]:
        """White pseudo-observations (batch, time, latent), and the factors of the noise (batch, time) or None.

        Args:
            frames: (batch, time, ...).
            measure: make these very frames white, differentiably, and remember how; else what was remembered is used.
        """
        raw = self.encoder(frames)
        z, log_noise = raw[..., : self.latent_dim], raw[..., self.latent_dim :]
        mean, W = whitening(z.flatten(0, 1)) if measure else (self.z_mean, self.z_whiten)
        noise = None
        if self.varying_noise:
            log_noise = log_noise[..., 0]
            level = log_noise.logsumexp((0, 1)) - math.log(log_noise.numel()) if measure else self.log_noise
            noise = (log_noise - level).exp()
            if measure:
                self.log_noise.copy_(level.detach())
        if measure:
            self.z_mean.copy_(mean.detach())
            self.z_whiten.copy_(W.detach())
        return (z - mean) @ W, noise

    @torch.no_grad()
    def filter(self, frames: Tensor) -> Prediction:
        """Causal estimates of sequences, with the gauge that was remembered."""
        return self.predictor(*self.encode(frames))


@dataclass(frozen=True)
class SequenceTraining:
    """Settings of `train`.

    steps: training steps; learning_rate: the highest of the encoder, which rises in 50 steps and falls as a cosine
    predictor_rate: the predictor's learning rate in units of the encoder's; weight_decay: of the encoder
    sequences, frames: of a batch; warmup: first frames, which carry no loss
    samples: frames of each sequence that kNN and KDE compare, none with its own sequence
    """

    steps: int
    learning_rate: float = 2e-3
    predictor_rate: float = 5.0
    weight_decay: float = 1e-4
    sequences: int = 64
    frames: int = 32
    warmup: int = 8
    samples: int = 12


def objective(model: SequenceModel, frames: Tensor, entropy: str, settings: SequenceTraining) -> Objective:
    """Predictive LDM on a batch; see `ldm.objectives.predictive`."""
    z, noise = model.encode(frames, measure=True)
    zhat, S, _, _ = model.predictor(z, noise)
    z, zhat, S = _after(settings.warmup, z, zhat, S)
    if entropy not in ("knn", "kde"):
        return predictive(z, zhat, S, entropy)
    return predictive(z, zhat, S, entropy, *_samples(z, settings), KNN_OPTIONS if entropy == "knn" else None)


def train(
    model: SequenceModel,
    draw: Draw,
    entropy: str,
    settings: SequenceTraining,
    watch: Callable[[int], None] = lambda step: None,
) -> None:
    """Train in place by AdamW, every step on new sequences; the gauge is measured at the end once more.

    Args:
        model: what is trained.
        draw: new sequences.
        entropy: "stopgrad", or a key of `ldm.entropy.ENTROPIES`.
        settings: see there.
        watch: called before every step with the number of steps done, and after the last.

    Raises:
        TrainingError: the numbers are not finite any more.
    """
    groups = [
        {"params": list(model.encoder.parameters()), "weight_decay": settings.weight_decay, "rate": 1.0},
        {"params": list(model.predictor.parameters()), "weight_decay": 0.0, "rate": settings.predictor_rate},
    ]
    optimizer = torch.optim.AdamW(groups, lr=settings.learning_rate)
    try:
        for step in range(settings.steps):
            watch(step)
            rate = min(1.0, (step + 1) / WARM_STEPS) * 0.5 * (1 + math.cos(math.pi * step / settings.steps))
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * group["rate"] * rate
            optimizer.zero_grad()
            loss = -objective(model, draw(settings.sequences), entropy, settings).value
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM, error_if_nonfinite=True)
            optimizer.step()
        with torch.no_grad():
            model.encode(draw(8 * settings.sequences), measure=True)
    except (torch.linalg.LinAlgError, NotPositiveDefiniteError, RuntimeError) as error:
        raise TrainingError(
            f"training diverged at step {step}: its numbers are not finite any more; "
            f"try a learning rate below {settings.learning_rate:g}"
        ) from error
    watch(settings.steps)


def entropy_gradients(model: SequenceModel, frames: Tensor, settings: SequenceTraining) -> tuple[Tensor, Tensor]:
    """How two estimates of the entropy would change the encoder: gradients (parameter,) of the kNN estimate, and of what
    the stop-gradient puts in its place.

    To detach the target is to add -log N(z_t; zhat_t, S_t) with prediction and covariance detached, whose gradient
    cancels that of the alignment through its target. The gauge is held fixed.
    """
    with torch.no_grad():
        model.encode(frames, measure=True)
    z, noise = model.encode(frames)
    with torch.no_grad():
        zhat, S, _, _ = model.predictor(z, noise)
    z, zhat, S = _after(settings.warmup, z, zhat, S)
    samples, group = _samples(z, settings)
    weights = list(model.encoder.parameters())
    estimates = knn(samples, group, **KNN_OPTIONS), -predictive_gaussian(z, zhat, S).mean()
    grads = [torch.autograd.grad(H, weights, retain_graph=True, allow_unused=True) for H in estimates]
    first, second = (
        torch.cat([torch.zeros(w.numel()) if g is None else g.flatten() for g, w in zip(one, weights, strict=True)])
        for one in grads
    )
    return first, second


def _after(warmup: int, z: Tensor, zhat: Tensor, S: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return z[:, warmup:], zhat[:, warmup:], S if S.ndim == 2 else S[:, warmup:]


def _samples(z: Tensor, settings: SequenceTraining) -> tuple[Tensor, Tensor]:
    """Some frames of every sequence, spread at random, and the sequence that each comes from."""
    batch, time, _ = z.shape
    k = min(settings.samples, time)
    order = torch.rand(batch, time).argsort(1)[:, :k]
    of = torch.arange(batch)[:, None]
    return z[of, order].flatten(0, 1), of.expand(batch, k).flatten()
