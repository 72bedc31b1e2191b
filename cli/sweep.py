"""`ldmfilter sweep`."""

import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ldmfilter_cli.console import INTERRUPTED, Command, Quiet, command, give_up, say
from ldmfilter_cli.options import ConfigFile, Dask, parse_widths, with_options

from ldmfilter.analysis.combinations import SWEPT, Combination, SweepRun, best_run, describe, draw_scores, show
from ldmfilter.config import OPTIONS, Config, kind
from ldmfilter.data.untrusted.remote import absolute, remote_address
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.files import plain_names
from ldmfilter.progress import follow
from ldmfilter.text import open_console, print_lines, print_table

if TYPE_CHECKING:
    from ldmfilter.analysis.sweep import Sweep


MANY = (*SWEPT, "seed")
# Several values of these would be judged on different bins or frames.
BINS = ("bin_size", "min_rate", "reserve", "dynamics", "frame", "window", "warmup", "held_out")
_FLAGS = {f"--{name.replace('_', '-')}": name for name in (*MANY, *BINS)}


def _fits(name: str, word: str) -> bool:
    """True where a word is a value of an option, and so continues the list of its values."""
    if choices := OPTIONS[name].metadata.get("choices"):
        return word in choices
    read: Callable[[str], Any] = float if kind(OPTIONS[name]) in (int, float) else parse_widths
    try:
        read(word)
    except (ValueError, typer.BadParameter):
        return False
    return True


def expand(words: Sequence[str]) -> list[str]:
    """`--latent-dim 2 4 8` as `--latent-dim 2 --latent-dim 4 --latent-dim 8`, for the parser, which knows no lists.

    A word that is no value of the option ends its list; the first value may be any word, which the parser checks.
    Raises typer.BadParameter for several values of an option that takes one.
    """
    out: list[str] = []
    flag, seen = "", set()
    rest = iter(words)
    for word in rest:
        if word == "--":
            return [*out, word, *rest]
        name, equals, _ = word.partition("=")
        again = name in seen
        if name in _FLAGS:
            flag = name
            seen.add(flag)
            out += [word, *itertools.islice(rest, 0 if equals else 1)]
        elif flag and _fits(_FLAGS[flag], word):
            again = True
            out += [flag, word]
        else:
            flag = ""
            out.append(word)
        if again and _FLAGS[flag] in BINS:
            raise typer.BadParameter(
                "takes one value in a sweep: bits per spike of other bins or frames cannot be compared; train with "
                "each, and compare what `ldmfilter decode --behavior` reads, or leads over a causal PCA in "
                "`ldmfilter check`",
                param_hint=flag,
            )
    return out


class SeveralValues(Command):
    """A command whose options take several values after one flag."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, expand(args))


_option = partial(typer.Option, rich_help_panel="Sweep")


@command
@with_options(*(name for name in OPTIONS if name not in MANY), several=MANY)
def sweep(
    sessions: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SESSION", help="Sessions, each swept by itself; not needed with --resume.", show_default=False
        ),
    ] = None,
    *,
    options: dict[str, Any],
    folder: Annotated[
        Path | None,
        _option(
            "--sweep",
            metavar="FOLDER",
            help="Sweep folder, of several sessions one of sweep folders; without it below runs/, the same for the "
            "same command.",
        ),
    ] = None,
    resume: Annotated[Path | None, _option(metavar="FOLDER", help="Go on with a sweep, or join in.")] = None,
    trials: Annotated[
        int | None, _option(min=1, metavar="N", help="Try N combinations, drawn by Optuna; without it all.")
    ] = None,
    jobs: Annotated[int, _option(min=1, metavar="N", help="Processes, of one thread each.")] = 1,
    dask: Dask = None,
    config: ConfigFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="The table as JSON.", rich_help_panel="Messages")] = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter sweep session.nwb --latent-dim 2 4 8 --entropy knn stopgrad**

    Train with every combination of the values and compare how well their states predict spikes ahead, in blocks of
    training time. The score of hidden units on reserved time, as `ldmfilter score` has it, stands beside it; of several
    dropouts look at that one, as what overfits leads in training time.
    Bins, frames and windows take one value: scores of others cannot be compared. Prints a table, the best first.
    Several seeds are repetitions: their median counts. The same command again, or --resume, does only what is missing.
    The best run is a run like any other: where the sweep lies below runs/, `ldmfilter decode` finds it.
    """
    if resume is not None and (options or config or folder or trials):
        raise typer.BadParameter("a resumed sweep keeps its own options; leave the others out", param_hint="--resume")
    if dask is not None and jobs > 1:
        raise typer.BadParameter("the workers of the cluster are the processes", param_hint="--jobs")
    sessions = sessions or []
    if resume is not None:
        make = _resumed(resume, sessions)
    else:
        make = _asked(sessions, folder, Config.read(config) if config else Config(), options, trials)
    sweeps: list[Sweep] = []
    failures: list[Exception] = []
    for made in make:
        try:
            sweeps.append(made())
            if not quiet:
                _introduce(sweeps[-1])
        except InputError as error:
            failures.append(error)
    if sweeps:
        failures += _follow(sweeps, jobs, dask, quiet)
    if len(make) == 1 and failures:
        raise failures[0]
    give_up(failures + _print(sweeps, len(make) > 1, as_json, quiet))


def _resumed(resume: Path, sessions: list[Path]) -> "list[Callable[[], Sweep]]":
    """Open a sweep, or those of several sessions, which lie below the folder that was named."""
    from ldmfilter.analysis.sweep import Sweep

    below = sorted(path.parent for path in resume.glob("*/sweep.json")) or [resume]
    if sessions and len(sessions) + len(below) > 2:
        raise typer.BadParameter("where a session lies now can be told of one sweep only", param_hint="SESSION")
    return [partial(Sweep.open, path, next(iter(sessions), None)) for path in below]


def _asked(
    sessions: list[Path], folder: Path | None, config: Config, options: dict[str, Any], trials: int | None
) -> "list[Callable[[], Sweep]]":
    """Make a sweep of each session."""
    from ldmfilter.analysis.sweep import Sweep

    many = {name: list(dict.fromkeys(options.pop(name, ()))) for name in MANY}
    single = {name: values[0] for name, values in many.items() if len(values) == 1}
    grid = {name: many[name] for name in SWEPT if len(many[name]) > 1}
    base = config.replace(**options, **single)
    base.data.validate()
    seeds = many["seed"] or [base.filter.seed]
    if not sessions:
        raise typer.BadParameter("name a session to train on", param_hint="SESSION")
    for path in sessions if len(sessions) > 1 else ():
        # A mistyped value of an option looks like one more session.
        if not path.exists() and remote_address(path) is None:
            raise typer.BadParameter(f"{path} is no file, nor a value of the option before it", param_hint="SESSION")
    if not grid and len(seeds) < 2:
        raise typer.BadParameter("nothing to compare; give an option or --seed several values, as --latent-dim 2 4 8")
    sessions = list(dict.fromkeys(sessions))
    several = folder is not None and len(sessions) > 1
    return [
        partial(Sweep.create, folder / name if folder and several else folder, path, base, grid, seeds, trials)
        for path, name in zip(sessions, plain_names(sessions), strict=True)
    ]


def _introduce(sweep: "Sweep") -> None:
    if note := sweep.recording()[1].attrs["units_left_out"]:
        say(note)
    seeds = f", {len(sweep.seeds)} seeds each" if len(sweep.seeds) > 1 else ""
    number = sweep.n_runs // len(sweep.seeds)
    what = f"{number} combination{'s' if number > 1 else ''}{seeds}"
    done = sweep.n_runs - sweep.n_left
    say(f"{what}{f', {done} of {sweep.n_runs} runs are done' if done else ''}; sweep folder {sweep.folder}")
    possible = math.prod(map(len, sweep.grid.values()))
    if possible > len(sweep.combinations):
        say(f"{possible - len(sweep.combinations)} of {possible} left out: fewer states than latent dimensions")


def _follow(sweeps: "list[Sweep]", jobs: int, dask: str | None, quiet: bool) -> list[Exception]:
    """Do what is missing and show the progress. Returns why a sweep could not go on."""
    from ldmfilter.analysis.sweep import run_sweeps
    from ldmfilter.cluster import workers

    runs, left = sum(one.n_runs for one in sweeps), sum(one.n_left for one in sweeps)
    steps = sum(one.n_runs * one.steps for one in sweeps)
    terminal = sys.stderr.isatty()

    # A bar counts steps, so that it moves within a run; a log gets a line when a run has ended.
    def done(_: Any = None) -> int:
        return round(sum(one.share * one.n_runs * one.steps for one in sweeps))

    def text(move: "tuple[Sweep, SweepRun | InputError | TrainingError]") -> str:
        sweep, run = move
        if isinstance(run, Exception):
            return ""
        where = f"{Path(sweep.session_path).stem}, " if len(sweeps) > 1 else ""
        seed = f", seed {run.seed}" if len(sweep.seeds) > 1 else ""
        name = f"{sum(one.ended for one in sweeps)}/{runs}  {where}{describe(run.options)}{seed}"
        if run.state == "failed":
            return f"{name}: failed, {run.reason}"
        if run.score is None:
            return name
        name += f": {run.score:.3f} bits per spike"
        return f"{name}, rank {run.effective_rank:.1f}, {run.seconds:.0f} s" if run.ended and not terminal else name

    failures: list[Exception] = []
    # All sweep folders of a command are beside each other.
    reads = [absolute(one.session) for one in sweeps]
    try:
        with (
            workers(dask if left else None, jobs, reads, sweeps[0].folder, left) as executor,
            closing(run_sweeps(sweeps, executor)) as moves,
        ):
            for move in follow(moves, steps, done, text, "step", quiet or not terminal, done()):
                if isinstance(move[1], Exception):
                    failures.append(move[1])
                elif move[1].ended and not quiet:
                    say(text(move))
    except KeyboardInterrupt:
        again = f"`ldmfilter sweep --resume {sweeps[0].folder}`" if len(sweeps) == 1 else "the same command"
        say(f"ldmfilter: interrupted; go on with {again}")
        raise typer.Exit(INTERRUPTED) from None
    return failures


def _print(sweeps: "list[Sweep]", several: bool, as_json: bool, quiet: bool) -> list[Exception]:
    """Print the tables of sweeps, and draw them. Returns a failure for each that has no best run."""
    tables = [(one, one.results()) for one in sweeps]
    if as_json:
        summaries = [summarise(*table) for table in tables]
        print(json.dumps(summaries if several else summaries[0], indent=1, allow_nan=False))
    failures: list[Exception] = []
    for one, results in tables:
        if not as_json:
            if several:
                print(one.session_path)
            _show(one, results)
        best, left = best_run(results), one.n_runs - one.ended
        if left and not quiet:
            say(
                f"{left} run(s) are still being done by another process; "
                f"`ldmfilter sweep --resume {one.folder}` shows the table again"
            )
        if best:
            picture = one.folder / "sweep.png"
            draw_scores(results, one.session_path, picture)
            if not quiet:
                if (results[0].score or 0.0) <= 0:
                    say(
                        "warning: nothing was found that predicts held-out time; try other bins, units or a longer span"
                    )
                say(f"best run {best.folder}, picture {picture}")
        elif not left:
            failures.append(TrainingError(f"{one.folder}: no run has ended well; the table tells why"))
    return failures


def summarise(sweep: "Sweep", results: list[Combination]) -> dict[str, Any]:
    """The table that `sweep --json` prints, the best combination first. Scores in bits per spike, null without one."""

    def about(run: SweepRun) -> dict[str, Any]:
        names = ("seed", "state", "score", "hidden_units", "step", "effective_rank", "seconds")
        return {"run": str(run.folder), **{name: getattr(run, name) for name in names}, "reason": run.reason or None}

    best = best_run(results)
    combinations = [
        {
            "options": dict(one.options),
            **{name: getattr(one, name) for name in ("score", "lowest", "highest")},
            "runs": list(map(about, one.runs)),
        }
        for one in results
    ]
    return {
        "sweep": str(sweep.folder),
        "session": sweep.session_path,
        "best": None if best is None else str(best.folder),
        "combinations": combinations,
    }


def _show(sweep: "Sweep", results: list[Combination]) -> None:
    # In a pipe a line is a row, however long; on a terminal the reasons of failures stand below the table.
    terminal, several = sys.stdout.isatty(), len(sweep.seeds) > 1
    console = open_console()
    named = (">" + name.replace("_", " " if terminal else "-") for name in sweep.grid)
    judged = any(run.hidden_units is not None for one in results for run in one.runs)
    heads = ["run folder", *named, ">bits per spike ahead, in training", *[">seeds from to"] * several]
    heads += [*[">hidden units, reserved time"] * judged, ">step", ">rank", ">s", ""]
    rows, failed = [], []
    for one in results:
        first, wrong = one.runs[0], [run for run in one.runs if run.state == "failed"]
        row = [first.folder.name, *(show(one.options[name]) for name in sweep.grid), _number(one.score, 3)]
        if several:
            row.append(f"{_number(one.lowest, 3)} {_number(one.highest, 3)}".strip())
        hidden = [run.hidden_units for run in one.runs if run.hidden_units is not None]
        row += [_number(statistics.median(hidden) if hidden else None, 3)] * judged
        row += ["", ""] if first.score is None else [str(first.step), _number(first.effective_rank, 1)]
        remarks = []
        if wrong:
            many = f"{len(wrong)} of {len(one.runs)} failed" if len(one.runs) > 1 else "failed"
            remarks.append(many if terminal else f"{many}: {wrong[0].reason}")
        if begun := sum(not run.ended for run in one.runs):
            remarks.append(f"{begun} of {len(one.runs)} to do")
        rows.append([*row, f"{sum(run.seconds for run in one.runs):.0f}", "; ".join(remarks)])
        failed += wrong
    print_table(console, heads, rows)
    print_lines(console, *(f"{run.folder.name}  {run.reason}" for run in failed if terminal), style="dim")


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
