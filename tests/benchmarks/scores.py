"""Bits per spike and the coverage of forecasts on reserved time, beside simpler methods.

    python tests/benchmarks/scores.py [SESSION ...] [--data FOLDER] [--bin 0.1] [--seeds 3]
        [--peer GPFA CEBRA] [--json FILE]

For each session in the folder that `SESSIONS` knows, or those named, and each seed: default training on what
`--reserve 0.4` leaves, then `ldmfilter.score` on the reserved time and the coverage of 95 % intervals of forecasts
there (`measures.forecasts`). "lead" is that over the best of the simpler methods, with its standard error. Peers take
minutes.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ldmfilter
from ldmfilter.analysis.baselines import PEERS, STATES
from ldmfilter.analysis.judged import bins_of
from ldmfilter.analysis.measures import forecasts
from ldmfilter.data.frames import apart

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

RESERVE = 0.4  # of the time
#: File: interval.
SESSIONS = {"linear_track": "epochs=run", "w_maze": "epochs=run", "riab": None, "pmd_reach7": None}


def coverage(model: ldmfilter.LDMFilter, counts: Any) -> list[tuple[str, float | None]]:
    """Share of forecasts inside their 95 % intervals on reserved time, of each part, by horizon."""
    rows = []
    for part in model.parts:
        spread, of_frames = apart(counts, part.frame_bins_), part._of_frames()
        bins = bins_of(spread, of_frames.decode(spread)["trained"].to_numpy(), of_frames.trained_spans_)
        with torch.no_grad():
            z = of_frames.network_.encode(torch.from_numpy(bins.counts)).double().numpy()
        for one in forecasts(of_frames.network_.linear_gaussian(), z, bins, 0):
            name = f"95 % of {part.kept_.dynamics} states covers {one.seconds:g} s ahead"
            rows.append((name, one.coverage if one.bins else None))
    return rows


def rows_of(name: str, seed: int, counts: Any, peers: list[str]) -> list[list[Any]]:
    """The rows of one training: scores beside those of simpler methods, then coverage."""
    model = ldmfilter.LDMFilter(seed=seed).fit(ldmfilter.reserve(counts, RESERVE))
    scores = ldmfilter.score(model, counts, peers=peers)
    none = [None] * len(scores.peers) + [""]
    rows: list[list[Any]] = [[name, seed, model.kept_.label, "width, s", None, *scores.widths.values(), *none]]
    for row, each in scores.rows.items():
        best = max((each[one] for one in STATES), key=lambda one: np.nan_to_num(one.value, nan=-np.inf))
        lead, error = each["states"].lead(best)
        values = [None if np.isnan(one.value) else one.value for one in each.values()]
        told = "" if np.isnan(lead) else f"{lead:+.3f} +- {error:.3f}"
        rows.append([name, seed, model.kept_.label, row, *values, told])
    nothing = [None] * len(STATES) + none
    return rows + [[name, seed, model.kept_.label, row, value, *nothing] for row, value in coverage(model, counts)]


def main() -> None:
    """Train and score every session; print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("sessions", nargs="*", default=list(SESSIONS), metavar="SESSION", help=", ".join(SESSIONS))
    arguments.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    arguments.add_argument("--bin", type=float, default=0.1, help="s")
    arguments.add_argument("--peer", nargs="*", default=[], choices=PEERS)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    rows = []
    for name in given.sessions:
        path = given.data / f"{name}.nwb"
        if not path.exists():
            print(f"{path}: no such file; its rows are left out", file=sys.stderr)
            continue
        counts = ldmfilter.bin_spikes(ldmfilter.read_session(path), given.bin, SESSIONS[name])
        for seed in range(given.seeds):
            for row in rows_of(name, seed, counts, given.peer):
                rows.append(row)
                print(*row, file=sys.stderr)
    peers = ["smoothed", *given.peer] if given.peer else []
    columns = ["session", "seed", "kept", "predicted", "ours", *STATES, *peers, "lead"]
    present("Bits per spike and coverage on reserved time", columns, rows, given.json)


if __name__ == "__main__":
    main()
