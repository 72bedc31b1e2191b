"""The training of one candidate: yields one record an evaluation, and can be stopped and taken up again."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ldmfilter.config import FilterConfig
from ldmfilter.data.frames import averages
from ldmfilter.data.tables import Floats
from ldmfilter.errors import TrainingError
from ldmfilter.filter.batches import Batch, Judged, Recording, Stretches
from ldmfilter.filter.candidates import Candidate
from ldmfilter.filter.device import OwnRandomState
from ldmfilter.filter.encoder import Encoder
from ldmfilter.filter.evaluation import Record, evaluate, read_history
from ldmfilter.filter.finish import (
    FINISH_BINS,
    filtered_means,
    match_sessions,
    refit_dynamics,
    set_canonical,
    split_dynamics,
)
from ldmfilter.filter.kalman import LinearGaussian, filter_trials, filter_windows
from ldmfilter.filter.linalg import whitening
from ldmfilter.filter.matching import Match
from ldmfilter.filter.network import Network, current_names
from ldmfilter.filter.spikes_ahead import SpikesAhead, mean_of, quarters, spikes_ahead_of_all
from ldmfilter.ldm.entropy import ENTROPIES
from ldmfilter.ldm.objectives import predictive
from ldmfilter.ranks import ranks
from ldmfilter.tensors import Tensors, below, optimizer_state, restore_optimizer

EVALUATE_EVERY = 25  # steps
WARM_STEPS = 50  # over which the learning rate rises
GRADIENT_NORM = 5.0  # gradients are clipped to it
COLLAPSED_RANK = 0.2  # an effective rank below this share of the latent dimensions is a collapse
COLLAPSED_SCALE = 1e6  # an entry of the whitening above it means that z is constant
GRACE = 100  # steps in which a collapse is not an error
RESTART_SEED = 1_000_003  # between the seeds of restarts
JUDGED_BINS = 2**16  # bins at most, about, that predicted spikes are judged and their readouts fitted on
HIDDEN_BINS = 2**15  # the same, of spikes of hidden units


class Fit:
    """The training of one candidate, with everything it needs to go on after a stop.

    Several sessions train one filter together: an encoder each and the dynamics of all. Each session is matched with
    the same latent model by an objective of its own, and all weigh the same.

    Args:
        config: the filter's settings.
        candidate: where its dynamics begin.
        recordings: the sessions, in frames of the candidate's length.
        frame: length of a frame, s, in whole bins.
        warmup: first frames of a window, which carry no loss.
        fabric: moves tensors and gradients.
        onto: a finished network; all but the encoders of these sessions stays as it is there.

    Attributes:
        step: training steps done.
        history: one record an evaluation.
        matches: the rotations that brought the sessions into one space, when it was done last.
    """

    def __init__(
        self,
        config: FilterConfig,
        candidate: Candidate,
        recordings: Sequence[Recording],
        frame: float,
        warmup: int,
        fabric: Any,
        onto: Network | None = None,
    ):
        self.config, self.candidate, self.frame = config, candidate, frame
        self._warmup, self._fabric, self._recordings, self._onto = warmup, fabric, recordings, onto
        self.matches: list[Match] = []
        self.step = 0
        self.history: list[Record] = []
        self._best_score = -math.inf
        self._losses: list[Tensor] = []
        seed = (config.seed + RESTART_SEED * candidate.restart) % 2**63
        self._draws = torch.Generator().manual_seed(seed)
        self._random = OwnRandomState(seed, str(fabric.device.type))
        with self._random.active(advance=True):
            self._network = self._make_network()
        for i, recording in enumerate(self._recordings):
            encoder = self._network.encoder(i)
            encoder.set_input_scale(recording.scaling.cpu())
            if candidate.components and len(self._recordings) == 1 and onto is None:
                encoder.begin_with_components(self._first_inputs(encoder, recording))
        self._module, self._optimizer = self._fabric.setup(self._network, self._make_optimizer())
        self._best = self._copy_of_network()

    @property
    def kept_step(self) -> int:
        """The step with the highest held-out score so far."""
        return self.history[-1].kept_step if self.history else 0

    def run(self) -> Iterator[Record]:
        """Train to `max_steps`; one record an evaluation, the first before the first step.

        Raises:
            TrainingError: the loss is not finite any more, or z has collapsed.
        """
        if not self.history:
            with self._own_torch(advance=False):
                record = self._evaluate()
            yield record
        while self.step < self.config.max_steps:
            with self._own_torch(advance=True):
                for batch in self._batches(min(EVALUATE_EVERY, self.config.max_steps - self.step)):
                    self._losses.append(self._train_step(batch))
                    self.step += 1
                record = self._evaluate()
            self._check(record)
            yield record

    def finished_state(self, refit: bool, last: bool = False) -> Tensors:
        """The network of the kept step, or of the last one, as it is used, on the CPU: in canonical coordinates, its
        covariances as large as held-out innovations, and, once training has ended and where asked for, its dynamics
        refitted. Sessions are rotated into one state space: that of the first, or of the network trained onto."""
        with self._own_torch(advance=False):
            network = self._network_of(self._copy_of_network() if last else self._best)
            stretches = self._stretches
            self.matches = match_sessions(network, stretches, self.frame, self._onto is not None)
            if self._onto is None:
                if refit and self.step >= self.config.max_steps:
                    refit_dynamics(network, stretches)
                network.evidence_share.fill_(self.config.evidence)
                set_canonical(network, stretches, self.frame, refit)
        return network.state_dict()

    def split(self, state: Tensors) -> Tensors:
        """The finished network `state` of slow states as it is used beside fast ones (`finish.split_dynamics`)."""
        with self._own_torch(advance=False):
            network = self._network_of(state)
            split_dynamics(network)
            set_canonical(network, self._stretches, self.frame)
        return network.state_dict()

    @property
    def _stretches(self) -> list[Stretches]:
        """The frames of each session that moments, dynamics, gauge and the size of covariances are measured on."""
        return [one.stretches(FINISH_BINS // len(self._recordings)) for one in self._recordings]

    def judged(self, state: Tensors) -> list[tuple[Floats, Judged]]:
        """Causal states (time, state) of the finished network `state`, of each session, in bins that training may use;
        with these bins."""
        with self._own_torch(advance=False):
            network = self._network_of(state)
        each = []
        for i, recording in enumerate(self._recordings):
            judged = recording.judged(JUDGED_BINS // len(self._recordings))
            each.append((filtered_means(network, i, judged, recording.frame), judged))
        return each

    def spikes_ahead(self, each: Sequence[tuple[Floats, Judged]]) -> SpikesAhead:
        """Prediction of spikes by what `judged` gave, in blocks that the readout did not see; the mean over sessions.

        Training's own bins are judged too: they are seven times as many as those held out, and what overfitted is no
        better in them, because its readout was fitted elsewhere (`tests/benchmarks/candidates.py`).
        """
        recorded = zip(self._recordings, each, strict=True)
        found = [self._predicted(recording, judged, states) for recording, (states, judged) in recorded]
        return mean_of(found)  # a short one, which cannot be judged, does not decide for the others

    def hidden_units(self, state: Tensors) -> SpikesAhead:
        """Prediction of each unit's spikes in a bin by causal states of the finished network `state` that were not
        shown the unit: a quarter of the units is hidden at a time (`quarters`); the mean over quarters and sessions."""
        found = []
        with self._own_torch(advance=False):
            network = self._network_of(state)
            for i, recording in enumerate(self._recordings):
                judged = recording.judged(HIDDEN_BINS // len(self._recordings))
                quarter = quarters(np.nansum(np.abs(judged.counts), 0))
                for number in np.unique(quarter) if recording.n_units > 1 else ():
                    hidden, frames = quarter == number, judged.frames.clone()
                    frames[:, torch.from_numpy(hidden)] = math.nan
                    states = filtered_means(network, i, judged._replace(frames=frames), recording.frame)
                    found.append(self._predicted(recording, judged, states, hidden, [(-1, 1)]))
        return mean_of(found)

    def _predicted(
        self,
        recording: Recording,
        judged: Judged,
        states: Floats,
        units: Any = slice(None),
        horizons: Sequence[tuple[int, int]] | None = None,
    ) -> SpikesAhead:
        """Prediction of the units' spikes by states (time, state): in bins that training left out, or else in all."""
        seen, size = ~np.isnan(judged.counts).all(1), self.frame / recording.frame
        unseen = None if recording.unseen is None else recording.unseen[judged.bins]
        counts = judged.counts[:, units]
        return spikes_ahead_of_all(states, counts, judged.runs, seen, size, recording.signal, horizons, unseen)

    def _make_network(self) -> Network:
        signals = [one.signal for one in self._recordings]
        network = Network([one.n_units for one in self._recordings], self.config, self.frame, self.candidate, signals)
        if self._onto is not None:
            shared = {k: v for k, v in self._onto.state_dict().items() if not k.startswith("encoders.")}
            network.take(shared, strict=False)
            network.dynamics.requires_grad_(False)
        return network

    def _first_inputs(self, encoder: Encoder, recording: Recording) -> Float[Tensor, "time unit"]:
        """Standardised frames, or averages of them, of which the components are that the encoder begins with."""
        if not self.candidate.average:
            return encoder.standardised(recording.scaling.cpu())
        frames = recording.stretches(FINISH_BINS)
        inputs = encoder.standardised(frames.counts).double().numpy()
        average = averages(inputs, frames.starts, self.candidate.average / self.frame)
        return torch.from_numpy(average[~frames.held])

    def _network_of(self, state: Tensors) -> Network:
        return self._make_network().eval().take(state)

    def _make_optimizer(self) -> torch.optim.Optimizer:
        decay = list(self._network.encoders.parameters())
        plain = [p for p in self._network.dynamics.parameters() if p.requires_grad]
        return torch.optim.AdamW(
            [
                {"params": decay, "weight_decay": self.config.weight_decay, "rate": 1.0},
                {"params": plain, "weight_decay": 0.0, "rate": self.candidate.dynamics_rate},
            ],
            lr=self.config.learning_rate,
            # One pass over all parameters: 0.1 ms a step in place of 0.5. With loss scaling it would undo the scale
            # itself, after gradients have to be clipped.
            fused=self.config.precision != "16-mixed",
        )

    def _batches(self, steps: int) -> Iterator[tuple[Batch, ...]]:
        """Random training windows of each session, for each step."""
        shape = steps, self.config.batch_size
        picks = [one.draw(shape, self._draws) for one in self._recordings]
        recorded = zip(self._recordings, picks, strict=True)
        yield from zip(*(one.batches(each) for one, each in recorded), strict=True)

    def _train_step(self, batches: Sequence[Batch]) -> Tensor:
        if not self._module.training:
            self._module.train()
        progress = self.step / self.config.max_steps
        rate = min(1.0, (self.step + 1) / WARM_STEPS) * 0.5 * (1 + math.cos(math.pi * progress))
        for group in self._optimizer.param_groups:
            group["lr"] = self.config.learning_rate * rate * group["rate"]
        self._optimizer.zero_grad()
        raw, model = self._module([one.counts for one in batches])
        if ranks().size > 1:  # whitening, filter and entropy see the whole batch, as in one process
            raw = [self._fabric.all_gather(one, sync_grads=True).flatten(0, 1) for one in raw]
        drawn = zip(raw, batches, strict=True)
        loss = -torch.stack([self._objective(one, batch, model) for one, batch in drawn]).mean()
        self._fabric.backward(loss)
        self._fabric.clip_gradients(self._module, self._optimizer, max_norm=GRADIENT_NORM, error_if_nonfinite=False)
        self._optimizer.step()
        return loss.detach()

    def _objective(
        self, raw: Float[Tensor, "windows time latent"], batch: Batch, model: LinearGaussian
    ) -> Float[Tensor, ""]:
        whole, warm = bool(batch.inside.all()), slice(self._warmup, None)
        mean, W = whitening(raw.flatten(0, 1) if whole else raw[self._fabric.to_device(batch.inside)])
        z = (raw - mean) @ W
        zhat, S = self._predicted_windows(model, z)
        z, zhat, S = z[:, warm], zhat[:, warm], S[warm] if S.ndim > 2 else S
        entropy, samples, group = ENTROPIES[self.config.entropy], None, None
        weighed = batch.inside[:, warm]
        if entropy.samples is not None:
            # Of each window some bins at random; those beyond its end come last.
            chosen = (torch.rand(weighed.shape, generator=self._draws) + ~weighed).argsort(1)[:, : entropy.samples]
            window, place = weighed.gather(1, chosen).nonzero(as_tuple=True)
            samples = z[self._fabric.to_device(window), self._fabric.to_device(chosen[window, place])]
            group = self._fabric.to_device(self._groups(batch)[window])
        some = None if whole else self._fabric.to_device(weighed)
        return predictive(z, zhat, S, self.config.entropy, samples, group, entropy.options, some).value

    def _groups(self, batch: Batch) -> Int[Tensor, " windows"]:
        """The group of each window, within which entropy compares no bins: in trials its trial, unless all are of one;
        else the window itself."""
        if self.candidate.in_trials and bool((batch.trial != batch.trial[0]).any()):
            return batch.trial
        return torch.arange(len(batch.trial))

    def _predicted_windows(
        self, model: LinearGaussian, z: Float[Tensor, "windows time latent"]
    ) -> tuple[Tensor, Tensor]:
        """Predictions, and their covariances: in trials those of each bin, as windows begin from the prior."""
        zhat, S, _ = (filter_trials if self.candidate.in_trials else filter_windows)(model, z)
        return zhat, S

    @torch.no_grad()
    def _evaluate(self) -> Record:
        self._module.eval()
        scaling, model = self._module([recording.scaling for recording in self._recordings])
        raw, _ = self._module([recording.held for recording in self._recordings])
        inside = [recording.held_inside.clone() for recording in self._recordings]
        for one in inside:
            one[:, : self._warmup] = False
        held = list(zip(raw, map(self._fabric.to_device, inside), strict=True))
        log_likelihood, score, rank = evaluate(self._network, scaling, held, model, self._predicted_windows)
        loss = float(torch.stack(self._losses).mean()) if self._losses else math.nan
        self._losses = []
        kept = self.kept_step
        if score > self._best_score:
            self._best_score, kept, self._best = score, self.step, self._copy_of_network()
        self.history.append(Record(self.step, loss, log_likelihood, score, rank, kept, self.candidate.name))
        return self.history[-1]

    def _check(self, record: Record) -> None:
        """Raises: TrainingError where training has diverged or collapsed."""
        if not (math.isfinite(record.loss) and math.isfinite(record.held_out_log_likelihood)):
            raise self._diverged()
        limit = 1 + COLLAPSED_RANK * (self.config.latents - 1)
        scales = [float(self._network.encoder(i).z_whiten.abs().max()) for i in range(len(self._recordings))]
        constant = not all(scale < COLLAPSED_SCALE for scale in scales)
        if record.step >= GRACE and (constant or record.effective_rank < limit):
            raise TrainingError(
                f"training collapsed at step {record.step}: z of {self.config.latents} dimensions has an effective "
                f"rank of {record.effective_rank:.1f}; try the entropy logdet, fewer latent dimensions or more spikes"
            )

    def _diverged(self) -> TrainingError:
        bins = sum(len(one.windows.train_bins) + len(one.windows.held_bins) for one in self._recordings)
        units = sum(one.n_units for one in self._recordings)
        if bins < units:
            return TrainingError(f"too few bins ({bins}) to train on for {units} units; use a longer span")
        return TrainingError(
            f"training diverged at step {self.step}: its numbers are not finite any more; "
            f"try a learning rate below {self.config.learning_rate:g}"
        )

    @contextmanager
    def _own_torch(self, advance: bool) -> Iterator[None]:
        try:
            with self._random.active(advance):
                yield
        except (torch.linalg.LinAlgError, np.linalg.LinAlgError) as error:
            # Numbers that are not finite any more are first met by a factorisation.
            raise self._diverged() from error

    def _copy_of_network(self) -> Tensors:
        return {name: value.detach().clone().cpu() for name, value in self._network.state_dict().items()}

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything that a later `restore` needs to go on to the same result: tensors, and JSON values."""
        tensors = {f"network.{k}": v for k, v in self._copy_of_network().items()}
        tensors |= {f"best.{k}": v for k, v in self._best.items()}
        tensors |= optimizer_state(self._optimizer)
        tensors |= {"random.cpu": self._random.cpu, "random.draws": self._draws.get_state()}
        if self._random.cuda is not None:
            tensors["random.cuda"] = self._random.cuda
        history = [dataclasses.asdict(record) for record in self.history]
        values = {"step": self.step, "best_score": self._best_score, "history": history}
        return {k: v.detach().cpu().contiguous() for k, v in tensors.items()}, values

    def restore(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: the state is of another network, or none.
        """
        step, best_score, history = values["step"], float(values["best_score"]), read_history(values["history"])
        if type(step) is not int or not 0 <= step <= self.config.max_steps or (history and history[-1].step != step):
            raise ValueError(f"its step is {step}")
        self._network.load_state_dict(current_names(below("network.", tensors)))
        best, own = current_names(below("best.", tensors)), self._network.state_dict()
        if {k: v.shape for k, v in best.items()} != {k: v.shape for k, v in own.items()}:
            raise ValueError("its kept parameters are those of another network")
        restore_optimizer(self._optimizer, tensors)
        self._draws.set_state(tensors["random.draws"])
        self._random.restore(tensors["random.cpu"], tensors.get("random.cuda"))
        self._best, self.step, self._best_score, self.history = best, step, best_score, history
