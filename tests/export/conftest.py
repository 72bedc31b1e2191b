"""States made by hand, with everything that a store can hold, and the NWB file that they claim to be decoded from."""

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from pynwb.image import ImageSeries

import ldmfilter.export.formats
import ldmfilter.export.latents
import ldmfilter.export.nwb

BINS, STATES, LATENTS, BIN = 500, 3, 2, 0.1
FORMULA = "=HYPERLINK(A1)"


def make_states(source: Path | None = None) -> xr.Dataset:
    """500 bins: two stretches that touch, a gap, a third; labels that mean harm, NaN, behaviour with a unit."""
    rng = np.random.default_rng(0)

    def random(*shape: int) -> np.ndarray:
        return rng.normal(size=(BINS, *shape)).astype(np.float32)

    step = np.arange(BINS)
    time = 10 + (step + 0.5) * BIN + np.where(step >= 300, 7.0, 0.0)
    label = np.where(step < 100, FORMULA, np.where(step < 300, "../../run\nfast", "@rest"))
    innovation = random(LATENTS)
    innovation[50:60] = np.nan
    mean = random(STATES)
    coords = {
        "time": ("time", time, {"units": "s", "long_name": "bin centre"}),
        "segment": ("time", np.repeat(np.array([0, 1, 2], np.int32), [100, 200, 200])),
        "interval": ("time", label.astype(np.str_)),
        "state": np.arange(STATES),
        "state_2": np.arange(STATES),
        "latent": np.arange(LATENTS),
        "latent_2": np.arange(LATENTS),
        "bound": np.array(["lower", "upper"]),
        "unit": np.array(["a", "+b"]),
        "ahead": np.array([0.1, 0.5]),
    }
    square = ("time", "state", "state_2")
    about = {"unit": "cm", "path": "processing/behavior/place", "calibrated": 1}
    variables = {
        "filtered_mean": (("time", "state"), mean, {"time_index": "t|t"}),
        "filtered_cov": (square, random(STATES, STATES)),
        "predicted_mean": (("time", "state"), random(STATES)),
        "predicted_cov": (square, random(STATES, STATES)),
        "smoothed_mean": (("time", "state"), random(STATES)),
        "smoothed_cov": (square, random(STATES, STATES)),
        "lagged_mean": (("time", "state"), random(STATES)),
        "lagged_ci": (("time", "state", "bound"), random(STATES, 2), {"level": 0.9}),
        "ahead_mean": (("ahead", "time", "state"), np.stack([random(STATES), random(STATES)])),
        "ahead_ci": (("ahead", "time", "state", "bound"), np.stack([random(STATES, 2), random(STATES, 2)])),
        "ci": (("time", "state", "bound"), np.stack([mean - 1, mean + 1], -1), {"level": 0.9, "of": "filtered_mean"}),
        "innovation": (("time", "latent"), innovation),
        "innovation_cov": (("time", "latent", "latent_2"), random(LATENTS, LATENTS)),
        "observed": ("time", rng.random(BINS) < 0.9),
        "trained": ("time", rng.random(BINS) < 0.5),
        "place_mean": ("time", random(), about),
        "place_ci": (("time", "bound"), random(2), about | {"level": 0.9}),
        "place_true": ("time", np.where(step % 7 == 0, np.nan, random()).astype(np.float32), about),
        "place_fold": ("time", (step % 5).astype(np.int8)),
        "place_ahead_mean": (("ahead", "time"), np.stack([random(), random()]), about),
        "place_ahead_ci": (("ahead", "time", "bound"), np.stack([random(2), random(2)]), about | {"level": 0.9}),
        "rate": (("time", "unit"), random(2), {"unit": "Hz"}),
        "rate_ci": (("time", "unit", "bound"), random(2, 2), {"unit": "Hz", "level": 0.9}),
        "rate_ahead": (("ahead", "time", "unit"), np.stack([random(2), random(2)]), {"unit": "Hz"}),
        "rate_ahead_ci": (("ahead", "time", "unit", "bound"), np.stack([random(2, 2), random(2, 2)]), {"unit": "Hz"}),
    }
    checksum = "" if source is None else "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
    attrs = {
        "format": "ldmfilter-latents",
        "ldmfilter_version": "0.1.0",
        "model_id": "0123456789abcdef",
        "config": '{"latent_dim": 2}',
        "seed": 0,
        "source_path": "" if source is None else str(source),
        "source_checksum": checksum,
        "bin_size": BIN,
        "ci_level": 0.9,
        "lag": 0.3,
    }
    return xr.Dataset(variables, coords, attrs)


def series_of(states: xr.Dataset) -> dict[str, xr.DataArray]:
    """Arrays (time, ...) of the states, by the names of their series."""
    series = {str(name): x for name, x in states.data_vars.items() if not {"bound", "ahead"} & set(x.dims)}
    intervals = {"filtered": states["ci"], "place": states["place_ci"]}
    intervals |= {"lagged": states["lagged_ci"], "rate": states["rate_ci"]}
    for i, name in enumerate(("ahead_0.1s", "ahead_0.5s")):
        series[f"{name}_mean"], intervals[name] = states["ahead_mean"][i], states["ahead_ci"][i]
        series[f"rate_{name}"], intervals[f"rate_{name}"] = states["rate_ahead"][i], states["rate_ahead_ci"][i]
        series[f"place_{name}_mean"] = states["place_ahead_mean"][i]
        intervals[f"place_{name}"] = states["place_ahead_ci"][i]
    bounds = {f"{name}_{end}": x[..., b] for name, x in intervals.items() for b, end in enumerate(("lower", "upper"))}
    return series | bounds | {"segment": states["segment"]}


@pytest.fixture
def states() -> xr.Dataset:
    return make_states()


@pytest.fixture
def small_blocks(monkeypatch):
    """Several blocks of time, the last one shorter."""
    for module in (ldmfilter.export.latents, ldmfilter.export.formats, ldmfilter.export.nwb):
        monkeypatch.setattr(module, "BLOCK", 96)


def write_session(path: Path) -> Path:
    """An NWB file with a link to another file, a video beside it, and an object of an extension nobody has."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    nwb = NWBFile(session_description="a session", identifier="session-1", session_start_time=start, session_id="one")
    nwb.add_unit(spike_times=[10.5, 11.0, 30.0])
    nwb.add_unit(spike_times=[12.0, 70.0])
    videos = ["videos/a.avi", "https://host/b.avi"]
    frames = {"starting_frame": [0, 2], "timestamps": [10.0, 10.1, 10.2, 10.4]}
    nwb.add_acquisition(ImageSeries(name="video", external_file=videos, format="external", **frames))
    place = TimeSeries(name="place", data=np.arange(600.0), unit="cm", rate=10.0, description="place on the track")
    nwb.create_processing_module(name="behavior", description="what it did").add(place)
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    raw = path.with_name("raw.h5")
    with h5py.File(raw, "w") as file:
        series = file.create_group("lfp")
        series.attrs.update(
            namespace="core", neurodata_type="TimeSeries", object_id="1", description="raw", comments="no"
        )
        series.create_dataset("data", data=np.arange(50.0)).attrs.update(
            unit="V", conversion=1.0, offset=0.0, resolution=-1.0
        )
        series.create_dataset("starting_time", data=0.0).attrs.update(rate=10.0, unit="seconds")
    with h5py.File(path, "a") as file:
        file["acquisition/lfp"] = h5py.ExternalLink("raw.h5", "/lfp")
    (path.parent / "videos").mkdir(exist_ok=True)
    (path.parent / "videos" / "a.avi").touch()
    return path


@pytest.fixture
def session(tmp_path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return write_session(folder / "session.nwb")
