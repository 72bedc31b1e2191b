"""`ldmfilter report`."""

from pathlib import Path
from typing import Annotated

import typer
from ldmfilter_cli.console import Overwrite, Quiet, command, say
from ldmfilter_cli.options import (
    TRIALS,
    Align,
    Behaviors,
    Circular,
    Filter,
    MinSpeed,
    RunArgument,
    RunOption,
    RunSession,
    Window,
    one_folder,
    open_run,
    where_now,
)


@command
def report(
    run: RunArgument = None,
    run_option: RunOption = None,
    session: RunSession = None,
    out: Annotated[Path, typer.Option(metavar="PAGE", help="Where the page goes; its numbers go beside it.")] = Path(
        "report.html"
    ),
    behavior: Behaviors = None,
    circular: Circular = None,
    min_speed: MinSpeed = 0.0,
    align: Align = None,
    window: Window = None,
    filter: Filter = None,
    condition: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Column of the table whose values are conditions.", rich_help_panel=TRIALS),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter report --out report.html --behavior linear_position**

    Show the results of a run and their uncertainty: one page that needs no network, and the same numbers as JSON
    beside it. Prints the page.

    A session with a table of trials is shown in trials, from their start; **--align**, **--window** and **--condition**
    choose others.
    """
    from ldmfilter.analysis import report as pages
    from ldmfilter.analysis.behavior import choose_behavior

    speak = None if quiet else say
    chosen = open_run(one_folder(run, run_option)).choose(session)
    where = where_now(chosen, session)
    if behavior and not overwrite and out.exists():  # a wrong name is told before a page that is there
        choose_behavior(chosen.recording(where)[0], behavior, circular or ())
    pages.check_report(out, overwrite)
    made = pages.report(
        chosen, behavior or (), circular or (), min_speed, speak, align, window, filter, condition, where
    )
    page, numbers = made.write(out, overwrite)
    if not quiet:
        say(f"every number of the page: {numbers}")
    print(page)
