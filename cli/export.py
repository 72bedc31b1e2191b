"""`ldmfilter export`."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.console import Debug, Overwrite, Quiet, command, follow, say
from ldmfilter_cli.decode import decoded

if TYPE_CHECKING:
    import xarray as xr

    from ldmfilter.export.latents import Block
    from ldmfilter.filter.runs import Run


@command
def export(
    to: Annotated[str, typer.Option(metavar="nwb|netcdf|csv|pynapple|parquet", help="Format of the file.")],
    states: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Run folder, whose session is decoded, or the states that `decode` made of one, as latents.zarr; "
            "without it the latest run below runs/.",
            show_default=False,
        ),
    ] = None,
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
    debug: Debug = False,
) -> None:
    """Example: **ldmfilter export --to nwb --out session-latents.nwb**

    Write latent states as files that other tools read: **nwb**, a copy of the session's NWB file with the states as
    processing/ldmfilter; **netcdf** for xarray; **csv** and **parquet** for pandas and spreadsheets, one row a bin;
    **pynapple**, a folder. Prints what it wrote.

    The whole session of a run is decoded. For some of its time, smoothed states or behaviour, **decode** first and
    export what it made.
    """
    from ldmfilter.errors import InputError
    from ldmfilter.export import FORMATS, WRITERS, check_export, read_latents, to_nwb
    from ldmfilter.export.latents import BLOCK, clean
    from ldmfilter.filter.runs import Run

    if to not in FORMATS:
        raise typer.BadParameter(f"{to!r} is not one of {', '.join(FORMATS)}", param_hint="--to")
    if in_place and (to != "nwb" or out is not None):
        raise typer.BadParameter("means something only with --to nwb and without --out", param_hint="--in-place")
    source: Run | xr.Dataset
    if states is None or (states / "run.json").is_file():
        source = (Run.open(states) if states is not None else Run.latest()).choose(session)
        where = str(session or source.session_path)
    elif states.is_dir() and not (states / ".zgroup").exists():
        raise InputError(f"{states}: is no run folder and no store of states; name what train or decode made")
    else:
        source = read_latents(states)
        where = str(session or clean(source.attrs.get("source_path", "")))
    if to == "nwb" and not where:
        raise InputError(f"{states}: does not say which file it was decoded from; name it with --session")
    target = Path(where) if in_place else out or Path(f"{_stem(where)}-latents{FORMATS[to]}")
    if to == "nwb":
        from ldmfilter.export.nwb import check_session

        check_session(Path(where), overwrite, in_place)
    if not in_place:
        store = "" if isinstance(source, Run) else states
        check_export(to, target, overwrite, [one for one in (where, store) if one])
    with _states(source, where, target, quiet) if isinstance(source, Run) else nullcontext(source) as found:
        bins = found.sizes["time"]

        def shown(blocks: "Iterator[Block]") -> "Iterator[Block]":
            hushed = quiet or bins <= BLOCK
            return follow(blocks, bins, lambda one: one[0].stop, lambda _: f"to {target}", "bin", hushed)

        if to == "nwb":
            to_nwb(found, where, None if in_place else target, overwrite, in_place, shown)
        else:
            WRITERS[to](found, target, overwrite, shown)
    if in_place and not quiet:
        say(f"{target}: has another checksum now; commands that read a run's own session want the file as it was")
    print(target)


@contextmanager
def _states(run: "Run", where: str, target: Path, quiet: bool) -> "Iterator[xr.Dataset]":
    """The states of a run's whole session, in a store beside the target that is there while they are written."""
    from ldmfilter.data.binning import bin_spikes, choose_spans
    from ldmfilter.errors import InputError
    from ldmfilter.export import read_latents
    from ldmfilter.files import disk_errors
    from ldmfilter.filter.decode import select_model_units, write_latents

    model = run.model()
    recording = run.read(where, run.session.format)
    if recording.source.checksum != run.checksum:
        raise InputError(
            f"{recording.source.path}: is not the session that {run.folder} was trained on, or has changed; "
            "decode it and export what decode made"
        )
    counts = bin_spikes(
        select_model_units(recording, model, run.session_unit_ids), model.bin_size_, choose_spans(recording)
    )
    with disk_errors(target):
        scratch = tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    with scratch as folder:
        store = Path(folder) / "latents.zarr"
        write_latents(decoded(run, model, counts, 0.95, False, quiet), store)
        yield read_latents(store)


def _stem(where: str) -> str:
    """The name of a session's file as a part of another name, whatever it is made of: "/data/rat 1.nwb" is rat_1,
    "../.." is session."""
    return re.sub(r"[^\w-]", "_", Path(where).stem)[:60].strip("_") or "session"
