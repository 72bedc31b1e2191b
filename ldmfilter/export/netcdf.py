"""States as netCDF 4."""

from pathlib import Path

import numpy as np
import xarray as xr

from ldmfilter.errors import InputError
from ldmfilter.export.hdf5 import full_disks, reserve
from ldmfilter.export.latents import BLOCK, Follow, attributes, blocks
from ldmfilter.files import replacing


def write_netcdf(latents: xr.Dataset, out: Path, overwrite: bool, follow: Follow = iter) -> Path:
    """As `ldmfilter.export.to_netcdf`."""
    try:
        import h5netcdf
    except ImportError:
        raise InputError("netcdf: needs the package h5netcdf; `pip install h5netcdf`") from None
    with replacing(out, overwrite) as scratch, full_disks():
        reserve(scratch.parent, latents)
        for where, part in follow(blocks(latents)):
            if not where.start:
                _begin(part.assign_attrs(attributes(latents)), scratch)
                continue
            with h5netcdf.File(scratch, "a") as file:
                file.resize_dimension("time", where.stop)
                for name, values in part.variables.items():
                    if "time" in values.dims:
                        place = tuple(where if dim == "time" else slice(None) for dim in values.dims)
                        file.variables[name][place] = _as_stored(values.to_numpy())
    return out


def _begin(part: xr.Dataset, path: Path) -> None:
    """The first block, with the layout of all: time grows."""
    encoding = {
        str(name): {
            "chunksizes": tuple(min(n, BLOCK // 4) for n in variable.shape),
            "zlib": True,
            "complevel": 1,
            "shuffle": True,
        }
        for name, variable in part.variables.items()
        if variable.ndim and variable.dtype.kind not in "UT"
    }
    part.to_netcdf(path, engine="h5netcdf", unlimited_dims=["time"], encoding=encoding)


def _as_stored(values: np.ndarray) -> np.ndarray:
    """As xarray encodes the first block: netCDF has no bools and no strings of fixed width."""
    if values.dtype.kind == "b":
        return values.astype(np.int8)
    return values.astype(object) if values.dtype.kind in "UT" else values
