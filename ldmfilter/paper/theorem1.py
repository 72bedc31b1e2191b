"""Theorem 1 of Mikulasch & Zenke (2026), its assumptions broken one at a time.

With a Gaussian predictor, as many latents and an image that is smooth and one to one, the latents are recovered up
to an affine map. The scene is that of figure 5. Broken are: the noise, the number of latents, the image. Two-valued
noise is not Gaussian either, but recovery does not suffer: noise that is small against the curvature of the encoder
enters the objective through its covariance alone, whatever its shape. To first order the objective is, but for a
constant, <log abs det J> - 1/2 log det <J Sigma J'>, with J the encoder's derivative by the latents; as log det is
concave, it is largest where J Sigma J' is the same everywhere, so that the encoder is affine. Heavy tails are not
small.

Where a latent is missing, or an image shows two positions, no latents explain all of the position: arithmetic
keeps them below a bound, which is no test of the theorem. A test is whether the latents that are found are an
affine image of what they could be of: a single latent of the position, two latents of the half of the plane that a
folded image shows. Each condition is compared with the position as read from the images' centre of light, which shows
whether it was there to be recovered.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from ldmfilter.data.tables import Floats
from ldmfilter.paper.experiment import Claim, Outcome, Say, summary
from ldmfilter.paper.fig5 import LATENT, Recording, Scene, portrait
from ldmfilter.paper.readout import affine_r2
from ldmfilter.paper.recurrent import Training, train
from ldmfilter.paper.wobbly import Camera

SOURCE = "Mikulasch & Zenke 2026, Theorem 1"
REASONED = "own reasoning, in the module"


@dataclass(frozen=True)
class Condition:
    """Differences from the theorem's assumptions."""

    label: str
    noise: str = "gaussian"
    latent: int = LATENT
    folded: bool = False


CONDITIONS = {
    "intact": Condition("assumptions hold"),
    "jumps": Condition("heavy-tailed noise", noise="jumps"),
    "latent": Condition("one latent too few", latent=LATENT - 1),
    "folded": Condition("image not invertible", folded=True),
    "bimodal": Condition("two-valued noise", noise="bimodal"),
}


@dataclass(frozen=True)
class Settings:
    """The scene of every condition, the training on it, its entropy, and the number of seeds."""

    scene: Scene
    training: Training
    entropy: str
    seeds: int


SIZES = {
    "tiny": Settings(Scene(500, 150, 8, 10, Camera()), Training(steps=120, batch=48, learning_rate=1e-2), "logdet", 1),
    "small": Settings(
        Scene(4000, 500, 12, 10, Camera()), Training(steps=600, batch=64, learning_rate=1e-2, starts=3), "knn", 2
    ),
    "paper": Settings(
        Scene(20_000, 1000, 30, 10, Camera(pixels=16, view=7.0)),
        Training(steps=10_000, batch=256, samples=8, hidden=200, memory=64, starts=3),
        "knn",
        8,
    ),
}


def run(settings: Settings, seed: int, say: Say) -> Outcome:
    """Every condition with several seeds."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in CONDITIONS}
    first: dict[str, tuple[Floats, Floats]] = {}
    for name, condition in CONDITIONS.items():
        camera = dataclasses.replace(settings.scene.camera, folded=condition.folded)
        for each in range(seed, seed + settings.seeds):
            recording = Recording(dataclasses.replace(settings.scene, camera=camera), each, condition.noise)
            seen = recording.images[: recording.held_out]
            network, _ = train(seen, condition.latent, settings.entropy, settings.training, each)
            z = recording.latents(network)
            light = camera.centroid(recording.images.double().cpu().numpy())
            found[name].append(measured(recording, z, condition) | {"r2_of_the_centre_of_light": recording.r2(light)})
            first.setdefault(name, (recording.position[recording.held_out :], recording.aligned(z)))
            say(f"theorem1: {condition.label}, seed {each}, R2 {found[name][-1]['r2']:.3f}")
    numbers = {name: {"condition": CONDITIONS[name].label} | summary(each, "seeds") for name, each in found.items()}
    return Outcome(numbers, claims(numbers), draw(numbers, first))


def measured(recording: Recording, z: Floats, condition: Condition) -> dict[str, float]:
    """Affine R2 on held-out sequences. r2: of the position from latents z (sequence, time, latent); most_r2: of the
    position from the best latents of that number that such images allow; r2_of_the_shown: of what images show,
    from z; r2_of_the_latents: of z from what images show."""
    position = recording.position
    shown = np.stack([np.abs(position[..., 0]), position[..., 1]], axis=-1) if condition.folded else position

    def r2(cause: Floats, effect: Floats) -> float:
        n = recording.held_out
        return affine_r2(cause[:n], effect[:n], cause[n:], effect[n:])

    flat = position[: recording.held_out].reshape(-1, 2)
    axes = np.linalg.eigh(np.cov(flat.T))[1][:, -condition.latent :]
    return {
        "r2": r2(z, position),
        "most_r2": r2(shown if condition.folded else position @ axes, position),
        "r2_of_the_shown": r2(z, shown),
        "r2_of_the_latents": r2(shown, z),
    }


def claims(numbers: dict[str, dict]) -> list[Claim]:
    """The theorem's statements, measured, in the worst seed."""

    def least(name: str, key: str) -> float:
        return min(numbers[name][key]["seeds"])

    def largest(name: str, key: str) -> float:
        return max(numbers[name][key]["seeds"])

    label = {name: condition.label for name, condition in CONDITIONS.items()}
    key = "r2_of_the_latents"
    rows = [
        (f"{label['intact']}: position recovered up to an affine map, least R2", least("intact", "r2"), 0.97, SOURCE),
        (
            f"{label['jumps']}: recovery is lost, least R2 without less largest R2 with it",
            least("intact", "r2") - largest("jumps", "r2"),
            0.1,
            SOURCE,
        ),
        (
            f"{label['latent']}: the latent is no affine image of the position, least R2 from position to latents "
            "without less largest R2 with it",
            least("intact", key) - largest("latent", key),
            0.1,
            SOURCE,
        ),
        (
            f"{label['folded']}: half the plane, which it shows, is recovered all the same, least R2",
            least("folded", "r2_of_the_shown"),
            0.8,
            REASONED,
        ),
        (
            f"{label['bimodal']}, small against the curvature: recovery is not lost, least R2",
            least("bimodal", "r2"),
            0.95,
            REASONED,
        ),
    ]
    return [Claim(text, value, limit, source=source) for text, value, limit, source in rows]


def draw(numbers: dict[str, dict], first: dict[str, tuple[Floats, Floats]]) -> Figure:
    """Portraits, true and recovered, of every condition; R2 of all seeds, with its bounds."""
    figure = Figure(figsize=(13, 8.5), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[2, 1])[:, 0]
    grid = top.subplots(2, len(CONDITIONS), sharex="col")
    for column, (name, condition) in enumerate(CONDITIONS.items()):
        truth, recovered = first[name]
        portrait(grid[0, column], truth, truth, condition.label)
        portrait(grid[1, column], recovered, truth, f"recovered, R2 {numbers[name]['r2']['seeds'][0]:.3f}")
        grid[1, column].set_xlabel("x")
    for axes in grid[:, 0]:
        axes.set_ylabel("y")
    top.suptitle("held-out positions of the first seed, true above; black: one sequence", fontsize=11)
    phase = ScalarMappable(Normalize(-np.pi, np.pi), "twilight")
    bar = top.colorbar(phase, ax=grid, shrink=0.7, label="true phase, rad", ticks=[-np.pi, 0, np.pi])
    bar.ax.set_yticklabels(["-\u03c0", "0", "\u03c0"])
    _draw_r2(bottom.subplots(), numbers)
    return figure


def _draw_r2(axes: Axes, numbers: dict[str, dict]) -> None:
    place = np.arange(len(CONDITIONS))
    for key, shift, colour, label in (
        ("r2", -0.26, "C0", "position, from latents"),
        ("r2_of_the_shown", 0.0, "C2", "what images show, from latents"),
        ("r2_of_the_latents", 0.26, "0.7", "latents, from what images show"),
    ):
        axes.barh(place + shift, [numbers[name][key]["mean"] for name in CONDITIONS], 0.24, color=colour, label=label)
        for at, name in enumerate(CONDITIONS):
            seeds = numbers[name][key]["seeds"]
            axes.plot(seeds, [at + shift] * len(seeds), "k.", label="a seed" if key == "r2" and not at else None)
    for key, mark, size, label in (
        ("most_r2", "k|", 14, "most that arithmetic leaves to the position"),
        ("r2_of_the_centre_of_light", "C1|", 8, "position, from the image's centre of light"),
    ):
        axes.plot([numbers[name][key]["mean"] for name in CONDITIONS], place - 0.26, mark, ms=size, mew=2, label=label)
    axes.set_yticks(place, [condition.label for condition in CONDITIONS.values()])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.01), xlabel="affine R2 on held-out sequences, mean over seeds")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small", markerscale=0.6)
