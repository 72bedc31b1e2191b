"""Decoded states into files that other tools read: NWB, netCDF, CSV, pynapple, Parquet.

    latents = ldmfilter.export.read_latents("latents.zarr")  # or what `LDMFilter.decode` gave
    ldmfilter.export.to_nwb(latents, "session.nwb", "session-latents.nwb")
    ldmfilter.export.to_csv(latents, "latents.csv")

Each writes whole or not at all, one block of time after the other, and needs only what its own format needs.
"""

from collections.abc import Callable
from pathlib import Path

from ldmfilter.export.formats import to_csv, to_netcdf, to_parquet, to_pynapple
from ldmfilter.export.latents import FORMATS, check_export, read_latents
from ldmfilter.export.nwb import to_nwb

__all__ = ["FORMATS", "check_export", "read_latents", "to_csv", "to_netcdf", "to_nwb", "to_parquet", "to_pynapple"]

WRITERS: dict[str, Callable[..., Path]] = {
    "netcdf": to_netcdf,
    "csv": to_csv,
    "pynapple": to_pynapple,
    "parquet": to_parquet,
}
