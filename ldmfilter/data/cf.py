"""Arrays and series of files, missing and packed values by the CF conventions.

A fill value of 0 is not taken as missing: it is zarr's default.
"""

from collections.abc import Hashable

import numpy as np
import xarray as xr

from ldmfilter.errors import InputError, warn

# What netCDF's libraries write into floats that nobody has set.
_NETCDF_FILL = 9.969209968386869e36
_MISSING = ("_FillValue", "missing_value")


def unpacked(variable: xr.Variable, name: Hashable = None, where: str = "") -> xr.Variable:
    """A variable with NaN where its fill value stands, and times its scale plus its offset.

    where: of a file whose fill values somebody has set: there one of 0 is taken as missing in floats; in whole numbers
        a warning tells that it is not
    """
    attrs = dict(variable.attrs)
    for key in _MISSING:
        if key not in attrs or np.size(attrs[key]) != 1 or np.any(attrs[key]):
            continue
        if where and variable.dtype.kind == "f":
            continue
        value = attrs.pop(key)
        if where and variable.dtype.kind in "iu":
            warn(f"{where}: {name}: its {key} {value} is taken as the number, not as missing")
    if where and variable.dtype.kind == "f" and not any(key in attrs for key in _MISSING):
        unset = np.abs(variable.values) == variable.dtype.type(_NETCDF_FILL)
        if unset.any():
            variable = variable.copy(data=np.where(unset, np.nan, variable.values))
    variable = xr.Variable(variable.dims, variable.values, attrs)
    return xr.conventions.decode_cf_variable(name, variable, concat_characters=False, decode_times=False).load()


def one_series(group: xr.Dataset, where: str) -> xr.DataArray:
    """The series (time,) or (time, component) of a group that holds it and its `time`. Raises InputError for others."""
    values = [one for name, one in group.items() if name != "time"]
    if "time" not in group.variables or len(values) != 1 or values[0].ndim not in (1, 2):
        raise InputError(f"{where}: needs `time` and one more array; write the series anew")
    series, time = values[0], group["time"]
    if time.shape != series.shape[:1]:
        raise InputError(f"{where}: {time.size} times for {len(series)} values; write the series anew")
    if series.dims[0] != "time":
        series = series.rename({series.dims[0]: "time"})
    return series.assign_coords(time=("time", time.values, time.attrs))
