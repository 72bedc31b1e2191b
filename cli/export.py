"""`ldmfilter export`."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ldmfilter_cli.console import Overwrite, Quiet, command, say
from ldmfilter_cli.options import RunOption, completing, one_folder, open_run, where_now

from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors, plain_name
from ldmfilter.progress import follow

if TYPE_CHECKING:
    from ldmfilter.filter.runs import Run

TARGETS = ("nwb", "netcdf", "csv", "pynapple", "parquet")


@command
def export(
    to: Annotated[
        str,
        typer.Option(metavar="|".join(TARGETS), help="Format of the file.", autocompletion=completing(TARGETS)),
    ],
    states: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Run folder, whose session is decoded, or the states that `decode` made of one, as latents.zarr; "
            "without it the latest run below runs/.",
            show_default=False,
        ),
    ] = None,
    run_option: RunOption = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Where it goes; without it here, by the session's name.", show_default=False),
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="Where the session lies now, or which of a run's it is; without it where it lay.",
            show_default=False,
        ),
    ] = None,
    in_place: Annotated[
        bool,
        typer.Option(
            "--in-place",
            help="Write nwb into the session itself and not into a copy. Commands that read a run's own session want "
            "the file as it was.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter export --to nwb --out session-latents.nwb**

    Write latent states as files that other tools read: **nwb**, a copy of the session's NWB file with the states as
    processing/ldmfilter; **netcdf** for xarray; **csv** and **parquet** for pandas and spreadsheets, one row a bin;
    **pynapple**, a folder. Prints what it wrote.

    The whole session of a run is decoded. For some of its time, smoothed states or behaviour, **decode** first and
    export what it made.
    """
    from ldmfilter.export import FORMATS, WRITERS, check_export, read_latents, to_nwb
    from ldmfilter.export.latents import BLOCK, clean, left_out
    from ldmfilter.export.nwb import check_session

    if to not in FORMATS:
        raise typer.BadParameter(f"{to!r} is not one of {', '.join(FORMATS)}", param_hint="--to")
    if in_place and (to != "nwb" or out is not None):
        raise typer.BadParameter("means something only with --to nwb and without --out", param_hint="--in-place")
    states = one_folder(states, run_option)
    store = states if not run_option and states and not (states / "run.json").is_file() else None
    if store is None:
        run = open_run(states).choose(session)
        where = str(where_now(run, session) or run.session_path)
    else:
        if store.is_dir() and not (store / ".zgroup").exists():
            raise InputError(f"{store}: is no run folder and no store of states; name what train or decode made")
        latents = read_latents(store)
        where = str(session or clean(latents.attrs.get("source_path", "")))
        if session and to != "nwb":
            raise typer.BadParameter(
                "a store of states is written without its session; leave it out, and name the file with --out",
                param_hint="--session",
            )
    if to == "nwb" and not where:
        raise InputError(f"{states}: does not say which file it was decoded from; name it with --session")
    # "/data/rat 1.nwb" gives rat_1-latents, "../.." gives session-latents.
    stem = plain_name(Path(where).stem).strip("_") or "session"
    target = Path(where) if in_place else out or Path(f"{stem}-latents{FORMATS[to]}")
    if to == "nwb":
        check_session(Path(where), overwrite, in_place)
    if not in_place:
        check_export(to, target, overwrite, [one for one in (where, store) if one])
    with ExitStack() as stack:
        if store is None:
            latents = read_latents(_decoded(run, where, target, quiet, stack))
        bins = latents.sizes["time"]
        hidden = quiet or bins <= BLOCK

        def shown(blocks: Iterator[Any]) -> Iterator[Any]:
            return follow(blocks, bins, lambda one: one[0].stop, lambda _: f"to {target}", "bin", hidden)

        if to == "nwb":
            to_nwb(latents, where, None if in_place else target, overwrite, in_place, shown)
        else:
            WRITERS[to](latents, target, overwrite, shown)
        left = left_out(to, latents)
    if left and not quiet:
        say(f"{target}: has no {', '.join(left)}; parquet and netcdf hold all")
    if in_place and not quiet:
        say(f"{target}: has another checksum now; commands that read a run's own session want the file as it was")
    print(target)


def _decoded(run: "Run", where: str, target: Path, quiet: bool, stack: ExitStack) -> Path:
    """A store of the states of a run's whole session, which lies beside the target until the stack is closed."""
    from ldmfilter.analysis.decode_session import decode_session
    from ldmfilter.filter.decode import follow_blocks

    recording = run.read(where, run.session.format)
    if recording.source.checksum != run.checksum:
        raise InputError(
            f"{recording.source.path}: is not the session that {run.folder} was trained on, or has changed; "
            "decode it and export what decode made"
        )
    with disk_errors(target):
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        )
    store = Path(folder) / "latents.zarr"
    decode_session(run, recording, store, say=None if quiet else say, follow=None if quiet else follow_blocks)
    return store
