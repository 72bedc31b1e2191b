"""The session as a zarr store: exact there and back, safe to open, whole or not at all."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr
import zarr

from ldmfilter.data import read_session
from ldmfilter.data.session import Observed, Session
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.errors import InputError


@pytest.fixture(scope="module")
def session():
    return linear_track_session(n_units=6, duration=20.0, rest=5.0)


def assert_same(a, b):
    np.testing.assert_array_equal(a.spike_times, b.spike_times)
    np.testing.assert_array_equal(a.spike_times_index, b.spike_times_index)
    xr.testing.assert_identical(a.units, b.units)
    assert set(a.intervals) == set(b.intervals)
    assert set(a.behavior) == set(b.behavior)
    for mine, theirs in ((a.intervals, b.intervals), (a.behavior, b.behavior)):
        for name in mine:
            xr.testing.assert_identical(mine[name], theirs[name])


def line_of(call, path, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(path, *args, **kwargs)
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text.removeprefix(f"{path}: ")


def test_there_and_back(session, tmp_path):
    path = session.to_zarr(tmp_path / "session.zarr")
    back = read_session(path)
    assert_same(session, back)
    assert back.observed is None
    assert back.source.path == str(path)
    assert back.source.checksum.startswith("sha256:")
    assert_same(back, read_session(back.to_zarr(tmp_path / "again.zarr")))
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_real_session_there_and_back(real_path, tmp_path):
    session = read_session(real_path)
    back = read_session(session.to_zarr(tmp_path / "session.zarr"))
    assert_same(session, back)
    assert back.source.identifier == session.source.identifier
    assert back.source.session_start_time == session.source.session_start_time


@pytest.mark.parametrize("name", ["..", "../../x", "/etc/x", ".zgroup", "a b", "ä/b%2Fc", ".zattrs", "a\\b"])
def test_names_stay_within_the_store(name, tmp_path):
    times = {"start_time": [0.0], "stop_time": [1.0]}
    series = xr.DataArray([[1, 2]], dims=("time", "axis"), coords={"time": [0.0], "axis": ["x", "y"]}, name=name)
    session = Session.from_spikes(
        {"u": [0.1], "v": []}, units={name: [1, 2]}, intervals={name: times}, behavior={name: series}
    )
    observed = Observed(np.array([[0.0, 1.0]]), np.array([0, 1]))
    session = Session(
        session.spike_times,
        session.spike_times_index,
        session.units,
        session.intervals,
        session.behavior,
        observed,
    )
    (tmp_path / "inner").mkdir()
    path = session.to_zarr(tmp_path / "inner" / "session.zarr")
    back = read_session(path)
    assert_same(session, back)
    np.testing.assert_array_equal(back.observed.intervals, observed.intervals)
    np.testing.assert_array_equal(back.observed.index, observed.index)
    assert sorted(p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("*/*")) == ["inner/session.zarr"]


def test_xarray_opens_the_groups(session, tmp_path):
    path = session.to_zarr(tmp_path / "session.zarr")
    epochs = xr.open_zarr(path, group="intervals/epochs", consolidated=False)
    np.testing.assert_array_equal(epochs["stop_time"], [15.0, 20.0])


def test_an_existing_store_is_kept_without_overwrite(session, tmp_path):
    path = session.to_zarr(tmp_path / "session.zarr")
    other = Session.from_spikes([[1.0]])
    assert line_of(lambda p: other.to_zarr(p), path) == "exists already; choose another name or overwrite it"
    assert_same(session, read_session(path))
    other.to_zarr(path, overwrite=True)
    assert read_session(path).n_units == 1


def test_only_stores_are_overwritten(session, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    said = line_of(lambda p: session.to_zarr(p, overwrite=True), tmp_path / "home")
    assert said == "is no zarr store and is not overwritten; give another path"
    assert (tmp_path / "home" / "thesis.tex").exists()


def test_a_failed_write_leaves_the_old_store(session, tmp_path, monkeypatch):
    path = session.to_zarr(tmp_path / "session.zarr")

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ldmfilter.data.store._put_dataset", full)
    said = line_of(lambda p: Session.from_spikes([[1.0]]).to_zarr(p, overwrite=True), path)
    assert said == "no space left on the disk; free some or write elsewhere"
    monkeypatch.undo()
    assert_same(session, read_session(path))
    assert [p.name for p in tmp_path.iterdir()] == ["session.zarr"]


def test_pickled_objects_are_refused(session, tmp_path):
    path = session.to_zarr(tmp_path / "session.zarr")
    where = path / "spike_times" / ".zarray"
    plain = json.loads(where.read_text())
    for change, what in (({"filters": [{"id": "pickle"}]}, "codec pickle"), ({"dtype": "|O"}, "type |O")):
        where.write_text(json.dumps(plain | change))
        said = line_of(read_session, path)
        assert said == f"spike_times: {what} is refused, it may run code; store numbers, bools or fixed-width text"


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / "spike_times" / "0").write_bytes((path / "spike_times" / "0").read_bytes()[:20]),
        lambda path: (path / "spike_times" / "0").write_bytes(b""),
        lambda path: (path / "spike_times" / ".zarray").write_text("{"),
        lambda path: (path / "unit_id" / ".zarray").write_text("{}"),
        lambda path: (path / ".zgroup").write_text("{"),
        lambda path: (path / "intervals" / "epochs" / ".zattrs").write_text('{"order": ["x"]}'),
    ],
)
def test_damaged_stores(session, tmp_path, damage):
    path = session.to_zarr(tmp_path / "session.zarr")
    damage(path)
    assert line_of(read_session, path).startswith("is a damaged zarr store (")


def test_missing_parts(session, tmp_path):
    path = session.to_zarr(tmp_path / "session.zarr")
    (path / "spike_times" / "0").unlink()
    assert line_of(read_session, path) == "spike_times: 1 chunks are missing; copy it again"
    shutil.rmtree(path / "spike_times")
    assert line_of(read_session, path) == "holds no spike_times; give a store that Session.to_zarr wrote"


def test_stores_of_another_kind(session, tmp_path):
    path = session.to_zarr(tmp_path / "session.zarr")
    attrs = json.loads((path / ".zattrs").read_text())
    (path / ".zattrs").write_text(json.dumps(attrs | {"version": 99}))
    said = line_of(read_session, path)
    assert said == "was written by a newer ldmfilter; install that version or write it again"
    (tmp_path / "array.zarr").mkdir()
    (tmp_path / "array.zarr" / ".zarray").write_text("{}")
    said = line_of(read_session, tmp_path / "array.zarr")
    assert said == "is a zarr array, not a session; give the store that Session.to_zarr wrote"
    (tmp_path / "three.zarr").mkdir()
    (tmp_path / "three.zarr" / "zarr.json").write_text("{}")
    said = line_of(read_session, tmp_path / "three.zarr")
    assert said == "is zarr format 3; write it again, with zarr_format=2 or zarr < 3"


@pytest.mark.skipif(not zarr.__version__.startswith("2."), reason="written with the interface of zarr 2")
def test_a_store_written_by_hand(tmp_path):
    root = zarr.open_group(str(tmp_path / "hand.zarr"), mode="w")
    root["spike_times"], root["spike_times_index"] = np.array([0.1, 0.2, 0.05]), np.array([2, 3], np.int32)
    root["unit_id"], root["snr"] = np.array([4, 9]), np.array([1.0, 2.0])
    root["intervals/epochs/start_time"], root["intervals/epochs/stop_time"] = np.array([0.0]), np.array([1.0])
    root["intervals/epochs/label"] = np.array(["run"])
    root["behavior/position/time"], root["behavior/position/position"] = (
        np.array([0.0, 1.0]),
        np.zeros((2, 2)),
    )
    session = read_session(tmp_path / "hand.zarr")
    np.testing.assert_array_equal(session.units["unit"], [4, 9])
    np.testing.assert_array_equal(session.units["snr"], [1.0, 2.0])
    assert session.intervals["epochs"]["label"].values.tolist() == ["run"]
    assert session.behavior["position"].shape == (2, 2)
    assert session.stop == 0.2


def test_chunks_that_lie_about_their_length(session, tmp_path):
    """Blosc's C library reads as many bytes as a chunk says that it has."""
    path = session.to_zarr(tmp_path / "session.zarr")
    chunk = path / "spike_times" / "0"
    content = chunk.read_bytes()
    assert int.from_bytes(content[12:16], "little") == len(content)
    for place, value in ((12, 2**31 - 1), (12, 0), (8, 1), (8, 2**31 - 1), (4, 2**31 - 1), (16, 2**31 - 1), (16, 0)):
        chunk.write_bytes(content[:place] + value.to_bytes(4, "little") + content[place + 4 :])
        assert line_of(read_session, path).startswith("is a damaged zarr store (")
    for size in (0, 1, 15, 16, 20, len(content) - 1):
        chunk.write_bytes(content[:size])
        assert line_of(read_session, path).startswith("is a damaged zarr store (")
    chunk.write_bytes(content)
    assert_same(read_session(path), session)


def test_names_of_dims_do_not_matter(session, tmp_path):
    path = session.to_zarr(tmp_path / "session.zarr")
    attributes = next(path.glob("behavior/*speed/data/.zattrs"))
    attributes.write_text(json.dumps(json.loads(attributes.read_text()) | {"_ARRAY_DIMENSIONS": [3]}))
    zarr.open_group(str(path))["intervals/epochs/tags"].attrs["_ARRAY_DIMENSIONS"] = ["row", "tag"]
    (path / ".zmetadata").unlink(missing_ok=True)
    assert_same(read_session(path), session)
