"""Counts that come binned and pynapple's objects: what went in comes out, and nothing else."""

import pickle
import shutil
from dataclasses import replace

import h5py
import numcodecs
import numpy as np
import pynapple as nap
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from ldmfilter.data import read_session
from ldmfilter.data.binned import BinnedSession, from_counts
from ldmfilter.data.binning import bin_spikes, choose_units
from ldmfilter.data.formats.pynapple import from_pynapple
from ldmfilter.data.session import Session
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.errors import InputError
from tests.bomb import Bomb

VALUES = np.array([[2, 0, 1], [0, 0, 4], [1, 3, 0], [0, 1, 0], [5, 0, 0], [0, 0, 7]])


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "made")))
    assert (tmp_path / "made").exists()


def line_of(read, *args):
    with pytest.raises(InputError) as error:
        read(*args)
    line = str(error.value)
    assert "\n" not in line
    return line


@pytest.fixture(scope="module")
def simulated():
    return linear_track_session(seed=2, n_units=8, duration=60.0, rest=10.0)


@pytest.fixture(scope="module")
def counts(simulated):
    """Counts of the runs of a simulated session: three segments with gaps between them."""
    made = bin_spikes(simulated, 0.1, [(0.03, 5.03), (5.03, 9.0), (12.51, 30.0)])
    return made.assign_coords(quality=("unit", ["good", "mua"] * 4))


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_counts_come_back(seed):
    """Any counts, gaps, start and size of bins give the same counts, times and segments."""
    rng = np.random.default_rng(seed)
    n, size = int(rng.integers(1, 60)), float(rng.choice([0.1, 0.02, 1 / 30, 0.25]))
    jumps = rng.random(n) < 0.1
    start = float(rng.choice([0.0, 7.3, 1e5]))
    time = start + (np.arange(n) + 0.5) * size + np.cumsum(jumps * rng.integers(1, 5, n)) * 1.37 * size
    values = rng.poisson(2, (n, 3)).astype(np.uint16)
    table = xr.DataArray(values, dims=("time", "unit"), coords={"time": time}, attrs={"bin_size": size})
    again = bin_spikes(from_counts(table), size)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_allclose(again["time"], time, rtol=0, atol=1e-6 * size)
    assert again["observed"].all()
    edges = np.flatnonzero(np.diff(time) > 1.1 * size)
    np.testing.assert_array_equal(np.flatnonzero(np.diff(again["segment"])), edges)


def test_the_unit_of_the_times_of_counts_is_not_in_doubt():
    values = np.zeros((9, 2), dtype=int)
    values[3] = 200  # all spikes at one time, a whole number: spike times like these are refused
    assert set(from_counts(values, bin_size=2.0).spike_times.tolist()) == {7.0}
    table = xr.DataArray(values, dims=("time", "unit"), coords={"time": np.r_[1.0, 5:13]}, attrs={"bin_size": 1.0})
    session = from_counts(table)  # observed from 0.5 s on, though the first spike is far from there
    assert (session.spike_times[0], session.observed.intervals.min()) == (7.0, 0.5)


def test_whole_multiples():
    session = from_counts(VALUES, bin_size=0.1)
    again = bin_spikes(session, 0.2)
    np.testing.assert_array_equal(again, VALUES.reshape(3, 2, 3).sum(1))
    np.testing.assert_allclose(again["time"], [0.1, 0.3, 0.5])
    np.testing.assert_array_equal(bin_spikes(session, 0.4), VALUES[:4].sum(0)[None])
    for size in (0.05, 0.15, 0.1001):
        assert line_of(bin_spikes, session, size) == (
            f"memory: counts in bins of 0.1 s cannot be told in bins of {size:g} s; "
            "give 0.1 s or a whole multiple as bin size"
        )


def test_spans_take_whole_bins():
    session = from_counts(VALUES, bin_size=0.1)
    np.testing.assert_array_equal(bin_spikes(session, 0.1, [(0.05, 0.45)]), VALUES[1:4])
    np.testing.assert_array_equal(bin_spikes(session, 0.1, [(0.1, 0.3), (0.3, 0.6)]), VALUES[1:])
    assert "no bin of 0.1 s lies in the chosen time" in line_of(bin_spikes, session, 0.1, [(0.11, 0.19)])


def test_units_rates_and_ids():
    table = xr.DataArray(VALUES.T, dims=("unit", "time"), coords={"unit": ["a", "b", "c"]}, attrs={"bin_size": 0.5})
    session = from_counts(table, units={"quality": ["good", "mua", "good"]})
    np.testing.assert_allclose(session.rates, VALUES.sum(0) / 3.0)
    assert (session.n_spikes, session.start, session.stop) == (VALUES.sum(), 0.0, 3.0)
    chosen, note = choose_units(session, query="quality == 'good'", min_rate=3.0)
    assert isinstance(chosen, BinnedSession)
    assert note == "left out 2 of 3 units: 1 by the query, 1 below 3 Hz"
    np.testing.assert_array_equal(bin_spikes(chosen, 0.5), VALUES[:, 2:])


def test_missing_bins_are_unobserved():
    values = VALUES.astype(float)
    values[1] = np.nan
    values[4, 2] = np.nan
    again = bin_spikes(from_counts(values, bin_size=0.1), 0.1)
    np.testing.assert_array_equal(again["observed"], [True, False, True, True, True, True])
    np.testing.assert_array_equal(again["unit_observed"], ~np.isnan(values))
    np.testing.assert_array_equal(again, np.nan_to_num(values))
    assert from_counts(values, bin_size=0.1).rates[2] == pytest.approx(8 / 0.4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bin_size_from_the_time_axis(dtype):
    time = ((np.arange(40_000) + 0.5) * 0.1).astype(dtype)
    table = xr.DataArray(np.ones((40_000, 1), np.uint8), dims=("time", "unit"), coords={"time": time})
    session = from_counts(table)
    assert session.bin_size == 0.1
    again = bin_spikes(session, 0.1)
    assert again.sizes["time"] == 40_000
    assert (again == 1).all()


def write(counts, path):
    """Counts in the format that the path's ending says."""
    if path.suffix == ".nc":
        counts.to_netcdf(path, engine="h5netcdf")
    elif path.suffix == ".nc3":
        plain = counts.drop_vars(["interval", "observed"], errors="ignore").astype(np.int32)
        plain.to_netcdf(path, engine="scipy")
    elif path.suffix == ".zarr":
        counts.to_zarr(path, zarr_format=2)
    elif path.suffix == ".npz":
        coords = {name: counts[name].values for name in ("time", "unit", "segment", "interval")}
        quality = {"units/quality": counts["quality"].values} if "quality" in counts.coords else {}
        np.savez(path, counts=counts.values, **coords, **quality)
    return path


@pytest.mark.parametrize("suffix", [".nc", ".nc3", ".zarr", ".npz"])
def test_files(counts, tmp_path, suffix):
    path = write(counts, tmp_path / f"counts{suffix}")
    session = read_session(path)
    again = bin_spikes(session, 0.1)
    np.testing.assert_array_equal(again, counts)
    np.testing.assert_allclose(again["time"], counts["time"], rtol=0, atol=1e-9)
    np.testing.assert_array_equal(again["segment"], counts["segment"])
    np.testing.assert_array_equal(again["unit"], counts["unit"])
    assert session.units["quality"].values.tolist() == ["good", "mua"] * 4
    assert session.source.path == str(path)
    assert session.source.checksum.startswith("sha256:")
    assert read_session(path, "counts").source == replace(session.source, format="counts")
    if suffix != ".nc3":
        np.testing.assert_array_equal(session.intervals["interval"]["tags"], ["0.03:5.03", "5.03:9", "12.51:30"])
        np.testing.assert_array_equal(bin_spikes(session, 0.1, "interval=5.03:9"), counts[counts["segment"] == 1])


def test_text_ids_from_pandas(counts, tmp_path):
    named = counts.assign_coords(unit=np.array([f"unit {n}" for n in range(8)], dtype=object))
    named.to_zarr(tmp_path / "counts.zarr", zarr_format=2)
    assert read_session(tmp_path / "counts.zarr").units["unit"].values.tolist()[-1] == "unit 7"


def test_npy_is_told_its_bins(tmp_path):
    np.save(tmp_path / "counts.npy", VALUES)
    assert line_of(read_session, tmp_path / "counts.npy").endswith(
        "counts.npy: does not say how long a bin or frame is; give --bin-size, in Python bin_size"
    )
    session = read_session(tmp_path / "counts.npy", bin_size=0.2)
    np.testing.assert_array_equal(bin_spikes(session, 0.2), VALUES)


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_behaviour_and_intervals_beside_the_counts(tmp_path, suffix):
    time = (np.arange(6) + 0.5) * 0.1
    root = xr.Dataset(
        {
            "counts": (("time", "unit"), VALUES, {"session_id": "s1"}),
            "place": ("time", np.arange(6.0), {"units": "cm"}),
            "head": (("time", "axis"), np.zeros((6, 2))),
            "depth": ("unit", [1.0, 2.0, 3.0]),
            "start_time": ("interval", [0.0, 0.3]),
            "stop_time": ("interval", [0.3, 0.6]),
            "kind": ("interval", np.array(["rest", "run"])),
        },
        coords={"time": ("time", time * 1000, {"units": "ms"})},
    )
    speed = xr.Dataset({"data": ("time", [1.0, 2.0])}, coords={"time": [0.1, 0.2]})
    trials = xr.Dataset({"start_time": ("interval", [0.1]), "stop_time": ("interval", [0.2])})
    path = tmp_path / f"counts{suffix}"
    parts = {None: root, "behavior/processing%2Fspeed": speed, "intervals/trials": trials}
    for group, dataset in parts.items():
        if suffix == ".nc":
            dataset.to_netcdf(path, group=group, mode="a", engine="h5netcdf")
        else:
            dataset.to_zarr(path, group=group, mode="a", zarr_format=2, consolidated=False)
    session = read_session(path)
    assert set(session.behavior) == {"place", "head", "processing/speed"}
    np.testing.assert_allclose(session.behavior["place"]["time"], time)
    assert session.behavior["place"].attrs["unit"] == "cm"
    assert session.behavior["head"].dims == ("time", "component")
    assert session.behavior["processing/speed"].values.tolist() == [1.0, 2.0]
    assert session.units["depth"].values.tolist() == [1.0, 2.0, 3.0]
    assert set(session.intervals) == {"intervals", "trials"}
    assert session.source.session_id == "s1"
    np.testing.assert_array_equal(bin_spikes(session, 0.1, "intervals=run"), VALUES[3:])
    np.testing.assert_array_equal(bin_spikes(session, 0.1, "trials"), VALUES[1:2])


def test_everything_in_one_npz(tmp_path):
    np.savez(
        tmp_path / "counts.npz",
        **{
            "counts": VALUES, "bin_size": 0.1, "unit": ["a", "b", "c"], "units/depth": [1, 2, 3],
            "intervals/trials/start_time": [0.1], "intervals/trials/stop_time": [0.2],
            "intervals/trials/tags": [["x", "y"]],
            "behavior/speed/data": [1.0, 2.0], "behavior/speed/time": [0.1, 0.2],
        },
    )  # fmt: skip
    session = read_session(tmp_path / "counts.npz")
    np.testing.assert_array_equal(bin_spikes(session, 0.1, "trials=y"), VALUES[1:2])
    assert session.behavior["speed"]["time"].values.tolist() == [0.1, 0.2]
    assert session.units["depth"].values.tolist() == [1, 2, 3]


@pytest.mark.parametrize("suffix", ["nc", "zarr", "npz"])
def test_what_lies_beside_counts_is_read_or_told(tmp_path, suffix):
    """A place with times of its own is behaviour; what has no place in a session is named."""
    time, path = 0.1 * np.arange(40) + 0.05, tmp_path / f"s.{suffix}"
    beside = {
        "speed": (("time",), np.arange(40.0)),
        "depth": (("unit",), np.arange(5.0)),
        "state": (("time",), ["wake"] * 40),
        "shape": (("unit", "sample"), np.ones((5, 3))),
        "place": (("time_of_place", "axis"), np.ones((90, 2))),
    }
    data = xr.Dataset({"counts": (("time", "unit"), np.ones((40, 5), int)), **beside}, {"time": time})
    data = data.assign_coords(time_of_place=np.linspace(0, 4, 90))
    if suffix == "npz":
        np.savez(path, **{name: one.to_numpy() for name, one in data.variables.items()})
    elif suffix == "zarr":
        data.to_zarr(path)
    else:
        data.to_netcdf(path, engine="h5netcdf")
    with pytest.warns(UserWarning, match=r"left out .*state \(time\)") as told:
        session = read_session(path)
    (line,) = [str(one.message) for one in told]
    assert "shape (unit, " in line
    assert list(session.units) == ["depth"]
    assert set(session.behavior) == ({"speed"} if suffix == "npz" else {"speed", "place"})
    assert ("place" in line) == (suffix == "npz")  # an array without names of its dims


def test_a_group_that_is_none_of_a_session_is_told(tmp_path):
    store = zarr.open_group(str(tmp_path / "s.zarr"), mode="w")
    arrays = {"spike_times": [0.5, 1.5], "spike_times_index": [1, 2], "position/data": [1.0, 2.0]}
    for name, values in arrays.items():
        store[name] = np.asarray(values)
    with pytest.warns(UserWarning, match="left out group position"):
        assert read_session(tmp_path / "s.zarr").n_spikes == 2


def test_rates_are_no_counts():
    with pytest.warns(UserWarning, match="counts are multiples of 20, all of them, as rates in Hz are"):
        from_counts(np.array([[0.0, 20.0], [40.0, 0.0], [20.0, 20.0]]), bin_size=0.05)


def test_coordinates_along_time_are_behavior(tmp_path):
    time = 0.05 + 0.1 * np.arange(6)
    coords = {"time": time, "unit": list("abc"), "lap": ("time", np.arange(6)), "depth": ("unit", [1, 2, 3])}
    counts = xr.DataArray(VALUES, dims=("time", "unit"), coords=coords, name="counts", attrs={"bin_size": 0.1})
    counts.to_netcdf(tmp_path / "counts.nc", engine="h5netcdf")
    session = read_session(tmp_path / "counts.nc")
    assert session.behavior["lap"].values.tolist() == [0, 1, 2, 3, 4, 5]
    assert session.units["depth"].values.tolist() == [1, 2, 3]


def test_a_binned_session_is_not_written_as_spikes(tmp_path):
    line = line_of(from_counts(VALUES, 0.1).to_zarr, tmp_path / "s.zarr")
    assert line == "memory: counts that came binned have no spike times to write; keep that file"
    assert not (tmp_path / "s.zarr").exists()


def table(values=VALUES, **coords):
    return xr.DataArray(values, dims=("time", "unit"), coords=coords)


TIME = ("time", np.arange(6.0))


@pytest.mark.parametrize(
    ("counts", "size", "line"),
    [
        (VALUES, None, "does not say how long a bin or frame is; give --bin-size, in Python bin_size"),
        (VALUES[:1], 0.0, "bin_size is 0.0; it must be a positive number of seconds"),
        (table().assign_attrs(bin_size="x"), None, "bin_size is 'x'; it must be a positive number of seconds"),
        (VALUES[:, 0], 0.1, "counts of int64 with dims {'dim_0': 6}; give numbers of dims (time, unit)"),
        (VALUES[:0], 0.1, "counts of int64 with dims {'time': 0, 'unit': 3}; give numbers of dims (time, unit)"),
        (
            xr.DataArray(VALUES, dims=("x", "y")),
            0.1,
            "counts of int64 with dims {'x': 6, 'y': 3}; give numbers of dims (time, unit)",
        ),
        (VALUES - 1, 0.1, "counts: -1 at 0.05 s in unit 1 is no count (10 such values); give whole numbers"),
        (VALUES + 0.5, 0.1, "counts: 2.5 at 0.05 s in unit 0 is no count (18 such values)"),
        (np.where(VALUES, np.inf, 0), 0.1, "is no count"),
        (VALUES * 10**8, 0.1, "counts: 2,400,000,000 spikes in all are more than fit into memory; are they counts?"),
        (VALUES.astype(str), 0.1, "counts of <U21 with dims"),
        (VALUES.astype(complex), 0.1, "counts of complex128 with dims"),
        (table(time=TIME, unit=["a", "a", "b"]), None, "units: id a is given twice; give each unit its own"),
        (table(time=-np.arange(6.0)), None, "time does not rise from bin to bin"),
        (table(time=[0, 1, 2, np.nan, 4, 5.0]), None, "time does not rise from bin to bin"),
        (table(time=[0, 1, 2, 2.5, 3, 4.0]), None, "time steps by 0.5 s where a bin has 1 s; give bins"),
        (table(time=TIME).assign_attrs(bin_size=2.0), None, "time steps by 1 s where a bin has 2 s; give bins"),
        (table(time=("time", np.arange(6.0), {"units": "weeks"})), None, "time is in 'weeks', which is no unit"),
        (table(time=list("abcdef")), None, "time holds <U1 values where times are wanted; give seconds as numbers"),
        (table(VALUES[:1], time=[0.0]), None, "does not say how long its one bin is"),
    ],
)
def test_counts_that_cannot_be_used(counts, size, line):
    found = line_of(from_counts, counts, size)
    assert found.startswith("memory: ")
    assert line in found


def two_tables(path):
    xr.Dataset({"a": (("time", "unit"), VALUES), "b": (("time", "unit"), VALUES)}).to_netcdf(path, engine="h5netcdf")


def damaged_series(path):
    np.savez(path, **{"counts": VALUES, "bin_size": 0.1, "behavior/speed/data": [1.0]})


@pytest.mark.parametrize(
    ("name", "make", "line"),
    [
        (
            "a.nc",
            two_tables,
            "needs one variable with dims (time, unit), or one named `counts`; it holds a (time, unit), b",
        ),
        (
            "a.nc",
            lambda p: xr.Dataset({"a": ("time", [1])}).to_netcdf(p, engine="h5netcdf"),
            "needs one variable with dims (time, unit), or one named `counts`; it holds a (time)",
        ),
        ("a.npz", lambda p: np.savez(p, a=VALUES, b=VALUES), "holds no array counts (time, unit); it has a, b"),
        ("a.npz", lambda p: np.savez(p, counts=[1]), "holds no array counts (time, unit); it has counts"),
        ("a.npz", lambda p: np.savez(p, counts=VALUES, time=[1]), "time has shape (1,), counts (6, 3); save them anew"),
        (
            "a.npz",
            lambda p: np.savez(p, counts=VALUES, time=np.zeros((6, 2))),
            "time has shape (6, 2), counts (6, 3); save them anew",
        ),
        ("a.npz", lambda p: np.savez(p, counts=VALUES, bin_size=[1, 2]), "does not say how long a bin or frame is"),
        ("a.npz", damaged_series, "behavior/speed: needs `time` and one more array; write the series anew"),
        ("a.npz", lambda p: p.write_bytes(b"PK\x03\x04 no archive"), "is a damaged .npz file ("),
        ("a.npy", lambda p: p.write_bytes(b"\x93NUMPY no array"), "is a damaged numpy file ("),
        (
            "a.npy",
            lambda p: np.save(p, np.zeros(3)),
            "counts of float64 with dims {'dim_0': 3}; give numbers of dims (time, unit)",
        ),
        ("a.nc3", lambda p: p.write_bytes(b"CDF\x01 no file"), "cannot be read as a netCDF file of counts ("),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, make, line):
    make(tmp_path / name)
    assert line in line_of(read_session, tmp_path / name)


def test_cut_files(counts, tmp_path):
    for suffix in (".nc", ".npz"):
        path = write(counts, tmp_path / f"counts{suffix}")
        for kept in (0.9, 0.5):
            path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
            line_of(read_session, path, "counts")


def test_heap_without_end(counts, tmp_path):
    """Free space of no size in a heap of HDF5: libhdf5 would not come back."""
    path = write(counts, tmp_path / "counts.nc")
    content = bytearray(path.read_bytes())
    first = content.index(b"GCOL\x01") + 16  # the first object's index, count and size
    content[first : first + 16] = bytes(16)
    path.write_bytes(content)
    assert "is a damaged HDF5 file (a heap without end); copy it again" in line_of(read_session, path)


def test_more_scales_than_dims(counts, tmp_path):
    """libhdf5 would write beyond the memory that it takes for one scale a dim."""
    path = write(counts, tmp_path / "counts.nc")
    with h5py.File(path, "r+") as file:
        scales = file["counts"].attrs["DIMENSION_LIST"]
        del file["counts"]
        file["counts"] = np.zeros(8)
        file["counts"].attrs.create("DIMENSION_LIST", scales, dtype=h5py.vlen_dtype(h5py.ref_dtype))
    assert line_of(read_session, path).endswith(
        "counts: its DIMENSION_LIST does not fit its dims; write or copy it again"
    )


def test_text_that_is_none(tmp_path):
    letters = np.full((3, 4), 0x7FFFFFFF, dtype=np.uint32).view("<U4")[:, 0]
    np.savez(tmp_path / "a.npz", counts=VALUES, bin_size=0.1, unit=letters)
    assert "a.npz: unit: holds text that cannot be read" in line_of(read_session, tmp_path / "a.npz")


def test_pickles_are_refused(counts, tmp_path, marker):
    bombs = np.array([[Bomb(marker)]], dtype=object)
    np.save(tmp_path / "a.npy", bombs, allow_pickle=True)
    np.savez(tmp_path / "a.npz", counts=VALUES, bin_size=0.1, x=bombs)
    for name in ("a.npy", "a.npz"):
        assert "holds pickled objects, refused as they may run code" in line_of(read_session, tmp_path / name)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb(marker)))
    line_of(read_session, tmp_path / "b.npy")
    line_of(read_session, tmp_path / "b.npy", "counts")


@pytest.mark.parametrize("place", ["bomb", "behavior/x/data"])
def test_pickled_chunks_are_refused(counts, tmp_path, marker, place):
    path = write(counts, tmp_path / "counts.zarr")
    root = zarr.open_group(str(path), mode="r+")
    bomb = np.array([Bomb(marker)], dtype=object)
    array = root.create_dataset(place, data=bomb, object_codec=numcodecs.Pickle())
    array.attrs["_ARRAY_DIMENSIONS"] = ["x"]
    zarr.consolidate_metadata(str(path))
    assert f"{place}: codec pickle is refused, it may run code" in line_of(read_session, path)


def test_links_in_stores_are_refused(counts, tmp_path):
    path = write(counts, tmp_path / "counts.zarr")
    shutil.move(path / "quality", tmp_path / "elsewhere")
    (path / "quality").symlink_to(tmp_path / "elsewhere")
    assert "quality: is a link within a store, refused" in line_of(read_session, path)


# pynapple


@pytest.fixture
def group():
    return nap.TsGroup(
        {3: nap.Ts(np.array([0.1, 0.2, 5.5])), 7: nap.Ts(np.array([0.3, 5.1]))},
        time_support=nap.IntervalSet([0.0, 5.0], [2.0, 6.0]),
        metadata={"quality": np.array(["good", "mua"]), "depth": np.array([1.0, 2.0])},
    )


def test_group_in_memory(group):
    session = from_pynapple(group)
    assert isinstance(session, Session)
    assert session.units["unit"].values.tolist() == [3, 7]
    assert session.spikes_of(0).tolist() == [0.1, 0.2, 5.5]
    assert session.units["quality"].values.tolist() == ["good", "mua"]
    assert list(session.units) == ["quality", "depth"]
    np.testing.assert_allclose(session.rates, group.rates)
    counts = bin_spikes(session, 0.5)
    centres = counts["time"].values
    np.testing.assert_array_equal(counts["observed"], (centres < 2) | (centres > 5))
    theirs = group.count(0.5)
    inside = bin_spikes(session, 0.5, "time_support")
    np.testing.assert_array_equal(inside, theirs.values)
    np.testing.assert_allclose(inside["time"], theirs.times())


def test_group_saved_by_pynapple(group, tmp_path, marker):
    group.save(str(tmp_path / "group.npz"))
    with pytest.warns(UserWarning, match="group.npz: unit columns left out, pynapple pickles them, which may run code"):
        session = read_session(tmp_path / "group.npz")
    wanted = from_pynapple(nap.load_file(str(tmp_path / "group.npz")))
    np.testing.assert_array_equal(session.spike_times, wanted.spike_times)
    np.testing.assert_array_equal(session.spike_times_index, wanted.spike_times_index)
    assert session.units["unit"].values.tolist() == [3, 7]
    assert session.intervals["time_support"].equals(wanted.intervals["time_support"])
    bare = nap.TsGroup(
        {0: nap.Ts(np.array([0.5]), time_support=nap.IntervalSet(0, 1))}, time_support=nap.IntervalSet(0, 1)
    )
    bare.save(str(tmp_path / "bare.npz"))
    assert read_session(tmp_path / "bare.npz").n_spikes == 1  # without a column, without a warning
    with np.load(tmp_path / "bare.npz") as file:
        arrays = {name: file[name] for name in file if name != "_metadata"}
    np.savez(tmp_path / "bomb.npz", **{**arrays, "_metadata": np.array(Bomb(marker), dtype=object)})
    with pytest.warns(UserWarning, match="unit columns left out"):
        assert read_session(tmp_path / "bomb.npz").n_spikes == 1
    np.savez(tmp_path / "bomb.npz", **{**arrays, "t": np.array([Bomb(marker)], dtype=object)})
    assert "bomb.npz: t: holds pickled objects" in line_of(read_session, tmp_path / "bomb.npz")


def test_counts_of_pynapple(group, tmp_path):
    counts = group.count(0.25)
    counts.save(str(tmp_path / "counts.npz"))
    with pytest.warns(UserWarning, match="unit columns left out"):
        saved = read_session(tmp_path / "counts.npz")
    for session in (from_pynapple(counts), saved):
        again = bin_spikes(session, 0.25)
        np.testing.assert_array_equal(again, counts.values)
        np.testing.assert_allclose(again["time"], counts.times())
        assert again["unit"].values.tolist() == [3, 7]
        assert again["segment"].values.tolist() == [0] * 8 + [1] * 4
    assert from_pynapple(counts).units["quality"].values.tolist() == ["good", "mua"]


@pytest.mark.parametrize(
    ("arrays", "line"),
    [
        ({"type": ["Tsd"]}, "holds Tsd, not units; save a TsGroup, or a TsdFrame of counts, with pynapple"),
        ({"type": ["TsGroup"], "t": [1.0]}, "a TsGroup without index; save it again with pynapple"),
        ({"type": ["TsGroup"], "t": ["x"], "index": [0]}, "t holds no times; save it again with pynapple"),
        ({"type": ["TsGroup"], "t": [1.0], "index": [0, 1]}, "spikes do not fit its units; save it again"),
        ({"type": ["TsGroup"], "t": [1.0], "index": [0], "keys": [1]}, "spikes do not fit its units; save it again"),
        ({"type": ["TsGroup"], "t": [], "index": [], "keys": []}, "has no units; save a TsGroup that has some"),
        ({"type": ["TsGroup"], "t": [np.nan], "index": [0]}, "NaN or infinite spike_times in unit 0"),
        (
            {"type": ["TsdFrame"], "t": [1.0], "d": [[1, 2]], "columns": [0]},
            "counts have shape (1, 2) for 1 times and 1 columns",
        ),
    ],
)
def test_pynapple_files_that_cannot_be_used(tmp_path, arrays, line):
    np.savez(tmp_path / "a.npz", **{"start": [0.0], "end": [1.0], **arrays})
    assert line in line_of(read_session, tmp_path / "a.npz")


def test_other_objects_of_pynapple():
    line = line_of(from_pynapple, nap.Ts(np.array([0.0, 1.0])))
    assert line == "memory: a Ts of pynapple holds no units; give a TsGroup, or a TsdFrame of counts"


@pytest.mark.parametrize("name", ["segment", "observed"])
def test_marks_of_bins_are_numbers(name):
    counts = xr.DataArray(np.ones((4, 2), dtype=int), dims=("time", "unit"))
    for odd in (np.zeros(4, dtype="V7"), np.array(list("abcd")), np.array([None] * 4)):
        with pytest.raises(InputError, match=rf"{name} holds .*, where a number a bin is wanted"):
            from_counts(counts.assign_coords({name: ("time", odd)}), 0.1)


def test_segments_of_any_integers_end_stretches():
    counts = xr.DataArray(np.ones((4, 2), dtype=int), dims=("time", "unit"))
    for dtype in (np.uint8, np.int16, bool, float):
        session = from_counts(counts.assign_coords(segment=("time", np.array([0, 0, 1, 1], dtype))), 0.1)
        assert bin_spikes(session, 0.1)["segment"].values.tolist() == [0, 0, 1, 1]
