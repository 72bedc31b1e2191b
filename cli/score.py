"""`ldmfilter score`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from ldmfilter_cli.console import Quiet, command, say
from ldmfilter_cli.options import AsJson, Runs, RunSession, where_now

from ldmfilter.text import open_console


@command
def score(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders of one session; without one the latest below runs/.", metavar="RUN"),
    ] = None,
    run_option: Runs = None,
    session: RunSession = None,
    ahead: Annotated[
        list[float] | None,
        typer.Option(
            metavar="SECONDS",
            help="How far ahead, rounded to whole bins; repeatable (default: 0.1, 0.2, 0.5, 1 and 2).",
        ),
    ] = None,
    peer: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="GPFA or CEBRA beside them (minutes; the extra bench); repeatable."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter score**

    Are these states better than smoothed counts? What will the population do next? Spikes predicted from the states,
    in bits per spike on time that training never saw: of bins ahead, of units that were hidden, and of the bin itself.
    Beside them the same readouts of smoothed counts, a causal PCA and factor analysis. Of several runs each has its
    lead over the best of these, and the first its lead over the others.
    """
    from ldmfilter.analysis.score import AHEAD, score_runs
    from ldmfilter.filter.runs import Run

    folders = [*(runs or []), *(run_option or [])]
    opened = [run.choose(session) for run in (map(Run.open, folders) if folders else [Run.latest()])]
    tell = None if quiet else lambda what: say(f"{what} ...")
    scores = score_runs(opened, ahead or AHEAD, peer or (), tell, where_now(opened[0], session))
    if as_json:
        print(json.dumps(scores.to_dict(), indent=1, allow_nan=False))
    else:
        scores.show(open_console())
