"""Predictive latent distribution matching on sequences: an encoder, a predictor, new sequences at every step.

`ldmfilter.filter` is this for spike counts. Here any module encodes a frame, and any module predicts the next: the
linear filter (`LinearPredictor`), or a recurrent network (`recurrent.GatedPredictor`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldmfilter.filter.kalman import LinearGaussian, filter_windows, gain, predict, steady_state
from ldmfilter.filter.linalg import one_thread, whitening
from ldmfilter.filter.parameters import Dynamics
from ldmfilter.ldm.alignment import predictive_gaussian
from ldmfilter.ldm.entropy import knn
from ldmfilter.ldm.objectives import Objective, predictive
from ldmfilter.trainer import ascend

#: Options of the estimators. k and clip are the paper's. A narrower kernel than 0.6 of the standard deviation of z can
#: be cheated: a few outliers, far from all others, then add more entropy, 1 / (2 h^2), than their misprediction costs.
OPTIONS: dict[str, dict[str, Any]] = {"knn": {"k": 3, "clip": 0.1}, "kde": {"bandwidth": 0.6}}
GRADIENT_NORM = 5.0  # gradients are clipped to it
WARM_STEPS = 50  # in which the learning rate rises
LOG_RANGE = 4.0  # of the logarithm of the noise's factor, to both sides
RIDGE = 1e-6  # of the covariance of prediction errors, in units of the variance of z, which is one

#: From a number of sequences to that many new ones, (sequence, time, ...), as the encoder takes them.
Draw = Callable[[int], Tensor]


class Prediction(NamedTuple):
    """The prediction of a batch of sequences; the covariances may be shared by all bins, and then are matrices."""

    zhat: Tensor  # (batch, time, latent), t|t-1
    S: Tensor | None  # (latent, latent) or (batch, time, latent, latent), of z around zhat; None: that of the errors
    mean: Tensor | None  # (batch, time, state), t|t; None where the predictor has no states
    cov: Tensor | None  # (state, state) or (batch, time, state, state), t|t


def mlp(*widths: int) -> nn.Sequential:
    """A multilayer perceptron with GELU between its layers, from its number of inputs to that of its outputs."""
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.GELU())]
    return nn.Sequential(*layers[:-1])


def error_covariance(error: Float[Tensor, "*batch dim"]) -> Float[Tensor, "dim dim"]:
    """Second moment of the errors of a prediction: the covariance of largest likelihood."""
    flat = error.flatten(0, -2)
    return flat.mT @ flat / len(flat) + RIDGE * torch.eye(flat.shape[1], dtype=error.dtype, device=error.device)


class LinearPredictor(nn.Module):
    """The Kalman filter as a predictor, its parameters those of `Dynamics`."""

    def __init__(self, latent_dim: int, state_dim: int, decay: float, noise: float):
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
    """The Kalman filter where bin t has the observation noise noise_t R. The covariances then differ from bin to bin
    and from sequence to sequence: a loop over bins.

    Args:
        model: the linear-Gaussian parameters.
        z: (batch, time, latent) pseudo-observations.
        noise: (batch, time) factors of R, above 0.
    """
    batch, time, _ = z.shape
    exact, values = model.to(torch.float64), z.double()  # covariances need all digits
    mean, cov = exact.b.expand(batch, -1), exact.P0.expand(batch, -1, -1)
    found: list[tuple[Tensor, ...]] = []
    for t in range(time):
        if t:
            mean, cov = predict(exact, mean, cov)
        S, K, updated = gain(exact, cov, 1 / noise[:, t])
        zhat = mean @ exact.C.mT
        mean, cov = mean + (K @ (values[:, t] - zhat)[..., None])[..., 0], updated
        found.append((zhat, S, mean, cov))
    return Prediction(*(torch.stack(each, 1).to(z) for each in zip(*found, strict=True)))


class SequenceModel(nn.Module):
    """Encoder and predictor; the mean and whitening of pseudo-observations are measured, not learnt.

    Args:
        encoder: from frames (batch, time, ...) to (batch, time, latent).
        predictor: from pseudo-observations (batch, time, latent), and factors (batch, time) of the observation noise or
            None, to a `Prediction`.
        latent_dim: dimensions of the pseudo-observation.
        noise: from frames to (batch, time, 1), trained by `fit_noise`; without it the noise is constant.
    """

    z_mean: Tensor
    z_whiten: Tensor

    def __init__(self, encoder: nn.Module, predictor: nn.Module, latent_dim: int, noise: nn.Module | None = None):
        super().__init__()
        self.encoder = encoder
        self.predictor = predictor
        self.noise = noise
        self.register_buffer("z_mean", torch.zeros(latent_dim))
        self.register_buffer("z_whiten", torch.eye(latent_dim))

    def encode(self, frames: Tensor, measure: bool = False) -> Tensor:
        """White pseudo-observations (batch, time, latent).

        Args:
            frames: (batch, time, ...).
            measure: whiten by the mean and covariance of these frames, differentiably, and keep them; by default those
                that were kept are used.
        """
        raw = self.encoder(frames)
        if not measure:
            return (raw - self.z_mean) @ self.z_whiten
        mean, W = whitening(raw.flatten(0, 1))
        self.z_mean.copy_(mean.detach())
        self.z_whiten.copy_(W.detach())
        return (raw - mean) @ W

    def noise_factor(self, frames: Tensor) -> Tensor | None:
        """Factor of R in each bin, (batch, time), between exp(-4) and exp(4); None where it is constant."""
        if self.noise is None:
            return None
        return (LOG_RANGE * torch.tanh(self.noise(frames)[..., 0] / LOG_RANGE)).exp()

    @torch.no_grad()
    def filter(self, frames: Tensor) -> Prediction:
        """Causal estimates of sequences, whitened as measured before."""
        return self.predictor(self.encode(frames), self.noise_factor(frames))


def objective(
    model: SequenceModel,
    frames: Tensor,
    entropy: str,
    warmup: int,
    samples: int,
    draws: torch.Generator | None = None,
) -> Objective:
    """Predictive LDM on a batch of constant noise, nats a frame; see `ldm.objectives.predictive`.

    Args:
        model: encoder and predictor.
        frames: (batch, time, ...).
        entropy: "stopgrad", or a key of `ldm.entropy.ENTROPIES`.
        warmup: first frames, which carry no loss.
        samples: frames of each sequence that kNN and KDE compare, none with its own sequence.
        draws: generator of these; None for torch's.
    """
    z = model.encode(frames, measure=True)
    zhat, S, *_ = model.predictor(z)
    z, zhat = z[:, warmup:], zhat[:, warmup:]
    if S is None:
        S = error_covariance((z.detach() if entropy == "stopgrad" else z) - zhat)
    if entropy not in OPTIONS:
        return predictive(z, zhat, S, entropy)
    return predictive(z, zhat, S, entropy, *_samples(z, samples, draws), OPTIONS[entropy])


def _samples(z: Tensor, samples: int, draws: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Some random frames of every sequence, and the number of the sequence that each comes from."""
    batch, time, _ = z.shape
    k = min(samples, time)
    order = torch.rand(batch, time, generator=draws).argsort(1)[:, :k].to(z.device)
    of = torch.arange(batch, device=z.device)[:, None]
    return z[of, order].flatten(0, 1), of.expand(batch, k).flatten()


@dataclass(frozen=True)
class SequenceTraining:
    """Settings of `train`.

    Attributes:
        steps: training steps.
        learning_rate: the highest of the encoder, which rises in 50 steps and falls as a cosine.
        predictor_rate: the predictor's learning rate in units of the encoder's.
        weight_decay: of the encoder.
        momentum: of the optimizer, its beta 1.
        sequences, frames: of a batch.
        warmup, samples: see `objective`.
    """

    steps: int
    learning_rate: float = 3e-3
    predictor_rate: float = 1.0
    weight_decay: float = 1e-4
    momentum: float = 0.9
    sequences: int = 128
    frames: int = 16
    warmup: int = 6
    samples: int = 12


@one_thread()
def train(
    model: SequenceModel,
    draw: Draw,
    entropy: str,
    settings: SequenceTraining,
    watch: Callable[[int], None] = lambda step: None,
) -> None:
    """Train encoder and predictor in place by AdamW, every step on new sequences.

    Args:
        model: what is trained.
        draw: new sequences.
        entropy: as in `objective`.
        settings: see there.
        watch: called before every step with the number of steps done, and after the last.

    Raises:
        TrainingError: the numbers are not finite any more.
    """
    rate = settings.learning_rate
    groups = [
        {"params": list(model.encoder.parameters()), "weight_decay": settings.weight_decay},
        {"params": list(model.predictor.parameters()), "lr": settings.predictor_rate * rate},
    ]

    def batch(step: int) -> Tensor:
        watch(step)
        return draw(settings.sequences)

    def value(frames: Tensor) -> Tensor:
        return objective(model, frames, entropy, settings.warmup, settings.samples).value

    _ascend(model, batch, value, settings.steps, f"with {entropy}", rate, groups, settings.momentum)
    measure(model, draw, settings)
    watch(settings.steps)


def fit_predictor(model: SequenceModel, draw: Draw, settings: SequenceTraining, steps: int) -> None:
    """Fit the predictor, with constant noise, to pseudo-observations that stay as they are, by maximum likelihood.

    Raises:
        TrainingError: the numbers are not finite any more.
    """
    _fit(model, draw, settings, steps, varying=False)


def fit_noise(model: SequenceModel, draw: Draw, settings: SequenceTraining, steps: int) -> None:
    """Fit `model.noise`, the noise as a function of the frame, and the predictor, by maximum likelihood of
    pseudo-observations that stay as they are.

    Trained along with the encoder, a free R(y_t) is a shortcut: frames that are encoded alike are predictable, and
    their noise is fitted as small. A fixed encoder leaves no such way. One maximum has noise near zero in all frames,
    nearer for noisier ones; it is reached from a constant noise that is far too high. So the predictor is fitted with
    the best constant noise first.

    Raises:
        TrainingError: the numbers are not finite any more.
    """
    _fit(model, draw, settings, steps, varying=False)
    _fit(model, draw, settings, steps, varying=True)


@one_thread()
def _fit(model: SequenceModel, draw: Draw, settings: SequenceTraining, steps: int, varying: bool) -> None:
    seen = slice(settings.warmup, None)

    def value(frames: Tensor) -> Tensor:
        with torch.no_grad():
            z = model.encode(frames)
        zhat, S, *_ = model.predictor(z, model.noise_factor(frames) if varying else None)
        return predictive_gaussian(z[:, seen], zhat[:, seen], S[:, seen] if S.ndim > 2 else S).mean()

    rate, weights = settings.learning_rate, list(model.predictor.parameters())
    groups: list[dict[str, Any]] = [{"params": weights, "lr": rate if varying else settings.predictor_rate * rate}]
    if varying:
        assert model.noise is not None
        groups.append({"params": list(model.noise.parameters())})
    what = "the noise" if varying else "the predictor"
    _ascend(model, lambda step: draw(settings.sequences), value, steps, what, rate, groups)


def _ascend(
    model: SequenceModel,
    batch: Callable[[int], Tensor],
    value: Callable[[Tensor], Tensor],
    steps: int,
    what: str,
    rate: float,
    groups: list[dict[str, Any]],
    momentum: float = 0.9,
) -> None:
    fixed: dict[str, Any] = {"warm": WARM_STEPS, "norm": GRADIENT_NORM}
    ascend(model, batch, value, steps, what, learning_rate=rate, momentum=momentum, groups=groups, **fixed)


@torch.no_grad()
def measure(model: SequenceModel, draw: Draw, settings: SequenceTraining) -> None:
    """Measure the whitening of pseudo-observations on more sequences than a batch has."""
    model.encode(draw(4 * settings.sequences), measure=True)


def entropy_gradients(model: SequenceModel, frames: Tensor, settings: SequenceTraining) -> tuple[Tensor, Tensor]:
    """Gradients (parameter,) of two estimates of the entropy by the encoder's weights: of the kNN estimate, and of the
    term that the stop-gradient puts in its place.

    To detach the target is to add -log N(z_t; zhat_t, S_t) with prediction and covariance detached, whose gradient
    cancels that of the alignment through its target. The whitening is that of these frames, and held fixed.
    """
    raw = model.encoder(frames)
    mean, W = whitening(raw.detach().flatten(0, 1))
    z = (raw - mean) @ W
    with torch.no_grad():
        zhat, S, *_ = model.predictor(z)
    z, zhat = z[:, settings.warmup :], zhat[:, settings.warmup :]
    samples, group = _samples(z, settings.samples)
    weights = list(model.encoder.parameters())

    def gradient(H: Tensor) -> Tensor:
        parts = torch.autograd.grad(H, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    return gradient(knn(samples, group, **OPTIONS["knn"])), gradient(-predictive_gaussian(z, zhat, S).mean())
