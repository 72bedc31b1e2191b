"""`ldmfilter report`."""

from pathlib import Path
from typing import Annotated

import typer
from ldmfilter_cli.console import Debug, Overwrite, Quiet, command, say


@command
def report(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run folder; without it the latest below runs/.")
    ] = None,
    session: Annotated[
        Path | None, typer.Option(metavar="SESSION", help="Which of the run's sessions, where it has several.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="PAGE", help="Where the page goes; its numbers go beside it.")] = Path(
        "report.html"
    ),
    behavior: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Behaviour to read from the states, as inspect prints it; repeatable."),
    ] = None,
    circular: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Behaviour that is circular whatever its unit and name say; repeatable."),
    ] = None,
    min_speed: Annotated[
        float,
        typer.Option(metavar="V", help="Leave out bins in which the first behaviour changes more slowly, per s."),
    ] = 0.0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Example: **ldmfilter report --out report.html --behavior linear_position**

    Show what a run found and how sure it may be: one page that needs no network, and the same numbers as JSON
    beside it. Prints the page.
    """
    from ldmfilter.analysis.report import check_report, report_run
    from ldmfilter.filter.runs import Run

    check_report(out, overwrite)
    the_run = (Run.open(run) if run is not None else Run.latest()).choose(session)
    made = report_run(the_run, behavior or (), circular or (), min_speed, None if quiet else say)
    page, numbers = made.write(out, overwrite)
    if not quiet:
        say(f"every number of the page: {numbers}")
    print(page)
