"""States as tables: one row a bin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ldmfilter.errors import InputError
from ldmfilter.export.latents import Column, Follow, attributes, beyond_tables, blocks, checked, columns
from ldmfilter.files import AnyPath, replacing

# A spreadsheet takes what begins so for a formula (OWASP, CSV injection), in some languages the wide ones too.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def to_csv(latents: xr.Dataset, out: AnyPath, overwrite: bool = False, follow: Follow = iter) -> Path:
    """Write one row a bin as CSV (RFC 4180, UTF-8).

    Columns: time (s), segment, interval, observed and trained (0 or 1), then each state with the bounds of its interval
    and, where there are any, its smoothed and lagged means and its forecasts, with their bounds, then rates, decoded
    behaviour, and all else; the header gives units. A missing value is an empty field. Covariances are left out: other
    formats hold them. A text that a spreadsheet would take for a formula has an apostrophe in front.

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
    path, table = checked("csv", latents, out, overwrite), columns(latents)
    heads = [f"{column.name} ({column.unit})" if column.unit else column.name for column in table]
    with replacing(path, overwrite) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        for where, part in follow(blocks(latents, table)):
            cells = {head: _cells(column.of(part).to_numpy()) for head, column in zip(heads, table, strict=True)}
            pd.DataFrame(cells).to_csv(file, index=False, header=not where.start, lineterminator="\r\n")
    return path


def _cells(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "UT":
        return np.asarray([safe_cell(text) for text in values.tolist()], dtype=object)
    return values.astype(np.int8) if values.dtype.kind == "b" else values


def safe_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula.

    >>> safe_cell("=1+1"), safe_cell("run")
    ("'=1+1", 'run')
    """
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def to_parquet(latents: xr.Dataset, out: AnyPath, overwrite: bool = False, follow: Follow = iter) -> Path:
    """Write one row a bin as Parquet.

    The columns of the CSV, each with its unit in the field's metadata, and the covariances as columns of lists of fixed
    size, whose shape and dims stand there too. The attributes are JSON in the schema's metadata, key `ldmfilter`;
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
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("parquet: needs the package pyarrow; `pip install pyarrow`") from None
    path, table = checked("parquet", latents, out, overwrite), columns(latents)
    table += [Column(key, key, {}) for key in beyond_tables(latents)]
    fields = []
    for column in table:
        values = column.of(latents)
        dims, shape = values.dims[1:], values.shape[1:]
        about = {"unit": column.unit} if column.unit else {}
        if shape:
            about = {"dims": json.dumps(dims), "shape": json.dumps(shape)}
        kind = pa.string() if values.dtype.kind in "UT" else pa.from_numpy_dtype(values.dtype)
        fields.append(pa.field(column.name, pa.list_(kind, int(np.prod(shape))) if shape else kind, metadata=about))
    about_all = json.dumps(attributes(latents))
    schema = pa.schema(fields, metadata={"ldmfilter": about_all, "PANDAS_ATTRS": about_all})
    with replacing(path, overwrite) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
        for _, part in follow(blocks(latents, table)):
            arrays = []
            for column, field in zip(table, fields, strict=True):
                flat = pa.array(column.of(part).to_numpy().ravel())
                many = pa.types.is_fixed_size_list(field.type)
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, field.type.list_size) if many else flat)
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return path
