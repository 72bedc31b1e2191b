"""Read and bin 8.4 million spikes of 137 units at 20 ms, beside pynapple's `count` on spikes in memory, in one run.

    python tests/benchmarks/binning_speed.py [--spikes 8400000] [--repeats 5] [--json FILE]

The size is that of DANDI 000044's sessions. Spike trains are Poisson, rates log-normal over units. The NWB file is
written for the run; reading it is timed as a user would do it: `read_session`, checksum and all.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pynapple as nap
from pynwb import NWBHDF5IO, NWBFile

import ldmfilter
from ldmfilter.data.session import Session

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

UNITS, HOURS, BIN = 137, 8.0, 0.02


def trains(spikes: int) -> list[np.ndarray]:
    """Spike times of every unit, s."""
    rng = np.random.default_rng(0)
    share = rng.lognormal(0.0, 1.0, UNITS)
    numbers = rng.multinomial(spikes, share / share.sum())
    return [np.sort(rng.uniform(0, HOURS * 3600, number)) for number in numbers]


def write_nwb(path: Path, times: list[np.ndarray]) -> None:
    """The trains as an NWB file."""
    nwb = NWBFile("simulated spikes", "binning-speed", datetime(2026, 1, 1, tzinfo=UTC))
    for train in times:
        nwb.add_unit(spike_times=train)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)


def median_seconds(work: Callable[[], object], repeats: int) -> float:
    """Median wall clock of some repeats, after a warm-up."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def main() -> None:
    """Time the three, check that they count alike, print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--spikes", type=int, default=8_400_000)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    times = trains(given.spikes)
    span = (0.0, HOURS * 3600)
    group = nap.TsGroup({i: nap.Ts(t) for i, t in enumerate(times)}, time_support=nap.IntervalSet(*span))
    session = Session.from_spikes(times)
    ours, theirs = ldmfilter.bin_spikes(session, BIN, [span]).to_numpy(), np.asarray(group.count(BIN).values)
    n = min(len(ours), len(theirs))
    differing = int((ours[:n] != theirs[:n]).sum())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "spikes.nwb"
        write_nwb(path, times)
        peer = median_seconds(lambda: group.count(BIN), given.repeats)
        memory = median_seconds(lambda: ldmfilter.bin_spikes(session, BIN, [span]), given.repeats)
        file = median_seconds(lambda: ldmfilter.bin_spikes(ldmfilter.read_session(path), BIN, [span]), given.repeats)
    rows = [
        ["pynapple count, spikes in memory", peer, 1.0],
        ["bin_spikes, spikes in memory", memory, peer / memory],
        ["read_session and bin_spikes, NWB file", file, peer / file],
    ]
    title = f"{given.spikes:,} spikes of {UNITS} units into bins of 20 ms; {differing} of {ours.size:,} counts differ"
    present(title, ["work", "median, s", "times as fast"], rows, given.json)


if __name__ == "__main__":
    main()
