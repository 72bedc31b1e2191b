"""`ldmfilter decode`."""

import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.choice import Dask, Interval, Spans, parse_spans
from ldmfilter_cli.console import Debug, Overwrite, Quiet, command, follow, say, shown
from ldmfilter_cli.inspect import Format

from ldmfilter.config import DEVICES

if TYPE_CHECKING:
    import xarray as xr

    from ldmfilter.analysis.behavior import Behavior
    from ldmfilter.analysis.readout import BehaviorReport
    from ldmfilter.filter.model import LDMFilter
    from ldmfilter.filter.runs import Run

BEHAVIOR = "Behaviour"
HUGE = 3_000_000  # bins: their states and covariances are then several GB in memory


@command
def decode(
    out: Annotated[
        Path,
        typer.Option(
            metavar="STORE",
            help="Where the states go, as latents.zarr; of several sessions, the folder of their stores.",
        ),
    ],
    sessions: Annotated[
        list[Path] | None,
        typer.Argument(metavar="SESSION...", help="Sessions; without one the run's own.", show_default=False),
    ] = None,
    format: Format = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Run folder; without it the latest below runs/.")
    ] = None,
    interval: Interval = None,
    span: Spans = None,
    ci: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    smooth: Annotated[bool, typer.Option("--smooth", help="Add each bin's state given its whole segment.")] = False,
    behavior: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH",
            help="Behaviour to read from the states, as `inspect` prints it or its unique last part, a column as "
            "led[0]; repeatable.",
            rich_help_panel=BEHAVIOR,
        ),
    ] = None,
    circular: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="A behaviour that is circular; repeatable. Angles and directions are seen without.",
            rich_help_panel=BEHAVIOR,
        ),
    ] = None,
    min_speed: Annotated[
        float,
        typer.Option(
            min=0.0,
            help="Leave out bins in which the first behaviour changes more slowly, its unit per s.",
            rich_help_panel=BEHAVIOR,
        ),
    ] = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report on the behaviour as JSON.", rich_help_panel=BEHAVIOR)
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="|".join(DEVICES), help="Where to compute; auto is CUDA where there is one.")
    ] = "cpu",
    dask: Dask = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Example: **ldmfilter decode --out latents.zarr**

    Decode a session into latent states with covariances and intervals, as a zarr store for xarray. Without an
    interval or a span the whole session is decoded. Prints the store.

    With **--behavior** the store also holds what the states say of it, with intervals that are calibrated on time that
    training never saw; a table on stderr says how well.

    Several sessions give a store each, named after the session. What is there already, from the same model, session
    and options, is not done again; a session that cannot be used does not stop the others. With **--dask** the workers
    of a cluster decode, and the session of a worker that dies is done by another.
    """
    wanted_spans = parse_spans(span)
    if not behavior and (circular or min_speed or as_json):
        raise typer.BadParameter("means something only with --behavior", param_hint="--circular, --min-speed, --json")
    from ldmfilter.filter.decode import check_level, check_store
    from ldmfilter.filter.runs import Run
    from ldmfilter.filter.training import resolve_device

    several = len(set(sessions or ())) > 1
    if not several and dask is None:
        check_store(out, overwrite)
    check_level(ci)
    resolve_device(device)
    the_run = Run.open(run) if run is not None else Run.latest()
    options = {
        "format": format, "interval": interval, "spans": wanted_spans, "ci": ci, "smooth": smooth,
        "behavior": behavior, "circular": circular, "min_speed": min_speed, "device": device,
    }  # fmt: skip
    if several or dask is not None:
        from ldmfilter_cli.several import decode_several

        paths = sessions or [Path(the_run.session_path)]
        decode_several(the_run, paths, out, options, overwrite, dask, as_json, quiet)
        return
    session = sessions[0] if sessions else None
    reports = decode_one(the_run, session, out, overwrite=overwrite, quiet=quiet, **options) or ()
    if as_json:
        print(json.dumps({"store": str(out), "behavior": [one.to_dict() for one in reports]}, indent=1))
        return
    if not quiet:
        _show(reports)
    print(out)


def decode_one(
    the_run: "Run",
    session: Path | None,
    out: Path,
    *,
    format: str | None,
    interval: str | None,
    spans: Sequence[tuple[float, float]],
    ci: float,
    smooth: bool,
    behavior: list[str] | None,
    circular: list[str] | None,
    min_speed: float,
    device: str,
    overwrite: bool,
    quiet: bool,
    keep: bool = False,
) -> "tuple[BehaviorReport, ...] | None":
    """Decode a session into a store. Returns the reports on behaviour; with `keep` None where the store is there
    already, from the same model, session and options.

    Raises:
        InputError: the session cannot be used, or the store not be written.
    """
    from ldmfilter.data.binning import bin_spikes, choose_spans
    from ldmfilter.filter.decode import check_store, is_made_from, select_model_units, write_latents

    recording = None if session is None else the_run.read(session, format)
    the_run = the_run.choose(recording)
    recording = recording or the_run.read(None, format)
    model = the_run.model()
    asked = {
        "format": format, "interval": interval, "spans": [f"{start!r}:{stop!r}" for start, stop in spans], "ci": ci,
        "smooth": smooth, "behavior": behavior, "circular": circular, "min_speed": min_speed,
    }  # fmt: skip
    options = json.dumps(asked)
    if keep and is_made_from(out, model, recording.source.checksum, options):
        return None
    check_store(out, overwrite)
    chosen_spans = choose_spans(recording, interval=interval, spans=spans)
    variables: list[Behavior] = []
    if behavior:
        from ldmfilter.analysis.behavior import choose_behavior

        variables = choose_behavior(recording, behavior, circular or ())
    chosen = select_model_units(recording, model, the_run.session_unit_ids)
    counts = bin_spikes(chosen, model.bin_size_, chosen_spans)
    if session is None and recording.source.checksum != the_run.checksum:
        say(f"warning: {recording.source.path}: has changed since {the_run.folder} was trained on it")
    pieces = decoded(the_run, model, counts, ci, smooth, quiet, device)
    blocks = (piece.assign_attrs(decode_options=options) for piece in pieces)
    if not variables:
        write_latents(blocks, out, overwrite)
        return ()
    latents, reports = _read(blocks, variables, counts, ci, min_speed, quiet)
    write_latents(latents, out, overwrite)
    return reports


def decoded(
    run: "Run",
    model: "LDMFilter",
    counts: "xr.DataArray",
    ci: float,
    smooth: bool,
    quiet: bool,
    device: str = "cpu",
) -> "Iterator[xr.Dataset]":
    """The states of counts in pieces along time; says on stderr what they are of and how far they are."""
    from ldmfilter.data.counts import check_counts
    from ldmfilter.filter.decode import BLOCK, decode_blocks

    done, wanted = model.history_[-1].step, run.config.filter.max_steps
    if done < wanted and not quiet:
        say(f"warning: {run.folder}: training stopped at step {done} of {wanted}; decoding with what it kept")
    bins = counts.sizes["time"]
    if not quiet:
        say(f"{bins} bins of {model.bin_size_:g} s from {counts.attrs['path']}, model of {run.folder}")
    blocks = decode_blocks(model, check_counts(counts), ci, smooth, device=device)
    if bins <= BLOCK:
        return blocks
    behind = itertools.accumulate(itertools.repeat(BLOCK))
    return follow(blocks, bins, lambda _: min(next(behind), bins), lambda _: "", "bin", quiet)


def _read(
    blocks: "Iterable[xr.Dataset]",
    variables: "list[Behavior]",
    counts: "xr.DataArray",
    ci: float,
    min_speed: float,
    quiet: bool,
) -> "tuple[xr.Dataset, tuple[BehaviorReport, ...]]":
    """The states, all in memory, with the behaviour that is read from them."""
    import xarray as xr

    from ldmfilter.analysis.readout import read_behavior

    if counts.sizes["time"] > HUGE and not quiet:
        say(f"warning: reading behaviour takes all {counts.sizes['time']:,} bins into memory; --span takes fewer")
    pieces = list(blocks)
    latents = pieces[0] if len(pieces) == 1 else xr.concat(pieces, "time", data_vars="minimal", coords="minimal")
    if not quiet:
        for one in variables:
            if one.note:
                say(f"{one.path}: {one.note}")
    reading = read_behavior(latents, variables, counts, ci=ci, min_speed=min_speed)
    return reading.latents, reading.reports


def _show(reports: "tuple[BehaviorReport, ...]") -> None:
    """The table of a report, for people, on stderr."""
    from rich.console import Console
    from rich.table import Table

    console = Console(stderr=True)

    def table(heads: list[str], rows: list[list[str]]) -> None:
        grid = Table(box=None, pad_edge=False, header_style="dim")
        for i, head in enumerate(heads):
            grid.add_column(head, justify="right" if i else "left")
        for row in rows:
            grid.add_row(*map(shown, row))
        console.print(grid)

    for one in reports:
        unit = one.unit or "its unit"
        console.print()
        console.print(shown(one.path + (", circular" if one.circular else ""), style="bold"))
        left = ", ".join(f"{n} {why}" for why, n in one.bins.items() if why != "used")
        console.print(
            shown(
                f"{one.bins['used']} bins in {one.blocks} block{'s' if one.blocks != 1 else ''}"
                + (f"; left out {left}" if left else "")
            ),
            soft_wrap=True,
        )
        if one.note:
            console.print(shown(one.note), soft_wrap=True)
        rows = [
            [name + (" (chosen)" if name == one.chosen else ""), f"{score.r2:.3f}", f"{score.median_error:.3g}"]
            for name, score in one.readouts.items()
        ]
        if one.decoder:
            name = f"Bayesian decoder, {one.decoder.window:g} s"
            rows.append([name, f"{one.decoder.r2:.3f}", f"{one.decoder.median_error:.3g}"])
        if one.control:
            rows.append(["shifted behaviour, 95th percentile", f"{one.control.shifted_95:.3f}", ""])
        if rows:
            table(["readout", "R2", f"median error, {unit}"], rows)
        if one.control:
            console.print(shown(f"p {one.control.p:.2g} against {one.control.shifts} shifts"))
        if one.intervals:
            table(
                ["interval", "covers", "width", "score", "score at constant width"],
                [
                    [
                        f"{i.level:.0%}",
                        f"{i.coverage:.1%} +- {i.coverage_se:.1%}",
                        f"{i.width:.3g} +- {i.width_se:.2g}",
                        f"{i.score:.4g} +- {i.score_se:.2g}",
                        f"{min(i.constant_score, i.same_coverage_score):.4g}",
                    ]
                    for i in one.intervals
                ],
            )
