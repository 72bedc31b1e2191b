"""NWB files made to measure, and the real session."""

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pynwb import NWBHDF5IO, NWBFile

from ldmfilter.data import read_session


@pytest.fixture
def nwb():
    return NWBFile("made to measure", "made-to-measure", datetime(2020, 1, 1, tzinfo=UTC), session_id="m1")


@pytest.fixture
def read(tmp_path):
    """Write an NWBFile and read it back as a Session."""

    def write_and_read(nwb: NWBFile, name: str = "made.nwb"):
        path = tmp_path / name
        with NWBHDF5IO(str(path), "w") as io:
            io.write(nwb)
        return read_session(path)

    return write_and_read


@pytest.fixture(scope="session")
def real_path():
    path = Path(__file__).parents[3] / "shared" / "data" / "linear_track.nwb"
    if not path.exists():
        pytest.skip("the real session is not here")
    return path
