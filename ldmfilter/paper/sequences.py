"""Predictive latent distribution matching on sequences: an encoder, a predictor, new sequences at every step.

`ldmfilter.filter` is this for spike counts. Here any module encodes a frame, and any predictor says what comes next:
the linear filter (`LinearPredictor`), or another module with the same `forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ldmfilter.filter.kalman import LinearGaussian, filter_windows, gain, predict, steady_state
from ldmfilter.filter.linalg import whitening
from ldmfilter.filter.parameters import Dynamics
from ldmfilter.ldm.alignment import predictive_gaussian
from ldmfilter.ldm.entropy import knn
from ldmfilter.ldm.objectives import Objective, predictive
from ldmfilter.paper.ascent import ascend

KNN_OPTIONS: dict[str, Any] = {"k": 3, "clip": 0.1}  # the paper's
GRADIENT_NORM = 5.0  # gradients are clipped to it
WARM_STEPS = 50  # in which the step size rises
LOG_RANGE = 4.0  # of the logarithm of the noise's factor, to both sides

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
    mean, cov = model.b.expand(batch, -1), model.P0.expand(batch, -1, -1)
    zhat, S, means, covs = [], [], [], []
    for t in range(time):
        if t:
            mean, cov = predict(model, mean, cov)
        S_t, K, updated = gain(model._replace(R=noise[:, t, None, None] * model.R), cov)
        zhat.append(mean @ model.C.mT)
        S.append(S_t)
        mean, cov = mean + (K @ (z[:, t] - zhat[-1])[..., None])[..., 0], updated
        means.append(mean)
        covs.append(cov)
    return Prediction(torch.stack(zhat, 1), torch.stack(S, 1), torch.stack(means, 1), torch.stack(covs, 1))


class SequenceModel(nn.Module):
    """Encoder and predictor, with the gauge that is measured and not learnt: pseudo-observations are white.

    Args:
        encoder: from frames (batch, time, ...) to (batch, time, latent).
        predictor: see `Predictor`.
        latent_dim: dimensions of the pseudo-observation.
        noise: from frames to (batch, time, 1), what `fit_noise` trains; without it the noise is constant.
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
            measure: make these very frames white, differentiably, and remember how; else what was remembered is used.
        """
        raw = self.encoder(frames)
        if not measure:
            return (raw - self.z_mean) @ self.z_whiten
        mean, W = whitening(raw.flatten(0, 1))
        self.z_mean.copy_(mean.detach())
        self.z_whiten.copy_(W.detach())
        return (raw - mean) @ W

    def noise_factor(self, frames: Tensor) -> Tensor | None:
        """What R is multiplied by in each bin, (batch, time), between exp(-4) and exp(4); None where it is constant."""
        if self.noise is None:
            return None
        return (LOG_RANGE * torch.tanh(self.noise(frames)[..., 0] / LOG_RANGE)).exp()

    @torch.no_grad()
    def filter(self, frames: Tensor) -> Prediction:
        """Causal estimates of sequences, with the gauge that was remembered."""
        return self.predictor(self.encode(frames), self.noise_factor(frames))


@dataclass(frozen=True)
class SequenceTraining:
    """Settings of `train`.

    steps: training steps; learning_rate: the highest of the encoder, which rises in 50 steps and falls as a cosine
    predictor_rate: the predictor's learning rate in units of the encoder's; weight_decay: of the encoder
    momentum: of the optimizer, its beta 1
    sequences, frames: of a batch; warmup: first frames, which carry no loss
    samples: frames of each sequence that kNN and KDE compare, none with its own sequence
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


def objective(model: SequenceModel, frames: Tensor, entropy: str, settings: SequenceTraining) -> Objective:
    """Predictive LDM on a batch, of constant noise; see `ldm.objectives.predictive`."""
    z = model.encode(frames, measure=True)
    zhat, S, _, _ = model.predictor(z)
    z, zhat = z[:, settings.warmup :], zhat[:, settings.warmup :]
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
    """Train encoder and predictor in place by AdamW, every step on new sequences.

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
        {"params": list(model.encoder.parameters()), "weight_decay": settings.weight_decay},
        {
            "params": list(model.predictor.parameters()),
            "lr": settings.predictor_rate * settings.learning_rate,
        },
    ]

    def value(step: int) -> Tensor:
        watch(step)
        return objective(model, draw(settings.sequences), entropy, settings).value

    ascend(
        groups,
        value,
        settings.steps,
        settings.learning_rate,
        f"with {entropy}",
        warm=WARM_STEPS,
        norm=GRADIENT_NORM,
        momentum=settings.momentum,
    )
    measure(model, draw, settings)
    watch(settings.steps)


def fit_predictor(model: SequenceModel, draw: Draw, settings: SequenceTraining, steps: int) -> None:
    """Fit the predictor, with constant noise, to pseudo-observations that stay as they are, by maximum likelihood.

    Raises:
        TrainingError: the numbers are not finite any more.
    """
    _fit(model, draw, settings, steps, varying=False)


def fit_noise(model: SequenceModel, draw: Draw, settings: SequenceTraining, steps: int) -> None:
    """Let the noise of a trained model depend on the frame: `model.noise` and the predictor, by maximum likelihood of
    pseudo-observations that stay as they are.

    Trained along with the encoder, a free R(y_t) is a shortcut: what is encoded the same is predictable, and is called
    certain. An encoder that stays as it is leaves no such way. One maximum has its noise near zero throughout, and says
    the less of it the noisier a frame is; from a constant noise that is far too high it is reached. So the predictor is
    fitted with the best constant noise first.

    Raises:
        TrainingError: the numbers are not finite any more.
    """
    _fit(model, draw, settings, steps, varying=False)
    _fit(model, draw, settings, steps, varying=True)


def _fit(model: SequenceModel, draw: Draw, settings: SequenceTraining, steps: int, varying: bool) -> None:
    seen = slice(settings.warmup, None)

    def value(step: int) -> Tensor:
        frames = draw(settings.sequences)
        with torch.no_grad():
            z = model.encode(frames)
        zhat, S, _, _ = model.predictor(z, model.noise_factor(frames) if varying else None)
        return predictive_gaussian(z[:, seen], zhat[:, seen], S[:, seen] if S.ndim > 2 else S).mean()

    rate = settings.learning_rate
    groups: list[dict[str, Any]] = [{"params": list(model.predictor.parameters())}]
    if varying:
        assert model.noise is not None
        groups.append({"params": list(model.noise.parameters())})
    else:
        groups[0]["lr"] = settings.predictor_rate * rate
    what = "the noise" if varying else "the predictor"
    ascend(groups, value, steps, rate, what, warm=WARM_STEPS, norm=GRADIENT_NORM)


@torch.no_grad()
def measure(model: SequenceModel, draw: Draw, settings: SequenceTraining) -> None:
    """Learn what makes pseudo-observations white, from more sequences than a batch has."""
    model.encode(draw(4 * settings.sequences), measure=True)


def entropy_gradients(model: SequenceModel, frames: Tensor, settings: SequenceTraining) -> tuple[Tensor, Tensor]:
    """How two estimates of the entropy pull at the encoder in training: gradients (parameter,) of the kNN estimate, and
    of what the stop-gradient puts in its place.

    To detach the target is to add -log N(z_t; zhat_t, S_t) with prediction and covariance detached, whose gradient
    cancels that of the alignment through its target. The whitening is that of these frames, and held fixed.
    """
    raw = model.encoder(frames)
    mean, W = whitening(raw.detach().flatten(0, 1))
    z = (raw - mean) @ W
    with torch.no_grad():
        zhat, S, _, _ = model.predictor(z)
    z, zhat = z[:, settings.warmup :], zhat[:, settings.warmup :]
    samples, group = _samples(z, settings)
    weights = list(model.encoder.parameters())

    def gradient(H: Tensor) -> Tensor:
        parts = torch.autograd.grad(H, weights, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([part.flatten() for part in parts])

    return gradient(knn(samples, group, **KNN_OPTIONS)), gradient(-predictive_gaussian(z, zhat, S).mean())


def _samples(z: Tensor, settings: SequenceTraining) -> tuple[Tensor, Tensor]:
    """Some frames of every sequence, spread at random, and the sequence that each comes from."""
    batch, time, _ = z.shape
    k = min(settings.samples, time)
    order = torch.rand(batch, time).argsort(1)[:, :k]
    of = torch.arange(batch, device=z.device)[:, None]
    return z[of, order.to(z.device)].flatten(0, 1), of.expand(batch, k).flatten()
