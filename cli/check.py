"""`ldmfilter check`."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.console import FAILED, Quiet, command, say, shown
from ldmfilter_cli.options import (
    Behaviors,
    Circular,
    MinSpeed,
    RunArgument,
    RunOption,
    one_folder,
    open_run,
    where_now,
)

from ldmfilter.errors import one_line

if TYPE_CHECKING:
    from ldmfilter.analysis.checks import Diagnosis, Finding


@command
def check(
    run: RunArgument = None,
    run_option: RunOption = None,
    session: Annotated[
        Path | None,
        typer.Option(metavar="SESSION", help="Which of the run's sessions, or where it lies now, if it was moved."),
    ] = None,
    behavior: Behaviors = None,
    circular: Circular = None,
    min_speed: MinSpeed = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="All numbers, as JSON.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where something is found.")] = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter check**

    Are the states useful, are the intervals honest, do the dynamics fit? Each finding is a number, a threshold
    with its reason, a verdict and a remedy, on time that training never saw.

    With **--behavior** the intervals of what the states say of it are judged too, in thirds of the time.
    """
    if not behavior and (circular or min_speed):
        raise typer.BadParameter("means something only with --behavior", param_hint="--circular, --min-speed")
    from ldmfilter.analysis import checks
    from ldmfilter.analysis.behavior import choose_behavior
    from ldmfilter.analysis.readout import read_behavior

    the_run = open_run(one_folder(run, run_option)).choose(session)
    model = the_run.model()
    if not model.ended_ and not quiet:
        done, wanted = model.history_[-1].step, the_run.config.filter.max_steps
        say(f"warning: {the_run.folder}: training stopped at step {done} of {wanted}; checking what it kept")
    recording, counts = the_run.recording(where_now(the_run, session))
    chosen = choose_behavior(recording, behavior, circular or ()) if behavior else []
    reports = read_behavior(model.decode(counts), chosen, counts, min_speed=min_speed).reports if chosen else ()
    diagnosis = checks.check(
        model, counts, progress=None if quiet else lambda what: say(f"{what} ..."), behavior=reports
    )
    if as_json:
        print(json.dumps({"run": str(the_run.folder)} | diagnosis.to_dict(), indent=1, allow_nan=False))
    elif sys.stdout.isatty():
        _show(diagnosis, str(the_run.folder))
    else:
        _write(diagnosis, str(the_run.folder))
    if strict and not diagnosis.ok:
        raise typer.Exit(FAILED)


def _show(diagnosis: "Diagnosis", folder: str) -> None:
    """For a terminal, however narrow: a table of numbers, then what to look at."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(shown(folder, style="bold", overflow="fold"))
    console.print(shown(diagnosis.summary))
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("", no_wrap=True)
    grid.add_column("finding", overflow="fold", ratio=1)
    grid.add_column("value", justify="right", no_wrap=True)
    grid.add_column("wanted", justify="right", no_wrap=True)
    question = ""
    for finding in diagnosis.findings:
        if finding.question != question:
            question = finding.question
            wrong = sum(not one.ok for one in diagnosis.findings if one.question == question)
            answer = f"{wrong} to look at" if wrong else "yes"
            grid.add_row("", shown(f"{question} {answer}", style="bold"), "", "")
        style = "" if finding.ok else "bold yellow"
        grid.add_row(
            *(shown(text, style=style) for text in (finding.sign, finding.name, finding.number, finding.wanted))
        )
    console.print()
    console.print(grid)
    if any(finding.doubtful for finding in diagnosis.findings):
        console.print(shown("ok~: beyond what is wanted, but not beyond chance", style="dim"))
    for finding in diagnosis.findings:
        if not finding.ok:
            console.print()
            console.print(shown(finding.name, style="bold yellow"))
            for line in _words(finding):
                console.print(shown(line))


def _write(diagnosis: "Diagnosis", folder: str) -> None:
    """For a pipe: one line a finding, in columns parted by tabs, then what to look at."""
    print(one_line(f"{folder}: {diagnosis.summary}"))
    for finding in diagnosis.findings:
        columns = (finding.sign, finding.name, finding.number, finding.unit, finding.wanted)
        print("\t".join(map(one_line, (*columns, finding.verdict))))
    for finding in diagnosis.findings:
        if not finding.ok:
            print("", *map(one_line, (finding.name, *_words(finding))), sep="\n")


def _words(finding: "Finding") -> list[str]:
    return [
        f"Found: {finding.verdict}.",
        f"Number: {' '.join((finding.number, finding.unit)).strip()}{finding.sure}; wanted {finding.wanted}.",
        f"Why there: {finding.reason}.",
        f"Remedy: {finding.remedy}.",
    ]
