"""The place and state of torch's computing: the device, Fabric, and the random state that a training has of its own."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from ldmfilter.config import DEVICES
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.filter.linalg import one_thread
from ldmfilter.ranks import ranks


def resolve_device(device: str) -> str:
    """Resolve "auto": CUDA where there is one, else the CPU.

    Raises:
        InputError: no such name.
        TrainingError: CUDA was asked for and is not there.
    """
    if device not in DEVICES:
        raise InputError(f"device is {device!r}; choose one of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise TrainingError("no CUDA device was found; use the device cpu or auto")
    return "cuda" if device != "cpu" and available else "cpu"


def fabric_on(device: str, precision: Any) -> Any:
    """Fabric on the device, launched with the other processes where there are some."""
    among = ranks()
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    # Its notices would stand between the command line's own lines.
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device,
        devices=among.local_size,
        num_nodes=among.size // among.local_size,
        strategy="auto" if among.size == 1 else DDPStrategy(broadcast_buffers=False),
        precision=precision,
    )
    if among.size > 1:
        fabric.launch()
    return fabric


class OwnRandomState:
    """The random state of a training, apart from the caller's: a resumed training goes on with its own numbers.

    Attributes:
        cpu: state of torch's generator.
        cuda: of the GPU's, None where none is used yet.
    """

    def __init__(self, seed: int, device: str):
        self._seed, self._on_cuda = seed, device == "cuda"
        self._deterministic = device == "cpu"
        self.cpu: Tensor = torch.Generator().manual_seed(seed).get_state()
        self.cuda: Tensor | None = None

    @contextmanager
    def active(self, advance: bool) -> Iterator[None]:
        """Compute on one thread with this state, and give torch's global state back as it was.

        Args:
            advance: go on from where the block ends; without it, from where it began.
        """
        before = torch.are_deterministic_algorithms_enabled()
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if self._on_cuda else []), one_thread():
            torch.set_rng_state(self.cpu)
            if self._on_cuda:
                torch.cuda.manual_seed(self._seed) if self.cuda is None else torch.cuda.set_rng_state(self.cuda)
            torch.use_deterministic_algorithms(self._deterministic or before)
            try:
                yield
                if advance:
                    self.cpu = torch.get_rng_state()
                    self.cuda = torch.cuda.get_rng_state() if self._on_cuda else None
            finally:
                torch.use_deterministic_algorithms(before)

    def restore(self, cpu: Tensor, cuda: Tensor | None) -> None:
        """Take a saved state. Raises: TypeError, RuntimeError where it is none."""
        torch.Generator().set_state(cpu)
        self.cpu, self.cuda = cpu, cuda
