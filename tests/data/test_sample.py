"""The committed sample is what its checksum says and what `write_sample` makes."""

import hashlib
from pathlib import Path

import numpy as np
import pynwb
import pytest
import xarray as xr

from ldmfilter.data import read_session
from ldmfilter.data.sample import write_sample
from ldmfilter.errors import InputError

FOLDER = Path(__file__).parents[2] / "sample_data"
NAME = "linear_track_sim.nwb"


@pytest.fixture(scope="module")
def sample():
    return read_session(FOLDER / NAME)


def test_checksum_and_size():
    digest, name = (FOLDER / "SHA256SUMS").read_text().split()
    content = (FOLDER / NAME).read_bytes()
    assert name == NAME
    assert hashlib.sha256(content).hexdigest() == digest
    assert len(content) < 2e6


def test_it_is_written_again(sample, tmp_path):
    path = write_sample(tmp_path / NAME)
    with pytest.raises(InputError, match="exists already"):
        write_sample(path)
    again = read_session(path)
    np.testing.assert_array_equal(sample.spike_times_index, again.spike_times_index)
    # Another build of numpy may round a last bit differently.
    np.testing.assert_allclose(sample.spike_times, again.spike_times, atol=1e-9)
    xr.testing.assert_allclose(sample.units, again.units)
    for name, table in sample.intervals.items():
        xr.testing.assert_allclose(table, again.intervals[name])
    for name, series in sample.behavior.items():
        xr.testing.assert_allclose(series, again.behavior[name])
    assert again.source.identifier == sample.source.identifier


def test_what_it_holds(sample):
    assert sample.n_units == 60
    assert sample.stop == pytest.approx(600.0, abs=0.1)
    assert sample.intervals["epochs"]["tags"].values.ravel().tolist() == ["run", "rest"]
    assert {name.rpartition("/")[2] for name in sample.behavior} == {
        "linear_position",
        "direction",
        "speed",
        "facing",
        "theta_phase",
        "gain",
    }


def test_it_is_valid_nwb():
    assert pynwb.validate(path=str(FOLDER / NAME)) == []
