"""NWB as labs write it: what comes in, what is warned about, what is refused. Files are written with pynwb."""

import json
import os
import pickle
import shutil
import stat
import warnings
from datetime import UTC, datetime

import h5py
import numpy as np
import pytest
from hdmf.build import BuildManager
from hdmf_zarr import NWBZarrIO
from pynwb import NWBHDF5IO, NWBFile, TimeSeries, get_type_map
from pynwb.base import TimeSeriesReference
from pynwb.behavior import (
    BehavioralEpochs,
    BehavioralTimeSeries,
    CompassDirection,
    EyeTracking,
    Position,
    PupilTracking,
    SpatialSeries,
)
from pynwb.epoch import TimeIntervals
from pynwb.misc import IntervalSeries
from pynwb.spec import NWBAttributeSpec, NWBGroupSpec, NWBNamespaceBuilder

import ldmfilter.data.formats.nwb
import ldmfilter.data.formats.nwb_open
from ldmfilter.data import read_session
from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.untrusted.plain_objects import read_objects
from ldmfilter.errors import InputError


@pytest.fixture
def path(tmp_path):
    return tmp_path / "made.nwb"


@pytest.fixture
def said(nwb, path):
    """Write and read the file, or read it again; the session and its warnings without the path."""

    def read_it(again=None):
        if again is None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # pynwb has its opinions on what is written here
                with NWBHDF5IO(path, "w") as io:
                    io.write(nwb)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            session = read_session(again or path)
        lines = [str(w.message) for w in caught if issubclass(w.category, UserWarning)]
        assert all(line.startswith(f"{again or path}: ") and "\n" not in line for line in lines)
        return session, [line.removeprefix(f"{again or path}: ") for line in lines]

    return read_it


def line_of(path):
    with pytest.raises(InputError) as caught:
        read_session(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def led(name, start=0.0, n=4, columns=2, unit="cm", **more):
    data = np.arange(float(n * columns)).reshape(n, columns)
    times = {} if "rate" in more else {"timestamps": start + np.arange(n) / 10}
    return SpatialSeries(name=name, data=data, unit=unit, reference_frame="r", **times, **more)


def module_of(nwb, name="behavior"):
    return nwb.create_processing_module(name, "d")


# Units


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, ">f8"])
def test_spike_times_of_any_number_type(nwb, said, path, dtype):
    nwb.add_unit(spike_times=[1.0, 2.0])
    nwb.add_unit(spike_times=[])
    nwb.add_unit(spike_times=[3.0])
    said()
    with h5py.File(path, "a") as file:
        attributes = dict(file["units/spike_times"].attrs)
        del file["units/spike_times"]
        file["units/spike_times"] = np.array([1, 2, 3], dtype)
        file["units/spike_times"].attrs.update(attributes)
    session, lines = said(path)
    assert lines == []
    assert session.spike_times.dtype == np.dtype("f8")
    assert [session.spikes_of(unit).tolist() for unit in range(3)] == [[1.0, 2.0], [], [3.0]]


def test_no_unit_fires(nwb, said):
    nwb.add_unit(spike_times=[])
    nwb.add_unit(spike_times=[])
    session, _ = said()
    assert (session.n_units, session.n_spikes) == (2, 0)


def test_ids_given_twice(nwb, said):
    for unit in (7, 7, 3):
        nwb.add_unit(spike_times=[1.0], id=unit)
    session, lines = said()
    assert session.units["unit"].values.tolist() == [0, 1, 2]
    assert session.units["id"].values.tolist() == [7, 7, 3]
    assert lines == ["units: ids are given twice; numbered 0 to 2, the file's own are the column `id`"]


def test_waveforms_are_never_read(nwb, said, path):
    for _ in range(2):
        nwb.add_unit(spike_times=[1.0, 2.0], waveforms=np.zeros((2, 3, 5)))
    session, _ = said()
    with h5py.File(path, "a") as file:
        assert "waveforms_index_index" in file["units"]
        attributes = dict(file["units/waveforms"].attrs)
        shape = file["units/waveforms"].shape
        del file["units/waveforms"]
        broken = file.create_dataset("units/waveforms", shape, "f4", chunks=shape, compression="gzip")
        broken.attrs.update(attributes)
        broken.id.write_direct_chunk((0,) * len(shape), b"reading this fails")
    session, lines = said(path)
    assert (session.n_spikes, list(session.units), lines) == (4, [], [])


def test_columns_as_archives_have_them(nwb, said):
    columns = {"quality": "good", "presence_ratio": 0.9, "ibl_quality_score": 1.0, "heldout": True, "cell_type": "pyr"}
    for name in columns:
        nwb.add_unit_column(name, name)
    for _ in range(2):
        nwb.add_unit(spike_times=[1.0], **columns)
    session, _ = said()
    for name, value in columns.items():
        assert session.units[name].values.tolist() == [value] * 2


def test_a_column_that_cannot_be_read_is_left_out(nwb, said, path):
    nwb.add_unit_column("snr", "d")
    nwb.add_unit(spike_times=[1.0], snr=1.0)
    said()
    with h5py.File(path, "a") as file:
        attributes = dict(file["units/snr"].attrs)
        del file["units/snr"]
        file["units/snr"] = [1.0]
        file["units/snr"].attrs.update({**attributes, "neurodata_type": "NoSuchData"})
    session, lines = said(path)
    assert list(session.units) == []
    assert lines == [
        "units/snr: left out, its type NoSuchData is unknown to hdmf-common; "
        "`pip install --upgrade hdmf-common` and read it again"
    ]


@pytest.mark.parametrize(
    ("name", "values", "line"),
    [
        ("spike_times", ["a", "b"], "units: spike_times are no list of numbers a unit; write them anew"),
        ("obs_intervals", [1.0, 2.0], "units: obs_intervals are no (start, stop) of each unit; write them anew"),
        ("obs_intervals_index", [9], "units: obs_intervals are no (start, stop) of each unit; write them anew"),
    ],
)
def test_units_of_a_wrong_type(nwb, said, path, name, values, line):
    nwb.add_unit(spike_times=[1.0, 2.0], obs_intervals=[[0.0, 1.0], [2.0, 3.0]])
    said()
    with h5py.File(path, "a") as file:
        reference = file["units/obs_intervals"].ref
        attributes = {k: v for k, v in file["units"][name].attrs.items() if k != "target"}
        del file["units"][name]
        file["units"][name] = values
        file["units"][name].attrs.update(attributes)
        if name == "obs_intervals_index":
            file["units"][name].attrs["target"] = reference
        else:
            file["units"][f"{name}_index"].attrs["target"] = file["units"][name].ref
    assert line_of(path) == line


# When units were observed


def test_unobserved_is_not_silent(nwb, said):
    nwb.add_unit(spike_times=[0.5, 5.5, 9.5], obs_intervals=[[0.0, 2.0], [5.0, 10.0]])
    nwb.add_unit(spike_times=[0.5, 9.5], obs_intervals=[[0.0, 10.0]])
    nwb.add_unit(spike_times=[0.5, 9.5], obs_intervals=[[0.0, 10.0]])
    session, lines = said()
    assert lines == []
    counts = bin_spikes(session, 1.0, [(0.0, 10.0)])
    assert counts["unit_observed"].values[:, 0].tolist() == [True] * 2 + [False] * 3 + [True] * 5
    assert counts["unit_observed"].values[:, 1:].all()
    np.testing.assert_allclose(session.rates, [3 / 7, 0.2, 0.2])


def test_units_whose_row_of_obs_intervals_is_empty(nwb, said):
    nwb.add_unit(spike_times=[1.0], obs_intervals=[[0.0, 10.0]])
    nwb.add_unit(spike_times=[2.0, 9.0], obs_intervals=np.empty((0, 2)))
    nwb.add_unit(spike_times=[], obs_intervals=np.empty((0, 2)))
    session, lines = said()
    assert lines == ["units: 1 units with spikes have no obs_intervals, taken as observed throughout"]
    np.testing.assert_allclose(session.rates, [0.1, 0.2, 0.0])
    assert session.observed.of(2).size == 0


def test_invalid_times(nwb, said):
    nwb.add_unit(spike_times=[0.5, 4.5, 9.0], obs_intervals=[[0.0, 5.0], [6.0, 10.0]])
    nwb.add_unit(spike_times=[1.0], obs_intervals=[[0.0, 10.0]])
    nwb.add_invalid_time_interval(start_time=4.0, stop_time=7.0)
    nwb.add_invalid_time_interval(start_time=6.0, stop_time=8.0)
    session, lines = said()
    assert lines == ["invalid_times: 1 stretches, 4 s in all, taken as not observed for any unit"]
    assert session.observed.of(0).tolist() == [[0.0, 4.0], [8.0, 10.0]]
    assert session.observed.of(1).tolist() == [[0.0, 4.0], [8.0, 10.0]]
    counts = bin_spikes(session, 1.0, [(0.0, 10.0)])
    assert counts["observed"].values.tolist() == [True] * 4 + [False] * 4 + [True] * 2


def test_invalid_times_alone(nwb, said):
    nwb.add_unit(spike_times=[0.0, 10.0])
    nwb.add_invalid_time_interval(start_time=2.0, stop_time=3.0)
    session, _ = said()
    counts = bin_spikes(session, 1.0)
    assert np.flatnonzero(~counts["observed"].values).tolist() == [2]
    assert (session.start, session.stop) == (0.0, 10.0)
    np.testing.assert_allclose(session.rates, [2 / 9])


def test_spikes_outside_obs_intervals_are_told(nwb, said):
    nwb.add_unit(spike_times=[0.5, 4.5, 9.0], obs_intervals=[[0.0, 5.0]])
    nwb.add_unit(spike_times=[1.0], obs_intervals=[[0.0, 5.0]])
    _, lines = said()
    assert lines == ["units: 1 of 4 spikes lie outside their units' obs_intervals; not used"]


def test_many_rows_of_obs_intervals(nwb, said):
    edges = np.arange(20_000.0).reshape(-1, 2)
    for unit in range(20):
        nwb.add_unit(spike_times=[unit + 0.5], obs_intervals=edges)
    session, _ = said()
    assert session.observed.intervals.shape == (200_000, 2)
    np.testing.assert_array_equal(session.observed.of(19), edges)


# Times of behaviour


def test_timestamps_that_step_back_repeat_or_are_nan(nwb, said):
    nwb.add_unit(spike_times=[1.0])
    times = [0.0, 0.2, 0.1, 0.2, np.nan, 0.5]
    nwb.add_acquisition(TimeSeries(name="x", data=np.arange(6.0), unit="m", timestamps=times))
    session, lines = said()
    assert lines == [
        "acquisition/x: left out 1 of 6 samples, their timestamps are NaN or infinite",
        "acquisition/x: timestamps step back 1 times, samples put in order",
    ]
    x = session.behavior["acquisition/x"]
    assert x["time"].values.tolist() == [0.0, 0.1, 0.2, 0.2, 0.5]
    assert x.values.tolist() == [0.0, 2.0, 1.0, 3.0, 5.0]


def test_starting_time_and_rate(nwb, said):
    nwb.add_unit(spike_times=[1.0])
    nwb.add_acquisition(TimeSeries(name="x", data=np.arange(3), unit="m", starting_time=5.0, rate=2.0))
    session, _ = said()
    np.testing.assert_array_equal(session.behavior["acquisition/x"]["time"], [5.0, 5.5, 6.0])
    assert session.behavior["acquisition/x"].attrs["rate"] == 2.0


def test_two_rows_of_timestamps(nwb, said, path):
    nwb.add_unit(spike_times=[1.0])
    nwb.add_acquisition(TimeSeries(name="good", data=[1.0, 2.0], unit="m", rate=1.0))
    nwb.add_acquisition(TimeSeries(name="ends", data=np.zeros(3), unit="m", timestamps=[0.0, 1.0, 2.0]))
    nwb.add_acquisition(TimeSeries(name="rows", data=np.zeros(3), unit="m", timestamps=[0.0, 1.0, 2.0]))
    said()
    with h5py.File(path, "a") as file:
        del file["acquisition/ends/timestamps"], file["acquisition/rows/timestamps"]
        file["acquisition/ends/timestamps"] = [0.0, 2.0]
        file["acquisition/rows/timestamps"] = np.zeros((2, 3))
    session, lines = said(path)
    assert list(session.behavior) == ["acquisition/good"]
    assert lines[0].startswith("acquisition/rows: left out, does not follow the NWB schema (")
    assert lines[1:] == ["acquisition/ends: left out, its timestamps (2,) do not fit its data (3,)"]


def test_values_that_say_nothing(nwb, said):
    nwb.add_unit(spike_times=[1.0])
    nwb.add_acquisition(TimeSeries(name="nan", data=np.full(3, np.nan), unit="m", rate=1.0))
    nwb.add_acquisition(TimeSeries(name="lost", data=[1.0, -1.0, 2.0], unit="m", rate=1.0))
    session, lines = said()
    assert np.isnan(session.behavior["acquisition/nan"]).all()
    assert session.behavior["acquisition/lost"].values.tolist() == [1.0, -1.0, 2.0]
    assert lines == []


def test_conversion_and_offset(nwb, said):
    nwb.add_unit(spike_times=[1.0])
    data = np.array([1, 2], np.int16)
    nwb.add_acquisition(TimeSeries(name="x", data=data, unit="m", rate=1.0, conversion=0.01, offset=5.0))
    nwb.add_acquisition(TimeSeries(name="y", data=data, unit="m", rate=1.0, conversion=np.nan, offset=np.nan))
    session, lines = said()
    np.testing.assert_allclose(session.behavior["acquisition/x"], [5.01, 5.02])
    np.testing.assert_array_equal(session.behavior["acquisition/y"], [1, 2])
    assert lines == ["acquisition/y: conversion is NaN, taken as 1", "acquisition/y: offset is NaN, taken as 0"]


# Where behaviour lies


@pytest.mark.filterwarnings("ignore:SpatialSeries")
def test_every_container(nwb, said):
    nwb.add_unit(spike_times=[1.0])
    module = module_of(nwb)
    module.add(Position(name="1.6mLinearMazePosition", spatial_series=led("1.6mLinearMazeSpatialSeries")))
    module.add(CompassDirection(spatial_series=led("head", columns=1, unit="radians")))
    module.add(BehavioralTimeSeries(time_series=TimeSeries(name="speed", data=[1.0, 2.0], unit="m/s", rate=1.0)))
    module.add(PupilTracking(time_series=TimeSeries(name="area", data=[1.0, 2.0], unit="px", rate=1.0)))
    module.add(EyeTracking(spatial_series=led("gaze")))
    module.add(led("hand_pos", unit="mm"))
    module_of(nwb, "running").add(TimeSeries(name="running_speed", data=[1.0, 2.0], unit="cm/s", rate=1.0))
    module_of(nwb, "wheel").add(TimeSeries(name="wheel_position", data=[1.0, 2.0], unit="rad", rate=1.0))
    nwb.add_acquisition(Position(name="tracker", spatial_series=led("body", columns=4)))
    nwb.add_acquisition(led("eight", columns=8))
    nwb.add_acquisition(led("flat", columns=1))
    nwb.add_analysis(TimeSeries(name="linear", data=[1.0, 2.0], unit="cm", rate=1.0))
    session, lines = said()
    assert {name: series.shape for name, series in session.behavior.items()} == {
        "processing/behavior/1.6mLinearMazePosition/1.6mLinearMazeSpatialSeries": (4, 2),
        "processing/behavior/CompassDirection/head": (4,),
        "processing/behavior/BehavioralTimeSeries/speed": (2,),
        "processing/behavior/PupilTracking/area": (2,),
        "processing/behavior/EyeTracking/gaze": (4, 2),
        "processing/behavior/hand_pos": (4, 2),
        "processing/running/running_speed": (2,),
        "processing/wheel/wheel_position": (2,),
        "acquisition/tracker/body": (4, 4),
        "acquisition/eight": (4, 8),
        "acquisition/flat": (4,),
        "analysis/linear": (2,),
    }
    assert session.behavior["processing/behavior/hand_pos"].attrs["unit"] == "mm"
    assert lines == []


def test_one_series_for_each_epoch(nwb, said):
    nwb.add_unit(spike_times=[1.0])
    module = module_of(nwb)
    module.add(Position(spatial_series=[led("epoch 2", start=10.0), led("epoch 1"), led("epoch 3", start=20.0)]))
    module.add(Position(name="LEDs", spatial_series=[led("red"), led("blue")]))
    module.add(Position(name="Units", spatial_series=[led("cm"), led("px", start=9.0, unit="px")]))
    session, _ = said()
    names = [f"processing/behavior/Position/epoch {n}" for n in (1, 2, 3)]
    whole = session.behavior["processing/behavior/Position"]
    np.testing.assert_array_equal(whole["time"], np.concatenate([session.behavior[n]["time"] for n in names]))
    np.testing.assert_array_equal(whole, np.concatenate([session.behavior[n] for n in names]))
    assert whole.attrs["description"] == "3 series, one after the other: epoch 1, epoch 2, epoch 3"
    assert not {"processing/behavior/LEDs", "processing/behavior/Units"} & set(session.behavior)


def test_linked_series(nwb, said, path):
    nwb.add_unit(spike_times=[1.0])
    original = led("led", conversion=2.0)
    nwb.add_acquisition(original)
    module = module_of(nwb)
    module.add(Position(spatial_series=original))  # the series itself, by a link
    module.add(TimeSeries(name="linear", data=np.arange(4.0), unit="cm", timestamps=original))
    module.add(TimeSeries(name="again", data=original, unit="cm", timestamps=original))
    session, lines = said()
    assert set(session.behavior) == {
        "acquisition/led",
        "processing/behavior/linear",
        "processing/behavior/again",
    }
    # The factor belongs to the values that both share.
    np.testing.assert_array_equal(session.behavior["processing/behavior/again"], 2 * original.data)
    np.testing.assert_array_equal(session.behavior["acquisition/led"], 2 * original.data)
    np.testing.assert_array_equal(session.behavior["processing/behavior/linear"]["time"], [0, 0.1, 0.2, 0.3])
    assert lines == []


def test_series_in_another_file(nwb, said, path, tmp_path):
    other = NWBFile("the other", "other", datetime(2020, 1, 1, tzinfo=UTC))
    other.add_acquisition(led("led"))
    with NWBHDF5IO(tmp_path / "other.nwb", "w") as io:
        io.write(other)
    nwb.add_unit(spike_times=[1.0])
    module_of(nwb).add(Position())
    said()
    with h5py.File(path, "a") as file:
        file["processing/behavior/Position/led"] = h5py.ExternalLink("other.nwb", "/acquisition/led")
    session, lines = said(path)
    np.testing.assert_array_equal(session.behavior["processing/behavior/Position/led"], led("led").data)
    assert lines == []
    (tmp_path / "other.nwb").unlink()
    session, lines = said(path)
    assert session.behavior == {}
    assert lines == [
        "processing/behavior/Position/led: left out, a link that leads nowhere; put the linked file beside this one"
    ]


def test_what_is_too_large_is_named(nwb, said, monkeypatch):
    nwb.add_unit(spike_times=[1.0])
    for name in ("a", "b", "c"):
        nwb.add_acquisition(TimeSeries(name=name, data=np.zeros(60), unit="V", rate=1.0))
    nwb.add_acquisition(TimeSeries(name="huge", data=np.zeros(101), unit="V", rate=1.0))
    monkeypatch.setattr(ldmfilter.data.formats.nwb, "_MOST_VALUES", 100)
    monkeypatch.setattr(ldmfilter.data.formats.nwb, "_MOST_IN_ALL", 130)
    session, lines = said()
    assert list(session.behavior) == ["acquisition/a", "acquisition/b"]
    assert lines == ["2 series left out, too large for behaviour: acquisition/c, acquisition/huge"]


def test_series_of_text_are_no_behaviour(nwb, said):
    nwb.add_unit(spike_times=[1.0])
    nwb.add_acquisition(TimeSeries(name="words", data=["a", "b"], unit="n/a", rate=1.0))
    session, lines = said()
    assert (session.behavior, lines) == ({}, [])


# Intervals


def test_interval_tables_of_any_name_and_place(nwb, said):
    nwb.add_unit(spike_times=[1.0])
    series = TimeSeries(name="x", data=[1.0, 2.0], unit="m", rate=1.0)
    nwb.add_acquisition(series)
    reference = TimeSeriesReference(0, 2, series)
    for name, place in (
        ("epoch intervals", nwb.add_time_intervals),
        ("stages", nwb.add_acquisition),
        ("ripples", module_of(nwb, "ecephys").add),
        ("empty", nwb.add_analysis),
    ):
        table = TimeIntervals(name=name, description="d")
        if name != "empty":
            table.add_row(start_time=1.0, stop_time=np.nan, tags=["a b", "c"], timeseries=[reference])
            table.add_row(start_time=2.0, stop_time=3.0, tags=[], timeseries=[])
        place(table)
    session, lines = said()
    assert set(session.intervals) == {
        "epoch intervals",
        "acquisition/stages",
        "processing/ecephys/ripples",
        "analysis/empty",
    }
    for table in list(session.intervals.values())[:3]:
        assert table["tags"].values.tolist() == [["a b", "c"], ["", ""]]
        np.testing.assert_array_equal(table["stop_time"], [np.nan, 3.0])
    assert session.intervals["analysis/empty"].sizes["interval"] == 0
    assert lines == []


def test_interval_series(nwb, said):
    nwb.add_unit(spike_times=[1.0])
    marks = IntervalSeries(name="run", data=np.array([1, -1, 2, 1, -2], np.int8), timestamps=[0.0, 1.0, 2.0, 3.0, 4.0])
    module_of(nwb).add(BehavioralEpochs(interval_series=marks))
    session, _ = said()
    table = session.intervals["processing/behavior/BehavioralEpochs/run"]
    assert table["start_time"].values.tolist() == [0.0, 2.0, 3.0]
    np.testing.assert_array_equal(table["stop_time"], [1.0, 4.0, np.nan])
    assert table["kind"].values.tolist() == [1, 2, 1]


def test_a_table_that_does_not_fit_is_left_out(nwb, said, path):
    nwb.add_unit(spike_times=[1.0])
    nwb.add_epoch(0.0, 1.0, ["run"])
    nwb.add_trial(start_time=0.0, stop_time=1.0)
    said()
    with h5py.File(path, "a") as file:
        attributes = dict(file["intervals/trials/stop_time"].attrs)
        del file["intervals/trials/stop_time"]
        file["intervals/trials/stop_time"] = ["never"]
        file["intervals/trials/stop_time"].attrs.update(attributes)
    session, lines = said(path)
    assert list(session.intervals) == ["epochs"]
    assert len(lines) == 1
    assert lines[0].startswith("intervals/trials: left out, cannot be read (")


# Extensions


@pytest.fixture
def extension(tmp_path, monkeypatch):
    """An extension that is not installed: types of its own, known to the writer only."""
    folder = tmp_path / "spec"
    folder.mkdir()
    builder = NWBNamespaceBuilder("a lab's types", "ndx-lab", version="0.1.0", author="a", contact="c")
    builder.include_namespace("core")
    tilted = NWBGroupSpec(
        neurodata_type_def="TiltSeries",
        neurodata_type_inc="SpatialSeries",
        doc="d",
        attributes=[NWBAttributeSpec("tilt", "t", "float")],
    )
    builder.add_spec("ndx-lab.extensions.yaml", tilted)
    builder.export("ndx-lab.namespace.yaml", outdir=str(folder))
    return folder


@pytest.fixture
def write_extended(nwb, path, extension):
    def write(cache_spec):
        types = get_type_map()
        types.load_namespaces(str(extension / "ndx-lab.namespace.yaml"))
        tilted = types.get_dt_container_cls("TiltSeries", "ndx-lab")
        nwb.add_unit(spike_times=[1.0])
        module = module_of(nwb)
        module.add(
            Position(
                spatial_series=tilted(name="led", data=np.ones((3, 2)), rate=1.0, reference_frame="r", tilt=1.0),
            )
        )
        module.add(TimeSeries(name="speed", data=[1.0, 2.0], unit="m/s", rate=1.0))
        with NWBHDF5IO(path, "w", manager=BuildManager(types)) as io:
            io.write(nwb, cache_spec=cache_spec)

    return write


def test_extension_whose_specification_the_file_holds(write_extended, said, path):
    write_extended(cache_spec=True)
    session, lines = said(path)
    assert session.behavior["processing/behavior/Position/led"].shape == (3, 2)
    assert lines == []


NEEDED = (
    "processing/behavior/Position/led: left out, needs the extension ndx-lab; `pip install ndx-lab` and read it again"
)


def test_extension_that_nobody_describes(write_extended, said, path):
    write_extended(cache_spec=False)
    session, lines = said(path)
    assert list(session.behavior) == ["processing/behavior/speed"]
    assert lines == [NEEDED]


@pytest.mark.parametrize("content", ["no JSON", "[]", '{"groups": 1}'])
def test_extension_whose_specification_is_damaged(write_extended, said, path, content):
    write_extended(cache_spec=True)
    with h5py.File(path, "a") as file:
        group = file["specifications/ndx-lab/0.1.0"]
        del group["ndx-lab.extensions"]
        group["ndx-lab.extensions"] = content
    session, lines = said(path)
    assert list(session.behavior) == ["processing/behavior/speed"]
    assert any("ndx-lab" in line or "TiltSeries" in line for line in lines)


def test_extension_that_is_installed(write_extended, said, path, extension, tmp_path, monkeypatch):
    write_extended(cache_spec=False)
    site = tmp_path / "site"
    info = site / "ndx_lab-0.1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: ndx-lab\nVersion: 0.1.0\n")
    package = site / "ndx_lab"
    shutil.copytree(extension, package / "spec")
    (package / "__init__.py").write_text("raise RuntimeError('an extension was run')\n")
    files = [p.relative_to(site) for p in site.rglob("*") if p.is_file()]
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in files))
    monkeypatch.syspath_prepend(site)
    session, lines = said(path)
    assert session.behavior["processing/behavior/Position/led"].shape == (3, 2)
    assert lines == []


def test_units_of_an_unknown_type_are_refused(nwb, said, path):
    nwb.add_unit(spike_times=[1.0])
    said()
    with h5py.File(path, "a") as file:
        file["units"].attrs.update({"namespace": "ndx-units", "neurodata_type": "MyUnits"})
    assert line_of(path) == "units: needs the extension ndx-units; `pip install ndx-units` and read it again"


def test_a_specification_runs_nothing(nwb, said, path, tmp_path):
    """Instructions that a reader of YAML would run are plain text to a reader of JSON."""
    nwb.add_unit(spike_times=[1.0])
    said()
    proof = tmp_path / "ran"
    with h5py.File(path, "a") as file:
        core = next(iter(file["specifications/core"].values()))
        for name in list(core):
            del core[name]
            core[name] = f"!!python/object/apply:os.system ['touch {proof}']"
    session, lines = said(path)
    assert session.n_spikes == 1
    assert len(lines) == 1
    assert not proof.exists()


# Files


def test_nwb_1(path):
    with h5py.File(path, "w") as file:
        file["nwb_version"] = "NWB-1.0.6"
    assert line_of(path) == "is NWB 1.0.6, NWB 2 or later is read; convert it first"


def test_read_only_files_and_links(nwb, said, path, tmp_path):
    nwb.add_unit(spike_times=[1.0])
    said()
    path.chmod(stat.S_IRUSR)
    link = tmp_path / "link.nwb"
    link.symlink_to(path.name)
    tmp_path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    try:
        session, lines = said(link)
    finally:
        tmp_path.chmod(stat.S_IRWXU)
    assert (session.n_spikes, session.source.path, lines) == (1, str(link), [])


def test_a_file_that_another_program_writes(nwb, said, path):
    fcntl = pytest.importorskip("fcntl")
    nwb.add_unit(spike_times=[1.0])
    said()
    with path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert line_of(path) == "is open in a program that writes to it; close it there"


def test_too_many_broken_objects(nwb, said, path, monkeypatch):
    monkeypatch.setattr(ldmfilter.data.formats.nwb_open, "_MOST_BROKEN", 3)
    nwb.add_unit(spike_times=[1.0])
    for n in range(4):
        nwb.add_acquisition(TimeSeries(name=f"x{n}", data=[1.0], unit="m", timestamps=[0.0]))
    said()
    with h5py.File(path, "a") as file:
        for n in range(4):
            del file[f"acquisition/x{n}/timestamps"]
            file[f"acquisition/x{n}/timestamps"] = [[0.0]]
    assert line_of(path).startswith("does not follow the NWB schema (acquisition/x")


# NWB in zarr


@pytest.fixture
def write_zarr(tmp_path):
    def write(nwb, name="made.nwb.zarr", **more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with NWBZarrIO(str(tmp_path / name), mode="w", **more) as io:
                io.write(nwb)
        return tmp_path / name

    return write


def full(nwb):
    group = nwb.create_electrode_group(name="shank 1", description="d", location="CA1", device=nwb.create_device("p"))
    nwb.add_unit_column("quality", "q")
    for n in range(3):
        nwb.add_unit(
            spike_times=np.arange(n + 1.0), obs_intervals=[[0.0, 9.0]], quality=f"good {n}", electrode_group=group
        )
    tracked = led("led")
    nwb.add_acquisition(tracked)
    nwb.add_epoch(0.0, 5.0, ["run", "box"], [tracked])
    module_of(nwb).add(TimeSeries(name="linear", data=np.arange(4.0), unit="cm", timestamps=tracked))
    return nwb


@pytest.mark.parametrize("codec", ["plain", "objects"])
def test_zarr_reads_as_hdf5(nwb, read, said, write_zarr, monkeypatch, codec):
    here = read(full(nwb))
    second = NWBFile("made to measure", "made-to-measure", datetime(2020, 1, 1, tzinfo=UTC), session_id="m1")
    # Before it writes an array of references, numcodecs wants to be told that it may read one.
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", True)
    if codec == "plain":
        import numcodecs

        path = write_zarr(full(second), object_codec_class=numcodecs.JSON)
    else:
        path = write_zarr(full(second))
        written = json.loads((path / "units/electrode_group/.zarray").read_text())
        assert written["filters"][0]["id"] == "pickle"
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", False)
    session, lines = said(path)
    assert lines == []
    np.testing.assert_array_equal(session.spike_times, here.spike_times)
    np.testing.assert_array_equal(session.spike_times_index, here.spike_times_index)
    np.testing.assert_array_equal(session.observed.intervals, here.observed.intervals)
    assert session.units.identical(here.units)
    assert session.units["electrode_group"].values.tolist() == ["shank 1"] * 3
    assert session.intervals["epochs"].identical(here.intervals["epochs"])
    assert set(session.behavior) == set(here.behavior) == {"acquisition/led", "processing/behavior/linear"}
    for name, series in here.behavior.items():
        assert session.behavior[name].identical(series)
    assert session.source.identifier == here.source.identifier
    assert session.source.checksum.startswith("sha256:")


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, proof):
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


@pytest.mark.parametrize("allowed", [False, True])
def test_objects_that_run_code_are_refused(nwb, said, write_zarr, tmp_path, monkeypatch, allowed):
    nwb.add_unit_column("quality", "q")
    nwb.add_unit(spike_times=[1.0], quality="good")
    path = write_zarr(nwb)
    proof = tmp_path / "ran"
    # Even where the whole process allows it.
    monkeypatch.setattr("numcodecs.pickles.ALLOW_UNSAFE_PICKLE_DECODE", allowed)
    metadata = path / "units/quality/.zarray"
    described = json.loads(metadata.read_text())
    described |= {"filters": [{"id": "pickle", "protocol": 5}], "compressor": None, "fill_value": None}
    metadata.write_text(json.dumps(described))
    (path / ".zmetadata").unlink()
    (path / "units/quality/0").write_bytes(pickle.dumps(np.array([Evil(proof)], dtype=object)))
    session, lines = said(path)
    assert lines == [
        "units/quality: left out, cannot be read (objects are refused, they might run code (a call of posix.system))"
    ]
    assert session.n_spikes == 1
    assert not proof.exists()


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_objects_are_read_as_they_were_written(protocol):
    array = np.array([["a", None, 1.5], [b"x", True, {"path": "/p", "n": [1, 2**70]}]], dtype=object)
    for order in ("C", "F"):
        made = read_objects(pickle.dumps(np.asarray(array, order=order), protocol))
        assert made.tolist() == array.tolist()
    assert read_objects(pickle.dumps((0, "b", ("c",)), protocol)) == (0, "b", ("c",))


@pytest.mark.parametrize(
    "program",
    [
        pickle.dumps(Evil("nothing")),
        pickle.dumps(np.arange(3)),
        pickle.dumps(np.array(["a"], dtype=object))[:-9],
        pickle.dumps({1, 2}),
        pickle.dumps(warnings.warn),
        b"",
        b"\x80\x05N0.",
        b"cos\nsystem\n(S'touch nothing'\ntR.",
    ],
)
def test_other_programs_are_refused(program):
    with pytest.raises(ValueError, match="objects are refused"):
        read_objects(program)


def test_zarr_that_is_no_nwb_after_all(nwb, write_zarr, tmp_path):
    path = write_zarr(nwb)
    assert line_of(path) == "has no units table with rows; sort the spikes and add units to the file"
    shutil.rmtree(path / "identifier")
    (path / ".zmetadata").unlink()
    assert line_of(path).startswith("does not follow the NWB schema (root: ")
