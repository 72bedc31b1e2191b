"""What spike sorters leave -> Session: Phy and Kilosort folders, SpikeInterface's folders and zarr stores.

Folders are read here as data. SpikeInterface's own readers execute `params.py`, unpickle columns and import the classes
that a folder names, so that opening a stranger's folder with them may run code.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import xarray as xr

from ldmfilter.data.session import Session, Source
from ldmfilter.data.tables import Array, Floats, Ints, check_spikes, make_table, plain_array, shorten
from ldmfilter.data.untrusted.codecs import checked
from ldmfilter.data.untrusted.npy import check_text, checksum, read_npy, whole
from ldmfilter.errors import InputError, UnsafeInputError

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting, SortingAnalyzer

# `sample_rate = 30000.` as it stands in params.py, also as np.float64(30000.0); never executed.
_SAMPLE_RATE = re.compile(r"^[ \t]*sample_rate[ \t]*=[ \t]*(?:[\w.]+\()?[ \t]*([-+.\deE_]+)", re.I | re.M)
# Columns of SpikeInterface that are no property of a unit as such.
_TABLES = ("quality_metrics", "template_metrics")
# What pandas raises on tables that are none.
_NO_TABLE = (ValueError, OSError)


def read_phy(path: str | os.PathLike[str]) -> Session:
    """Read a Phy or Kilosort folder: `spike_times.npy`, `spike_clusters.npy` or `spike_templates.npy`, `params.py`.

    Units are the clusters that own a spike. The columns of the .tsv and .csv tables become unit columns under their own
    names; `quality` is added where there is none, as SpikeInterface does: Phy's `group`, else Kilosort's `KSLabel`.

    Raises InputError for a file that is missing, damaged or pickled, for a sample rate that `params.py` does not state
    as a number, and for tables whose cluster ids repeat.
    """
    path = Path(path).absolute()
    times_file, rate_file = path / "spike_times.npy", path / "params.py"
    clusters_file = path / "spike_clusters.npy"
    if not clusters_file.exists():
        clusters_file = path / "spike_templates.npy"
    for file in (times_file, clusters_file, rate_file):
        if not file.is_file():
            raise InputError(f"{path}: holds no {file.name}; give a whole Phy or Kilosort folder")
    frames = whole(read_npy(times_file).ravel(), f"{times_file}")
    clusters = whole(read_npy(clusters_file).ravel(), f"{clusters_file}")
    if len(frames) != len(clusters):
        raise InputError(f"{path}: {len(frames)} spike times for {len(clusters)} clusters; copy the folder again")
    if (frames < 0).any():
        raise InputError(f"{times_file}: {(frames < 0).sum()} spikes before the recording's start; sort it again")
    seconds = frames / _sample_rate(rate_file)
    ids, units = np.unique(clusters, return_inverse=True)
    tables = sorted(file for file in path.iterdir() if file.suffix in (".tsv", ".csv") and file.is_file())
    columns = _cluster_columns(tables, ids)
    if "quality" not in columns:
        label = next((columns[name] for name in ("group", "KSLabel") if name in columns), None)
        if label is not None:
            columns["quality"] = label
    noise = int((columns["group"] == "noise").sum()) if "group" in columns else 0
    if noise:
        warnings.warn(
            f"{path}: {noise} of {len(ids)} units are labelled noise; --units \"group != 'noise'\" leaves them out",
            stacklevel=3,
        )
    source = Source(path=str(path), checksum=checksum([times_file, clusters_file, rate_file, *tables], path))
    return _session(seconds, units, ids, columns, source)


def read_sorting(path: str | os.PathLike[str]) -> Session:
    """Read a sorting that SpikeInterface saved, as a folder (`numpysorting_info.json`) or as a zarr store.

    Raises InputError as `read_analyzer`.
    """
    path = Path(path).absolute()
    if (path / ".zgroup").exists() or (path / "zarr.json").exists():
        return _read_store(path, "")
    return _read_folder(path, path, [])


def read_analyzer(path: str | os.PathLike[str]) -> Session:
    """Read a SortingAnalyzer that SpikeInterface saved, as a folder or as a zarr store.

    Properties of units, quality metrics and template metrics become unit columns; the recording's length is the
    session's. A column that is pickled is left out with a warning.

    Raises InputError for a file that is missing, damaged or pickled, and for several segments, whose clocks are not
    related.
    """
    path = Path(path).absolute()
    if (path / ".zgroup").exists() or (path / "zarr.json").exists():
        return _read_store(path, "sorting")
    if not (path / "sorting").is_dir():
        raise InputError(f"{path}: holds no folder `sorting`; give a SortingAnalyzer that SpikeInterface saved")
    tables = [path / "extensions" / name / "metrics.csv" for name in _TABLES]
    return _read_folder(path / "sorting", path, [table for table in tables if table.is_file()])


def from_sorting(sorting: BaseSorting | SortingAnalyzer, segment: int | None = None) -> Session:
    """A session from a sorting or a SortingAnalyzer of SpikeInterface in memory.

    segment: which one, where there are several: their clocks are not related

    Times are those of the sorting's recording where it has one. Properties with one value a unit become unit columns.
    Raises InputError for several segments of which none is chosen, and for one that does not exist.
    """
    where = "memory"
    analyzer = sorting if hasattr(sorting, "sorting") else None
    spikes: Any = sorting.sorting if hasattr(sorting, "sorting") else sorting
    number = spikes.get_num_segments()
    if segment is None:
        _one_segment(number, where)
        segment = 0
    if not 0 <= segment < number:
        raise InputError(f"{where}: no segment {segment}; the sorting has {number}, counted from 0")
    ids = np.asarray(spikes.unit_ids)
    trains = [np.asarray(spikes.get_unit_spike_train_in_seconds(unit, segment_index=segment)) for unit in ids]
    index = np.cumsum([len(train) for train in trains], dtype=np.int64)
    columns = {str(key): np.asarray(spikes.get_property(key)) for key in spikes.get_property_keys()}
    for name in _TABLES if analyzer is not None else ():
        extension = analyzer.get_extension(name) if analyzer is not None else None
        if extension is not None:
            table = extension.get_data()
            columns |= {str(key): table[key].to_numpy() for key in table if str(key) not in columns}
    extent = None
    samples = analyzer.get_num_samples(segment) if analyzer is not None else None
    if samples is None and spikes.has_recording():
        samples = spikes.get_num_samples(segment)
    if samples is not None:
        start, stop = spikes.sample_index_to_time(np.asarray([0, samples]), segment_index=segment)
        extent = float(start), float(stop)
    times = check_spikes(np.concatenate([np.empty(0), *trains]), index, ids, where=where)
    return Session(times, index, _unit_table(columns, ids, where), extent=extent)


def _session(
    seconds: Floats, units: Ints, ids: Array, columns: dict[str, Array], source: Source, stop: float | None = None
) -> Session:
    """From times (spike,), s, and the positions (spike,) of their units in `ids`."""
    if not len(ids):
        raise InputError(f"{source.path}: has no units; sort the recording again")
    order = np.argsort(units, kind="stable")  # times rise within a unit where they rise at all
    index = np.cumsum(np.bincount(units, minlength=len(ids)), dtype=np.int64)
    times = check_spikes(seconds[order], index, ids, where=source.path)
    extent = None if stop is None else (0.0, max(stop, float(seconds.max(initial=0.0))))
    return Session(times, index, _unit_table(columns, ids, source.path), source=source, extent=extent)


def _unit_table(columns: dict[str, Array], ids: Array, where: str) -> xr.Dataset:
    """The columns with one number, bool or text a unit."""
    plain = {name: plain_array(values) for name, values in columns.items() if values.ndim == 1}
    return make_table({name: values for name, values in plain.items() if values is not None}, "unit", ids, where)


def _one_segment(number: int, where: str) -> None:
    if number != 1:
        raise InputError(
            f"{where}: has {number} segments, whose clocks are not related; choose one in Python with "
            "ldmfilter.data.formats.sorting.from_sorting(sorting, segment=0)"
        )


def _sample_rate(path: Path) -> float:
    """The sample rate, Hz, that a params.py states; the file is searched, not executed."""
    found = _SAMPLE_RATE.findall(path.read_text(encoding="utf-8", errors="replace"))
    try:
        rate = float(found[-1])
    except (IndexError, ValueError):
        raise InputError(f"{path}: states no sample_rate; write it as sample_rate = 30000.0") from None
    if not (math.isfinite(rate) and rate > 0):
        raise InputError(f"{path}: sample_rate is {rate:g}; it must be a positive number of Hz")
    return rate


def _cluster_columns(tables: list[Path], ids: Array) -> dict[str, Array]:
    """The columns of the tables that have cluster ids, for the clusters `ids`; cluster_info wins."""
    columns: dict[str, Array] = {}
    for file in sorted(tables, key=lambda file: not file.stem.startswith("cluster_info")):
        try:
            table = pd.read_csv(file, sep="\t" if file.suffix == ".tsv" else ",")
        except _NO_TABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file}: cannot be read as a table ({reason}); write it again or remove it") from error
        key = next((name for name in ("cluster_id", "id") if name in table), None)
        if key is None:
            continue
        twice = table[key][table[key].duplicated()]
        if len(twice):
            raise InputError(f"{file}: {key} {shorten(twice.tolist())} is given twice; keep one row a cluster")
        rows = table.set_index(key).reindex(ids)
        for name in rows:
            text = rows[name].dtype.kind == "O"
            values = rows[name].fillna("").astype(str) if text else rows[name]
            if name == "group":
                values = values.replace("", "unsorted")  # as Phy shows a cluster that no one has labelled
            columns.setdefault(str(name), values.to_numpy())
    return columns


def _read_folder(folder: Path, root: Path, tables: list[Path]) -> Session:
    """A sorting's folder, which is `root` or lies within the analyzer `root`, with tables of metrics."""
    info_file, spikes_file = folder / "numpysorting_info.json", folder / "spikes.npy"
    for file in (info_file, spikes_file):
        if not file.is_file():
            raise InputError(f"{root}: holds no {file.relative_to(root).as_posix()}; save it again with SpikeInterface")
    info = _json(info_file)
    spikes = read_npy(spikes_file)
    if not {"sample_index", "unit_index"} <= set(spikes.dtype.names or ()):
        raise InputError(f"{spikes_file}: holds no spikes of SpikeInterface; save the sorting again")
    rate, ids, number = _described(info, info_file)
    _one_segment(number, str(root))
    properties = sorted((folder / "properties").glob("*.npy"))
    columns = {}
    for file in properties:
        column = _column(lambda file=file: read_npy(file), f"{file}")  # type: ignore[misc]
        if column is not None:
            columns[file.stem] = column
    for file in tables:
        try:
            table = pd.read_csv(file, index_col=0)
        except _NO_TABLE as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{file}: cannot be read as a table ({reason}); compute the metrics again") from error
        table.index = table.index.astype(str)
        if table.index.has_duplicates:
            raise InputError(f"{file}: a unit is given twice; compute the metrics again")
        table = table.reindex([str(unit) for unit in ids.tolist()])
        columns |= {str(key): table[key].to_numpy() for key in table if str(key) not in columns}
    attributes = root / "recording_info" / "recording_attributes.json"
    extras = [attributes] if attributes.is_file() else []
    samples = _json(attributes).get("num_samples") if extras else None
    files = [info_file, spikes_file, *properties, *tables, *extras]
    return _spike_vector(
        spikes["sample_index"], spikes["unit_index"], rate, ids, columns, samples,
        Source(path=str(root), checksum=checksum(files, root)),
    )  # fmt: skip


@checked()
def _read_store(root: Path, group: str) -> Session:
    """A sorting in the group of a zarr store; arrays are opened one by one, and only those of plain types."""
    import zarr

    from ldmfilter.data.formats.zarr import _DAMAGE, _ZARR_3, _checksum, _get, _refuse_code, check_links

    if (root / "zarr.json").exists():
        raise InputError(f"{root}: is zarr format 3; save it again with zarr < 3")
    check_links(root)
    folder = root / group
    if not (folder / ".zattrs").is_file():
        raise InputError(f"{root}: holds no sorting of SpikeInterface; save it again")

    def read(key: str, complete: bool = False) -> Array:
        place = f"{group}/{key}" if group and not key.startswith("extensions/") else key
        if not (root / place / ".zarray").is_file():
            raise InputError(f"{root}: holds no {place}; save it again with SpikeInterface")
        _refuse_code(root / place / ".zarray", f"{root}: {place}")
        return check_text(_get(store, root, place, complete)[0], f"{root}: {place}")

    def children(place: Path) -> list[str]:
        return sorted(array.parent.name for array in place.glob("*/.zarray"))

    try:
        store = zarr.open_group(
            str(root), mode="r", **({"zarr_format": 2, "use_consolidated": False} if _ZARR_3 else {})
        )
        described = _json(folder / ".zattrs")
        rate, ids, number = _described(described | {"unit_ids": read("unit_ids").tolist()}, folder / ".zattrs")
        _one_segment(number, str(root))
        frames, units = read("spikes/sample_index", True), read("spikes/unit_index", True)
        columns = {}
        for name in children(folder / "properties"):
            column = _column(lambda name=name: read(f"properties/{name}"), f"{root}: {name}")  # type: ignore[misc]
            if column is not None:
                columns[name] = column
        for extension in _TABLES if group else ():
            place = f"extensions/{extension}/metrics"
            names = children(root / place)
            if "index" in names:
                rows = pd.Index([str(unit) for unit in read(f"{place}/index").tolist()])
                for name in names:
                    if name != "index" and name not in columns:
                        values = pd.Series(read(f"{place}/{name}"), rows)
                        columns[name] = values.reindex([str(unit) for unit in ids.tolist()]).to_numpy()
        attributes = root / "recording_info" / ".zattrs"
        recording = _json(attributes).get("recording_attributes") if group and attributes.is_file() else None
        samples = recording.get("num_samples") if isinstance(recording, dict) else None
    except InputError:
        raise
    except _DAMAGE as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise InputError(f"{root}: is a damaged zarr store ({reason}); save or copy it again") from error
    source = Source(path=str(root), checksum=_checksum(folder))
    return _spike_vector(frames, units, rate, ids, columns, samples, source)


def _spike_vector(
    frames: Array, units: Array, rate: float, ids: Array, columns: dict[str, Array], samples: Any, source: Source
) -> Session:
    """From SpikeInterface's spikes: samples (spike,) and positions of units (spike,); `samples` of the segment."""
    where = source.path
    frames, units = whole(frames, f"{where}: sample_index"), whole(units, f"{where}: unit_index")
    if len(frames) != len(units) or (units < 0).any() or (units >= len(ids)).any():
        raise InputError(f"{where}: spikes do not fit its {len(ids)} units; save it again with SpikeInterface")
    length = samples[0] if isinstance(samples, list) and len(samples) == 1 else None
    stop = length / rate if isinstance(length, int | float) and length > 0 else None
    return _session(frames / rate, units, ids, columns, source, stop)


def _described(info: dict[str, Any], where: Path) -> tuple[float, Array, int]:
    """Sampling frequency, Hz, ids of units, number of segments."""
    rate, ids, number = info.get("sampling_frequency"), info.get("unit_ids"), info.get("num_segments", 1)
    if not isinstance(rate, int | float) or not (math.isfinite(rate) and rate > 0):
        raise InputError(f"{where}: sampling_frequency is {rate!r}; it must be a positive number of Hz")
    named = plain_array(ids) if isinstance(ids, list) else None
    if named is None or named.ndim != 1 or not isinstance(number, int):
        raise InputError(f"{where}: does not describe a sorting (unit_ids, num_segments); save it again")
    return float(rate), named, number


def _column(read: Callable[[], Array], where: str) -> Array | None:
    """A column of the unit table, or None with a warning where it is pickled."""
    try:
        return read()
    except UnsafeInputError:
        warnings.warn(f"{where}: left out, it is pickled, which may run code", stacklevel=4)
        return None


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read ({type(error).__name__}); copy the folder again") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: does not describe a sorting; copy the folder again")
    return content
