"""`ldmfilter check`."""

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.console import FAILED, Quiet, command, say
from ldmfilter_cli.options import (
    AsJson,
    Behaviors,
    Circular,
    MinSpeed,
    RunArgument,
    RunOption,
    RunSession,
    one_folder,
    open_run,
    where_now,
)

from ldmfilter.errors import one_line
from ldmfilter.text import open_console, shown

if TYPE_CHECKING:
    from ldmfilter.analysis.checks import Diagnosis


@command
def check(
    run: RunArgument = None,
    run_option: RunOption = None,
    session: RunSession = None,
    behavior: Behaviors = None,
    circular: Circular = None,
    min_speed: MinSpeed = 0.0,
    as_json: AsJson = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 where something is found.")] = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter check**

    Are the states useful, are the intervals honest, do the dynamics fit? Each finding is a number, a threshold
    with its reason, a verdict and a remedy, on time that training never saw.

    With **--behavior** the intervals of what the states say of it are judged too, in thirds
    of the bins by spikes, speed, width and value.
    """
    if not behavior and (circular or min_speed):
        raise typer.BadParameter("means something only with --behavior", param_hint="--circular, --min-speed")
    from ldmfilter.analysis import checks
    from ldmfilter.analysis.behavior import choose_behavior
    from ldmfilter.analysis.decode_session import stopped_early
    from ldmfilter.analysis.readout import read_behavior

    the_run = open_run(one_folder(run, run_option)).choose(session)
    model = the_run.model()
    if (warning := stopped_early(the_run, model)) and not quiet:
        say(warning)
    recording, counts = the_run.recording(where_now(the_run, session))
    chosen = choose_behavior(recording, behavior or (), circular or ())
    if chosen and not quiet:
        say("behaviour ...")
    reports = read_behavior(model.decode(counts), chosen, counts, min_speed=min_speed).reports if chosen else ()
    diagnosis = checks.diagnose(
        model, counts, progress=None if quiet else lambda what: say(f"{what} ..."), behavior=reports
    )
    if as_json:
        print(json.dumps({"run": str(the_run.folder)} | diagnosis.to_dict(), indent=1, allow_nan=False))
    elif sys.stdout.isatty():
        console = open_console()
        console.print(shown(str(the_run.folder), style="bold", overflow="fold"))
        diagnosis.show(console)
    else:
        _write(diagnosis, str(the_run.folder))
    if strict and not diagnosis.ok:
        raise typer.Exit(FAILED)


def _write(diagnosis: "Diagnosis", folder: str) -> None:
    """For a pipe: one line a finding, in aligned columns with tabs between them, then what to look at."""
    print(one_line(f"{folder}: {diagnosis.summary}"))
    rows = [
        [one_line(text) for text in (one.sign, one.name, one.number, one.unit, one.wanted, one.verdict)]
        for one in diagnosis.findings
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for *cells, verdict in rows:
        print("\t".join([*map(str.ljust, cells, widths), verdict]))
    for finding in diagnosis.findings:
        if not finding.ok:
            print("", *map(one_line, (finding.name, *finding.words)), sep="\n")
