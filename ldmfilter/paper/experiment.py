"""What an experiment is and what it leaves behind: numbers, claims that they bear out or not, a picture."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ldmfilter.errors import InputError
from ldmfilter.files import check_target, replacing
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Listed(NamedTuple):
    """A figure that can be asked for.

    Attributes:
        module: runs it.
        about: what it shows.
        gpu: whether it computes on a GPU where there is one; else on the CPU alone.
        data: what it needs or can use; "" where nothing is taken.
    """

    module: str
    about: str
    gpu: bool
    data: str = ""


#: Figures by name.
FIGURES: dict[str, Listed] = {
    "fig2b": Listed("ldmfilter.paper.fig2b", "Two mixed natural images, unmixed by a generalised Gaussian", False),
    "fig2c": Listed(
        "ldmfilter.paper.fig2c", "Two rotated Ornstein-Uhlenbeck processes, unmixed by their known variances", False
    ),
    "fig3": Listed(
        "ldmfilter.paper.fig3",
        "Self-supervised images: plane and sphere, three entropies, with and without MI",
        True,
        "the folder of CIFAR-10, for size paper",
    ),
    "fig4": Listed(
        "ldmfilter.paper.fig4", "The filter on noisy videos: position and uncertainty, kNN and stop-gradient", True
    ),
    "fig4f": Listed(
        "ldmfilter.paper.fig4f",
        "The filter on spikes of a rat on a track: a ring, and position with its band",
        False,
        "a session (NWB) with position on a linear track; without, a simulated one",
    ),
    "fig5": Listed("ldmfilter.paper.fig5", "Identification of a nonlinear oscillator behind a swirled image", True),
    "theorem1": Listed("ldmfilter.paper.theorem1", "The assumptions of Theorem 1, broken one at a time", True),
    "infoldm": Listed(
        "ldmfilter.paper.infoldm", "Predictable noise of single units: what marginal entropies keep and discard", True
    ),
}
#: Sizes that a person may ask for: 2 cores and minutes, or the experiment as published.
SIZES = ("small", "paper")
#: Who set a limit, where the paper gives none and where the statement itself has one.
OURS, STATED = "this package", "the statement itself"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Claim:
    """A statement that a number bears out or not.

    Attributes:
        text: the statement, as a sentence.
        value: what was measured.
        least: the claim holds from this value on; None for no lower limit.
        most: the claim holds up to this value; None for no upper limit.
        source: who makes the statement: a figure, table or section of the paper, or of another publication.
        limit: who set the limits.
    """

    text: str
    value: float
    least: float | None = None
    most: float | None = None
    source: str = ""
    limit: str = OURS

    @property
    def holds(self) -> bool:
        """Whether the value lies within the limits; NaN never does."""
        return (
            math.isfinite(self.value)
            and (self.least is None or self.value >= self.least)
            and (self.most is None or self.value <= self.most)
        )


@dataclass(frozen=True)
class Outcome:
    """What an experiment found.

    Attributes:
        numbers: JSON values by name, nested as is convenient.
        claims: what the paper says, with what was measured.
        picture: drawn, not yet saved.
        note: what has to be known to read the claims right; "" for nothing.
    """

    numbers: dict[str, Any]
    claims: list[Claim]
    picture: Figure
    note: str = ""


@dataclass(frozen=True)
class Reproduction:
    """An experiment that was run; `picture` and `record` are the files that were written."""

    figure: str
    size: str
    seed: int
    seconds: float
    outcome: Outcome
    picture: Path
    record: Path

    @property
    def holds(self) -> bool:
        """Whether all claims hold."""
        return all(claim.holds for claim in self.outcome.claims)


def no_size(size: str) -> str:
    """The line that refuses a size."""
    return f"{size}: no such size; choose one of {', '.join(SIZES)}"


def refuse_data(figure: str, data: Path | None) -> None:
    """For a figure that needs no data of the person who asks for it.

    Raises:
        InputError: some were given.
    """
    if data is not None:
        raise InputError(f"{data}: {figure} takes no data; leave out --data")


def reproduce(
    figure: str,
    size: str = "small",
    out: str | os.PathLike[str] = ".",
    seed: int = 0,
    data: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    say: Say = lambda text: None,
) -> Reproduction:
    """Run an experiment and write `<figure>.png` and `<figure>.json`.

    Args:
        figure: a name in `FIGURES`.
        size: one of `SIZES`; a module may have more, which its tests use.
        out: the folder that both files go to.
        seed: of everything random.
        data: a file or folder that the figure needs or can use; see its module.
        overwrite: replace files that exist.
        say: called with a line about how far it is.

    Raises:
        InputError: an unknown figure or size, a seed out of its range, an output that exists, data that are missing,
            damaged or not used; a folder that cannot be written to.
    """
    if figure not in FIGURES:
        raise InputError(f"{figure}: no such figure; choose one of {', '.join(FIGURES)}")
    module = importlib.import_module(FIGURES[figure].module)
    if size not in module.SIZES:
        raise InputError(no_size(size))
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}; it must be a whole number from 0 to {2**32 - 1}")
    folder = Path(out)
    picture, record = (check_target(folder / f"{figure}{end}", overwrite) for end in (".png", ".json"))
    started = time.perf_counter()
    settings = module.SIZES[size]
    if getattr(settings, "checkpoints", None) is not None:  # a folder's name: it lies beside the output
        settings = dataclasses.replace(settings, checkpoints=str(folder / settings.checkpoints))
    outcome: Outcome = module.run(settings, seed, None if data is None else Path(data), say)
    seconds = time.perf_counter() - started
    with replacing(picture, overwrite) as scratch:
        outcome.picture.savefig(scratch, dpi=150, format="png")
    content = {
        "figure": figure,
        "about": FIGURES[figure].about,
        "size": size,
        "settings": dataclasses.asdict(settings),
        "seed": seed,
        "seconds": round(seconds, 2),
        "package_version": __version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "holds": all(claim.holds for claim in outcome.claims),
        "note": outcome.note,
        "claims": [dataclasses.asdict(claim) | {"holds": claim.holds} for claim in outcome.claims],
        "numbers": outcome.numbers,
    }
    with replacing(record, overwrite) as scratch:
        scratch.write_text(json.dumps(_plain(content), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return Reproduction(figure, size, seed, seconds, outcome, picture, record)


def _plain(value: Any) -> Any:
    """As JSON holds it: no numpy, and null for what is no finite number."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
