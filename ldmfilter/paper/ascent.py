"""The ascent that trains the networks of this package's experiments."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from ldmfilter.errors import TrainingError
from ldmfilter.filter.linalg import NotPositiveDefiniteError, one_thread


def ascend(
    weights: Iterable[nn.Parameter] | list[dict[str, Any]],
    value: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    what: str,
    *,
    warm: float,
    norm: float,
    momentum: float = 0.9,
) -> Float[np.ndarray, " step"]:
    """Maximise by AdamW, on one thread: the products are small.

    Args:
        weights: what is changed; or groups of it, with an "lr" and a "weight_decay" of their own (default: none).
        value: of a step, counted from 0.
        steps: their number.
        learning_rate: the highest. It rises linearly and falls as a cosine.
        what: is trained, for the error.
        warm: steps in which the rate rises.
        norm: gradients are clipped to it.
        momentum: beta 1.

    Returns:
        The value at each step.

    Raises:
        TrainingError: numbers are not finite any more.
    """
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, betas=(momentum, 0.999), weight_decay=0.0)
    changed = [weight for group in optimizer.param_groups for weight in group["params"]]
    highest = [group["lr"] for group in optimizer.param_groups]
    history = np.empty(steps)
    with one_thread():
        for step in range(steps):
            share = min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group, most in zip(optimizer.param_groups, highest, strict=True):
                group["lr"] = share * most
            optimizer.zero_grad()
            try:
                now = value(step)
                (-now).backward()
                finite = bool(torch.isfinite(nn.utils.clip_grad_norm_(changed, norm)))
            except (torch.linalg.LinAlgError, NotPositiveDefiniteError):  # what first meets numbers that are not finite
                finite = False
            if not finite:
                raise TrainingError(
                    f"training {what} diverged at step {step}: its numbers are not finite any more; try another --seed"
                )
            optimizer.step()
            history[step] = now.item()
    return history
