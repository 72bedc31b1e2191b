"""Sortings and SortingAnalyzers of SpikeInterface: in memory, in folders and in zarr stores.

Files are read here as data. SpikeInterface's own readers unpickle columns and import the classes that a folder names,
so that opening a stranger's folder with them may run code.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ldmfilter.data.clocks import PLAIN, Reading, from_the_start
from ldmfilter.data.formats.format import Format, files_checksum, path_checksum
from ldmfilter.data.formats.phy import grouped
from ldmfilter.data.session import Session, Source
from ldmfilter.data.tables import Array, concatenate, is_positive, plain_array, plain_columns
from ldmfilter.data.untrusted.damage import damage, json_object
from ldmfilter.data.untrusted.npy import check_text, read_npy, whole_numbers
from ldmfilter.data.untrusted.zarr_store import (
    check_array,
    check_links,
    is_store,
    open_store,
    read_array,
    reading_store,
)
from ldmfilter.errors import InputError, UnsafeInputError, warn

if TYPE_CHECKING:
    from spikeinterface.core import BaseSorting, SortingAnalyzer

# Extensions of an analyzer with one row a unit.
_METRICS = ("quality_metrics", "template_metrics")
_AGAIN = "save it again with SpikeInterface"


def read_sorting(path: Path, reading: Reading = PLAIN) -> Session:
    """Read a sorting that SpikeInterface saved, as a folder (`numpysorting_info.json`) or as a zarr store.

    Raises InputError as `read_analyzer`.
    """
    return (_read_store if is_store(path) else _read_folder)(path, "", reading)


def read_analyzer(path: Path, reading: Reading = PLAIN) -> Session:
    """Read a SortingAnalyzer that SpikeInterface saved, as a folder or as a zarr store.

    Properties of units, quality metrics and template metrics become unit columns; the recording's length is the
    session's. A column that is pickled is left out with a warning.

    Raises InputError for a file that is missing, damaged or pickled, and for several segments, whose clocks are not
    related.
    """
    return (_read_store if is_store(path) else _read_folder)(path, "sorting", reading)


def from_sorting(sorting: BaseSorting | SortingAnalyzer, segment: int | None = None) -> Session:
    """A session from a sorting or a SortingAnalyzer of SpikeInterface in memory.

    segment: the number of one, where there are several: their clocks are not related

    Times are those of the sorting's recording where it has one. Properties with one value a unit become unit columns.
    Raises InputError for several segments of which none is chosen, and for one that does not exist.
    """
    analyzer: Any = sorting if hasattr(sorting, "sorting") else None
    spikes: Any = sorting if analyzer is None else analyzer.sorting
    if not hasattr(spikes, "get_unit_spike_train"):
        raise InputError(f"memory: a {type(sorting).__name__} of spikeinterface has no units; give a sorting of it")
    number = spikes.get_num_segments()
    if segment is None:
        _check_segments(number, "memory")
        segment = 0
    if not 0 <= segment < number:
        raise InputError(f"memory: no segment {segment}; the sorting has {number}, counted from 0")
    ids = np.asarray(spikes.unit_ids)
    trains = [np.asarray(spikes.get_unit_spike_train_in_seconds(unit, segment_index=segment)) for unit in ids]
    columns = {str(key): np.asarray(spikes.get_property(key)) for key in spikes.get_property_keys()}
    samples = None
    if analyzer is not None:
        samples = analyzer.get_num_samples(segment)
        for extension in filter(None, map(analyzer.get_extension, _METRICS)):
            table = extension.get_data()
            columns = columns | {str(key): table[key].to_numpy() for key in table} | columns
    elif spikes.has_recording():
        samples = spikes.get_num_samples(segment)
    extent = None
    if samples is not None:
        start, stop = spikes.sample_index_to_time(np.asarray([0, samples]), segment_index=segment)
        extent = float(start), float(stop)
    return Session.checked(*concatenate(trains), ids, units=plain_columns(columns), extent=extent)


def _check_segments(number: int, where: str) -> None:
    if number != 1:
        raise InputError(
            f"{where}: has {number} segments, whose clocks are not related; choose one in Python with "
            "ldmfilter.data.formats.sorting.from_sorting(sorting, segment=0)"
        )


def _read_folder(root: Path, group: str, reading: Reading) -> Session:
    """A sorting's folder: `root`, or one within the analyzer `root`."""
    folder = root / group
    info, spikes_file = folder / "numpysorting_info.json", folder / "spikes.npy"
    for file in (info, spikes_file):
        if not file.is_file():
            raise InputError(f"{root}: holds no {file.relative_to(root).as_posix()}; {_AGAIN}")
    described, spikes = _json(info), read_npy(spikes_file)
    if not {"sample_index", "unit_index"} <= set(spikes.dtype.names or ()):
        raise InputError(f"{spikes_file}: holds no spikes of SpikeInterface; save the sorting again")
    files = sorted((folder / "properties").glob("*.npy"))
    columns = _readable(read_npy, {file.stem: file for file in files})
    tables = [file for name in _METRICS if (file := root / "extensions" / name / "metrics.csv").is_file()]
    recording = root / "recording_info" / "recording_attributes.json"
    files += [info, spikes_file, *tables, *[recording] * recording.is_file()]
    return _session(
        described,
        info,
        (spikes["sample_index"], spikes["unit_index"]),
        columns,
        {f"{file}": _metrics(file) for file in tables},
        _json(recording) if recording.is_file() else None,
        Source(path=str(root), checksum=files_checksum(files, root)),
        reading,
    )


def _metrics(file: Path) -> pd.DataFrame:
    with damage(file, "table", "compute the metrics again"):
        return pd.read_csv(file, index_col=0)


def _read_store(root: Path, group: str, reading: Reading) -> Session:
    """A sorting in the group of a zarr store; arrays are opened one by one, and only those of plain types."""
    folder, recording = root / group, root / "recording_info" / ".zattrs"
    info = folder / ".zattrs"

    def read(place: Path, complete: bool = False) -> Array:
        key = place.relative_to(root).as_posix()
        if not (place / ".zarray").is_file():
            raise InputError(f"{root}: holds no {key}; {_AGAIN}")
        check_array(place / ".zarray", f"{root}: {key}")
        return check_text(read_array(store, root, key, complete)[0], f"{root}: {key}")

    def arrays(place: Path) -> dict[str, Path]:
        return {file.parent.name: file.parent for file in sorted(place.glob("*/.zarray"))}

    with reading_store(root, "save or copy it again"):
        check_links(root)
        if not info.is_file():
            raise InputError(f"{root}: holds no sorting of SpikeInterface; save it again")
        store = open_store(root)
        described = _json(info) | {"unit_ids": read(folder / "unit_ids").tolist()}
        spikes = (read(folder / "spikes" / "sample_index", True), read(folder / "spikes" / "unit_index", True))
        columns = _readable(read, arrays(folder / "properties"))
        found = {place: arrays(place) for place in (root / "extensions" / name / "metrics" for name in _METRICS)}
        tables = {
            f"{place}": pd.DataFrame({key: read(array) for key, array in one.items()}).set_index("index")
            for place, one in found.items()
            if "index" in one
        }
        about = _json(recording).get("recording_attributes") if recording.is_file() else None
    source = Source(path=str(root), checksum=path_checksum(folder))
    return _session(described, info, spikes, columns, tables, about, source, reading)


def _readable(read: Callable[[Path], Array], places: dict[str, Path]) -> dict[str, Array]:
    """The arrays by their names, without those that are pickled, with a warning."""
    found = {}
    for name, place in places.items():
        try:
            found[name] = read(place)
        except UnsafeInputError:
            warn(f"{place}: left out, it is pickled, which may run code")
    return found


def _session(
    info: dict[str, Any],
    info_file: Path,
    spikes: tuple[Array, Array],
    columns: dict[str, Array],
    tables: dict[str, pd.DataFrame],
    recording: Any,
    source: Source,
    reading: Reading,
) -> Session:
    """From what SpikeInterface wrote of a sorting.

    spikes: samples (spike,) and positions of units (spike,)
    tables: metrics by the units' ids, by where they lie
    recording: its attributes, with the samples of each segment
    """
    where = source.path
    rate, ids, number = info.get("sampling_frequency"), info.get("unit_ids"), info.get("num_segments", 1)
    if not is_positive(rate):
        raise InputError(f"{info_file}: sampling_frequency is {rate!r}; it must be a positive number of Hz")
    named = plain_array(ids) if isinstance(ids, list) else None
    if named is None or named.ndim != 1 or not isinstance(number, int):
        raise InputError(f"{info_file}: does not describe a sorting (unit_ids, num_segments); save it again")
    _check_segments(number, where)
    frames, units = whole_numbers(spikes[0], f"{where}: sample_index"), whole_numbers(spikes[1], f"{where}: unit_index")
    if len(frames) != len(units) or (units < 0).any() or (units >= len(named)).any():
        raise InputError(f"{where}: spikes do not fit its {len(named)} units; {_AGAIN}")
    for place, table in tables.items():
        if table.index.has_duplicates:
            raise InputError(f"{place}: a unit is given twice; compute the metrics again")
        rows = table.set_axis(table.index.map(str)).reindex([str(unit) for unit in named.tolist()])
        columns = columns | {str(key): rows[key].to_numpy() for key in rows} | columns
    kept = from_the_start(frames, f"{where}: sample_index")
    seconds = frames[kept] / rate
    extent = None
    match recording:
        case {"num_samples": [int() | float() as length]} if length > 0:
            extent = 0.0, max(length / rate, float(seconds.max(initial=0)))
    return grouped(seconds, units[kept], named, columns, source, reading, extent=extent)


def _json(path: Path) -> dict[str, Any]:
    with damage(path, "JSON file", "copy the folder again"):
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise InputError(f"{path}: does not describe a sorting; copy the folder again")
        return content


_INFO = "spikeinterface_info"
FORMATS = {
    "sorting": Format(
        lambda path: (path / "numpysorting_info.json").exists() or (path / "spikes" / "sample_index").is_dir(),
        read_sorting,
        "folder",
    ),
    "analyzer": Format(
        lambda path: (path / f"{_INFO}.json").exists() or _INFO in json_object(path / ".zattrs"),
        read_analyzer,
        "folder",
    ),
}
