"""The training loop of the networks in `images` and `paper`: Fabric moves tensors and sets the precision."""

import logging
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from ldmfilter.errors import TrainingError
from ldmfilter.tensors import Tensors, below, optimizer_state, restore_optimizer

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # no messages at the start


class Trainer:
    """A module and its optimizer, which maximise an objective step by step.

    Args:
        module: the network, moved to the device.
        optimizer: of the module's weights; the learning rate of each of its groups is the highest.
        rate: share of the learning rate at a step, counted from 0.
        what: is trained, for the error.
        remedy: for the error, what to try.
        norm: gradients are clipped to it; None leaves them.
        device: "cpu" or "cuda".
        precision: of the module's forward pass, as Fabric names it.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        rate: Callable[[int], float],
        what: str,
        *,
        remedy: str = "try another seed",
        norm: float | None = None,
        device: str = "cpu",
        precision: Any = "32-true",
    ):
        self.fabric = Fabric(accelerator=device, devices=1, precision=precision)
        self.network = module
        self.module, self.optimizer = self.fabric.setup(module, optimizer)
        self.step = 0
        self._rate, self._norm = rate, norm
        self._error = f"training {what} diverged at step {{}}: its numbers are not finite any more; {remedy}"
        self._highest = [group["lr"] for group in optimizer.param_groups]

    def advance(self, batch: Any, objective: Callable[[Any], Tensor]) -> Tensor:
        """Take one step, and return the objective before it, without gradient.

        Args:
            batch: a tensor, or tensors in lists and dictionaries, on any device.
            objective: a scalar of a batch.

        Raises TrainingError where numbers are not finite.
        """
        for group, highest in zip(self.optimizer.param_groups, self._highest, strict=True):
            group["lr"] = self._rate(self.step) * highest
        self.optimizer.zero_grad()
        try:
            value = objective(self.fabric.to_device(batch))
            self.fabric.backward(-value)
            size = value.detach()
            if self._norm is not None:
                size = size + self.fabric.clip_gradients(  # type: ignore[operator]
                    self.module, self.optimizer, max_norm=self._norm, error_if_nonfinite=False
                )
            finite = bool(torch.isfinite(size))
        except torch.linalg.LinAlgError:  # a factorisation is the first to meet numbers that are not finite
            finite = False
        if not finite:
            raise TrainingError(self._error.format(self.step))
        self.optimizer.step()
        self.step += 1
        return value.detach()

    def state(self) -> tuple[Tensors, dict[str, Any]]:
        """Named tensors of network and optimizer, and the values of the loss scaling; `load` takes both."""
        network = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        return network | optimizer_state(self.optimizer), self.fabric.strategy.precision.state_dict()

    def load(self, tensors: Tensors, scaler: dict[str, Any], step: int) -> None:
        """Go on from the step at which `state` was taken.

        Raises KeyError, RuntimeError or ValueError for tensors of another network or optimizer.
        """
        self.network.load_state_dict(below("network.", tensors))
        restore_optimizer(self.optimizer, tensors)
        self.fabric.strategy.precision.load_state_dict(scaler)
        self.step = step


def ascend(
    module: nn.Module,
    batch: Callable[[int], Any],
    objective: Callable[[Any], Tensor],
    steps: int,
    what: str,
    *,
    learning_rate: float,
    warm: float,
    norm: float,
    momentum: float = 0.9,
    groups: list[dict[str, Any]] | None = None,
) -> Float[np.ndarray, " step"]:
    """Maximise by AdamW on the module's own device, and return the objective at each step.

    Args:
        batch, objective: the batch of a step, counted from 0; the value for a batch.
        what: is trained, for the error.
        learning_rate: the highest; it rises linearly in `warm` steps and falls as a cosine.
        norm: gradients are clipped to it.
        momentum: beta 1.
        groups: of weights, with an "lr" and a "weight_decay" of their own (default: none); by default all weights.

    Raises TrainingError where numbers are not finite.
    """

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))

    weights = list(module.parameters())
    optimizer = torch.optim.AdamW(groups or weights, lr=learning_rate, betas=(momentum, 0.999), weight_decay=0.0)
    trainer = Trainer(module, optimizer, rate, what, norm=norm, device=weights[0].device.type)
    return np.array([float(trainer.advance(batch(step), objective)) for step in range(steps)])
