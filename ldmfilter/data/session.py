"""A recording session in memory: spike times, unit table, behaviour and intervals. Knows no file format."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from ldmfilter.data.tables import Floats, Ints, check_spikes, make_intervals, make_table, shorten
from ldmfilter.errors import InputError


@dataclass(frozen=True)
class Source:
    """Where a session came from.

    `session_start_time` is ISO 8601; `checksum` is "sha256:..." of the file's bytes (of a zarr store: of its
    files in sorted order). `format` is the one that was named, for reading it again; its content decides without one.
    Strings are empty where the source does not say.
    """

    path: str = "memory"
    identifier: str = ""
    session_id: str = ""
    session_start_time: str = ""
    checksum: str = ""
    format: str = ""


@dataclass(frozen=True, eq=False)
class Observed:
    """When each unit was observed: outside these intervals a unit is unobserved, not silent.

    `intervals` (interval, 2): start and stop, s; `index` (unit,): cumulative ends, as for spike times.
    """

    intervals: Floats
    index: Ints

    def of(self, unit: int) -> Floats:
        """The intervals (interval, 2) of the unit at a position of the table, s."""
        return self.intervals[self.index[unit - 1] if unit else 0 : self.index[unit]]


@dataclass(frozen=True, eq=False, repr=False)
class Session:
    """Spikes, units, behaviour and intervals of one recording; all times in seconds on the session's clock.

    spike_times (spike,): sorted within each unit, units one after the other
    spike_times_index (unit,): cumulative ends: unit u owns spike_times[index[u - 1]:index[u]]
    units: dim "unit", coordinate "unit" (the ids), one variable a column
    intervals: table name -> dim "interval": start_time, stop_time and further columns; ragged strings such as
        `tags` have a second dim, padded with ""
    behavior: path in the file -> DataArray (time,) or (time, component); attrs unit, rate (Hz), description
    observed: the time each unit was observed, or None where the source does not restrict it
    extent: start and stop, s, of the recording that units were selected from; None for what the data spans
    """

    spike_times: Floats
    spike_times_index: Ints
    units: xr.Dataset
    intervals: dict[str, xr.Dataset] = field(default_factory=dict)
    behavior: dict[str, xr.DataArray] = field(default_factory=dict)
    observed: Observed | None = None
    source: Source = field(default_factory=Source)
    extent: tuple[float, float] | None = None

    def __repr__(self) -> str:
        span = f"{self.start:g} to {self.stop:g} s"
        return f"<Session {self.source.path}: {self.n_units} units, {self.n_spikes} spikes, {span}>"

    @classmethod
    def from_spikes(
        cls,
        spike_times: Sequence[npt.ArrayLike] | Mapping[Any, npt.ArrayLike],
        units: Mapping[str, Any] | pd.DataFrame | None = None,
        intervals: Mapping[str, Mapping[str, Any] | pd.DataFrame] | None = None,
        behavior: Mapping[str, xr.DataArray] | None = None,
    ) -> Session:
        """A session from arrays in memory.

        spike_times: one array of times (s) a unit; a mapping's keys are the units' ids, else 0, 1, ...
        units: columns, each with one value a unit
        intervals: table name -> columns, of which start_time and stop_time (s) are required
        behavior: name -> DataArray (time,) or (time, component) with a coordinate `time` (s)

        Unsorted spike times are sorted with a warning. Raises InputError for times that are not finite and
        for tables whose columns do not fit.

        >>> session = Session.from_spikes({7: [0.1, 0.4], 9: [0.2]}, units={"quality": ["good", "mua"]})
        >>> session.n_units, session.n_spikes, session.stop
        (2, 3, 0.4)
        """
        mapping = spike_times if isinstance(spike_times, Mapping) else dict(enumerate(spike_times))
        ids = np.asarray(list(mapping))
        trains = [np.asarray(times, dtype=np.float64).ravel() for times in mapping.values()]
        index = np.cumsum([train.size for train in trains], dtype=np.int64)
        times = check_spikes(np.concatenate([np.empty(0), *trains]), index, ids, where="memory")
        for name, series in (behavior or {}).items():
            if "time" not in series.coords or series.dims[0] != "time" or series.ndim > 2:
                raise InputError(f"memory: behavior {name!r} must have dims (time,) or (time, component) and a time")
        return cls(
            spike_times=times,
            spike_times_index=index,
            units=make_table(units if units is not None else {}, "unit", ids, where="memory: units"),
            intervals={name: make_intervals(t, f"memory: {name}") for name, t in (intervals or {}).items()},
            behavior=dict(behavior or {}),
        )

    @property
    def n_units(self) -> int:
        """Number of units, silent ones included."""
        return len(self.spike_times_index)

    @property
    def n_spikes(self) -> int:
        """Number of spikes of all units together."""
        return len(self.spike_times)

    @cached_property
    def _extent(self) -> tuple[float, float]:
        if self.extent is not None:
            return self.extent
        times = [self.spike_times, *(series["time"].values for series in self.behavior.values())]
        for table in self.intervals.values():
            times += [table["start_time"].values, table["stop_time"].values]
        if self.observed is not None:
            times.append(self.observed.intervals)
        finite = [t[np.isfinite(t)] for t in times]
        finite = [t for t in finite if t.size]
        if not finite:
            return 0.0, 0.0
        return min(float(t.min()) for t in finite), max(float(t.max()) for t in finite)

    @property
    def start(self) -> float:
        """Earliest time of spikes, intervals, observation and behaviour, s."""
        return self._extent[0]

    @property
    def stop(self) -> float:
        """Latest time of spikes, intervals, observation and behaviour, s."""
        return self._extent[1]

    @property
    def duration(self) -> float:
        """From start to stop, s."""
        return self.stop - self.start

    @cached_property
    def rates(self) -> Floats:
        """Firing rates (unit,), Hz: spikes within the observed time over that time; 0 if never observed."""
        from ldmfilter.data.selection import firing_rates

        return firing_rates(self)

    def spikes_of(self, unit: int) -> Floats:
        """Spike times (spike,) of the unit at a position of the table, s."""
        return self.spike_times[self.spike_times_index[unit - 1] if unit else 0 : self.spike_times_index[unit]]

    def select_units(self, mask_or_ids: npt.ArrayLike) -> Session:
        """The same session with fewer units: a mask (unit,) of bools, or ids in the wanted order.

        Raises InputError for an id that the session does not have and for a mask of another length.
        """
        wanted = np.asarray(mask_or_ids)
        if wanted.dtype == bool:
            if wanted.shape != (self.n_units,):
                raise InputError(f"{self.source.path}: a mask of {wanted.size} units for a session of {self.n_units}")
            rows = np.flatnonzero(wanted)
        else:
            row_of = {unit: row for row, unit in enumerate(self.units["unit"].values.tolist())}
            missing = [unit for unit in wanted.tolist() if unit not in row_of]
            if missing:
                raise InputError(f"{self.source.path}: units: no unit {shorten(missing)}; it has {shorten(row_of)}")
            rows = np.asarray([row_of[unit] for unit in wanted.tolist()], dtype=np.int64)
        trains = [self.spikes_of(row) for row in rows.tolist()]
        observed = None
        if self.observed is not None:
            kept = [self.observed.of(row) for row in rows.tolist()]
            index = np.cumsum([len(k) for k in kept], dtype=np.int64)
            observed = Observed(np.concatenate([np.empty((0, 2)), *kept]), index)
        return replace(
            self,
            spike_times=np.concatenate([np.empty(0), *trains]),
            spike_times_index=np.cumsum([train.size for train in trains], dtype=np.int64),
            units=self.units.isel(unit=rows),
            observed=observed,
            extent=self._extent,  # the recording was no shorter for the units that are left out
        )

    def to_zarr(self, path: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Write the session as a zarr store, whole or not at all, and return its path.

        Raises InputError where the path exists and `overwrite` is not set.
        """
        from ldmfilter.data.formats.zarr import write_session

        return write_session(self, path, overwrite=overwrite)
