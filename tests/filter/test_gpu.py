"""Filter and training on CUDA give what they give on the CPU."""

import numpy as np
import pytest
import torch

from ldmfilter.filter.kalman import LinearGaussian, filter_windows
from ldmfilter.filter.model import LDMFilter
from tests.filter.conftest import SMALL
from tests.filter.test_kalman import PATTERNS, make_model, observations, pattern, results

DEVICE = "cuda"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def leaves(model: LinearGaussian, z: torch.Tensor, device: str) -> tuple[LinearGaussian, torch.Tensor]:
    """Copies that gradients flow to."""
    copies = [value.detach().to(device).requires_grad_() for value in (*model, z)]
    return LinearGaussian._make(copies[:-1]), copies[-1]


@pytest.mark.parametrize("kind", PATTERNS)
def test_values_and_gradients_of_every_route(kind):
    model = make_model(50, 4, 2)
    z = torch.from_numpy(np.stack([observations(s, 300, 2)[0] for s in range(2)]))
    observed, starts = pattern(kind, 300, 2)
    found = []
    for device in ("cpu", DEVICE):
        ours, x = leaves(model, z, device)
        there = [None if flags is None else flags.to(device) for flags in (observed, starts)]
        values = results(ours, x, *there)
        assert all(value.device.type == device for value in values)
        total = torch.stack([value.square().mean() for value in values]).sum()
        gradients = torch.autograd.grad(total, [*ours, x], allow_unused=True)
        found.append([value.detach().cpu() for value in (*values, *gradients) if value is not None])
    assert len(found[0]) == len(found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


def test_values_and_gradients_of_windows():
    model = make_model(51, 4, 2)
    z = torch.from_numpy(np.stack([observations(s, 33, 2)[0] for s in range(3)]))
    found = []
    for device in ("cpu", DEVICE):
        ours, x = leaves(model, z, device)
        values = filter_windows(ours, x)
        total = torch.stack([value.square().mean() for value in values]).sum()
        gradients = torch.autograd.grad(total, [*ours[:5], x])
        found.append([value.detach().cpu() for value in (*values, *gradients)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "16-mixed"])
def test_training_and_decoding(counts, precision):
    model = LDMFilter(**SMALL | {"max_steps": 50, "precision": precision, "device": DEVICE}).fit(counts)
    assert np.isfinite([record.score for record in model.history_]).all()
    assert all(parameter.dtype == torch.float32 for parameter in model.network_.parameters())
    assert np.isfinite(model.decode(counts)["filtered_mean"]).all()
