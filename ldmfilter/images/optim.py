"""LARS, groups of parameters, and the schedule of the learning rate."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class LARS(Optimizer):
    """Stochastic gradient descent with momentum, each layer at a rate set by its weights (You, Gitman & Ginsburg
    2017, algorithm 1):

        v <- momentum v + lr lambda (g + decay w),  w <- w - v,  lambda = trust |w| / (|g| + decay |w|)

    lambda is 1 where either norm is 0, so that a layer of zeros can leave, and in groups with `adapt` False, of biases
    and norms."""

    def __init__(self, params: Any, lr: float, momentum: float = 0.9, weight_decay: float = 0.0, trust: float = 1e-3):
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust, "adapt": True},
        )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                local, size = torch.ones((), device=p.device, dtype=p.dtype), p.norm()
                if group["adapt"]:
                    length = p.grad.norm() + group["weight_decay"] * size
                    local = torch.where((length > 0) & (size > 0), group["trust"] * size / length, 1.0)
                state = self.state[p]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(p)
                step = p.grad.add(p, alpha=group["weight_decay"]).mul_(group["lr"] * local)
                p.sub_(state["momentum"].mul_(group["momentum"]).add_(step))
        return loss


def parameter_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights, which decay and adapt, and biases and norms, which do neither."""
    weights = [p for p in module.parameters() if p.ndim > 1]
    plain = [p for p in module.parameters() if p.ndim <= 1]
    return [
        {"params": weights, "weight_decay": weight_decay, "adapt": True},
        {"params": plain, "weight_decay": 0.0, "adapt": False},
    ]


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the learning rate at a step: up in a line over `warmup` steps, then down half a cosine to nearly 0.

    >>> [round(rate(step, 10, 2), 2) for step in (0, 1, 2, 6, 9)]
    [0.5, 1.0, 1.0, 0.5, 0.04]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
