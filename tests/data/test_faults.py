"""Kinds of faults in files: the numbers are right, or one line names the object and the way out."""

import json
import re
import runpy
import sys
import warnings
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.behavior import CompassDirection, SpatialSeries
from pynwb.misc import Units

from ldmfilter.analysis.behavior import choose_behavior
from ldmfilter.data import read_session
from ldmfilter.data.binned import from_counts
from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.session import Session
from ldmfilter.data.summary import summarise
from ldmfilter.errors import InputError, InputWarning

CASES = Path(__file__).parents[3] / "shared" / "cases"
START = np.datetime64("2024-05-01T09:00:00", "ns")


def trains(units=6, stop=60.0, rate=8.0, seed=0):
    rng = np.random.default_rng(seed)
    return [np.sort(rng.uniform(0, stop, rng.poisson(rate * stop))) for _ in range(units)]


def told(read, *args, **options):
    """What a reader gives, and its warnings, each of one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        session = read(*args, **options)
    lines = [str(one.message) for one in caught if one.category is InputWarning]
    assert all("\n" not in line for line in lines)
    return session, lines


def refused(read, *args, **options):
    with pytest.raises(InputError) as error:
        read(*args, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def dates(seconds):
    return START + (np.asarray(seconds) * 1e9).round().astype("timedelta64[ns]")


def nwb_file(path, spikes, fill=lambda nwb: None, change=lambda file: None):
    nwb = NWBFile("made", "made", datetime(2024, 5, 1, tzinfo=UTC))
    for train in spikes:
        nwb.add_unit(spike_times=train)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fill(nwb)
        with NWBHDF5IO(path, "w") as io:
            io.write(nwb)
    with h5py.File(path, "a") as file:
        change(file)
    return path


# --- fill values


@pytest.mark.skipif(not zarr.__version__.startswith("2."), reason="written with the interface of zarr 2")
@pytest.mark.parametrize("own", [False, True])
def test_zarrs_fill_value_of_zero_marks_nothing(tmp_path, own):
    counts = np.random.default_rng(0).poisson(0.3, (50, 3)).astype(np.int16)
    root = zarr.open_group(str(tmp_path / "c.zarr"), mode="w")
    for key, data, dims in [
        ("counts", counts, ["time", "unit"]),
        ("time", np.arange(50) * 0.1, ["time"]),
        ("unit", np.arange(3), ["unit"]),
        ("place", np.arange(50.0) % 5, ["time"]),
        ("layer", np.array(["", "a", "b"]), ["unit"]),
    ]:
        root.create_dataset(key, data=data).attrs["_ARRAY_DIMENSIONS"] = dims
    session = read_session(tmp_path / "c.zarr")
    assert session.observed is None
    assert session.units["unit"].values.tolist() == [0, 1, 2]
    assert session.units["layer"].values.tolist() == ["", "a", "b"]
    np.testing.assert_array_equal(bin_spikes(session, 0.1), counts)
    np.testing.assert_array_equal(session.behavior["place"], np.arange(50.0) % 5)


def test_other_fill_values_are_missing(tmp_path):
    counts = xr.DataArray([[0, 1], [2, 9999], [1, 1]] * 4, dims=("time", "unit"), attrs={"bin_size": 0.1})
    counts.to_dataset(name="counts").to_netcdf(
        tmp_path / "c.nc", engine="h5netcdf", encoding={"counts": {"_FillValue": 9999}}
    )
    assert not bin_spikes(read_session(tmp_path / "c.nc"), 0.1)["unit_observed"].values[1, 1]
    counts.to_dataset(name="counts").to_netcdf(
        tmp_path / "z.nc", engine="h5netcdf", encoding={"counts": {"_FillValue": 0}}
    )
    session, lines = told(read_session, tmp_path / "z.nc")
    assert session.observed is None
    assert "counts: its _FillValue 0 is taken as the number, not as missing" in lines[0]


def test_xarray_sees_the_zeros_of_our_store(tmp_path):
    session = Session.from_spikes(
        {0: [0.0, 1.0], 1: [2.0]},
        behavior={"x": xr.DataArray([0.0, 1.0], dims="time", coords={"time": [0.0, 1.0]})},
        units={"depth": [0, 5]},
    )
    session.to_zarr(tmp_path / "s.zarr")
    opened = xr.open_zarr(tmp_path / "s.zarr", consolidated=False)
    assert opened["unit_id"].values.tolist() == [0, 1]
    assert opened["spike_times"].values.tolist() == [0.0, 1.0, 2.0]
    behavior = xr.open_zarr(tmp_path / "s.zarr", group="behavior/x", consolidated=False)
    assert (behavior["data"].values.tolist(), behavior["time"].values.tolist()) == ([0.0, 1.0], [0.0, 1.0])


def test_ids_that_are_nan_are_refused():
    counts = xr.DataArray(np.ones((4, 2), int), dims=("time", "unit"), coords={"unit": [np.nan, 1.0]})
    assert "1 of 2 ids are NaN; give each unit its own" in refused(from_counts, counts, 0.1)


# --- dates, durations and units of time


@pytest.mark.parametrize("kind", ["dates", "durations", "minutes"])
@pytest.mark.parametrize("suffix", ["nc", "zarr", "memory"])
def test_counts_behaviour_and_epochs_in_other_times(tmp_path, kind, suffix):
    def clock(seconds):
        if kind == "minutes" and suffix != "memory":
            return xr.Variable("time", np.asarray(seconds) / 60, {"units": "minutes"})
        made = dates(seconds)
        return xr.Variable("time", made if kind == "dates" else made - START)

    n = 600
    counts = np.random.default_rng(0).poisson(1, (n, 3))
    root = xr.Dataset({"counts": (("time", "unit"), counts)}, {"time": clock((np.arange(n) + 0.5) * 0.1)})
    late = xr.Dataset({"data": ("time", np.arange(100.0))}, {"time": clock(10 + 0.5 * np.arange(100))})
    rows = {"start_time": [12.0, 30.0], "stop_time": [18.0, 36.0]}
    epochs = xr.Dataset({key: xr.Variable("interval", clock(v).data, clock(v).attrs) for key, v in rows.items()})
    if suffix == "memory":
        session = from_counts(
            root["counts"], 0.1, behavior={"x": late["data"]},
            intervals={"epochs": {key: column.values for key, column in epochs.items()}},
        )  # fmt: skip
        name = "x"
    else:
        path, name = tmp_path / f"c.{suffix}", "x"
        write = {"nc": {"engine": "h5netcdf"}, "zarr": {"zarr_format": 2, "consolidated": False}}[suffix]
        for group, dataset in ((None, root), ("behavior/x", late), ("intervals/epochs", epochs)):
            save = dataset.to_netcdf if suffix == "nc" else dataset.to_zarr
            save(path, group=group, mode="w" if group is None else "a", **write)
        session = read_session(path)
    assert (session.start, session.stop) == pytest.approx((0, 60), abs=1e-6)
    np.testing.assert_allclose(session.behavior[name]["time"], 10 + 0.5 * np.arange(100), atol=1e-6)
    assert session.behavior[name].attrs["rate"] == pytest.approx(2.0)
    np.testing.assert_allclose(session.intervals["epochs"]["start_time"], rows["start_time"], atol=1e-6)
    assert session.source.session_start_time[:19] == ("2024-05-01T09:00:00" if kind == "dates" else "")


def test_spikes_in_dates_and_in_durations(tmp_path):
    x = {"x": xr.DataArray([1.0, 2.0], dims="time", coords={"time": dates([3.5, 4.0])})}
    session = Session.from_spikes([dates([1.0, 2.5]), dates([2.0])], behavior=x)
    assert session.spike_times.tolist() == [0.0, 1.5, 1.0]
    assert session.behavior["x"]["time"].values.tolist() == [2.5, 3.0]
    assert Session.from_spikes([dates([1.0]) - START]).spike_times.tolist() == [1.0]
    assert Session.from_spikes([[pd.Timedelta(1, "s"), pd.Timedelta(2, "s")]]).spike_times.tolist() == [1.0, 2.0]
    assert "is in dates, the session's spikes are not" in refused(Session.from_spikes, [[1.0]], behavior=x)
    store = xr.Dataset(
        {"spike_times": ("spike", dates([1.0, 2.5, 2.0]) - START), "spike_times_index": ("unit", [2, 3])}
    )
    store.to_zarr(tmp_path / "s.zarr", zarr_format=2, consolidated=False)
    series = xr.Dataset({"data": ("time", [1, 2])}, {"time": xr.Variable("time", [500, 1500], {"units": "ms"})})
    series.to_zarr(tmp_path / "s.zarr", group="behavior/x", mode="a", zarr_format=2, consolidated=False)
    session = read_session(tmp_path / "s.zarr")
    assert session.spike_times.tolist() == [1.0, 2.5, 2.0]
    assert session.behavior["x"]["time"].values.tolist() == [0.5, 1.5]


# --- order


def test_trials_with_own_clocks_and_clocks_that_begin_anew_are_refused(tmp_path):
    cut = np.arange(0, 60, 6.0)
    own = [np.concatenate([s[(s >= c) & (s < c + 6)] - c - 3 for c in cut]) for s in trains()]
    sparse = [np.concatenate([s[(s >= c) & (s < c + 6)] - c for c in cut]) for s in trains(units=30, rate=0.4)]
    reset = [np.concatenate([s[s < 40], s[s >= 40] - 40]) for s in trains()]
    overflow = [np.concatenate([s[s < 50] + 2**31 / 3e4, s[s >= 50] - 50]) for s in trains()]
    for spikes in (own, sparse, reset, overflow):
        line = refused(Session.from_spikes, spikes)
        assert line.startswith("memory: units: spike_times fall back in ")
        assert "--sort-times" in line
    path = nwb_file(tmp_path / "own.nwb", own)
    assert "in 6 of 6 units" in refused(read_session, path)
    session, lines = told(read_session, path, sort_times=True)
    assert "sorted the spike_times of 6 unsorted units" in lines[0]
    assert session.n_spikes == sum(map(len, own))


def test_disorder_is_sorted():
    rng = np.random.default_rng(0)
    shuffled = [rng.permutation(s) for s in trains()]
    merged = [np.concatenate([s, s / 2]) if unit == 3 else s for unit, s in enumerate(trains(units=12))]
    jitter = [s + rng.uniform(0, 0.01, len(s)) for s in trains()]
    for spikes in (shuffled, merged, jitter, [s[::-1] for s in trains()]):
        session, lines = told(Session.from_spikes, spikes)
        assert len(lines) == 1
        assert "memory: units: sorted the spike_times of" in lines[0]
        assert session.spikes_of(3).tolist() == sorted(spikes[3])


def test_behaviour_whose_clock_begins_anew_is_left_out(tmp_path):
    time = np.concatenate([np.arange(0, 40, 0.1), np.arange(0, 20, 0.1)])

    def fill(nwb):
        nwb.add_acquisition(TimeSeries(name="x", data=np.arange(600.0), timestamps=time, unit="m"))

    path = nwb_file(tmp_path / "s.nwb", trains(), fill)
    session, lines = told(read_session, path)
    assert not session.behavior
    assert "acquisition/x: left out, its times fall back from 39.9 to 0 s" in lines[0]
    assert "--sort-times" in lines[0]
    assert len(told(read_session, path, sort_times=True)[0].behavior["acquisition/x"]) == 600
    x = {"x": xr.DataArray(np.arange(600.0), dims="time", coords={"time": time})}
    assert not told(Session.from_spikes, trains(), behavior=x)[0].behavior


@pytest.mark.parametrize(("mark", "times"), [(-1.0, 20), (-9999.0, 5), (0.0, 50), (1e9, 1), (-5e4, 1), (1e9, 30)])
def test_marks_of_invalid_spikes(mark, times):
    good = [s + 40 for s in trains()]
    spikes = [np.insert(s, 7, np.full(times, mark)) if unit % 2 else s for unit, s in enumerate(good)]
    if times == 1:
        spikes[3:] = good[3:]
    session, lines = told(Session.from_spikes, spikes)
    assert session.n_spikes == sum(map(len, good))
    assert session.start > 39
    assert session.stop < 101
    assert f"at {mark:g} s" in lines[0]
    assert len(lines) == 1


# --- units of time


def test_spikes_in_another_unit_are_refused(tmp_path):
    x = xr.DataArray(np.arange(3000.0), dims="time", coords={"time": np.arange(3000) * 0.1})
    trials = {"start_time": np.arange(10) * 25.0, "stop_time": np.arange(10) * 25.0 + 20}
    true = trains(stop=300.0)
    for hz, spikes in ((30_000, [np.round(s * 30_000) for s in true]), (1000, [s * 1000 for s in true])):
        parts = {"behavior": {"x": x}, "intervals": {"trials": trials}}
        assert "spikes=1000" in refused(Session.from_spikes, spikes, **parts)
        right = Session.from_spikes(spikes, **parts, ticks=[f"spikes={hz}"])
        np.testing.assert_allclose(right.spikes_of(2), true[2], atol=1e-4)
        assert set(right.behavior) | set(right.intervals) == {"x", "trials"}
    slow = [s * 1000 for s in trains(stop=300.0, rate=3)]  # more than a day, were these seconds
    line = refused(Session.from_spikes, slow, behavior={"x": x.assign_coords(time=x["time"] * 1000)})
    assert re.search(
        r"a median rate of 0.00\d+ Hz over \d{3},\d+ s; are spike_times ms\? .* --ticks spikes=1000 .* 1 where", line
    )
    assert Session.from_spikes(slow, ticks=["spikes=1"]).stop > 86400
    assert Session.from_spikes(slow, ticks=["spikes=1000"]).stop < 301
    session, lines = told(Session.from_spikes, [s * 1000 for s in trains(stop=80.0, rate=3)])  # 22 h of rare spikes
    assert "a median rate of 0.00" in lines[0]
    assert session.n_spikes
    path = nwb_file(tmp_path / "s.nwb", [np.round(s * 30_000) for s in true])
    assert "all " in refused(read_session, path)
    assert read_session(path, ticks=["spikes=30000"]).stop == pytest.approx(300, abs=1)
    assert "no spike to give ticks of; it has spikes" in refused(read_session, path, ticks=["spike=1"])
    assert "ticks is 'spikes'; it must be NAME=HZ" in refused(read_session, path, ticks=["spikes"])


def test_behaviour_and_tables_in_another_unit_are_left_out():
    ms = xr.DataArray(np.arange(3000.0), dims="time", coords={"time": np.arange(3000) * 20.0})
    frames = xr.DataArray(np.arange(3000.0), dims="time", coords={"time": np.arange(3000.0)})
    trials = {"start_time": np.arange(10) * 6000.5, "stop_time": np.arange(10) * 6000.5 + 5000, "go_time": [1.0] * 10}
    session, lines = told(Session.from_spikes, trains(), behavior={"x": ms, "y": frames}, intervals={"trials": trials})
    assert not session.behavior
    assert not session.intervals
    assert [f"--ticks {name}=" in line for name, line in zip(("trials", "x", "y"), lines, strict=True)] == [True] * 3
    session, lines = told(
        Session.from_spikes, trains(), behavior={"x": ms, "y": frames}, intervals={"trials": trials},
        ticks=["x=1000", "y=50", "trials=1000"],
    )  # fmt: skip
    assert not lines
    assert session.behavior["x"]["time"].values[-1] == pytest.approx(59.98)
    assert session.behavior["y"].attrs["rate"] == pytest.approx(50)
    assert session.intervals["trials"]["go_time"].values[0] == 0.001


def test_time_axis_of_counts_without_a_unit():
    counts = np.ones((50, 2), int)
    for time, size in ((np.arange(50), None), (np.arange(50), 0.1), (np.arange(50) * 100.0 + 50, 0.1)):
        table = xr.DataArray(counts, dims=("time", "unit"), coords={"time": time})
        assert "without saying in which unit" in refused(from_counts, table, size)
    right = from_counts(table.assign_coords(time=("time", time, {"units": "ms"})))
    assert (right.bin_size, right.start, right.stop) == pytest.approx((0.1, 0, 5))


# --- what hardly any neuron does


def test_a_pause_of_the_recording_is_told():
    paused = [np.where(train > 30, train + 3600, train) for train in trains()]
    _, lines = told(Session.from_spikes, paused)
    (line,) = lines
    assert "no unit fires for 3,600 s or more, as from 30.0" in line
    assert line.endswith("; where nothing was recorded, leave it out (--span, in Python intervals)")
    often = [np.where(train % 60 < 20, train, np.nan) for train in trains(stop=300)]
    _, lines = told(Session.from_spikes, [train[np.isfinite(train)] for train in often])
    assert re.search(r"no unit fires for 1[4-6]\d s or more, as from", lines[0])  # of 160 s, in four pauses
    assert not told(Session.from_spikes, trains(stop=300))[1]
    assert not told(Session.from_spikes, [[0.5, 1000.0, 2000.5]])[1]  # too few to tell


def test_spikes_that_are_there_twice_are_told():
    _, lines = told(Session.from_spikes, [np.repeat(train, 2) for train in trains()])
    n = sum(map(len, trains()))
    assert lines == [f"memory: units: {n:,} of {2 * n:,} spikes are at the time of another; is each there twice?"]


# --- the extent


def test_stray_stamps_are_told_and_make_no_bins():
    trials = {"start_time": [-1.5e9, 5.0, 20.0], "stop_time": [10.0, 12.0, 30.0]}
    session, lines = told(Session.from_spikes, trains(), intervals={"trials": trials})
    assert lines == [
        f"memory: trials: 1 of 6 times lie far from the spikes, {session.start:g} to {session.stop:g} s: "
        "-1500000000 s; ignored"
    ]
    assert session.duration < 60
    assert bin_spikes(session, 0.1).sizes["time"] <= 600
    few = {"x": xr.DataArray(np.arange(20.0), dims="time", coords={"time": [*np.arange(19) * 2.5, 4e9]})}
    _, lines = told(Session.from_spikes, trains(), behavior=few)
    assert lines == [
        f"memory: x: 1 of 20 times lie far from the spikes, {session.start:g} to {session.stop:g} s: "
        "4000000000 s; ignored"
    ]
    away = {"x": xr.DataArray(np.arange(50.0), dims="time", coords={"time": 1.7e9 + np.arange(50) * 0.5})}
    late = {"start_time": 1.7e9 + np.arange(10) * 5.5, "stop_time": 1.7e9 + np.arange(10) * 5.5 + 2}
    session, lines = told(Session.from_spikes, trains(), behavior=away, intervals={"laps": late})
    way = "s; is its clock another? write its times on that of the spikes, or "
    assert [line.partition(way)[2] for line in lines] == ["train without --interval laps", "leave it out"]
    session, _ = told(Session.from_spikes, trains(), behavior=away)
    assert summarise(session)["next"] == ["ldmfilter train memory", "ldmfilter decode --out latents.zarr"]


def test_what_inspect_proposes_first():
    """The part in which behaviour was measured, or else one that is no rest; a place before what is derived from it."""
    epochs = {"start_time": [0.0, 35.0], "stop_time": [35.0, 60.0], "kind": ["rest", "run"]}
    time = np.arange(36, 59, 0.1)
    behavior = {name: xr.DataArray(time, dims="time", coords={"time": time}) for name in ("direction", "position")}
    one = summarise(Session.from_spikes(trains(), intervals={"epochs": epochs}, behavior=behavior))["next"]
    assert [line.split()[-6] for line in one[1:3]] == ["epochs=run", "epochs=rest"]
    assert one[3] == "ldmfilter decode --interval epochs=run --out latents.zarr --behavior position"
    epochs["kind"] = ["foraging", "track"]
    one = summarise(Session.from_spikes(trains(), intervals={"epochs": epochs}, behavior=behavior))["next"]
    assert "epochs=track" in one[1]
    one = summarise(Session.from_spikes(trains(), intervals={"epochs": epochs}))["next"]
    assert "epochs=foraging" in one[1]
    wide = {"emg": xr.DataArray(np.zeros((len(time), 4)), dims=("time", "column"), coords={"time": time})}
    one = summarise(Session.from_spikes(trains(), behavior=wide))["next"]
    assert one[-1] == "ldmfilter decode --out latents.zarr"  # which takes some of its columns, not all


def test_inspect_proposes_behaviour_that_can_be_read():
    time = np.arange(0, 60, 0.5)
    four = xr.DataArray(np.ones((120, 4)), {"time": time}, ("time", "component"))
    behavior = {"m/position/run": four[:, :2], "m/position": four[:, :2], "m/markers": four}
    one = summarise(Session.from_spikes(trains(), behavior=behavior))["next"]
    assert one[-1].endswith("--behavior m/position")


def test_what_inspect_tells():
    trials = {
        "start_time": [0.0, 10.0], "stop_time": [5.0, 20.0], "go": [1.0, np.nan], "rt": [300.0, 200.0],
        "kind": ["a", "b"],
    }  # fmt: skip
    table = summarise(Session.from_spikes(trains(), intervals={"trials": trials}))["intervals"][0]
    assert table["events"] == {"go": {"start": 1.0, "stop": 1.0, "rows": 1}}
    assert (table["seconds"], table["seconds_by_tag"]) == (15.0, {"a": 5.0, "b": 10.0})
    summary = summarise(Session.from_spikes(trains(), intervals={"trials": trials}), ["odd"])
    assert summary["odd"] == ["odd"]
    assert summary["next"][1] == "ldmfilter train memory --interval trials  # or only this part"
    epochs = summarise(Session.from_spikes(trains(), intervals={"epochs": trials}))["next"]
    parts = [f"ldmfilter train memory --interval epochs={tag}  # or only this part" for tag in "ba"]
    assert epochs[1:3] == parts  # the longest first
    again = summarise(Session.from_spikes(trains(), intervals={"epochs": trials | {"side": ["left", "right"]}}))
    assert again["next"] == epochs  # once for the same rows
    assert summary["next"][-1] == "ldmfilter decode --align trials.go --window 0:4 --out trials.zarr"
    for stop in (9.0, np.nan):
        wrong = trials | {"stop_time": [5.0, stop]}
        (line,) = summarise(Session.from_spikes(trains(), intervals={"trials": wrong}))["odd"]
        assert line.startswith("memory: trials: 1 of 2 rows stop before they start, or have no start or stop; no time")
    overlapping = trials | {"stop_time": [trials["start_time"][1] + 0.5, 15.0]}
    (line,) = summarise(Session.from_spikes(trains(), intervals={"trials": overlapping}))["odd"]
    assert line == "memory: trials: 1 of 2 rows begin before an earlier one stops; these are joined"
    assert not summarise(Session.from_spikes(trains(), intervals={"epochs": overlapping}))["odd"]
    stray = {"start_time": [-2e9, 5.0, 20.0], "stop_time": [-2e9 + 1, 10.0, 25.0]}
    with pytest.warns(UserWarning, match="lie far from the spikes"):
        (table,) = summarise(Session.from_spikes(trains(), intervals={"stim": stray}))["intervals"]
    assert [table[key] for key in ("rows", "start", "stop", "seconds")] == [3, 5.0, 25.0, 10.0]
    whole = {"start_time": [0.0, 30.0], "stop_time": [30.0, 60.0], "kind": ["wake", "wake"]}
    assert len(summarise(Session.from_spikes(trains(), intervals={"epochs": whole}))["next"]) == 2  # no part
    brief = {"start_time": [1.0], "stop_time": [2.0]}
    assert len(summarise(Session.from_spikes(trains(), intervals={"stim": brief}))["next"]) == 2  # none to train on


# --- sorters' tables


@pytest.fixture
def phy(tmp_path):
    frames = np.concatenate([np.round(s * 30_000) for s in trains()]).astype(np.int64)
    owner = np.repeat(np.arange(6), [len(s) for s in trains()])
    np.save(tmp_path / "spike_times.npy", frames)
    np.save(tmp_path / "spike_clusters.npy", owner)
    (tmp_path / "params.py").write_text("sample_rate = 30000.\n")
    return tmp_path


@pytest.mark.parametrize("by", ["\t", ";", ","])
@pytest.mark.parametrize("name", ["cluster_groups.csv", "cluster_group.tsv"])
def test_any_separator(phy, by, name):
    (phy / name).write_bytes(
        ("\ufeff" + "\r\n".join(f"{a}{by}{b}" for a, b in [("cluster_id", "group"), (0, "good"), (1, "mua")])).encode()
    )
    assert read_session(phy).units["group"].values.tolist() == ["good", "mua"] + ["unsorted"] * 4


def test_decimal_commas(phy):
    (phy / "cluster_info.csv").write_text("cluster_id;amp\n0;1,5\n1;2,25\n")
    assert read_session(phy).units["amp"].values[:2].tolist() == [1.5, 2.25]


def test_rows_that_one_table_lacks(phy):
    (phy / "cluster_info.tsv").write_text("cluster_id\tgroup\tamp\n0\tmua\t5\n\tgood\t6\n\t\t7\n2\t\t8\n")
    (phy / "cluster_group.tsv").write_text("cluster_id\tgroup\n0\tnoise\n1\tgood\n2\tgood\n")
    (phy / "cluster_words.tsv").write_text("a\tb\n1\t2\n")
    session, lines = told(read_session, phy)
    assert session.units["group"].values.tolist() == ["mua", "good", "good"] + ["unsorted"] * 3
    np.testing.assert_array_equal(session.units["amp"], [5, np.nan, 8] + [np.nan] * 3)
    assert [line.rpartition("/")[2] for line in lines] == [
        "cluster_info.tsv: left out 2 of 4 rows, without a cluster_id",
        "cluster_words.tsv: left out, it has no column cluster_id; it has a, b",
    ]


def test_negative_frames(phy):
    frames = np.load(phy / "spike_times.npy")
    frames[:2] = -5
    np.save(phy / "spike_times.npy", frames)
    session, lines = told(read_session, phy)
    assert session.n_spikes == len(frames) - 2
    assert "left out 2 spikes before the recording's start" in lines[0]


# --- angles


@pytest.mark.parametrize(
    ("unit", "scale", "typed", "period"),
    [
        ("meters", 1, True, 2 * np.pi), ("", 180 / np.pi, True, 360), ("n/a", 1, True, 2 * np.pi),
        ("degrees", 1, False, 2 * np.pi), ("radians", 180 / np.pi, False, 360), ("radians", 1, True, 2 * np.pi),
        ("degrees", 180 / np.pi, True, 360), ("meters", 1, False, None),
    ],
)  # fmt: skip
def test_angles_in_any_unit(tmp_path, unit, scale, typed, period):
    time = np.arange(0, 60, 0.05)
    values = scale * (time % (2 * np.pi))

    def fill(nwb):
        if typed:
            series = SpatialSeries(name="head", data=values, timestamps=time, reference_frame="n", unit=unit)
            nwb.add_acquisition(CompassDirection(name="CompassDirection", spatial_series=series))
        else:
            nwb.add_acquisition(TimeSeries(name="head", data=values, timestamps=time, unit=unit))

    session = read_session(nwb_file(tmp_path / "s.nwb", trains(), fill))
    session.to_zarr(tmp_path / "s.zarr")
    for one in (session, read_session(tmp_path / "s.zarr")):
        assert choose_behavior(one, ["head"])[0].period == period
    fits = unit in ("", "n/a") or (unit == "radians") == (scale == 1)
    assert bool(summarise(session)["odd"]) == (period is not None and not fits and unit not in ("", "n/a"))


# --- what was left out in silence


def test_transposed_arrays(tmp_path):
    time, xy = np.arange(0, 60, 0.05), np.random.default_rng(0).normal(size=(1200, 2))

    def fill(nwb):
        nwb.add_acquisition(TimeSeries(name="stamps", data=xy, timestamps=time, unit="m"))
        nwb.add_acquisition(TimeSeries(name="rate", data=xy, rate=20.0, unit="m"))
        nwb.add_acquisition(TimeSeries(name="film", data=np.zeros((20, 10, 10)), rate=1.0, unit="m"))

    def change(file):
        for name in ("stamps", "rate"):
            group = file["acquisition"][name]
            attributes = dict(group["data"].attrs)
            del group["data"]
            group.create_dataset("data", data=xy.T).attrs.update(attributes)

    session, lines = told(read_session, nwb_file(tmp_path / "s.nwb", trains(), fill, change))
    for name in ("stamps", "rate"):
        np.testing.assert_array_equal(session.behavior[f"acquisition/{name}"], xy)
        assert any(f"acquisition/{name}: (2, 1200) is taken as transposed" in line for line in lines)
    assert any("left out, no (time,)" in line and "acquisition/film (20, 10, 10)" in line for line in lines)


@pytest.mark.parametrize("own", [True, False])
def test_units_in_processing(tmp_path, own):
    def fill(nwb):
        table = Units(name="sorted_again", description="d")
        for train in trains(3):
            table.add_unit(spike_times=train)
        nwb.create_processing_module("ecephys", "e").add(table)

    session, lines = told(read_session, nwb_file(tmp_path / "s.nwb", trains() if own else [], fill))
    assert session.n_units == (6 if own else 3)
    assert "processing/ecephys/sorted_again (3 units): " + ("left out" if own else "taken as the units") in lines[0]


def test_columns_of_older_pynapple_files(tmp_path):
    np.savez(
        tmp_path / "old.npz", t=[0.1, 0.2, 0.3], index=[0, 1, 0], keys=[0, 1], start=[0.0], end=[1.0], type=["TsGroup"],
        rate=[2.0, 1.0], area=["CA1", "CA3"], odd=[1, 2, 3],
    )  # fmt: skip
    session, lines = told(read_session, tmp_path / "old.npz")
    assert session.units["area"].values.tolist() == ["CA1", "CA3"]
    assert "left out odd" in lines[0]


# --- half-broken containers


@pytest.mark.parametrize("column", ["group", "location", "group_name"])
def test_electrodes_that_lack_a_column(tmp_path, column):
    def fill(nwb):
        group = nwb.create_electrode_group("shank", "d", "CA1", nwb.create_device("probe"))
        for _ in range(4):
            nwb.add_electrode(location="CA1", group=group)
        for train in trains():
            nwb.add_unit(spike_times=train, electrodes=[0, 1], electrode_group=group)

    def change(file):
        table = file["general/extracellular_ephys/electrodes"]
        del table[column]
        table.attrs["colnames"] = np.array([c for c in table.attrs["colnames"] if c != column], dtype=object)

    session, _ = told(read_session, nwb_file(tmp_path / "s.nwb", [], fill, change))
    assert session.n_spikes == sum(map(len, trains()))
    assert session.units["electrode_group"].values[0] == "shank"


def test_units_lie_where_their_electrodes_do(tmp_path):
    def fill(nwb, taken=False):
        group = nwb.create_electrode_group("shank", "d", "HPC", nwb.create_device("probe"))
        for place in ("CA1", "DG", "CA1"):
            nwb.add_electrode(location=place, group=group)
        if taken:
            nwb.add_unit_column("location", "of the file itself")
        for electrodes in ([0], [1], [2, 1, 0], []):
            own = {"location": "probe"} if taken else {}
            nwb.add_unit(spike_times=[0.5, 1.5], electrodes=electrodes, **own)

    session = read_session(nwb_file(tmp_path / "s.nwb", [], fill))
    assert session.units["location"].values.tolist() == ["CA1", "DG", "CA1+DG", ""]
    session = read_session(nwb_file(tmp_path / "t.nwb", [], lambda nwb: fill(nwb, taken=True)))
    assert set(session.units["location"].values) == {"probe"}


def test_spikes_that_are_all_at_one_time():
    assert refused(Session.from_spikes, [np.zeros(150)]) == "memory: units: all 150 spike_times are 0; write them anew"


def test_a_home_that_cannot_be_written_to(tmp_path, monkeypatch):
    """Libraries under the reader of NWB make their cache's folder while they are imported."""
    (tmp_path / "s.nwb").write_bytes(b"x")
    monkeypatch.setenv("HOME", "/nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)

    def no_folder(name):
        raise PermissionError(13, "Permission denied", "/nowhere/.cache/hdmf")

    monkeypatch.setattr("ldmfilter.data.importlib.import_module", no_folder)
    assert refused(read_session, tmp_path / "s.nwb") == (
        "/nowhere: HOME cannot be written to (Permission denied: /nowhere/.cache/hdmf), where libraries keep a cache; "
        "set XDG_CACHE_HOME to a folder that can"
    )


@pytest.mark.skipif(not CASES.exists(), reason="the cases are not here")
@pytest.mark.parametrize("case", sorted(CASES.glob("*.py")), ids=lambda case: case.stem)
def test_shared_cases(case, tmp_path, capsys, monkeypatch):
    with warnings.catch_warnings():
        monkeypatch.setattr(sys, "argv", [str(case), str(tmp_path)])
        runpy.run_path(str(case))
    made = {Path(one["path"]).name: one for one in map(json.loads, capsys.readouterr().out.splitlines())}
    refusals = {"trialised.nwb": "--sort-times", "ms.nwb": "--ticks spikes=1000"}
    for name, truth in made.items():
        if name in refusals:
            assert refusals[name] in refused(read_session, truth["path"])
            continue
        session, _ = told(read_session, truth["path"])
        assert session.n_units == truth["units"]
        assert session.n_spikes == truth.get("valid_spikes", truth.get("spikes"))
        if "good" in truth:
            good = session.units["unit"].values[session.units["group"].values == "good"].tolist()
            assert truth["good"] in (good, len(good))
        if "behaviour_from" in truth:
            assert float(session.behavior["position"]["time"][0]) == pytest.approx(truth["behaviour_from"])
