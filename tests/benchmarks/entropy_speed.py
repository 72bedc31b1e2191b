"""Entropies with their gradients: this package beside the plain way, in one run.

    python tests/benchmarks/entropy_speed.py [--threads 1] [--repeats 7] [--json FILE]

The plain way holds all pairs of samples: kNN by `torch.cdist` and `topk`, KDE by `torch.cdist` and `logsumexp`.
Time: value and gradient of standard normal samples, float32, both ways in turn in one process, so that another
program on the machine slows both; medians after a warm-up. Memory: growth of the peak resident set (VmHWM, Linux)
over that after a small warm-up, each way in a process of its own.
"""

import argparse
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ldmfilter.ldm.entropy import kde, knn, log_unit_ball

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.report import present

CASES = [("knn", 1_024, 4), ("knn", 8_192, 4), ("knn", 8_192, 8), ("knn", 8_192, 16), ("kde", 8_192, 4)]
K = 3


def plain_knn(z: Tensor) -> Tensor:
    """Kozachenko-Leonenko by all pairs; the nearest of K + 1 is the sample itself."""
    n, d = z.shape
    eps = torch.cdist(z, z).topk(K + 1, largest=False).values[:, -1]
    psi = torch.digamma(torch.tensor([float(n), float(K)]))
    return psi[0] - psi[1] + log_unit_ball(d) + d * eps.log().mean()


def plain_kde(z: Tensor) -> Tensor:
    """Leave-one-out kernel density by all pairs, bandwidth by Scott's rule."""
    n, d = z.shape
    h = n ** (-1 / (d + 4))
    log_kernel = (-0.5 / h**2) * torch.cdist(z, z).square() - torch.diag(torch.full((n,), math.inf))
    log_p = torch.logsumexp(log_kernel, 1) - math.log(n - 1)
    return -log_p.mean() + d * math.log(h) + 0.5 * d * math.log(2 * math.pi)


WAYS: dict[str, dict[str, Callable[[Tensor], Tensor]]] = {
    "knn": {"plain": plain_knn, "ldmfilter": knn},
    "kde": {"plain": plain_kde, "ldmfilter": kde},
}


def value_and_gradient(way: Callable[[Tensor], Tensor], n: int, d: int) -> tuple[float, float]:
    """Entropy (nats) and the time it took with its gradient, s."""
    z = torch.randn(n, d, generator=torch.Generator().manual_seed(0)).requires_grad_()
    start = time.perf_counter()
    value = way(z)
    value.backward()
    return float(value.detach()), time.perf_counter() - start


def peak() -> float:
    """Highest resident set of this process so far, MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def memory(entropy: str, way: str, n: int, d: int, threads: int) -> float:
    """Peak memory of one value and gradient, MB, in a process of its own."""
    words = [sys.executable, __file__, "--threads", str(threads), "--memory", entropy, way, str(n), str(d)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def measure(entropy: str, n: int, d: int, repeats: int, threads: int) -> list:
    """A row of the table."""
    plain, ours = WAYS[entropy]["plain"], WAYS[entropy]["ldmfilter"]
    pairs = [(value_and_gradient(plain, n, d), value_and_gradient(ours, n, d)) for _ in range(1 + repeats)]
    slow, fast = (median(pair[side][1] for pair in pairs[1:]) * 1e3 for side in (0, 1))
    much, little = (memory(entropy, way, n, d, threads) for way in ("plain", "ldmfilter"))
    difference = abs(pairs[0][0][0] - pairs[0][1][0])
    return [entropy, n, d, slow, fast, slow / fast, much, little, much / max(little, 0.1), difference]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--memory", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.memory:
        entropy, way, n, d = options.memory
        value_and_gradient(WAYS[entropy][way], 600, int(d))
        before = peak()
        value_and_gradient(WAYS[entropy][way], int(n), int(d))
        print(peak() - before)
        return
    columns = ["entropy", "N", "d", "plain, ms", "ldmfilter, ms", "times faster"]
    columns += ["plain, MB", "ldmfilter, MB", "times less", "difference, nats"]
    rows = [measure(*case, options.repeats, options.threads) for case in CASES]
    present(f"Entropy and gradient, float32, {options.threads} thread(s)", columns, rows, options.json)


if __name__ == "__main__":
    main()
