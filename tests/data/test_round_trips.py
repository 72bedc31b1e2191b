"""Sessions of any kind through every format, there and back: exact."""

import math
import tempfile
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pynwb import NWBHDF5IO, NWBFile, TimeSeries

from ldmfilter.data import read_session
from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.session import Observed, Session

FEW = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])

# No control characters: they are no letters, and a format may drop them.
letters = st.characters(min_codepoint=32, max_codepoint=0x2FFF, exclude_categories=("Cs", "Cc", "Cn"))
names = st.text(letters, min_size=1, max_size=12).filter(lambda name: name.strip())
seconds = st.floats(0, 1e6, allow_subnormal=False)
floats = st.floats(allow_nan=True, allow_infinity=True)
column = st.sampled_from(["number", "whole", "text", "truth"])


@st.composite
def sessions(draw, names=names):
    """A session with units, columns, intervals, behaviour and observed time as they come."""
    n = draw(st.integers(1, 4))
    trains = [np.sort(draw(st.lists(seconds, max_size=8))) for _ in range(n)]
    ids = draw(st.lists(st.integers(0, 10**9), min_size=n, max_size=n, unique=True))

    def values(kind, size):
        if kind == "text":
            return np.asarray(draw(st.lists(st.text(letters, max_size=6), min_size=size, max_size=size)), dtype=np.str_)
        each = {"number": floats, "whole": st.integers(-(2**63), 2**63 - 1), "truth": st.booleans()}[kind]
        return np.asarray(draw(st.lists(each, min_size=size, max_size=size)))

    columns = {f"column_{name}": values(draw(column), n) for name in draw(st.lists(names, max_size=3, unique=True))}
    intervals = {}
    for name in draw(st.lists(names, max_size=2, unique=True)):
        rows = draw(st.integers(1, 3))
        starts = values("number", rows)
        intervals[name] = {"start_time": starts, "stop_time": starts + 1.5, "mark": values(draw(column), rows)}
    behavior = {}
    for name in draw(st.lists(names, max_size=2, unique=True)):
        times = np.sort(draw(st.lists(seconds, min_size=2, max_size=6, unique=True)))
        shape = draw(st.sampled_from([(len(times),), (len(times), 2)]))
        size = math.prod(shape)
        data = np.asarray(draw(st.lists(floats, min_size=size, max_size=size))).reshape(shape)
        behavior[name] = xr.DataArray(
            data, dims=("time", "component")[: data.ndim], coords={"time": times}, name=name, attrs={"unit": "cm"}
        )
    session = Session.from_spikes(dict(zip(ids, trains, strict=True)), columns, intervals, behavior)
    if draw(st.booleans()):
        bounds = np.cumsum(draw(st.lists(st.floats(0.1, 1e5), min_size=2 * n, max_size=2 * n))).reshape(n, 2)
        object.__setattr__(session, "observed", Observed(bounds, np.arange(1, n + 1)))
    return session


def assert_same(one, other):
    np.testing.assert_array_equal(one.spike_times, other.spike_times)
    np.testing.assert_array_equal(one.spike_times_index, other.spike_times_index)
    xr.testing.assert_identical(one.units, other.units)
    assert (set(one.intervals), set(one.behavior)) == (set(other.intervals), set(other.behavior))
    for name, table in one.intervals.items():
        xr.testing.assert_identical(table, other.intervals[name])
    for name, series in one.behavior.items():
        xr.testing.assert_identical(series, other.behavior[name])
    assert (one.observed is None) == (other.observed is None)
    if one.observed is not None:
        np.testing.assert_array_equal(one.observed.intervals, other.observed.intervals)
        np.testing.assert_array_equal(one.observed.index, other.observed.index)


@given(sessions())
@FEW
def test_zarr(session):
    with tempfile.TemporaryDirectory() as folder:
        assert_same(session, read_session(session.to_zarr(Path(folder) / "session.zarr")))


plain_names = st.from_regex(r"[A-Za-z][A-Za-z0-9 _-]{0,10}", fullmatch=True).map(str.strip)


@given(sessions(names=plain_names))
@FEW
def test_nwb(session):
    """Spikes, ids, columns and behaviour as pynwb writes them; its names are plain ones."""
    nwb = NWBFile("made", "made", datetime(2020, 1, 1, tzinfo=UTC))
    for name in session.units:
        nwb.add_unit_column(str(name), "made")
    for unit, identity in enumerate(session.units["unit"].values.tolist()):
        row = {str(name): column.values[unit] for name, column in session.units.items()}
        if session.observed is not None:
            row["obs_intervals"] = session.observed.of(unit)
        nwb.add_unit(id=identity, spike_times=session.spikes_of(unit), **row)
    module = nwb.create_processing_module("behavior", "made")
    for name, series in session.behavior.items():
        module.add(TimeSeries(name=name, data=series.values, timestamps=series["time"].values, unit="cm"))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "session.nwb"
        with NWBHDF5IO(str(path), "w") as io:
            io.write(nwb)
        back = read_session(path)
    np.testing.assert_array_equal(back.spike_times, session.spike_times)
    np.testing.assert_array_equal(back.spike_times_index, session.spike_times_index)
    np.testing.assert_array_equal(back.units["unit"], session.units["unit"])
    for name, values in session.units.items():
        np.testing.assert_array_equal(back.units[name], values)
    for name, series in session.behavior.items():
        found = back.behavior[f"processing/behavior/{name}"]
        np.testing.assert_array_equal(found, series)
        np.testing.assert_array_equal(found["time"], series["time"])
    if session.observed is not None:
        np.testing.assert_array_equal(back.observed.intervals, session.observed.intervals)


@st.composite
def tables(draw):
    """Counts (time, unit) in bins of a quarter second, with a gap where there is one."""
    bins, units = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    size = bins * units
    values = draw(st.lists(st.integers(0, 300), min_size=size, max_size=size))
    time = 0.125 + 0.25 * np.arange(bins) + np.where(np.arange(bins) >= draw(st.integers(1, bins)), 4.0, 0.0)
    return xr.DataArray(
        np.reshape(values, (bins, units)),
        dims=("time", "unit"),
        coords={"time": time, "unit": draw(st.permutations(range(100)))[:units]},
        name="counts",
        attrs={"bin_size": 0.25},
    )


@pytest.mark.filterwarnings("ignore:.*is it turned")
@pytest.mark.parametrize("suffix", [".zarr", ".nc", ".nc3", ".npz", ".npy"])
@given(table=tables())
@FEW
def test_counts(suffix, table):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"counts{suffix}"
        if suffix == ".zarr":
            table.to_zarr(path, zarr_format=2)
        elif suffix == ".nc":
            table.to_netcdf(path, engine="h5netcdf")
        elif suffix == ".nc3":
            table.astype(np.int32).to_netcdf(path, engine="scipy")
        elif suffix == ".npz":
            np.savez(path, counts=table.values, time=table["time"].values, unit=table["unit"].values, bin_size=0.25)
        else:
            np.save(path, table.values)
        back = bin_spikes(read_session(path, bin_size=0.25), 0.25)
    np.testing.assert_array_equal(back, table)
    if suffix != ".npy":
        np.testing.assert_array_equal(back["time"], table["time"])
        np.testing.assert_array_equal(back["unit"], table["unit"])
