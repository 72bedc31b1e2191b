"""The candidates of a training: where its dynamics begin and how long a frame is.

A filter of enough dimensions shares them out: one part has slow states, the other fast ones, each with an encoder and a
Kalman filter of its own. With fewer dimensions one candidate has them all, and predicted spikes choose it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from ldmfilter.config import LEAST_SHARED, FilterConfig
from ldmfilter.data.frames import frame_bins
from ldmfilter.data.tables import Floats
from ldmfilter.data.windows import LEAST_WINDOW

NOISE_TIME = 0.9  # s; a frame of this length begins with as much signal as noise
FRAMES = 7  # in a trial, about, where bins are short enough: with fewer, spikes ahead are predicted worse
TRIAL = 20.0  # s; a recording whose stretches are shorter is one in trials
FEW_FRAMES = 16  # in a stretch; of fewer, refitted dynamics would learn the time in it
PLENTY = 100.0  # s a unit: of a session in trials that is as long, no more is dropped than of long recordings
DROPOUTS = (0.5, 0.2)  # of shorter ones, of encoders with hidden layers; the first of linear ones
LEAST_DIMENSIONS = 2  # that are tried, where the settings leave their number open
WITHOUT = " without half "  # of the trials, in the name of a training
BOTH = "slow and fast"  # the name of a filter of both
# Frames in a training window, where the configuration names no time: the most that fit.
WINDOWS = (32, 16, 8, 4, LEAST_WINDOW)


class Encoding(NamedTuple):
    """Settings of an encoder.

    Attributes:
        linear: whether it has no hidden layers.
        dropout: share of units and of hidden activations that is dropped in training.
    """

    linear: bool
    dropout: float


class Variant(NamedTuple):
    """One training of a candidate.

    Attributes:
        part: the candidate's position.
        restart: number of the first weights.
        dimensions: where they are fewer than the settings say.
        encoding: where several are tried.
        half: of the trials, that is left out.
    """

    part: int
    restart: int = 0
    dimensions: int | None = None
    encoding: Encoding | None = None
    half: int | None = None


@dataclass(frozen=True)
class Candidate:
    """The beginning of a training.

    Attributes:
        name: one of `config.DYNAMICS`.
        frame: length of the counts that the encoder sees at once, s.
        time_constants: of the fastest and the slowest state before training, s; the others lie between, evenly on a
            logarithmic scale.
        dynamics_rate: learning rate of the dynamics over that of the encoder. At 1 the time constants stay near
            where they begin.
        encoding: of the encoder.
        refit: whether it is finished with refitted dynamics too, where the settings leave that open.
        encodings: that are tried, one after the other.
        in_trials: whether the recording is one in trials, of which there is less to learn.
        components: whether the encoder's linear map begins with principal components.
        average: time constant of the averages of frames whose components these are, s; 0 for the frames themselves.
        restart: number of the first weights that it is trained from.
    """

    name: str
    frame: float
    time_constants: tuple[float, float]
    dynamics_rate: float
    encoding: Encoding
    refit: bool = False
    encodings: tuple[Encoding, ...] = ()
    in_trials: bool = False
    components: bool = False
    average: float = 0.0
    restart: int = 0

    def bins(self, bin_size: float) -> int:
        """Bins in a frame."""
        return frame_bins(self.frame, bin_size)

    def variant(self, variant: Variant) -> Candidate:
        """The same from other first weights, in fewer dimensions, with another encoder or without half of trials."""
        again = f" {variant.restart + 1}" if variant.restart else ""
        fewer = f" in {variant.dimensions} dimensions" if variant.dimensions else ""
        half = "" if variant.half is None else f"{WITHOUT}{variant.half + 1}"
        encoding = variant.encoding or self.encoding
        linear = " linear" if encoding.linear else ""
        dropout = f" with dropout {encoding.dropout:g}" if variant.encoding and not encoding.linear else ""
        return replace(
            self,
            name=f"{self.name}{linear}{again}{fewer}{dropout}{half}",
            encoding=encoding,
            components=self.components and not variant.restart,
            restart=variant.restart,
        )

    def decay(self, states: int, frame: float) -> Floats:
        """Eigenvalues (state,) of A before training, per frame of this length."""
        decay: Floats = np.exp(-frame / np.geomspace(*self.time_constants, states))
        return decay


#: Slow states seen in long frames suit place on tracks and tell what comes a second later; states of all speeds suit
#: what changes within a second (heading, place in an open box) and tell what comes next. Where one is chosen, the first
#: is taken where prediction tells no difference.
#: Refitted dynamics predict z and spikes better; of slow states they tell less of place.
CANDIDATES: tuple[Candidate, ...] = (
    Candidate("slow", 0.5, (5.0, 5.0), 1.0, Encoding(linear=False, dropout=0.1), average=1.0),
    Candidate("fast", 0.1, (0.3, 8.0), 10.0, Encoding(linear=False, dropout=0.2), refit=True),
)


def candidates(
    config: FilterConfig, stretch: float = math.inf, units: int = 0, seconds: float = 0.0
) -> list[Candidate]:
    """The candidates that a configuration leaves open.

    Args:
        config: the settings.
        stretch: the length of a recording's stretches, s.
        units: their number, of one session; of several 0.
        seconds: that were observed.
    """
    own = CANDIDATES
    if config.dropout is not None:
        own = tuple(replace(one, encoding=Encoding(linear=False, dropout=config.dropout)) for one in own)
    if stretch < TRIAL:
        most = config.latent_dim or 1
        if config.dynamics == "auto" and most >= LEAST_SHARED:
            most = math.ceil(most / len(own))
        is_open = config.hidden is None and most <= units  # it could be linear
        plenty = units and seconds >= PLENTY * units
        few = config.dropout is None and not plenty
        own = tuple(_in_trials(one, config, stretch, is_open, few) for one in own)
    if config.frame is not None:
        own = tuple(replace(one, frame=config.frame) for one in own)
    own = tuple(replace(one, refit=one.refit and stretch >= FEW_FRAMES * one.frame) for one in own)
    return [one for one in own if config.dynamics in ("auto", one.name)]


def _in_trials(one: Candidate, config: FilterConfig, stretch: float, is_open: bool, few: bool) -> Candidate:
    """Encoders begin as principal components, and are linear where others do not predict better; frames are short.
    Where there is `few` to learn from, more is dropped."""
    dropouts = DROPOUTS if few else (one.encoding.dropout,)
    encodings = [Encoding(linear=False, dropout=dropout) for dropout in dropouts]
    if is_open:
        encodings.insert(0, encodings[0]._replace(linear=True))
    return replace(
        one,
        frame=min(CANDIDATES[-1].frame, stretch / FRAMES),
        encoding=encodings[0],
        encodings=tuple(encodings) if encodings[1:] and config.widths else (),
        in_trials=True,
        components=True,
    )


def share(config: FilterConfig, part: int) -> FilterConfig:
    """The configuration of a part of a filter of both, by its place in `CANDIDATES`: a half of the dimensions."""
    latents, states = ((size + 1 - part) // 2 for size in (config.latents, config.states))
    return replace(config, latent_dim=latents, state_dim=states)


def fewer(config: FilterConfig, kept: int) -> list[int]:
    """Numbers of dimensions to be tried where the best so far has `kept`: halves, down to one that is not kept."""
    sizes, size = [], config.latents
    while size // 2 >= LEAST_DIMENSIONS and size >= kept:
        size //= 2
        sizes.append(size)
    return sizes


class Window(NamedTuple):
    """Frames of a training window.

    Attributes:
        frames: in all, at most.
        warmup: of these the first, which carry no loss.
        shortest: in trials, the fewest of a trial that is shorter than a window, and is one of its own.
    """

    frames: int
    warmup: int
    shortest: int | None = None


def window_frames(config: FilterConfig, frame: float, trial: int | None = None) -> list[Window]:
    """Training windows of frames of this length, s, in the order of trying; in trials of `trial` frames.

    A window from the middle of a recording begins with a warm-up. In trials a window is a whole trial, or a piece of a
    long one, and begins from the prior: there is no warm-up, unless the configuration asks for it.
    """
    sizes = WINDOWS if config.window is None else [max(LEAST_WINDOW, round(config.window / frame))]
    asked = None if config.warmup is None else round(config.warmup / frame)
    if trial is None:
        return [Window(size, min(max(size // 4 if asked is None else asked, 1), size - 2)) for size in sizes]
    longest = max(LEAST_WINDOW, min(sizes[0], trial))
    warmups = {size: min(asked or 0, size - LEAST_WINDOW) for size in (longest, *(s for s in sizes if s < longest))}
    return [Window(size, warmup, warmup + LEAST_WINDOW) for size, warmup in warmups.items()]


@dataclass(frozen=True)
class Trained:
    """A candidate that was trained.

    Attributes:
        name: of the candidate, or `BOTH`.
        frame: length of its frames, s; of both that of the longer ones.
        refit: whether its dynamics were refitted after training (`finish.refit_dynamics`), or, by an older version, its
            noise; of both, that of all parts.
        bits_per_spike: prediction of spikes ahead (`spikes_ahead`); NaN where it could not be judged.
        lead: how far it is ahead of the one kept before it, of both that of the better part alone, bits per spike, and
            the standard error of that.
        hidden: prediction of units that were hidden (`Fit.hidden_units`), bits per spike; NaN where it could not be
            judged, and of both.
        hidden_lead: the same of `hidden`.
        kept_step: the step that was kept; of both the last one of the parts'.
        dropout: of the encoder in training; None from an older version.
        by_halves: whether it was trained without each half of the trials in turn and judged on that half: its numbers
            compare with those of other such rows alone, and its leads are over the one before it.
        failure: why its training failed, else "".
    """

    name: str
    frame: float
    refit: bool = False
    bits_per_spike: float = math.nan
    lead: tuple[float, float] = (math.nan, math.nan)
    hidden: float = math.nan
    hidden_lead: tuple[float, float] = (math.nan, math.nan)
    kept_step: int = 0
    dropout: float | None = None
    by_halves: bool = False
    failure: str = ""

    @property
    def dynamics(self) -> str:
        """The beginning of its dynamics, slow or fast."""
        return self.name.split()[0]

    @property
    def label(self) -> str:
        """Its name, for a line of text."""
        refitted = " with refitted dynamics" if self.refit else ""
        return f"{self.name}{refitted}{' (on trials not seen)' if self.by_halves else ''}"

    @property
    def told(self) -> str:
        """Its prediction of spikes ahead, and of hidden units, or that it failed, for a line of text."""
        if self.failure:
            return f"failed, {re.split('[:;]', self.failure)[0]}"
        if math.isnan(self.bits_per_spike):
            return "not judged"
        return f"{self.bits_per_spike:.3f}" + ("" if math.isnan(self.hidden) else f" / {self.hidden:.3f}")


def labels(trained: Sequence[Trained]) -> list[str]:
    """The names of candidates, and the step where one was judged at two."""
    names = [one.label for one in trained]
    return [f"{one.label} at step {one.kept_step}" if names.count(one.label) > 1 else one.label for one in trained]


def listed(trained: Sequence[Trained]) -> str:
    """All candidates with their prediction of spikes, for a line of text."""
    return ", ".join(f"{label}: {one.told}" for label, one in zip(labels(trained), trained, strict=True))


def read_trained(raw: dict[str, Any]) -> Trained:
    """A trained candidate as a file holds it. Raises: KeyError, TypeError, ValueError where it is none."""
    leads: dict[str, Any] = {name: tuple(map(float, raw[name])) for name in ("lead", "hidden_lead") if name in raw}
    one = Trained(**(raw | leads))
    if not isinstance(one.name, str) or not 0 < one.frame < math.inf or type(one.kept_step) is not int:
        raise ValueError("a candidate of no name, frame or step")
    return one
