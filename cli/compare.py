"""`ldmfilter compare`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.console import Quiet, command, say
from ldmfilter_cli.options import AsJson, Runs, RunSession, where_now

from ldmfilter.text import open_console, print_table

if TYPE_CHECKING:
    from ldmfilter.analysis.score import Comparison


@command
def compare(
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders of one session, two or more.", metavar="RUN")
    ] = None,
    run_option: Runs = None,
    session: RunSession = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter compare runs/seed0 runs/seed1**

    Do runs agree? The R2 of the best affine map from the states of one run to those of another, on time that no run
    was trained on, beside what chance gives; and the bits per spike of hidden units there, as `ldmfilter score` has
    them. Without such time it is those of spikes ahead, as each training had them.
    """
    from ldmfilter.analysis.decode_session import stopped_early
    from ldmfilter.analysis.score import compare as compare_runs
    from ldmfilter.filter.runs import Run

    opened = [Run.open(one).choose(session) for one in [*(runs or []), *(run_option or [])]]
    for one in opened if not quiet else ():
        if warning := stopped_early(one, one.model()):
            say(warning)
    result = compare_runs(opened, where_now(opened[0], session) if opened else None)
    if not result.held_out and not quiet:
        say("warning: no time is held out by all runs; judged where they were trained, which flatters them")
    if result.unjudged and not quiet:
        say(f"warning: hidden units are not judged: {result.unjudged}")
    if as_json:
        print(json.dumps(result.to_dict(), indent=1))
    else:
        _show(result)


def _show(result: "Comparison") -> None:
    rows = []
    for number, (name, row) in enumerate(zip(result.runs, result.r2, strict=True)):
        cells = ["" if number == column else f"{value:.3f}" for column, value in enumerate(row)]
        bits = result.bits_per_spike[number]
        rows.append([f"{number + 1} {name}", *cells, "" if bits is None else f"{bits:.3f}"])
    print("R2 of the best affine map")
    heads = ["from \\ to", *(f">{number + 1}" for number in range(len(rows))), f">{result.predicted}"]
    print_table(open_console(), heads, rows)
    where = "time that no run was trained on" if result.held_out else "time that runs were trained on"
    print(
        f"median {result.median:.3f}; by chance, shifted in time, {result.chance:.3f} at most "
        f"(95th percentile); R2 on {result.bins} bins of {where}"
    )
