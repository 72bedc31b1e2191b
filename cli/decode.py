"""`ldmfilter decode`."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from ldmfilter_cli.console import Overwrite, Quiet, command, say
from ldmfilter_cli.options import (
    BEHAVIOR,
    Align,
    Behaviors,
    Circular,
    Dask,
    Device,
    Filter,
    Format,
    MinSpeed,
    RunOption,
    Window,
    open_run,
    with_options,
)  # fmt: skip

from ldmfilter.text import open_console, print_lines, print_table


@command
@with_options("interval", "spans")
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
        typer.Argument(metavar="SESSION", help="Sessions; without one the run's own.", show_default=False),
    ] = None,
    format: Format = None,
    run: RunOption = None,
    *,
    options: dict[str, Any],
    ci: Annotated[float, typer.Option(metavar="LEVEL", help="Level of the intervals.")] = 0.95,
    smooth: Annotated[bool, typer.Option("--smooth", help="Add each bin's state given its whole segment.")] = False,
    ahead: Annotated[
        list[float] | None,
        typer.Option(metavar="SECONDS", help="Add the state so much later, given each bin and all before; repeatable."),
    ] = None,
    lag: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Add each bin's state given so much more, in whole frames of slow and of fast states.",
        ),
    ] = None,
    rates: Annotated[
        bool, typer.Option("--rates", help="Add each unit's expected rate given the state, Hz, with intervals.")
    ] = False,
    behavior: Behaviors = None,
    circular: Circular = None,
    min_speed: MinSpeed = 0.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the report on the behaviour as JSON.", rich_help_panel=BEHAVIOR)
    ] = False,
    align: Align = None,
    window: Window = None,
    filter: Filter = None,
    device: Device = "cpu",
    dask: Dask = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter decode --out latents.zarr**

    Decode a session into latent states with covariances and intervals, as a zarr store for xarray. Without an
    interval or a span the whole session is decoded. Prints the store.

    With **--behavior** the store also holds what the states say of it, with intervals that are calibrated on time that
    training never saw; a table on stderr says how well, and where there was too little of such time.

    With **--ahead 0.5** the store also holds a forecast of the state 0.5 s after each bin, and with **--lag 0.5** each
    bin's state given half a second more; both with covariances and intervals. Behaviour is then forecast too.

    With **--align trials.start_time --window -0.5:1.5** the store holds states in trials: dims (trial, time, state),
    and the table's columns as coordinates.

    Several sessions give a store each, named after the session. What is there already, from the same model, session
    and options, is not done again; a session that cannot be used does not stop the others. With **--dask** the workers
    of a cluster decode, and the session of a worker that dies is done by another.
    """
    if not behavior and (circular or min_speed or as_json):
        raise typer.BadParameter("means something only with --behavior", param_hint="--circular, --min-speed, --json")
    if not align and (window or filter):
        raise typer.BadParameter("means something only with --align", param_hint="--window, --filter")
    for one in sessions or ():
        if (one / "run.json").is_file():
            raise typer.BadParameter(f"{one} is a run folder; name it with --run", param_hint="SESSION")
    from ldmfilter_cli.several import contents, decode_several, reports_in

    from ldmfilter.analysis.decode_session import WINDOW, DecodeOptions, decode_session
    from ldmfilter.filter.decode import follow_blocks
    from ldmfilter.filter.latents import check_store

    several = len(set(sessions or ())) > 1 or dask is not None
    if not several:
        check_store(out, overwrite)
    asked = DecodeOptions(format, **options, ci=ci, smooth=smooth, rates=rates, behavior=behavior, circular=circular,
                          min_speed=min_speed, ahead=tuple(ahead or ()), lag=lag, align=align,
                          window=window or WINDOW, filter=filter, device=device)  # fmt: skip
    asked.check()
    the_run = open_run(run)
    if several:
        decode_several(the_run, sessions or [Path(the_run.session_path)], out, asked, overwrite, dask, as_json, quiet)
        return
    session, speak = (sessions[0] if sessions else None), None if quiet else say
    follow = None if quiet else follow_blocks
    reports = decode_session(the_run, session, out, asked, overwrite=overwrite, say=speak, follow=follow) or ()
    if as_json:
        print(json.dumps(contents(out, asked), indent=1))
    else:
        if not quiet:
            console = open_console(stderr=True)
            for report in reports:
                console.print()
                report.show(console)
            _show_ahead(reports_in(out, "behavior_ahead"))
        print(out)


def _show_ahead(reports: list[dict[str, Any]]) -> None:
    """Print accuracy and calibration of behaviour by horizon, on stderr."""
    forms = {"ahead": "g", "readout": "", "r2": ".3f", "median_error": ".3g", "coverage": ".1%", "width": ".3g"}
    heads = ["read ahead", ">s", "by", ">R2", ">median error", ">95 % covers", ">width"]
    rows = []
    for one in reports:
        rows.append((one["name"], *("?" if one[key] is None else f"{one[key]:{form}}" for key, form in forms.items())))
    if rows:
        console = open_console(stderr=True)
        print_table(console, heads, rows)
        print_lines(
            console,
            "each horizon has a readout of its own, without networks, and leaves more out at the edges of blocks: an "
            "error ahead may be smaller than the one now",
        )
