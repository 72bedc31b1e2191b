"""Recordings in memory give the counts that they give from arrays, whatever package they are of."""

import warnings
from datetime import UTC, datetime

import numpy as np
import pytest
import xarray as xr

from ldmfilter import as_session, bin_spikes, from_signal
from ldmfilter.data.prepare import as_counts
from ldmfilter.errors import InputError

TRAINS = {3: np.array([0.05, 0.06, 0.31, 0.95]), 7: np.array([0.11, 0.52])}
#: In bins of 0.1 s from 0, counted by hand.
COUNTS = np.array([[2, 0, 0, 1, 0, 0, 0, 0, 0, 1], [0, 1, 0, 0, 0, 1, 0, 0, 0, 0]]).T
SPAN = [(0.0, 1.0)]


def group():
    nap = pytest.importorskip("pynapple")
    trains = {unit: nap.Ts(times) for unit, times in TRAINS.items()}
    return nap.TsGroup(trains, time_support=nap.IntervalSet(0.0, 1.0))


def sorting():
    si = pytest.importorskip("spikeinterface.core")
    samples, units = np.concatenate(list(TRAINS.values())), np.repeat([3, 7], [4, 2])
    order = np.argsort(samples)
    return si.NumpySorting.from_samples_and_labels([np.round(1e4 * samples[order]).astype(int)], [units[order]], 1e4)


def file(**more):
    pynwb = pytest.importorskip("pynwb")
    nwb = pynwb.NWBFile("made", "made-1", datetime(2026, 1, 1, tzinfo=UTC))
    for unit, times in TRAINS.items():
        nwb.add_unit(id=unit, spike_times=times, obs_intervals=SPAN)
    nwb.add_epoch(0.0, 0.5, tags=["run"])
    nwb.create_processing_module("behavior", "made").add(
        pynwb.TimeSeries(name="place", data=np.arange(50.0), unit="cm", rate=50.0, starting_time=0.0)
    )
    return nwb


@pytest.mark.parametrize("make", [lambda: TRAINS, group, sorting, file])
def test_spikes(make):
    counts = bin_spikes(make(), 0.1, SPAN)
    np.testing.assert_array_equal(counts, COUNTS)
    assert counts["unit"].values.tolist() == [3, 7]
    assert as_counts(make()).sizes["unit"] == 2


def test_a_file_in_memory_keeps_what_it_holds():
    session = as_session(file())
    assert session.source.identifier == "made-1"
    assert session.intervals["epochs"]["tags"].values.tolist() == [["run"]]
    np.testing.assert_array_equal(session.behavior["processing/behavior/place"], np.arange(50.0))


@pytest.mark.parametrize("labels", [False, True])
def test_counts(labels):
    table = xr.DataArray(COUNTS, dims=("time", "unit")) if labels else COUNTS
    for counts in (bin_spikes(table, 0.1), as_counts(table, 0.1)):
        np.testing.assert_array_equal(counts, COUNTS)
        np.testing.assert_allclose(counts["time"], np.arange(10) * 0.1 + 0.05)
    with pytest.raises(InputError, match="does not say how long a bin or frame is"):
        as_counts(table)


def test_counts_that_know_their_bins_are_joined():
    table = xr.DataArray(COUNTS, dims=("time", "unit"), coords={"time": np.arange(10) * 0.1 + 0.05})
    np.testing.assert_array_equal(bin_spikes(table, 0.2), COUNTS.reshape(5, 2, 2).sum(1))
    assert as_counts(table).attrs["bin_size"] == pytest.approx(0.1)


@pytest.mark.parametrize("thing", ["session.nwb", 3, [1, 2], None])
def test_other_things_are_refused(thing):
    with pytest.raises(InputError, match=r"^memory: a \w+ is no recording; give a session"):
        as_session(thing)


def test_objects_without_units_are_refused():
    nap, core = pytest.importorskip("pynapple"), pytest.importorskip("spikeinterface.core")
    for thing in (nap.Ts(np.arange(3.0)), core.NumpyRecording(np.zeros((10, 2)), 1e4)):
        with pytest.raises(InputError, match=r"^memory: a \w+ of \w+ (holds|has) no units"):
            as_session(thing)


def test_a_turned_array_and_a_rate_in_place_of_a_length_are_told():
    with pytest.warns(UserWarning, match=r"20 bins of 2000 units; the array is read as \(time, unit\): is it turned\?"):
        as_session(np.ones((20, 2000), int), 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        as_session(np.ones((20, 60), int), 0.1)  # a short piece
    with pytest.warns(UserWarning, match="20 bins of 2000 channels"):
        from_signal(np.random.default_rng(0).normal(size=(20, 2000)), 0.1)
    with pytest.warns(UserWarning, match="frames of 30 s; give the length of a frame in seconds"):
        from_signal(np.random.default_rng(0).normal(size=(200, 2)), 30)
