"""A recording session in memory: spike times, unit table, behaviour and intervals. Knows no file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
import xarray as xr

from ldmfilter.data.clocks import PLAIN, Clock, Reading, check_spikes, settle
from ldmfilter.data.tables import (
    Array,
    Columns,
    Floats,
    Ints,
    concatenate,
    intersect,
    make_table,
    rows_of,
    shorten,
    union,
)
from ldmfilter.errors import InputError
from ldmfilter.files import AnyPath
from ldmfilter.html import table

#: Columns of one series of behaviour that are read at once: a place has up to three.
MOST_COLUMNS = 3
_INSTANT = 1e-9  # s, less than a tick of any clock; no rate is computed over less


@dataclass(frozen=True)
class Source:
    """The file or address that a session was read from.

    `session_start_time` is ISO 8601; `checksum` is "sha256:..." of the file's bytes (of a zarr store: of its
    files in sorted order). `format` is the name given to `read_session`, for reading it again.
    Strings are empty where the source does not say.
    """

    path: str = "memory"
    identifier: str = ""
    session_id: str = ""
    session_start_time: str = ""
    checksum: str = ""
    format: str = ""

    def attrs(self) -> dict[str, str]:
        """The fields that go with data, all but the format."""
        return {key: value for key, value in asdict(self).items() if key != "format"}


#: Of a session that was read from no file.
MEMORY = Source()


@dataclass(frozen=True, eq=False)
class Observed:
    """The time in which each unit was observed; at other times a unit is unobserved, not silent.

    `intervals` (interval, 2): start and stop, s; `index` (unit,): cumulative ends, as for spike times.
    """

    intervals: Floats
    index: Ints

    @classmethod
    def from_units(cls, intervals: Sequence[Floats]) -> Observed:
        """From the intervals (interval, 2), s, of each unit."""
        return cls(*concatenate([np.reshape(own, (-1, 2)) for own in intervals]))

    def of(self, unit: int) -> Floats:
        """The intervals (interval, 2) of the unit at a position of the table, s."""
        return self.intervals[rows_of(self.index, unit)]

    @property
    def of_all(self) -> Floats | None:
        """The disjoint intervals (interval, 2) of every unit, s, where all have the same ones."""
        first, *others = map(self.of, range(len(self.index)))
        return union(first) if all(np.array_equal(first, other) for other in others) else None


@dataclass(frozen=True, eq=False, repr=False)
class Session:
    """Spikes, units, behaviour and intervals of one recording; all times in seconds on the session's clock.

    `read_session` gives one of a file, `from_spikes` one of arrays.

    Parameters
    ----------
    spike_times : ndarray (spike,)
        s, sorted within each unit, units one after the other.
    spike_times_index : ndarray (unit,)
        Cumulative ends: unit u owns ``spike_times[index[u - 1]:index[u]]``.
    units : xarray.Dataset
        Dim and coordinate `unit` (the ids), one variable a column.
    intervals : dict of xarray.Dataset
        By the table's name, with dim `interval`: start_time and stop_time, s, and further columns; ragged strings such
        as `tags` have a second dim, padded with "".
    behavior : dict of xarray.DataArray
        By the path in the file, (time,) or (time, component); attributes unit, rate (Hz), description.
    observed : Observed, optional
        The time each unit was observed; None where the source does not restrict it.
    source : Source
        The file that it was read from.
    extent : (float, float), optional
        Start and stop, s, of the recording that units were selected from; None for that of spikes and observation.
    series : dict of str
        By its path a few words on each signal in the file, which `read_session` reads in place of spikes.

    Examples
    --------
    >>> session = linear_track_session(duration=60, rest=0, n_units=6)
    >>> session.n_units, session.duration, list(session.intervals)
    (6, 60.0, ['epochs', 'trials'])
    """

    spike_times: Floats
    spike_times_index: Ints
    units: xr.Dataset
    intervals: dict[str, xr.Dataset] = field(default_factory=dict)
    behavior: dict[str, xr.DataArray] = field(default_factory=dict)
    observed: Observed | None = None
    source: Source = MEMORY
    extent: tuple[float, float] | None = None
    series: dict[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        span = f"{self.start:g} to {self.stop:g} s"
        return f"<Session {self.source.path}: {self.n_units} units, {self.n_spikes} spikes, {span}>"

    def _repr_html_(self) -> str:
        """For a notebook: what the session holds."""
        intervals = [f"{name} ({one.sizes['interval']} rows)" for name, one in self.intervals.items()]
        behavior = [f"{name}, {one.attrs.get('unit') or 'no unit'}" for name, one in self.behavior.items()]
        rows = [
            ("units", f"{self.n_units}: {', '.join(map(str, self.units.data_vars)) or 'no columns'}"),
            ("time", f"{self.start:g} to {self.stop:g} s"),
            ("spikes", f"{self.n_spikes:,}, median rate {np.median(self.rates):.3g} Hz" if self.n_spikes else "none"),
            ("intervals", "; ".join(intervals) or "none"),
            ("behavior", "; ".join(behavior) or "none"),
        ]
        return table(f"{type(self).__name__} {self.source.path}", rows, note=self.source.session_id)

    @classmethod
    def from_spikes(
        cls,
        spike_times: Sequence[npt.ArrayLike] | Mapping[Any, npt.ArrayLike],
        units: Columns | None = None,
        intervals: Mapping[str, Columns] | None = None,
        behavior: Mapping[str, xr.DataArray] | None = None,
        *,
        sort_times: bool = False,
        ticks: Sequence[str] = (),
        drop_nan: bool = False,
    ) -> Session:
        """A session from arrays in memory.

        Times are numbers in s, durations, or dates, of which the earliest spike is 0 s. Unsorted spike times are
        sorted with a warning.

        Parameters
        ----------
        spike_times : sequence or mapping of array_like (spike,)
            Times of each unit, s; a mapping's keys are the units' ids, else 0, 1, ...
        units : mapping or DataFrame, optional
            Columns, each with one value a unit.
        intervals : mapping, optional
            By the table's name its columns, of which start_time and stop_time (s) are required.
        behavior : mapping of xarray.DataArray, optional
            By name, (time,) or (time, component) with a coordinate `time`, s.
        sort_times, ticks, drop_nan
            As for `read_session`.

        Returns
        -------
        Session

        Raises
        ------
        InputError
            Times that are not finite, or whose order or unit is in doubt, and tables whose columns do not fit.

        Examples
        --------
        >>> session = ldmfilter.Session.from_spikes({7: [0.1, 0.4], 9: [0.2]}, units={"quality": ["good", "mua"]})
        >>> session.n_units, session.n_spikes, session.stop
        (2, 3, 0.4)
        """
        mapping = spike_times if isinstance(spike_times, Mapping) else dict(enumerate(spike_times))
        reading = Reading(sort_times=sort_times, ticks=tuple(ticks), drop_nan=drop_nan)
        if any(not np.ndim(times) for times in mapping.values()):
            raise InputError("memory: spike_times holds single times; give those of each unit as a list of its own")
        trains = [np.ravel(times) for times in mapping.values()]
        times = np.concatenate([train for train in trains if train.size] or [np.empty(0)])
        index, ids = np.cumsum([len(train) for train in trains], dtype=np.int64), np.asarray(list(mapping))
        return cls.checked(times, index, ids, reading=reading, units=units, intervals=intervals, behavior=behavior)

    @classmethod
    def checked(
        cls,
        times: Any,
        index: Ints,
        ids: Array,
        source: Source = MEMORY,
        reading: Reading = PLAIN,
        observed: Observed | None = None,
        **parts: Any,
    ) -> Session:
        """A session from spike times (spike,), their cumulative ends (unit,) and ids (unit,).

        Times are numbers in s or in the unit of their attribute, durations or dates.

        reading: what a person says of the times
        **parts: as for `assembled`

        Raises InputError as `Clock.seconds`, `check_spikes` and `assembled`.
        """
        where = f"{source.path}: spike_times"
        clock, hz = Clock.of(times, source, reading, where), reading.hz
        spikes, index = check_spikes(
            clock.seconds(times, where), index, ids, source.path, reading.sort_times, reading.drop_nan
        )
        if "spikes" in hz:
            spikes = spikes / hz["spikes"]
        if observed is not None:
            seconds = clock.seconds(observed.intervals, f"{source.path}: obs_intervals")
            observed = replace(observed, intervals=seconds / hz.get("obs_intervals", 1))
        parts |= {"spike_times": spikes, "spike_times_index": index, "observed": observed}
        return cls.assembled(clock, ids, source, **parts)

    @classmethod
    def assembled(
        cls,
        clock: Clock,
        ids: Array,
        source: Source,
        units: Columns | None = None,
        intervals: Mapping[str, Columns] | None = None,
        behavior: Mapping[str, xr.DataArray] | None = None,
        times: Floats | None = None,
        **fields: Any,
    ) -> Self:
        """A session with its unit columns, interval tables and behaviour, all times in s on its clock.

        times: as for `settle`
        **fields: other fields of the session

        Raises InputError as `make_table`, `Clock.table`, `Clock.series` and `settle`, and for ticks of an object that
        does not exist.
        """
        where, intervals, behavior = source.path, intervals or {}, behavior or {}
        has_own = times is None and fields.get("observed") is not None
        own = str(fields["signal"].name) if "signal" in fields else "spikes"
        known = [own, *["obs_intervals"] * has_own, *intervals, *behavior]
        if unknown := [name for name in clock.reading.hz if name not in ("spikes", *known)]:
            raise InputError(f"{where}: no {shorten(unknown)} to give ticks of; it has {shorten(known)}")
        table = make_table(units, "unit", ids, where=f"{where}: units")
        series = {name: clock.series(name, one, where) for name, one in behavior.items()}
        fields["intervals"] = {name: clock.table(name, one, where) for name, one in intervals.items()}
        fields["behavior"] = {name: one for name, one in series.items() if one is not None}
        if clock.zero is not None and not source.session_start_time:
            source = replace(source, session_start_time=f"{np.datetime_as_string(clock.zero, unit='us')}+00:00")
        return settle(cls(units=table, source=source, **fields), clock.reading, times)

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
        seen = np.zeros(0) if self.observed is None else self.observed.intervals.ravel()
        times = np.concatenate([self.spike_times, seen])
        finite = times[np.isfinite(times)]
        return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)

    @property
    def start(self) -> float:
        """Earliest time of spikes and observation, s."""
        return self._extent[0]

    @property
    def stop(self) -> float:
        """Latest time of spikes and observation, s."""
        return self._extent[1]

    @property
    def duration(self) -> float:
        """From start to stop, s."""
        return self.stop - self.start

    @property
    def whole(self) -> Floats:
        """The extent as a half-open interval (1, 2), s, that holds the last event too."""
        return np.array([[self.start, np.nextafter(self.stop, np.inf)]])

    @cached_property
    def rates(self) -> Floats:
        """Firing rates (unit,), Hz: spikes within the observed time over that time; 0 if never observed."""
        return self.rates_within(self.whole)

    def rates_within(self, bounds: Floats) -> Floats:
        """Firing rates within intervals and the observed time.

        Parameters
        ----------
        bounds : ndarray (interval, 2)
            Starts and stops, s.

        Returns
        -------
        ndarray (unit,)
            Hz; 0 where there is no such time.

        Examples
        --------
        >>> ldmfilter.Session.from_spikes([[0.0, 0.5, 2.5], [3.0]]).rates_within(np.array([[0.0, 1.0], [2.0, 3.0]]))
        array([1.5, 0. ])
        """
        within = union(bounds)
        rates = np.zeros(self.n_units)
        for unit in range(self.n_units):
            own = within if self.observed is None else intersect(within, union(self.observed.of(unit)))[0]
            seconds = np.diff(own).sum()
            if seconds > _INSTANT:
                rates[unit] = np.diff(np.searchsorted(self.spikes_of(unit), own)).sum() / seconds
        return rates

    def spikes_of(self, unit: int) -> Floats:
        """Spike times of one unit.

        Parameters
        ----------
        unit : int
            Its position in the table of units, from 0.

        Returns
        -------
        ndarray (spike,)
            s, sorted.

        Examples
        --------
        >>> ldmfilter.Session.from_spikes({7: [0.1, 0.4], 9: [0.2]}).spikes_of(0)
        array([0.1, 0.4])
        """
        return self.spike_times[rows_of(self.spike_times_index, unit)]

    def select_units(self, mask_or_ids: npt.ArrayLike) -> Session:
        """The same session with fewer units.

        Parameters
        ----------
        mask_or_ids : array_like
            A mask (unit,) of bools, or ids in the wanted order.

        Returns
        -------
        Session

        Raises
        ------
        InputError
            An id that the session does not have, or a mask of another length.

        Examples
        --------
        >>> session = ldmfilter.Session.from_spikes({7: [0.1, 0.4], 9: [0.2]})
        >>> session.select_units([9]).n_spikes
        1
        """
        wanted, ids = np.asarray(mask_or_ids), pd.Index(self.units["unit"].values)
        if wanted.dtype == bool:
            if wanted.shape != (self.n_units,):
                raise InputError(f"{self.source.path}: a mask of {wanted.size} units for a session of {self.n_units}")
            rows = np.flatnonzero(wanted).tolist()
        else:
            rows = ids.get_indexer(pd.Index(wanted)).tolist()
            if -1 in rows:
                missing = shorten(unit for unit, row in zip(wanted.tolist(), rows, strict=True) if row < 0)
                raise InputError(f"{self.source.path}: units: no unit {missing}; it has {shorten(ids)}")
        times, index = concatenate([self.spikes_of(row) for row in rows])
        observed = self.observed
        if observed is not None:
            observed = Observed.from_units([observed.of(row) for row in rows])
        return replace(
            self,
            spike_times=times,
            spike_times_index=index,
            units=self.units.isel(unit=rows),
            observed=observed,
            extent=self._extent,  # the recording was no shorter for the units that are left out
        )

    def to_zarr(self, path: AnyPath, overwrite: bool = False) -> Path:
        """Write the session as a zarr store, whole or not at all.

        Parameters
        ----------
        path : str or os.PathLike
            Of the store.
        overwrite : bool
            Replace a store that exists.

        Returns
        -------
        Path
            Of the store; `read_session` reads it.

        Raises
        ------
        InputError
            The path exists and `overwrite` is not set.

        Examples
        --------
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     ldmfilter.Session.from_spikes([[0.1]]).to_zarr(f"{folder}/session.zarr").name
        'session.zarr'
        """
        from ldmfilter.data.store import write_session

        return write_session(self, path, overwrite=overwrite)
