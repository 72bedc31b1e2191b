"""A signal in place of spikes, through the commands."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import xarray as xr
from ldmfilter_cli.main import app
from pynwb import NWBHDF5IO, NWBFile, TimeSeries
from typer.testing import CliRunner

from ldmfilter import bin_spikes, read_session
from ldmfilter.data.simulate import calcium_session, linear_track_session
from ldmfilter.filter.runs import Run
from tests.cli.conftest import QUICK, here
from tests.report_sample import sketched_reports


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a session of dF/F at 20 Hz, and a run on it."""
    folder = tmp_path_factory.mktemp("signal")
    spikes = linear_track_session(seed=6, n_units=10, duration=100.0, rest=0.0)
    calcium_session(spikes).to_zarr(folder / "calcium.zarr")
    ended = here("train", "calcium.zarr", "--run", "run", *QUICK, cwd=folder)
    assert ended.code == 0, ended.err
    assert "10 units, 1200 bins (60 s)" in ended.err
    return folder


def test_a_bin_is_a_frame(folder):
    run = Run.open(folder / "run")
    assert run.config.data.bin_size == 0.05
    assert run.model().signal_


def test_inspect(folder):
    shown = here("inspect", "calcium.zarr", cwd=folder).out
    assert "signal dff in frames of 0.05 s, no spikes" in shown
    assert "10 channels" in shown
    about = json.loads(here("inspect", "calcium.zarr", "--json", cwd=folder).out)
    assert about["signal"] == "dff"
    assert about["series"] == [{"path": "dff", "about": "the signal of this store"}]


def test_of_several_series_inspect_shows_the_first_and_names_all(tmp_path):
    nwb = NWBFile("many", "many", datetime(2026, 1, 1, tzinfo=UTC))
    module = nwb.create_processing_module("ophys", "of cells")
    for name in ("deconvolved", "dff"):
        module.add(TimeSeries(name=name, data=np.random.default_rng(0).normal(size=(200, 3)), unit="a.u.", rate=10.0))
    with NWBHDF5IO(tmp_path / "many.nwb", "w") as io:
        io.write(nwb)
    about = json.loads(here("inspect", "many.nwb", "--json", cwd=tmp_path).out)
    first = "processing/ophys/deconvolved"
    assert about["signal"] == first
    assert about["odd"] == [f"many.nwb: has no units and several series; {first} is shown, name one with --series"]
    assert [one["path"] for one in about["series"] + about["behavior"]] == [first, "processing/ophys/dff"]
    assert f"many.nwb --series {first}" in about["next"][0]
    refused = here("train", "many.nwb", cwd=tmp_path)
    assert refused.code == 3
    assert "name one of its series" in refused.err


def test_series_that_is_not_there(folder):
    ended = here("train", "calcium.zarr", "--series", "raw", cwd=folder)
    assert ended.code == 3
    assert ended.err.endswith("calcium.zarr: has no series 'raw'; there is: dff (the signal of this store)\n")


def test_decode_and_stream_agree(folder):
    ended = here("decode", "--run", "run", "--out", "latents.zarr", cwd=folder)
    assert ended.code == 0, ended.err
    signal = bin_spikes(read_session(folder / "calcium.zarr"), 0.05)[:60]
    names = signal["unit"].values.tolist()
    rows = [dict(zip(map(str, names), row, strict=True)) for row in signal.to_numpy().astype(float).tolist()]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + json.dumps({"0": 1.5}) + "\n{}\n"
    streamed = CliRunner().invoke(app, ["stream", "--run", str(folder / "run"), "--quiet"], input=lines)
    states = [json.loads(line) for line in streamed.stdout.splitlines()]
    decoded = xr.open_zarr(folder / "latents.zarr")["filtered_mean"][:60]
    np.testing.assert_allclose([one["mean"] for one in states[:60]], decoded, atol=1e-4)
    assert [one["observed"] for one in states[59:]] == [True, True, False]  # of no channel: missing


def test_report_speaks_of_the_signal(folder):
    with sketched_reports("raster"):
        ended = here("report", "run", "--out", "report.html", "--behavior", "linear_position", cwd=folder)
    assert ended.code == 0, ended.err
    numbers = json.loads((folder / "report.json").read_text())
    assert numbers["session"]["spikes"] is None
    assert numbers["session"]["signal"] == "dff"
    assert numbers["behavior"][0]["decoder"] is None  # it counts spikes
    assert numbers["diagnosis"]["findings"][0]["name"] == "signal ahead"
    page = (folder / "report.html").read_text()
    assert "Signal and the behaviour decoded from the states" in page
    assert "<image" in page
    assert "bits per spike" not in page
    assert "Rate, Hz" not in page
