"""Read an NWB file of 137 units and 8.4 million spikes: seconds, and memory beside the size of the file.

    python tests/benchmarks/nwb_speed.py [--spikes 8400000] [--repeats 5] [--json FILE]

The size is that of DANDI 000044's sessions. Every reading is a process of its own, so that the peak of its memory is
that of the reading; what the packages need once they are imported, and a small file was read, is taken off.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.binning_speed import UNITS, trains, write_nwb
from tests.benchmarks.report import present

READ = """
import re, sys, time
from ldmfilter import read_session
# Not ru_maxrss, which begins with what the parent process holds.
peak = lambda: 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1))
read_session(sys.argv[1])
before, started = peak(), time.perf_counter()
session = read_session(sys.argv[2])
print(time.perf_counter() - started, peak() - before, session.n_spikes)
"""


def main() -> None:
    """Read in fresh processes, print the medians."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--spikes", type=int, default=8_400_000)
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, large = Path(folder) / "small.nwb", Path(folder) / "large.nwb"
        write_nwb(small, trains(1000))
        write_nwb(large, trains(given.spikes))
        size = large.stat().st_size
        measured = []
        for _ in range(given.repeats):
            done = subprocess.run(
                [sys.executable, "-c", READ, small, large], check=True, capture_output=True, text=True
            )
            seconds, peak, spikes = map(float, done.stdout.split())
            if spikes != given.spikes:
                raise SystemExit(f"read {spikes:.0f} of {given.spikes} spikes")
            measured.append((seconds, peak / size))
    seconds, share = np.median(measured, axis=0)
    title = f"NWB of {size / 1e6:.0f} MB: {given.spikes:,} spikes of {UNITS} units, checksum included"
    present(title, ["reading", "median, s", "memory, files"], [["read_session", seconds, share]], given.json)


if __name__ == "__main__":
    main()
