"""`ldmfilter reproduce`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.console import Overwrite, Quiet, command, say

from ldmfilter.text import open_console, print_table

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
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of everything random.")] = 0,
    overwrite: Overwrite = False,
    as_json: Annotated[bool, typer.Option("--json", help="The written numbers on stdout too.")] = False,
    quiet: Quiet = False,
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
            rows = [(name, f"{one.about} ({_needs(one)})") for name, one in FIGURES.items()]
            print_table(open_console(), ["", ""], rows)
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
    rows = [
        ("holds" if claim.holds else "FAILS", f"{claim.value:.4g}", claim.text + _limits(claim))
        for claim in done.outcome.claims
    ]
    print_table(open_console(), ["", "", ""], rows)
    print(f"{done.picture}\n{done.record}")


def _limits(claim: "Claim") -> str:
    """The limits of the value, who set them, and whose statement it is."""
    both = (("at least", claim.least), ("at most", claim.most))
    limits = [f"{word} {limit:g}" for word, limit in both if limit is not None]
    parts = [f"{', '.join(limits)}; limit: {claim.limit}"] if limits else []
    parts += [f"statement: {claim.source}"] if claim.source else []
    return f" ({'; '.join(parts)})" if parts else ""
