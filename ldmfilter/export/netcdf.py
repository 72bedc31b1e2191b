"""States as netCDF 4."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import xarray as xr

from ldmfilter.errors import InputError
from ldmfilter.export.latents import BLOCK, Follow, attributes, blocks, checked, full_disks, reserve
from ldmfilter.files import AnyPath, replacing

# As xarray encodes the first block: netCDF has no bools and no strings of fixed width.
_STORED = {"b": np.int8, "U": object, "T": object}


def to_netcdf(latents: xr.Dataset, out: AnyPath, overwrite: bool = False, follow: Follow = iter) -> Path:
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
    try:
        import h5netcdf
    except ImportError:
        raise InputError("netcdf: needs the package h5netcdf; `pip install h5netcdf`") from None
    path = checked("netcdf", latents, out, overwrite)
    with replacing(path, overwrite) as scratch, full_disks():
        reserve(scratch.parent, latents)
        for where, part in follow(blocks(latents)):
            if not where.start:  # the first block, with the layout of all: time grows
                packed = {"zlib": True, "complevel": 1, "shuffle": True}
                encoding = {
                    str(name): packed | {"chunksizes": tuple(min(n, BLOCK // 4) for n in variable.shape)}
                    for name, variable in part.variables.items()
                    if variable.ndim and variable.dtype.kind not in "UT"
                }
                first = part.assign_attrs(attributes(latents))
                first.to_netcdf(scratch, engine="h5netcdf", unlimited_dims=["time"], encoding=encoding)
                continue
            with h5netcdf.File(scratch, "a") as file:
                file.resize_dimension("time", where.stop)
                for name, values in part.variables.items():
                    if "time" in values.dims:
                        place = tuple(where if dim == "time" else slice(None) for dim in values.dims)
                        stored = _STORED.get(values.dtype.kind, values.dtype)
                        file.variables[name][place] = values.to_numpy().astype(stored, copy=False)
    return path
