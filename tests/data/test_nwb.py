"""NWB files with what real ones hold, and the exact line for those that cannot be used."""

import warnings

import h5py
import numpy as np
import pytest
from pynwb import TimeSeries
from pynwb.behavior import BehavioralTimeSeries, Position, SpatialSeries
from pynwb.ecephys import ElectricalSeries
from pynwb.epoch import TimeIntervals

from ldmfilter.data import read_session
from ldmfilter.errors import InputError


def line_of(path):
    with pytest.raises(InputError) as caught:
        read_session(path)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def with_units(nwb, *trains, **columns):
    for name in columns:
        nwb.add_unit_column(name, name)
    for row, train in enumerate(trains):
        nwb.add_unit(spike_times=train, **{name: values[row] for name, values in columns.items()})
    return nwb


def test_units_and_columns(nwb, read):
    group = nwb.create_electrode_group(
        name="shank 1", description="d", location="CA1", device=nwb.create_device(name="probe")
    )
    with_units(
        nwb,
        [1.0, 2.0],
        [],
        [0.5],
        quality=["good", "mua", "good"],
        ok=[True, False, True],
        snr=[1.0, 2.0, np.nan],
    )
    nwb.add_unit_column("where", "object", data=[group] * 3)
    nwb.add_unit_column("waveform_mean", "vector", data=np.zeros((3, 8)))
    session = read(nwb)
    assert [session.spikes_of(unit).tolist() for unit in range(3)] == [[1.0, 2.0], [], [0.5]]
    np.testing.assert_array_equal(session.units["unit"], [0, 1, 2])
    assert session.units["quality"].values.tolist() == ["good", "mua", "good"]
    assert session.units["ok"].values.tolist() == [True, False, True]
    np.testing.assert_array_equal(session.units["snr"], [1, 2, np.nan])
    assert session.units["where"].values.tolist() == ["shank 1"] * 3
    assert "waveform_mean" not in session.units
    assert session.observed is None
    assert session.source.session_id == "m1"
    assert session.source.session_start_time == "2020-01-01T00:00:00+00:00"


def test_observed_intervals(nwb, read):
    nwb.add_unit(spike_times=[1.0, 9.0], obs_intervals=[[0.0, 2.0], [8.0, 10.0]])
    nwb.add_unit(spike_times=[1.0], obs_intervals=[[0.0, 2.0]])
    session = read(nwb)
    assert session.observed.of(0).tolist() == [[0.0, 2.0], [8.0, 10.0]]
    assert session.observed.of(1).tolist() == [[0.0, 2.0]]
    np.testing.assert_allclose(session.rates, [0.5, 0.5])


def test_interval_tables(nwb, read):
    with_units(nwb, [1.0])
    nwb.add_epoch(0.0, 5.0, ["run", "box"])
    nwb.add_epoch(5.0, 6.0, ["rest"])
    nwb.add_trial_column("split", "s")
    nwb.add_trial(start_time=0.0, stop_time=1.0, split="train")
    for name, add in (("epoch intervals", nwb.add_time_intervals), ("states", None)):
        table = TimeIntervals(name=name, description="d")
        table.add_row(start_time=1.0, stop_time=2.0)
        if add:
            add(table)
        else:
            nwb.create_processing_module("behavior", "d").add(table)
    session = read(nwb)
    assert set(session.intervals) == {"epochs", "trials", "epoch intervals", "processing/behavior/states"}
    assert session.intervals["epochs"]["tags"].values.tolist() == [["run", "box"], ["rest", ""]]
    assert session.intervals["trials"]["split"].values.tolist() == ["train"]
    assert session.intervals["epoch intervals"]["stop_time"].values.tolist() == [2.0]


def test_behavior_wherever_it_lies(nwb, read):
    with_units(nwb, [1.0])
    module = nwb.create_processing_module("behavior", "d")
    led = SpatialSeries(
        name="led", data=np.arange(8.0).reshape(4, 2), timestamps=[0.0, 0.1, 0.2, 0.3], reference_frame="r"
    )
    module.add(Position(spatial_series=led))
    module.add(TimeSeries(name="linear", data=[1, 2, 3, 4], unit="px", timestamps=led, conversion=0.5, offset=1.0))
    wheel = nwb.create_processing_module("wheel", "d")
    speed = TimeSeries(name="speed", data=np.ones((5, 1), np.int16), unit="cm/s", rate=10.0, starting_time=2.0)
    wheel.add(BehavioralTimeSeries(time_series=speed))
    nwb.add_acquisition(TimeSeries(name="lick", data=[True, False], unit="n/a", rate=1.0))
    # Neither many columns nor a recording of voltage is behaviour.
    nwb.add_acquisition(TimeSeries(name="wide", data=np.zeros((3, 65)), unit="V", rate=1.0))
    group = nwb.create_electrode_group(
        name="g", description="d", location="CA1", device=nwb.create_device(name="probe")
    )
    nwb.add_electrode(group=group, location="CA1")
    region = nwb.create_electrode_table_region(region=[0], description="d")
    nwb.add_acquisition(ElectricalSeries(name="lfp", data=np.zeros((4, 1)), electrodes=region, rate=100.0))
    session = read(nwb)
    assert set(session.behavior) == {
        "processing/behavior/Position/led",
        "processing/behavior/linear",
        "processing/wheel/BehavioralTimeSeries/speed",
        "acquisition/lick",
    }
    led, linear, speed = (session.behavior[name] for name in sorted(session.behavior) if "lick" not in name)
    assert (led.dims, led.shape) == (("time", "component"), (4, 2))
    np.testing.assert_array_equal(linear, [1.5, 2.0, 2.5, 3.0])
    np.testing.assert_array_equal(linear["time"], led["time"])
    assert linear.attrs["unit"] == "px"
    assert linear.attrs["rate"] == pytest.approx(10.0)
    assert (speed.dims, speed.dtype) == (("time",), np.int16)
    np.testing.assert_allclose(speed["time"], 2.0 + np.arange(5) / 10)


def test_conversion_that_is_nan_counts_as_one(nwb, read):
    with_units(nwb, [1.0])
    nwb.add_acquisition(TimeSeries(name="x", data=[1.0, 2.0], unit="m", rate=1.0, conversion=np.nan))
    with pytest.warns(UserWarning, match="made.nwb: acquisition/x: conversion is NaN, taken as 1$"):
        session = read(nwb)
    np.testing.assert_array_equal(session.behavior["acquisition/x"], [1.0, 2.0])


def test_unsorted_spikes(nwb, read, tmp_path):
    with pytest.warns(UserWarning, match="sorted") as caught:
        session = read(with_units(nwb, [2.0, 1.0], [3.0]))
    assert [str(w.message) for w in caught] == [
        f"{tmp_path / 'made.nwb'}: units: sorted the spike_times of 1 unsorted units"
    ]
    np.testing.assert_array_equal(session.spike_times, [1.0, 2.0, 3.0])


def test_no_time_for_a_series(nwb, read, tmp_path):
    with_units(nwb, [1.0])
    nwb.add_acquisition(TimeSeries(name="x", data=[1.0, 2.0], unit="m", timestamps=[0.0, 1.0]))
    read(nwb)
    with h5py.File(tmp_path / "made.nwb", "a") as file:
        del file["acquisition/x/timestamps"]
        file["acquisition/x/timestamps"] = [0.0, 1.0, 2.0]
    with pytest.warns(UserWarning, match=r"acquisition/x: left out, its timestamps \(3,\) do not fit its data"):
        assert read_session(tmp_path / "made.nwb").behavior == {}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (None, "no such file; check the path"),
        (b"", "is empty; copy or download it again"),
        (b"some text\n", "is not an NWB file (no HDF5 signature); give an NWB file or a session in zarr"),
    ],
)
def test_files_that_are_no_nwb(tmp_path, content, line):
    path = tmp_path / "session.nwb"
    if content is not None:
        path.write_bytes(content)
    assert line_of(path) == line


def test_folder_that_is_no_store(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert line_of(tmp_path) == (
        "is a folder that no format knows (it holds notes.txt); give a file of it, or a session in zarr"
    )


def test_hdf5_that_is_no_nwb(tmp_path):
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["x"] = [1.0]
    assert line_of(tmp_path / "data.h5") == "is HDF5 but not NWB (no nwb_version); give an NWB file"


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.01])
def test_truncated_files(nwb, read, tmp_path, kept):
    read(with_units(nwb, [1.0]))
    path = tmp_path / "made.nwb"
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    assert line_of(path) == "is truncated; copy or download it again"


def test_damaged_data(nwb, read, tmp_path):
    read(with_units(nwb, [1.0]))
    path = tmp_path / "made.nwb"
    with h5py.File(path, "a") as file:
        del file["units/spike_times"]
        data = file.create_dataset("units/spike_times", data=np.arange(1.0), chunks=(1,), compression="gzip")
        data.attrs.update({"namespace": "hdmf-common", "neurodata_type": "VectorData", "description": "d"})
        data.attrs["object_id"] = "x"
        data.id.write_direct_chunk((0,), b"no gzip")
    assert "is a damaged NWB file (" in line_of(path)


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda f: f.pop("units"), "has no units table with rows; sort the spikes and add units to the file"),
        (
            lambda f: f["units/spike_times_index"].write_direct(np.array([2, 1], np.uint8)),
            "units: spike_times_index does not fit its 3 spike_times; write them anew",
        ),
        (
            lambda f: f["units/spike_times"].write_direct(np.array([1.0, 2.0, np.nan])),
            "units: 1 of 3 spikes, NaN or infinite spike_times in unit 1; give --drop-nan, in Python "
            "drop_nan, to leave these spikes out, or mend the file",
        ),
    ],
)
def test_units_that_cannot_be_used(nwb, read, tmp_path, damage, line):
    read(with_units(nwb, [1.0, 2.0], [3.0]))
    with h5py.File(tmp_path / "made.nwb", "a") as file:
        damage(file)
    assert line_of(tmp_path / "made.nwb") == line


def test_a_file_that_is_refused_is_not_read_to_its_end(nwb, read, tmp_path, monkeypatch):
    read(with_units(nwb, [1.0, 2.0], [3.0]))
    read_whole = []
    monkeypatch.setattr("ldmfilter.data.formats.nwb.path_checksum", lambda path: read_whole.append(path) or "sha256:0")
    with pytest.raises(InputError, match="has no series 'dff'"):
        read_session(tmp_path / "made.nwb", series="dff")
    assert read_whole == []
    assert read_session(tmp_path / "made.nwb").source.checksum == "sha256:0"


def test_units_without_spike_times(nwb, tmp_path, read):
    nwb.add_unit_column("snr", "d")
    nwb.add_unit(snr=1.0)
    with pytest.raises(InputError, match="units: no column spike_times; add the units' spike times to the file"):
        read(nwb)


def test_real_session(real_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = read_session(real_path)
    assert (session.n_units, session.n_spikes) == (31, 28_829)
    assert session.intervals["epochs"]["tags"].values[:, 0].tolist() == ["run", "rest"]
    led = session.behavior["processing/behavior/Position/led"]
    linear = session.behavior["processing/behavior/linear_position"]
    assert led.shape == (118_965, 2)
    np.testing.assert_array_equal(linear["time"], led["time"])
    assert linear.attrs["unit"] == "pixels"
    with h5py.File(real_path) as file:
        np.testing.assert_array_equal(session.spike_times, file["units/spike_times"][:])
    assert session.source.path == str(real_path)


def test_a_series_that_breaks_the_schema_is_left_out(nwb, read, tmp_path):
    with_units(nwb, [1.0])
    nwb.add_acquisition(TimeSeries(name="x", data=[1.0, 2.0], unit="m", timestamps=[0.0, 1.0]))
    read(nwb)
    with h5py.File(tmp_path / "made.nwb", "a") as file:
        del file["acquisition/x/timestamps"]
        file["acquisition/x/timestamps"] = [[0.0, 1.0], [2.0, 3.0]]
    with pytest.warns(UserWarning, match=r"acquisition/x: left out, does not follow the NWB schema \(.*timestamps"):
        session = read_session(tmp_path / "made.nwb")
    assert (session.behavior, session.n_spikes) == ({}, 1)
