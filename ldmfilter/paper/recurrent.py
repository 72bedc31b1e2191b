"""Predictive latent distribution matching with a recurrent predictor in place of the Kalman filter (method.md, 1, 5).

z_t = f(image_t), p(z_t | z_<t) = N(mu(z_<t), Sigma) with mu a gated recurrent unit. As the scale of z, and its
covariance, are a free gauge, z is whitened; Sigma is the covariance of the errors of the batch, which is where
the likelihood has its maximum.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldmfilter.filter.linalg import whitening
from ldmfilter.ldm.objectives import predictive
from ldmfilter.paper.ascent import ascend

RIDGE = 1e-6  # of Sigma, in units of the variance of z, which is one
#: Options of the estimators. k and clip are the paper's. A narrower kernel than 0.6 of the standard deviation of z can
#: be cheated: a few outliers, far from all others, then add more entropy, 1 / (2 h^2), than their misprediction costs.
OPTIONS: dict[str, dict[str, int | float]] = {"knn": {"k": 3, "clip": 0.1}, "kde": {"bandwidth": 0.6}}


@dataclass(frozen=True)
class Training:
    """How a `Recurrent` is trained.

    Attributes:
        steps: of `train`.
        batch: sequences a step.
        learning_rate: the largest.
        samples: from each sequence, for entropies that compare samples: kNN and KDE.
        hidden: widths of the encoder's two hidden layers.
        memory: units of the recurrent layer.
        starts: networks at random, of which the one that does best in a sixth of the steps is trained on.
    """

    steps: int
    batch: int = 128
    learning_rate: float = 5e-3
    samples: int = 4
    hidden: int = 64
    memory: int = 32
    starts: int = 1


class Recurrent(nn.Module):
    """Encoder and predictor. `z_mean` and `z_whiten` are measured, not learnt."""

    mean: Tensor
    scale: Tensor
    z_mean: Tensor
    z_whiten: Tensor

    def __init__(self, inputs: int, latent: int, hidden: int, memory: int):
        super().__init__()
        layers: list[nn.Module] = [nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU()]
        self.encoder = nn.Sequential(*layers, nn.Linear(hidden, latent))
        self.memory = nn.GRU(latent, memory, batch_first=True)
        self.readout = nn.Linear(memory + latent, latent)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(()))
        self.register_buffer("z_mean", torch.zeros(latent))
        self.register_buffer("z_whiten", torch.eye(latent))

    def forward(self, images: Float[Tensor, "*batch pixel"]) -> Float[Tensor, "*batch latent"]:
        """Latents, not yet white."""
        return self.encoder((images - self.mean) / self.scale)

    def encode(self, images: Float[Tensor, "*batch pixel"]) -> Float[Tensor, "*batch latent"]:
        """Latents, white over the images that `settle` saw."""
        return (self(images) - self.z_mean) @ self.z_whiten

    def predict(self, z: Float[Tensor, "batch time latent"]) -> Float[Tensor, "batch time-1 latent"]:
        """Means of p(z_t | z_<t) from the second step on."""
        before = z[:, :-1]
        memory, _ = self.memory(before)
        return self.readout(torch.cat([memory, before], -1))

    @torch.no_grad()
    def settle(self, images: Float[Tensor, "sample pixel"]) -> None:
        """Measure what makes latents white."""
        mean, W = whitening(self(images))
        self.z_mean.copy_(mean)
        self.z_whiten.copy_(W)


def objective(
    network: Recurrent,
    images: Float[Tensor, "batch time pixel"],
    entropy: str,
    samples: int,
    draws: torch.Generator,
) -> Tensor:
    """F of a batch, nats a step; `entropy` as in `objectives.predictive`."""
    raw = network(images)
    batch, time, _ = raw.shape
    mean, W = whitening(raw.flatten(0, 1))
    z = (raw - mean) @ W
    zhat, z = network.predict(z), z[:, 1:]
    S = error_covariance((z.detach() if entropy == "stopgrad" else z) - zhat)
    if entropy in ("stopgrad", "logdet"):
        return predictive(z, zhat, S, entropy).value
    some = min(samples, time - 1)
    step = torch.rand(batch, time - 1, generator=draws).argsort(1)[:, :some].to(z.device)
    sequence = torch.arange(batch, device=z.device)[:, None]
    group = sequence.expand(batch, some).flatten()
    return predictive(z, zhat, S, entropy, z[sequence, step].flatten(0, 1), group, OPTIONS[entropy]).value


def error_covariance(error: Float[Tensor, "*batch dim"]) -> Float[Tensor, "dim dim"]:
    """Second moment of the errors of a prediction: the Sigma of largest likelihood."""
    flat = error.flatten(0, -2)
    return flat.mT @ flat / len(flat) + RIDGE * torch.eye(flat.shape[1], dtype=error.dtype, device=error.device)


def train(
    images: Float[Tensor, "sequence time pixel"],
    latent: int,
    entropy: str,
    settings: Training,
    seed: int,
    steps: int | None = None,
    start: Recurrent | None = None,
) -> tuple[Recurrent, np.ndarray]:
    """Fit encoder and predictor to sequences of images, on the device where these lie.

    `steps` other than the settings': 0 leaves the first network as it starts, but white. `start`: a network to train on
    from, of which a copy is made, instead of those at random.

    Returns:
        The network in its last state, white over these sequences, and its F at each step, nats.

    Raises:
        TrainingError: F is not finite any more.
    """
    device = images.device
    steps = settings.steps if steps is None else steps
    flat = images.flatten(0, 1)
    draws = torch.Generator().manual_seed(seed)

    def fit(network: Recurrent, steps: int) -> np.ndarray:
        def value(step: int) -> Tensor:
            pick = torch.randint(len(images), (settings.batch,), generator=draws).to(device)
            return objective(network, images[pick], entropy, settings.samples, draws)

        what = f"with {entropy}"
        return ascend(network.parameters(), value, steps, settings.learning_rate, what, warm=steps / 20, norm=1.0)

    if start is not None:
        network = copy.deepcopy(start)
        history = fit(network, steps)
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = images.shape[-1], latent, settings.hidden, settings.memory
            networks = [Recurrent(*sizes).to(device) for _ in range(settings.starts)]
        for network in networks:
            network.mean.copy_(flat.mean(0))
            network.scale.copy_((flat - network.mean).square().mean().sqrt())
        trial = steps // 6 if settings.starts > 1 else 0
        tried = [(network, fit(network, trial)) for network in networks]
        # At the end of its trial a network moves little: the mean over a quarter of it is steadier than one batch.
        network, history = max(tried, key=lambda one: one[1][-max(1, trial // 4) :].mean()) if trial else tried[0]
        history = np.concatenate([history, fit(network, steps - trial)])
    network.settle(flat)
    return network, history


def affine(z: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Weights (latent + 1, dim) of the best affine map from z (sample, latent) to truth (sample, dim)."""
    return np.linalg.lstsq(with_one(z), truth, rcond=None)[0]


def with_one(z: np.ndarray) -> np.ndarray:
    """z with a column of ones, for `affine` weights."""
    return np.column_stack([z, np.ones(len(z))])


def affine_r2(z: np.ndarray, truth: np.ndarray, held_z: np.ndarray, held_truth: np.ndarray) -> float:
    """Share of the held-out truth's variance that the best affine map, fitted elsewhere, explains; over all dims.

    >>> z = np.random.default_rng(0).standard_normal((50, 2))
    >>> round(affine_r2(z, 3 * z - 1, z, 3 * z - 1), 9)
    1.0
    """
    error = held_truth - with_one(held_z) @ affine(z, truth)
    return float(1 - np.square(error).sum() / np.square(held_truth - held_truth.mean(0)).sum())
