"""`ldmfilter reproduce`."""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.console import Debug, Overwrite, Quiet, command, say

if TYPE_CHECKING:
    from ldmfilter.paper.experiment import Claim, Listed, Reproduction


@command
def reproduce(
    figure: Annotated[
        str | None,
        typer.Argument(help="The figure; without one, all are listed.", metavar="FIGURE", show_default=False),
    ] = None,
    size: Annotated[
        str, typer.Option(metavar="small|paper", help="small: minutes on two cores. paper: as published, for a GPU.")
    ] = "small",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for picture and numbers.")] = Path("."),
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="For fig3 of size paper: the folder of CIFAR-10. For fig4f: a session (NWB) with position on a linear "
            "track; without, a simulated one is taken. Others take none.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="The written numbers on stdout too.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Example: **ldmfilter reproduce fig2b**

    Run an experiment of Mikulasch & Zenke (2026): a picture, its numbers as JSON, and a verdict on each claim of the
    paper. The exit code is 0 whatever the verdicts. The list names the figures that use a GPU.
    """
    from ldmfilter.errors import InputError
    from ldmfilter.paper.experiment import FIGURES, SIZES, no_size
    from ldmfilter.paper.experiment import reproduce as run

    if figure is None:
        if size not in SIZES:
            raise InputError(no_size(size))
        if as_json:
            known = {name: {"about": one.about, "gpu": one.gpu, "data": one.data} for name, one in FIGURES.items()}
            print(json.dumps(known, indent=1))
        else:
            _print((name, f"{one.about} ({_needs(one)})") for name, one in FIGURES.items())
        return
    done = run(figure, size, out, seed, data, overwrite, (lambda text: None) if quiet else say)
    if as_json:
        print(done.record.read_text(encoding="utf-8"), end="")
    else:
        _show(done)


def _needs(figure: "Listed") -> str:
    device = "GPU where there is one" if figure.gpu else "CPU"
    return f"{device}; --data: {figure.data}" if figure.data else device


def _show(done: "Reproduction") -> None:
    if done.outcome.note:
        print(done.outcome.note)
    claims = done.outcome.claims
    _print(("holds" if one.holds else "FAILS", f"{one.value:.4g}", one.text + _limits(one)) for one in claims)
    print(f"{done.picture}\n{done.record}")


def _print(rows: Iterable[tuple[str, ...]]) -> None:
    """Print columns, of which the last is folded on a terminal; a row is a line in a pipe."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if sys.stdout.isatty() else Console(width=1000)
    grid = Table.grid(padding=(0, 2))
    for row in rows:
        while len(grid.columns) < len(row):
            grid.add_column(no_wrap=len(grid.columns) < len(row) - 1)
        grid.add_row(*map(Text, row))
    with console.capture() as captured:
        console.print(grid)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _limits(claim: "Claim") -> str:
    """The limits and their source, and the source of the statement."""
    both = (("at least", claim.least), ("at most", claim.most))
    limits = ", ".join(f"{word} {limit:g}" for word, limit in both if limit is not None)
    parts = ([f"{limits}; limit: {claim.limit}"] if limits else []) + (
        [f"statement: {claim.source}"] if claim.source else []
    )
    return f" ({'; '.join(parts)})" if parts else ""
