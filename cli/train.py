"""`ldmfilter train`."""

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ldmfilter_cli.choice import TIME, Interval, Spans, parse_spans
from ldmfilter_cli.console import INTERRUPTED, Debug, Quiet, command, follow, say
from ldmfilter_cli.inspect import SESSION, Format

from ldmfilter.config import DEVICES, ENTROPIES, PRECISIONS, Config, DataConfig, FilterConfig, read_toml
from ldmfilter.ranks import ranks

if TYPE_CHECKING:
    from ldmfilter.filter.training import Record

HELP = {f.name: f.metadata["help"] for f in (*fields(DataConfig), *fields(FilterConfig))}
UNITS, MODEL, TRAINING, RUN = "Units", "Model", "Training", "Run"


def option(name: str, panel: str, *flags: str, **more: Any) -> Any:
    """The option of a configuration's field, with the field's help and default; for `train` and `sweep`."""
    default = {f.name: f.default for f in (*fields(DataConfig), *fields(FilterConfig))}[name]
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or None
    shown = "" if default is None else f" (default: {default})"
    return typer.Option(*flags, help=HELP[name] + shown, rich_help_panel=panel, show_default=False, **more)


@command
def train(
    session: Annotated[
        list[Path] | None,
        typer.Argument(
            help=f"{SESSION} Several share one filter, with an encoder each. Not needed with --resume.",
            show_default=False,
        ),
    ] = None,
    format: Format = None,
    run: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Run folder; without it a new one below runs/.", rich_help_panel=RUN),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with --run, or with the latest run.", rich_help_panel=RUN)
    ] = False,
    add: Annotated[
        Path | None,
        typer.Option(
            metavar="SESSION",
            help="Fit an encoder for a further session to the trained filter of --run, or of the latest run.",
            rich_help_panel=RUN,
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.toml", help="Options; the command line wins.", rich_help_panel=RUN),
    ] = None,
    bin_size: Annotated[float | None, option("bin_size", TIME)] = None,
    interval: Interval = None,
    span: Spans = None,
    units: Annotated[str | None, option("units", UNITS, metavar="QUERY")] = None,
    min_rate: Annotated[float | None, option("min_rate", UNITS, metavar="HZ")] = None,
    reserve: Annotated[float | None, option("reserve", TIME)] = None,
    latent_dim: Annotated[int | None, option("latent_dim", MODEL)] = None,
    state_dim: Annotated[int | None, option("state_dim", MODEL)] = None,
    hidden: Annotated[str | None, option("hidden", MODEL, metavar="WIDTH,WIDTH")] = None,
    dropout: Annotated[float | None, option("dropout", MODEL)] = None,
    entropy: Annotated[str | None, option("entropy", TRAINING, metavar="|".join(ENTROPIES))] = None,
    seed: Annotated[int | None, option("seed", TRAINING)] = None,
    max_steps: Annotated[int | None, option("max_steps", TRAINING)] = None,
    learning_rate: Annotated[float | None, option("learning_rate", TRAINING)] = None,
    batch_size: Annotated[int | None, option("batch_size", TRAINING)] = None,
    window: Annotated[int | None, option("window", TRAINING)] = None,
    warmup: Annotated[int | None, option("warmup", TRAINING)] = None,
    weight_decay: Annotated[float | None, option("weight_decay", TRAINING)] = None,
    held_out: Annotated[float | None, option("held_out", TRAINING)] = None,
    refit: Annotated[bool | None, option("refit", TRAINING)] = None,
    device: Annotated[str | None, option("device", TRAINING, metavar="|".join(DEVICES))] = None,
    precision: Annotated[str | None, option("precision", TRAINING, metavar="|".join(PRECISIONS))] = None,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Example: **ldmfilter train session.nwb --interval epochs=run**

    Train a filter on a session's spikes, without labels. Prints the run folder. Ctrl-C stops; --resume
    goes on, to the same result. Several sessions are decoded into the same states: **ldmfilter train a.nwb b.nwb**
    """
    given = {
        name: value
        for name, value in locals().items()
        if name in HELP and value is not None and name not in ("interval", "hidden")
    }
    if interval is not None:
        given["interval"] = interval
    if span:
        given["spans"] = parse_spans(span)
    if hidden is not None:
        given["hidden"] = parse_widths(hidden)
    from ldmfilter.filter.runs import Run

    if (resume or add is not None) and (given or config is not None or (resume and format is not None)):
        hint = "--resume" if resume else "--add"
        raise typer.BadParameter("a run keeps its own options; leave the others out", param_hint=hint)
    if add is not None:
        if resume or session:
            raise typer.BadParameter("name the session to add, and no other", param_hint="--add")
        _add(Run.open(run) if run is not None else Run.latest(), add, format, quiet)
        return
    if resume:
        the_run = Run.open(run) if run is not None else Run.latest()
        training, counts = _resumed(the_run, session or ())
    else:
        if not session:
            raise typer.BadParameter("name a session to train on", param_hint="SESSION")
        options = (Config.read(config) if config else Config(DataConfig(), FilterConfig())).replace(**given)
        if options.filter.state_dim is None:  # the run folder keeps every option resolved
            options = options.replace(state_dim=options.filter.states)
        options.validate()
        told = read_toml(config).get("data", {}) if config else {}
        said = bin_size is not None or not {"bin_size", "bin-size"}.isdisjoint(told)
        the_run, training, counts = _new(run, session, format, options, said, quiet)
    if not quiet:
        _say_hello(the_run, training, counts)
    records = the_run.train(training, counts)
    try:
        steps = the_run.config.filter.max_steps
        for _ in follow(records, steps, lambda record: record.step, _numbers, "step", quiet, training.step):
            pass
    except KeyboardInterrupt:
        if ranks().first:
            say(f"ldmfilter: interrupted; go on with `ldmfilter train --resume --run {the_run.folder}`")
        raise typer.Exit(INTERRUPTED) from None
    if not quiet:
        best = max(training.history, key=lambda record: record.score)
        if best.score <= 0:
            say("warning: nothing was found that predicts held-out time; try other bins, units or a longer span")
        say(
            f"kept step {best.step}: prediction gains {best.score:.2f} nats per bin over no memory, on held-out time; "
            f"effective rank {best.effective_rank:.1f} of {the_run.config.filter.latent_dim}"
        )
        _say_doubts(training, [one.session for one in the_run.sessions[1:]], the_run.sessions[0].session)
    if ranks().first:
        print(the_run.folder)


def _add(run: Any, path: Path, format: str | None, quiet: bool) -> None:
    """Fit an encoder for a further session to a trained run, and print the run's folder."""
    adding = run.add(run.read(path, format))
    if not quiet:
        if adding.counts.attrs["units_left_out"]:
            say(adding.counts.attrs["units_left_out"])
        _say_hello(run, adding.training, [adding.counts])
    steps = run.config.filter.max_steps
    for _ in follow(adding.train(), steps, lambda record: record.step, _numbers, "step", quiet):
        pass
    if not quiet:
        _say_doubts(adding.training, [str(path)], "the others")
    if ranks().first:
        print(run.folder)


def _say_doubts(training: Any, paths: list[str], other: str) -> None:
    """Warn of sessions that fit together in more than one way."""
    for match, path in zip(training.matches, paths, strict=False):
        if match.doubtful:
            say(
                f"warning: {path}: its states fit those of {other} nearly as well mirrored or exchanged "
                f"(likeness {match.likeness:.3f} and {match.runner_up:.3f}); "
                "what is read from one session may not hold for the other"
            )


def _new(folder: Path | None, paths: list[Path], format: str | None, options: Config, said: bool, quiet: bool) -> tuple:
    """A new run; `said`: whether a person chose the bin size, which counts that come binned otherwise tell."""
    from ldmfilter.data import read_session
    from ldmfilter.data.formats.binned import BinnedSession
    from ldmfilter.data.prepare import prepare
    from ldmfilter.data.windows import reserve
    from ldmfilter.filter.runs import Run
    from ldmfilter.filter.training import Training

    sessions = [read_session(path, format, options.data.bin_size if said else None) for path in paths]
    if isinstance(sessions[0], BinnedSession) and not said:
        options = options.replace(bin_size=sessions[0].bin_size)
    counts = [reserve(prepare(session, options.data), options.data.reserve) for session in sessions]
    training = Training(options.filter, counts)
    run = Run.create(folder, options, sessions, counts)
    for one in () if quiet else counts:
        if one.attrs["units_left_out"]:
            say(one.attrs["units_left_out"])
    return run, training, counts


def _resumed(run: Any, paths: Sequence[Path]) -> tuple:
    from ldmfilter.filter.training import Training

    counts = run.training_counts(paths)
    training = Training(run.config.filter, counts)
    run.resume(training)
    return training, counts


def _say_hello(run: Any, training: Any, counts: list) -> None:
    steps = run.config.filter.max_steps
    done = f", from step {training.step}" if training.step else ""
    bins = sum(one.sizes["time"] for one in counts)
    several = f" in {len(counts)} sessions" if len(counts) > 1 else ""
    say(
        f"{' + '.join(str(one.sizes['unit']) for one in counts)} units, {bins} bins "
        f"({bins * float(counts[0].attrs['bin_size']):.0f} s){several}, {run.config.filter.entropy}, "
        f"{steps} steps on {training.device}{done}; run folder {run.folder}"
    )
    if run.config.data.reserve:
        say(f"{run.config.data.reserve:.0%} of the time is kept apart, to judge the filter on (--reserve 0 uses all)")


def parse_widths(text: str) -> tuple[int, ...]:
    """Widths of "128,128". Raises: typer.BadParameter for another form."""
    try:
        return tuple(int(width) for width in text.split(",") if width.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of widths, as 128,128", param_hint="--hidden") from None


def _numbers(record: "Record") -> str:
    loss = f"loss {record.loss:.2f}  " if record.step else ""
    return (
        f"{loss}held-out {record.held_out_log_likelihood:.2f}  gain {record.score:.2f}  "
        f"rank {record.effective_rank:.1f}"
    )
