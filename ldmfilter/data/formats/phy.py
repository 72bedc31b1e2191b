"""Folders of Phy and Kilosort, read as data: SpikeInterface's own reader executes `params.py`."""

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ldmfilter.data.clocks import PLAIN, Reading, from_the_start
from ldmfilter.data.formats.format import Format, files_checksum
from ldmfilter.data.session import Session, Source
from ldmfilter.data.tables import Array, Floats, Ints, is_positive, plain_columns, shorten
from ldmfilter.data.untrusted.damage import damage
from ldmfilter.data.untrusted.npy import read_npy, whole_numbers
from ldmfilter.errors import InputError, warn

# `sample_rate = 30000.` as it stands in params.py, also as np.float64(30000.0); never executed.
_SAMPLE_RATE = re.compile(r"^[ \t]*sample_rate[ \t]*=[ \t]*(?:[\w.]+\()?[ \t]*([-+.\deE_]+)", re.I | re.M)


def read_phy(path: Path, reading: Reading = PLAIN) -> Session:
    """Read a Phy or Kilosort folder: `spike_times.npy`, `spike_clusters.npy` or `spike_templates.npy`, `params.py`.

    Units are the clusters that own a spike. The columns of the .tsv and .csv tables become unit columns under their own
    names; `quality` is added where there is none, as SpikeInterface does: Phy's `group`, else Kilosort's `KSLabel`.

    Rows without an id and a few negative frames are left out with a warning.

    Raises InputError for a file that is missing, damaged or pickled, for a sample rate that `params.py` does not state
    as a number, and for tables whose cluster ids repeat.
    """
    times_file, clusters_file, rate_file = path / "spike_times.npy", path / "spike_clusters.npy", path / "params.py"
    if not clusters_file.exists():
        clusters_file = path / "spike_templates.npy"
    for file in (times_file, clusters_file, rate_file):
        if not file.is_file():
            raise InputError(f"{path}: holds no {file.name}; give a whole Phy or Kilosort folder")
    frames = whole_numbers(read_npy(times_file).ravel(), f"{times_file}")
    clusters = whole_numbers(read_npy(clusters_file).ravel(), f"{clusters_file}")
    if len(frames) != len(clusters):
        raise InputError(f"{path}: {len(frames)} spike times for {len(clusters)} clusters; copy the folder again")
    kept = from_the_start(frames, f"{times_file}")
    frames, clusters = frames[kept], clusters[kept]
    seconds = frames / _sample_rate(rate_file)
    ids, units = np.unique(clusters, return_inverse=True)
    tables = sorted(file for file in path.iterdir() if file.suffix in (".tsv", ".csv") and file.is_file())
    columns = _cluster_columns(tables, ids)
    label = columns.get("group", columns.get("KSLabel"))
    if label is not None:
        columns.setdefault("quality", label)
    noise = int((columns["group"] == "noise").sum()) if "group" in columns else 0
    if noise:
        warn(f"{path}: {noise} of {len(ids)} units are labelled noise; the query \"group != 'noise'\" leaves them out")
    source = Source(path=str(path), checksum=files_checksum([times_file, clusters_file, rate_file, *tables], path))
    return grouped(seconds, units, ids, columns, source, reading)


def grouped(
    seconds: Floats,
    units: Ints,
    ids: Array,
    columns: Mapping[str, Array],
    source: Source,
    reading: Reading,
    **parts: Any,
) -> Session:
    """A session from a sorter's spikes: times (spike,), s, and positions of units (spike,). Raises InputError for one
    without units, and as `Session.checked`."""
    if not len(ids):
        raise InputError(f"{source.path}: has no units; sort the recording again")
    order = np.argsort(units, kind="stable")  # times rise within a unit where they rise at all
    index = np.cumsum(np.bincount(units, minlength=len(ids)), dtype=np.int64)
    return Session.checked(seconds[order], index, ids, source, reading, units=plain_columns(columns), **parts)


def _sample_rate(path: Path) -> float:
    """The sample rate, Hz, that a params.py states; the file is searched, not executed."""
    found = _SAMPLE_RATE.findall(path.read_text(encoding="utf-8", errors="replace"))
    try:
        rate = float(found[-1])
    except (IndexError, ValueError):
        raise InputError(f"{path}: states no sample_rate; write it as sample_rate = 30000.0") from None
    if not is_positive(rate):
        raise InputError(f"{path}: sample_rate is {rate:g}; it must be a positive number of Hz")
    return rate


def _cluster_columns(tables: list[Path], ids: Array) -> dict[str, Array]:
    """The columns of the tables that have cluster ids, for the clusters `ids`.

    cluster_info comes first; a value that it lacks is taken from the table that has it.
    """
    joined = pd.DataFrame(index=ids)
    for file in sorted(tables, key=lambda file: not file.stem.startswith("cluster_info")):
        table = _cluster_table(file)
        if table is not None:
            joined = joined.combine_first(table.reindex(ids))[
                [*joined, *(name for name in table if name not in joined)]
            ]
    if "group" in joined and joined["group"].dtype.kind not in "biuf":
        joined["group"] = joined["group"].fillna("unsorted")  # as Phy shows a cluster that no one has labelled
    return {str(name): joined[name].to_numpy() for name in joined}


def _cluster_table(file: Path) -> pd.DataFrame | None:
    """A table by its whole cluster ids; None, with a warning, for one without. Rows that cannot be used are told."""
    with damage(file, "table", "write it again or remove it"):
        text = file.read_bytes().decode("utf-8-sig", errors="replace")
        # The suffix does not tell how columns are parted: Phy 1 writes tabs into .csv, spreadsheets semicolons.
        head = text.lstrip().partition("\n")[0]
        parted_by = max("\t", ";", ",", key=head.count)
        decimal = "," if parted_by == ";" and re.search(r"\d,\d", text) else "."
        table = pd.read_csv(io.StringIO(text), sep=parted_by, decimal=decimal, skipinitialspace=True)
    table = table.rename(columns=lambda name: str(name).strip())
    key = next((name for name in table if str(name).lower() in ("cluster_id", "id")), None)
    if key is None:
        if file.stem.startswith("cluster"):
            warn(f"{file}: left out, it has no column cluster_id; it has {shorten(table)}")
        return None
    number = pd.to_numeric(table[key], errors="coerce")
    whole = number.notna() & (number % 1 == 0)
    if not whole.all():
        warn(f"{file}: left out {(~whole).sum()} of {len(table)} rows, without a {key}")
    table = table[whole].set_index(number[whole].astype(np.int64)).drop(columns=key)
    # A blank cell is no label: another row or table may have it.
    table = table.replace(r"^\s*$", np.nan, regex=True)
    twice = table.index[table.index.duplicated()].unique()
    if len(twice):
        raise InputError(f"{file}: {key} {shorten(twice.tolist())} is given twice; keep one row a cluster")
    return table


_PHY = Format(lambda path: (path / "spike_times.npy").exists(), read_phy, "folder")
FORMATS = {"phy": _PHY, "kilosort": _PHY}
