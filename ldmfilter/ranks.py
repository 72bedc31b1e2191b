"""The processes that `torchrun` started to train one filter together; without it, this one alone."""

import os
from dataclasses import dataclass


@dataclass(frozen=True)
class Ranks:
    """The place of this process among those that train together.

    Attributes:
        rank: from 0; the first alone writes and prints.
        size: processes in all.
        local_size: those on this machine.
    """

    rank: int = 0
    size: int = 1
    local_size: int = 1

    @property
    def first(self) -> bool:
        """True for the one that writes and prints."""
        return self.rank == 0


def ranks() -> Ranks:
    """From the environment that torchrun sets."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return Ranks()
    return Ranks(*(int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")))
