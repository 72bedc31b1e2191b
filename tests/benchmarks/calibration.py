"""Scores of intervals on behaviour, beside those of a constant width, on two sessions.

    python tests/benchmarks/calibration.py [--seeds 5] [--json FILE] [--session FILE]

Each seed trains a filter without behaviour on the running epoch, a reserved 40 % of it left out, and reads
`linear_position` from the states by nested readouts (ldmfilter.analysis.readout). Coverage, mean width and interval
score (Winkler) are those of bins that neither the filter, nor the readout, nor the calibration saw. "constant" has one
width, calibrated on the same blocks; "same coverage" one width that is tuned on the judged bins to cover as many. The
real session is judged in bins in which the rat runs (above 15 px/s), the simulated one in all bins, and again in those
above 5 cm/s.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import ldmfilter
from ldmfilter.analysis.behavior import choose_behavior
from ldmfilter.analysis.readout import LEVELS, read_behavior

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

ROOT = Path(__file__).parents[2]
BIN = 0.1  # s
COLUMNS = [
    "session", "level", "coverage", "lowest", "highest", "width", "score", "score, constant", "score, same coverage",
    "seeds that beat both",
]  # fmt: skip
READ = ["session", "median error", "R2", "shifted R2, 95th percentile", "Bayesian decoder, median error", "its R2"]


def main() -> None:
    """Train every seed on every session; print the tables."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--session", type=Path, default=ROOT.parent / "shared" / "data" / "linear_track.nwb")
    arguments.add_argument("--seeds", type=int, default=5)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    sessions = [("simulated", ROOT / "sample_data" / "linear_track_sim.nwb", (0.0, 5.0))]
    if given.session.exists():
        sessions.insert(0, ("real", given.session, (15.0,)))
    else:
        print(f"{given.session}: no such file; the real session is left out (--session names it)")

    rows, read = [], []
    for name, path, speeds in sessions:
        session = ldmfilter.read_session(path)
        chosen, _ = ldmfilter.choose_units(session, spans=ldmfilter.choose_spans(session, interval="epochs=run"))
        counts = ldmfilter.bin_spikes(chosen, BIN, "epochs=run")
        behavior = choose_behavior(session, ["linear_position"])
        reports: dict[float, list] = {speed: [] for speed in speeds}
        for seed in range(given.seeds):
            model = ldmfilter.LDMFilter(seed=seed).fit(ldmfilter.reserve(counts, 0.4))
            latents = model.decode(counts)
            for speed in speeds:
                reports[speed].append(read_behavior(latents, behavior, counts, min_speed=speed).reports[0])
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
            read.append(
                [
                    label,
                    *[float(np.median(v)) for v in zip(*[
                        (r.read.median_error, r.read.r2, r.control.shifted_95, r.decoder.median_error, r.decoder.r2)
                        for r in of_seed
                    ], strict=True)],
                ]
            )  # fmt: skip
    present(f"linear_position from the states of held-out time, medians of {given.seeds} seeds", READ, read)
    present(f"Its intervals, means of {given.seeds} seeds", COLUMNS, rows, given.json)


if __name__ == "__main__":
    main()
