"""A wobbly oscillator in the plane, and swirled images of it (Mikulasch & Zenke 2026, figure 5).

In polar coordinates r' = a k cos(k (theta - theta0)), theta' = 1: the radius swings by the amplitude a at k times the
frequency of the phase. Constants are the paper's; images differ in three ways, which keep the map from position to
image smooth and one to one: the blob is evaluated at the swirled coordinates of each pixel rather than drawn and
interpolated, positions are not clipped to the picture, and the picture shows more of the plane.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ldmfilter.data.tables import Floats

FREQUENCY = 4.0  # k, swings of the radius in a turn
AMPLITUDE = 0.5  # a, of the radius
PHASE = -3 * np.pi / 8  # theta0
STEP = 0.3  # time between two images; a turn takes 2 pi
VARIANCE = 0.1  # of the noise that each step adds to each coordinate
JUMPS = 0.02  # share of the steps that jump, where the noise is rare and large
SWIRL = 10.0  # rad, how far the middle of the picture is turned
SWIRL_RADIUS = 20.0  # widths of the picture

#: Noise of a step (rng, shape), with VARIANCE in each coordinate, by name.
NOISES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Floats]] = {
    "gaussian": lambda rng, shape: np.sqrt(VARIANCE) * rng.standard_normal(shape),
    "bimodal": lambda rng, shape: np.sqrt(VARIANCE) * rng.choice([-1.0, 1.0], shape),
    "jumps": lambda rng, shape: _jumps(rng, shape),
}


def _jumps(rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
    """Nine tenths of the variance in rare jumps of the whole vector, the rest in every step: heavy tails."""
    jumps = rng.random((*shape[:-1], 1)) < JUMPS
    deviation = np.sqrt(VARIANCE * (0.1 + jumps * 0.9 / JUMPS))
    return deviation * rng.standard_normal(shape)


def velocity(position: Floats) -> Floats:
    """Time derivative of positions (..., 2)."""
    r, theta = np.hypot(position[..., 0], position[..., 1]), np.arctan2(position[..., 1], position[..., 0])
    outward = AMPLITUDE * FREQUENCY * np.cos(FREQUENCY * (theta - PHASE))
    return np.stack([outward * np.cos(theta) - r * np.sin(theta), outward * np.sin(theta) + r * np.cos(theta)], axis=-1)


def advance(position: Floats, step: float = STEP) -> Floats:
    """One step of the classical Runge-Kutta method of order 4, without noise."""
    a = velocity(position)
    b = velocity(position + step / 2 * a)
    c = velocity(position + step / 2 * b)
    d = velocity(position + step * c)
    return position + step / 6 * (a + 2 * b + 2 * c + d)


def trajectories(rng: np.random.Generator, number: int, steps: int, noise: str = "gaussian", lead: int = 0) -> Floats:
    """Positions (sequence, time, 2) that start on the unit circle and then take `lead` steps that are not handed out,
    each step with noise of a kind in `NOISES`."""
    angle = rng.uniform(-np.pi, np.pi, number)
    path = np.empty((number, lead + steps, 2))
    path[:, 0] = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    for t in range(1, lead + steps):
        path[:, t] = advance(path[:, t - 1]) + NOISES[noise](rng, (number, 2))
    return path[:, lead:]


@dataclass(frozen=True)
class Camera:
    """A map from positions to images.

    Attributes:
        pixels: of a side.
        view: half the side that the picture shows, in units of position.
        blob: standard deviation of the blob, in pixels.
        folded: positions left and right of the middle give the same image.
    """

    pixels: int = 12
    view: float = 5.0
    blob: float = 1.0
    folded: bool = False

    def images(self, position: Floats) -> np.ndarray:
        """Float32 images (..., row, column) of positions (..., 2), the first coordinate down the rows."""
        x, y = position.reshape(-1, 2).T
        across, middle = self.pixels / (2 * self.view), (self.pixels - 1) / 2
        row, column = middle + across * (np.abs(x) if self.folded else x), middle + across * y
        pixel_row, pixel_column = swirled(self.pixels)
        images = np.empty((len(x), self.pixels, self.pixels), np.float32)
        for part in np.array_split(np.arange(len(x)), len(x) // 2**14 + 1):  # doubles of all would be many
            distance = (row[part, None, None] - pixel_row) ** 2 + (column[part, None, None] - pixel_column) ** 2
            images[part] = np.exp(-distance / (2 * self.blob**2))
        return images.reshape(*position.shape[:-1], self.pixels, self.pixels)

    def centroid(self, images: np.ndarray) -> Floats:
        """Positions (..., 2) at the centre of the light of images (..., pixel): an estimate
        from the image alone."""
        shown = np.stack(swirled(self.pixels), axis=-1).reshape(-1, 2)
        weight = images / images.sum(-1, keepdims=True)
        return (weight @ shown - (self.pixels - 1) / 2) * (2 * self.view) / self.pixels


def swirled(pixels: int, strength: float = SWIRL, radius: float = SWIRL_RADIUS) -> tuple[Floats, Floats]:
    """Coordinates in the picture that each pixel of the swirled picture shows: rows and columns (row, column).

    A pixel at the distance rho from the middle is turned by strength exp(-rho / (radius ln 2 / 5)), the form of
    scikit-image's `swirl`; strength in rad, radius in widths of the picture.
    """
    middle = (pixels - 1) / 2
    row, column = np.mgrid[:pixels, :pixels] - middle
    rho = np.hypot(row, column)
    angle = np.arctan2(row, column) + strength * np.exp(-rho / (radius * pixels * np.log(2) / 5))
    return middle + rho * np.sin(angle), middle + rho * np.cos(angle)
