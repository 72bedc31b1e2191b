"""Options that several commands share: which stretches of time, and who works."""

import math
from typing import Annotated

import typer

TIME = "Time"

Interval = Annotated[
    str | None,
    typer.Option(
        metavar="TABLE=TAG",
        help="Rows of an interval table, as epochs=run; a table alone takes all.",
        rich_help_panel=TIME,
    ),
]
Spans = Annotated[
    list[str] | None,
    typer.Option(
        "--span",
        metavar="START:STOP",
        help="Seconds; repeatable; an end may be left open. With --interval, what lies in both.",
        rich_help_panel=TIME,
    ),
]

Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|local",
        help="Work on a Dask cluster: its scheduler's address, as tcp://HOST:8786, or one process a core here. Workers "
        "need this package and the same files under the same paths. Needs ldmfilter[dask].",
    ),
]


def parse_spans(texts: list[str] | None) -> tuple[tuple[float, float], ...]:
    """Spans of "START:STOP", s; an empty end is open. Raises: typer.BadParameter for another form."""
    spans = []
    for text in texts or ():
        start, colon, stop = text.partition(":")
        try:
            if not colon:
                raise ValueError
            spans.append((float(start) if start.strip() else -math.inf, float(stop) if stop.strip() else math.inf))
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not START:STOP in seconds, as 10:60", param_hint="--span") from None
    return tuple(spans)
