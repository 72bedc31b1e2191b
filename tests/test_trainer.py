"""Ascent by AdamW with a rising and falling rate."""

import numpy as np
import pytest
import torch

from ldmfilter.errors import TrainingError
from ldmfilter.filter.linalg import NotPositiveDefiniteError
from ldmfilter.trainer import ascend


def test_it_finds_a_maximum():
    module = torch.nn.Linear(1, 1)

    def value(batch):
        return -((module.weight - 3) ** 2).sum() - module.bias.square().sum()

    history = ascend(module, lambda step: step, value, 300, "it", learning_rate=0.1, warm=15, norm=1.0)
    assert module.weight.item() == pytest.approx(3, abs=0.05)
    assert history[-1] > -0.01


def test_each_group_has_its_rate_which_rises_and_falls_as_a_cosine():
    slow, fast = module = torch.nn.ParameterList(torch.zeros(1) for _ in range(2))
    seen = []

    def value(batch):
        seen.append((slow.item(), fast.item()))
        return (slow + fast).sum()

    # Without momentum and with a gradient that stays the same, each step of Adam is as long as the rate.
    groups = [{"params": [slow]}, {"params": [fast], "lr": 0.3}]
    options = {"learning_rate": 0.1, "warm": 5, "norm": 9.0, "momentum": 0.0, "groups": groups}
    history = ascend(module, lambda step: step, value, 20, "it", **options)
    moved = np.diff([*seen, (slow.item(), fast.item())], axis=0)
    step = np.arange(20)
    rate = np.minimum(1, (step + 1) / 5) * (1 + np.cos(np.pi * step / 20)) / 2
    np.testing.assert_allclose(moved, rate[:, None] * [0.1, 0.3], rtol=1e-3)
    np.testing.assert_allclose(history, np.sum(seen, axis=1), rtol=1e-6)


def test_numbers_that_are_not_finite_end_it():
    module = torch.nn.ParameterList([torch.ones(1)])

    def undefined(step):
        return module[0].sum() * (torch.nan if step == 2 else 1.0)

    def indefinite(step):
        raise NotPositiveDefiniteError("a covariance holds NaN or infinity")

    for value, step in ((undefined, 2), (indefinite, 0)):
        with pytest.raises(TrainingError, match=f"^training it diverged at step {step}: .* try another seed$"):
            ascend(module, lambda step: step, value, 5, "it", learning_rate=0.1, warm=1, norm=1.0)
