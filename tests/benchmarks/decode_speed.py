"""Decode a day of 100 units in bins of 20 ms to zarr; and peak memory as recordings grow.

    python tests/benchmarks/decode_speed.py [--hours 24] [--json FILE]

Every row is a process of its own, whose wall clock and peak memory are those of the whole command, imports included.
Spikes are Poisson at 5 Hz, saved as a session in zarr or as counts in zarr; the model is the default one, hardly
trained, which changes nothing of the work. Counts are read from their store piece by piece.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xarray as xr

import ldmfilter
from ldmfilter.data.session import Session

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

UNITS, RATE, BIN = 100, 5.0, 0.02


def session_of(hours: float) -> Session:
    """Poisson spikes of `UNITS` units."""
    rng = np.random.default_rng(0)
    stop = hours * 3600
    return Session.from_spikes([np.sort(rng.uniform(0, stop, rng.poisson(RATE * stop))) for _ in range(UNITS)])


def write_counts(path: Path, hours: float) -> None:
    """Counts as a zarr store, an hour at a time."""
    rng = np.random.default_rng(0)
    per_hour = round(3600 / BIN)
    for hour in range(round(hours)):
        values = rng.poisson(RATE * BIN, (per_hour, UNITS)).astype(np.uint8)
        bins = np.arange(hour * per_hour, (hour + 1) * per_hour)
        coords = {"time": (bins + 0.5) * BIN, "unit": np.arange(UNITS)}
        piece = xr.DataArray(values, coords, ("time", "unit"), "counts", {"bin_size": BIN}).to_dataset()
        if hour:
            piece.to_zarr(path, append_dim="time")
        else:
            piece.to_zarr(path, mode="w", encoding={"counts": {"chunks": (2**14, UNITS)}})


def work(name: str, source: str, model: str, out: str) -> None:
    """What a row's process does."""
    from ldmfilter.data.counts import check_counts
    from ldmfilter.filter.decode import decode_blocks
    from ldmfilter.filter.latents import write_latents

    if name == "decode session":
        counts = ldmfilter.bin_spikes(ldmfilter.read_session(source), BIN)
        write_latents(decode_blocks(ldmfilter.load(model), check_counts(counts)), out)
        return
    with xr.open_dataset(source, engine="zarr", chunks=None) as store:
        if name == "decode counts":
            write_latents(decode_blocks(ldmfilter.load(model), check_counts(store["counts"])), out)
        else:
            ldmfilter.LDMFilter(max_steps=100).fit(store["counts"])


def main() -> None:
    """Run every row in a process of its own; print the table."""
    arguments = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    arguments.add_argument("--hours", type=float, default=24)
    arguments.add_argument("--json", type=Path)
    arguments.add_argument("--work", nargs=4, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.work:
        work(*given.work)
        # Not ru_maxrss, which begins with what the parent process held when it started this one.
        print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
        return
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = ldmfilter.bin_spikes(session_of(0.1), BIN)
        ldmfilter.LDMFilter(max_steps=25).fit(short).save(folder / "model")
        jobs = []
        for hours in (1.0, 10.0, 40.0):
            write_counts(folder / f"counts{hours:g}", hours)
            jobs += [
                ("decode counts", f"counts{hours:g}", hours),
                ("train counts, 100 steps", f"counts{hours:g}", hours),
            ]
        session_of(given.hours).to_zarr(folder / "session")
        jobs.append(("decode session", "session", given.hours))
        for job, source, hours in jobs:
            command = [sys.executable, __file__, "--work", job, folder / source, folder / "model", folder / "out"]
            started = time.perf_counter()
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
            seconds = time.perf_counter() - started
            if done.returncode:
                sys.exit(done.stderr)
            rows.append([job, hours, hours * 3600 / BIN, seconds, int(done.stdout.split()[-1]) / 1e6])
            subprocess.run(["rm", "-rf", str(folder / "out")], check=True)
    present(
        "Long recordings of 100 units", ["work", "hours", "bins", "wall clock, s", "peak memory, GB"], rows, given.json
    )


if __name__ == "__main__":
    main()
