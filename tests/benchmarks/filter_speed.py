"""How fast the filter is: training steps, long recordings, and how cost grows.

    python tests/benchmarks/filter_speed.py [--json FILE] [--only ROW] [--dynamax-python PATH]

1. A training step against the same step with the filter as the paper describes it, a float32 loop over bins (batched
   predict, inverse and update, the covariances of every sequence of the batch), and against the encoder alone.
2. A recording of 2,000,000 bins against dynamax's parallel filter, compiled. dynamax may live in an environment of its
   own: name its interpreter. It runs after ours, in a process of its own, on the same machine; with fewer bins
   where memory does not hold its 2,000,000 (--dynamax-bins), compared by bins per second.
3. The same recording where each bin has covariances of its own (`evidence`), in the pieces that decoding takes.
4. Seconds over 1e3 to 1e7 bins and states of 4 to 64, as far as 5 GB hold them, with the fitted exponents.

One thread (dynamax: one core). Every number is the median of repeats after a warm-up.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldmfilter.filter.decode import BLOCK
from ldmfilter.filter.encoder import Encoder
from ldmfilter.filter.kalman import LinearGaussian, filter, filter_windows, predict
from ldmfilter.filter.linalg import whitening
from ldmfilter.filter.parameters import Dynamics
from ldmfilter.ldm.alignment import predictive_gaussian

BINS, LATENT, STATE = 2_000_000, 4, 8  # of the long recording
MOST = 160 * 10**6  # bins times states in the table of growth: about 5 GB at once
FITTED = 10**6  # bins from which on the exponents are fitted: below, the fixed cost weighs
DYNAMAX_SECONDS = 900  # it compiles for about 20 s and more


def machine() -> dict[str, str | int]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count() or 1,
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def medians(works: dict[str, tuple[Callable[[], Any], int]], rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """Median seconds of each work, by the wall clock and of the processor.

    The works take turns, each so many times a round, so that a slow moment of the machine meets all of them. Where
    other programs share the cores, the processor's time is the fairer: it stands still while they run.
    """
    wall: dict[str, list[float]] = {name: [] for name in works}
    cpu: dict[str, list[float]] = {name: [] for name in works}
    for repeat in range(rounds + 1):  # the first round warms up
        for name, (work, times) in works.items():
            for _ in range(times):
                begin, begin_cpu = time.perf_counter(), time.process_time()
                work()
                if repeat:
                    cpu[name].append(time.process_time() - begin_cpu)
                    wall[name].append(time.perf_counter() - begin)
    return tuple({name: statistics.median(values) for name, values in each.items()} for each in (wall, cpu))


def loop_over_bins(model: LinearGaussian, z: Tensor, target: Tensor) -> Tensor:
    """Log density of each bin, by the filter as the paper describes it: every sequence with its own covariances,
    an inverse a bin, Joseph's form."""
    A, Q, C, R, b, P0 = model
    batch, length, _ = z.shape
    m, P = b.expand(batch, -1), P0.expand(batch, -1, -1)
    eye = torch.eye(len(A))
    log_density = []
    for t in range(length):
        if t:
            m, P = b + (m - b) @ A.mT, A @ P @ A.mT + Q
        zhat = m @ C.mT
        S = C @ P @ C.mT + R
        inverse = torch.linalg.inv(S)
        K = P @ C.mT @ inverse
        m = m + (K @ (z[:, t] - zhat)[..., None])[..., 0]
        IKC = eye - K @ C
        P = IKC @ P @ IKC.mT + K @ R @ K.mT
        e = target[:, t] - zhat
        log_density.append(-0.5 * (e * (inverse @ e[..., None])[..., 0]).sum(-1) - 0.5 * torch.logdet(S))
    return torch.stack(log_density, 1)


def training_step(batch: int, window: int, latent: int, state: int, inputs: int = 100) -> dict[str, Any]:
    torch.manual_seed(0)
    encoder = Encoder(inputs, latent, dropout=0.0)
    dynamics = Dynamics(latent, state, decay=0.98, noise=0.9)
    parameters: list[nn.Parameter] = [*encoder.parameters(), *dynamics.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, fused=True)
    counts = torch.poisson(torch.full((batch, window, inputs), 0.5))

    def encode() -> Tensor:
        z = encoder(counts)
        mean, W = whitening(z.flatten(0, 1))
        return (z - mean) @ W

    def finish(log_density: Tensor) -> None:
        optimizer.zero_grad()
        (-log_density.mean()).backward()
        optimizer.step()

    def ours() -> None:
        z = encode()
        zhat, S, _ = filter_windows(dynamics(), z)
        finish(predictive_gaussian(z.detach(), zhat, S))

    def loop() -> None:
        z = encode()
        finish(loop_over_bins(dynamics(), z, z.detach()))

    leaf = torch.randn(batch, window, latent).requires_grad_()

    def filter_part() -> None:
        zhat, S, _ = filter_windows(dynamics(), leaf)
        (-predictive_gaussian(leaf.detach(), zhat, S).mean()).backward()

    def loop_part() -> None:
        (-loop_over_bins(dynamics(), leaf, leaf.detach()).mean()).backward()

    def encoder_alone() -> None:
        encoder(counts).sum().backward()

    works = {"step": (ours, 8), "loop": (loop, 1), "filter": (filter_part, 8), "encoder": (encoder_alone, 8)}
    works |= {"loop_part": (loop_part, 1)}
    wall, cpu = medians(works, 8)

    def ratio(over: str, under: str) -> dict[str, float]:
        return {"wall": wall[over] / wall[under], "cpu": cpu[over] / cpu[under]}

    return {
        "work": f"training step, batch {batch}, {window} bins, latent {latent}, state {state}, {inputs} inputs",
        "wall_ms": {name: 1e3 * value for name, value in wall.items()},
        "cpu_ms": {name: 1e3 * value for name, value in cpu.items()},
        "loop_over_step": ratio("loop", "step"),
        "loop_over_step_filter_part": ratio("loop_part", "filter"),
        "step_over_encoder": ratio("step", "encoder"),
    }


def random_filter(latent: int, state: int) -> LinearGaussian:
    torch.manual_seed(0)
    with torch.no_grad():
        return Dynamics(latent, state, decay=0.98, noise=0.9)()


# Run by the interpreter that has dynamax: parameters and z in, seconds and the last filtered means out. On one core, as
# ours: on two, jax 0.10.2 was seen to wait for itself for ever.
DYNAMAX = """
import os, sys, time
os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
import numpy as np
import jax, jax.numpy as jnp
import dynamax
from dynamax.linear_gaussian_ssm import inference as lg
from dynamax.linear_gaussian_ssm.parallel_inference import lgssm_filter
given = {name: jnp.asarray(value) for name, value in np.load(sys.argv[1]).items()}
state, latent = given["A"].shape[0], given["C"].shape[0]
params = lg.ParamsLGSSM(
    initial=lg.ParamsLGSSMInitial(mean=given["b"], cov=given["P0"]),
    dynamics=lg.ParamsLGSSMDynamics(
        weights=given["A"], bias=jnp.zeros(state), input_weights=jnp.zeros((state, 0)), cov=given["Q"]),
    emissions=lg.ParamsLGSSMEmissions(
        weights=given["C"], bias=jnp.zeros(latent), input_weights=jnp.zeros((latent, 0)), cov=given["R"]),
)
run = jax.jit(lambda p, z: lgssm_filter(p, z))
seconds = []
for repeat in range(int(sys.argv[3]) + 1):  # the first compiles
    begin = time.perf_counter()
    posterior = jax.block_until_ready(run(params, given["z"]))
    if repeat:
        seconds.append(time.perf_counter() - begin)
np.savez(sys.argv[2], seconds=seconds, last=np.asarray(posterior.filtered_means[-1000:]),
         version=f"dynamax {dynamax.__version__}, jax {jax.__version__}")
"""


def dynamax_filter(python: str, model: LinearGaussian, z: Tensor, repeats: int) -> dict[str, Any]:
    """Median seconds of dynamax's parallel filter, compiled, on one core; or what went wrong."""
    with tempfile.TemporaryDirectory() as folder:
        given, found = Path(folder, "given.npz"), Path(folder, "found.npz")
        np.savez(given, z=z.numpy(), **{name: value.numpy() for name, value in model._asdict().items()})
        command = [python, "-c", DYNAMAX, str(given), str(found), str(repeats)]
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=DYNAMAX_SECONDS)
        except subprocess.TimeoutExpired:
            return {"error": f"not done in {DYNAMAX_SECONDS} s"}
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
            return {"error": last[0]}
        with np.load(found) as result:
            return {
                "seconds": float(np.median(result["seconds"])),
                "version": str(result["version"]),
                "last": result["last"],
            }


def long_recording(bins: int, dynamax_bins: int, python: str, repeats: int = 3) -> dict[str, Any]:
    model = random_filter(LATENT, STATE)
    z = torch.randn(bins, LATENT, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wall, cpu = medians({"filter": (lambda: filter(model, z), 1)}, repeats)
        last = filter(model, z[:dynamax_bins]).filtered_mean[-1000:].numpy()
    row: dict[str, Any] = {
        "work": f"filter {bins:,} bins, latent {LATENT}, state {STATE}, float32",
        "seconds": wall["filter"],
        "cpu_seconds": cpu["filter"],
        "bins_per_s": bins / wall["filter"],
    }
    other = dynamax_filter(python, model, z[:dynamax_bins], repeats)
    if "error" in other:
        return {**row, "dynamax": f"not run: {other['error']}"}
    difference = float(np.abs(other["last"] - last).max())
    rate = min(bins, dynamax_bins) / other["seconds"]
    return {
        **row,
        "dynamax": other["version"],
        "dynamax_bins": min(bins, dynamax_bins),
        "dynamax_seconds": other["seconds"],
        "dynamax_bins_per_s": rate,
        "speed_over_dynamax": row["bins_per_s"] / rate,
        "largest_difference": difference,
    }


def with_evidence(bins: int) -> dict[str, Any]:
    """Bins a second where the noise of each bin is another."""
    model, random = random_filter(LATENT, STATE).to(torch.float64), torch.Generator().manual_seed(0)
    z = torch.randn(bins, LATENT, generator=random, dtype=torch.float64)
    evidence = 0.8 + 0.2 * torch.rand(bins, generator=random, dtype=torch.float64)

    def pieces() -> None:
        ahead = None
        for some, a in zip(z.split(BLOCK), evidence.split(BLOCK), strict=True):
            found = filter(model, some, ahead=ahead, evidence=a)
            ahead = predict(model, found.filtered_mean[-1], found.covariances.filtered[found.row[-1]])

    with torch.no_grad():
        wall, cpu = medians({"filter": (pieces, 1)}, 3)
    return {
        "work": f"filter {bins:,} bins with covariances of their own, latent {LATENT}, state {STATE}, float64",
        "seconds": wall["filter"],
        "cpu_seconds": cpu["filter"],
        "bins_per_s": bins / wall["filter"],
    }


def growth(most: int) -> dict[str, Any]:
    """Seconds of `filter`, and the exponents of seconds ~ bins^p and state^q where the work outweighs the start."""
    sizes = [10**k for k in range(3, len(str(most)))]
    states = [4, 8, 16, 32, 64]
    seconds = {}
    for state in states:
        model = random_filter(4, state)
        for bins in sizes:
            if bins * state > MOST:
                continue
            z = torch.randn(bins, 4, generator=torch.Generator().manual_seed(0))
            with torch.no_grad():
                wall, _ = medians({"filter": (lambda model=model, z=z: filter(model, z), 1)}, 3 if bins <= 10**5 else 1)
            seconds[bins, state] = wall["filter"]
    large = [(b, n) for b, n in seconds if b >= FITTED]
    logs = np.log([[b, n, seconds[b, n]] for b, n in large])
    design = np.column_stack([np.ones(len(logs)), logs[:, :2]])
    _, of_bins, of_state = np.linalg.lstsq(design, logs[:, 2])[0]
    return {
        "work": "growth of filter, latent 4, float32",
        "seconds": [{"bins": b, "state": n, "seconds": value} for (b, n), value in seconds.items()],
        "exponent_bins": float(of_bins),
        "exponent_state": float(of_state),
        "fitted_over": f"{FITTED:.0e} bins and more",
    }


ROWS = ("small", "large", "long", "evidence", "growth")


def rows(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    chosen = arguments.only or ROWS
    if "small" in chosen:
        yield training_step(8, 100, 5, 10)
    if "large" in chosen:
        yield training_step(32, 64, 8, 16)
    if "long" in chosen:
        yield long_recording(arguments.bins, arguments.dynamax_bins or arguments.bins, arguments.dynamax_python)
    if "evidence" in chosen:
        yield with_evidence(arguments.bins)
    if "growth" in chosen:
        yield growth(10**7)


def show(row: dict[str, Any]) -> None:
    print(f"\n{row['work']}")
    if "exponent_bins" in row:
        states = sorted({item["state"] for item in row["seconds"]})
        found = {(item["bins"], item["state"]): item["seconds"] for item in row["seconds"]}
        print("        bins " + "".join(f"  state {n:<4}" for n in states))
        for bins in sorted({b for b, _ in found}):
            cells = [f"{found[bins, n]:10.4f} s" if (bins, n) in found else " " * 12 for n in states]
            print(f"  {bins:>10,} " + "".join(cells))
        print(f"  seconds ~ bins^{row['exponent_bins']:.2f} state^{row['exponent_state']:.2f} ({row['fitted_over']})")
        return
    for name, value in row.items():
        if isinstance(value, dict):
            print(f"  {name:<28}" + "  ".join(f"{key} {number:.2f}" for key, number in value.items()))
        elif name != "work":
            print(f"  {name:<28}" + (f"{value:,.4g}" if isinstance(value, float) else str(value)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--only", action="append", choices=ROWS, help="this row only; may be repeated")
    parser.add_argument("--bins", type=int, default=BINS, help="of the long recording")
    parser.add_argument("--dynamax-bins", type=int, help="of dynamax's side, where it is to be shorter")
    parser.add_argument("--dynamax-python", default=sys.executable, help="interpreter that has dynamax and jax")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {"machine": machine(), "rows": []}
    print("  ".join(f"{name}: {value}" for name, value in results["machine"].items()))
    for row in rows(arguments):
        results["rows"].append(row)
        show(row)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
