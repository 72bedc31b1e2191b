"""From the counts of one bin, or the values of a signal, to a pseudo-observation."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldmfilter.filter.linalg import whitening
from ldmfilter.ranks import ranks

Counts = Float[Tensor, "*batch unit"]
Latents = Float[Tensor, "*batch latent"]


class Dropout(nn.Dropout):
    """Dropout by a mask of the whole batch where processes share it: each drops what one alone would drop.

    The share is one of 256: eight values take the bits of one random number, which makes a step a quarter faster.
    """

    def forward(self, x: Tensor) -> Tensor:
        """x with some values set to 0 in training, and the others enlarged."""
        dropped = min(round(256 * self.p), 255)
        if not (self.training and dropped):
            return x
        among = ranks()
        shape = len(x) * among.size, *x.shape[1:]
        drawn = torch.empty(math.prod(shape) // 8 + 1, dtype=torch.int64, device=x.device).random_(-(2**63), None)
        kept = drawn.view(torch.uint8)[: math.prod(shape)].view(shape) >= dropped
        return x * (kept.chunk(among.size)[among.rank].to(x.dtype) * (256 / (256 - dropped)))


RARE = 0.1  # of the mean count: a spike of a unit that fires less does not weigh more
MOST_SPIKES = 5.0  # of a bin, weighted, in means: beyond that a burst, or an artefact, makes it no surer
LEAST_VARIANCE = 1e-3  # of the largest, of a component that weights may begin with: the rest would be blown up
FIRST_SHARE = 0.1  # of the last layer's first weights: z begins nearly as a linear map


class Encoder(nn.Module):
    """A linear map and a multilayer perceptron, added, of the square roots of the counts of one bin, or of a signal as
    it is.

    The map learns fast what is linear in the counts; the perceptron, which begins small, learns the rest. Alone it
    has to find both, and reads place and heading worse (CHANGELOG.md).
    The square root stabilises a Poisson count's variance (Bartlett 1936). Each unit's input is standardised with
    the mean and deviation of the training part (`set_input_scale`), so that a unit that is not observed can
    enter as 0, its mean. One bin goes in, no neighbours: windows that overlapped would make prediction trivial.
    What is not learnt but measured: `z_mean` and `z_whiten` make pseudo-observations white, and
    `mean_counts` is what each unit fires on average.

    Args:
        n_units: number of units.
        latent_dim: dimensions of the pseudo-observation.
        hidden: widths of the hidden layers.
        dropout: share of units and of hidden activations that is dropped in training.
        signal: whether it sees a signal, not counts.
        linear: whether the linear map is learnt; without it, it stays 0, and the perceptron begins as large as others.
    """

    input_mean: Tensor
    input_scale: Tensor
    z_mean: Tensor
    z_whiten: Tensor
    mean_counts: Tensor

    def __init__(
        self,
        n_units: int,
        latent_dim: int,
        hidden: tuple[int, ...] = (128, 128),
        dropout: float = 0.1,
        signal: bool = False,
        linear: bool = True,
    ):
        super().__init__()
        self.signal = signal
        self.register_buffer("input_mean", torch.zeros(n_units))
        self.register_buffer("input_scale", torch.ones(n_units))
        self.register_buffer("z_mean", torch.zeros(latent_dim))
        self.register_buffer("z_whiten", torch.eye(latent_dim))
        self.register_buffer("mean_counts", torch.zeros(n_units))
        layers: list[nn.Module] = [Dropout(dropout)]
        width = n_units
        for size in hidden:
            layers += [nn.Linear(width, size), nn.GELU(), Dropout(dropout)]
            width = size
        last = nn.Linear(width, latent_dim)
        self.layers = nn.Sequential(*layers, last)
        self.linear = nn.Linear(n_units, latent_dim, bias=False) if linear else _nothing(n_units, latent_dim)
        if linear:
            with torch.no_grad():
                last.weight.mul_(FIRST_SHARE)

    @torch.no_grad()
    def set_input_scale(self, counts: Float[Tensor, "time unit"]) -> None:
        """Learn each unit's mean and deviation of the root of its counts, over the bins it was observed in, and the
        mean of its counts."""
        x = self._roots(counts)
        mean = torch.nan_to_num(x.nanmean(0))
        variance = torch.nan_to_num((x - mean).square().nanmean(0))
        self.input_mean.copy_(mean)
        scale = variance.sqrt()
        if self.signal:  # its channels may differ in scale; one that is constant here stays near 0
            scale = torch.where(scale > 1e-6 * mean.abs(), scale, 1.0)
        else:  # a unit that hardly fires would enter its rare spikes blown up: at least half the typical deviation
            scale = scale.clamp_min(0.5 * float(variance.mean().sqrt()) + 1e-6)
        self.input_scale.copy_(scale)
        self.mean_counts.copy_(torch.nan_to_num(counts.nanmean(0)))

    @torch.no_grad()
    def begin_with_components(self, standardised: Float[Tensor, "time unit"]) -> None:
        """Let the linear map give the principal components of inputs, or of averages of them, each of unit variance, of
        counts those of their roots. Rows for which there is no component stay random. After `set_input_scale`."""
        scale = torch.ones_like(self.input_scale) if self.signal else self.input_scale
        x = (standardised * scale).double()
        variance, axes = torch.linalg.eigh((x - x.mean(0)).T @ (x - x.mean(0)) / len(x))
        there = variance > LEAST_VARIANCE * float(variance[-1])
        components = (axes[:, there] * variance[there].rsqrt()).T.flip(0)[: self.linear.out_features]
        self.linear.weight[: len(components)] = (components * scale).to(self.linear.weight)

    def spike_weights(self) -> Float[Tensor, " unit"]:
        """The evidence of a spike of each unit: in proportion to 1 over the deviation of its Poisson count, so that few
        fast units do not stand for all, and such that the sum over units and their mean counts is 1. Of a unit that
        was silent in training 0, as nothing was learnt of it."""
        mean = self.mean_counts.double()
        weights = mean.clamp_min(RARE * float(mean.mean())).rsqrt().masked_fill(mean <= 0, 0)
        return weights / (weights @ mean).clamp_min(1e-12)

    def evidence(self, counts: Counts, share: float, missing: float | Tensor = 0.0) -> Float[Tensor, " *batch"]:
        """The evidence of each bin, 1 on average: 1 - share, and the share times the weighted sum of its spikes, which
        is `MOST_SPIKES` at most. A unit that is not observed counts as `missing`."""
        spikes = torch.where(counts.isnan(), torch.as_tensor(missing, dtype=counts.dtype, device=counts.device), counts)
        return 1 - share + share * (spikes.double() @ self.spike_weights()).clamp_max(MOST_SPIKES)

    def standardised(self, counts: Counts) -> Counts:
        """Inputs of the first layer: standardised over training, 0 where a unit is not observed."""
        return torch.nan_to_num((self._roots(counts) - self.input_mean) / self.input_scale)

    def _roots(self, counts: Tensor) -> Tensor:
        return counts if self.signal else counts.sqrt()

    def forward(self, counts: Counts) -> Latents:
        """Counts (NaN where a unit is not observed) to pseudo-observations, not yet white."""
        return self.raw(self.standardised(counts))

    def raw(self, standardised: Counts) -> Latents:
        """Pseudo-observations, not yet white, of `standardised` inputs."""
        x = self.layers[0](standardised)  # units are dropped for both
        return self.linear(x) + self.layers[1:](x)

    def white(self, raw: Latents) -> Latents:
        """Raw pseudo-observations made white: mean 0 and unit covariance over the training part."""
        return (raw - self.z_mean) @ self.z_whiten

    @torch.no_grad()
    def fix_gauge(self, raw: Float[Tensor, "sample latent"]) -> None:
        """Learn what makes raw pseudo-observations white.

        The scale of z is a free gauge that training would use to switch the filter off; so is its covariance,
        as every affine map of z has another filter that predicts it as well. Whitening fixes both.
        """
        mean, W = whitening(raw)
        self.z_mean.copy_(mean)
        self.z_whiten.copy_(W)


def _nothing(n_units: int, latent_dim: int) -> nn.Linear:
    """A linear map that is 0 and stays so; it draws no random numbers."""
    linear: nn.Linear = nn.utils.skip_init(nn.Linear, n_units, latent_dim, bias=False).requires_grad_(False)
    with torch.no_grad():
        linear.weight.zero_()
    return linear
