"""Trials: rows of an interval table, chosen by a query, and the times of an event in them."""

import numpy as np
import xarray as xr

from ldmfilter.data.selection import flat_columns, rows_that_fit
from ldmfilter.data.session import Session
from ldmfilter.data.tables import shorten
from ldmfilter.errors import InputError


def find_column(session: Session, text: str, kinds: str = "biufU") -> tuple[str, str]:
    """The interval table and the column that "TABLE.COLUMN" names; both may hold dots.

    kinds: of the column's values, as numpy's `dtype.kind`

    Raises InputError, with a list of those that exist, where there is no such table or column, and for a column of
    other values or of several a row.
    """
    where, tables = session.source.path, session.intervals
    fits = [name for name in tables if text.startswith(f"{name}.")]
    if not fits:
        have = f"it has {shorten(tables)}" if tables else "it has none"
        if text in tables:
            raise InputError(f"{where}: {text!r} is an interval table; name a column of it, as {text}.start_time")
        name = text.rpartition(".")[0] or text
        raise InputError(f"{where}: no interval table {name!r}; {have}; name a column as TABLE.COLUMN")
    table = max(fits, key=len)
    column = text[len(table) + 1 :]
    columns = [name for name, values in flat_columns(tables[table]).items() if values.dtype.kind in kinds]
    if column not in columns:
        what = "column" if "U" in kinds else "column of times"
        raise InputError(f"{where}: no {what} {column!r} in interval table {table!r}; it has {shorten(columns)}")
    return table, column


def choose_trials(session: Session, event: str, query: str | None = None) -> tuple[xr.Dataset, str]:
    """Rows of an interval table, and the name of its column that holds the event's times, s.

    event: "TABLE.COLUMN", any column of times, as "trials.go_cue"
    query: an expression on the table's columns, as "condition == 3 and rewarded"; without it all rows

    Raises InputError as `find_column` and `rows_that_fit`, where no row fits the query, and where none has a time.
    """
    name, column = find_column(session, event, kinds="iuf")
    table, where = session.intervals[name], f"{session.source.path}: {name}"
    rows = table.sizes["interval"]
    if query is not None:
        lists = {str(key): column for key, column in table.items() if column.ndim == 2 and column.shape[1] == 1}
        single = {key: column.values[:, 0] for key, column in lists.items()}  # as tags, where no row has two
        kept = rows_that_fit({"id": table["interval"].values, **flat_columns(table), **single}, query, where)
        if not kept.any():
            raise InputError(f"{where}: none of {rows} rows fits the query {query!r}; widen it")
        table = table.isel(interval=np.flatnonzero(kept))
    if not np.isfinite(table[column].values.astype(np.float64)).any():
        which = "" if query is None else f" that fit the query {query!r}"
        raise InputError(
            f"{where}: {column} is NaN in all {table.sizes['interval']} rows{which}; align to another column of times"
        )
    return table, column
