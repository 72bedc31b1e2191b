"""From a file to counts: sessions, their readers, and bins."""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ldmfilter.data.untrusted.damage import json_object
from ldmfilter.data.untrusted.remote import remote_address
from ldmfilter.errors import InputError
from ldmfilter.files import AnyPath

if TYPE_CHECKING:
    from ldmfilter.data.formats.format import Format
    from ldmfilter.data.session import Session

#: The names of formats, and the module of `ldmfilter.data.formats` that declares each. A path is compared with them
#: from the last to the first: nwb loads slowest.
FORMATS = {
    "nwb": "nwb",
    "zarr": "arrays",
    "phy": "phy",
    "kilosort": "phy",
    "sorting": "sorting",
    "analyzer": "sorting",
    "pynapple": "pynapple",
    "counts": "arrays",
}


def read_session(
    path: AnyPath,
    format: str | None = None,
    bin_size: float | None = None,
    series: str | None = None,
    *,
    sort_times: bool = False,
    ticks: Sequence[str] = (),
    drop_nan: bool = False,
) -> Session:
    """Read a session from any of the formats in `FORMATS`.

    nwb: NWB in HDF5, here or at an https:// address, or in zarr. zarr: a store of `Session.to_zarr`. phy, kilosort:
    a sorter's folder. sorting, analyzer: saved by SpikeInterface, as a folder or in zarr. pynapple: a TsGroup saved
    as .npz. counts: binned already, in netCDF, zarr, .npz or .npy; they give a `BinnedSession`.

    Parameters
    ----------
    path : str or os.PathLike
        File, folder or address.
    format : str, optional
        One of these names; without it the content decides, not the name.
    bin_size : float, optional
        Of counts that do not say it themselves, s.
    series : str, optional
        Path of a signal, or the unique last part of it, to be read in place of spikes: a `SignalSession`. Without it
        one is read where there are no units and there is just one.
    sort_times : bool
        Take times that fall back as disorder, though a clock may have been reset.
    ticks : sequence of str
        "NAME=HZ", ticks a second of the times of `spikes`, `obs_intervals`, an interval table or a series.
    drop_nan : bool
        Leave out spikes whose times are NaN or infinite, which are refused without it.

    Returns
    -------
    Session
        Spikes, units, behaviour and interval tables, times in s.

    Raises
    ------
    InputError
        One line, for a file that is missing, empty, truncated or of another kind, for a session without units or with
        spike times that are NaN, or without the series, and where order or unit of the spike times are in doubt.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     store = ldmfilter.Session.from_spikes([[0.1, 0.4], [0.2]]).to_zarr(f"{folder}/session.zarr")
    ...     session = ldmfilter.read_session(store)
    >>> session.n_units, session.n_spikes
    (2, 3)
    """
    from ldmfilter.data.clocks import Reading  # xarray, which the command line starts without

    if format is not None and format not in FORMATS:
        raise InputError(f"{path}: no format {format!r}; the formats are {', '.join(FORMATS)}")
    address = remote_address(path)
    if address is not None:
        if format not in (None, "nwb"):
            raise InputError(f"{path}: only NWB is read from a server, not {format}; download it")
        declared = _declared("nwb")
    else:
        path = Path(path)
        _check_readable(path)
        declared = _recognised(path) if format is None else _declared(format)
        kind = "folder" if path.is_dir() else "file"
        if declared.lies_in not in (None, kind):
            raise InputError(f"{path}: is a {kind}, which no session of format {format} is; let its content decide")
    try:
        if series is not None and not declared.series:
            raise InputError(f"{path}: its format holds spikes or counts alone, no series; leave the series out")
        reading = Reading(bin_size, series, sort_times, tuple(ticks), drop_nan)
        session = declared.read(address or Path(path).absolute(), reading)
        return replace(session, source=replace(session.source, format=format or ""))
    except MemoryError as error:
        reason = (str(error).splitlines() or ["out of memory"])[0]
        raise InputError(f"{path}: needs more memory than there is ({reason}); is it damaged, or too large?") from error


def _declared(name: str) -> Format:
    # The readers need seconds to import, and libraries that some of them import make a folder for their cache.
    try:
        declared: Format = importlib.import_module(f"ldmfilter.data.formats.{FORMATS[name]}").FORMATS[name]
    except OSError as error:
        which = "XDG_CACHE_HOME" if os.environ.get("XDG_CACHE_HOME") else "HOME"
        folder = os.environ.get(which, "~")
        raise InputError(
            f"{folder}: {which} cannot be written to ({error.strerror}: {error.filename}), where libraries keep a "
            "cache; set XDG_CACHE_HOME to a folder that can"
        ) from error
    return declared


def _recognised(path: Path) -> Format:
    """The format of the content of a path. Raises InputError where none knows it."""
    if str(json_object(path / ".zattrs").get("format")) in ("ldmfilter-latents", "ldmfilter-aligned-latents"):
        raise InputError(f"{path}: is a store of states, not a session; open it with xarray.open_zarr")
    for name in reversed(FORMATS):
        declared = _declared(name)
        if declared.recognises(path):
            return declared
    if (path / "run.json").is_file():
        raise InputError(f"{path}: is a run folder, not a session; give it as --run, in Python to ldmfilter.load")
    if path.is_dir():
        from ldmfilter.data.tables import shorten

        names = shorten(sorted(one.name for one in path.iterdir())) or "nothing"
        raise InputError(
            f"{path}: is a folder that no format knows (it holds {names}); give a file of it, or a session in zarr"
        )
    raise InputError(f"{path}: is not an NWB file (no HDF5 signature); give an NWB file or a session in zarr")


def _check_readable(path: Path) -> None:
    """Raises InputError where there is nothing to read."""
    try:
        if path.is_dir():
            return
        with path.open("rb") as file:
            if not file.read(1):
                raise InputError(f"{path}: is empty; copy or download it again")
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the permissions and the disk") from error
