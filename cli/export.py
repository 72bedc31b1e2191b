"""`ldmfilter export`."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.console import Overwrite, Quiet, command, say
from ldmfilter_cli.options import RunOption, completing, one_folder, open_run, where_now

from ldmfilter.errors import InputError
from ldmfilter.files import disk_errors, plain_name
from ldmfilter.progress import follow

if TYPE_CHECKING:
    import xarray as xr

    from ldmfilter.export.latents import Block
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
    from ldmfilter.export import FORMATS, WRITERS, check_export, to_nwb
    from ldmfilter.export.latents import BLOCK, left_out
    from ldmfilter.export.nwb import check_session

    if to not in FORMATS:
        raise typer.BadParameter(f"{to!r} is not one of {', '.join(FORMATS)}", param_hint="--to")
    if in_place and (to != "nwb" or out is not None):
        raise typer.BadParameter("means something only with --to nwb and without --out", param_hint="--in-place")
    states = one_folder(states, run_option)
    if run_option:
        open_run(run_option)  # refuses what is no run
    source, where, store = _source(states, session)
    if store and session and to != "nwb":
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
    with _latents(source, where, target, quiet) as latents:
        bins = latents.sizes["time"]
        hidden = quiet or bins <= BLOCK

        def shown(blocks: "Iterator[Block]") -> "Iterator[Block]":
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


def _source(states: Path | None, session: Path | None) -> "tuple[Run | xr.Dataset, str, Path | None]":
    """The run or the states to export; the session's path, "" where it is not known; and the store of the states."""
    from ldmfilter.export import read_latents
    from ldmfilter.export.latents import clean

    if states is None or (states / "run.json").is_file():
        run = open_run(states).choose(session)
        return run, str(where_now(run, session) or run.session_path), None
    if states.is_dir() and not (states / ".zgroup").exists():
        raise InputError(f"{states}: is no run folder and no store of states; name what train or decode made")
    latents = read_latents(states)
    return latents, str(session or clean(latents.attrs.get("source_path", ""))), states


@contextmanager
def _latents(source: "Run | xr.Dataset", where: str, target: Path, quiet: bool) -> "Iterator[xr.Dataset]":
    """States as they are, or those of a run's whole session, in a store beside the target while they are written."""
    from ldmfilter.analysis.decode_session import decode_session
    from ldmfilter.export import read_latents
    from ldmfilter.filter.decode import follow_blocks
    from ldmfilter.filter.runs import Run

    if not isinstance(source, Run):
        yield source
        return
    recording = source.read(where, source.session.format)
    if recording.source.checksum != source.checksum:
        raise InputError(
            f"{recording.source.path}: is not the session that {source.folder} was trained on, or has changed; "
            "decode it and export what decode made"
        )
    with disk_errors(target):
        scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    with scratch as folder:
        store = Path(folder) / "latents.zarr"
        decode_session(source, recording, store, say=None if quiet else say, follow=None if quiet else follow_blocks)
        yield read_latents(store)
