"""Slow and fast states, alone and side by side: predicted spikes and the error of place, which training never sees.

    python tests/benchmarks/candidates.py [--data FOLDER] [--seeds 3] [--reserve SHARE] [--json FILE]

For each session in the folder that `SESSIONS` knows, and each seed: a filter is trained, with no option, on the first
80 % of the bins. Place is read by 25 nearest neighbours, fitted on the first 80 %, in the last 20 % (median error, bins
above a speed), from all its states, and from the slow and the fast ones alone. With `--reserve 0.4` training sees what
it does in `ldmfilter train`, and place is read in the reserved blocks, each tenth by neighbours of the other nine. Bits
per spike are those by which training chooses. A causal PCA of 16 dimensions is read in the same way; its error is the
smallest of those of four widths of its averages (0.1, 0.2, 0.5 and 1 s), chosen on the judged time, which favours it.
The agreement of seeds is the median, over pairs, of the R2 of the best affine map from the states of one to those of
the other, where none trained.
"""

import argparse
import itertools
import sys
from pathlib import Path

import numpy as np
import xarray as xr
from sklearn.model_selection import KFold
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import ldmfilter
from ldmfilter.analysis.baselines import causal_pca
from ldmfilter.analysis.judged import Bins
from ldmfilter.analysis.score import WIDTHS, agreement

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

BIN = 0.1  # s
#: File: interval, behaviour, lowest speed (its unit per s).
SESSIONS = {
    "linear_track.nwb": ("epochs=run", "processing/behavior/linear_position", 15.0),
    "w_maze.nwb": ("epochs=run", "processing/behavior/Position/led", 15.0),
    "riab.nwb": (None, "processing/behavior/Position/position", 0.02),
}


def place_of(
    session: ldmfilter.Session, counts: xr.DataArray, path: str, speed: float
) -> tuple[np.ndarray, np.ndarray]:
    """Place (time, axis) at the bins, smoothed by 0.25 s, and whether it is known and changes fast enough (time,)."""
    track = session.behavior[path]
    known, t = track["time"].to_numpy(), counts["time"].to_numpy()
    values = track.to_numpy().reshape(known.size, -1).astype(float)
    fine = np.isfinite(values).all(1)
    known, values = known[fine], values[fine]
    window = max(1, round(0.25 / float(np.median(np.diff(known)))))
    kernel = np.ones(window) / window
    smooth = np.stack([np.convolve(axis, kernel, "same") for axis in values.T], 1)
    place = np.stack([np.interp(t, known, axis) for axis in smooth.T], 1)
    near = np.abs(known[np.clip(np.searchsorted(known, t), 0, known.size - 1)] - t) < 0.5
    pace = np.linalg.norm(np.gradient(place, t, axis=0), axis=1)
    return place, near & (pace > speed) & (pace < 1e4)


def error(states: np.ndarray, place: np.ndarray, folds: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Median distance from place to what 25 nearest neighbours say, fitted and read in the bins of each fold."""
    distances = []
    for fit, test in folds:
        reader = make_pipeline(StandardScaler(), KNeighborsRegressor(25)).fit(states[fit], place[fit])
        distances.append(np.linalg.norm(reader.predict(states[test]) - place[test], axis=1))
    return float(np.median(np.concatenate(distances)))


def agreement_of(states: list[np.ndarray]) -> float:
    """The median agreement of pairs (`ldmfilter.analysis.score`), by blocks of a fifth of the time."""
    fold = np.arange(len(states[0])) * 5 // len(states[0])
    return float(
        np.median([agreement(one, other, fold)[0] for one, other in itertools.permutations(states, 2)] or [np.nan])
    )


def main() -> None:
    """Train, judge and read every session; print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--reserve", type=float, default=0.0)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    rows, agreements = [], []
    for name, (interval, behavior, speed) in SESSIONS.items():
        if not (given.data / name).exists():
            print(f"{given.data / name}: no such file; its rows are left out", file=sys.stderr)
            continue
        session = ldmfilter.read_session(given.data / name)
        counts = ldmfilter.bin_spikes(session, BIN, interval)
        place, judged = place_of(session, counts, behavior, speed)
        starts = np.diff(counts["segment"].to_numpy(), prepend=-1) != 0
        split = int(0.8 * counts.sizes["time"])
        train = ldmfilter.reserve(counts, given.reserve) if given.reserve else counts.isel(time=slice(split))
        fit = np.isin(counts["time"], train["time"])
        if given.reserve:
            rows_read = np.flatnonzero(judged & ~fit)
            folds = [(rows_read[one], rows_read[other]) for one, other in KFold(10).split(rows_read)]
        else:
            folds = [(np.flatnonzero(judged & fit), np.flatnonzero(judged & ~fit))]
        time, observed = counts["time"].to_numpy(), counts["observed"].to_numpy()
        bins = Bins(counts.to_numpy(), time, BIN, starts, observed, fit, ~fit, True)
        peers = (causal_pca(bins, width) for width in WIDTHS)
        pca = min(error(one, place, folds) for one in peers)
        by_seed = []
        for seed in range(given.seeds):
            model = ldmfilter.LDMFilter(seed=seed).fit(train)
            latents = model.decode(counts)
            states = latents["filtered_mean"].to_numpy()
            by_seed.append(states[~fit])
            found = {model.kept_.label: (model.kept_, states)}
            for part in model.parts_:
                found[part.kept_.label] = part.kept_, states[:, latents["dynamics"] == part.kept_.dynamics]
            for label, (one, those) in found.items():
                lead = "" if np.isnan(one.lead[0]) else f"{one.lead[0]:+.4f} +- {one.lead[1]:.4f}"
                kept = "kept" if one is model.kept_ else ""
                rows.append(
                    [name, seed, label, those.shape[1], one.bits_per_spike, lead, error(those, place, folds), pca, kept]
                )
                print(*rows[-1], file=sys.stderr)
        agreements.append([name, agreement_of(by_seed)])
    columns = ["session", "seed", "states", "number", "bits per spike", "lead", "error", "causal PCA", ""]
    present("Slow and fast states: predicted spikes and the error of place", columns, rows, given.json)
    present("Agreement of seeds", ["session", "median R2"], agreements)


if __name__ == "__main__":
    main()
