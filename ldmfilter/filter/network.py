"""What training changes: the encoder and the filter's raw parameters, with the scale of z."""

import copy
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldmfilter.config import FilterConfig
from ldmfilter.filter.encoder import Encoder
from ldmfilter.filter.kalman import LinearGaussian
from ldmfilter.filter.linalg import symmetrise, whitening
from ldmfilter.filter.parameters import Dynamics, NoiseWithMemory

INITIAL_TIME_CONSTANT = 5.0  # s, of the states before training
NOISE_MEMORY = 0.1  # s, time constant of the noise before it is refitted
INITIAL_NOISE_TIME = 0.9  # s; a bin of this length would have as much signal as noise


class Network(nn.Module):
    """Encoder and dynamics, with what is not learnt but measured: `z_mean` and `z_whiten` make z white, `gauge` brings
    the states to canonical coordinates, `covariance_scale` the covariances to the size of held-out innovations."""

    z_mean: Tensor
    z_whiten: Tensor
    gauge: Tensor
    covariance_scale: Tensor

    def __init__(self, n_units: int, config: FilterConfig, bin_size: float):
        super().__init__()
        self.encoder = Encoder(n_units, config.latent_dim, tuple(config.hidden), config.dropout)
        # Slow states seen through much noise are where training has to start: from fast ones (decay 0.9, noise
        # 0.5) it ends at 1.6 times the error on the real session.
        self.dynamics = Dynamics(
            config.latent_dim,
            config.states,
            decay=math.exp(-bin_size / INITIAL_TIME_CONSTANT),
            noise=1 / (1 + bin_size / INITIAL_NOISE_TIME),
        )
        self.noise = NoiseWithMemory(config.latent_dim, math.exp(-bin_size / NOISE_MEMORY)) if config.refit else None
        self.register_buffer("z_mean", torch.zeros(config.latent_dim))
        self.register_buffer("z_whiten", torch.eye(config.latent_dim))
        self.register_buffer("gauge", torch.eye(config.states))
        self.register_buffer("covariance_scale", torch.ones(()))

    def forward(self, counts: Float[Tensor, "*batch unit"]) -> tuple[Tensor, LinearGaussian]:
        """Raw pseudo-observations, and the filter's parameters, which stay in float32 under mixed precision."""
        z = self.encoder(counts)
        with torch.autocast(counts.device.type, enabled=False):
            return z.float(), self.dynamics()

    def encode(self, counts: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch latent"]:
        """White pseudo-observations: mean 0 and unit covariance over the training part."""
        return (self.encoder(counts) - self.z_mean) @ self.z_whiten

    @torch.no_grad()
    def linear_gaussian(self) -> LinearGaussian:
        """The filter as it is used: in canonical coordinates, float64, made from the raw parameters in float64.

        Where the noise has a memory, its states come after those of h.
        """
        model = copy.deepcopy(self.dynamics).double()()
        if self.noise is not None and self.noise.fitted:
            model = copy.deepcopy(self.noise).double()(model)
        A, Q, C, R, b, P0 = model
        T, scale = self.gauge.double(), self.covariance_scale.double()
        T = torch.block_diag(T, torch.eye(len(A) - len(T), dtype=T.dtype, device=T.device))

        def right(matrix: Tensor) -> Tensor:  # matrix T^-1
            return torch.linalg.solve(T, matrix, left=False)

        return LinearGaussian(
            A=right(T @ A),
            Q=scale * symmetrise(T @ Q @ T.mT),
            C=right(C),
            R=scale * R,
            b=T @ b,
            P0=scale * symmetrise(T @ P0 @ T.mT),
        )

    @torch.no_grad()
    def fix_gauge(self, z: Float[Tensor, "sample latent"]) -> None:
        """Learn what makes raw pseudo-observations white.

        The scale of z is a free gauge that training would use to switch the filter off; so is its covariance,
        as every affine map of z has another filter that predicts it as well. Whitening fixes both.
        """
        mean, W = whitening(z)
        self.z_mean.copy_(mean)
        self.z_whiten.copy_(W)
