"""Figure 2B: two natural images, mixed by [[1, .7], [.7, 1]], unmixed by matching a generalised Gaussian, beta = 4.

The images are the two that scikit-learn ships, in grey. How far two images are independent depends on which part of
them is taken, and no unmixing is better than that: the numbers hold the Amari distance of other crops too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ldmfilter.ica import LDMICA, amari_distance
from ldmfilter.paper.experiment import Claim, Outcome, Say, refuse_data

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIXING = np.array([[1.0, 0.7], [0.7, 1.0]])
#: Weights of red, green and blue in luma (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Settings:
    """Attributes:
    side: of the square crop at the upper left, pixels.
    step: every step-th pixel in both directions is taken.
    others: crops of the same side, so many in each direction over the images, whose Amari distance is told too.
    shape: beta.
    """

    side: int = 400
    step: int = 1
    others: int = 3
    shape: float = 4.0


#: As published it is no larger: two images.
SIZES = {"tiny": Settings(step=4, others=1), "small": Settings(), "paper": Settings(others=7)}


def run(settings: Settings, seed: int, data: Path | None, say: Say) -> Outcome:
    """Mix, unmix, compare; `seed` turns the start of the search."""
    refuse_data("fig2b", data)
    images = _images()[:, :: settings.step, :: settings.step]
    side = settings.side // settings.step
    shape = (side, side)
    sources = _sources(images[:, :side, :side])
    mixed = sources @ MIXING.T
    ica = LDMICA(shape=settings.shape, random_state=seed).fit(mixed)
    found = ica.transform(mixed)
    fit = np.corrcoef(sources.T, found.T)[:2, 2:]  # (source, found)
    order = np.abs(fit).argmax(1)
    found = found[:, order] * np.sign(fit[[0, 1], order])
    say(f"unmixed in {ica.n_iter_} iterations")
    rows, columns = (np.linspace(0, n - side, settings.others).astype(int) for n in images.shape[1:])
    others = [_distance(images[:, y : y + side, x : x + side], settings.shape, seed) for y in rows for x in columns]
    distance = amari_distance(ica.components_, MIXING)
    numbers = {
        "amari_distance": distance,
        "amari_distance_of_mixtures": amari_distance(np.eye(2), MIXING),
        "amari_distance_of_whole_images": _distance(images, settings.shape, seed),
        "amari_distance_of_other_crops": others,
        "correlation_of_sources": np.corrcoef(sources.T)[0, 1],
        "correlation_with_sources": np.abs(fit[[0, 1], order]),
        "unmixing_times_mixing": ica.components_[order] @ MIXING,
        "log_likelihood": ica.log_likelihood_,
        "iterations": ica.n_iter_,
        "converged": ica.converged_,
        "pixels": len(sources),
    }
    claims = [Claim("The images are recovered: Amari distance", distance, most=0.02, source="figure 2B")]
    return Outcome(numbers, claims, _draw(sources, mixed, found, shape))


def _images() -> np.ndarray:
    """(image, row, column) in grey."""
    from sklearn.datasets import load_sample_image

    return np.stack([load_sample_image(name) @ np.array(LUMA) for name in ("china.jpg", "flower.jpg")])


def _sources(crop: np.ndarray) -> np.ndarray:
    """(pixel, image), each image with mean 0 and variance 1."""
    flat = crop.reshape(len(crop), -1).T
    return (flat - flat.mean(0)) / flat.std(0)


def _distance(crop: np.ndarray, shape: float, seed: int) -> float:
    ica = LDMICA(shape=shape, random_state=seed).fit(_sources(crop) @ MIXING.T)
    return amari_distance(ica.components_, MIXING)


def _draw(sources: np.ndarray, mixed: np.ndarray, found: np.ndarray, shape: tuple[int, int]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.5, 7.6), layout="constrained")
    grid = figure.subplots(3, 3)
    for axes, name, both in zip(grid, ("sources", "mixtures", "recovered"), (sources, mixed, found), strict=True):
        for number in (0, 1):
            axes[number].imshow(both[:, number].reshape(shape), cmap="gray")
            axes[number].set_xticks([])
            axes[number].set_yticks([])
        axes[0].set_ylabel(name, fontsize=12)
        scaled = both / both.std(0)
        axes[2].hist2d(*scaled.T, bins=80, range=[[-3, 3]] * 2, cmap="magma_r", norm="log")
        axes[2].set_aspect("equal")
        axes[2].set_xlabel("left, sd")
        axes[2].set_ylabel("right, sd")
        axes[2].spines[["top", "right"]].set_visible(False)
    grid[0, 2].set_title("pixels, log density", fontsize=10)
    return figure
