"""Predictable noise of single units: what a predictive objective keeps, and what it discards (Mikulasch & Zenke 2026,
arXiv 2609.37789, *Predictive Self-Supervised Learning Provably Identifies Stochastic Signals under Nuisance*).

From the authors' page of the paper: the objective with marginal entropies, <log p(z | z_c)> + H[z], is
-KL[q(z | z_c) || p(z | z_c)] + I[z; z_c], with z the encoded observation and z_c its encoded context. The mutual
information decides what is retained: the signal s that observation and context share. Nuisance n that tells
nothing of the context given the signal is private, and is discarded.

The experiment is our own, and so are its numbers. Spikes of simulated units follow latents that all share, and in each
unit a slow modulation of its own. The latter is noise, but predictable: a unit's past tells of it. Whether it is private
is then a matter of the context. If the context is the past of the same units it is not, and is kept; if
units are split into halves, and each half is predicted from the past of the other, it is. Both contexts are tried with
marginal entropies (log det) and with the stop-gradient form, on the same sessions, with the same number of states.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from scipy.signal import lfilter
from torch import Tensor, nn

from ldmfilter.data.tables import Floats
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.filter.encoder import Encoder
from ldmfilter.filter.kalman import filter_windows
from ldmfilter.filter.linalg import whitening
from ldmfilter.filter.parameters import Dynamics
from ldmfilter.filter.training import resolve_device
from ldmfilter.ldm.objectives import predictive
from ldmfilter.paper.experiment import Claim, Outcome, Say
from ldmfilter.paper.recurrent import affine, with_one

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCE = "arXiv 2609.37789; the experiment is our own"
BIN = 0.1  # s
LEARNING_RATE = 5e-3  # of Adam, the largest
WARMUP = 10  # bins of a window without loss
CONTEXTS = {"own": "the same units' past", "other": "the other half's past"}
FORMS = {"logdet": "marginal entropies", "stopgrad": "stop-gradient"}


@dataclass(frozen=True)
class Settings:
    """Attributes:
    seconds: of a session; its last fifth judges.
    units: of a session, in two halves.
    shared: latents that all units follow.
    seeds: sessions, each with a training of its own.
    steps: of Adam.
    batch: windows a step.
    window: bins.
    hidden: widths of the encoders' hidden layers.
    """

    seconds: float
    units: int
    shared: int
    seeds: int
    steps: int
    batch: int
    window: int
    hidden: tuple[int, ...]


SIZES = {
    "tiny": Settings(seconds=300, units=16, shared=2, seeds=1, steps=120, batch=16, window=40, hidden=(32,)),
    "small": Settings(seconds=1200, units=24, shared=2, seeds=2, steps=600, batch=32, window=50, hidden=(48,)),
    "paper": Settings(seconds=7200, units=60, shared=4, seeds=8, steps=6000, batch=128, window=100, hidden=(128, 128)),
}


@dataclass(frozen=True)
class World:
    """A simulated session: counts (time, unit) in bins of BIN s; what they follow, of unit variance: shared
    (time, latent), private (time, unit)."""

    counts: np.ndarray
    shared: Floats
    private: Floats


def world(
    rng: np.random.Generator,
    bins: int,
    units: int,
    shared: int,
    shared_time: float = 0.5,
    private_time: float = 4.0,
    shared_gain: float = 0.7,
    private_gain: float = 0.8,
    rate: float = 30.0,
) -> World:
    """Poisson counts of log-rates that add up shared latents, weighted at random, and a modulation of the unit's own.

    Args:
        rng: draws everything.
        bins, units, shared: how many.
        shared_time, private_time: time constants of the autoregressions, s.
        shared_gain, private_gain: standard deviations in the log-rate.
        rate: median of a unit, Hz.
    """
    s, n = autoregression(rng, bins, shared, shared_time), autoregression(rng, bins, units, private_time)
    weights = rng.standard_normal((shared, units))
    weights *= shared_gain / np.linalg.norm(weights, axis=0)
    log_rate = math.log(rate * BIN) + s @ weights + private_gain * n
    return World(rng.poisson(np.exp(log_rate)), s, n)


def autoregression(rng: np.random.Generator, bins: int, dims: int, seconds: float) -> Floats:
    """Independent stationary autoregressions of order one (time, dim), of unit variance and a time constant."""
    decay = math.exp(-BIN / seconds)
    noise = rng.standard_normal((bins, dims)) * math.sqrt(1 - decay**2)
    noise[0] /= math.sqrt(1 - decay**2)
    return np.asarray(lfilter([1.0], [1.0, -decay], noise, axis=0))


class View(nn.Module):
    """Encoder and dynamics of some units, and a map from their states to what they are the context of."""

    def __init__(self, units: slice, counts: Tensor, latent: int, predicted: int, hidden: tuple[int, ...]):
        super().__init__()
        self.units = units
        self.encoder = Encoder(counts[:, units].shape[1], latent, hidden)
        self.encoder.set_input_scale(counts[:, units])
        self.dynamics = Dynamics(latent, latent, decay=math.exp(-BIN / 2.0), noise=0.5)
        self.ahead = nn.Linear(latent, predicted, bias=False)

    def white(self, counts: Float[Tensor, "batch time unit"], scale: Float[Tensor, "sample unit"]) -> Tensor:
        """Pseudo-observations, white over `scale`."""
        mean, W = whitening(self.encoder(scale[..., self.units]))
        return (self.encoder(counts[..., self.units]) - mean) @ W

    def states(self, z: Float[Tensor, "batch time latent"]) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions of z, their covariance, filtered states."""
        return filter_windows(self.dynamics(), z)


def views(context: str, counts: Float[Tensor, "time unit"], settings: Settings) -> nn.ModuleList:
    """One view of all units, or one of each half with half the states."""
    n, d, hidden = settings.units, settings.shared, settings.hidden
    if context == "own":
        return nn.ModuleList([View(slice(0, n), counts, 2 * d, 2 * d, hidden)])
    return nn.ModuleList([View(part, counts, d, d, hidden) for part in (slice(0, n // 2), slice(n // 2, n))])


def objective(parts: nn.ModuleList, counts: Float[Tensor, "batch time unit"], form: str) -> Tensor:
    """F, nats a bin: each view predicted from its own past where there is one, from the other's where there are two.

    Within a view the Kalman filter is the predictor. Across, the other view's filtered state is mapped linearly, and
    the covariance is that of the errors, where the likelihood has its maximum.
    """
    flat = counts.flatten(0, 1)
    z = [part.white(counts, flat) for part in parts]
    filtered = [part.states(value) for part, value in zip(parts, z, strict=True)]
    if len(z) == 1:
        zhat, S, _ = filtered[0]
        return predictive(z[0][:, WARMUP:], zhat[:, WARMUP:], S, form).value
    total = z[0].new_zeros(())
    for target, (part, (_, _, state)) in zip(z[::-1], zip(parts, filtered, strict=True), strict=True):
        zhat, now = part.ahead(state[:, WARMUP - 1 : -1]), target[:, WARMUP:]
        error = ((now.detach() if form == "stopgrad" else now) - zhat).flatten(0, 1)
        S = error.mT @ error / len(error) + 1e-6 * torch.eye(error.shape[1], dtype=error.dtype, device=error.device)
        total = total + predictive(now, zhat, S, form).value / 2
    return total


def train(counts: Float[Tensor, "time unit"], context: str, form: str, settings: Settings, seed: int) -> Floats:
    """Fit the views to all but the last fifth of a session; states (time, state) of the whole session, t|t.

    Raises:
        TrainingError: F is not finite any more.
    """
    fit = counts[: len(counts) * 4 // 5]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = views(context, fit.cpu(), settings).to(counts.device)
        optimizer = torch.optim.Adam(parts.parameters())
        within = torch.arange(settings.window)
        for step in range(settings.steps):
            progress = step / settings.steps
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * min(1.0, 20 * progress + 1e-3) * 0.5 * (1 + math.cos(math.pi * progress))
            starts = torch.randint(len(fit) - settings.window, (settings.batch, 1))
            value = objective(parts, fit[(starts + within).to(fit.device)], form)
            if not bool(torch.isfinite(value)):
                raise TrainingError(f"training on {context} past with {form} diverged at step {step}; try another seed")
            optimizer.zero_grad()
            (-value).backward()
            nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
            optimizer.step()
    parts.eval()
    with torch.no_grad():
        states = [part.states(part.white(counts[None], fit))[2][0] for part in parts]
    return torch.cat(states, -1).double().cpu().numpy()


def explained(cause: Floats, effect: Floats) -> Floats:
    """R2 (dim,) of effect (time, dim) by an affine map of cause (time, dim), on the last fifth, fitted before it."""
    n = len(cause) * 4 // 5
    error = effect[n:] - with_one(cause[n:]) @ affine(cause[:n], effect[:n])
    return np.asarray(1 - error.var(0) / effect[n:].var(0))


def smoothed(counts: np.ndarray, seconds: tuple[float, ...] = (0.2, 1.0, 5.0)) -> Floats:
    """Roots of counts, averaged over their past with exponential weights of several time constants (time, feature)."""
    roots = np.sqrt(counts)
    decays = [math.exp(-BIN / tau) for tau in seconds]
    return np.column_stack([lfilter([1 - decay], [1.0, -decay], roots, axis=0) for decay in decays])


def run(settings: Settings, seed: int, data: Path | None, say: Say) -> Outcome:
    """Sessions, each given to all four objectives; R2 of the shared latents and of the units' own modulations.

    Raises:
        InputError: data, of which none are used.
    """
    if data is not None:
        raise InputError(f"{data}: infoldm simulates its sessions and reads no data; leave --data out")
    device = resolve_device("auto")
    scores: dict[str, dict[str, list[Floats]]] = {}
    example: dict[str, Floats] = {}
    for session in range(settings.seeds):
        rng = np.random.default_rng([seed, session])
        truth = world(rng, round(settings.seconds / BIN), settings.units, settings.shared)
        counts = torch.from_numpy(truth.counts).float().to(device)
        states = {"counts": smoothed(truth.counts)}
        for context in CONTEXTS:
            for form in FORMS:
                say(f"infoldm: session {session + 1} of {settings.seeds}, {CONTEXTS[context]}, {FORMS[form]}")
                states[f"{context} {form}"] = train(counts, context, form, settings, seed + session)
        for name, value in states.items():
            score = scores.setdefault(name, {"shared": [], "private": []})
            score["shared"].append(kept(value, truth.shared))
            score["private"].append(kept(value, truth.private))
        example = example or examples(truth, states)
    numbers = {name: summary(score) for name, score in scores.items()}
    return Outcome(numbers | {"states": 2 * settings.shared}, claims(numbers), draw(numbers, example, settings))


def summary(score: dict[str, list[Floats]]) -> dict[str, object]:
    """R2 of all sessions as numbers: the mean over shared latents and over units, and how many dimensions of the
    units' own modulations the states hold, which is the sum of their R2, as these are independent."""
    shared = [float(r2.mean()) for r2 in score["shared"]]
    private = [float(r2.clip(0).sum()) for r2 in score["private"]]
    return {
        "shared_r2": float(np.mean(shared)),
        "private_r2": float(np.mean([r2.mean() for r2 in score["private"]])),
        "private_dimensions": float(np.mean(private)),
        "shared_r2_of_sessions": shared,
        "private_dimensions_of_sessions": private,
    }


def claims(numbers: dict[str, dict]) -> list[Claim]:
    """What should be kept and discarded, measured."""
    own, other = numbers["own logdet"], numbers["other logdet"]
    own_stop, other_stop = numbers["own stopgrad"], numbers["other stopgrad"]
    return [
        Claim(
            f"own past, {FORMS[form]}: predictable noise is kept, in dimensions of the states",
            numbers[f"own {form}"]["private_dimensions"],
            least=1.0,
            source=SOURCE,
        )
        for form in FORMS
    ] + [
        Claim(
            "other half's past, marginal entropies: the same noise is discarded, as a share of what own past keeps",
            other["private_dimensions"] / own["private_dimensions"],
            most=0.5,
            source=SOURCE,
        ),
        Claim(
            "other half's past, stop-gradient: likewise",
            other_stop["private_dimensions"] / own_stop["private_dimensions"],
            most=0.5,
            source=SOURCE,
        ),
        Claim(
            "marginal entropies: R2 of the shared latents, other half's past less own past",
            other["shared_r2"] - own["shared_r2"],
            least=0.1,
            source=SOURCE,
        ),
        Claim(
            "other half's past: R2 of the shared latents, marginal entropies less stop-gradient",
            other["shared_r2"] - other_stop["shared_r2"],
            least=0.0,
            source=SOURCE,
        ),
    ]


def examples(truth: World, states: dict[str, Floats]) -> dict[str, tuple[Floats, dict[str, Floats]]]:
    """Held-out time courses to draw, true and decoded from each states: the first shared latent, and the modulation
    that own past with marginal entropies keeps most of."""
    n = len(truth.counts) * 4 // 5
    most = int(np.argmax(kept(states["own logdet"], truth.private)))
    stretch = slice(n, n + round(60 / BIN))
    return {
        label: (
            series[stretch],
            {name: with_one(x[stretch]) @ affine(x[:n], series[:n]) for name, x in states.items() if name != "counts"},
        )
        for label, series in (
            ("a shared latent", truth.shared[:, 0]),
            (f"the modulation of unit {most} alone", truth.private[:, most]),
        )
    }


def draw(numbers: dict[str, dict], example: dict[str, tuple[Floats, dict[str, Floats]]], settings: Settings) -> Figure:
    """What is kept of both, by objective; time courses."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.6])
    names = [f"{context} {form}" for context in CONTEXTS for form in FORMS]
    labels = [f"{CONTEXTS[context]},\n{FORMS[form]}" for context in CONTEXTS for form in FORMS]
    colours = ["C3", "C1", "C0", "C2"]
    above, below = left.subplots(2, 1, sharey=True)
    panels = (
        (above, "shared_r2", "shared latents: mean R2", 1.0),
        (below, "private_dimensions", f"noise of single units: dimensions kept of {2 * settings.shared}", None),
    )
    for axes, key, title, most in panels:
        axes.barh(labels, [numbers[name][key] for name in names], color=colours)
        for place, name in enumerate(names):
            several = numbers[name][f"{key}_of_sessions"]
            axes.plot(several, [place] * len(several), "k.", ms=4)
        axes.set(title=title, xlim=(0, most or 2 * settings.shared))
    above.axvline(numbers["counts"]["shared_r2"], color="k", ls="--", lw=0.8)
    above.set_xlabel("dashed: from all counts, smoothed, supervised")
    above.invert_yaxis()
    grid = right.subplots(len(names), 2, sharex=True, sharey="col")
    for column, (label, (series, decoded)) in enumerate(example.items()):
        time = BIN * np.arange(len(series))
        for axes, name, colour in zip(grid[:, column], names, colours, strict=True):
            axes.plot(time, series, color="0.7", lw=2.5)
            axes.plot(time, decoded[name], color=colour, lw=1)
        grid[0, column].set_title(f"{label}: true (grey), decoded")
        grid[-1, column].set_xlabel("held-out time, s")
    return figure
