"""Small images with labels that can be told apart."""

import numpy as np
import pytest
import torch

from ldmfilter.images.sources import Images


def striped(n: int, seed: int = 0) -> Images:
    """8 x 8 pixels: stripes across, along or along the diagonal, at any phase, with noise."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3)
    along, across = np.mgrid[:8, :8]
    phase = rng.uniform(0, 2 * np.pi, (n, 1, 1))
    where = np.stack([along, across, along + across])[labels]
    pixels = 128 + 80 * np.sin(where * np.pi / 2 + phase) + 15 * rng.standard_normal((n, 8, 8))
    return Images(
        torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)[:, None]),
        torch.from_numpy(labels.astype(np.int64)),
        ("across", "along", "diagonal"),
        "stripes",
    )


@pytest.fixture(scope="session")
def stripes() -> tuple[Images, Images]:
    return striped(192), striped(96, 1)
