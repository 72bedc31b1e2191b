"""`ldmfilter train`."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ldmfilter_cli.console import INTERRUPTED, Quiet, command, say
from ldmfilter_cli.options import RUN, SESSION, ConfigFile, Format, open_run, with_options

from ldmfilter.config import OPTIONS, Config, read_toml
from ldmfilter.progress import follow
from ldmfilter.ranks import ranks
from ldmfilter.text import finite

if TYPE_CHECKING:
    from ldmfilter.filter.runs import Run
    from ldmfilter.filter.training import Record, Training


@command
@with_options(*OPTIONS)
def train(
    session: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="SESSION",
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
    config: ConfigFile = None,
    *,
    options: dict[str, Any],
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print the candidates, and which one was kept, as JSON.", rich_help_panel=RUN),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter train session.nwb --interval epochs=run**

    Train a filter on a session's spikes, without labels. Prints the run folder. Ctrl-C stops; --resume
    goes on, to the same result. Several sessions are decoded into the same states: **ldmfilter train a.nwb b.nwb**
    """
    if (resume or add is not None) and (options or config is not None or (resume and format is not None)):
        hint = "--resume" if resume else "--add"
        if "max_steps" in options:
            raise typer.BadParameter(
                "the step size falls to 0 at the last step of a run, so that more steps are another training: "
                f"`ldmfilter train SESSION --max-steps {options['max_steps']}` makes a new run",
                param_hint="--max-steps",
            )
        raise typer.BadParameter("a run keeps its own options; leave the others out", param_hint=hint)
    if add is not None and (resume or session):
        raise typer.BadParameter("name the session to add, and no other", param_hint="--add")
    if add is None and not resume and not session:
        raise typer.BadParameter("name a session to train on", param_hint="SESSION")
    from ldmfilter.filter.runs import start_run
    from ldmfilter.filter.training import Training

    if add is not None:
        the_run = open_run(run)
        training, records = the_run.add(the_run.read(add, format))
    elif resume:
        the_run = open_run(run)
        training = Training(the_run.config.filter, the_run.training_counts(session or ()))
        the_run.resume(training)
        records = the_run.train(training)
    else:
        asked = (Config.read(config) if config else Config()).replace(**options)
        asked.validate()
        named = {*options, *(read_toml(config).get("data", {}) if config else ())}
        bin_size_given = not named.isdisjoint(("bin_size", "bin-size"))
        the_run, training = start_run(run, session or (), format, asked, bin_size_given)
        records = the_run.train(training)
    _follow(the_run, training, records, add, quiet)
    _print(the_run, training, as_json)


def _follow(
    run: "Run",
    training: "Training",
    records: "Iterable[Record]",
    added: Path | None,
    quiet: bool,
) -> None:
    """Train to the end, and show how far it is and what came of it.

    `added`: the session whose encoder is trained; None where all of the run is.
    """
    if not quiet:
        _say_start(run, training)
    try:
        for _ in follow(
            records,
            lambda: training.steps,
            lambda _: training.step,
            lambda record: record.text,
            "step",
            quiet,
            training.step,
        ):
            pass
    except KeyboardInterrupt:
        if ranks().first:
            again = "--resume" if added is None else f"--add {added}"
            say(f"ldmfilter: interrupted; go on with `ldmfilter train {again} --run {run.folder}`")
        raise typer.Exit(INTERRUPTED) from None
    if not quiet:
        _say_end(run, training, added)


def _print(run: "Run", training: "Training", as_json: bool) -> None:
    """Print the run folder, or with it the candidate that was kept and all of them."""
    if not ranks().first:
        return
    if not as_json:
        print(run.folder)
        return
    kept, *others = map(asdict, (training.kept, *training.trained))
    print(json.dumps(finite({"run": str(run.folder), "kept": kept, "candidates": others}), indent=1))


def _say_start(run: "Run", training: "Training") -> None:
    from ldmfilter.data.counts import is_signal
    from ldmfilter.data.selection import WHOLE
    from ldmfilter.data.windows import typical_stretch
    from ldmfilter.filter.candidates import FRAMES

    counts = training.counts
    for one in counts:
        if one.attrs["units_left_out"]:
            say(one.attrs["units_left_out"])
        pieces = str(one["interval"].values[0])
        if run.config.data.interval is None and not run.config.data.spans and pieces != WHOLE:
            say(f"observed in {pieces} alone: each is a stretch by itself, and no state goes on to the next")
    size, stretch = float(counts[0].attrs["bin_size"]), min(map(typical_stretch, counts))
    if stretch < FRAMES and not is_signal(counts[0]):
        round_sizes = (digit * 10.0**power for power in range(-4, 1) for digit in (1, 2, 5))
        shorter = max(one for one in round_sizes if one < stretch * size / FRAMES or one == 1e-4)
        few = f"half of the time lies in stretches of {stretch} bins or fewer"
        say(f"{few}; bins of {shorter:g} s (--bin-size) show more of the time course")
    step = f", from step {training.step}" if training.step else ""
    each = run.config.filter.max_steps
    of = f" ({training.steps // each} trainings of {each})" if training.steps > each else ""
    later = ["perhaps fewer dimensions"] * training.tries_fewer
    later += ["perhaps more that choose the encoder"] * training.tries_encoders
    of += f", then {', '.join(later)}" if later and not training.ended else ""
    bins = sum(int(one["observed"].sum()) for one in counts)
    several = f" in {len(counts)} sessions" if len(counts) > 1 else ""
    say(
        f"{' + '.join(str(one.sizes['unit']) for one in counts)} units, {bins} bins "
        f"({bins * size:.0f} s){several}, {run.config.filter.entropy}, "
        f"{training.steps} steps{of} on {training.device}{step}; run folder {run.folder}"
    )
    if training.ended:
        say("this training has ended; for a longer one make a new run, by `ldmfilter train SESSION --max-steps N`")
    elif run.config.data.reserve:
        say(f"{run.config.data.reserve:.0%} of the time is kept apart, to judge the filter on (--reserve 0 uses all)")


def _say_end(run: "Run", training: "Training", added: Path | None) -> None:
    """The step that was kept, and a warning of sessions that fit together in more than one way."""
    from ldmfilter.data.counts import is_signal
    from ldmfilter.filter.candidates import labels

    best, kept = training.kept_records, training.kept
    bits = kept.bits_per_spike
    # Predicted spikes decide where they were judged; the information of z in many dimensions is easily overfitted.
    if not (bits > 0 if math.isfinite(bits) else any(one.score > 0 for one in best)):
        say("warning: nothing was found that predicts held-out time; try other bins, units or a longer span")
    if len(training.trained) > 1:
        what, unit = (
            ("the signal", "shares of its variance") if is_signal(training.counts[0]) else ("spikes", "bits per spike")
        )
        others = [one for one in training.trained if not one.by_halves]
        ahead = any(one.bits_per_spike > bits or one.hidden > kept.hidden for one in others)
        by_chance = " (another has to lead clearly: METHOD.md)" if ahead else ""
        both = f"{what} predicted ahead / of hidden {'channels' if what == 'the signal' else 'units'}"
        say(f"kept: {kept.label}; {both}, {unit}{by_chance}:")
        for label, trained in zip(labels(training.trained), training.trained, strict=True):
            say(f"  {label}: {trained.told}")
        if len(others) < len(training.trained):
            say("  on trials not seen: of trainings without each half of the trials; others do not compare with them")
    for one, (part, network) in zip(best, training.parts, strict=True):
        which = f"{part.label}: " if len(best) > 1 else ""
        if one.step == 0:
            say(
                f"warning: {which}step 0 is kept: on held-out time no step of the training is better than the first "
                "weights"
            )
        say(
            f"{which}kept step {one.step} of {run.config.filter.max_steps}: predictive information "
            f"{one.score / part.frame:.1f} nats a second on held-out time, "
            f"effective rank {one.effective_rank:.1f} of {len(network['encoders.0.z_mean'])}"
        )
    paths = [one.session for one in run.sessions[1:]] if added is None else [str(added)]
    for match, path in zip(training.matches, paths, strict=False):
        if match.doubtful:
            say(
                f"warning: {path}: its states fit those of {run.sessions[0].session} nearly as well mirrored or "
                f"exchanged (likeness {match.likeness:.3f} and {match.runner_up:.3f}); what is read from one session "
                "may not hold for the other"
            )
