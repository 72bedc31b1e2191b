"""The training loop: yields one record an evaluation, prints nothing, and can be stopped and taken up again."""

import dataclasses
import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from ldmfilter.config import DEVICES, FilterConfig
from ldmfilter.data.windows import split_windows
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.filter.encoder import Dropout
from ldmfilter.filter.finish import canonical_gauge, covariance_scale, innovation_scale, population_activity, refit
from ldmfilter.filter.kalman import LinearGaussian, filter, filter_windows
from ldmfilter.filter.linalg import NotPositiveDefiniteError, one_thread, whitening
from ldmfilter.filter.matching import Law, Match, law_of, match, mean_law, turned
from ldmfilter.filter.network import Network
from ldmfilter.ldm.alignment import predictive_gaussian
from ldmfilter.ldm.entropy import logdet
from ldmfilter.ldm.objectives import Objective, predictive
from ldmfilter.ldm.spectrum import effective_rank
from ldmfilter.ranks import Ranks, ranks

EVALUATE_EVERY = 25  # steps
EVALUATION_WINDOWS = 256  # held-out windows at most, spread evenly
REFIT_WINDOWS = 2048  # training windows at most that the dynamics are refitted to, spread evenly
GAUGE_LAG = 1.0  # s, between the states whose autocorrelation orders the dimensions
FINISH_BINS = 2**16  # bins at most, about, that gauge and scale of the covariances are measured on
SCALING_BINS = 20_000  # bins at most that the mean and covariance of z are learnt from, spread evenly
RESIDENT = 2**28  # bytes of counts that are held in (the device's) memory; more are read from where they lie
STRETCH = 2**16  # bins read at a time then
GRADIENT_NORM = 5.0  # gradients are clipped to it
COLLAPSED_RANK = 0.2  # an effective rank below this share of the latent dimensions is a collapse
GRACE = 100  # steps before a collapse is told


# kNN and KDE compare some bins of every window, none with its own window: neighbours in time are not independent.
SAMPLES = 12  # bins of each window
KNN_OPTIONS: dict[str, int | float] = {"k": 3, "clip": 0.1}  # the paper's


@dataclass(frozen=True)
class Record:
    """What one evaluation saw. All log-likelihoods are in nats per bin.

    Attributes:
        step: training steps done.
        loss: mean negative objective since the last evaluation (NaN before the first step).
        held_out_log_likelihood: of white z in held-out blocks, each bin predicted from those before, with covariances
            as large as the innovations of all sessions there say (`finish.innovation_scale`).
        score: the same minus the log-likelihood of a Gaussian without memory, which makes it independent of
            the scale and correlation of z: how much prediction helps. The step with the highest is kept.
        effective_rank: of held-out z, the exponential of the entropy of its covariance's normalised eigenvalues
            (Roy & Vetterli 2007); of several sessions the lowest.
        kept_step: the best step so far.
    """

    step: int
    loss: float
    held_out_log_likelihood: float
    score: float
    effective_rank: float
    kept_step: int


def read_history(raw: Any) -> list[Record]:
    """Records as a file holds them. Raises: TypeError, ValueError where they are none."""
    records = [Record(**record) for record in raw]
    for record in records:
        if not (type(record.step) is type(record.kept_step) is int and record.step >= 0):
            raise ValueError("a record of no step")
        if not all(isinstance(value, int | float) for value in dataclasses.astuple(record)):
            raise TypeError("a record of no numbers")
    return records


def resolve_device(device: str) -> str:
    """ "auto" is CUDA where there is one, else the CPU.

    Raises:
        InputError: no such name.
        TrainingError: CUDA was asked for and is not there.
    """
    if device not in DEVICES:
        raise InputError(f"device is {device!r}; choose one of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise TrainingError("no CUDA device was found; use --device cpu or auto")
    return "cuda" if device != "cpu" and available else "cpu"


def check_sessions(counts: Sequence[xr.DataArray]) -> None:
    """Raises: InputError for sessions of different bins, for the same session twice and for none."""
    if not counts:
        raise InputError("no session to train on; give one or more")
    seen: dict[str, str] = {}
    for one in counts:
        path, checksum = str(one.attrs.get("path") or "counts"), str(one.attrs.get("checksum", ""))
        size, first = float(one.attrs["bin_size"]), float(counts[0].attrs["bin_size"])
        if not np.isclose(size, first, rtol=1e-9):
            raise InputError(f"{path}: bins of {size:g} s beside others of {first:g} s; bin all sessions alike")
        if checksum and checksum in seen:
            raise InputError(f"{path}: is the same session as {seen[checksum]}; name each session once")
        seen[checksum] = path


class _Gather(torch.autograd.Function):
    """The whole batch, in the order of the processes, from each one's share: whitening, filter and entropy then see
    what one process would.

    Every process computes the same loss of the whole batch, and so has the gradient of its own share already; averaging
    over the processes would divide it by their number.
    """

    @staticmethod
    def forward(ctx: Any, z: Tensor, among: Ranks) -> Tensor:
        ctx.ranks, ctx.share = among, len(z)
        parts = [torch.empty_like(z) for _ in range(among.size)]
        torch.distributed.all_gather(parts, z.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.ranks.size * grads[0].split(ctx.share)[ctx.ranks.rank], None


def _fabric(device: str, precision: Any, among: Ranks) -> Any:
    """Fabric on the device, with the other processes where there are some."""
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    # Its greetings would stand between the command line's own lines.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    if among.size == 1:
        return Fabric(accelerator=device, devices=1, precision=precision)
    nodes, strategy = among.size // among.local_size, DDPStrategy(broadcast_buffers=False)
    fabric = Fabric(
        accelerator=device, devices=among.local_size, num_nodes=nodes, strategy=strategy, precision=precision
    )
    fabric.launch()
    return fabric


class Training:
    """One training, with everything it needs to go on after a stop. Processes that `torchrun` started share it: each
    takes its part of every batch, and all come to the result that one alone would.

    Several sessions train one filter together: an encoder each and the dynamics of all. Each session is matched with
    the same latent model by an objective of its own, and all weigh the same.

    Args:
        config: the filter's settings.
        counts: (time, unit), as `bin_spikes` makes them; or several, one a session.
        onto: a finished network; all but the encoders of these sessions stays as it is there.

    Raises:
        InputError: too few bins for the windows, sessions of different bins, or the same session twice.
        TrainingError: the device is not there.
    """

    def __init__(
        self,
        config: FilterConfig,
        counts: xr.DataArray | Sequence[xr.DataArray],
        onto: Network | None = None,
    ):
        config.validate()
        self.config = config
        self.ranks = ranks()
        if config.batch_size % self.ranks.size:
            raise InputError(
                f"batch-size is {config.batch_size}; it must be a multiple of the {self.ranks.size} processes"
            )
        self.device = resolve_device(config.device)
        if config.precision == "16-mixed" and self.device == "cpu":
            raise InputError("precision is 16-mixed, which needs CUDA; use bf16-mixed or 32-true on the CPU")
        self._fabric = _fabric(self.device, config.precision, self.ranks)
        counts = [counts] if isinstance(counts, xr.DataArray) else list(counts)
        check_sessions(counts)
        self._bin_size = float(counts[0].attrs["bin_size"])
        self._recordings = [_Recording(one, config, self.device) for one in counts]
        self._units = [recording.n_units for recording in self._recordings]
        self._onto = onto
        self.matches: list[Match] = []  # how the sessions were brought into one space, when it was done last
        self.step = 0
        self.history: list[Record] = []
        self._best_score = -math.inf
        self._losses: list[Tensor] = []
        with self._lent_torch(torch.Generator().manual_seed(config.seed).get_state(), None):
            network = self._new_network()
            self._save_random_state()
        for i, recording in enumerate(self._recordings):
            network.encoder(i).set_input_scale(recording.scaling.cpu())
        self._draws = torch.Generator().manual_seed(config.seed)
        decay = list(network.encoders.parameters())
        plain = [p for p in network.dynamics.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=config.learning_rate,
            # One pass over all parameters: 0.1 ms a step in place of 0.5. With loss scaling it would undo the scale
            # itself, after gradients have to be clipped.
            fused=config.precision != "16-mixed",
        )
        if network.noise is not None:
            network.noise.requires_grad_(False)  # it is fitted at the end
        for module in network.modules():
            if isinstance(module, Dropout):
                module.ranks = self.ranks
        self._module, self._optimizer = self._fabric.setup(network, optimizer)
        self._network = network
        self._best = self._copy_of_network()

    @property
    def kept_step(self) -> int:
        """The step whose held-out score is the highest so far."""
        return self.history[-1].kept_step if self.history else 0

    def finished_state(self) -> dict[str, Tensor]:
        """The network of the kept step as it is used, on the CPU: in canonical coordinates, its covariances as large as
        held-out innovations say, and, once training has ended and where asked for, its noise refitted. Sessions are
        turned into one state space: that of the first, or that of the network trained onto."""
        with self._lent_torch(*self._random_state):
            network = self._new_network().eval()
            network.load_state_dict({name: value.cpu() for name, value in self._best.items()})
            self._match(network)
            if self._onto is not None:
                return network.state_dict()
            if network.noise is not None and self.step >= self.config.max_steps:
                each = list(enumerate(self._recordings))
                most = REFIT_WINDOWS // len(each)
                with torch.no_grad():
                    z = torch.cat([network.encode(one.train(most).cpu(), i).double() for i, one in each])
                    held = torch.cat([network.encode(one.held.cpu(), i).double() for i, one in each])
                refit(network.linear_gaussian(), network.noise.double(), z, held, self.config.warmup)
                network.noise.float()
            self._finish(network)
        return network.state_dict()

    def _new_network(self) -> Network:
        network = Network(self._units, self.config, self._bin_size)
        if self._onto is not None:
            shared = {k: v for k, v in self._onto.state_dict().items() if not k.startswith("encoders.")}
            network.load_state_dict(shared, strict=False)
            network.dynamics.requires_grad_(False)
        return network

    @torch.no_grad()
    def _match(self, network: Network) -> None:
        laws: list[Law] = [] if self._onto is None else [network.law]
        self.matches = []
        for i, recording in enumerate(self._recordings):
            counts, observed, starts, _ = recording.stretches(FINISH_BINS // len(self._recordings))
            run = np.cumsum(starts | (np.diff(observed, prepend=False) != 0))
            law = law_of(network.encode(counts, i).double().numpy()[observed], run[observed], self._bin_size)
            if laws:
                self.matches.append(match(law, laws[0]))
                U = self.matches[-1].rotation
                encoder, law = network.encoder(i), turned(law, U)
                encoder.z_whiten.copy_(encoder.z_whiten.double() @ torch.from_numpy(U))
            laws.append(law)
        if self._onto is None:
            network.set_law(mean_law(laws))

    @torch.no_grad()
    def _finish(self, network: Network) -> None:
        stretches = [recording.stretches(FINISH_BINS // len(self._recordings)) for recording in self._recordings]
        observed, starts, held = (np.concatenate(parts) for parts in list(zip(*stretches, strict=True))[1:])
        z = torch.cat([network.encode(counts, i).double() for i, (counts, *_) in enumerate(stretches)])
        filtered = filter(network.linear_gaussian(), z, torch.from_numpy(observed), torch.from_numpy(starts))
        activity = np.concatenate([population_activity(counts.nan_to_num().sqrt()) for counts, *_ in stretches])
        lag = max(1, round(GAUGE_LAG / self._bin_size))
        scale = covariance_scale(filtered, held)
        n = self.config.states
        mean, cov = filtered.filtered_mean[:, :n].numpy(), scale * filtered.filtered_cov.mean(0)[:n, :n].numpy()
        network.covariance_scale.fill_(scale)
        network.gauge.copy_(torch.from_numpy(canonical_gauge(mean, cov, np.cumsum(starts), activity, lag)))

    def run(self) -> Iterator[Record]:
        """Train to `max_steps`; one record an evaluation, the first before the first step.

        Raises:
            TrainingError: the loss is not finite any more, or z has collapsed.
        """
        if not self.history:
            with self._lent_torch(*self._random_state):
                record = self._evaluate()
            yield record
        while self.step < self.config.max_steps:
            with self._lent_torch(*self._random_state):
                for counts in self._batches(min(EVALUATE_EVERY, self.config.max_steps - self.step)):
                    self._losses.append(self._train_step(counts))
                    self.step += 1
                record = self._evaluate()
                self._save_random_state()
            self._check(record)
            yield record

    def _batches(self, steps: int) -> Iterator[tuple[Tensor, ...]]:
        """Random training windows (batch, time, unit) of each session, for each step: this process's share of them."""
        shape = (steps, self.config.batch_size)
        picks = [torch.randint(len(one.windows.train_starts), shape, generator=self._draws) for one in self._recordings]
        share = self.config.batch_size // self.ranks.size
        own = slice(self.ranks.rank * share, (self.ranks.rank + 1) * share)
        batches = (one.batches(each.numpy()[:, own]) for one, each in zip(self._recordings, picks, strict=True))
        yield from zip(*batches, strict=True)

    def _train_step(self, counts: Sequence[Tensor]) -> Tensor:
        self._module.train()
        progress = self.step / self.config.max_steps
        rate = min(1.0, (self.step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate
        self._optimizer.zero_grad()
        raw, model = self._module(counts)
        if self.ranks.size > 1:
            raw = [_Gather.apply(one, self.ranks) for one in raw]
        loss = -torch.stack([self._objective(one, model).value for one in raw]).mean()
        self._fabric.backward(loss)
        self._fabric.clip_gradients(self._module, self._optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        self._optimizer.step()
        return loss.detach()

    def _objective(self, raw: Float[Tensor, "batch time latent"], model: LinearGaussian) -> Objective:
        flat = raw.flatten(0, 1)
        mean, W = whitening(flat)
        z = (raw - mean) @ W
        zhat, S, _ = filter_windows(model, z)
        z, zhat = z[:, self.config.warmup :], zhat[:, self.config.warmup :]
        if self.config.entropy in ("stopgrad", "logdet"):
            return predictive(z, zhat, S, self.config.entropy)
        batch, time, _ = z.shape
        k = min(SAMPLES, time)
        order = torch.rand(batch, time, generator=self._draws).argsort(1)[:, :k].to(z.device)
        window = torch.arange(batch, device=z.device)[:, None]
        group = window.expand(batch, k).flatten()
        return predictive(
            z,
            zhat,
            S,
            self.config.entropy,
            z[window, order].flatten(0, 1),
            group,
            KNN_OPTIONS if self.config.entropy == "knn" else None,
        )

    @torch.no_grad()
    def _evaluate(self) -> Record:
        self._module.eval()
        warmup = self.config.warmup
        raw, model = self._module([recording.scaling for recording in self._recordings])
        held, _ = self._module([recording.held for recording in self._recordings])
        judged, entropies, ranks = [], [], []
        for i, (one, other) in enumerate(zip(raw, held, strict=True)):
            self._network.encoder(i).fix_gauge(one)
            z = self._network.encoder(i).white(other)
            zhat, S, _ = filter_windows(model, z)
            z, zhat = z[:, warmup:], zhat[:, warmup:]
            judged.append((z, zhat))
            entropies.append(float(logdet(z.flatten(0, 1))))
            ranks.append(effective_rank(z.flatten(0, 1)))
        # The covariances as the finished filter will have them, of one size for all sessions. Those of training know
        # dropout's noise besides: by them a step scores the less the more is learnt (0.15 to 0.08 nats on the real
        # session, where it is 0.31 to 0.44), and nearly untrained ones are kept.
        S = S * innovation_scale(torch.cat([(z - zhat).flatten(0, 1) for z, zhat in judged]), S)
        log_likelihood = float(np.mean([float(predictive_gaussian(z, zhat, S).mean()) for z, zhat in judged]))
        # A Gaussian without memory, with the mean and covariance of these very bins, scores minus its entropy.
        score = log_likelihood + float(np.mean(entropies))
        loss = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        self._losses = []
        if score > self._best_score:
            self._best_score, kept = score, self.step
            self._best = self._copy_of_network()
        else:
            kept = self.kept_step
        record = Record(self.step, loss, log_likelihood, score, min(ranks), kept)
        self.history.append(record)
        return record

    def _diverged(self) -> TrainingError:
        return TrainingError(
            f"training diverged at step {self.step}: its numbers are not finite any more; "
            f"try a --learning-rate below {self.config.learning_rate:g}"
        )

    def _check(self, record: Record) -> None:
        if not (math.isfinite(record.loss) and math.isfinite(record.held_out_log_likelihood)):
            raise self._diverged()
        limit = 1 + COLLAPSED_RANK * (self.config.latent_dim - 1)
        sizes = [float(self._network.encoder(i).z_whiten.abs().max()) for i in range(len(self._units))]
        constant = not all(size < 1e6 for size in sizes)
        if record.step >= GRACE and (constant or record.effective_rank < limit):
            raise TrainingError(
                f"training collapsed at step {record.step}: z of {self.config.latent_dim} dimensions has an effective "
                f"rank of {record.effective_rank:.1f}; try --entropy logdet, fewer --latent-dim or more spikes"
            )

    def _copy_of_network(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self._network.state_dict().items()}

    # torch's global state, its generators above all, which dropout draws from, is lent for each stretch of steps
    # and given back: a caller's random numbers are not disturbed, and a resumed training goes on with its own.

    @contextmanager
    def _lent_torch(self, cpu: Tensor, cuda: Tensor | None) -> Iterator[None]:
        deterministic = torch.are_deterministic_algorithms_enabled()
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if self.device == "cuda" else []):
            torch.set_rng_state(cpu)
            if self.device == "cuda":
                torch.cuda.manual_seed(self.config.seed) if cuda is None else torch.cuda.set_rng_state(cuda)
            torch.use_deterministic_algorithms(self.device == "cpu" or deterministic)
            try:
                with one_thread():
                    yield
            except (torch.linalg.LinAlgError, NotPositiveDefiniteError) as error:
                # Numbers that are not finite any more are first met by a factorisation.
                raise self._diverged() from error
            finally:
                torch.use_deterministic_algorithms(deterministic)

    def _save_random_state(self) -> None:
        cuda = torch.cuda.get_rng_state() if self.device == "cuda" else None
        self._random_state = (torch.get_rng_state(), cuda)

    # A checkpoint: named tensors and plain values, nothing else.

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a later `restore` needs to go on to the same result: tensors, and JSON values."""
        tensors = {f"network.{k}": v for k, v in self._copy_of_network().items()}
        tensors |= {f"best.{k}": v for k, v in self._best.items()}
        for i, state in self._optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
        cpu, cuda = self._random_state
        tensors |= {"random.cpu": cpu, "random.draws": self._draws.get_state()}
        if cuda is not None:
            tensors["random.cuda"] = cuda
        values = {
            "step": self.step,
            "best_score": self._best_score,
            "history": [dataclasses.asdict(record) for record in self.history],
        }
        return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, values

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: the state is of another network, or none.
        """
        step, best_score, history = values["step"], float(values["best_score"]), read_history(values["history"])
        if type(step) is not int or not 0 <= step <= self.config.max_steps or (history and history[-1].step != step):
            raise ValueError(f"its step is {step}")

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self._network.load_state_dict(part("network."))
        best, own = part("best."), self._network.state_dict()
        if {k: v.shape for k, v in best.items()} != {k: v.shape for k, v in own.items()}:
            raise ValueError("its kept parameters are those of another network")
        self._best = {k: v.to(self.device, own[k].dtype) for k, v in best.items()}
        optimizer = self._optimizer.state_dict()
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in part("optimizer.").items():
            index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
        self._optimizer.load_state_dict({"state": moments, "param_groups": optimizer["param_groups"]})
        self._draws.set_state(tensors["random.draws"])
        torch.Generator().set_state(tensors["random.cpu"])  # refuses what is no state
        self._random_state = (tensors["random.cpu"], tensors.get("random.cuda"))
        self.step, self._best_score, self.history = step, best_score, history


class _Recording:
    """A session's share of a training: its windows, and the counts in them."""

    def __init__(self, counts: xr.DataArray, config: FilterConfig, device: str):
        self.windows = split_windows(counts, config.window, config.held_out)
        self.n_units = counts.sizes["unit"]
        self._segment, self._observed = np.asarray(counts["segment"]), np.asarray(counts["observed"])
        self._counts = _Counts(counts, device)
        self.scaling = self._counts.read(_spread(self.windows.train_bins, SCALING_BINS))
        self.held = self._read(_spread(self.windows.held_starts, EVALUATION_WINDOWS))

    def _read(self, starts: np.ndarray) -> Float[Tensor, "*batch time unit"]:
        return self._counts.read(starts[..., None] + np.arange(self.windows.window))

    def train(self, most: int) -> Float[Tensor, "window time unit"]:
        """At most so many training windows that do not overlap, spread evenly."""
        starts = self.windows.train_starts
        apart = starts[np.diff(starts // self.windows.window, prepend=-1) != 0]
        return self._read(_spread(apart, most))

    def batches(self, picks: np.ndarray) -> Iterator[Float[Tensor, "batch time unit"]]:
        """Training windows by their number (step, batch), a batch for each step."""
        starts = self.windows.train_starts[picks]
        if self._counts.resident:
            yield from map(self._read, starts)
        else:  # one pass over the recording serves all steps
            yield from self._read(starts)

    def stretches(self, most: int) -> tuple[Tensor, np.ndarray, np.ndarray, np.ndarray]:
        """About so many bins to measure a finished filter on: their counts (time, unit), on the CPU, and whether each
        (time,) is observed, starts a stretch, and is held out."""
        bins = _around(self.windows.held_bins, self._segment.size, most)
        starts = np.diff(bins, prepend=-2) != 1
        starts |= np.diff(self._segment[bins], prepend=-1) != 0
        held = np.isin(bins, self.windows.held_bins, assume_unique=True)
        return self._counts.read(bins).cpu(), self._observed[bins], starts, held


class _Counts:
    """Bins handed out as float32, NaN where a unit was not observed: from the device's memory, in a small dtype, or,
    where they are many, from where they lie, a stretch of the recording at a time."""

    def __init__(self, counts: xr.DataArray, device: str):
        self._device = device
        self._sources = [counts.variable]
        if "unit_observed" in counts.coords:
            self._sources.append(counts["unit_observed"].variable)
        self.resident = sum(source.nbytes for source in self._sources) <= RESIDENT
        if self.resident:
            self._tensors = [_tensor(source.to_numpy(), device) for source in self._sources]

    def read(self, bins: np.ndarray) -> Float[Tensor, "... unit"]:
        if self.resident:
            index = torch.from_numpy(bins).to(self._device)
            parts = [tensor[index] for tensor in self._tensors]
        else:
            parts = [_tensor(_gather(source, bins), self._device) for source in self._sources]
        x = parts[0].float()
        return x if len(parts) == 1 else x.masked_fill(~parts[1], math.nan)


def _tensor(values: np.ndarray, device: str) -> Tensor:
    if values.dtype.kind == "u" and values.dtype.itemsize > 1:
        values = values.astype(np.int32)  # torch indexes no uint16 or uint32
    return torch.from_numpy(np.ascontiguousarray(values)).to(device)


def _gather(source: xr.Variable, bins: np.ndarray) -> np.ndarray:
    """source[bins], reading each stretch that holds some of them once."""
    out = np.empty((*bins.shape, source.shape[1]), source.dtype)
    stretch = bins // STRETCH
    for number in np.unique(stretch).tolist():
        inside = stretch == number
        first = number * STRETCH
        out[inside] = source[first : first + STRETCH].to_numpy()[bins[inside] - first]
    return out


def _around(held: np.ndarray, n: int, most: int) -> np.ndarray:
    """Bins to measure a finished filter on: all n, or, of more than `most`, stretches around held-out ones."""
    if n <= most:
        return np.arange(n)
    half = most // 16
    stretches = _spread(held, 8)[:, None] + np.arange(-half, half)
    return np.unique(stretches[(stretches >= 0) & (stretches < n)])


def _spread(items: np.ndarray, most: int) -> np.ndarray:
    """At most `most` of the items, spread evenly."""
    return items if len(items) <= most else items[np.linspace(0, len(items) - 1, most).astype(np.int64)]
