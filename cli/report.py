"""`ldmfilter report`."""

from pathlib import Path
from typing import Annotated

import typer
from ldmfilter_cli.console import Debug, Overwrite, Quiet, command, say
from ldmfilter_cli.options import Behaviors, Circular, MinSpeed, RunSession, open_run


@command
def report(
    run: Annotated[
        Path | None, typer.Argument(metavar="RUN", help="Run folder; without it the latest below runs/.")
    ] = None,
    session: RunSession = None,
    out: Annotated[Path, typer.Option(metavar="PAGE", help="Where the page goes; its numbers go beside it.")] = Path(
        "report.html"
    ),
    behavior: Behaviors = None,
    circular: Circular = None,
    min_speed: MinSpeed = 0.0,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Example: **ldmfilter report --out report.html --behavior linear_position**

    Show the results of a run and their uncertainty: one page that needs no network, and the same numbers as JSON
    beside it. Prints the page.
    """
    from ldmfilter.analysis.report import check_report, report_run

    check_report(out, overwrite)
    made = report_run(open_run(run).choose(session), behavior or (), circular or (), min_speed, None if quiet else say)
    page, numbers = made.write(out, overwrite)
    if not quiet:
        say(f"every number of the page: {numbers}")
    print(page)
