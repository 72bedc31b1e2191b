"""States in a copy of their NWB file: valid, read by pynwb and pynapple, everything else as it was."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pynapple as nap
import pynwb
import pytest
from nwbinspector import Importance, inspect_nwbfile

from ldmfilter.data import read_session
from ldmfilter.export import to_nwb
from ldmfilter.export.latents import left_out
from tests.export.conftest import make_states, series_of, write_session
from tests.export.test_formats import LABELS, StoppedError, line, same

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:hdmf", "ignore::UserWarning:hdmf")


@pytest.fixture
def states(session):
    return make_states(session)


@pytest.fixture
def copy(states, session, tmp_path, small_blocks) -> Path:
    (tmp_path / "out").mkdir()
    return to_nwb(states, session, tmp_path / "out" / "copy.nwb")


def test_pynwb_reads_every_value(copy, states):
    assert pynwb.validate(path=str(copy)) == []
    with pynwb.NWBHDF5IO(copy, "r") as io:
        nwb = io.read()
        assert nwb.identifier == "session-1"
        module = nwb.processing["ldmfilter"]
        assert states.attrs["model_id"] in module.description
        assert set(module.data_interfaces) == {*series_of(states), "segments"}
        for name, values in series_of(states).items():
            series = module[name]
            same(series.data[:], values)
            same(series.timestamps[:], states["time"])
            assert (series.conversion, series.offset, series.timestamps_unit) == (1.0, 0.0, "seconds")
            assert len(series.description) > 10
        assert module["place_lower"].unit == module["place_true"].unit == "cm"
        assert module["filtered_mean"].unit == "a.u."
        assert json.loads(module["filtered_mean"].comments) == states.attrs
        assert module["filtered_lower"].description == (
            "Lower bound of the interval, level 0.9: state given what was recorded up to its bin (t|t)"
        )
        assert module["ahead_0.5s_mean"].description == (
            "Mean: state 0.5 s after its bin, given what was recorded up to the bin (t+ahead|t)"
        )
        assert module["lagged_mean"].description == (
            "Mean: state given what was recorded up to 0.3 s after its bin, in whole frames of its kind (t|t+lag)"
        )
        assert module["place_ahead_0.1s_mean"].description == (
            "Mean: behaviour processing/behavior/place 0.1 s after its bin, read from the states"
        )
        assert module["rate_ahead_0.1s"].description.startswith("Expected rate of each unit 0.1 s after a bin")
        assert module["rate_ahead_0.1s_upper"].description.startswith("Upper bound of the interval: expected rate")
        for name in ("rate", "rate_lower", "rate_ahead_0.5s", "rate_ahead_0.5s_upper"):
            assert json.loads(module[name].comments) == {"unit": ["a", "+b"]}
            assert module[name].unit == "Hz"
        assert module["place_mean"].description == "Mean: behaviour processing/behavior/place, read from the states"
        table = module["segments"].to_dataframe()
        assert table["segment"].tolist() == [0, 1, 2]
        assert table["label"].tolist() == LABELS
        np.testing.assert_allclose(table["start_time"], [10, 20, 47], atol=1e-9)
        np.testing.assert_allclose(table["stop_time"], [20, 40, 67], atol=1e-9)
        # What is shared is there once.
        assert module["trained"].timestamps is module["segment"].timestamps


def test_classes_are_named(states, session, tmp_path):
    labels, probability = np.array(["rest", "run"]), np.full((500, 2), 0.5, np.float32)
    classes = {"kind_probability": (("time", "kind_class"), probability), "kind_read": ("time", labels.repeat(250))}
    states = states.assign(classes).assign_coords(kind_class=labels)
    copy = to_nwb(states, session, tmp_path / "copy.nwb")
    assert left_out("nwb", states) == left_out("pynapple", states) == ["kind_read"]
    assert left_out("parquet", states) == left_out("netcdf", states) == []
    with pynwb.NWBHDF5IO(copy, "r") as io:
        module = io.read().processing["ldmfilter"]
        assert json.loads(module["kind_probability"].comments) == {"kind_class": ["rest", "run"]}
        assert "kind_read" not in module.data_interfaces


@pytest.mark.filterwarnings("ignore:Some starts and ends are equal")
def test_pynapple_sees_the_states(copy, states):
    found = nap.load_file(str(copy))
    kinds = {1: nap.Tsd, 2: nap.TsdFrame, 3: nap.TsdTensor}
    for name, values in series_of(states).items():
        series = found[name]
        assert type(series) is kinds[values.ndim]
        same(series.values, values)
        same(series.t, states["time"])
    assert found["segments"]["label"].tolist() == LABELS
    assert len(found["units"]) == 2
    same(found["place"].values, np.arange(600.0))
    found.close()


def findings(path: Path) -> list[tuple]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = list(inspect_nwbfile(nwbfile_path=path, importance_threshold=Importance.BEST_PRACTICE_VIOLATION))
    return sorted((one.importance.name, one.check_function_name, one.location or "") for one in found)


def test_nwbinspector_finds_nothing_new(copy, session):
    assert findings(copy) == findings(session) != []


def test_everything_else_stays_as_it_was(copy, session):
    def content(path: Path) -> dict:
        found = {}

        def look(name, item):
            if not name.startswith("processing/ldmfilter"):
                attributes = {key: str(value) for key, value in item.attrs.items()}
                values = item[()] if isinstance(item, h5py.Dataset) else None
                found[name] = (attributes, values.tolist() if isinstance(values, np.ndarray) else str(values))

        with h5py.File(path) as file:
            file.visititems(look)
        return found

    before, after = content(session), content(copy)
    video = "acquisition/video/external_file"
    assert before.pop(video)[0] == after.pop(video)[0]
    assert after == before
    read = read_session(copy)
    assert set(read.behavior) == {"acquisition/lfp", "processing/behavior/place"}  # states are not what was recorded
    assert not read.intervals


def test_paths_to_other_files_lead_there_from_another_folder(copy, session, tmp_path):
    with h5py.File(copy) as file:
        assert file.get("acquisition/lfp", getlink=True).filename == "../data/raw.h5"
        assert file["acquisition/lfp/data"][:].tolist() == list(range(50))
        paths = file["acquisition/video/external_file"].asstr()[:].tolist()
        assert paths == ["../data/videos/a.avi", "https://host/b.avi"]
        assert (copy.parent / paths[0]).exists()
        assert file["acquisition/video/external_file"].attrs["starting_frame"].tolist() == [0, 2]
    beside = to_nwb(make_states(session), session, session.with_name("beside.nwb"))
    with h5py.File(beside) as file:
        assert file.get("acquisition/lfp", getlink=True).filename == "raw.h5"
        assert file["acquisition/video/external_file"].asstr()[:].tolist() == ["videos/a.avi", "https://host/b.avi"]


def test_paths_from_a_session_that_is_a_link(session, tmp_path):
    """What lies beside the file itself is found from there, the copy beside the link included."""
    link = tmp_path / "link.nwb"
    link.symlink_to(session)
    copy = to_nwb(make_states(session), link, tmp_path / "copy.nwb")
    with h5py.File(copy) as file:
        assert file.get("acquisition/lfp", getlink=True).filename == "data/raw.h5"
        assert file["acquisition/lfp/data"].shape == (50,)
        assert file["acquisition/video/external_file"].asstr()[0] == "data/videos/a.avi"


def test_absolute_paths_stay(session, tmp_path):
    raw = session.with_name("raw.h5")
    with h5py.File(session, "a") as file:
        del file["acquisition/lfp"]
        file["acquisition/lfp"] = h5py.ExternalLink(str(raw), "/lfp")
    with h5py.File(to_nwb(make_states(session), session, tmp_path / "copy.nwb")) as file:
        assert file.get("acquisition/lfp", getlink=True).filename == str(raw)


def test_data_that_lie_in_other_files_want_the_copy_beside_them(session, tmp_path):
    layout = h5py.VirtualLayout((50,), float)
    layout[:] = h5py.VirtualSource("raw.h5", "lfp/data", (50,))
    with h5py.File(session, "a") as file:
        file.create_virtual_dataset("acquisition/virtual", layout)
    states = make_states(session)
    assert line(to_nwb, states, session, tmp_path / "copy.nwb") == (
        f"{session}: acquisition/virtual lies in other files; write the copy beside the session"
    )
    assert not (tmp_path / "copy.nwb").exists()
    with h5py.File(to_nwb(states, session, session.with_name("copy.nwb"))) as file:
        assert file["acquisition/virtual"][:].tolist() == list(range(50))


def test_what_nobody_understands_is_copied(session, tmp_path):
    with h5py.File(session, "a") as file:
        group = file.create_group("acquisition/strange")
        group.attrs.update(namespace="ndx-nobody-has-this", neurodata_type="Strange", object_id="7")
        group["data"] = [1, 2, 3]
    copy = to_nwb(make_states(session), session, tmp_path / "copy.nwb")
    with h5py.File(copy) as file:
        assert file["acquisition/strange/data"][:].tolist() == [1, 2, 3]
        assert file["acquisition/strange"].attrs["namespace"] == "ndx-nobody-has-this"
        assert file["processing/ldmfilter/filtered_mean/data"].shape == (500, 3)


def test_in_place(session, states, tmp_path):
    session.chmod(0o640)
    link = tmp_path / "link.nwb"
    link.symlink_to(session)
    assert to_nwb(states, link, in_place=True) == link
    assert link.is_symlink()
    assert session.stat().st_mode & 0o777 == 0o640
    assert pynwb.validate(path=str(session)) == []
    with h5py.File(session) as file:
        same(file["processing/ldmfilter/filtered_cov/data"][:], states["filtered_cov"])
        assert file.get("acquisition/lfp", getlink=True).filename == "raw.h5"
    assert sorted(path.name for path in session.parent.iterdir()) == ["raw.h5", "session.nwb", "videos"]
    # The file is another one now; states decoded from it replace those that it holds, when asked for.
    assert line(to_nwb, states, session, in_place=True, overwrite=True) == (
        f"{session}: is not the file that the states were decoded from, or has changed since; decode it again"
    )
    again = make_states(session).isel(time=slice(0, 100))
    assert line(to_nwb, again, session, in_place=True) == (
        f"{session}: holds processing/ldmfilter already; overwrite it, or choose another format to export to"
    )
    to_nwb(again, session, in_place=True, overwrite=True)
    with h5py.File(session) as file:
        same(file["processing/ldmfilter/filtered_cov/data"][:], again["filtered_cov"])
    assert pynwb.validate(path=str(session)) == []


def test_what_others_write_meanwhile_is_kept(session, states):
    def follow(blocks):
        with h5py.File(session, "a") as file:
            file["acquisition/new"] = [1]
        return blocks

    assert line(to_nwb, states, session, in_place=True, follow=follow) == (
        f"{session}: is not the file that the states were decoded from, or has changed since; decode it again"
    )
    with h5py.File(session) as file:
        assert file["acquisition/new"][:].tolist() == [1]
        assert "ldmfilter" not in file["processing"]


def test_a_read_only_session_stays_so(session, states, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    before = session.read_bytes()
    assert line(to_nwb, states, session, in_place=True) == (f"{session}: is read-only; write into a copy, not in place")
    assert session.read_bytes() == before


def test_a_file_without_modules(session, tmp_path):
    with h5py.File(session, "a") as file:
        del file["processing"]
    copy = to_nwb(make_states(session), session, tmp_path / "copy.nwb")
    assert pynwb.validate(path=str(copy)) == []


# Refusals


def test_sessions_that_are_none(session, states, tmp_path):
    out = tmp_path / "copy.nwb"
    never = "states are written into NWB in HDF5 only; choose another format to export to"
    zarr = tmp_path / "session.nwb.zarr"
    zarr.mkdir()
    (zarr / ".zattrs").write_text('{"nwb_version": "2.8.0"}')
    assert line(to_nwb, states, zarr, out) == f"{zarr}: is NWB in zarr; {never}"
    text = tmp_path / "session.npz"
    text.write_text("no HDF5")
    for other in (text, tmp_path / "data"):
        assert line(to_nwb, states, other, out) == f"{other}: is no NWB file; {never}"
    for address in ("https://host/session.nwb", Path("https://host/session.nwb")):
        assert line(to_nwb, states, address, out) == (
            "https://host/session.nwb: lies on a server; download it, or choose another format to export to"
        )
    gone = tmp_path / "gone.nwb"
    assert line(to_nwb, states, gone, out) == (f"{gone}: no such file; say where the session lies now")
    raw = session.with_name("raw.h5")
    assert line(to_nwb, states, raw, out) == f"{raw}: is HDF5 but not NWB (no nwb_version); give an NWB file"
    cut = tmp_path / "cut.nwb"
    cut.write_bytes(session.read_bytes()[:20_000])
    assert line(to_nwb, states, cut, out) == f"{cut}: is truncated; copy or download it again"
    with h5py.File(session, "a") as file:
        del file["processing"]
        file["processing"] = h5py.ExternalLink("raw.h5", "/")
    assert line(to_nwb, states, session, out) == (
        f"{session}: its processing modules are a link or no group; choose another format to export to"
    )
    assert not out.exists()


def test_a_session_that_is_open_elsewhere(session, states, tmp_path, monkeypatch):
    monkeypatch.setenv("HDF5_USE_FILE_LOCKING", "TRUE")
    code = f"import h5py, sys; file = h5py.File({str(session)!r}, 'a'); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        writer.stdout.readline()
        assert line(to_nwb, states, session, tmp_path / "copy.nwb") == (
            f"{session}: cannot be read (Resource temporarily unavailable); close programs that write to it and check "
            "the permissions"
        )
        writer.stdin.close()


def test_another_session_than_the_states(session, states, tmp_path):
    (tmp_path / "other").mkdir()
    other = write_session(tmp_path / "other" / "session.nwb")  # the same, but for the names of its objects
    out = tmp_path / "copy.nwb"
    assert line(to_nwb, states, other, out) == (
        f"{other}: is not the file that the states were decoded from, or has changed since; decode it again"
    )
    assert not out.exists()
    del states.attrs["source_checksum"]
    assert line(to_nwb, states, session, out).startswith(f"{session}: is not the file")


def test_the_copy_is_not_the_session(session, states, tmp_path):
    hard = tmp_path / "hard.nwb"
    hard.hardlink_to(session)
    for out in (session, hard):
        assert line(to_nwb, states, session, out, overwrite=True) == (
            f"{out}: is {session} or would replace a part of it; choose another name"
        )
    for more in ({}, {"out": tmp_path / "copy.nwb", "in_place": True}):
        assert line(to_nwb, states, session, **more) == (f"{session}: name a copy, or ask for in_place, one of the two")


@pytest.mark.parametrize("in_place", [False, True])
def test_stopped_between_blocks_leaves_what_was(session, states, tmp_path, small_blocks, in_place):
    def stop(blocks):
        yield next(blocks)
        raise StoppedError

    before, out = session.read_bytes(), None if in_place else tmp_path / "copy.nwb"
    with pytest.raises(StoppedError):
        to_nwb(states, session, out, in_place=in_place, follow=stop)
    assert session.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
    assert len(list(session.parent.iterdir())) == 3


KILLED = """
import errno, os, resource, shutil, signal, sys
from pathlib import Path
import ldmfilter.export.latents
from ldmfilter.errors import InputError
from ldmfilter.export import FORMATS, WRITERS, to_nwb
from tests.export.conftest import make_states

session, folder = map(Path, sys.argv[1:])
ldmfilter.export.latents.BLOCK = 96
states = make_states(session)


def write(to, out, follow):
    if to == "in_place":
        to_nwb(states, session, None, True, True, follow)
    elif to == "nwb":
        to_nwb(states, session, out, True, follow=follow)
    else:
        WRITERS[to](states, out, True, follow)


def killed(blocks):
    yield next(blocks)
    yield next(blocks)
    os.kill(os.getpid(), signal.SIGKILL)


for how in ("killed", "full"):
    for to in (*FORMATS, "in_place"):
        child = os.fork()
        if not child:
            if how == "full":
                size = session.stat().st_size + 1000 if to in ("nwb", "in_place") else 15_000
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
            try:
                write(to, folder / f"{to}{FORMATS.get(to, '')}", killed if how == "killed" else iter)
                code = 1
            except InputError as error:
                code = 2 + (not str(error).endswith("no space left on the disk; free some or write elsewhere"))
            os._exit(code)
        print(how, to, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_killed_or_out_of_space_leaves_what_was(session, tmp_path):
    """A process that is killed in the middle, and a disk that is full in the middle, for each format."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "csv.csv").write_text("as it was")
    before = session.read_bytes()
    words = [sys.executable, "-c", KILLED, session, folder]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    formats = ("nwb", "netcdf", "csv", "pynapple", "parquet", "in_place")
    assert done.stdout.splitlines() == [f"killed {to} -9" for to in formats] + [f"full {to} 2" for to in formats]
    assert session.read_bytes() == before
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == ["csv.csv"]
    assert (folder / "csv.csv").read_text() == "as it was"
    # What a killed process had begun lies hidden beside; one whose disk was full has cleaned up.
    assert len(list(folder.glob(".*"))) == 5
    assert len(list(session.parent.glob(".*"))) == 1
