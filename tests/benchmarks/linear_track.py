"""What the filter's states say of a rat's place, beside CEBRA-Time and PCA, in one run.

    python tests/benchmarks/linear_track.py [--seeds 5] [--json FILE] [--session FILE]

Each method is fitted without behaviour on the running epoch up to 5,170 s, in bins of 0.1 s, and gives a state for
every bin of the epoch. A 25-nearest-neighbour readout of `linear_position` is fitted on running bins (speed above
15 px/s) before 5,170 s and read after it. The error is the median absolute one. CEBRA and the smoothing of PCA read
future bins; the filter does not. "untrained" is the filter with the encoder's random initial weights: what the slow
prior alone gives. CEBRA runs where it is installed (the extra `bench`).
"""

import argparse
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter1d
from sklearn.decomposition import PCA
from sklearn.neighbors import KNeighborsRegressor

import ldmfilter
from ldmfilter.filter.training import Training

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

SPLIT = 5170.0  # s
SPEED = 15.0  # px/s
BIN = 0.1  # s
Fit = Callable[[xr.DataArray, xr.DataArray, int], np.ndarray]


def filter_states(entropy: str, trained: bool = True) -> Fit:
    """States of the filter, from its default settings."""

    def fit(train: xr.DataArray, whole: xr.DataArray, seed: int) -> np.ndarray:
        model = ldmfilter.LDMFilter(entropy=entropy, seed=seed)
        if trained:
            model.fit(train)
        else:
            training = Training(model, train)
            next(training.run())  # the evaluation before the first step fixes the gauge
            model._take(training)
        return model.transform(whole)

    return fit


def cebra_time(train: xr.DataArray, whole: xr.DataArray, seed: int) -> np.ndarray:
    """CEBRA-Time 0.6.1, 8-D, which reads five bins back and five ahead."""
    import cebra
    import torch

    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002  CEBRA draws from numpy's global generator
    model = cebra.CEBRA(
        model_architecture="offset10-model", batch_size=512, learning_rate=3e-4, output_dimension=8,
        max_iterations=1500, time_offsets=10, conditional="time", distance="cosine", device="cpu", verbose=False,
    )  # fmt: skip
    model.fit(train.to_numpy().astype(np.float32))
    return model.transform(whole.to_numpy().astype(np.float32))


def pca(train: xr.DataArray, whole: xr.DataArray, seed: int) -> np.ndarray:
    """Eight principal components of the root counts, smoothed with a Gaussian of 0.3 s, past and future."""
    smooth = [gaussian_filter1d(np.sqrt(x.to_numpy().astype(float)), 0.3 / BIN, axis=0) for x in (train, whole)]
    return PCA(8, random_state=seed).fit(smooth[0]).transform(smooth[1])


def main() -> None:
    """Run every method with every seed; print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    default = Path(__file__).parents[3] / "shared" / "data" / "linear_track.nwb"
    arguments.add_argument("--session", type=Path, default=default)
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    if not given.session.exists():
        sys.exit(f"{given.session}: no such file; name the linear-track session (nelpy/example-data) with --session")

    session = ldmfilter.read_session(given.session)
    spans = ldmfilter.choose_spans(session, interval="epochs=run")
    early = ldmfilter.choose_spans(session, interval="epochs=run", spans=[(-np.inf, SPLIT)])
    chosen, _ = ldmfilter.choose_units(session, spans=early)
    train, whole = ldmfilter.bin_spikes(chosen, BIN, early), ldmfilter.bin_spikes(chosen, BIN, spans)
    track = session.behavior["processing/behavior/linear_position"]
    t = whole["time"].to_numpy()
    place = np.interp(t, track["time"], track.to_numpy())
    running = np.abs(np.gradient(place, BIN)) > SPEED
    before, after = running & (t < SPLIT), running & (t >= SPLIT)

    methods: dict[str, Fit] = {
        "ldmfilter, logdet (default)": filter_states("logdet"),
        "ldmfilter, knn": filter_states("knn"),
        "ldmfilter, stopgrad": filter_states("stopgrad"),
        "ldmfilter, untrained": filter_states("logdet", trained=False),
        "PCA of smoothed counts": pca,
    }
    if find_spec("cebra"):
        methods["CEBRA-Time 0.6.1"] = cebra_time
    else:
        print("CEBRA is not installed (pip install -e '.[bench]'): its row is left out")
    rows = []
    for name, fit in methods.items():
        errors, scores, seconds = [], [], []
        for seed in range(1 if name.startswith("PCA") else given.seeds):
            started = time.perf_counter()
            states = fit(train, whole, seed)
            seconds.append(time.perf_counter() - started)
            read = KNeighborsRegressor(25).fit(states[before], place[before]).predict(states[after])
            errors.append(float(np.median(np.abs(read - place[after]))))
            scores.append(float(1 - np.mean((read - place[after]) ** 2) / place[after].var()))
            print(f"{name}, seed {seed}: {errors[-1]:.1f} px, {seconds[-1]:.1f} s", file=sys.stderr)
        rows.append(
            [
                name,
                float(np.median(errors)),
                max(errors),
                float(np.median(scores)),
                float(np.median(seconds)),
                len(errors),
            ]
        )
    columns = ["method", "median error, px", "worst seed, px", "median R2", "fit and decode, s", "seeds"]
    present("Place from the states of the linear-track session, held out", columns, rows, given.json)


if __name__ == "__main__":
    main()
