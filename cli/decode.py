"""`ldmfilter decode`."""

import itertools
from pathlib import Path
from typing import Annotated

import typer
from ldmfilter_cli.choice import Interval, Spans, parse_spans
from ldmfilter_cli.console import Debug, Overwrite, Quiet, command, follow, say


@command
def decode(
    out: Annotated[Path, typer.Option(metavar="STORE", help="Where the states go, as latents.zarr.")],
    session: Annotated[
        Path | None,
        typer.Argument(help="Session; without it the run's own.", show_default=False),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Run folder; without it the latest below runs/.")
    ] = None,
    interval: Interval = None,
    span: Spans = None,
    ci: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    smooth: Annotated[bool, typer.Option("--smooth", help="Add each bin's state given its whole segment.")] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Example: **ldmfilter decode --out latents.zarr**

    Decode a session into latent states with covariances and intervals, as a zarr store for xarray. Without an
    interval or a span the whole session is decoded. Prints the store.
    """
    wanted_spans = parse_spans(span)
    from ldmfilter.data import read_session
    from ldmfilter.data.binning import bin_spikes, choose_spans
    from ldmfilter.data.counts import check_counts
    from ldmfilter.filter.decode import (
        BLOCK,
        check_level,
        check_store,
        decode_blocks,
        select_model_units,
        write_latents,
    )
    from ldmfilter.filter.runs import Run

    check_store(out, overwrite)
    check_level(ci)
    the_run = Run.open(run) if run is not None else Run.latest()
    model = the_run.model()
    recording = read_session(session or the_run.session_path)
    spans = choose_spans(recording, interval=interval, spans=wanted_spans)
    chosen = select_model_units(recording, model, the_run.session_unit_ids)
    counts = bin_spikes(chosen, model.bin_size_, spans)
    done, wanted = model.history_[-1].step, the_run.config.filter.max_steps
    if done < wanted and not quiet:
        say(f"warning: {the_run.folder}: training stopped at step {done} of {wanted}; decoding with what it kept")
    if session is None and recording.source.checksum != the_run.checksum:
        say(f"warning: {recording.source.path}: has changed since {the_run.folder} was trained on it")
    if not quiet:
        say(
            f"{counts.sizes['time']} bins of {model.bin_size_:g} s from {recording.source.path}, "
            f"model of {the_run.folder}"
        )
    bins = counts.sizes["time"]
    blocks = decode_blocks(model, check_counts(counts), ci, smooth)
    if bins > BLOCK:
        behind = itertools.accumulate(itertools.repeat(BLOCK))
        blocks = follow(blocks, bins, lambda _: min(next(behind), bins), lambda _: "", "bin", quiet)
    write_latents(blocks, out, overwrite)
    print(out)
