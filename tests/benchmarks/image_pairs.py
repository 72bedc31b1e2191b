"""Objectives on pairs of images at full size, and a step of figure 3's training on CIFAR-10's size.

    python tests/benchmarks/image_pairs.py [--threads 1] [--images 16] [--json FILE]

Objectives: value and gradient for 4,096 pairs in 2,048 dimensions, float32; each in a process of its own, for its peak
memory (VmHWM, Linux) over that of the pairs. Difference: of the value from float64's, at 1,024 pairs in 512 dimensions.
A step: ResNet-18, two views of each of `--images` noise images of 3 x 32 x 32, the settings of `--size paper`, in 32
bits; median of three after a warm-up. Times are the processor's, so that other programs on the machine count less.
"""

import argparse
import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from ldmfilter.images.objectives import CELLS
from ldmfilter.images.sources import Images
from ldmfilter.images.training import PairTraining
from ldmfilter.paper.fig3 import SIZES

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.benchmarks.entropy_speed import peak
from tests.benchmarks.report import present

PAIRS, DIMS = 4096, 2048
STEPS = 3


def pairs(n: int, d: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    z = torch.randn(n, d, generator=g)
    return z.requires_grad_(), (0.9 * z.detach() + 0.4 * torch.randn(n, d, generator=g)).requires_grad_()


def one(name: str, mutual_information: bool) -> None:
    """Print processor time, s, growth of the peak, MB, and whether value and gradients are finite."""
    CELLS[name](*pairs(64, 32), mutual_information).value.backward()
    z, z2 = pairs(PAIRS, DIMS)
    before, start = peak(), time.process_time()
    value = CELLS[name](z, z2, mutual_information).value
    value.backward()
    seconds = time.process_time() - start
    finite = all(bool(torch.isfinite(x).all()) for x in (value, z.grad, z2.grad))
    print(seconds, peak() - before, finite)


def difference(name: str, mutual_information: bool) -> float:
    """Of the value in single from that in double precision, as a share of it."""
    z, z2 = (x.detach() for x in pairs(1024, 512))
    single, double = (
        float(CELLS[name](z.to(t), z2.to(t), mutual_information).value) for t in (torch.float32, torch.double)
    )
    return abs(single - double) / abs(double)


def step(images: int) -> float:
    """Processor time of a training step, s."""
    config = dataclasses.replace(
        SIZES["paper"].training, epochs=1 + STEPS, warmup=0, batch_size=images, precision="32", evaluate_every=100
    )
    pixels = torch.randint(0, 256, (images, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    noise = Images(pixels, None, (), "noise")
    training = PairTraining(config, noise, noise, device="cpu")
    times = []
    for _ in range(1 + STEPS):
        start = time.process_time()
        training.one_epoch()
        times.append(time.process_time() - start)
    return median(times[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        one(options.one[0], options.one[1] == "with")
        return
    rows = []
    for name in CELLS:
        for mutual_information in (True, False):
            form = "with" if mutual_information else "without"
            words = [sys.executable, __file__, "--threads", str(options.threads), "--one", name, form]
            seconds, megabytes, finite = subprocess.run(
                words, check=True, capture_output=True, text=True
            ).stdout.split()
            rows.append([name, form, float(seconds), float(megabytes), finite, difference(name, mutual_information)])
            print(*rows[-1], file=sys.stderr, flush=True)
    seconds = step(options.images)
    rows.append([f"a step of ResNet-18, {options.images} images", "", seconds, None, None, None])
    columns = ["objective", "MI", "processor time, s", "memory, MB", "finite", "difference from float64"]
    present(f"{PAIRS} pairs in {DIMS} dimensions, float32, {options.threads} thread(s)", columns, rows, options.json)
    hours = seconds / options.images * 50_000 * SIZES["paper"].training.epochs / 3600
    print(f"\n1,000 epochs of CIFAR-10 at this speed: {hours:,.0f} h a cell on {options.threads} core(s)")


if __name__ == "__main__":
    main()
