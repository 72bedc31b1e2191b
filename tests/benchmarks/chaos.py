"""Chaotic systems seen through spiking neurons, after Sedler, Versteeg & Pandarinath 2023: states and rates.

    python tests/benchmarks/chaos.py [--systems lorenz arneodo roessler] [--dims 3 8] [--seeds 1] [--json FILE]

2,000 trials of 70 bins of each system. 10 neurons read the standardised system with weights uniform in -0.5 to 0.5;
their standardised activity is the logarithm of their rate, and spikes are Poisson. 64 % of the trials train, 16 % hold
out, 20 % are judged. R2 of states is of a linear map, fitted on training trials: from the true ones to the inferred
(recon), and back (true). R2 of rates is of spikes' rates by a linear map of the states to their logarithm. Beside them
moving averages of the roots of counts (the best of several widths) with a PCA: causal, and centred. States of more than
three dimensions are judged once more by the three principal components of those logarithms of rates.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.integrate import solve_ivp
from scipy.ndimage import uniform_filter1d
from sklearn.decomposition import PCA
from sklearn.linear_model import LinearRegression, PoissonRegressor
from sklearn.metrics import r2_score

import ldmfilter

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

TRIALS, BINS, NEURONS = 2000, 70, 10
BIN = 0.05  # s; the systems have no unit of time
TRAIN, TEST = 0.8, 0.2  # of which training holds out a fifth
WIDTHS = (5, 10, 15, 20, 30)  # bins


def lorenz(_: float, s: np.ndarray) -> list[float]:
    """Derivatives by time."""
    x, y, z = s
    return [10 * (y - x), x * (28 - z) - y, x * y - 8 / 3 * z]


def arneodo(_: float, s: np.ndarray) -> list[float]:
    """Derivatives by time."""
    x, y, z = s
    return [y, z, 5.5 * x - 4.5 * y - z - x**3]


def roessler(_: float, s: np.ndarray) -> list[float]:
    """Derivatives by time."""
    x, y, z = s
    return [-y - z, x + 0.2 * y, 0.2 + z * (x - 5.7)]


#: Derivatives, start, period (of the strongest frequency), bins in a period.
SYSTEMS = {
    "lorenz": (lorenz, (1.0, 1.0, 25.0), 1.5, 100),
    "arneodo": (arneodo, (0.5, 0.2, 0.1), 3.0, 35),
    "roessler": (roessler, (1.0, 1.0, 0.1), 5.9, 35),
}


def trajectories(name: str) -> np.ndarray:
    """Standardised states (trial, bin, 3) of pieces of one long solution."""
    derivatives, start, period, per_period = SYSTEMS[name]
    times = np.arange((TRIALS + 20) * BINS) * period / per_period
    found = solve_ivp(derivatives, (0, times[-1]), start, t_eval=times, rtol=1e-8, atol=1e-8).y.T
    states = found[20 * BINS :].reshape(TRIALS, BINS, 3)
    states = states[np.random.default_rng(0).permutation(TRIALS)]
    return (states - states.mean((0, 1))) / states.std((0, 1))


def as_counts(spikes: np.ndarray) -> xr.DataArray:
    """Spikes (trial, bin, neuron) as counts with a segment a trial, a second apart."""
    trial = np.repeat(np.arange(len(spikes)), BINS)
    time = trial * (BINS * BIN + 1) + (np.tile(np.arange(BINS), len(spikes)) + 0.5) * BIN
    coords = {"time": time, "unit": np.arange(NEURONS), "segment": ("time", trial.astype(np.int32))}
    return xr.DataArray(spikes.reshape(-1, NEURONS), coords, ("time", "unit"), attrs={"bin_size": BIN})


def judged(inferred: np.ndarray, truth: np.ndarray, spikes: np.ndarray, rates: np.ndarray) -> list[float]:
    """R2 of states from the true to the inferred, and back, and of rates, all (trial, bin, ...)."""
    split = round(TRAIN * TRIALS)
    fit, test = (np.s_[:split], np.s_[split:])

    def flat(values: np.ndarray, some: slice) -> np.ndarray:
        return values[some].reshape(-1, values.shape[-1])

    def r2(of: np.ndarray, by: np.ndarray) -> float:
        read = LinearRegression().fit(flat(by, fit), flat(of, fit)).predict(flat(by, test))
        return float(r2_score(flat(of, test), read))

    read = np.exp(log_rates(inferred, spikes))
    return [r2(inferred, truth), r2(truth, inferred), float(r2_score(flat(rates, test), flat(read, test)))]


def log_rates(inferred: np.ndarray, spikes: np.ndarray) -> np.ndarray:
    """Logarithms of rates (trial, bin, neuron), linear in the states (trial, bin, state)."""
    split = round(TRAIN * TRIALS)
    states = inferred / inferred[:split].std((0, 1))
    x, y = states[:split].reshape(-1, states.shape[-1]), spikes[:split].reshape(-1, NEURONS)
    read = [PoissonRegressor(alpha=1e-6, max_iter=300).fit(x, one) for one in y.T]
    return np.stack([states @ one.coef_ + one.intercept_ for one in read], -1)


def components(values: np.ndarray, dims: int) -> np.ndarray:
    """Principal components (trial, bin, dims) of values (trial, bin, ...), fitted on training trials."""
    width = values.shape[-1]
    pca = PCA(dims).fit(values[: round(TRAIN * TRIALS)].reshape(-1, width))
    return pca.transform(values.reshape(-1, width)).reshape(TRIALS, BINS, dims)


def moving_averages(spikes: np.ndarray, dims: int, centred: bool) -> list[np.ndarray]:
    """States (trial, bin, state) of each width."""
    found = []
    for width in WIDTHS:
        if centred:
            smooth = uniform_filter1d(np.sqrt(spikes), width, 1, mode="nearest")
        else:
            total = np.cumsum(np.sqrt(spikes), 1)
            before = np.concatenate([np.zeros_like(total[:, :width]), total[:, :-width]], 1)
            smooth = (total - before) / np.minimum(np.arange(BINS) + 1, width)[None, :, None]
        found.append(components(smooth, min(dims, NEURONS)))
    return found


def main() -> None:
    """Simulate, train and judge; print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--systems", nargs="*", default=list(SYSTEMS), choices=SYSTEMS)
    arguments.add_argument("--dims", nargs="*", type=int, default=[3, 8])
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    rows = []

    def add(*row: object) -> None:
        rows.append(row)
        print(*row, file=sys.stderr)

    for name in given.systems:
        truth = trajectories(name)
        rng = np.random.default_rng(1)
        activity = truth @ rng.uniform(-0.5, 0.5, (3, NEURONS))
        rates = np.exp((activity - activity.mean((0, 1))) / activity.std((0, 1)))
        spikes = rng.poisson(rates)
        counts = as_counts(spikes)
        train = counts[: round(TRAIN * TRIALS) * BINS]
        for dims in given.dims:
            for label, centred in (("causal", False), ("centred", True)):
                each = [judged(one, truth, spikes, rates) for one in moving_averages(spikes, dims, centred)]
                add(name, dims, f"moving average and PCA, {label}", "", *max(each, key=lambda one: one[1]))
            for seed in range(given.seeds):
                model = ldmfilter.LDMFilter(latent_dim=dims, state_dim=dims, held_out=TEST, seed=seed).fit(train)
                latents = model.decode(counts, smooth=True)
                for label, variable in (("causal", "filtered_mean"), ("smoothed", "smoothed_mean")):
                    states, ours = latents[variable].to_numpy().reshape(TRIALS, BINS, -1), f"ldmfilter, {label}"
                    add(name, dims, f"{ours}, {model.kept_.label}", seed, *judged(states, truth, spikes, rates))
                    if dims > 3:
                        few = components(log_rates(states, spikes), 3)
                        add(name, dims, f"{ours}, 3 components", seed, *judged(few, truth, spikes, rates))
    columns = ["system", "dimensions", "states", "seed", "R2 true to inferred", "R2 inferred to true", "R2 of rates"]
    present("Chaotic systems through spiking neurons", columns, rows, given.json)


if __name__ == "__main__":
    main()
