"""Simulated worlds that the defaults were not chosen on: an open field, and a ring of head-direction cells.

    python tests/benchmarks/simulated_worlds.py [--seeds 3] [--only NAME ...] [--json FILE]

Ten minutes of each. An animal walks in a square of one metre, its velocity an Ornstein-Uhlenbeck process (1 s), or
turns its head (0.4 s); independent Poisson units have one place, or one direction, that they prefer. In the disturbed
worlds the animal rests at times, and rates have what recordings have: 20 more units that know nothing of place, each
with a memory of its own (0.2 to 30 s), arousal that scales all (3 s), bursts (30 ms), a theta rhythm (8 Hz) and drift.

A filter is trained, with no option, on the first 80 % of the bins. Place or direction is read in the last 20 % from its
causal states and from a causal PCA of 16 dimensions: by 25 nearest neighbours, by a ridge and by three small networks
(median error, m or degrees; the ridge's R2). Each number of the PCA is the best of those of four widths of its averages
(0.1, 0.2, 0.5 and 1 s), chosen on the judged time, which favours it. A supervised Bayesian decoder has tuning curves of
the first 80 %, and the best of four windows.
"""

import argparse
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.signal import lfilter
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.neural_network import MLPRegressor
from sklearn.preprocessing import StandardScaler

import ldmfilter
from ldmfilter.analysis.baselines import causal_pca
from ldmfilter.analysis.judged import Bins
from ldmfilter.analysis.score import WIDTHS

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

STEP, DURATION, FIT = 0.01, 600, 0.8  # s; s; share of the time that is fitted
WINDOWS = (0.3, 0.5, 1.0, 1.5)  # s, of the Bayesian decoder

Floats = np.ndarray


@dataclass(frozen=True)
class World:
    """Spike counts (bin, unit) and where the animal was: place (bin, 2), m, or the cosine and sine of a direction."""

    counts: Floats
    place: Floats
    ring: bool
    bin_size: float

    @property
    def fit(self) -> Floats:
        return np.arange(len(self.counts)) < FIT * len(self.counts)

    def error(self, told: Floats) -> float:
        """Median error of what is told of the last bins, m or degrees."""
        true = self.place[~self.fit]
        if not self.ring:
            return float(np.median(np.linalg.norm(told - true, axis=1)))
        apart = np.arctan2(told[:, 1], told[:, 0]) - np.arctan2(true[:, 1], true[:, 0])
        return float(np.degrees(np.median(np.abs(np.angle(np.exp(1j * apart))))))


def world(n_units: int, bin_size: float, ring: bool = False, disturbed: bool = False) -> World:
    """Simulate one: everything about it is the same for each seed of a training."""
    rng = np.random.default_rng(5)
    moves = _walk(rng, 3.0, 1) > -0.3 if disturbed else 1.0
    if ring:
        angle = np.cumsum(1.5 * (moves * _walk(rng, 0.4, 1))[:, 0]) * STEP
        place = np.stack([np.cos(angle), np.sin(angle)], 1)
        preferred = rng.uniform(0, 2 * np.pi, n_units)
        sharpness, peak = rng.uniform(2, 6, n_units), rng.gamma(3, 4, n_units)
        rates = 0.3 + peak * np.exp(sharpness * (np.cos(angle[:, None] - preferred) - 1))
    else:
        path = 0.5 + np.cumsum(0.15 * moves * _walk(rng, 1.0, 2), 0) * STEP
        place = 1 - np.abs(path % 2 - 1)  # walls reflect
        preferred = rng.uniform(0, 1, (n_units, 2))
        width, peak = rng.uniform(0.1, 0.2, n_units), rng.gamma(2, 4, n_units)
        away = ((place[:, None] - preferred) ** 2).sum(2)
        rates = 0.2 + peak * np.exp(-away / 2 / width**2)
    if disturbed:
        rates = _disturbed(rng, rates)
    k = round(bin_size / STEP)
    counts = rng.poisson(rates * STEP).reshape(-1, k, rates.shape[1]).sum(1).astype(np.float32)
    return World(counts, place.reshape(-1, k, 2).mean(1), ring, bin_size)


def _disturbed(rng: np.random.Generator, rates: Floats) -> Floats:
    """The rates (step, unit) of these units and of 20 without place, with what scales them beside place."""
    memory = rng.choice([0.2, 1.0, 5.0, 30.0], 20)
    others = np.concatenate([rng.gamma(2, 2) * np.exp(0.6 * _walk(rng, one, 1)) for one in memory], 1)
    rates = np.concatenate([rates, others], 1)
    time, phase = np.arange(len(rates))[:, None] * STEP, rng.uniform(0, 2 * np.pi, rates.shape[1])
    arousal, bursts, drift = (_walk(rng, one, rates.shape[1] if one != 3.0 else 1) for one in (3.0, 0.03, 200.0))
    theta = 1 + 0.6 * np.cos(2 * np.pi * 8 * time + phase)
    return rates * theta * np.exp(0.4 * arousal + 0.8 * bursts + 0.3 * drift - (0.4**2 + 0.8**2 + 0.3**2) / 2)


def _walk(rng: np.random.Generator, memory: float, axes: int) -> Floats:
    """Ornstein-Uhlenbeck processes (step, axis) of variance one, with a memory in s."""
    decay = math.exp(-STEP / memory)
    noise = rng.standard_normal((round(DURATION / STEP), axes))
    return lfilter([math.sqrt(1 - decay**2)], [1, -decay], noise, axis=0)


def read(states: Floats, of: World) -> list[float]:
    """Error by neighbours and by networks, and the ridge's R2, of states (bin, state)."""
    x = StandardScaler().fit(states[of.fit]).transform(states)
    fit, new, mean, scale = x[of.fit], x[~of.fit], of.place[of.fit].mean(0), of.place[of.fit].std(0)

    def told(reader: KNeighborsRegressor | MLPRegressor | Ridge) -> Floats:
        return reader.fit(fit, (of.place[of.fit] - mean) / scale).predict(new) * scale + mean

    networks = [
        MLPRegressor(hidden_layer_sizes=(64, 64), early_stopping=True, alpha=0.01, max_iter=300, random_state=seed)
        for seed in range(3)
    ]
    by_networks = np.mean([told(one) for one in networks], axis=0)
    r2 = float(r2_score(of.place[~of.fit], told(Ridge()), multioutput="variance_weighted"))
    return [of.error(told(KNeighborsRegressor(25))), of.error(by_networks), r2]


def bayesian(of: World, cells: int = 16) -> float:
    """Error of the most probable cell of a grid, given the counts of the last bins."""
    low, high = of.place.min(0), of.place.max(0) + 1e-9
    edges = [np.linspace(*ends, cells + 1) for ends in zip(low, high, strict=True)]

    def smooth(weights: Floats | None) -> Floats:
        return gaussian_filter(np.histogramdd(of.place[of.fit], edges, weights=weights)[0], 1.0).ravel()

    time = smooth(None)
    rates = np.stack([smooth(one) for one in of.counts[of.fit].T], 1) / (time[:, None] + 1e-9) + 1e-3
    centres = np.stack(np.meshgrid(*[(e[1:] + e[:-1]) / 2 for e in edges], indexing="ij"), -1).reshape(-1, 2)
    errors = []
    for window in WINDOWS:
        k = max(1, round(window / of.bin_size))
        x = lfilter(np.ones(k), [1], of.counts, axis=0)[~of.fit]
        likelihood = x @ np.log(rates).T - k * rates.sum(1)
        errors.append(of.error(centres[np.where(time > 0.1, likelihood, -np.inf).argmax(1)]))
    return min(errors)


WORLDS: dict[str, Callable[[], World]] = {
    "open field, 40 units": lambda: world(40, 0.1),
    "open field, 100 units": lambda: world(100, 0.1),
    "open field, 200 units, 0.05 s": lambda: world(200, 0.05),
    "open field, 200 units, 0.01 s": lambda: world(200, 0.01),
    "ring, 30 units": lambda: world(30, 0.1, ring=True),
    "open field, disturbed, 80 and 20 units": lambda: world(80, 0.1, disturbed=True),
    "ring, disturbed, 30 and 20 units": lambda: world(30, 0.1, ring=True, disturbed=True),
    "ring, disturbed, 30 and 20 units, 0.02 s": lambda: world(30, 0.02, ring=True, disturbed=True),
}


def rows_of(name: str, seeds: int) -> list[list[object]]:
    """A row for each seed's states, then the causal PCA's and the decoder's."""
    of, rows = WORLDS[name](), []
    for seed in range(seeds):
        model = ldmfilter.LDMFilter(seed=seed).fit(ldmfilter.bin_spikes(of.counts[of.fit], of.bin_size))
        states = model.decode(ldmfilter.bin_spikes(of.counts, of.bin_size))["filtered_mean"].to_numpy()
        rows.append([name, f"states, seed {seed}", states.shape[1], *read(states, of)])
        print(*rows[-1], file=sys.stderr)
    time = np.arange(len(of.counts))
    bins = Bins(of.counts, time * of.bin_size, of.bin_size, time == 0, time >= 0, of.fit, ~of.fit, True)
    peers = [causal_pca(bins, width) for width in WIDTHS]
    neighbours, networks, r2 = zip(*(read(one, of) for one in peers), strict=True)
    best = [name, "causal PCA", peers[0].shape[1], min(neighbours), min(networks), max(r2)]
    return [*rows, best, [name, "Bayesian decoder", None, bayesian(of)]]


def main() -> None:
    """Train and read every world; print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--only", nargs="*", default=list(WORLDS), choices=list(WORLDS))
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    columns = ["world", "from", "number", "error by neighbours", "by networks", "linear R2"]
    rows = [row + [None] * (len(columns) - len(row)) for name in given.only for row in rows_of(name, given.seeds)]
    present("Worlds that the defaults were not chosen on", columns, rows, given.json)


if __name__ == "__main__":
    main()
