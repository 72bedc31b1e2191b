"""What training changes: the encoder and the filter's raw parameters, with the scale of z."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldmfilter.config import FilterConfig
from ldmfilter.filter.encoder import Encoder
from ldmfilter.filter.kalman import LinearGaussian
from ldmfilter.filter.parameters import Dynamics


class Network(nn.Module):
    """Encoder and dynamics. The buffers `z_mean` and `z_scale` standardise z; they are statistics, not learnt."""

    z_mean: Tensor
    z_scale: Tensor

    def __init__(self, n_units: int, config: FilterConfig, bin_size: float):
        super().__init__()
        self.encoder = Encoder(n_units, config.latent_dim, tuple(config.hidden), config.dropout)
        self.dynamics = Dynamics(config.latent_dim, config.state_dim)
        self.register_buffer("z_mean", torch.zeros(config.latent_dim))
        self.register_buffer("z_scale", torch.ones(config.latent_dim))

    def forward(self, counts: Float[Tensor, "*batch unit"]) -> tuple[Tensor, LinearGaussian]:
        """Raw pseudo-observations, and the filter's parameters, which stay in float32 under mixed precision."""
        z = self.encoder(counts)
        with torch.autocast(counts.device.type, enabled=False):
            return z.float(), self.dynamics()

    def encode(self, counts: Float[Tensor, "*batch unit"]) -> Float[Tensor, "*batch latent"]:
        """Standardised pseudo-observations: mean 0 and variance 1 over the training part."""
        return (self.encoder(counts) - self.z_mean) / self.z_scale

    def set_z_scale(self, z: Float[Tensor, "sample latent"]) -> None:
        """Fix the gauge: learn the mean and the deviation of raw pseudo-observations."""
        self.z_mean.copy_(z.mean(0))
        self.z_scale.copy_(z.std(0).clamp_min(1e-8))
