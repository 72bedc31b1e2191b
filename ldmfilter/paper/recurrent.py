"""Predictive latent distribution matching with a recurrent predictor in place of the Kalman filter (method.md, 1, 5).

z_t = f(image_t), p(z_t | z_<t) = N(mu(z_<t), Sigma) with mu a gated recurrent unit. As the scale of z, and its
covariance, are a free gauge, z is whitened; Sigma is the covariance of the errors of the batch, at which the likelihood
has its maximum.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldmfilter.filter.linalg import one_thread
from ldmfilter.paper.sequences import Prediction, SequenceModel, mlp, objective
from ldmfilter.trainer import ascend

WARMUP = 1  # steps without loss: the first has no past


@dataclass(frozen=True)
class Training:
    """Settings of `train`.

    Attributes:
        steps: of training.
        batch: sequences a step.
        learning_rate: the highest.
        samples: from each sequence, for entropies that compare samples: kNN and KDE.
        hidden: widths of the encoder's two hidden layers.
        memory: units of the recurrent layer.
        starts: random networks, of which the one that does best in a sixth of the steps is trained on.
    """

    steps: int
    batch: int = 128
    learning_rate: float = 5e-3
    samples: int = 4
    hidden: int = 64
    memory: int = 32
    starts: int = 1


class PixelEncoder(nn.Module):
    """A multilayer perceptron on standardised pixels; `mean` and `scale` are measured, not learnt."""

    mean: Tensor
    scale: Tensor

    def __init__(self, inputs: int, hidden: int, latent: int):
        super().__init__()
        self.layers = mlp(inputs, hidden, hidden, latent)
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, images: Float[Tensor, "*batch pixel"]) -> Float[Tensor, "*batch latent"]:
        """Latents, not yet white."""
        return self.layers((images - self.mean) / self.scale)

    def standardise(self, images: Float[Tensor, "sample pixel"]) -> None:
        """Measure the mean image, and one scale of all pixels."""
        self.mean.copy_(images.mean(0))
        self.scale.copy_((images - self.mean).square().mean().sqrt())


class GatedPredictor(nn.Module):
    """A gated recurrent unit; it predicts 0 of the first step, which has no past, and leaves the covariance open."""

    def __init__(self, latent: int, memory: int):
        super().__init__()
        self.memory = nn.GRU(latent, memory, batch_first=True)
        self.readout = nn.Linear(memory + latent, latent)

    def forward(self, z: Float[Tensor, "batch time latent"], noise: None = None) -> Prediction:
        """Means of p(z_t | z_<t)."""
        before = z[:, :-1]
        memory, _ = self.memory(before)
        zhat = self.readout(torch.cat([memory, before], -1))
        return Prediction(torch.cat([torch.zeros_like(z[:, :1]), zhat], 1), None, None, None)


def network(inputs: int, latent: int, hidden: int, memory: int) -> SequenceModel:
    """A random encoder of images and recurrent predictor."""
    return SequenceModel(PixelEncoder(inputs, hidden, latent), GatedPredictor(latent, memory), latent)


@one_thread()
def train(
    images: Float[Tensor, "sequence time pixel"],
    latent: int,
    entropy: str,
    settings: Training,
    seed: int,
    steps: int | None = None,
    start: SequenceModel | None = None,
) -> tuple[SequenceModel, np.ndarray]:
    """Fit encoder and predictor to sequences of images, on the device of the images.

    Args:
        images: the sequences.
        latent: dimensions of z.
        entropy: as in `objectives.predictive`.
        settings: see there.
        seed: of everything random.
        steps: instead of the settings'; 0 leaves the network as it starts, but white.
        start: a network of which a copy is trained, instead of random ones.

    Returns:
        The network in its last state, white over these sequences, and its F at each step, nats.

    Raises:
        TrainingError: F is not finite any more.
    """
    steps = settings.steps if steps is None else steps
    draws = torch.Generator().manual_seed(seed)

    def batch(step: int) -> Tensor:
        return images[torch.randint(len(images), (settings.batch,), generator=draws).to(images.device)]

    def fit(model: SequenceModel, steps: int) -> np.ndarray:
        def value(frames: Tensor) -> Tensor:
            return objective(model, frames, entropy, WARMUP, settings.samples, draws).value

        rate = settings.learning_rate
        return ascend(model, batch, value, steps, f"with {entropy}", learning_rate=rate, warm=steps / 20, norm=1.0)

    if start is not None:
        starts = [copy.deepcopy(start)]
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = images.shape[-1], latent, settings.hidden, settings.memory
            starts = [network(*sizes).to(images.device) for _ in range(settings.starts)]
        for model in starts:
            encoder = model.encoder
            assert isinstance(encoder, PixelEncoder)
            encoder.standardise(images.flatten(0, 1))
    trial = steps // 6 if len(starts) > 1 else 0
    tried = [(model, fit(model, trial)) for model in starts]
    # At the end of its trial a network moves little: the mean over a quarter of it is steadier than one batch.
    model, history = max(tried, key=lambda one: one[1][-max(1, trial // 4) :].mean()) if trial else tried[0]
    history = np.concatenate([history, fit(model, steps - trial)])
    with torch.no_grad():
        model.encode(images, measure=True)
    return model, history
