"""States as tables: one row a bin."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ldmfilter.errors import InputError
from ldmfilter.export.latents import Follow, attributes, blocks, columns
from ldmfilter.files import replacing

# A spreadsheet takes what begins so for a formula (OWASP, CSV injection), in some languages the wide ones too.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")


def write_csv(latents: xr.Dataset, out: Path, overwrite: bool, follow: Follow = iter) -> Path:
    """As `ldmfilter.export.to_csv`."""
    table = columns(latents)
    heads = [f"{column.name} ({column.unit})" if column.unit else column.name for column in table]
    with replacing(out, overwrite) as scratch, scratch.open("w", encoding="utf-8", newline="") as file:
        for where, part in follow(blocks(latents, sorted({column.variable for column in table}))):
            cells = {head: _cells(column.of(part)) for head, column in zip(heads, table, strict=True)}
            pd.DataFrame(cells).to_csv(file, index=False, header=not where.start, lineterminator="\r\n")
    return out


def _cells(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "b":
        return values.astype(np.int8)
    if values.dtype.kind in "UT":
        return np.asarray([safe_cell(text) for text in values.tolist()], dtype=object)
    return values


def safe_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula.

    >>> safe_cell("=1+1"), safe_cell("run")
    ("'=1+1", 'run')
    """
    return f"'{text}" if text.lstrip().startswith(_FORMULA) else text


def write_parquet(latents: xr.Dataset, out: Path, overwrite: bool, follow: Follow = iter) -> Path:
    """As `ldmfilter.export.to_parquet`."""
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise InputError("parquet: needs the package pyarrow; `pip install pyarrow`") from None
    table = columns(latents)
    taken = {column.variable for column in table}
    # The rest holds several numbers a bin, or, as folds, one that the table has no place for.
    rest = [str(name) for name, x in latents.data_vars.items() if name not in taken and "time" in x.dims]

    def kind(dtype: np.dtype) -> pa.DataType:
        return pa.string() if dtype.kind in "UT" else pa.from_numpy_dtype(dtype)

    fields = [
        pa.field(c.name, kind(latents[c.variable].dtype), metadata={"unit": c.unit} if c.unit else None) for c in table
    ]
    for name in rest:
        variable = latents[name].transpose("time", ...)
        item = kind(variable.dtype)
        shape = variable.shape[1:]
        about = {"dims": json.dumps(variable.dims[1:]), "shape": json.dumps(shape)}
        fields.append(pa.field(name, pa.list_(item, int(np.prod(shape))) if shape else item, metadata=about))
    about_all = json.dumps(attributes(latents))
    schema = pa.schema(fields, metadata={"ldmfilter": about_all, "PANDAS_ATTRS": about_all})
    with replacing(out, overwrite) as scratch, pq.ParquetWriter(scratch, schema, compression="zstd") as writer:
        for _, part in follow(blocks(latents, sorted({*taken, *rest}))):
            arrays = [pa.array(column.of(part)) for column in table]
            for name in rest:
                values = np.ascontiguousarray(part[name].transpose("time", ...).to_numpy())
                flat = pa.array(values.reshape(-1))
                width = int(np.prod(values.shape[1:]))
                arrays.append(pa.FixedSizeListArray.from_arrays(flat, width) if values.ndim > 1 else flat)
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
    return out
