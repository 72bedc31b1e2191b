"""Linear ICA: LDMICA beside scikit-learn's FastICA and python-picard, in one run.

    python tests/benchmarks/ica_speed.py [--samples 10000] [--repeats 3] [--json FILE]

Ten random mixtures of eight sources: "mixed" draws the kind of each source among light and heavy tails and skewed ones,
"laplace" takes eight Laplace sources. Each method as it comes (tolerances mean different things: picard is shown at its
own 1e-7 and at FastICA's 1e-4), from the same random seed, on one thread. Time is CPU time of the process, so that
other programs on the machine count for little; medians of repeats.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from picard import picard
from sklearn.decomposition import FastICA
from threadpoolctl import threadpool_limits

from ldmfilter.ica import LDMICA, amari_distance

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

Draw = Callable[[np.random.Generator, int], np.ndarray]
KINDS: dict[str, Draw] = {
    "laplace": lambda rng, n: rng.laplace(size=n),
    "uniform": lambda rng, n: rng.uniform(-1, 1, n),
    "logistic": lambda rng, n: rng.logistic(size=n),
    "student 5": lambda rng, n: rng.standard_t(5, n),
    "sine": lambda rng, n: np.sin(rng.uniform(0, 2 * np.pi, n)),
    "exponential": lambda rng, n: rng.exponential(size=n),
    "gamma 2": lambda rng, n: rng.gamma(2.0, size=n),
    "beta 2": lambda rng, n: rng.beta(2.0, 2.0, n),
}
SOURCES = 8
#: Seeds of the ten mixtures. None of them was looked at while the method was written.
MIXTURES = range(100, 110)


def by_ldmica(X: np.ndarray, seed: int) -> np.ndarray:
    """W."""
    return LDMICA(random_state=seed).fit(X).components_


def by_fastica(X: np.ndarray, seed: int) -> np.ndarray:
    """W."""
    return FastICA(whiten="unit-variance", random_state=seed).fit(X).components_


def by_picard(X: np.ndarray, seed: int, tol: float = 1e-7) -> np.ndarray:
    """W."""
    K, W, _ = picard(X.T, random_state=seed, tol=tol)
    return W @ K


WAYS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "LDMICA": by_ldmica,
    "FastICA": by_fastica,
    "picard": by_picard,
    "picard 1e-4": lambda X, seed: by_picard(X, seed, 1e-4),
}


def measure(kind: str, seed: int, n_samples: int, repeats: int) -> list:
    """A row of the table."""
    rng = np.random.default_rng(seed)
    names = rng.choice(list(KINDS), SOURCES) if kind == "mixed" else [kind] * SOURCES
    sources = np.stack([KINDS[name](rng, n_samples) for name in names])
    sources = sources / sources.std(1, keepdims=True)
    mixing = rng.standard_normal((SOURCES, SOURCES))
    X = (mixing @ sources).T
    distance: dict[str, float] = {}
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    for _ in range(repeats):
        for name, way in WAYS.items():
            start = time.process_time()
            W = way(X, seed)
            seconds[name].append(time.process_time() - start)
            distance[name] = amari_distance(W, mixing)
    return [kind, seed, *distance.values(), *(median(times) * 1e3 for times in seconds.values())]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)
    warnings.simplefilter("ignore")  # FastICA and picard tell that they have not converged; the distance tells more
    columns = ["sources", "mixture", *(f"{name}, Amari" for name in WAYS), *(f"{name}, CPU ms" for name in WAYS)]
    measure("mixed", 0, 1_000, 1)
    rows: list[list] = []
    for kind in ("mixed", "laplace"):
        own = [measure(kind, seed, options.samples, options.repeats) for seed in MIXTURES]
        rows += [*own, [kind, "median", *(median(row[i] for row in own) for i in range(2, len(columns)))]]
    present(f"ICA of {SOURCES} sources, {options.samples} samples, one thread", columns, rows, options.json)


if __name__ == "__main__":
    main()
