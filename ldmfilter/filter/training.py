"""Training: each candidate in turn, then the choice of the one whose states predict spikes best."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from ldmfilter.config import FilterConfig
from ldmfilter.data.windows import split_windows
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.filter.batches import Recording, check_sessions
from ldmfilter.filter.candidates import Candidate, Trained, candidates, read_trained, window_frames
from ldmfilter.filter.device import fabric_on, resolve_device
from ldmfilter.filter.evaluation import Record, read_history
from ldmfilter.filter.fit import Fit
from ldmfilter.filter.matching import Match
from ldmfilter.filter.network import Network
from ldmfilter.filter.spikes_ahead import SpikesAhead
from ldmfilter.ranks import ranks

__all__ = ["Record", "Training", "resolve_device"]


LONG_BIN = 3.0  # s, the farthest that spikes are predicted


class Training:
    """One training, with everything it needs to go on after a stop. Processes that `torchrun` started share it: each
    takes its part of every batch, and all come to the result that one alone would.

    Every candidate that the settings leave open (`candidates.CANDIDATES`) is trained, and the one that is kept again
    from other first weights (`restarts`). What predicts spikes best is kept (`Fit.spikes_ahead`), and what came earlier
    where the lead is within its standard error. A candidate whose windows do not fit into the recording is left out.

    Args:
        config: the filter's settings.
        counts: (time, unit), as `bin_spikes` makes them; or several, one a session.
        onto: a finished network; all but the encoders of these sessions stays as it is there.
        frame: length of its frames, s.

    Attributes:
        device: that it computes on.
        history: one record an evaluation, of all candidates in turn.
        config: the settings, with numbers for all sizes.
        trained: the candidates that are done, each as often as it was finished.

    Raises:
        InputError: too few bins for the windows, sessions of different bins, or the same session twice.
        TrainingError: the device is not there.
    """

    def __init__(
        self,
        config: FilterConfig,
        counts: xr.DataArray | Sequence[xr.DataArray],
        onto: Network | None = None,
        frame: float | None = None,
    ):
        config.validate()
        self._counts = [counts] if isinstance(counts, xr.DataArray) else list(counts)
        check_sessions(self._counts)
        self.config = config = config.sized(min(one.sizes["unit"] for one in self._counts))
        self._ranks, self._onto = ranks(), onto
        if config.batch_size % self._ranks.size:
            raise InputError(
                f"batch-size is {config.batch_size}; it must be a multiple of the {self._ranks.size} processes"
            )
        self.device = resolve_device(config.device)
        if config.precision == "16-mixed" and self.device == "cpu":
            raise InputError("precision is 16-mixed, which needs CUDA; use bf16-mixed or 32-true on the CPU")
        self._bin_size = float(self._counts[0].attrs["bin_size"])
        if self._bin_size > LONG_BIN:
            warnings.warn(
                f"bins of {self._bin_size:g} s are longer than the {LONG_BIN:g} s over which a filter is judged; give "
                "shorter ones, as 0.1 s",
                stacklevel=2,
            )
        self._fabric = fabric_on(self.device, config.precision, self._ranks)
        open_ones = candidates(config)
        if frame is not None:  # the dynamics are there already
            open_ones = [dataclasses.replace(open_ones[0], frame=frame)]
        windows = self._windows(open_ones)
        block = max(one.bins(self._bin_size) * windows[one][0] for one in windows)
        self._fits = [(one, windows[one][1], self._recordings(one, windows[one][0], block)) for one in windows]
        self._again = 0 if onto is not None else config.restarts
        self.trained: list[Trained] = []
        self._past: list[Record] = []
        self._kept: tuple[Trained, SpikesAhead, dict[str, Tensor], list[Match]] | None = None
        self._now = self._fit(0)

    def _windows(self, open_ones: Sequence[Candidate]) -> dict[Candidate, tuple[int, int]]:
        """Frames of a window and of its warm-up for each candidate whose windows fit into all recordings.

        Raises: InputError where none does.
        """
        fitting, problem = {}, None
        for one in open_ones:
            frame = one.bins(self._bin_size)
            for window in window_frames(self.config, frame * self._bin_size):
                try:
                    for counts in self._counts:
                        split_windows(counts, window[0] * frame, self.config.held_out, frame=frame)
                except InputError as error:
                    problem = problem or error
                else:
                    fitting[one] = window
                    break
        if problem is not None and not fitting:
            raise problem
        return fitting

    def _recordings(self, candidate: Candidate, window: int, block: int) -> list[Recording]:
        frame = candidate.bins(self._bin_size)
        return [Recording(one, self.config.held_out, frame, window, block, self._fabric) for one in self._counts]

    def _fit(self, number: int) -> Fit:
        restart = max(0, number + 1 - len(self._fits))
        if restart:
            kept = self.kept.name.split()[0]
            number = next(i for i, one in enumerate(self._fits) if one[0].name == kept)
        candidate, warmup, recordings = self._fits[number]
        candidate = candidate.again(restart) if restart else candidate
        frame = candidate.bins(self._bin_size) * self._bin_size
        return Fit(self.config, candidate, recordings, frame, warmup, self._fabric, self._ranks, self._onto)

    @property
    def steps(self) -> int:
        """Training steps of all candidates together."""
        return self.config.max_steps * self._trainings

    @property
    def step(self) -> int:
        """Training steps done."""
        return self.config.max_steps * self._done + (0 if self.ended else self._now.step)

    @property
    def ended(self) -> bool:
        """True where all candidates are trained."""
        return self._done == self._trainings

    @property
    def _trainings(self) -> int:
        return len(self._fits) + self._again

    @property
    def _done(self) -> int:
        return len({one.name for one in self.trained})

    @property
    def history(self) -> list[Record]:
        """One record an evaluation, of all candidates in turn."""
        return self._past + ([] if self.ended else self._now.history)

    @property
    def kept(self) -> Trained:
        """The candidate that is kept so far."""
        if self._kept is not None:
            return self._kept[0]
        return Trained(self._now.candidate.name, self._now.frame, kept_step=self._now.kept_step)

    @property
    def kept_record(self) -> Record:
        """The evaluation of the step that is kept."""
        return next(one for one in self.history if (one.candidate, one.step) == (self.kept.name, self.kept.kept_step))

    @property
    def matches(self) -> list[Match]:
        """The rotations that brought the sessions into one space, of the candidate that is kept."""
        return self._now.matches if self._kept is None else self._kept[3]

    def finished_state(self) -> dict[str, Tensor]:
        """The network as it is used, of the candidate and the step that are kept so far (`Fit.finished_state`)."""
        return self._now.finished_state(bool(self.config.refit)) if self._kept is None else self._kept[2]

    def run(self) -> Iterator[Record]:
        """Train all candidates to `max_steps`; one record an evaluation, the first before the first step.

        Raises:
            TrainingError: every candidate has diverged or collapsed.
        """
        told = len(self.history)
        while not self.ended:
            failure = None
            try:
                for record in self._now.run():
                    while record.step < self.config.max_steps and told < len(self.history):
                        told += 1
                        yield self.history[told - 1]
            except TrainingError as error:
                failure = error
            self._judge(failure)
            if self.ended and self._kept is None:
                raise TrainingError(self.trained[-1].failure)
            if not self.ended:
                self._now = self._fit(self._done)
            while self._kept is not None and told < len(self.history):  # before, there is nothing to be kept
                told += 1
                yield self.history[told - 1]

    def _judge(self, failure: TrainingError | None) -> None:
        """Take the candidate that has just ended among those trained, and keep it where it predicts spikes better."""
        fit = self._now
        self._past = self._past + fit.history
        asked = self.config.refit
        for refit in (False, True) if asked is None and fit.candidate.refit and self._onto is None else (bool(asked),):
            one = Trained(fit.candidate.name, fit.frame, refit, kept_step=fit.kept_step)
            try:
                if failure is not None:
                    raise failure
                state = fit.finished_state(refit)
                found = fit.spikes_ahead(state)
            except TrainingError as error:
                self.trained = [*self.trained, dataclasses.replace(one, failure=str(error))]
                continue
            one = dataclasses.replace(one, bits_per_spike=found.value)
            if self._kept is not None and len(self._kept[1].blocks) == len(found.blocks):
                one = dataclasses.replace(one, lead=found.lead(self._kept[1]))
            self.trained = [*self.trained, one]
            if self._kept is None or one.lead[0] > one.lead[1]:
                self._kept = (one, found, state, fit.matches)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that a later `restore` needs to go on to the same result: tensors, and JSON values."""
        tensors, values = self._now.state()
        values |= {
            "trained": [dataclasses.asdict(one) for one in self.trained],
            "past": [dataclasses.asdict(one) for one in self._past],
        }
        if self._kept is not None:
            trained, found, network, matches = self._kept
            tensors |= {f"kept.{name}": value.contiguous() for name, value in network.items()}
            values["kept"] = {
                "trained": dataclasses.asdict(trained),
                "bits": [found.value, found.blocks.tolist()],
                "matches": [[one.rotation.tolist(), one.likeness, one.runner_up] for one in matches],
            }
        return tensors, values

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: the state is of another network, or none.
        """
        trained = [read_trained(one) for one in values.get("trained", [])]  # version 0.1.0 had no candidates
        done = len({one.name for one in trained})
        if done > self._trainings:
            raise ValueError(f"it has {done} candidates")
        past, kept = read_history(values.get("past", [])), None
        if "kept" in values:
            raw = values["kept"]
            value, blocks = raw["bits"]
            network = {k.removeprefix("kept."): v for k, v in tensors.items() if k.startswith("kept.")}
            matches = [Match(np.asarray(one[0]), float(one[1]), float(one[2])) for one in raw["matches"]]
            kept = (
                read_trained(raw["trained"]),
                SpikesAhead(float(value), np.asarray(blocks, float)),
                network,
                matches,
            )
        self._kept = kept  # a restart is of the candidate that is kept
        now = self._fit(min(done, self._trainings - 1))
        if not (done == self._trainings and trained[-1].failure):  # nothing goes on from where it failed
            now.restore({name: value for name, value in tensors.items() if not name.startswith("kept.")}, values)
        self.trained, self._past, self._now = trained, past, now
