"""Predictable noise of single units: what a predictive objective keeps, and what it discards (Mikulasch & Zenke 2026,
arXiv 2609.37789, *Predictive Self-Supervised Learning Provably Identifies Stochastic Signals under Nuisance*).

From the authors' page of the paper: the objective with marginal entropies, <log p(z | z_c)> + H[z], is
-KL[q(z | z_c) || p(z | z_c)] + I[z; z_c], with z the encoded observation and z_c its encoded context. The mutual
information decides what is retained: the signal s that observation and context share. Nuisance n that, given the
signal, is independent of the context is private, and is discarded.

The experiment is our own, and so are its numbers and limits. Spikes of simulated units follow latents that all share
and, in each unit, a slow modulation of its own. This is noise, but predictable, more so than the latents: a unit's
past predicts it. Whether it is private depends on the context: if the context is the past of the same units, it is not;
if units are split into halves, and each half is predicted from the past of the other, it is. Both contexts
are tried with marginal entropies (log det) and with the stop-gradient form, on the same sessions, with the same number
of states: twice that of the shared latents, so that there is room for both. Judged is what the latents can be
decoded from the states, and what the states are made of. As the states of an untrained network are made of what its
units do, their own noise included, both are held against it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from scipy.signal import lfilter
from torch import Tensor, nn

from ldmfilter.data.tables import Floats
from ldmfilter.filter.encoder import Encoder
from ldmfilter.filter.kalman import filter_windows
from ldmfilter.filter.linalg import one_thread
from ldmfilter.filter.training import resolve_device
from ldmfilter.ldm.objectives import predictive
from ldmfilter.paper import sequences
from ldmfilter.paper.experiment import Claim, Outcome, Say, summary
from ldmfilter.paper.fig2c import autoregression
from ldmfilter.paper.readout import affine, affine_r2
from ldmfilter.paper.sequences import LinearPredictor, SequenceModel, error_covariance
from ldmfilter.trainer import ascend

SOURCE = "arXiv 2609.37789; the experiment is our own"
BIN = 0.1  # s
LEARNING_RATE = 5e-3  # of Adam, the largest
WARMUP = 10  # bins of a window without loss
CONTEXTS = {"own": "own past", "other": "the other half's past"}
FORMS = {"logdet": "marginal entropies", "stopgrad": "stop-gradient"}
UNTRAINED = "untrained"


def named(context: str, form: str) -> str:
    """An objective's name."""
    return f"{CONTEXTS[context]}, {(FORMS | {UNTRAINED: UNTRAINED})[form]}"


#: Objectives to compare: context and form by name. The form of an untrained network does not matter.
OBJECTIVES = {named(context, form): (context, form) for context in CONTEXTS for form in (*FORMS, UNTRAINED)}


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
    "tiny": Settings(seconds=1500, units=24, shared=1, seeds=1, steps=80, batch=16, window=40, hidden=(32,)),
    "small": Settings(seconds=5000, units=40, shared=2, seeds=3, steps=300, batch=32, window=50, hidden=(48,)),
    "paper": Settings(
        seconds=20_000, units=80, shared=4, seeds=8, steps=6000, batch=128, window=100, hidden=(128, 128)
    ),
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
    shared_time: float = 0.3,
    private_time: float = 5.0,
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
    s, n = (
        autoregression(rng, bins, np.full(dims, math.exp(-BIN / seconds)))
        for dims, seconds in ((shared, shared_time), (units, private_time))
    )
    weights = rng.standard_normal((shared, units))
    weights *= shared_gain / np.linalg.norm(weights, axis=0)
    log_rate = math.log(rate * BIN) + s @ weights + private_gain * n
    return World(rng.poisson(np.exp(log_rate)), s, n)


class View(SequenceModel):
    """Encoder and linear filter of some units, and a map from their states to the units that they are the context of.

    Args:
        units: which.
        counts: (time, unit) of all units, by which inputs are scaled.
        latent: dimensions, and states.
        hidden: widths of the encoder's hidden layers.
    """

    def __init__(self, units: slice, counts: Tensor, latent: int, hidden: tuple[int, ...]):
        encoder = Encoder(counts[:, units].shape[1], latent, hidden, linear=False)
        encoder.set_input_scale(counts[:, units])
        super().__init__(encoder, LinearPredictor(latent, latent, decay=math.exp(-BIN / 2.0), noise=0.5), latent)
        self.units = units
        self.ahead = nn.Linear(latent, latent, bias=False)

    def encode(self, frames: Float[Tensor, "batch time unit"], measure: bool = False) -> Tensor:
        """White pseudo-observations of this view's units, from the counts of all."""
        return super().encode(frames[..., self.units], measure)


def views(context: str, counts: Float[Tensor, "time unit"], settings: Settings) -> list[View]:
    """One view of all units, or one of each half with half the states."""
    n, d, hidden = settings.units, settings.shared, settings.hidden
    if context == "own":
        return [View(slice(0, n), counts, 2 * d, hidden)]
    return [View(part, counts, d, hidden) for part in (slice(0, n // 2), slice(n // 2, n))]


def objective(parts: list[View], counts: Float[Tensor, "batch time unit"], form: str) -> Tensor:
    """F, nats a bin: a single view predicted from its own past, each of two from the other's.

    Within a view the Kalman filter is the predictor. Across, the other view's filtered state is mapped linearly, and
    the covariance is that of the errors, at which the likelihood has its maximum.
    """
    if len(parts) == 1:
        return sequences.objective(parts[0], counts, form, WARMUP, samples=0).value
    z = [part.encode(counts, measure=True) for part in parts]
    total = z[0].new_zeros(())
    for part, own, target in zip(parts, z, z[::-1], strict=True):
        assert isinstance(part.predictor, sequences.LinearPredictor)
        state = filter_windows(part.predictor.dynamics(), own)[2]
        zhat, now = part.ahead(state[:, WARMUP - 1 : -1]), target[:, WARMUP:]
        S = error_covariance((now.detach() if form == "stopgrad" else now) - zhat)
        total = total + predictive(now, zhat, S, form).value / 2
    return total


@one_thread()
def train(counts: Float[Tensor, "time unit"], context: str, form: str, settings: Settings, seed: int) -> Floats:
    """Fit the views to all but the last fifth of a session; states (time, state) of the whole session, t|t. With the
    form `UNTRAINED` the views stay as they start, but white.

    Raises:
        TrainingError: F is not finite any more.
    """
    fit = counts[: len(counts) * 4 // 5]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = views(context, fit.cpu(), settings)
        module = nn.ModuleList(parts).to(counts.device)
        within = torch.arange(settings.window)

        def batch(step: int) -> Tensor:
            starts = torch.randint(len(fit) - settings.window, (settings.batch, 1))
            return fit[(starts + within).to(fit.device)]

        def value(batch: Tensor) -> Tensor:
            return objective(parts, batch, form)

        steps, what = 0 if form == UNTRAINED else settings.steps, f"on {CONTEXTS[context]} with {form}"
        ascend(module, batch, value, steps, what, learning_rate=LEARNING_RATE, warm=steps / 20, norm=1.0)
    module.eval()
    states = []
    with torch.no_grad():
        for part in parts:
            part.encode(fit[None], measure=True)
            mean = part.filter(counts[None]).mean
            assert mean is not None  # a Kalman filter has states
            states.append(mean[0])
    return torch.cat(states, -1).double().cpu().numpy()


def explained(cause: Floats, effect: Floats) -> Floats:
    """R2 (dim,) of effect (time, dim) by an affine map of cause (time, dim), on the last fifth, fitted before it."""
    n = len(cause) * 4 // 5
    return affine_r2(cause[:n], effect[:n], cause[n:], effect[n:], each=True)


def smoothed(counts: np.ndarray, seconds: tuple[float, ...] = (0.2, 1.0, 5.0)) -> Floats:
    """Roots of counts, averaged over their past with exponential weights of several time constants (time, feature)."""
    roots = np.sqrt(counts)
    decays = [math.exp(-BIN / tau) for tau in seconds]
    return np.column_stack([lfilter([1 - decay], [1.0, -decay], roots, axis=0) for decay in decays])


def run(settings: Settings, seed: int, say: Say) -> Outcome:
    """Sessions, each given to all objectives and to networks that are not trained."""
    device = resolve_device("auto")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in [*OBJECTIVES, "counts"]}
    for session in range(settings.seeds):
        rng = np.random.default_rng([seed, session])
        truth = world(rng, round(settings.seconds / BIN), settings.units, settings.shared)
        counts = torch.from_numpy(truth.counts).float().to(device)
        states = {}
        for name, (context, form) in OBJECTIVES.items():
            states[name] = train(counts, context, form, settings, seed + session)
            found[name].append(judged(states[name], truth))
            say(f"infoldm: session {session + 1} of {settings.seeds}, {name}")
        found["counts"].append(judged(smoothed(truth.counts), truth))
    numbers = {name: summary(each, "sessions") for name, each in found.items()}
    return Outcome(numbers, claims(numbers), draw(numbers, truth, states))


def judged(states: Floats, truth: World) -> dict[str, float]:
    """R2 on held-out time. decoded_*: of shared latents and of the units' own modulations from the states;
    made_of_*: of the states from those. Means over what is explained."""
    return {
        "decoded_shared": float(explained(states, truth.shared).mean()),
        "decoded_private": float(explained(states, truth.private).mean()),
        "made_of_shared": float(explained(truth.shared, states).mean()),
        "made_of_private": float(explained(truth.private, states).mean()),
    }


def claims(numbers: dict[str, dict]) -> list[Claim]:
    """Claims on what each objective keeps and discards; means over sessions."""

    def mean(context: str, form: str, key: str) -> float:
        return numbers[named(context, form)][key]["mean"]

    def trained(context: str, form: str) -> float:
        return mean(context, form, "made_of_private") - mean(context, UNTRAINED, "made_of_private")

    share, shared, halves = "its share of the states' variance less untrained", "decoded_shared", CONTEXTS["other"]
    kept, discarded, left, r2 = [], [], [], []
    for form, label in FORMS.items():
        ratio = mean("other", form, "made_of_private") / mean("own", form, "made_of_private")
        more = mean("other", "logdet", shared) - mean("own", form, shared)
        kept.append((f"own past, {label}: predictable noise is kept, {share}", trained("own", form), 0.1, None))
        discarded.append((f"{halves}, {label}: it is discarded, {share}", trained("other", form), None, -0.1))
        left.append((f"{halves}, {label}: what is left of it, as a share of what own past keeps", ratio, None, 0.5))
        r2.append((f"R2 of the shared latents: {halves}, marginal entropies, less own past, {label}", more, 0.1, None))
    apart = abs(mean("other", "logdet", shared) - mean("other", "stopgrad", shared))
    text = f"R2 of the shared latents: marginal entropies and stop-gradient, both on {halves}, differ by"
    rows = [*kept, *discarded, *left, *r2, (text, apart, None, 0.1)]
    return [Claim(*row, source=SOURCE) for row in rows]


def draw(numbers: dict[str, dict], truth: World, states: dict[str, Floats]) -> Figure:
    """Bars of what each objective keeps; held-out time courses of a shared latent and of the modulation that own past
    keeps most of, true and decoded."""
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1, 1.5])[0]
    colours = ["C3", "C1", "0.35", "C0", "C2", "0.35"]
    above, below = left.subplots(2, 1)
    _draw_shares(above, below, numbers, colours)
    _draw_courses(right, truth, states, colours)
    return figure


def _draw_shares(above: Axes, below: Axes, numbers: dict[str, dict], colours: list[str]) -> None:
    for place, name in enumerate(OBJECTIVES):
        decoded = numbers[name]["decoded_shared"]
        above.barh(place, decoded["mean"], color=colours[place])
        above.plot(decoded["sessions"], [place] * len(decoded["sessions"]), "k.", ms=4)
        shared, private = (numbers[name][f"made_of_{what}"]["mean"] for what in ("shared", "private"))
        below.barh(place, shared, color="0.45", label="shared latents" if not place else None)
        below.barh(place, private, left=shared, color="C6", label="noise of single units" if not place else None)
    above.axvline(numbers["counts"]["decoded_shared"]["mean"], color="k", ls="--", lw=0.8)
    above.set(xlabel="dashed: from all counts, smoothed, supervised", title="shared latents: R2, decoded from states")
    below.set_title("states: share of variance")
    labels = [name.replace(", ", ",\n") for name in OBJECTIVES]
    for axes in (above, below):
        axes.set(xlim=(0, 1), yticks=range(len(OBJECTIVES)), yticklabels=labels)
        axes.invert_yaxis()
    below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2, fontsize="small")


def _draw_courses(figure: SubFigure, truth: World, states: dict[str, Floats], colours: list[str]) -> None:
    n = len(truth.counts) * 4 // 5
    stretch = slice(n, n + round(40 / BIN))
    most = int(np.argmax(explained(states[named("own", "logdet")], truth.private)))
    series = {"a shared latent": truth.shared[:, [0]], f"noise of unit {most} alone": truth.private[:, [most]]}
    figure.suptitle("decoded from states, over what is true (grey)")
    grid = figure.subplots(len(OBJECTIVES), 2, sharex=True, sharey="col")
    for column, (label, values) in enumerate(series.items()):
        time = BIN * np.arange(len(values[stretch]))
        for axes, name, colour in zip(grid[:, column], OBJECTIVES, colours, strict=True):
            axes.plot(time, values[stretch], color="0.75", lw=2)
            axes.plot(time, affine(states[name][:n], values[:n]).predict(states[name][stretch]), color=colour, lw=1)
        grid[0, column].set_title(label)
        grid[-1, column].set_xlabel("held-out time, s")
