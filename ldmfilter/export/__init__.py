"""Decoded states into files that other tools read: NWB, netCDF, CSV, pynapple, Parquet.

    latents = ldmfilter.export.read_latents("latents.zarr")  # or what `LDMFilter.decode` gave
    ldmfilter.export.to_nwb(latents, "session.nwb", "session-latents.nwb")
    ldmfilter.export.to_csv(latents, "latents.csv")

Each writes whole or not at all, one block of time after the other, and needs only what its own format needs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ldmfilter.errors import InputError
from ldmfilter.files import check_target

if TYPE_CHECKING:
    import xarray as xr

    from ldmfilter.export.latents import Follow

#: Formats by name, and how their files end; a folder of pynapple's files has no ending.
FORMATS = {"nwb": ".nwb", "netcdf": ".nc", "csv": ".csv", "pynapple": "", "parquet": ".parquet"}

__all__ = ["FORMATS", "check_export", "read_latents", "to_csv", "to_netcdf", "to_nwb", "to_parquet", "to_pynapple"]


def read_latents(path: str | os.PathLike[str]) -> xr.Dataset:
    """Open a store of states that ``ldmfilter decode`` made; values are read when they are used.

    Parameters
    ----------
    path : str or os.PathLike
        Of the store, in zarr.

    Returns
    -------
    xarray.Dataset
        As `LDMFilter.decode` gives it.

    Raises
    ------
    InputError
        There is no such store, it is of another kind or damaged, or reading it would run code.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     _ = latents.to_zarr(f"{folder}/latents.zarr")
    ...     again = ldmfilter.export.read_latents(f"{folder}/latents.zarr").load()
    >>> again["filtered_mean"].equals(latents["filtered_mean"])
    True
    """
    from ldmfilter.filter.latents import open_latents

    return open_latents(Path(path))


def to_nwb(
    latents: xr.Dataset,
    session: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    in_place: bool = False,
    follow: Follow = iter,
) -> Path:
    """Write states into a copy of their NWB file, as the module `processing/ldmfilter`.

    All that the file holds stays as it is, identifier, links and external data included: relative paths to other
    files are written anew where the copy lies in another folder. The module holds a TimeSeries for each variable,
    with bin centres as timestamps (s): filtered_mean (time, state), filtered_cov (time, state, state_2), the bounds
    filtered_lower and filtered_upper (time, state), the means and covariances of predicted and, where there are any,
    smoothed and lagged states and forecasts (as ahead_0.5s_mean), the innovations, observed, trained and segment
    (time,), and each decoded behaviour in its unit with its bounds; and `segments`, a table of the gap-free stretches.
    The attributes are JSON in the comments of filtered_mean.

    Parameters
    ----------
    latents : xarray.Dataset
        As `LDMFilter.decode` or `read_latents` gives them.
    session : str or os.PathLike
        The NWB file (HDF5) that they were decoded from.
    out : str or os.PathLike, optional
        The copy.
    overwrite : bool
        Replace a copy, and a module `processing/ldmfilter`, that exist already.
    in_place : bool
        Write into `session` itself, by way of a copy that takes its place once it is whole. Its checksum is then
        another one, so that runs that were trained on it refuse it where they need their own session.
    follow : callable, optional
        Gets an iterator over the blocks that are written and passes them on: it shows how far the writing is.

    Returns
    -------
    Path
        The file that now holds the states.

    Raises
    ------
    InputError
        `session` is no NWB file in HDF5, is not what the states were decoded from, or holds such a module already; both
        or none of `out` and `in_place` are given; `out` exists or is the session itself; the disk refuses.

    Examples
    --------
    >>> ldmfilter.export.to_nwb(latents, "session.nwb", "session-latents.nwb")  # doctest: +SKIP
    """
    from ldmfilter.export.nwb import write_nwb
    from ldmfilter.filter.latents import check_latents

    check_latents(latents)
    if (out is None) != in_place:
        raise InputError(f"{session}: name a copy, or ask for in_place, one of the two")
    if out is not None:
        check_export("nwb", out, overwrite, [session])
    return write_nwb(latents, Path(session), None if out is None else Path(out), overwrite, in_place, follow)


def to_netcdf(latents: xr.Dataset, out: str | os.PathLike[str], overwrite: bool = False, follow: Follow = iter) -> Path:
    """Write all variables and attributes as netCDF 4.

    Parameters
    ----------
    latents : xarray.Dataset
        As `LDMFilter.decode` or `read_latents` gives them.
    out : str or os.PathLike
        File, ending in .nc.
    overwrite : bool
        Replace what is there.
    follow : callable, optional
        Gets an iterator over the blocks that are written and passes them on: it shows how far the writing is.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        `out` exists, h5netcdf is not installed, or the disk refuses.

    Examples
    --------
    >>> import xarray as xr
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = ldmfilter.export.to_netcdf(latents, f"{folder}/latents.nc")
    ...     xr.open_dataset(path, engine="h5netcdf").load()["filtered_mean"].shape
    (600, 2)
    """
    from ldmfilter.export.netcdf import write_netcdf

    return write_netcdf(latents, _checked("netcdf", latents, out, overwrite), overwrite, follow)


def to_csv(latents: xr.Dataset, out: str | os.PathLike[str], overwrite: bool = False, follow: Follow = iter) -> Path:
    """Write one row a bin as CSV (RFC 4180, UTF-8).

    Columns: time (s), segment, interval, observed and trained (0 or 1), then each state with the bounds of its interval
    and, where there are any, its smoothed and lagged means and its forecasts, then decoded behaviour; the header gives
    units. A missing value is an empty field. Covariances are left out: other formats hold them. A text that a
    spreadsheet would take for a formula has an apostrophe in front.

    Parameters
    ----------
    latents : xarray.Dataset
        As `LDMFilter.decode` or `read_latents` gives them.
    out : str or os.PathLike
        File, ending in .csv.
    overwrite : bool
        Replace what is there.
    follow : callable, optional
        Gets an iterator over the blocks that are written and passes them on: it shows how far the writing is.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        `out` exists, or the disk refuses.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = ldmfilter.export.to_csv(latents, f"{folder}/latents.csv")
    ...     path.read_text().splitlines()[0].split(",")[:5]
    ['time (s)', 'segment', 'interval', 'observed', 'trained']
    """
    from ldmfilter.export.tables import write_csv

    return write_csv(latents, _checked("csv", latents, out, overwrite), overwrite, follow)


def to_parquet(
    latents: xr.Dataset, out: str | os.PathLike[str], overwrite: bool = False, follow: Follow = iter
) -> Path:
    """Write one row a bin as Parquet.

    The columns of the CSV, each with its unit in the field's metadata, and every other variable as a column of lists of
    fixed size, whose shape and dims stand there too. The attributes are JSON in the schema's metadata, key `ldmfilter`;
    pandas shows them as `attrs`.

    Parameters
    ----------
    latents : xarray.Dataset
        As `LDMFilter.decode` or `read_latents` gives them.
    out : str or os.PathLike
        File, ending in .parquet.
    overwrite : bool
        Replace what is there.
    follow : callable, optional
        Gets an iterator over the blocks that are written and passes them on: it shows how far the writing is.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        `out` exists, pyarrow is not installed, or the disk refuses.

    Examples
    --------
    >>> import pandas as pd
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = ldmfilter.export.to_parquet(latents, f"{folder}/latents.parquet")
    ...     len(pd.read_parquet(path))
    600
    """
    from ldmfilter.export.tables import write_parquet

    return write_parquet(latents, _checked("parquet", latents, out, overwrite), overwrite, follow)


def to_pynapple(
    latents: xr.Dataset, out: str | os.PathLike[str], overwrite: bool = False, follow: Follow = iter
) -> Path:
    """Write a folder of .npz files for `pynapple.load_folder` or `load_file`.

    A TsdFrame with named columns for each (time, state) variable and bound, a TsdTensor for each covariance, a Tsd for
    what has one value a bin, and the segments as an IntervalSet. `about.json` holds attributes, units and the segments'
    labels. No file holds a pickle.

    Parameters
    ----------
    latents : xarray.Dataset
        As `LDMFilter.decode` or `read_latents` gives them.
    out : str or os.PathLike
        Folder.
    overwrite : bool
        Replace what is there.
    follow : callable, optional
        Gets an iterator over the blocks that are written and passes them on: it shows how far the writing is.

    Returns
    -------
    Path
        `out`.

    Raises
    ------
    InputError
        `out` exists or is a folder of something else, or the disk refuses.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = ldmfilter.export.to_pynapple(latents, f"{folder}/latents")
    ...     (path / "filtered_mean.npz").exists()
    True
    """
    from ldmfilter.export.pynapple import write_pynapple

    return write_pynapple(latents, _checked("pynapple", latents, out, overwrite), overwrite, follow)


WRITERS: dict[str, Callable[..., Path]] = {
    "netcdf": to_netcdf,
    "csv": to_csv,
    "pynapple": to_pynapple,
    "parquet": to_parquet,
}


def _checked(to: str, latents: xr.Dataset, out: str | os.PathLike[str], overwrite: bool) -> Path:
    """The target, once states and target are known to be fit for each other."""
    from ldmfilter.filter.latents import check_latents

    check_latents(latents)
    store = latents.encoding.get("source")
    check_export(to, out, overwrite, [] if store is None else [store])
    return Path(out)


def check_export(
    to: str, out: str | os.PathLike[str], overwrite: bool, kept: Sequence[str | os.PathLike[str]] = ()
) -> None:
    """Refuse a target where states cannot be written, before they are computed.

    Parameters
    ----------
    to : str
        One of `FORMATS`.
    out : str or os.PathLike
        The target.
    overwrite : bool
        Whether an existing one is replaced.
    kept : sequence of str or os.PathLike
        What the target must not be, hold or lie in: the session, the store of states.

    Raises
    ------
    InputError
        An unknown format, or another ending than its own; the target exists, is of another kind, or is one of `kept`.

    Examples
    --------
    >>> ldmfilter.export.check_export("csv", "latents.csv", overwrite=False)
    """
    if to not in FORMATS:
        raise InputError(f"{to}: is no format to export to; choose one of {', '.join(FORMATS)}")
    if not str(out).lower().endswith(FORMATS[to]):
        raise InputError(f"{out}: must end in {FORMATS[to]}, by which other programs know {to}; choose another name")
    path = check_target(out, overwrite)
    target = path.resolve()
    for one in map(Path, kept):
        # A hard link is the same file under another name.
        same = path.exists() and one.exists() and path.samefile(one)
        if same or target in (one.resolve(), *one.resolve().parents) or one.resolve() in target.parents:
            raise InputError(f"{out}: is {one} or would replace a part of it; choose another name")
    if path.exists() and to == "pynapple":
        from ldmfilter.export.pynapple import check_folder

        check_folder(path)
    elif path.is_dir():
        raise InputError(f"{out}: is a folder, and {to} is one file; choose another name")
