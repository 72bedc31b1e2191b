"""`ldmfilter score`."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.console import Quiet, command, open_console, print_table, say
from ldmfilter_cli.options import AsJson, RunSession

if TYPE_CHECKING:
    from ldmfilter.analysis.score import Scores
    from ldmfilter.filter.spikes_ahead import SpikesAhead


@command
def score(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(help="Run folders of one session; without one the latest below runs/.", metavar="RUN..."),
    ] = None,
    session: RunSession = None,
    ahead: Annotated[
        list[float] | None,
        typer.Option(metavar="SECONDS", help="How far ahead; repeatable (default: 0.1, 0.2, 0.5, 1 and 2)."),
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter score**

    Are these states better than smoothed counts? What will the population do next? Spikes predicted from the states,
    in bits per spike on time that training never saw: of bins ahead, of units that were hidden, and of the bin itself.
    Beside them the same readouts of smoothed counts, a causal PCA and factor analysis.
    """
    from ldmfilter.analysis.score import AHEAD, score_runs
    from ldmfilter.filter.runs import Run

    opened = [Run.open(run) for run in runs] if runs else [Run.latest()]
    tell = None if quiet else lambda what: say(f"{what} ...")
    scores = score_runs([run.choose(session) for run in opened], ahead or AHEAD, tell)
    if as_json:
        print(json.dumps(scores.to_dict(), indent=1, allow_nan=False))
    else:
        _show(scores)


def _show(scores: "Scores") -> None:
    sources = [f">{source}" for source in next(iter(scores.rows.values()))]
    rows = [(name, *map(_number, row.values()), _lead(row)) for name, row in scores.rows.items()]
    print_table(open_console(), [scores.unit, *sources, "lead over the best of the simpler methods"], rows)
    left = f"; {scores.silent} left out, which never fire on held-out time or in training" if scores.silent else ""
    print(f"{scores.judged} held-out bins, {scores.units} units{left}; in brackets standard errors over blocks of time")
    for name, reason in scores.missing.items():
        print(f"{name}: not judged: {reason}")


def _number(one: "SpikesAhead") -> str:
    return "-" if math.isnan(one.value) else f"{one.value:.3f} ({one.error:.3f})"


def _lead(row: "dict[str, SpikesAhead]") -> str:
    """The lead of the first run over the best of the simpler methods."""
    from ldmfilter.analysis.baselines import STATES

    best = max(STATES, key=lambda name: -math.inf if math.isnan(row[name].value) else row[name].value)
    lead, error = next(iter(row.values())).lead(row[best])
    return "" if math.isnan(lead) else f"{lead:+.3f} ({error:.3f}) over {best}"
