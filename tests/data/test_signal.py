"""Sessions of a signal: their clock, bins, files and faults."""

import re
import shutil
from datetime import UTC, datetime

import h5py
import numpy as np
import pytest
import xarray as xr
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.behavior import BehavioralTimeSeries, SpatialSeries
from pynwb.ophys import DfOverF, ImageSegmentation, PlaneSegmentation, RoiResponseSeries
from pynwb.testing.mock.ophys import mock_ImagingPlane

from ldmfilter import bin_spikes, from_signal, read_session
from ldmfilter.config import DataConfig
from ldmfilter.data.clocks import Reading
from ldmfilter.data.counts import check_counts
from ldmfilter.data.frames import apart, sum_frames
from ldmfilter.data.prepare import prepare
from ldmfilter.data.signal import SignalSession
from ldmfilter.data.simulate import calcium_session, linear_track_session
from ldmfilter.errors import InputError, InputWarning

PATH = "processing/ophys/DfOverF"
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(400, 3)).astype(np.float32)
TIME = 10 + np.arange(400) / 30


def series(values=VALUES, time=TIME, ids="abc") -> xr.DataArray:
    return xr.DataArray(values, {"time": time, "roi": list(ids)}, ("time", "roi"), name="dff")


def line_of(function, *args, **kwargs) -> str:
    with pytest.raises(InputError) as error:
        function(*args, **kwargs)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_frames_are_bins():
    session = from_signal(series())
    signal = bin_spikes(session, session.bin_size)
    assert session.bin_size == pytest.approx(1 / 30)
    np.testing.assert_allclose(signal["time"], TIME, atol=1e-6)
    np.testing.assert_array_equal(signal, VALUES)
    assert signal.attrs["kind"] == "signal"
    assert signal["observed"].all()
    assert signal["unit"].values.tolist() == list("abc")


def test_larger_bins_average_frames():
    signal = bin_spikes(from_signal(series()), 0.2, [(11.0, 15.0)])
    inside = (TIME >= 12.0) & (TIME < 12.2)
    np.testing.assert_allclose(signal[5], VALUES[inside].mean(0), rtol=1e-5)
    assert inside.sum() == 6
    assert signal.sizes["time"] == 20


def test_clock_that_jitters_drops_frames_and_pauses():
    kept = np.r_[0:100, 103:200, 260:400]
    session = from_signal(series(VALUES[kept], (TIME + RNG.uniform(-0.008, 0.008, 400))[kept]))
    signal = bin_spikes(session, session.bin_size)
    assert len(session.stretches) == 2
    assert len(np.unique(signal["segment"])) == 2
    seen = signal["observed"].values
    np.testing.assert_array_equal(signal.values[seen], VALUES[kept])
    assert np.flatnonzero(~seen).tolist() == [100, 101, 102]
    assert np.abs(signal["time"].values[seen] - TIME[kept]).max() < 0.02


def test_missing_frames_and_channels():
    values = VALUES.copy()
    values[50:60] = np.nan
    values[100:110, 1] = np.nan
    signal = check_counts(bin_spikes(from_signal(series(values)), 1 / 30))
    assert np.flatnonzero(~signal["observed"].values).tolist() == list(range(50, 60))
    assert (~signal["unit_observed"].values[:, 1]).sum() == 20
    assert signal.dtype == np.float32
    assert np.isfinite(signal).all()
    # Half of a bin of two frames is enough.
    values[150] = np.nan
    halves = bin_spikes(from_signal(series(values)), 2 / 30)
    np.testing.assert_array_equal(halves[75], values[151])
    seen = np.where(signal["unit_observed"], signal, np.nan).astype(np.float32)
    frames = apart(signal, 4)
    np.testing.assert_allclose(frames, np.nan_to_num(sum_frames(seen, signal["segment"].values, 4)[3::4]), rtol=1e-6)


def test_constant_channels_are_left_out():
    values = VALUES.copy()
    values[:, 1] = 0.5
    signal = prepare(from_signal(series(values)), DataConfig(bin_size=0.1))
    assert signal["unit"].values.tolist() == ["a", "c"]
    assert signal.attrs["units_left_out"] == "left out 1 of 3 channels: 1 constant or missing"
    np.testing.assert_array_equal(
        prepare(from_signal(series(values)), DataConfig(bin_size=0.1), ["c"])[:, 0], signal.sel(unit="c")
    )


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            lambda: from_signal(series(np.full_like(VALUES, np.nan))),
            "memory: dff: is NaN throughout; choose another series",
        ),
        (
            lambda: from_signal(series(time=TIME[::-1])),
            "memory: dff: times step back at 23.2667 s; give two frames or more in the order of their times",
        ),
        (
            lambda: from_signal(series(np.where(VALUES[4, 1] == VALUES, np.inf, VALUES))),
            "memory: dff: is infinite at 10.1333 s in channel b; give NaN where missing",
        ),
        (lambda: from_signal(series(ids="aab")), "memory: units: id a is given twice; give each unit its own"),
        (
            lambda: from_signal(VALUES),
            "memory: does not say how long a bin or frame is; give --bin-size, in Python bin_size",
        ),
        (
            lambda: from_signal(series().rename(time="frame")),
            "memory: signal of float32 with dims {'frame': 400, 'roi': 3}; give numbers of dims (time, unit)",
        ),
        (
            lambda: bin_spikes(from_signal(series()), 0.01),
            "memory: frames of 0.0333333 s cannot be told in bins of 0.01 s; give 0.0333333 s or more",
        ),
        (
            lambda: prepare(from_signal(series(np.ones_like(VALUES))), DataConfig()),
            "memory: units: all 3 channels are constant or missing in the chosen time; choose other channels or time",
        ),
        (
            lambda: prepare(from_signal(series()), DataConfig(min_rate=1)),
            "memory: a signal has no rates; leave the minimal rate out",
        ),
    ],
)
def test_signals_that_cannot_be_used(change, line):
    assert line_of(change) == line


def test_simulated_calcium_follows_the_spikes():
    spikes = linear_track_session(duration=60, rest=0, n_units=6)
    calcium = calcium_session(spikes, noise=0.0, rate=30.0)
    times, frame = spikes.spikes_of(5), calcium.signal["time"].values
    for at in (30, 700, 1700):
        past = times[times <= frame[at]]
        assert calcium.signal.values[at, 5] == pytest.approx(0.2 * np.exp((past - frame[at]) / 0.4).sum(), rel=1e-5)
    assert calcium.units.identical(spikes.units)
    assert calcium.behavior.keys() == spikes.behavior.keys()
    noisy = calcium_session(spikes, rate=30.0)
    assert (noisy.signal - calcium.signal).std().item() == pytest.approx(0.2, rel=0.05)
    assert "give more than 0" in line_of(calcium_session, spikes, rate=0.0)


# Files


@pytest.fixture(scope="module")
def imaged_twice(tmp_path_factory):
    """An NWB file of 20 regions of interest, of which 3 are in two series, with behaviour and no units."""
    nwb = NWBFile("made to measure", "imaged", datetime(2020, 1, 1, tzinfo=UTC))
    plane = mock_ImagingPlane(nwbfile=nwb)
    rois = PlaneSegmentation(name="rois", description="d", imaging_plane=plane)
    rois.add_column("quality", "of a region")
    for i in range(20):
        rois.add_roi(image_mask=np.ones((2, 2)), quality=i / 20, id=100 + i)
    module = nwb.create_processing_module("ophys", "imaging")
    module.add(ImageSegmentation(plane_segmentations=[rois]))
    region = rois.create_roi_table_region(region=[4, 6, 2], description="some")
    dff = DfOverF(name="DfOverF")
    module.add(dff)
    for name in ("dff", "raw"):
        made = RoiResponseSeries(name=name, data=VALUES, rois=region, unit="dF/F", timestamps=TIME)
        dff.add_roi_response_series(made)
    place = TimeSeries(name="place", data=np.arange(600.0), unit="cm", rate=50.0, starting_time=10.0)
    nwb.create_processing_module("behavior", "b").add(place)
    path = tmp_path_factory.mktemp("imaged") / "twice.nwb"
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


@pytest.fixture(scope="module")
def imaged(imaged_twice):
    """The same with one of the series."""
    path = shutil.copy(imaged_twice, imaged_twice.parent / "imaged.nwb")
    with h5py.File(path, "r+") as file:
        del file[f"{PATH}/raw"]
    return path


def test_several_series_are_listed(imaged_twice):
    listed = f"{PATH}/dff (400 x 3, dF/F), {PATH}/raw (400 x 3, dF/F)"
    assert line_of(read_session, imaged_twice) == (
        f"{imaged_twice}: has no units table with rows; name one of its series (--series, in Python series): {listed}"
    )
    assert read_session(imaged_twice, series="raw").name == f"{PATH}/raw"


def test_responses_go_before_other_channels(imaged, tmp_path):
    path = shutil.copy(imaged, tmp_path)
    with NWBHDF5IO(str(path), "a") as io:
        nwb = io.read()
        nwb.add_acquisition(_made("photon"))
        io.write(nwb)
    assert read_session(path).name == f"{PATH}/dff"


def test_nwb_without_units_gives_its_only_responses(imaged, tmp_path):
    session = read_session(imaged)
    assert isinstance(session, SignalSession)
    assert session.name == f"{PATH}/dff"
    assert session.units["unit"].values.tolist() == [104, 106, 102]
    assert session.units["quality"].values.tolist() == [0.2, 0.3, 0.1]
    assert list(session.behavior) == ["processing/behavior/place"]
    assert session.series == {f"{PATH}/dff": "400 x 3, dF/F", "processing/behavior/place": "600, 50 Hz, cm"}
    again = read_session(session.to_zarr(tmp_path / "imaged.zarr"))
    assert again.signal.identical(session.signal)
    assert again.units.identical(session.units)
    assert again.name == session.name
    assert again.bin_size == session.bin_size
    assert read_session(tmp_path / "imaged.zarr", series="dff").name == session.name
    place = read_session(imaged, series="place")
    assert place.n_units == 1
    assert list(place.behavior) == []


MANY = RNG.normal(size=(400, 6)).astype(np.float32)


def _nwb_of(path, *series, behavior=()):
    """An NWB file at a path with series in its acquisition, those of `behavior` in a module of behaviour."""
    nwb = NWBFile("made to measure", "traces", datetime(2020, 1, 1, tzinfo=UTC))
    for one in series:
        nwb.add_acquisition(one)
    if behavior:
        module = nwb.create_processing_module("behavior", "b")
        for one in behavior:
            module.add(one)
    with NWBHDF5IO(str(path), "w") as io:
        io.write(nwb)
    return path


def _made(name: str, data=MANY, kind=TimeSeries, **about):
    return kind(name=name, data=data, **({"rate": 30.0} | about), **({"unit": "a"} if kind is TimeSeries else {}))


@pytest.mark.filterwarnings("ignore::UserWarning")  # the other series are odd on purpose
def test_nwb_without_units_and_responses_gives_its_only_channels(tmp_path):
    led = _made("led", kind=SpatialSeries, reference_frame="r")
    pose = BehavioralTimeSeries(name="tracks", time_series=_made("pose"))
    others = [_made("place", MANY[:, :3]), _made("speed", MANY[:, 0]), _made("turned", MANY.T), led, pose]
    others += [_made("raw", rate=30000.0), _made("volts", rate=None, timestamps=np.arange(400) / 20000)]
    path = _nwb_of(tmp_path / "one.nwb", _made("photon"), *others, behavior=[_made("whiskers")])
    session = read_session(path)
    assert (session.name, session.n_units) == ("acquisition/photon", 6)
    assert "acquisition/place" in session.behavior
    assert "acquisition/photon" not in session.behavior
    path = _nwb_of(tmp_path / "none.nwb", _made("place", MANY[:, :3]), behavior=[_made("whiskers")])
    listed = "processing/behavior/whiskers (400 x 6, 30 Hz, a), acquisition/place (400 x 3, 30 Hz, a)"
    assert line_of(read_session, path).endswith(f"(--series, in Python series): {listed}")
    assert read_session(path, series="whiskers").n_units == 6
    path = _nwb_of(tmp_path / "two.nwb", _made("photon"), _made("other"), behavior=[_made("whiskers")])
    listed = "acquisition/other (400 x 6, 30 Hz, a), acquisition/photon (400 x 6, 30 Hz, a)"
    assert line_of(read_session, path).endswith(f"(--series, in Python series): {listed}")


def test_invalid_times_are_not_observed(imaged, tmp_path):
    path = shutil.copy(imaged, tmp_path)
    with NWBHDF5IO(str(path), "a") as io:
        nwb = io.read()
        nwb.add_invalid_time_interval(start_time=12.0, stop_time=13.0)
        io.write(nwb)
    with pytest.warns(UserWarning, match="invalid_times"):
        session = read_session(path)
    signal = bin_spikes(session, session.bin_size)
    lost = signal["time"].values[~signal["observed"].values]
    assert 11.95 < lost.min() < 12.05
    assert 12.95 < lost.max() < 13.05
    assert len(lost) >= 30


def _replaced(name: str, change):
    def apply(file: h5py.File) -> None:
        old = file[f"{PATH}/dff/{name}"]
        values, attributes = change(old[:]), dict(old.attrs)
        del file[f"{PATH}/dff/{name}"]
        file.create_dataset(f"{PATH}/dff/{name}", data=values).attrs.update(attributes)

    return apply


@pytest.mark.parametrize(
    ("fault", "wanted", "line"),
    [
        (
            None,
            "raw",
            f"has no series 'raw'; there is: processing/behavior/place (600, 50 Hz, cm), {PATH}/dff (400 x 3, dF/F)",
        ),
        (
            lambda file: file.pop(f"{PATH}/dff"),
            None,
            "has no units table with rows; name one of its series (--series, in Python series): "
            "processing/behavior/place (600, 50 Hz, cm)",
        ),
        (
            _replaced("timestamps", lambda time: time[:-2]),
            None,
            f"{PATH}/dff: its data (400, 3) do not fit 398 times of 3 regions of interest; write a time for each frame",
        ),
        (
            _replaced("data", lambda values: values.T),
            None,
            f"{PATH}/dff: its data (3, 400) do not fit 400 times of 3 regions of interest; "
            "write them as (time, channel)",
        ),
        (
            _replaced("data", lambda values: np.full_like(values, np.nan)),
            None,
            f"{PATH}/dff: is NaN throughout; choose another series",
        ),
    ],
)
def test_nwb_whose_series_cannot_be_used(imaged, tmp_path, fault, wanted, line):
    path = shutil.copy(imaged, tmp_path)
    if fault:
        with h5py.File(path, "r+") as file:
            fault(file)
    assert line_of(read_session, path, series=wanted) == f"{path}: {line}"


def test_frames_whose_unit_of_time_is_in_doubt(tmp_path):
    ms = _made("photon", rate=None, timestamps=1000 * np.arange(400) / 30)
    nwb = _nwb_of(tmp_path / "ms.nwb", ms, behavior=[_made("speed", MANY[:, 0])])
    line = line_of(read_session, nwb)
    assert line.endswith(
        "acquisition/photon: frames of 33.3333 s by its times; give --ticks photon=1000 where its times are ms, "
        "photon=1 where they are s, in Python ticks"
    )
    for name in ("photon", "acquisition/photon", "spikes"):
        assert read_session(nwb, ticks=[f"{name}=1000"]).bin_size == pytest.approx(1 / 30)
    with pytest.warns(InputWarning) as told:
        assert read_session(nwb, ticks=["photon=1"]).bin_size == pytest.approx(33.3333, rel=1e-4)
    lines = [str(one.message).removeprefix(f"{nwb}: ") for one in told]
    assert lines[0] == "acquisition/photon: frames of 33.3333 s; longer than the 3 s over which a filter is judged"
    assert re.search(r"processing/behavior/speed: .*the frames 13,3", lines[1])  # there are no spikes
    line = line_of(read_session, nwb, ticks=["photon=1000", "oton=1000"])
    assert line.endswith("no oton to give ticks of; it has acquisition/photon, processing/behavior/speed")
    slow = series(time=np.arange(400) * 60.0)  # s, as it says
    with pytest.warns(UserWarning, match="frames of 60 s; longer than the 3 s"):
        assert from_signal(slow.assign_coords(time=("time", slow["time"].values, {"units": "s"}))).bin_size == 60
    with pytest.warns(UserWarning, match="frames of 5 s; give --ticks dff=1000"):
        from_signal(series(time=np.arange(400) * 5.0))
    numbers = series(time=np.arange(400.0))
    with pytest.warns(UserWarning, match="all 400 times are whole numbers, .* give --ticks dff=30 for 30 frames"):
        assert from_signal(numbers).bin_size == 1
    assert from_signal(numbers, reading=Reading(ticks=("dff=30",))).bin_size == pytest.approx(1 / 30)


def test_netcdf_zarr_and_arrays(tmp_path):
    both = xr.Dataset({"dff": series(), "raw": 2 * series(), "place": ("time", TIME)})
    both["dff"].to_netcdf(tmp_path / "one.nc")
    assert read_session(tmp_path / "one.nc").name == "dff"
    both.to_netcdf(tmp_path / "two.nc")
    assert "in Python series): dff (400 x 3), raw (400 x 3)" in line_of(read_session, tmp_path / "two.nc")
    both.to_zarr(tmp_path / "two.zarr", zarr_format=2)
    np.savez(tmp_path / "two.npz", dff=VALUES, raw=2 * VALUES, time=TIME)
    for name in ("two.nc", "two.zarr", "two.npz"):
        session = read_session(tmp_path / name, series="raw")
        np.testing.assert_array_equal(session.signal, 2 * VALUES)
    assert "place" in read_session(tmp_path / "two.nc", series="raw").behavior
    np.save(tmp_path / "values.npy", VALUES)
    assert read_session(tmp_path / "values.npy", bin_size=0.05, series="values").duration == pytest.approx(20)


def test_bins_of_a_signal_come_back(tmp_path):
    values = VALUES.copy()
    values[50:60] = np.nan
    session = from_signal(series(values))
    bin_spikes(session, session.bin_size).to_netcdf(tmp_path / "bins.nc")
    np.testing.assert_array_equal(read_session(tmp_path / "bins.nc").signal, values)


def test_formats_of_spikes_alone_have_no_series(tmp_path):
    path = linear_track_session(duration=20, rest=0, n_units=2).to_zarr(tmp_path / "spikes.zarr")
    assert line_of(read_session, path, series="dff") == f"{path}: has no series 'dff'; there is: none"
