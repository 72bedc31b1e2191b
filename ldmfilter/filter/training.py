"""Training: each candidate in turn, with the choice, by predicted spikes, of first weights and of what is kept."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from ldmfilter.config import FilterConfig
from ldmfilter.data.counts import is_signal
from ldmfilter.data.windows import HALVES, Windows, half_of, split_windows, trial_seconds, typical_stretch
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.filter.batches import Judged, Recording, check_sessions
from ldmfilter.filter.candidates import (
    BOTH,
    CANDIDATES,
    WINDOWS,
    WITHOUT,
    Candidate,
    Encoding,
    Trained,
    Variant,
    Window,
    candidates,
    fewer,
    read_trained,
    share,
    window_frames,
)
from ldmfilter.filter.device import fabric_on, resolve_device
from ldmfilter.filter.evaluation import Record, read_history
from ldmfilter.filter.fit import Fit
from ldmfilter.filter.matching import Match
from ldmfilter.filter.network import Network, current_names
from ldmfilter.filter.spikes_ahead import NOT_JUDGED, SpikesAhead, mean_of
from ldmfilter.ranks import ranks
from ldmfilter.tensors import Tensors, below

__all__ = ["Record", "Training", "resolve_device"]


IN_TRIALS = 2  # number of the way to train in trials; what was begun in another is not taken up
SHORT_TRIALS = 20  # windows of the shortest length that a recording needs to be trained on them
# Of the steps: where held-out z was best before, few blocks may mislead, and the last step is kept unless that one
# leads clearly.
EARLY = 0.5
SURE = 2.0  # standard errors by which another of the same frames has to lead; others one
TOLERATED = 0.005  # of a score, by which such a one may be behind in the other: in long recordings errors are less
TELLING = 0.4  # bits per spike that one part alone has to predict in trials to take the place of both
FEWER_LEAD = 0.01  # bits per spike of hidden units, in trials: of few trials a readout overfits more dimensions
HIDDEN_LEAD = 0.005  # bits per spike by which hidden layers have to lead a linear encoder


class Kept(NamedTuple):
    """The finished network that is kept so far: of all candidates, or of those of one part of a filter of both."""

    trained: Trained
    ahead: SpikesAhead
    hidden: SpikesAhead
    network: Tensors
    matches: list[Match]
    number: int  # of its training, of all in turn

    @property
    def predicts(self) -> bool:
        """True where it predicts anything better than its mean: below that, what overfits least would be chosen."""
        return not math.isnan(self.ahead.value) and max(self.ahead.value, self.hidden.value) > 0

    @property
    def dimensions(self) -> int:
        """Of z."""
        return len(self.network["encoders.0.z_mean"])


class Finished(NamedTuple):
    """A part of a finished filter, onto which an encoder is trained for a further session."""

    network: Network
    frame: float  # s
    config: FilterConfig  # with its sizes
    dropout: float | None  # where it is known


class Half(NamedTuple):
    """Judgement of a half of the trials by a training on the others."""

    ahead: SpikesAhead
    hidden: SpikesAhead
    step: int  # that was judged
    failure: str = ""


class Training:
    """One training, with everything it needs to go on after a stop. Processes that `torchrun` started share it: each
    takes its part of every batch, and all come to the result that one alone would.

    Every candidate that the settings leave open (`candidates.CANDIDATES`) is trained. Of `LEAST_SHARED` dimensions or
    more each has a share, is a part of the filter and keeps what predicts spikes best (`Fit.spikes_ahead`), of several
    first weights where `restarts` asks for them; a part that predicts better alone than beside the other is the filter.
    With fewer dimensions the best candidate is kept, and trained again as often as `restarts` says. A filter of one
    part is tried in half of its dimensions, where the settings leave them open, until that is not kept. What came
    earlier is kept unless a lead is beyond its standard error. In frames of the same length the lead has to be beyond
    `SURE` of them: what was fitted to the bins that judge it leads in them by a little. There hidden units of the bin
    itself (`Fit.hidden_units`) count as much as spikes ahead, which tell less of the present: it has to lead in one and
    not be behind in the other by a standard error and `TOLERATED`.

    Where both parts are kept, slow states are split once training has ended (`finish.split_dynamics`), but for those in
    trials and refitted ones. The choice and its numbers are of the states before that.

    In trials both parts are kept, unless one alone predicts much (`TELLING`): what stays the same through a trial tells
    little of spikes, and slow states tell most of it. Each part is tried in fewer dimensions, which have to lead in
    hidden units there, and by more (`FEWER_LEAD`), and its encoder is chosen last: linear, or with hidden layers
    (`Candidate.encodings`). What overfits leads in the bins that it was trained on, so here each is trained on either
    half of the trials and judged on the other, until one does not lead, hidden layers by `HIDDEN_LEAD`; where the best
    is not that of the part, this is trained anew with it on all. What predicts nothing better than a mean is left as it
    is: both parts, in all dimensions.

    Args:
        config: the filter's settings.
        counts: (time, unit), as `bin_spikes` makes them; or several, one a session.
        onto: the parts of a finished filter; all but the encoders of these sessions stays as it is there.

    Attributes:
        counts: of each session.
        device: that it computes on.
        history: one record an evaluation, of all candidates in turn.
        config: the settings, with numbers for all sizes.
        trained: the candidates that are done, each as often as it was finished.
        tries_fewer: whether parts are tried in fewer dimensions.
        tries_encoders: whether they are tried with other encoders, where their candidates have some.

    Raises:
        InputError: too few bins for the windows, sessions of different bins, or the same session twice.
        TrainingError: the device is not there.
    """

    def __init__(
        self,
        config: FilterConfig,
        counts: xr.DataArray | Sequence[xr.DataArray],
        onto: Sequence[Finished] = (),
    ):
        config.validate()
        self.counts = [counts] if isinstance(counts, xr.DataArray) else list(counts)
        check_sessions(self.counts)
        self.config = config
        self._onto = onto
        if config.batch_size % ranks().size:
            raise InputError(
                f"batch-size is {config.batch_size}; it must be a multiple of the {ranks().size} processes"
            )
        if config.evidence and any(is_signal(one) for one in self.counts):
            raise InputError(f"evidence is {config.evidence:g}, but a signal has no spikes; leave it out")
        self.device = resolve_device(config.device)
        if config.precision == "16-mixed" and self.device == "cpu":
            raise InputError("precision is 16-mixed, which needs CUDA; use bf16-mixed or 32-true on the CPU")
        self._bin_size = float(self.counts[0].attrs["bin_size"])
        self._fabric = fabric_on(self.device, config.precision)
        self._stretch = min(typical_stretch(one) for one in self.counts)
        one_session = self.counts[0].sizes["unit"] if len(self.counts) == 1 and not onto else 0
        seconds = sum(int(one["observed"].sum()) for one in self.counts) * self._bin_size
        open_ones = candidates(config, min(map(trial_seconds, self.counts)), one_session, seconds)
        if onto:  # the dynamics are there already
            open_ones = [_onto(one, finished) for one, finished in zip(open_ones, onto, strict=False)]
        windows = self._windows(open_ones)
        self._block = max(one.bins(self._bin_size) * window.frames for one, window in windows.items())
        self._fits = [(one, window, self._recordings(one, window)) for one, window in windows.items()]
        units = min(one.sizes["unit"] for one in self.counts)
        two = len(self._fits) == len(CANDIDATES)
        self._in_trials = open_ones[0].in_trials
        self.config = config.sized(units, two, self._in_trials)
        self._both = len(onto) > 1 or (two and self.config.latents >= config.least_shared(self._in_trials))
        are_open = config.latent_dim is None and config.state_dim is None
        self._again, all_of_them = 0 if onto else config.restarts, self._config_of(0)
        self.tries_fewer = not onto and are_open and bool(fewer(all_of_them, all_of_them.latents))
        self._check_dimensions(units)
        self.tries_encoders = not onto and self._has_halves()
        self.trained: list[Trained] = []
        self._past: list[Record] = []
        self._done = 0  # trainings
        self._can_choose = False  # whether the part that is kept of all candidates predicts anything
        self._kept: dict[str, Kept] = {}  # by part
        self._halves: list[Half] = []  # of each encoder in turn
        self._now = self._fit(0)

    def _recordings(self, one: Candidate, window: Window, half: int | None = None) -> list[Recording]:
        """The sessions in frames of a candidate, all of their time or without a half of their trials.

        Raises: InputError where windows do not fit into what is left.
        """
        shared = one.bins(self._bin_size), window.frames, self.config.held_out, self._block, self._fabric
        unseen = [None if half is None else half_of(counts, half) for counts in self.counts]
        each = zip(self.counts, unseen, strict=True)
        return [Recording(counts, *shared, without, window.shortest) for counts, without in each]

    def _has_halves(self) -> bool:
        """True where a candidate has encoders to be tried, and its windows fit into both halves of the trials."""
        each = [(one, window) for one, window, _ in self._fits if one.encodings]
        try:
            for (one, window), counts, half in itertools.product(each, self.counts, range(HALVES)):
                self._split(one, window, counts, block=self._block, unseen=half_of(counts, half))
        except InputError:
            return False
        return bool(each)

    def _split(self, one: Candidate, window: Window, counts: xr.DataArray, **given: Any) -> Windows:
        """Windows of a session, in frames of a candidate. Raises: InputError where they do not fit."""
        frame = one.bins(self._bin_size)
        shortest = None if window.shortest is None else window.shortest * frame
        return split_windows(
            counts, window.frames * frame, self.config.held_out, frame=frame, shortest=shortest, **given
        )

    def _check_dimensions(self, units: int) -> None:
        """Raises: InputError where z has more dimensions than an encoder can give."""
        for config in map(self._config_of, range(len(self._fits))):
            hidden, latents = config.widths, config.latents
            # The rank of a perceptron, to which that of a linear map is added for a session alone.
            most = min(hidden, default=0) + units * (len(self.counts) == 1 or not hidden)
            if latents <= most:
                continue
            layers = f"and hidden layers of {hidden}" if hidden else "without hidden layers"
            way = f"choose {most} or fewer, or wider hidden layers"
            if self._onto:
                way = "train the first session with hidden layers, as 128,128"
            raise InputError(
                f"{latents} latent dimensions{' of each part' * (self._both and not self._onto)} are more than an "
                f"encoder of {units} units {layers} can fill; {way}"
            )

    def _windows(self, open_ones: Sequence[Candidate]) -> dict[Candidate, Window]:
        """Windows of each candidate: the longest that fit into half of the observed time, or else into any of it.

        Raises: InputError where none fits.
        """
        fitting = {}
        for one in open_ones:
            frame = one.bins(self._bin_size)
            trial = self._stretch // frame if one.in_trials else None
            windows = window_frames(self.config, frame * self._bin_size, trial)
            for window in sorted(windows, key=lambda window: window.frames * frame > self._stretch):
                is_last = self.config.window is None and window.frames == WINDOWS[-1]
                least = SHORT_TRIALS if is_last else 0  # a recording of seconds has no short trials
                try:
                    for counts in self.counts:
                        self._split(one, window, counts, least=least)
                except InputError as error:
                    if window == windows[-1]:  # a shorter one may be tried before a longer one
                        problem = error
                else:
                    fitting[one] = window
                    break
            else:
                raise problem
        return fitting

    def _fit(self, number: int) -> Fit:
        """The training of this number, of all in turn."""
        variant = self._plan[number]
        begin, window, recordings = self._fits[variant.part]
        if variant.half is not None:
            recordings = self._recordings(begin, window, variant.half)
        config = self._config_of(variant.part)
        if variant.dimensions:
            config = dataclasses.replace(config, latent_dim=variant.dimensions, state_dim=variant.dimensions)
        candidate = begin.variant(variant)
        if candidate.encoding.linear:
            config = dataclasses.replace(config, hidden=())
        frame = begin.bins(self._bin_size) * self._bin_size
        onto = self._onto[variant.part].network if self._onto else None
        return Fit(config, candidate, recordings, frame, window.warmup, self._fabric, onto)

    @property
    def _plan(self) -> list[Variant]:
        """All trainings in turn, as far as they are known: all candidates; then, where one part is kept, or in trials,
        each in fewer dimensions, with each encoder on halves of the trials, and with the best of these on all; then
        where it is one, from other first weights."""
        parts = range(len(self._fits))
        plan = [Variant(part, restart) for restart in range(1 + self._again * self._both) for part in parts]
        again = range(1, 1 + self._again * (not self._both))
        last = Variant(0)
        for kept in self._kept.values() if len(self._kept) == 1 or self._in_trials else ():
            if self._done >= len(plan):
                last = self._extend(plan, kept)
        return plan + [last._replace(restart=restart) for restart in again]

    def _extend(self, plan: list[Variant], kept: Kept) -> Variant:
        """Add the further trainings of a part to the plan; its last one, or what it is without."""
        last = Variant(self._part_of(kept))
        if not self._can_choose:
            return last
        config, begin = self._config_of(last.part), self._fits[last.part][0]
        if self.tries_fewer:
            plan += [last._replace(dimensions=size) for size in fewer(config, kept.dimensions)]
        if kept.dimensions < config.latents:
            last = last._replace(dimensions=kept.dimensions)
        tried = begin.encodings if self.tries_encoders else ()
        if not tried or self._done < len(plan):
            return last
        judged = self._judged_by_halves(begin)
        pairs = zip(judged[1:], judged, tried, strict=False)
        leads = [_leads(one, kept, HIDDEN_LEAD if encoding.linear else 0.0) for one, kept, encoding in pairs]
        best = leads.index(False) if False in leads else len(leads)
        plan += [last._replace(encoding=one, half=half) for one in tried[: best + 2] for half in range(HALVES)]
        is_judged = best < len(judged) and not (judged[best].failure or math.isnan(judged[best].bits_per_spike))
        if is_judged and tried[best] != begin.encoding and self._done >= len(plan):
            last = last._replace(encoding=tried[best])
            plan.append(last)
        return last

    def _judged_by_halves(self, begin: Candidate) -> list[Trained]:
        """The encoders of a part that were judged so, in turn."""
        return [one for one in self.trained if one.by_halves and one.dynamics == begin.name]

    def _part_of(self, kept: Kept) -> int:
        """The position of its dynamics among the candidates."""
        return next(i for i, (one, *_) in enumerate(self._fits) if one.name == kept.trained.dynamics)

    def _config_of(self, part: int) -> FilterConfig:
        """The settings of a candidate: a part of a filter of both has its share of the dimensions."""
        if self._onto:
            return self._onto[part].config
        return share(self.config, part) if self._both else self.config

    @property
    def steps(self) -> int:
        """Training steps of all candidates together, as far as is known."""
        return self.config.max_steps * len(self._plan)

    @property
    def step(self) -> int:
        """Training steps done."""
        return self.config.max_steps * self._done + (0 if self.ended else self._now.step)

    @property
    def ended(self) -> bool:
        """True where all candidates are trained."""
        return self._done == len(self._plan)

    @property
    def history(self) -> list[Record]:
        """One record an evaluation, of all candidates in turn."""
        return self._past + ([] if self.ended else self._now.history)

    @property
    def _standing(self) -> list[Trained]:
        """The candidate that is kept so far of each part; before there is one, that which is trained now."""
        now = Trained(self._now.candidate.name, self._now.frame, kept_step=self._now.kept_step)
        return [one.trained for one in self._kept.values()] or [now]

    @property
    def parts(self) -> list[tuple[Trained, Tensors]]:
        """The parts that are kept so far, each with its network as it is used (`Fit.finished_state`)."""
        networks = [one.network for one in self._kept.values()] or [self._now.finished_state(bool(self.config.refit))]
        return list(zip(self._standing, networks, strict=True))

    @property
    def kept(self) -> Trained:
        """The candidate that is kept so far, or what both parts are together."""
        both = [one for one in self.trained if one.name == BOTH]
        return both[-1] if both and len(self._kept) > 1 else self._standing[0]

    @property
    def kept_records(self) -> list[Record]:
        """The evaluation of the step that is kept, of each part."""
        records = {(one.candidate, one.step): one for one in self.history}
        return [records[one.name, one.kept_step] for one in self._standing]

    @property
    def matches(self) -> list[Match]:
        """The rotations that brought each further session into the space of the first, of all parts: the one that is
        least sure of each."""
        each = [one.matches for one in self._kept.values()] or [self._now.matches]
        return [min(some, key=lambda one: one.likeness - one.runner_up) for some in zip(*each, strict=True)]

    def run(self) -> Iterator[Record]:
        """Train all candidates to `max_steps`; one record an evaluation, the first before the first step.

        Raises:
            TrainingError: every candidate has diverged or collapsed.
        """
        told, first = len(self.history), len(self._fits) * (1 + self._again * self._both)

        def untold() -> Iterator[Record]:
            nonlocal told
            while told < len(self.history):
                told += 1
                yield self.history[told - 1]

        while not self.ended:
            failure = None
            try:
                for record in self._now.run():
                    if record.step < self.config.max_steps:
                        yield from untold()
            except TrainingError as error:
                failure = error
            self._judge(failure)
            if self._done >= first and len(self._kept) < max(1, len(self._onto)):
                raise TrainingError(next(one.failure for one in reversed(self.trained) if one.failure))
            if self._done == first:
                if len(self._kept) > 1:
                    self._judge_both()
                    self._choose_part()
                    self._split_slow()
                self._can_choose = all(one.predicts for one in self._kept.values())
            elif self.ended and len(self._kept) > 1:
                self._judge_both()
            if not self.ended:
                self._now = self._fit(self._done)
            if self._kept:  # before, there is nothing to be kept
                yield from untold()

    def _judge(self, failure: TrainingError | None) -> None:
        """Take the candidate that has just ended among those trained, and keep it where it predicts spikes better."""
        fit, variant = self._now, self._plan[self._done]
        part = fit.candidate.name.split()[0] if self._both else ""
        self._past += fit.history
        self._done += 1
        if variant.half is not None:
            self._judge_half(failure, last=variant.half == HALVES - 1)
            return
        asked = self.config.refit
        refits = (False, True) if asked is None and fit.candidate.refit and not self._onto else (bool(asked),)
        steps = [fit.kept_step] if fit.kept_step > EARLY * fit.step else [fit.step, fit.kept_step]
        for step, refit in itertools.product(steps, refits):
            name = fit.candidate.name
            try:
                if failure is not None:
                    raise failure
                state = fit.finished_state(refit, last=step > fit.kept_step)
                ahead, hidden = fit.spikes_ahead(fit.judged(state)), fit.hidden_units(state)
            except TrainingError as error:
                self.trained.append(Trained(name, fit.frame, refit, kept_step=step, failure=str(error)))
                continue
            kept = self._kept.get(part)
            before = (kept.ahead, kept.hidden) if kept else (NOT_JUDGED, NOT_JUDGED)
            leads = ahead.lead(before[0]), hidden.lead(before[1])
            values = ahead.value, leads[0], hidden.value, leads[1]
            one = Trained(name, fit.frame, refit, *values, step, fit.candidate.encoding.dropout)
            self.trained.append(one)
            chosen = variant.encoding and not variant.restart and kept and kept.trained.name != name  # by halves
            smaller = kept is not None and kept.dimensions != fit.config.latents
            given = (FEWER_LEAD, True) if smaller and self._in_trials else ()
            if kept is None or chosen or _leads(one, kept.trained, *given):
                self._kept[part] = Kept(one, ahead, hidden, state, fit.matches, self._done - 1)
                order = [one[0].name for one in self._fits] if self._both else [""]
                self._kept = {name: self._kept[name] for name in order if name in self._kept}

    def _judge_half(self, failure: TrainingError | None, last: bool) -> None:
        """Judge the training that has just ended on the half of the trials that it did not see; after the last half
        take its encoder among those tried."""
        fit, refit = self._now, bool(self.config.refit)
        step = fit.kept_step if fit.kept_step > EARLY * fit.step else fit.step
        try:
            if failure is not None:
                raise failure
            state = fit.finished_state(refit, last=step > fit.kept_step)
            self._halves.append(Half(fit.spikes_ahead(fit.judged(state)), fit.hidden_units(state), step))
        except TrainingError as error:
            self._halves.append(Half(NOT_JUDGED, NOT_JUDGED, step, str(error)))
        if not last:
            return
        begin = self._fits[self._plan[self._done - 1].part][0]
        groups = [self._halves[i : i + HALVES] for i in range(0, len(self._halves), HALVES)]
        ahead, hidden = _over(groups[-1])
        before = _over(groups[-2]) if self._judged_by_halves(begin) else (NOT_JUDGED, NOT_JUDGED)
        leads = ahead.lead(before[0]), hidden.lead(before[1])
        name, values = fit.candidate.name.split(WITHOUT)[0], (ahead.value, leads[0], hidden.value, leads[1])
        step = max(one.step for one in groups[-1])
        told = next((one.failure for one in groups[-1] if one.failure), "")
        self.trained.append(Trained(name, fit.frame, refit, *values, step, fit.candidate.encoding.dropout, True, told))

    def _judge_both(self) -> None:
        """Judge both parts by their states side by side."""
        fits = [self._fit(kept.number) for kept in self._kept.values()]
        each = [fit.judged(kept.network) for fit, kept in zip(fits, self._kept.values(), strict=True)]
        found = fits[0].spikes_ahead([side_by_side(one) for one in zip(*each, strict=True)])
        parts = [one.trained for one in self._kept.values()]
        lead = found.lead(_better(*self._kept.values()).ahead)
        frame, step = max(one.frame for one in parts), max(one.kept_step for one in parts)
        self.trained = [one for one in self.trained if one.name != BOTH]
        self.trained.append(Trained(BOTH, frame, all(one.refit for one in parts), found.value, lead, kept_step=step))

    def _choose_part(self) -> None:
        """Keep the better part alone where it leads both."""
        best = _better(*self._kept.values())
        little = self._in_trials and not is_signal(self.counts[0]) and best.ahead.value <= TELLING
        sure = best.predicts and not little
        if self.trained[-1].lead[0] < 0 and sure and not self._onto:
            self._kept = {name: one for name, one in self._kept.items() if one is best}

    def _split_slow(self) -> None:
        """Split slow states that are kept beside fast ones (`finish.split_dynamics`). In trials there is no time to
        average for longer, and refitted dynamics have states for fast changes."""
        name, kept = next(iter(self._kept.items()))
        if len(self._kept) > 1 and not (kept.trained.refit or self._in_trials or self._onto):
            self._kept[name] = kept._replace(network=self._fit(kept.number).split(kept.network))

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Everything that a later `restore` needs to go on to the same result: tensors, and JSON values."""
        tensors, values = self._now.state()
        values |= {
            "trained": [dataclasses.asdict(one) for one in self.trained],
            "past": [dataclasses.asdict(one) for one in self._past],
            "tries_fewer": self.tries_fewer,
            "tries_encoders": self.tries_encoders,
            "in_trials": IN_TRIALS if self._in_trials else 0,
            "done": self._done,
            "can_choose": self._can_choose,
            "halves": [[_written(one[:2]), *one[2:]] for one in self._halves],
        }
        values["kept"] = {}
        for part, one in self._kept.items():
            tensors |= {f"kept.{part}.{name}": value.contiguous() for name, value in one.network.items()}
            values["kept"][part] = {
                "trained": dataclasses.asdict(one.trained),
                "bits": _written((one.ahead, one.hidden)),
                "matches": [[one.rotation.tolist(), one.likeness, one.runner_up] for one in one.matches],
                "number": one.number,
            }
        return tensors, values

    def restore(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Go on where `state` was taken.

        Raises:
            KeyError, TypeError, ValueError, RuntimeError: the state is of another network, or none.
        """
        if self._in_trials and values.get("in_trials") != IN_TRIALS:
            raise InputError("was made by an older ldmfilter, whose trainings in trials were others; train anew")
        trained = values.get("trained", [])  # version 0.1.0 had no candidates, others no hidden units
        self.trained = list(map(read_trained, trained))
        self.tries_fewer &= bool(values.get("tries_fewer", not trained))
        self.tries_encoders &= bool(values.get("tries_encoders", not trained))
        self._halves = [
            Half(*_read(found), int(step), str(failure)) for found, step, failure in values.get("halves", [])
        ]
        self._can_choose = bool(values.get("can_choose", True))
        self._done = int(values.get("done", len({one.name for one in self.trained} - {BOTH})))
        self._past, self._kept = read_history(values.get("past", [])), {}
        for part, raw in values.get("kept", {}).items():
            bits = raw["bits"] if isinstance(raw["bits"][0], list) else [raw["bits"], [math.nan, [math.nan]]]
            ahead, hidden = _read(bits)
            self._kept[part] = Kept(
                read_trained(raw["trained"]),
                ahead,
                hidden,
                current_names(below(f"kept.{part}.", tensors)),
                [Match(np.asarray(one[0]), float(one[1]), float(one[2])) for one in raw["matches"]],
                int(raw.get("number", list(values["kept"]).index(part))),
            )
        if not 0 <= self._done <= len(self._plan):
            raise ValueError(f"it has {self._done} candidates")
        self._now = self._fit(min(self._done, len(self._plan) - 1))  # a restart is of the candidate that is kept
        last = [one for one in self.trained if one.name != BOTH][-1:]
        if not (self.ended and last[0].failure):  # nothing goes on from where it failed
            self._now.restore(tensors, values)


def _onto(one: Candidate, part: Finished) -> Candidate:
    """A candidate whose frames and encoder are those of a finished part."""
    dropout = one.encoding.dropout if part.dropout is None else part.dropout
    return dataclasses.replace(one, frame=part.frame, encoding=Encoding(not part.config.widths, dropout), encodings=())


def _leads(one: Trained, kept: Trained, least: float = 0.0, present: bool = False) -> bool:
    """True where one that was judged later takes the place of what is kept, by more than `least` bits per spike, or of
    a signal by more than that share of its variance; with `present` hidden units have to lead."""
    if one.failure or kept.failure:  # of trainings on halves
        return not one.failure
    if math.isnan(kept.bits_per_spike):  # held-out z alone chooses between the steps of a training
        return one.name == kept.name and one.kept_step < kept.kept_step
    if one.frame != kept.frame:
        return one.lead[0] > one.lead[1]
    leads = (kept.bits_per_spike, *one.lead), (kept.hidden, *one.hidden_lead)
    behind = any(lead < -max(error, TOLERATED * value) for value, lead, error in leads)
    return not behind and any(lead > max(SURE * error, least) for _, lead, error in leads[present:])


def _better(slow: Kept, fast: Kept) -> Kept:
    """The part that would be kept alone."""
    if slow.trained.frame != fast.trained.frame:
        return max(slow, fast, key=lambda one: one.trained.bits_per_spike)
    leads = fast.ahead.lead(slow.ahead), fast.hidden.lead(slow.hidden)
    one = dataclasses.replace(fast.trained, lead=leads[0], hidden_lead=leads[1])
    return fast if _leads(one, slow.trained) else slow


def _over(halves: Sequence[Half]) -> tuple[SpikesAhead, SpikesAhead]:
    """Spikes ahead and hidden units of both halves; not judged where one of them failed."""
    if any(one.failure for one in halves):
        return NOT_JUDGED, NOT_JUDGED
    return mean_of([one.ahead for one in halves]), mean_of([one.hidden for one in halves])


def _written(found: Sequence[SpikesAhead]) -> list[Any]:
    """Predictions of spikes as JSON."""
    return [[one.value, one.blocks.tolist()] for one in found]


def _read(raw: Sequence[Any]) -> tuple[SpikesAhead, SpikesAhead]:
    """Spikes ahead and hidden units, from what `_written` gave."""
    ahead, hidden = (SpikesAhead(float(value), np.asarray(blocks, float)) for value, blocks in raw)
    return ahead, hidden


def side_by_side(parts: Sequence[tuple[np.ndarray, Judged]]) -> tuple[np.ndarray, Judged]:
    """States (time, state) of one session by several filters, in the bins that all have, one beside the other."""
    bins = functools.reduce(np.intersect1d, [judged.bins for _, judged in parts])
    rows = [np.searchsorted(judged.bins, bins) for _, judged in parts]
    first, those = parts[0][1], rows[0]
    shared = Judged(bins, first.frames, first.counts[those], first.observed[those], first.runs[those])
    return np.concatenate([states[some] for (states, _), some in zip(parts, rows, strict=True)], 1), shared
