"""The frame of the experiments: claims with their limits, and the files that a run writes.

A figure is a module in this folder with `SIZES`, its settings by name; `run(settings, seed, say)`, which returns an
`Outcome`; a function that makes the claims from the numbers, and one that draws. A figure that takes data has
`run(settings, seed, say, data)`.
"""

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
from ldmfilter.files import check_target, disk_errors, replacing
from ldmfilter.version import __version__

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


class Listed(NamedTuple):
    """A figure in the list; the module of its name in `ldmfilter.paper` runs it.

    Attributes:
        about: what it shows.
        gpu: whether it computes on a GPU if there is one; else on the CPU alone.
        data: the data that it needs or can use; "" for none.
    """

    about: str
    gpu: bool
    data: str = ""


#: Figures by name.
FIGURES: dict[str, Listed] = {
    "fig2b": Listed("Two mixed natural images, unmixed by a generalised Gaussian", False),
    "fig2c": Listed("Two rotated Ornstein-Uhlenbeck processes, unmixed by their known variances", False),
    "fig3": Listed(
        "Self-supervised images: plane and sphere, three entropies, with and without MI",
        True,
        "the folder of CIFAR-10, for size paper",
    ),
    "fig4": Listed("The filter on noisy videos: position and uncertainty, kNN and stop-gradient", True),
    "fig4f": Listed(
        "The filter on spikes of a rat on a track: a ring, and position with its band",
        False,
        "a session (NWB) with position on a linear track; without, a simulated one",
    ),
    "fig5": Listed("Identification of a nonlinear oscillator behind a swirled image", True),
    "theorem1": Listed("The assumptions of Theorem 1, broken one at a time", True),
    "infoldm": Listed("Predictable noise of single units: what marginal entropies keep and discard", True),
}
#: Sizes on the command line: minutes on two cores, or the experiment as published.
SIZES = ("small", "paper")
#: Sources of limits: this package, where the paper gives none; or the statement itself.
OURS, STATED = "this package", "the statement itself"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Claim:
    """A statement, a measured number, and the limits within which the number supports the statement.

    Attributes:
        text: the statement, as a sentence.
        value: the measurement.
        least: lower limit, included; None for none.
        most: upper limit, included; None for none.
        source: of the statement: a figure, table or section of the paper, or of another publication.
        limit: source of the limits.
    """

    text: str
    value: float
    least: float | None = None
    most: float | None = None
    source: str = ""
    limit: str = OURS

    @property
    def holds(self) -> bool:
        """True where the value lies within the limits; NaN never does."""
        return (
            math.isfinite(self.value)
            and (self.least is None or self.value >= self.least)
            and (self.most is None or self.value <= self.most)
        )


@dataclass(frozen=True)
class Outcome:
    """The result of an experiment.

    Attributes:
        numbers: JSON values by name, nested as is convenient.
        claims: the paper's statements, with the measurements.
        picture: drawn, not yet saved.
        note: a caveat to the claims; "" for none.
    """

    numbers: dict[str, Any]
    claims: list[Claim]
    picture: Figure
    note: str = ""


@dataclass(frozen=True)
class Reproduction:
    """An experiment that was run, with the files that it wrote: `picture` (PNG) and `record` (JSON)."""

    figure: str
    size: str
    seed: int
    seconds: float
    outcome: Outcome
    picture: Path
    record: Path

    @property
    def holds(self) -> bool:
        """True where all claims hold."""
        return all(claim.holds for claim in self.outcome.claims)


def no_size(size: str) -> str:
    """The message for an unknown size."""
    return f"{size}: no such size; choose one of {', '.join(SIZES)}"


def summary(records: list[dict[str, float]], each: str) -> dict[str, dict[str, Any]]:
    """Of several records with the same keys the mean of each value, and under the name `each` all values."""
    values = {key: [record[key] for record in records] for key in records[0]}
    return {key: {"mean": float(np.mean(found)), each: found} for key, found in values.items()}


def bare(*every: Axes) -> None:
    """Take away the frame above and on the right of plots."""
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)


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
        say: called with lines of progress.

    Raises:
        InputError: an unknown figure or size, a seed out of its range, an output that exists, data that are missing,
            damaged or not used; a folder that cannot be written to.
    """
    if figure not in FIGURES:
        raise InputError(f"{figure}: no such figure; choose one of {', '.join(FIGURES)}")
    listed = FIGURES[figure]
    if data is not None and not listed.data:
        raise InputError(f"{data}: {figure} takes no data; leave out --data")
    module = importlib.import_module(f"ldmfilter.paper.{figure}")
    if size not in module.SIZES:
        raise InputError(no_size(size))
    if not 0 <= seed < 2**32:
        raise InputError(f"seed is {seed}; it must be a whole number from 0 to {2**32 - 1}")
    folder = Path(out)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    picture, record = (check_target(folder / f"{figure}{end}", overwrite) for end in (".png", ".json"))
    started = time.perf_counter()
    settings = module.SIZES[size]
    if getattr(settings, "checkpoints", None) is not None:  # a folder's name, next to the output
        settings = dataclasses.replace(settings, checkpoints=str(folder / settings.checkpoints))
    given = (None if data is None else Path(data),) if listed.data else ()
    outcome: Outcome = module.run(settings, seed, say, *given)
    done = Reproduction(figure, size, seed, time.perf_counter() - started, outcome, picture, record)
    with replacing(picture, overwrite) as scratch:
        outcome.picture.savefig(scratch, dpi=150, format="png")
    with replacing(record, overwrite) as scratch:
        scratch.write_text(json.dumps(_content(done, settings), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return done


def _content(done: Reproduction, settings: Any) -> Any:
    claims = [dataclasses.asdict(claim) | {"holds": claim.holds} for claim in done.outcome.claims]
    content = {
        "figure": done.figure,
        "about": FIGURES[done.figure].about,
        "size": done.size,
        "settings": dataclasses.asdict(settings),
        "seed": done.seed,
        "seconds": round(done.seconds, 2),
        "package_version": __version__,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "holds": done.holds,
        "note": done.outcome.note,
        "claims": claims,
        "numbers": done.outcome.numbers,
    }
    return _plain(content)


def _plain(value: Any) -> Any:
    """A value of JSON's types: no numpy, and null for numbers that are not finite."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
