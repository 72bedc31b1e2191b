"""`ldmfilter sweep`."""

import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ldmfilter_cli.console import INTERRUPTED, Debug, Quiet, command, follow, give_up, say, shown
from ldmfilter_cli.options import RUN, Dask, Interval, Spans, option, parse_spans, parse_widths
from typer.core import TyperCommand

from ldmfilter.config import (
    DEVICES,
    ENTROPIES,
    MODEL,
    PRECISIONS,
    TIME,
    TRAINING,
    UNITS,
    Config,
    DataConfig,
    FilterConfig,
)  # fmt: skip
from ldmfilter.data.untrusted.remote import absolute, remote_address
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.files import plain_names

if TYPE_CHECKING:
    from distributed import Client

    from ldmfilter.analysis.sweep import Combination, Progress, Sweep, SweepRun


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def _is_widths(word: str) -> bool:
    return all(part.isdigit() for part in word.split(","))


NUMBERS = (
    "latent-dim", "state-dim", "dropout", "seed", "max-steps", "learning-rate", "batch-size", "weight-decay",
)  # fmt: skip
# What goes on with the list of an option's values; the first value may be anything, and is checked as any option's is.
SEVERAL: dict[str, Callable[[str], bool]] = {
    **{f"--{name}": _is_number for name in NUMBERS},
    "--hidden": _is_widths,
    "--entropy": ENTROPIES.__contains__,
}
# Several values of these would be judged on different bins.
ONE = ("--bin-size", "--min-rate", "--reserve", "--window", "--warmup", "--held-out")


def expand(words: Sequence[str]) -> list[str]:
    """`--latent-dim 2 4 8` as `--latent-dim 2 --latent-dim 4 --latent-dim 8`, for the parser, which knows no lists.

    A word that is no value of the option ends its list.

    Raises:
        typer.BadParameter: several values for an option that takes one.
    """
    out: list[str] = []
    flag, seen = "", set()
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            return [*out, word, *rest]
        name = word.partition("=")[0]
        if name in SEVERAL or name in ONE:
            again = name in ONE and (name in seen or (name == word and len(rest) > 1 and _is_number(rest[1])))
            if again or (name in ONE and name != word and rest and _is_number(rest[0])):
                raise typer.BadParameter(
                    "takes one value in a sweep: with another the scores would be of other bins, and not comparable",
                    param_hint=name,
                )
            seen.add(name)
            out.append(word)
            if name == word and rest:
                out.append(rest.pop(0))
            flag = name if name in SEVERAL else ""
        elif flag and SEVERAL[flag](word):
            out += [flag, word]
        else:
            out.append(word)
            flag = ""
    return out


class SeveralValues(TyperCommand):
    """A command whose options take several values after one flag."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, expand(args))


_SWEEP = "Sweep"


@command
def sweep(
    sessions: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SESSION...", help="Sessions, each swept by itself; not needed with --resume.", show_default=False
        ),
    ] = None,
    latent_dim: Annotated[list[int] | None, option("latent_dim", MODEL, metavar="N N ...")] = None,
    state_dim: Annotated[list[int] | None, option("state_dim", MODEL, metavar="N N ...")] = None,
    hidden: Annotated[list[str] | None, option("hidden", MODEL, metavar="WIDTH,WIDTH ...")] = None,
    dropout: Annotated[list[float] | None, option("dropout", MODEL, metavar="X X ...")] = None,
    entropy: Annotated[list[str] | None, option("entropy", TRAINING, metavar="|".join(ENTROPIES) + " ...")] = None,
    seed: Annotated[list[int] | None, option("seed", TRAINING, metavar="N N ...")] = None,
    max_steps: Annotated[list[int] | None, option("max_steps", TRAINING, metavar="N N ...")] = None,
    learning_rate: Annotated[list[float] | None, option("learning_rate", TRAINING, metavar="X X ...")] = None,
    batch_size: Annotated[list[int] | None, option("batch_size", TRAINING, metavar="N N ...")] = None,
    weight_decay: Annotated[list[float] | None, option("weight_decay", TRAINING, metavar="X X ...")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--sweep",
            metavar="FOLDER",
            help="Sweep folder, of several sessions one of sweep folders; without it below runs/, the same for the "
            "same command.",
            rich_help_panel=_SWEEP,
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Go on with a sweep, or join in.", rich_help_panel=_SWEEP),
    ] = None,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="Try N combinations, drawn by Optuna; without it all.", rich_help_panel=_SWEEP
        ),
    ] = None,
    jobs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Processes, of one thread each.", rich_help_panel=_SWEEP)
    ] = 1,
    dask: Dask = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Options; the command line wins.", rich_help_panel=RUN),
    ] = None,
    bin_size: Annotated[float | None, option("bin_size", TIME)] = None,
    interval: Interval = None,
    span: Spans = None,
    reserve: Annotated[float | None, option("reserve", TIME)] = None,
    units: Annotated[str | None, option("units", UNITS, metavar="QUERY")] = None,
    min_rate: Annotated[float | None, option("min_rate", UNITS, metavar="HZ")] = None,
    window: Annotated[int | None, option("window", TRAINING)] = None,
    warmup: Annotated[int | None, option("warmup", TRAINING)] = None,
    held_out: Annotated[float | None, option("held_out", TRAINING)] = None,
    refit: Annotated[bool | None, option("refit", TRAINING)] = None,
    device: Annotated[str | None, option("device", TRAINING, metavar="|".join(DEVICES))] = None,
    precision: Annotated[str | None, option("precision", TRAINING, metavar="|".join(PRECISIONS))] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The table as JSON.", rich_help_panel="Messages")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Example: **ldmfilter sweep session.nwb --latent-dim 2 4 8 --entropy knn stopgrad**

    Train with every combination of the values and compare: how much better held-out time is predicted than
    without memory. Prints a table, the best first. Several seeds are repetitions: their median counts. The same
    command again, or --resume, does only what is missing. The best run is a run like any other: where the sweep
    lies below runs/, `ldmfilter decode` finds it.
    """
    several: dict[str, Sequence | None] = {
        "latent_dim": latent_dim, "state_dim": state_dim, "hidden": [parse_widths(widths) for widths in hidden or ()],
        "dropout": dropout, "entropy": entropy, "max_steps": max_steps, "learning_rate": learning_rate,
        "batch_size": batch_size, "weight_decay": weight_decay,
    }  # fmt: skip
    many = {name: list(dict.fromkeys(values)) for name, values in several.items() if values}
    one: dict[str, Any] = {
        "bin_size": bin_size, "interval": interval, "spans": parse_spans(span) or None, "reserve": reserve,
        "units": units, "min_rate": min_rate, "window": window, "warmup": warmup, "held_out": held_out,
        "refit": refit, "device": device, "precision": precision,
    }  # fmt: skip
    one = {name: value for name, value in one.items() if value is not None}
    if resume is not None and (many or one or seed or config or folder or trials):
        raise typer.BadParameter("a resumed sweep keeps its own options; leave the others out", param_hint="--resume")
    if dask is not None and jobs > 1:
        raise typer.BadParameter("the workers of the cluster are the processes", param_hint="--jobs")
    for path in sessions if sessions and len(sessions) > 1 else ():
        # A mistyped value of an option looks like one more session.
        if not path.exists() and remote_address(path) is None:
            raise typer.BadParameter(f"{path} is no file, nor a value of the option before it", param_hint="SESSION")
    from ldmfilter.analysis.sweep import Sweep, draw_scores

    make: list[Callable[[], Sweep]] = []
    session = None
    if resume is not None:
        # Of several sessions the sweeps lie below the folder that was named.
        below = sorted(path.parent for path in resume.glob("*/sweep.json")) or [resume]
        make = [partial(Sweep.open, path) for path in below]
        if sessions and len(sessions) + len(below) > 2:
            raise typer.BadParameter("where a session lies now can be told of one sweep only", param_hint="SESSION")
        session = sessions[0] if sessions else None
    elif not sessions:
        raise typer.BadParameter("name a session to train on", param_hint="SESSION")
    else:
        options = Config.read(config) if config else Config(DataConfig(), FilterConfig())
        options = options.replace(**one, **{name: values[0] for name, values in many.items() if len(values) == 1})
        options.data.validate()
        grid = {name: values for name, values in many.items() if len(values) > 1}
        if not grid and len(set(seed or ())) < 2:
            raise typer.BadParameter(
                "nothing to compare; give an option or --seed several values", param_hint="--latent-dim 2 4 8"
            )
        sessions = list(dict.fromkeys(sessions))
        for path, name in zip(sessions, plain_names(sessions), strict=True):
            place = folder / name if folder is not None and len(sessions) > 1 else folder
            make.append(partial(Sweep.create, place, path, options, grid, seed or [options.filter.seed], trials))
    sweeps: list[Sweep] = []
    failures: list[Exception] = []
    for made in make:
        try:
            the_sweep = made()
            if not quiet:
                _introduce(the_sweep, session)
        except InputError as error:
            if len(make) == 1:
                raise
            failures.append(error)
            continue
        if len(make) > 1:
            the_sweep.release()
        sweeps.append(the_sweep)
    if not dask or all(sweep.n_left == 0 for sweep in sweeps):
        failures += _follow(sweeps, jobs, session, None, quiet)
    else:
        from ldmfilter.cluster import connect

        # All sweep folders of a command are beside each other.
        reads = [absolute(session or sweep.session_path) for sweep in sweeps]
        with connect(dask, reads, sweeps[0].folder, sum(sweep.n_left for sweep in sweeps)) as client:
            failures += _follow(sweeps, jobs, session, client, quiet)
    if len(make) == 1 and failures:
        raise failures[0]
    tables = [(one, one.results()) for one in sweeps]
    if as_json:
        summaries = [summarise(*table) for table in tables]
        print(
            json.dumps(summaries[0] if len(summaries) == 1 and not failures else summaries, indent=1, allow_nan=False)
        )
    for the_sweep, results in tables:
        if not as_json:
            if len(make) > 1:
                print(the_sweep.session_path)
            _show(the_sweep, results)
        failures += _conclude(the_sweep, results, draw_scores, quiet)
    give_up(failures)


def _conclude(
    the_sweep: "Sweep", results: "list[Combination]", draw: "Callable[[Sweep], Path]", quiet: bool
) -> list[Exception]:
    """Draw a sweep's scores and tell where its best run lies. Returns why there is none."""
    best = the_sweep.best()
    picture = draw(the_sweep) if any(one.score is not None for one in results) else None
    unfinished = the_sweep.n_runs - sum(run.ended for one in results for run in one.runs)
    if unfinished and not quiet:
        say(
            f"{unfinished} run(s) are still being done by another process; "
            f"`ldmfilter sweep --resume {the_sweep.folder}` shows the table again"
        )
    if best is None:
        return [] if unfinished else [TrainingError(f"{the_sweep.folder}: no run has ended well; the table tells why")]
    if not quiet:
        if results[0].score is not None and results[0].score <= 0:
            say("warning: nothing was found that predicts held-out time; try other bins, units or a longer span")
        say(f"best run {best.folder}, picture {picture}")
    return []


def summarise(sweep: "Sweep", results: "list[Combination]") -> dict[str, Any]:
    """What `sweep --json` prints, the best combination first. Scores in nats per bin, null where there is none."""
    best = results[0].runs[0] if results and results[0].score is not None else None
    return {
        "sweep": str(sweep.folder),
        "session": sweep.session_path,
        "best": None if best is None else str(best.folder),
        "combinations": [
            {
                "options": dict(one.options),
                "score": one.score,
                "lowest": one.lowest,
                "highest": one.highest,
                "runs": [
                    {
                        "run": str(run.folder),
                        "seed": run.seed,
                        "state": run.state,
                        "score": run.score,
                        "step": run.step,
                        "effective_rank": run.effective_rank,
                        "seconds": run.seconds,
                        "reason": run.reason or None,
                    }
                    for run in one.runs
                ],
            }
            for one in results
        ],
    }


def _follow(
    sweeps: "list[Sweep]", jobs: int, session: Path | None, client: "Client | None", quiet: bool
) -> list[Exception]:
    """Do what is missing and show how far it is. Returns why a sweep could not go on."""
    from ldmfilter.analysis.sweep import describe, run_sweeps

    if all(one.n_left == 0 for one in sweeps):
        return []
    failures: list[Exception] = []
    # A bar counts steps, so that it moves within a run; a log gets a line when a run has ended.
    steps = {id(one): one.n_runs * one.config.filter.max_steps for one in sweeps}
    behind = {id(one): steps[id(one)] * (one.n_runs - one.n_left) // one.n_runs for one in sweeps}
    ended = {id(one): one.n_runs - one.n_left for one in sweeps}
    runs = sum(one.n_runs for one in sweeps)
    terminal = sys.stderr.isatty()

    def count(move: "tuple[Sweep, Progress | InputError | TrainingError]") -> int:
        the_sweep, progress = move
        if not isinstance(progress, Exception):
            behind[id(the_sweep)] = round(progress.share * steps[id(the_sweep)])
            ended[id(the_sweep)] = progress.ended
        return sum(behind.values())

    def text(move: "tuple[Sweep, Progress | InputError | TrainingError]") -> str:
        the_sweep, progress = move
        if isinstance(progress, Exception):
            return ""
        run = progress.run
        where = f"{Path(the_sweep.session_path).stem}, " if len(sweeps) > 1 else ""
        name = f"{sum(ended.values())}/{runs}  {where}{_name(describe(run.options), run, the_sweep)}"
        if run.state == "failed":
            return f"{name}: failed, {run.reason}"
        if run.ended and not terminal:
            return f"{name}: gain {run.score:.2f}, rank {run.effective_rank:.1f}, {run.seconds:.0f} s"
        return name if run.score is None else f"{name}: gain {run.score:.2f}"

    with closing(run_sweeps(sweeps, jobs, session, client)) as moves:
        try:
            start = sum(behind.values())
            for move in follow(moves, sum(steps.values()), count, text, "step", quiet or not terminal, start):
                if isinstance(move[1], Exception):
                    failures.append(move[1])
                elif move[1].run.ended and not quiet:
                    count(move)
                    say(text(move))
        except KeyboardInterrupt:
            moves.close()
            again = f"`ldmfilter sweep --resume {sweeps[0].folder}`" if len(sweeps) == 1 else "the same command"
            say(f"ldmfilter: interrupted; go on with {again}")
            raise typer.Exit(INTERRUPTED) from None
    return failures


def _introduce(sweep: "Sweep", session: Path | None) -> None:
    if note := sweep.recording(session).counts.attrs["units_left_out"]:
        say(note)
    seeds = f", {len(sweep.seeds)} seeds each" if len(sweep.seeds) > 1 else ""
    number = sweep.n_runs // len(sweep.seeds)
    what = f"{number} combination{'s' if number > 1 else ''}{seeds}"
    done = sweep.n_runs - sweep.n_left
    left = f", {done} of {sweep.n_runs} runs are done" if done else ""
    say(f"{what}{left}; sweep folder {sweep.folder}")
    possible = math.prod(map(len, sweep.grid.values()))
    if possible > len(sweep.combinations):
        say(f"{possible - len(sweep.combinations)} of {possible} left out: fewer states than latent dimensions")


def _name(options: str, run: "SweepRun", sweep: "Sweep") -> str:
    return f"{options}, seed {run.seed}" if len(sweep.seeds) > 1 else options


def _show(sweep: "Sweep", results: "list[Combination]") -> None:
    from rich.console import Console
    from rich.table import Table

    from ldmfilter.analysis.sweep import show

    # In a pipe a line is a row, however long; on a terminal the reasons of failures stand below the table.
    terminal = sys.stdout.isatty()
    console = Console() if terminal else Console(width=1000)
    table = Table(box=None, pad_edge=False, header_style="dim")
    several = len(sweep.seeds) > 1
    named = (name.replace("_", " " if terminal else "-") for name in sweep.grid)
    columns = ["run folder", *named, "gain, nats/bin"]
    for name in [*columns, *(["seeds from to"] if several else []), "step", "rank", "s", ""]:
        table.add_column(name, justify="left" if name in ("run folder", "") else "right", overflow="fold")
    for one in results:
        first = one.runs[0]
        row = [first.folder.name, *(show(one.options[name]) for name in sweep.grid), _number(one.score, 3)]
        if several:
            row.append(f"{_number(one.lowest, 3)} {_number(one.highest, 3)}".strip())
        ended_well = first.score is not None
        row += [str(first.step) if ended_well else "", _number(first.effective_rank if ended_well else None, 1)]
        row += [f"{sum(run.seconds for run in one.runs):.0f}", _remark(one, reason=not terminal)]
        table.add_row(*map(shown, row))
    if not terminal:
        with console.capture() as captured:
            console.print(table)
        print("\n".join(line.rstrip() for line in captured.get().splitlines()))
        return
    console.print(table)
    for run in (run for one in results for run in one.runs if run.state == "failed"):
        console.print(shown(f"{run.folder.name}  {run.reason}", style="dim"))


def _remark(one: "Combination", reason: bool) -> str:
    failed = [run for run in one.runs if run.state == "failed"]
    begun = sum(not run.ended for run in one.runs)
    remarks = []
    if failed:
        many = f"{len(failed)} of {len(one.runs)} failed" if len(one.runs) > 1 else "failed"
        remarks.append(f"{many}: {failed[0].reason}" if reason else many)
    if begun:
        remarks.append(f"{begun} of {len(one.runs)} to do")
    return "; ".join(remarks)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
