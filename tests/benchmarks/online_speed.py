"""One bin at a time: how long a step takes, and that nothing grows.

    python tests/benchmarks/online_speed.py [--steps 100000] [--units 120] [--json FILE]

The default model (latent 8, state 8, hidden 128 and 128), fitted for a few steps on a simulated session. Two streams:
every bin observed, where the steady gain serves, and every twentieth bin missing, where the covariances never settle.
Time of each single step, in microseconds. Growth: resident set from the thousandth step to the last. Beside it
one bin through the same model by PyTorch (encoder, predict, update), for the same counts.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from ldmfilter import LDMFilter, bin_spikes
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.filter.kalman import gain, predict
from ldmfilter.filter.online import OnlineFilter

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

WARM_UP = 1000


class TorchFilter:
    """The same, a bin at a time in PyTorch."""

    def __init__(self, model: LDMFilter):
        self.network = model.network_
        self.dynamics = model.network_.linear_gaussian()
        self.mean, self.cov = self.dynamics.b, self.dynamics.P0

    @torch.no_grad()
    def step(self, counts: np.ndarray | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Filtered mean and covariance."""
        mean, cov = predict(self.dynamics, self.mean, self.cov)
        if counts is not None:
            z = self.network.encode(torch.from_numpy(counts.astype(np.float32))).double()
            _, K, cov = gain(self.dynamics, cov)
            mean = mean + K @ (z - self.dynamics.C @ mean)
        self.mean, self.cov = mean, cov
        return mean, cov


def resident() -> float:
    """Resident set, kB (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024


def measure(name: str, online: OnlineFilter | TorchFilter, bins: list, steps: int) -> list:
    """A row of the table."""
    took = np.zeros(steps, np.int64)
    clock = time.perf_counter_ns
    for i in range(WARM_UP):
        online.step(bins[i % len(bins)])
    before = resident()
    for i in range(steps):
        bin = bins[i % len(bins)]
        start = clock()
        online.step(bin)
        took[i] = clock() - start
    growth = resident() - before
    p50, p99 = np.percentile(took, [50, 99]) / 1e3
    return [name, steps, float(p50), float(p99), float(took.max() / 1e3), growth]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100_000)
    parser.add_argument("--units", type=int, default=120)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    session = linear_track_session(seed=0, n_units=options.units, duration=400.0, rest=30.0)
    counts = bin_spikes(session, 0.1, "epochs=run")
    model = LDMFilter(max_steps=50).fit(counts)
    observed = list(counts.to_numpy())
    gaps = [None if i % 20 == 19 else row for i, row in enumerate(observed)]
    rows = [
        measure("OnlineFilter, all observed", OnlineFilter(model), observed, options.steps),
        measure("OnlineFilter, every 20th missing", OnlineFilter(model), gaps, options.steps),
        measure("PyTorch, all observed", TorchFilter(model), observed, options.steps // 20),
    ]
    columns = ["stream", "steps", "p50, us", "p99, us", "max, us", "growth, kB"]
    present(f"One online step, {counts.sizes['unit']} units, default model, 1 thread", columns, rows, options.json)


if __name__ == "__main__":
    main()
