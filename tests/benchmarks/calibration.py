"""Scores of intervals on behaviour, beside those of a constant width, on several sessions.

    python tests/benchmarks/calibration.py [--seeds 5] [--evidence SHARE] [--lags] [--only NAME ...] [--data DIR]
                                           [--json FILE]

Each seed trains a filter without behaviour on the session, or its running epoch, a reserved 40 % of it left out, and
reads place from the states by nested readouts (ldmfilter.analysis.readout). Coverage, mean width and interval
score (Winkler) are those of bins that neither the filter, nor the readout, nor the calibration saw. "constant" has one
width, calibrated on the same blocks; "same coverage" one width that is tuned on the judged bins to cover as many; the
rank correlation is that of the 95 % intervals' width with the absolute error, of place in two dimensions of both
lengths, and of trace P_t, where it varies (--evidence). Else its first coordinate is judged, in bins in which the
animal moves faster than the speed in the name. `--lags`: the error of place by states that wait, of both coordinates,
by nearest neighbours in other blocks.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr
from scipy.stats import spearmanr
from sklearn.neighbors import KNeighborsRegressor

import ldmfilter
from ldmfilter.analysis.behavior import Behavior, choose_behavior, cross
from ldmfilter.analysis.behavior_ahead import NEIGHBOURS, at_lags
from ldmfilter.analysis.blocks import GUARD, bins_of
from ldmfilter.analysis.intervals import LEVELS
from ldmfilter.analysis.readout import Reading

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

ROOT = Path(__file__).parents[2]
BIN = 0.1  # s
COLUMNS = [
    "session", "level", "coverage", "lowest", "highest", "width", "score", "score, constant", "score, same coverage",
    "seeds that beat both",
]  # fmt: skip
READ = [
    "session", "median error", "R2", "shifted R2, 95th percentile", "Bayesian decoder, median error", "its R2",
    "rank of width and error", "rank of trace P_t and error",
]  # fmt: skip
LAGS = ["session", "lag", "median error", "over that without"]
#: Path, epoch, behaviour, and least speeds, in the behaviour's unit per s.
SESSIONS = {
    "linear_track": ("linear_track.nwb", "epochs=run", "linear_position", (15.0,)),
    "w_maze": ("w_maze.nwb", "epochs=run", "led", (15.0,)),
    "riab": ("riab.nwb", None, "position", (0.02,)),
    "simulated": (ROOT / "sample_data" / "linear_track_sim.nwb", "epochs=run", "linear_position", (0.0, 5.0)),
}


def ranks(reading: Reading) -> tuple[float, float]:
    """Rank correlations, in the judged bins, of the length of the 95 % intervals' widths, over all variables, and of
    trace P_t, with the length of the errors."""
    of, names = reading.latents, [one.name for one in reading.reports]
    judged = np.all([of[f"{name}_fold"] >= 0 for name in names], axis=0)
    errors = [of[f"{name}_mean"] - of[f"{name}_true"] for name in names]
    widths = [of[f"{name}_ci"].diff("bound").isel(bound=0, drop=True) for name in names]
    error, width = (np.linalg.norm(np.array(each), axis=0)[judged] for each in (errors, widths))
    trace = np.trace(of["filtered_cov"].to_numpy()[judged], axis1=1, axis2=2)
    return float(spearmanr(width, error).statistic), float(spearmanr(trace, error).statistic)


def place_at_lags(
    model: ldmfilter.LDMFilter, counts: xr.DataArray, behavior: Sequence[Behavior], min_speed: float
) -> dict[float | None, float]:
    """Median length of the error of place by filtered states (0), by those of each lag, s, and by smoothed ones."""
    found = {}
    for lag, latents in at_lags(model, counts):
        each = list(bins_of(latents, behavior, min_speed, GUARD))
        rows = np.flatnonzero(np.all([one.judged for one in each], axis=0))
        states, truth, errors = each[0].states, np.stack([one.truth for one in each], 1), []
        for train, test in cross(rows, each[0].fold):
            neighbours = KNeighborsRegressor(NEIGHBOURS).fit(states[train], truth[train])
            errors.append(np.linalg.norm(neighbours.predict(states[test]) - truth[test], axis=1))
        found[lag] = float(np.median(np.concatenate(errors)))
    return found


def main() -> None:
    """Train every seed on every session; print the tables."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    arguments.add_argument("--only", nargs="*", default=list(SESSIONS), choices=list(SESSIONS))
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--evidence", type=float, default=0.0)
    arguments.add_argument("--lags", action="store_true")
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    rows, read, waited = [], [], []
    for name in given.only:
        path, interval, place, speeds = SESSIONS[name]
        if not (given.data / path).exists():
            print(f"{given.data / path}: no such file; it is left out (--data names its folder)", file=sys.stderr)
            continue
        session = ldmfilter.read_session(given.data / path)
        chosen, _ = ldmfilter.choose_units(session, spans=ldmfilter.choose_spans(session, interval=interval))
        counts = ldmfilter.bin_spikes(chosen, BIN, interval)
        behavior = choose_behavior(session, [place])
        reports: dict[float, list] = {speed: [] for speed in speeds}
        found: dict[float, list[tuple[float, float]]] = {speed: [] for speed in speeds}
        lags: dict[float, list[dict[float | None, float]]] = {speed: [] for speed in speeds}
        for seed in range(given.seeds):
            model = ldmfilter.LDMFilter(seed=seed, evidence=given.evidence).fit(ldmfilter.reserve(counts, 0.4))
            latents = model.decode(counts)
            for speed in speeds:
                reading = ldmfilter.read_behavior(latents, behavior, counts, min_speed=speed)
                reports[speed].append(reading.reports[0])
                found[speed].append(ranks(reading))
                if given.lags:
                    lags[speed].append(place_at_lags(model, counts, behavior, speed))
                at = reports[speed][-1].intervals[LEVELS.index(0.95)]
                print(
                    f"{name}, above {speed:g}, seed {seed}: covers {at.coverage:.3f}, {at.score:.1f}", file=sys.stderr
                )
        for speed, of_seed in reports.items():
            label = name if not speed else f"{name}, above {speed:g} {behavior[0].unit}/s"
            for i, level in enumerate(LEVELS):
                at = [report.intervals[i] for report in of_seed]
                covers = [a.coverage for a in at]
                rows.append(
                    [
                        label, level, float(np.mean(covers)), min(covers), max(covers),
                        float(np.mean([a.width for a in at])), float(np.mean([a.score for a in at])),
                        float(np.mean([a.constant_score for a in at])),
                        float(np.mean([a.same_coverage_score for a in at])),
                        sum(a.score < min(a.constant_score, a.same_coverage_score) for a in at),
                    ]
                )  # fmt: skip
            for lag in lags[speed][0] if given.lags else ():
                error, ratio = np.median([(one[lag], one[lag] / one[0]) for one in lags[speed]], 0)
                waited.append([label, "all" if lag is None else f"{lag:g} s", error, ratio])
            read.append(
                [
                    label,
                    *[float(np.median(v)) for v in zip(*[
                        (r.read.median_error, r.read.r2, r.control.shifted_95, r.decoder.median_error, r.decoder.r2)
                        for r in of_seed
                    ], strict=True)],
                    *np.median(found[speed], 0).tolist(),
                ]
            )  # fmt: skip
    present(f"Place from the states of held-out time, medians of {given.seeds} seeds", READ, read)
    present(f"Its intervals, means of {given.seeds} seeds", COLUMNS, rows, given.json)
    if waited:
        present(f"Place by states that wait, medians of {given.seeds} seeds", LAGS, waited)


if __name__ == "__main__":
    main()
