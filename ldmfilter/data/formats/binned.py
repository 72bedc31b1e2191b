"""Counts that come binned -> Session.

netCDF, zarr    a variable (time, unit), `counts` where there are several; variables (unit,) are unit columns, those
                (time,) or (time, x) behaviour, those (interval,) the table "intervals"
.npz            arrays `counts` (time, unit), `bin_size` or `time` (bin centres, s), `unit`
.npy            counts (time, unit) alone, their bin size told

Beside them, as groups or as names with slashes: units/<column>, intervals/<table>/<column>,
behavior/<name>/data and behavior/<name>/time, as `Session.to_zarr` lays them out.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from ldmfilter.data.selection import Span, intersect
from ldmfilter.data.session import Observed, Session, Source
from ldmfilter.data.tables import Array, Floats, make_intervals, make_table, plain_array, shorten
from ldmfilter.data.untrusted.hdf5 import check_heaps, check_netcdf
from ldmfilter.data.untrusted.npy import check_text, file_checksum, read_npy, read_npz
from ldmfilter.errors import InputError

# A wanted bin size may differ from whole bins by so much of itself: what is lost in writing it down.
_SAME = 1e-6
# Bins that lie off the grid by less than this share of a bin are on it: time axes in float32 waver by so much.
_WAVER = 0.05
# Spikes at most, eight bytes each.
_MOST = 2**29
# How many seconds a unit of a time axis has; "since" a date may follow.
_SECONDS = {
    **dict.fromkeys(("", "s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("ms", "msec", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "microsecond", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanosecond", "nanoseconds"), 1e-9),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
}
# Coordinates that `bin_spikes` gives counts: no behaviour.
_MARKS = {"segment", "interval", "observed", "unit_observed"}
# What metadata raise that are cut short or made up.
_DAMAGE = (OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True, eq=False, repr=False)
class BinnedSession(Session):
    """A session of which only counts in bins are known.

    Each spike stands at the centre of its bin, so that rates, queries and intervals work as for spike times.
    `bin_spikes` gives the counts back, in their own bins or in whole multiples, and no others.

    bin_size: s
    stretches (stretch, 2): start and stop, s, of each gap-free run of bins; it holds a whole number of them
    """

    bin_size: float = math.nan
    stretches: Floats = field(default_factory=lambda: np.empty((0, 2)))

    def on_grid(self, bin_size: float, spans: Sequence[Span]) -> tuple[float, list[Span]]:
        """A bin size and spans that fit these bins: edges moved inwards to the edges of bins, no span across a gap.

        Raises InputError for a bin size that is no whole multiple of the counts' own, and where no bin is left.
        """
        where, own = self.source.path, self.bin_size
        times = round(bin_size / own)
        if times < 1 or abs(bin_size / own / times - 1) > _SAME:
            raise InputError(
                f"{where}: counts in bins of {own:g} s cannot be told in bins of {bin_size:g} s; "
                f"give {own:g} s or a whole multiple as bin size"
            )
        ordered = sorted(spans)
        bounds = np.asarray([span[:2] for span in ordered], dtype=np.float64).reshape(-1, 2)
        pieces, rows, stretch = intersect(bounds, self.stretches)
        starts = self.stretches[stretch, 0]
        first = np.ceil((pieces[:, 0] - starts) / own - _WAVER).astype(np.int64)
        last = np.floor((pieces[:, 1] - starts) / own + _WAVER).astype(np.int64)
        kept = last > first
        if not kept.any():
            raise InputError(f"{where}: no bin of {own:g} s lies in the chosen time; choose another")
        fitting = [
            # A quarter of a bin more than the whole bins: rounding takes none of them away.
            Span(start + a * own, start + (b + 0.25) * own, ordered[row].label)
            for start, a, b, row in zip(starts[kept], first[kept], last[kept], rows[kept].tolist(), strict=True)
        ]
        return times * own, fitting

    def to_zarr(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Raises InputError: there are no spike times to write."""
        raise InputError(f"{self.source.path}: counts that came binned have no spike times to write; keep that file")


def from_counts(
    counts: xr.DataArray | npt.ArrayLike,
    bin_size: float | None = None,
    *,
    units: Mapping[str, Any] | pd.DataFrame | None = None,
    intervals: Mapping[str, Mapping[str, Any] | pd.DataFrame] | None = None,
    behavior: Mapping[str, xr.DataArray] | None = None,
    source: Source | None = None,
) -> BinnedSession:
    """A session from counts that were made elsewhere.

    counts: DataArray with dims time and unit, or an array (time, unit). NaN, and bins whose coordinate `observed`
        is False, were not observed; `segment` and jumps in `time` end a stretch; `interval`, a label a bin, becomes
        an interval table of that name.
    bin_size: s, for counts that say it neither in an attribute `bin_size` nor by `time` (bin centres; s, or as its
        attribute `units` says)
    units, intervals, behavior: as for `Session.from_spikes`

    Raises InputError for other dims, a bin size that is not told or does not fit the time axis, times that do not
    rise, and values that are no counts.

    >>> session = from_counts([[2, 0], [1, 1], [0, 3]], bin_size=0.1, units={"quality": ["good", "mua"]})
    >>> session.n_spikes, session.rates.round(6).tolist()
    (7, [10.0, 13.333333])
    """
    source = source or Source()
    where = source.path
    table = counts if isinstance(counts, xr.DataArray) else _array(counts, where)
    if set(table.dims) != {"time", "unit"}:
        raise InputError(f"{where}: counts have dims ({', '.join(map(str, table.dims))}); give (time, unit)")
    table = table.transpose("time", "unit")
    if 0 in table.shape:
        raise InputError(f"{where}: counts are empty, {table.shape[0]} bins of {table.shape[1]} units; give some")
    ids = np.arange(table.sizes["unit"])
    if "unit" in table.coords:
        named = plain_array(table["unit"].values)
        if named is None:
            raise InputError(f"{where}: unit: ids are neither numbers nor text; name the units anew")
        ids = named
        unique, number = np.unique(ids, return_counts=True)
        if (number > 1).any():
            twice = shorten(unique[number > 1].tolist())
            raise InputError(f"{where}: unit: id {twice} is given twice; give each unit its own")
    size, centres = _time(table, bin_size, where)
    # A new stretch begins where the time jumps or another segment begins.
    first = np.diff(centres, prepend=-np.inf) > (1 + _WAVER) * size
    segment = _mark(table, "segment", where)
    if segment is not None:
        first |= np.diff(segment, prepend=segment[:1] - 1) != 0
    heads = np.flatnonzero(first)
    length = np.diff(heads, append=len(centres))
    starts = centres[heads] - size / 2
    step = np.arange(len(centres)) - np.repeat(heads, length)
    left = np.repeat(starts, length) + step * size

    values, missing = _whole(table, ids, where)
    seen = np.ones(len(centres), dtype=bool)
    observed = _mark(table, "observed", where)
    if observed is not None:
        seen &= observed.astype(bool)
    if segment is not None:
        seen &= segment >= 0
    masks = None if missing is None else ~missing
    told = _mark(table, "unit_observed", where)
    if told is not None:
        masks = told.astype(bool) if masks is None else masks & told.astype(bool)
    index = np.cumsum(values.sum(0, dtype=np.int64))
    if index[-1] > _MOST:
        raise InputError(
            f"{where}: counts: {index[-1]:,} spikes in all are more than fit into memory; are they counts?"
        )
    times = np.empty(index[-1])
    for column, stop in enumerate(index.tolist()):
        times[index[column - 1] if column else 0 : stop] = np.repeat(left + size / 2, values[:, column])
    tables = {name: make_intervals(columns, f"{where}: {name}") for name, columns in (intervals or {}).items()}
    if "interval" in table.coords and "interval" not in tables:
        tables["interval"] = _labels(table["interval"].values, first, left, size, where)
    return BinnedSession(
        spike_times=times,
        spike_times_index=index,
        units=make_table(units if units is not None else {}, "unit", ids, where=f"{where}: units"),
        intervals=tables,
        behavior=dict(behavior or {}),
        observed=_observed(seen, masks, first, left, size, len(ids)),
        source=source,
        extent=(float(starts[0]), float(left[-1] + size)),
        bin_size=size,
        stretches=np.stack([starts, starts + length * size], axis=1),
    )


def read_counts(path: str | os.PathLike[str], bin_size: float | None = None) -> BinnedSession:
    """Read counts from netCDF, zarr, .npz or .npy, with the unit columns, intervals and behaviour beside them.

    bin_size: s, for counts that do not say it themselves

    Raises InputError as `from_counts`, for a file that is missing, damaged or of another kind, one without a variable
    (time, unit), and one that holds pickled objects.
    """
    path = Path(path).absolute()
    if path.is_dir():
        from ldmfilter.data.formats.zarr import _checksum

        root, groups = _open_zarr(path)
        return _session(path, root, groups, bin_size, _checksum(path))
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the permissions and the disk") from error
    if start.startswith(b"\x93NUMPY"):
        source = Source(path=str(path), checksum=file_checksum(path))
        return from_counts(_array(read_npy(path), str(path)), bin_size, source=source)
    if start.startswith(b"PK"):
        root, groups = _from_arrays(read_npz(path), str(path))
    else:
        engine = "scipy" if start.startswith(b"CDF") else "h5netcdf"
        if engine == "h5netcdf":
            check_heaps(path)
            check_netcdf(path)
        root, groups = _open(path, engine)
    return _session(path, root, groups, bin_size, file_checksum(path))


Groups = dict[str, xr.Dataset]


def _open(path: Path, engine: str, **options: Any) -> tuple[xr.Dataset, Groups]:
    """The root of a file and its groups by their paths, all in memory."""
    try:
        # Times stay the numbers that they are; "units" of "s" would make them durations.
        if engine == "scipy":
            with xr.open_dataset(path, engine="scipy", decode_times=False) as file:
                return file.load(), {}
        opened = xr.open_groups(path, engine=engine, decode_times=False, **options)  # type: ignore[arg-type]
        try:
            groups = {name.strip("/"): group.load() for name, group in opened.items()}
        finally:
            for group in opened.values():
                group.close()
        for group in groups.values():
            for name, variable in group.variables.items():
                # What lies there may have another length than the dim that it claims.
                if np.shape(variable.values) != tuple(group.sizes[dim] for dim in variable.dims):
                    raise ValueError(f"{name} does not have the length of its dims")
        return groups.pop(""), groups
    except Exception as error:  # whatever four libraries raise, the file is what they could not read
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        kind = "zarr store" if engine == "zarr" else "netCDF file"
        raise InputError(f"{path}: cannot be read as a {kind} of counts ({reason}); write or copy it again") from error


def _open_zarr(path: Path) -> tuple[xr.Dataset, Groups]:
    from ldmfilter.data.formats.zarr import check_arrays
    from ldmfilter.data.untrusted.codecs import checked

    if (path / "zarr.json").exists():
        raise InputError(f"{path}: is zarr format 3; write the counts with zarr_format=2")
    try:
        check_arrays(path, long_text=True)
    except InputError:
        raise
    except _DAMAGE as error:
        raise InputError(f"{path}: has damaged metadata ({error}); write or copy it again") from error
    with checked():
        return _open(path, "zarr", consolidated=False)


def _mark(table: xr.DataArray, name: str, where: str) -> Array | None:
    """A coordinate along time (and unit) that marks bins, if there is one."""
    if name not in table.coords:
        return None
    mark = table[name].transpose(..., "unit", missing_dims="ignore").values
    if mark.dtype.kind not in "biuf":
        raise InputError(f"{where}: {name} holds {mark.dtype}, where a number a bin is wanted; write it anew")
    return mark.astype(np.int64) if mark.dtype.kind in "bu" else mark


def _from_arrays(arrays: dict[str, Array], where: str) -> tuple[xr.Dataset, Groups]:
    """Arrays by their names, as .npz holds them, as a dataset and its groups."""
    top = {name: array for name, array in arrays.items() if "/" not in name}
    flat = [name for name, array in top.items() if array.ndim == 2]
    name = "counts" if "counts" in top else flat[0] if len(flat) == 1 else None
    if name is None or top[name].ndim != 2:
        raise InputError(f"{where}: holds no array counts (time, unit); it has {shorten(arrays) or 'none'}")
    counts = xr.DataArray(top[name], dims=("time", "unit"), name="counts")
    if "bin_size" in top:
        counts.attrs["bin_size"] = top["bin_size"].item() if top["bin_size"].size == 1 else None
    for key, dims in {
        "time": ("time",), "segment": ("time",), "interval": ("time",), "observed": ("time",),
        "unit": ("unit",), "unit_observed": ("time", "unit"),
    }.items():  # fmt: skip
        if key in top:
            if top[key].shape != tuple(counts.sizes[dim] for dim in dims):
                raise InputError(f"{where}: {key} has shape {top[key].shape}, counts {counts.shape}; save them anew")
            counts = counts.assign_coords({key: (dims, top[key])})
    groups: dict[str, dict[str, Array]] = {}
    for path, array in arrays.items():
        group, slash, key = path.rpartition("/")
        if slash and array.ndim in (1, 2):
            groups.setdefault(group, {})[key] = array
    first = {"units": "unit", "intervals": "interval", "behavior": "time"}
    datasets = {}
    for group, columns in groups.items():
        dim = first.get(group.split("/")[0], "row")
        try:
            datasets[group] = xr.Dataset({key: ((dim, f"{key}_item")[: a.ndim], a) for key, a in columns.items()})
        except ValueError as error:
            raise InputError(f"{where}: {group}: arrays differ in length; save them anew") from error
    return counts.to_dataset(), datasets


def _session(path: Path, root: xr.Dataset, groups: Groups, bin_size: float | None, checksum: str) -> BinnedSession:
    """What a dataset and its groups hold, each thing by its dims or the group that it lies in."""
    where = str(path)
    for place, dataset in {"": root, **groups}.items():
        for column, variable in dataset.variables.items():
            check_text(variable.values, f"{where}: {place}/{column}")
    fitting = [name for name, array in root.items() if set(array.dims) == {"time", "unit"} and name not in _MARKS]
    name = "counts" if "counts" in fitting else fitting[0] if len(fitting) == 1 else None
    if name is None:
        found = shorten(fitting or (f"{key} ({', '.join(map(str, array.dims))})" for key, array in root.items()))
        what = "several variables" if fitting else "no variable"
        raise InputError(f"{where}: holds {what} with dims (time, unit): {found or 'none'}; name the counts `counts`")
    counts = root[name]
    units: dict[str, Any] = {}
    behavior: dict[str, xr.DataArray] = {}
    intervals: dict[str, dict[str, Any]] = {}
    for key, array in {**root.coords, **root.data_vars}.items():
        text = str(key)
        if text in (*_MARKS, name, "time", "unit"):
            continue
        if array.dims == ("unit",):
            units[text] = array.values
        elif array.dims[:1] == ("interval",):
            intervals.setdefault("intervals", {})[text] = _rows(array)
        elif array.dims[:1] == ("time",) and array.ndim <= 2 and array.dtype.kind in "biuf" and "time" in root.coords:
            behavior[text] = _series(array.rename(text), root["time"], where)
    for group, dataset in groups.items():
        room, _, key = group.partition("/")
        key = unquote(key)
        if room == "units" and not key:
            units |= {unquote(str(column)): array.values for column, array in dataset.data_vars.items()}
        elif room == "intervals" and key:
            intervals[key] = {unquote(str(column)): _rows(array) for column, array in dataset.variables.items()}
            intervals[key].pop("interval", None)
        elif room == "behavior" and key:
            rest = [array for column, array in dataset.data_vars.items() if column != "time"]
            if "time" not in dataset.variables or len(rest) != 1 or rest[0].ndim not in (1, 2):
                raise InputError(f"{where}: {group}: needs `time` and one more array; write the series anew")
            behavior[key] = _series(rest[0].rename(key.rpartition("/")[2]), dataset["time"], f"{where}: {group}")
    attrs = {**root.attrs, **counts.attrs}
    about = {key: str(attrs.get(key, "")) for key in ("identifier", "session_id", "session_start_time")}
    return from_counts(
        counts, bin_size, units=units, intervals=intervals, behavior=behavior,
        source=Source(path=where, checksum=checksum, **about),
    )  # fmt: skip


def _rows(array: xr.DataArray | xr.Variable) -> Any:
    """A column of an interval table; more than one value a row as a list of them."""
    return array.values if array.ndim == 1 else [list(row) for row in array.values]


def _series(values: xr.DataArray, time: xr.DataArray, where: str) -> xr.DataArray:
    """Behaviour as `Session` holds it: dims (time,) or (time, component), float seconds."""
    seconds = _seconds(time, where)
    if len(seconds) != len(values):
        raise InputError(f"{where}: {len(seconds)} times for {len(values)} values; write the series anew")
    step = float(np.nanmedian(np.diff(seconds))) if len(seconds) > 1 else 0.0
    attrs = {"unit": str(values.attrs.get("unit", values.attrs.get("units", "")))}
    attrs["description"] = str(values.attrs.get("description", values.attrs.get("long_name", "")))
    rate = {"rate": 1 / step if step > 0 else math.nan}
    dims = ("time", "component")[: values.ndim]
    return xr.DataArray(values.values, dims=dims, coords={"time": seconds}, name=values.name, attrs=attrs | rate)


def _array(counts: npt.ArrayLike, where: str) -> xr.DataArray:
    array = np.asarray(counts)
    if array.ndim != 2:
        raise InputError(f"{where}: counts have {array.ndim} dims; give an array (time, unit)")
    return xr.DataArray(array, dims=("time", "unit"))


def _seconds(time: xr.DataArray, where: str) -> Floats:
    """Times (time,) in s."""
    values = time.values
    if values.dtype.kind == "m":
        return values / np.timedelta64(1, "s")
    if values.dtype.kind not in "uif" or values.ndim != 1:
        raise InputError(f"{where}: time holds {values.dtype} values; give seconds as numbers")
    name = str(time.attrs.get("units", "")).partition(" since ")[0].strip().lower()
    if name not in _SECONDS:
        raise InputError(f"{where}: time is in {name!r}, which is no unit of time known here; give seconds")
    return values.astype(np.float64) * _SECONDS[name]


def _time(counts: xr.DataArray, told: float | None, where: str) -> tuple[float, Floats]:
    """The bin size, s, and the bins' centres (time,), s."""
    size = counts.attrs.get("bin_size", told)
    if size is not None:
        if not isinstance(size, int | float | np.number) or not (math.isfinite(size) and size > 0):
            raise InputError(f"{where}: bin_size is {size!r}; it must be a positive number of seconds")
        size = float(size)
    if "time" not in counts.coords:
        if size is None:
            raise InputError(f"{where}: does not say how long a bin is; give --bin-size, in Python bin_size")
        return size, (np.arange(counts.sizes["time"], dtype=np.float64) + 0.5) * size
    centres = _seconds(counts["time"], where)
    steps = np.diff(centres)
    if not (np.isfinite(centres).all() and (steps > 0).all()):
        raise InputError(f"{where}: time does not rise from bin to bin; give the centres of bins in their order")
    if size is None:
        if not steps.size:
            raise InputError(f"{where}: does not say how long its one bin is; give --bin-size, in Python bin_size")
        size = float(np.median(steps))
        regular = steps[np.abs(steps - size) < _WAVER * size]
        # A mean over many steps, cut to what the axis can tell, gives 0.1 and not 0.0999999.
        digits = 6 if counts["time"].dtype == np.float32 else 12
        size = float(f"{regular.mean():.{digits}g}")
    if steps.size and steps.min() < (1 - _WAVER) * size:
        raise InputError(
            f"{where}: time steps by {steps.min():g} s where a bin has {size:g} s; "
            "give bins that do not overlap, or the attribute bin_size"
        )
    return size, centres


def _whole(counts: xr.DataArray, ids: Array, where: str) -> tuple[Array, Array | None]:
    """Counts (time, unit) as whole numbers, and where they are missing, or None."""
    values = counts.values
    if values.dtype.kind not in "buif":
        raise InputError(f"{where}: counts are {values.dtype} values; give whole numbers of 0 or more")
    if values.dtype.kind in "bu":
        return values.astype(np.uint8) if values.dtype.kind == "b" else values, None
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, dtype=bool)
    bad = ~missing & ((values < 0) | (values != np.floor(values)) | (values > 2**31))
    if bad.any():
        row, column = np.argwhere(bad)[0].tolist()
        raise InputError(
            f"{where}: counts: {values[row, column]:g} in bin {row} of unit {ids[column]} is no count "
            f"({int(bad.sum())} such values); give whole numbers of 0 or more, NaN where a unit was not observed"
        )
    return np.where(missing, 0, values).astype(np.int64), missing if missing.any() else None


def _labels(labels: Array, first: Array, left: Floats, size: float, where: str) -> xr.Dataset:
    """The stretches of bins that carry one label, as an interval table with `tags`; "" is none."""
    text = plain_array(labels)
    if text is None:
        raise InputError(f"{where}: interval: labels are no text; write them anew")
    text = text.astype(np.str_)
    new = first | (np.concatenate([[True], text[1:] != text[:-1]]))
    heads = np.flatnonzero(new)
    tails = np.append(heads[1:], len(text)) - 1
    kept = text[heads] != ""
    columns = {"start_time": left[heads][kept], "stop_time": left[tails][kept] + size, "tags": text[heads][kept]}
    return make_intervals(columns, f"{where}: interval")


def _observed(seen: Array, masks: Array | None, first: Array, left: Floats, size: float, units: int) -> Observed | None:
    """When each unit was observed, or None where all were all the time.

    seen (time,), masks (time, unit) or None; first (time,): whether a bin begins a stretch
    """

    def runs(mask: Array) -> Floats:
        begin = mask & (first | ~np.concatenate([[False], mask[:-1]]))
        end = mask & np.concatenate([first[1:] | ~mask[1:], [True]])
        return np.stack([left[begin], left[end] + size], axis=1)

    if masks is None and seen.all() and first.sum() == 1:
        return None
    each = [runs(seen)] * units if masks is None else [runs(seen & mask) for mask in masks.T]
    return Observed(np.concatenate(each), np.cumsum([len(bounds) for bounds in each], dtype=np.int64))
