"""Figure 2C: two Ornstein-Uhlenbeck processes, rotated by 45 degrees, unmixed by a rotation that matches Gaussians of
their known variances sigma^2 / 2 theta.

The Gaussians can be separated because their variances differ: log N(z; 0, s^2) has 2 s^2 below z^2, and a rotation
keeps the volume, so that log|det W| is zero. The temporal correlations of the processes are not used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from ldmfilter.analysis.plots import COLOURS
from ldmfilter.ica import LDMICA, amari_distance
from ldmfilter.paper.experiment import Claim, Outcome, Say, bare

ANGLE = math.pi / 4
ROTATION = np.array([[math.cos(ANGLE), -math.sin(ANGLE)], [math.sin(ANGLE), math.cos(ANGLE)]])


@dataclass(frozen=True)
class Settings:
    """Attributes:
    steps: of both processes.
    theta: rates of return, 1/s.
    sigma: of the noise, 1/sqrt(s).
    dt: s.
    """

    steps: int
    theta: tuple[float, float] = (2.0, 0.2)
    sigma: float = 0.3
    dt: float = 0.1


# The angle's standard error is 0.35 / sqrt(steps dt (theta_1 + theta_2) / 2): 0.0075, 0.0024 and 0.0011.
SIZES = {"tiny": Settings(20_000), "small": Settings(200_000), "paper": Settings(1_000_000)}


def run(settings: Settings, seed: int, say: Say) -> Outcome:
    """Draw, rotate, unmix, compare."""
    sources = ornstein_uhlenbeck(settings, np.random.default_rng(seed))
    mixed = sources @ ROTATION.T
    variances = _variances(settings)
    ica = LDMICA(density="gaussian_known_variance", variances=variances).fit(mixed)
    W = ica.components_
    found = ica.transform(mixed) * np.sign(np.diag(W @ ROTATION))
    say("unmixed in closed form")
    distance = amari_distance(W, ROTATION)
    numbers = {
        "amari_distance": distance,
        "amari_distance_of_mixtures": amari_distance(np.eye(2), ROTATION),
        "unmixing_times_mixing": W @ ROTATION,
        "variances": variances,
        "variances_of_sources": sources.var(0),
        "variances_recovered": found.var(0),
        "correlation_of_sources": np.corrcoef(sources.T)[0, 1],
        "log_likelihood": ica.log_likelihood_,
    }
    claims = [Claim("The processes are recovered: Amari distance", distance, most=0.02, source="figure 2C")]
    return Outcome(numbers, claims, draw(sources, mixed, found, settings.dt, distance))


def _variances(settings: Settings) -> np.ndarray:
    """Stationary, sigma^2 / 2 theta."""
    return settings.sigma**2 / (2 * np.array(settings.theta))


def ornstein_uhlenbeck(settings: Settings, rng: np.random.Generator) -> np.ndarray:
    """(step, process) of dx = -theta x dt + sigma dW, stationary, by its exact transition

    x(t + dt) = exp(-theta dt) x(t) + N(0, sigma^2 / 2 theta (1 - exp(-2 theta dt)))
    """
    keep = np.exp(-np.array(settings.theta) * settings.dt)
    return autoregression(rng, settings.steps, keep) * np.sqrt(_variances(settings))


def autoregression(rng: np.random.Generator, steps: int, keep: np.ndarray) -> np.ndarray:
    """(step, dim) of x_t = keep x_{t-1} + sqrt(1 - keep^2) N(0, 1), independent and of unit variance from the start."""
    from scipy.signal import lfilter

    noise = rng.standard_normal((steps, len(keep)))
    noise[1:] *= np.sqrt(1 - keep**2)
    return np.stack([lfilter([1.0], [1.0, -keep[i]], noise[:, i]) for i in range(len(keep))], axis=1)


def draw(sources: np.ndarray, mixed: np.ndarray, found: np.ndarray, dt: float, distance: float) -> Figure:
    """Time courses of sources, mixtures and recovered processes, and their joint density."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    grid = figure.subplots(3, 2, width_ratios=(3, 1))
    shown = slice(0, round(60 / dt))
    time = np.arange(len(sources))[shown] * dt
    thin = slice(None, None, max(1, len(sources) // 4000))
    limit = 3.5 * float(mixed.std(0).max())
    for row, (name, both) in enumerate((("sources", sources), ("mixtures", mixed), ("recovered", found))):
        left, right = grid[row]
        for number, label in enumerate(("first", "second")):
            left.plot(time, both[shown, number], color=COLOURS[number], linewidth=1.0, label=label)
        left.set_ylabel(name)
        right.plot(*both[thin].T, ".", color=COLOURS[2], markersize=2, alpha=0.4, markeredgewidth=0)
        right.set(aspect="equal", xlim=(-limit, limit), ylim=(-limit, limit), ylabel="second")
        bare(left, right)
    figure.suptitle(f"two Ornstein-Uhlenbeck processes, turned and turned back: Amari distance {distance:.4f}")
    grid[0, 0].legend(fontsize="small", ncols=2, frameon=False, loc="lower right", bbox_to_anchor=(1, 0.98))
    grid[0, 0].set_title("the first minute", fontsize=10, loc="left")
    grid[2, 0].set_xlabel("time, s")
    grid[2, 1].set_xlabel("first")
    return figure
