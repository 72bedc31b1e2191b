"""Theorem 1 of Mikulasch & Zenke (2026), its assumptions broken one at a time.

With a Gaussian predictor, as many latents and an image that is smooth and one to one, the latents are recovered up
to an affine map. The scene is that of figure 5. Broken are: the noise, the number of latents, the image. A second noise
breaks the letter of the theorem and loses nothing: where the noise is small against the curvature of the encoder,
the objective knows no more of it than its covariance, whatever its shape: to first order it is, but for a constant,
<log abs det J> - 1/2 log det <J Sigma J'>, with J the encoder's derivative by the latents, and as log det is concave,
it is largest where J Sigma J' is the same everywhere, so that the encoder is affine. Heavy tails are not small.

Beside each stands what the images tell of the position by their centre of light: whether it was there to be recovered.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldmfilter.data.tables import Floats
from ldmfilter.errors import InputError
from ldmfilter.paper.experiment import Claim, Outcome, Say
from ldmfilter.paper.fig5 import LATENT, Recording, Scene, portrait
from ldmfilter.paper.recurrent import Training, train
from ldmfilter.paper.wobbly import Camera

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SOURCE = "Mikulasch & Zenke 2026, Theorem 1"


@dataclass(frozen=True)
class Condition:
    """What is different from the theorem's assumptions."""

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
BROKEN = ("jumps", "latent", "folded")


@dataclass(frozen=True)
class Settings:
    """The scene of every condition, how it is trained on, with which entropy, and how often with another seed."""

    scene: Scene
    training: Training
    entropy: str
    seeds: int


SIZES = {
    "tiny": Settings(Scene(500, 150, 8, 10, Camera()), Training(steps=120, batch=48, learning_rate=1e-2), "logdet", 1),
    "small": Settings(Scene(4000, 500, 12, 10, Camera()), Training(steps=800, batch=64, learning_rate=1e-2), "knn", 3),
    "paper": Settings(
        Scene(20_000, 1000, 30, 10, Camera(pixels=16, view=7.0)),
        Training(steps=10_000, batch=256, samples=8, hidden=200, memory=64),
        "knn",
        8,
    ),
}


def run(settings: Settings, seed: int, data: Path | None, say: Say) -> Outcome:
    """Every condition with several seeds.

    Raises:
        InputError: data, of which none are used.
    """
    if data is not None:
        raise InputError(f"{data}: theorem1 simulates what it shows and reads no data; leave --data out")
    r2: dict[str, list[float]] = {name: [] for name in CONDITIONS}
    told: dict[str, list[float]] = {name: [] for name in CONDITIONS}
    first: dict[str, tuple[Floats, Floats]] = {}
    for name, condition in CONDITIONS.items():
        camera = dataclasses.replace(settings.scene.camera, folded=condition.folded)
        for each in range(seed, seed + settings.seeds):
            recording = Recording(dataclasses.replace(settings.scene, camera=camera), each, condition.noise)
            seen = recording.images[: recording.held_out]
            network, _ = train(seen, condition.latent, settings.entropy, settings.training, each)
            z = recording.latents(network)
            r2[name].append(recording.r2(z))
            told[name].append(recording.r2(camera.centroid(recording.images.double().cpu().numpy())))
            first.setdefault(name, (recording.position[recording.held_out :], recording.aligned(z)))
            say(f"theorem1: {condition.label}, seed {each}, R2 {r2[name][-1]:.3f}")
    numbers = {
        name: {
            "condition": condition.label,
            "r2": float(np.mean(r2[name])),
            "r2_of_seeds": r2[name],
            "r2_of_the_centre_of_light": float(np.mean(told[name])),
        }
        for name, condition in CONDITIONS.items()
    }
    return Outcome(numbers, claims(r2), draw(numbers, first))


def claims(r2: dict[str, list[float]]) -> list[Claim]:
    """What the theorem says, measured, in the worst seed."""
    worst = min(r2["intact"])
    return [
        Claim("assumptions hold: position recovered up to an affine map, least R2", worst, least=0.97, source=SOURCE),
        *(
            Claim(
                f"{CONDITIONS[name].label}: recovery is lost, least R2 without less largest R2 with it",
                worst - max(r2[name]),
                least=0.1,
                source=SOURCE,
            )
            for name in BROKEN
        ),
        Claim(
            "two-valued noise, small against the curvature: recovery is not lost, least R2",
            min(r2["bimodal"]),
            least=0.95,
            source="own reasoning, in the module",
        ),
    ]


def draw(numbers: dict[str, dict], first: dict[str, tuple[Floats, Floats]]) -> Figure:
    """Portraits, true and recovered, of every condition; R2 of all seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 8), layout="constrained")
    top, bottom = figure.subfigures(2, 1, squeeze=False, height_ratios=[2, 1])[:, 0]
    grid = top.subplots(2, len(CONDITIONS))
    for column, (name, condition) in enumerate(CONDITIONS.items()):
        truth, recovered = first[name]
        portrait(grid[0, column], truth, truth, condition.label)
        portrait(grid[1, column], recovered, truth, f"recovered, R2 {numbers[name]['r2']:.3f}")
    axes = bottom.subplots()
    labels = [condition.label for condition in CONDITIONS.values()]
    axes.barh(labels, [numbers[name]["r2"] for name in CONDITIONS], color="C0", label="recovered, mean over seeds")
    for place, name in enumerate(CONDITIONS):
        seeds = numbers[name]["r2_of_seeds"]
        axes.plot(seeds, [place] * len(seeds), "k.", label="a seed" if not place else None)
        axes.plot(
            numbers[name]["r2_of_the_centre_of_light"],
            place,
            "C1|",
            ms=22,
            mew=2,
            label="centre of light of the image" if not place else None,
        )
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.01), xlabel="affine R2 of the position, held-out sequences")
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    return figure
