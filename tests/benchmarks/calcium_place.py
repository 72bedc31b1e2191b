"""Place from the spikes of a simulated rat, and from the dF/F that an indicator would show of the same spikes.

    python tests/benchmarks/calcium_place.py [--seeds 3] [--json FILE]

Each is trained with the defaults (dF/F in bins of a frame), and place is read by `read_behavior`, as `decode
--behavior linear_position` does: in blocks that neither the filter nor the readout saw.
"""

import argparse
import sys
from pathlib import Path

import ldmfilter
from ldmfilter.analysis.behavior import choose_behavior
from ldmfilter.analysis.readout import read_behavior
from ldmfilter.config import DataConfig
from ldmfilter.data.prepare import prepare
from ldmfilter.data.simulate import calcium_session, linear_track_session

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present


def main() -> None:
    """Train on both and print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    spikes = linear_track_session(seed=1)
    rows = []
    for name, session, size in (
        ("spikes", spikes, 0.1),
        ("dF/F, decay 0.4 s", calcium_session(spikes), 0.05),
        ("dF/F, decay 0.6 s", calcium_session(spikes, decay=0.6), 0.05),
    ):
        config = DataConfig(bin_size=size, interval="epochs=run")
        values = prepare(session, config)
        place = choose_behavior(session, ["linear_position"])
        for seed in range(given.seeds):
            model = ldmfilter.LDMFilter(seed=seed).fit(ldmfilter.reserve(values, config.reserve))
            read = read_behavior(model.decode(values), place, values).reports[0].read
            assert read is not None  # two fifths of the time are kept apart
            rows.append([name, size, seed, model.kept_.label, read.r2, read.median_error])
            print(*rows[-1], file=sys.stderr)
    columns = ["signal", "bin, s", "seed", "kept", "R2", "median error, cm"]
    present("Place from spikes and from their dF/F", columns, rows, given.json)


if __name__ == "__main__":
    main()
