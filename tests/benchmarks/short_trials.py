"""Trials: the condition read from the state at a trial's end, and spikes ahead, beside a causal PCA.

    python tests/benchmarks/short_trials.py [--seeds 3] [--only NAME ...] [--data FOLDER] [--json FILE]

Simulated: 400 trials of 0.3 s, or 200 of 1 s, with one of eight conditions each. A two-dimensional state leaves the
origin towards the condition's direction, with a speed of the trial's own and noise; the log rates of 40 Poisson units
are linear in it (mean 12 Hz). Images: 300 trials of 0.5 to 2 s, each of one of ten images, to which each of 60 units
answers with a rate of its own (gamma, shape 0.5, mean 2 Hz), at first for 0.1 s and then with a share of it; the
next image is unknown, so that little can be predicted. Gratings: 200 trials of 2 s, each of one of eight directions, to
which 60 units are tuned, stronger in the first 0.15 s; a gain that all share varies within a second. Real: pmd_reach7
where the folder has it.

A filter is trained with no option on all trials, as the condition is not shown to it. Each cell is the share of trials
whose condition a linear discriminant reads (10 folds) from the mean of the last quarter of a trial's states. The causal
PCA has 16 dimensions and averages of 0.5 s; "best width" is the highest share of four widths (0.1, 0.2, 0.5 and 1 s),
chosen on the same trials, which favours it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, cross_val_score

import ldmfilter
from ldmfilter.analysis.baselines import SMOOTHING, causal_pca
from ldmfilter.analysis.judged import bins_of
from ldmfilter.analysis.score import WIDTHS

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

UNITS, CONDITIONS, STEP = 40, 8, 0.01  # s
BINS = (0.1, 0.05, 0.02, 0.01)  # s
SIMULATED = {"400 trials of 0.3 s": (400, 0.3), "200 trials of 1 s": (200, 1.0)}
IMAGES, GRATINGS, REAL = "300 images of 0.5 to 2 s", "200 gratings of 2 s", "pmd_reach7"
NAMES = [*SIMULATED, IMAGES, GRATINGS, REAL]


def simulate(n: int, length: float) -> ldmfilter.Session:
    """A session of trials a second apart, with their conditions."""
    rng = np.random.default_rng(3)
    steps, start = round(length / STEP), np.arange(n) * (length + 1)
    condition = rng.integers(0, CONDITIONS, n)
    toward = np.exp(2j * np.pi * condition / CONDITIONS) * rng.uniform(0.7, 1.3, n)
    noise = np.cumsum(rng.normal(size=(n, steps, 2)), 1) @ [1, 1j] * 0.3 * np.sqrt(STEP)
    state = toward[:, None] * (1 - np.exp(-(np.arange(steps) + 1) * STEP / (length / 3))) + noise
    prefer = np.exp(2j * np.pi * rng.uniform(size=UNITS)) * rng.uniform(0.3, 1.0, UNITS)
    rates = 10 * np.exp((state[..., None] * prefer.conj()).real)
    return session_of(rng, rates, start, np.full(n, length), condition)


def images(n: int = 300, units: int = 60, different: int = 10) -> ldmfilter.Session:
    """A session of images that come in no order, for times of their own."""
    rng = np.random.default_rng(3)
    steps = rng.integers(round(0.5 / STEP), round(2 / STEP) + 1, n)
    start, condition = np.cumsum(np.append(0, steps[:-1] * STEP + 1)), rng.integers(0, different, n)
    answer, rest = rng.gamma(0.5, 4, (different, units)), rng.uniform(0.5, 6, units)
    lasting, latency = rng.uniform(0.15, 0.6, units), rng.uniform(0.03, 0.08, units)
    since = ((np.arange(steps.max()) + 0.5) * STEP)[:, None] - latency
    course = np.where(since > 0, lasting + (1 - lasting) * np.exp(-since / 0.1), 0)
    rates = rest + answer[condition][:, None] * course * np.exp(0.15 * rng.normal(size=(n, 1, 1)))
    rates[np.arange(steps.max()) >= steps[:, None]] = 0
    return session_of(rng, rates, start, steps * STEP, condition)


def gratings(n: int = 200, units: int = 60, directions: int = 8, length: float = 2.0) -> ldmfilter.Session:
    """A session of gratings that drift in one direction each."""
    rng = np.random.default_rng(3)
    steps, start = round(length / STEP), np.arange(n) * (length + 1)
    condition = rng.integers(0, directions, n)
    apart = condition[:, None] * 2 * np.pi / directions - rng.uniform(0, 2 * np.pi, units)
    tuned = np.exp(rng.uniform(1, 4, units) * (np.cos(apart) - 1))
    most, rest, lasting = rng.gamma(0.7, 8, units), rng.uniform(0.5, 6, units), rng.uniform(0.2, 0.7, units)
    since = ((np.arange(steps) + 0.5) * STEP)[:, None] - rng.uniform(0.04, 0.1, units)
    course = np.where(since > 0, lasting + (1 - lasting) * np.exp(-since / 0.15), 0)
    stay = np.exp(-STEP)
    gain = [rng.normal(size=n)]
    while len(gain) < steps:
        gain.append(stay * gain[-1] + np.sqrt(1 - stay**2) * rng.normal(size=n))
    shared = np.exp(0.3 * np.stack(gain, 1)[..., None] * rng.uniform(0.3, 1, units))
    return session_of(rng, (rest + (most * tuned)[:, None] * course) * shared, start, np.full(n, length), condition)


def session_of(
    rng: np.random.Generator, rates: np.ndarray, start: np.ndarray, length: np.ndarray, condition: np.ndarray
) -> ldmfilter.Session:
    """Poisson spikes of rates (trial, step, unit), Hz, and the trials with their conditions."""
    trains = []
    for unit in range(rates.shape[2]):
        fired = rng.poisson(rates[..., unit] * STEP)
        trial, step = (np.repeat(one, fired.ravel()) for one in np.divmod(np.arange(fired.size), rates.shape[1]))
        trains.append(np.sort(start[trial] + (step + rng.uniform(size=len(step))) * STEP))
    table = xr.Dataset(
        {
            "start_time": ("interval", start),
            "stop_time": ("interval", start + length),
            "condition": ("interval", condition),
        },
        {"interval": np.arange(len(start))},
    )
    return ldmfilter.Session.from_spikes(trains, intervals={"trials": table})


def read(states: np.ndarray, counts: xr.DataArray, condition: np.ndarray) -> float:
    """Share of trials whose condition is read from the mean of the last quarter of the states."""
    segment = counts["segment"].to_numpy()
    ends = [states[segment == number] for number in range(len(condition))]
    features = np.stack([one[-max(1, len(one) // 4) :].mean(0) for one in ends])
    judge = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")
    return float(
        cross_val_score(judge, features, condition, cv=StratifiedKFold(10, shuffle=True, random_state=0)).mean()
    )


def rows_of(name: str, session: ldmfilter.Session, bin_size: float, seeds: int) -> list[list[object]]:
    """A row for each seed, then those of the causal PCA."""
    counts = ldmfilter.bin_spikes(session, bin_size, "trials")
    condition = session.intervals["trials"]["condition"].to_numpy()
    rows: list[list[object]] = []
    for seed in range(seeds):
        latents = ldmfilter.LDMFilter(seed=seed).fit(counts).decode(counts)
        share = read(latents["filtered_mean"].to_numpy(), counts, condition)
        rows.append([name, bin_size, f"states, seed {seed}", share])
    bins = bins_of(counts, latents["trained"].to_numpy(), [])
    peers = {width: read(causal_pca(bins, width), counts, condition) for width in WIDTHS}
    rows.append([name, bin_size, f"causal PCA, {SMOOTHING:g} s", peers[SMOOTHING]])
    return [*rows, [name, bin_size, "causal PCA, best width", max(peers.values())]]


def main() -> None:
    """Train and read every session; print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--only", nargs="*", default=NAMES, help=", ".join(NAMES))
    arguments.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    path, rows = given.data / f"{REAL}.nwb", []
    for name in given.only:
        if name == REAL and not path.exists():
            print(f"{path}: no such file; its rows are left out", file=sys.stderr)
            continue
        make = {REAL: lambda: ldmfilter.read_session(path), IMAGES: images, GRATINGS: gratings}
        session = make[name]() if name in make else simulate(*SIMULATED[name])
        for bin_size in BINS:
            for row in rows_of(name, session, bin_size, given.seeds):
                rows.append(row)
                print(*row, file=sys.stderr)
    present("Conditions read in trials", ["session", "bin, s", "from", "share read"], rows, given.json)


if __name__ == "__main__":
    main()
