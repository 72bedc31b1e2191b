"""The network that is trained: the encoders and the filter's raw parameters."""

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldmfilter.config import FilterConfig
from ldmfilter.filter.candidates import CANDIDATES, NOISE_TIME, Candidate
from ldmfilter.filter.encoder import Encoder
from ldmfilter.filter.kalman import LinearGaussian
from ldmfilter.filter.linalg import symmetrise
from ldmfilter.filter.matching import Moments, no_moments
from ldmfilter.filter.parameters import Dynamics
from ldmfilter.tensors import Tensors, below


class Network(nn.Module):
    """An encoder for each session and the dynamics that all share, with what is not learnt but measured: `gauge`
    brings the states to canonical coordinates, `covariance_scale` the covariances to the size of held-out innovations,
    `evidence_share` lets the noise follow the spikes (`observe`), and the moments of z (`matching.Moments`) bring
    further sessions into the same state space. Where the dynamics were fitted anew after training, or split, `system`
    has them (`finish.refit_dynamics`, `finish.split_dynamics`), and only the first of its states are handed out, as
    many as `gauge` has.

    Args:
        n_units: number of units of each session.
        config: the filter's settings, with numbers for all sizes (`FilterConfig.sized`).
        frame: length of a frame, s.
        begin: where the dynamics begin; without it the first candidate.
        signals: which sessions hold a signal; without it none.
    """

    gauge: Tensor
    covariance_scale: Tensor
    evidence_share: Tensor
    second_moments: Tensor
    third_moments: Tensor

    def __init__(
        self,
        n_units: Sequence[int],
        config: FilterConfig,
        frame: float,
        begin: Candidate = CANDIDATES[0],
        signals: Sequence[bool] | None = None,
    ):
        super().__init__()
        self.encoders = nn.ModuleList(
            # With a linear map sessions find other latents each, and are matched worse (docs/why/limits.md).
            Encoder(n, config.latents, config.widths, begin.encoding.dropout, signal, linear=len(n_units) == 1)
            for n, signal in zip(n_units, signals or [False] * len(n_units), strict=True)
        )
        # Training has to start from much noise: from little (decay 0.9, noise 0.5) it ends at 1.6 times the error on a
        # real track.
        self.dynamics = Dynamics(
            config.latents,
            config.states,
            decay=begin.decay(config.states, frame),
            noise=1 / (1 + frame / NOISE_TIME),
        )
        self.register_buffer("gauge", torch.eye(config.states))
        self.register_buffer("covariance_scale", torch.ones(()))
        self.register_buffer("evidence_share", torch.zeros(()))
        self.set_moments(no_moments(config.latents))

    def forward(self, counts: Sequence[Tensor]) -> tuple[list[Tensor], LinearGaussian]:
        """Raw pseudo-observations of each session's counts (*batch, unit), and the filter's parameters, which are
        computed in float64 whatever the precision."""
        return [encoder(x) for encoder, x in zip(self.encoders, counts, strict=True)], self.dynamics()

    def encode(self, counts: Float[Tensor, "*batch unit"], session: int = 0) -> Float[Tensor, "*batch latent"]:
        """White pseudo-observations of a session's counts."""
        encoder = self.encoder(session)
        return encoder.white(encoder(counts))

    def observe(
        self, counts: Float[Tensor, "time unit"], session: int = 0, spikes: Float[Tensor, "time unit"] | None = None
    ) -> tuple[Float[Tensor, "time latent"], Float[Tensor, " time"] | None]:
        """A session's counts as the filter takes them: pseudo-observations, float64, and the evidence a_t of each bin,
        which divides the noise R; None where the noise is constant.

        An encoder draws z towards z_0, its z of silence, where it sees few spikes: z_t - z_0 = 2 a_t / (1 + a_t)
        (C h_t + v_t - z_0), v_t ~ N(0, R / a_t), where a_t is 1 at the mean of weighted spikes. Here this is undone.
        Without it z varies least in silence, and silence looks certain.

        Args:
            counts: as the encoder sees them: a unit that is not observed enters as its mean, and draws z as that.
            spikes: those that were seen, of which the evidence is; without it those of the counts.
        """
        z = self.encode(counts, session).double()
        if not self.evidence_share:
            return z, None
        encoder, share = self.encoder(session), float(self.evidence_share)
        silence = self.encode(torch.zeros_like(counts[:1]), session).double()
        drawn = encoder.evidence(counts, share, missing=encoder.mean_counts)
        evidence = encoder.evidence(counts if spikes is None else spikes, share)
        return silence + (z - silence) * undrawn(drawn)[:, None], evidence

    def encoder(self, session: int = 0) -> Encoder:
        """The encoder of the session at a position."""
        encoder: Encoder = self.encoders[session]  # type: ignore[assignment]
        return encoder

    def keep(self, sessions: Sequence[int]) -> "Network":
        """The network of some of its sessions, with the same parameters, not copies."""
        network = copy.copy(self)
        network._modules = {**self._modules, "encoders": nn.ModuleList([self.encoders[i] for i in sessions])}
        return network

    @property
    def moments(self) -> Moments:
        """The moments of white z that all sessions share."""
        return Moments(self.second_moments.double().numpy(), self.third_moments.double().numpy())

    def set_moments(self, moments: Moments) -> None:
        """Keep the moments of white z that all sessions share."""
        self.register_buffer("second_moments", torch.from_numpy(moments.second).float())
        self.register_buffer("third_moments", torch.from_numpy(moments.third).float())

    @property
    def system(self) -> LinearGaussian | None:
        """The dynamics that were fitted anew, or split, float64; None where those of training are used."""
        values = [getattr(self, f"{_SYSTEM}{name}", None) for name in LinearGaussian._fields]
        return None if values[0] is None else LinearGaussian._make(values)

    def set_system(self, system: LinearGaussian) -> None:
        """Use these dynamics in place of those of training."""
        for name, value in system._asdict().items():
            self.register_buffer(f"{_SYSTEM}{name}", value.contiguous())  # as files hold it

    def take(self, tensors: Tensors, strict: bool = True) -> "Network":
        """Take the tensors of a network's `state_dict`, those of a system too; with `strict`, all have to be there.

        Raises: KeyError, RuntimeError, ValueError where they are of another network, or of none.
        """
        if f"{_SYSTEM}A" in tensors:
            system = LinearGaussian._make(tensors[f"{_SYSTEM}{name}"] for name in LinearGaussian._fields)
            n, latents = system.b.numel(), self.dynamics.noise.numel()
            shapes = (n, n), (n, n), (latents, n), (latents, latents), (n,), (n, n)
            if tuple(tuple(one.shape) for one in system) != shapes:
                raise ValueError("its refitted dynamics do not fit together")
            self.set_system(system)
        self.load_state_dict(tensors, strict=strict)
        return self

    @torch.no_grad()
    def linear_gaussian(self) -> LinearGaussian:
        """The filter as it is used: in canonical coordinates, float64, made from the raw parameters in float64."""
        A, Q, C, R, b, P0 = self.system or copy.deepcopy(self.dynamics).double()()
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


def together(
    each: Sequence[tuple[Float[Tensor, "_ latent"], Float[Tensor, " _"] | None]],
) -> tuple[Float[Tensor, "time latent"], Float[Tensor, " time"] | None]:
    """Several pieces that `Network.observe` gave, one after the other."""
    evidence = [a for _, a in each if a is not None]
    return torch.cat([z for z, _ in each]), torch.cat(evidence) if evidence else None


def widths_of(tensors: Tensors) -> tuple[int, ...]:
    """Widths of the hidden layers of a network's encoders."""
    layers = below("encoders.0.layers.", tensors)
    weights = {int(name.removesuffix(".weight")): len(x) for name, x in layers.items() if name.endswith(".weight")}
    return tuple(weights[i] for i in sorted(weights))[:-1]


def undrawn(evidence: Float[Tensor, " *batch"]) -> Float[Tensor, " *batch"]:
    """The factor (1 + a) / 2 a by which z - z_0 is enlarged (`Network.observe`), from the evidence a."""
    return 0.5 * (1 + 1 / evidence)


_SYSTEM = "system_"  # before the names of the buffers of a system

# Names of buffers until model format 2, and of those that came with format 7.
_NAMES = {"second_moments": "law_second", "third_moments": "law_third"}
_SHARE, _MEAN = "evidence_share", ".mean_counts"
_FITTED = "noise.fitted"  # until format 7


def names_of_format_2(tensors: Tensors) -> Tensors:
    """A network's tensors by the names of model format 2, which a model's id is made of, without those that came later
    and change nothing: a linear map of zeros, and what tells of the evidence where the noise is constant."""
    constant = all(not value for name, value in tensors.items() if name.endswith(_SHARE))
    later = {name for name, value in tensors.items() if name.endswith(".linear.weight") and not value.any()}
    later |= {name for name in tensors if constant and name.endswith((_SHARE, _MEAN))}
    return {_NAMES.get(name, name): value for name, value in tensors.items() if name not in later}


def current_names(tensors: Tensors) -> Tensors:
    """A network's tensors by the names that they have now, from those of model format 2 or later. Until format 6 all
    noise was constant; until format 7 only the noise was fitted anew."""
    now = {old: new for new, old in _NAMES.items()}
    tensors = {now.get(name, name): value for name, value in tensors.items()}
    for name, value in list(tensors.items()):
        for old, later in ((".input_mean", _MEAN), ("covariance_scale", _SHARE)):
            if name.endswith(old):
                tensors.setdefault(name.removesuffix(old) + later, torch.zeros_like(value))
    for where in [name.removesuffix(_FITTED) for name in tensors if name.endswith(_FITTED)]:
        if tensors[where + _FITTED]:
            system = _with_noise(below(f"{where}dynamics.", tensors), below(f"{where}noise.", tensors))
            tensors |= {f"{where}{_SYSTEM}{name}": value for name, value in system._asdict().items()}
        tensors = {name: value for name, value in tensors.items() if not name.startswith(f"{where}noise.")}
    return tensors


@torch.no_grad()
def _with_noise(dynamics: Tensors, noise: Tensors) -> LinearGaussian:
    """The system of a network whose noise was fitted anew, until model format 7: z_t = C h_t + D u_t + w_t with u an
    autoregression of order one, C and D diagonal, and w white."""

    def made(tensors: Tensors) -> LinearGaussian:
        latent, state = len(tensors["noise"]), len(tensors["contraction"])
        with torch.random.fork_rng(devices=[]):
            one = Dynamics(latent, state, decay=0.5, noise=0.5)
        one.load_state_dict(tensors)
        system: LinearGaussian = one.double()()
        return system

    h, u = made(dynamics), made(below("memory.", noise))
    signal, coloured, white = (noise[name].double().exp() for name in ("signal", "coloured", "white"))
    return LinearGaussian(
        A=torch.block_diag(h.A, u.A),
        Q=torch.block_diag(h.Q, u.Q),
        C=torch.cat([signal[:, None] * h.C, torch.diag(coloured)], 1),
        R=torch.diag(0.001 + white),
        b=torch.cat([h.b, u.b]),
        P0=torch.block_diag(h.P0, u.P0),
    )
