"""Opening a stranger's file runs nothing, reads no other file, and writes nowhere but where it was told."""

import ast
import pickle
import re
from pathlib import Path

import h5py
import numcodecs
import numpy as np
import pytest
import torch
import zarr

from ldmfilter.data import read_session
from ldmfilter.data.session import Session
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.errors import InputError, one_line
from ldmfilter.export import read_latents
from ldmfilter.filter.model import load
from ldmfilter.filter.runs import Run, new_folder
from tests.bomb import Bomb
from tests.fuzzing import write_nwb

PACKAGE = Path(__file__).parents[2]
SECRET = b"a secret of this machine that no session may show" * 4


@pytest.fixture(scope="module")
def session():
    return linear_track_session(seed=6, n_units=8, duration=20.0, rest=5.0)


@pytest.fixture(scope="module")
def nwb_file(session, tmp_path_factory):
    return write_nwb(session, tmp_path_factory.mktemp("nwb") / "session.nwb")


@pytest.fixture
def nwb(nwb_file, tmp_path):
    path = tmp_path / "session.nwb"
    path.write_bytes(nwb_file.read_bytes())
    return path


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret.txt"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def bomb(marker):
    """Something that must not be unpickled: the test fails where it was."""
    return Bomb(marker)


def line_of(read, *arguments):
    with pytest.raises(InputError) as caught:
        read(*arguments)
    line = str(caught.value)
    assert line == one_line(line)
    return line


# --- what the package itself never does ------------------------------------------------------------------------------

FORBIDDEN = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "runpy", "yaml", "code",
    "jsonpickle",
}  # fmt: skip
CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "execfile",
    "system",
    "popen",
    "read_pickle",
    "unsafe_load",
    "full_load",
}
SETTINGS = {"allow_pickle": True, "weights_only": False, "shell": True, "trust_remote_code": True}


def complaints(text: str) -> list[str]:
    """The parts of a module's text that can run code from a file."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and not node.args and not node.keywords:
            continue  # a call without arguments, as a network's eval(), is given nothing to run
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name in FORBIDDEN]
        elif isinstance(node, ast.ImportFrom) and node.module in FORBIDDEN:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            # Compiling a regular expression is no compiling of code.
            if name in CALLS and not (name == "compile" and getattr(owner, "id", "") == "re"):
                found.append(name)
            if name == "load" and getattr(owner, "id", "") in ("torch", "np", "numpy", "yaml"):
                found.append(f"{owner.id}.load")
            for keyword in node.keywords:
                if keyword.arg in SETTINGS and getattr(keyword.value, "value", True) == SETTINGS[keyword.arg]:
                    found.append(keyword.arg)
            if any(isinstance(a, ast.Constant) and a.value in ("pickle", "json2") for a in node.args):
                found.append("object codec")
    return found


def test_nothing_in_the_package_runs_what_a_file_holds():
    files = [*(PACKAGE / "ldmfilter").rglob("*.py"), *(PACKAGE / "cli").rglob("*.py")]
    assert len(files) > 50
    found = {path.relative_to(PACKAGE).as_posix(): complaints(path.read_text(encoding="utf-8")) for path in files}
    # A person's query on unit columns, evaluated by pandas once it is seen to hold names and comparisons only.
    assert {name: what for name, what in found.items() if what} == {"ldmfilter/data/selection.py": ["eval"]}


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "np.load(p, allow_pickle=True)", "torch.load(p)", "eval(x)",
        "np.lib.format.read_array(f, allow_pickle=True)", "pd.read_pickle(p)", "import yaml", "os.system(x)",
        "subprocess.run(x, shell=True)", "f(x, weights_only=False)", "f(allow_pickle=flag)", "get_codec('pickle')",
    ],
)  # fmt: skip
def test_the_search_finds_what_it_looks_for(line):
    assert complaints(line)


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_pickle_that_is_named_a_model(bomb, tmp_path):
    torch.save({"weights": bomb}, tmp_path / "model.safetensors")
    assert "model.safetensors: damaged file (" in line_of(load, tmp_path)
    (tmp_path / "model.safetensors").write_bytes(pickle.dumps(bomb))
    assert "model.safetensors: damaged file (" in line_of(load, tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"", b"{", b"[]", b"null", b'{"__metadata__": {"ldmfilter": "[]"}}', b'{"__metadata__": {"ldmfilter": 3}}',
        b'{"a": {"dtype": "F32", "shape": [1000000000000], "data_offsets": [0, 4000000000000]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}',
        b'{"a": {"dtype": "O", "shape": [1], "data_offsets": [0, 8]}}',
        b'{"__metadata__": {"ldmfilter": "{\\"description\\": {}, \\"sha256\\": \\"\\"}"}}',
        b"[" * 100_000,
    ],
)  # fmt: skip
@pytest.mark.parametrize("length", [None, 2**63, 2**64 - 1])
def test_odd_headers_of_models(tmp_path, header, length):
    size = len(header) if length is None else length
    (tmp_path / "model.safetensors").write_bytes(size.to_bytes(8, "little") + header + bytes(8))
    assert "model.safetensors: damaged file (" in line_of(load, tmp_path)


# --- numpy -----------------------------------------------------------------------------------------------------------


def test_objects_of_numpy(bomb, tmp_path):
    objects = np.empty((2, 2), dtype=object)
    objects[:] = bomb
    np.save(tmp_path / "counts.npy", objects, allow_pickle=True)
    assert "holds pickled objects" in line_of(read_session, tmp_path / "counts.npy", "counts", 0.1)
    np.savez(tmp_path / "counts.npz", counts=objects, bin_size=0.1)
    assert "counts: holds pickled objects" in line_of(read_session, tmp_path / "counts.npz")
    # A pickle alone is what numpy takes every file for that is none of its own.
    (tmp_path / "bare.npy").write_bytes(pickle.dumps(bomb))
    line_of(read_session, tmp_path / "bare.npy", "counts", 0.1)


# --- zarr ------------------------------------------------------------------------------------------------------------


def objects_in(path, bomb, codec):
    items = np.empty(8, dtype=object)
    items[:] = [bomb] * 8 if isinstance(codec, numcodecs.Pickle) else ["text"] * 8
    zarr.open_group(str(path), mode="a").create_dataset("objects", data=items, object_codec=codec)
    return path / "objects"


@pytest.mark.parametrize("codec", [numcodecs.Pickle(), numcodecs.JSON(), numcodecs.VLenUTF8(), numcodecs.MsgPack()])
def test_objects_in_zarr(session, bomb, tmp_path, codec):
    path = session.to_zarr(tmp_path / "session.zarr")
    objects_in(path / "units", bomb, codec)
    line = line_of(read_session, path)
    assert line == (
        f"{path}: units/objects: codec {codec.codec_id} is refused, it may run code; "
        "store numbers, bools or fixed-width text"
    )


@pytest.mark.parametrize("what", ["array", "group", "chunk"])
def test_links_within_stores(session, bomb, secret, tmp_path, what):
    """A link would hide an array from the one who looks for objects, or give the bytes of any file as values."""
    path = session.to_zarr(tmp_path / "session.zarr")
    outside = objects_in(tmp_path / "outside.zarr", bomb, numcodecs.Pickle())
    if what == "chunk":
        chunk = next((path / "units" / "cell_type").glob("[0-9]*"))
        chunk.unlink()
        chunk.symlink_to(secret)
    else:
        target = outside if what == "array" else outside.parent
        (path / "units" / "linked").symlink_to(target, target_is_directory=True)
    for read in (read_session, lambda path: read_session(path, "zarr")):
        assert line_of(read, path).endswith("is a link within a store, refused; copy what it leads to")


def test_links_within_states(tmp_path):
    import xarray as xr

    path = tmp_path / "latents.zarr"
    xr.Dataset(attrs={"format": "ldmfilter-latents"}).to_zarr(path, zarr_format=2)
    (path / "evil").symlink_to(tmp_path, target_is_directory=True)
    assert line_of(read_latents, path).endswith("evil: is a link within a store, refused; copy what it leads to")


# --- HDF5 ------------------------------------------------------------------------------------------------------------


def outside_bytes(file, name, secret, dtype, shape):
    """An array whose bytes are those of another file."""
    attributes = dict(file[name].attrs)
    del file[name]
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_external(str(secret).encode(), 0, h5py.h5s.UNLIMITED)
    space = h5py.h5s.create_simple(shape) if shape else h5py.h5s.create(h5py.h5s.SCALAR)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, space, properties)
    for key, value in attributes.items():
        file[name].attrs[key] = value


def everything(session):
    """All that a session holds, as text."""
    parts = [repr(session.source), repr(session.units.to_dict()), session.spike_times.tobytes().hex()]
    parts += [repr(table.to_dict()) for table in session.intervals.values()]
    parts += [series.values.tobytes().hex() for series in session.behavior.values()]
    return "\n".join(parts)


SPEED = "processing/behavior/speed/data"


def test_the_secret_would_be_seen(nwb):
    """The same bytes within the file itself are read, so that the tests below can fail."""
    with h5py.File(nwb, "r+") as file:
        attributes = dict(file[SPEED].attrs)
        del file[SPEED]
        file[SPEED] = np.frombuffer(SECRET[:80], dtype=np.uint8)
        for key, value in attributes.items():
            file[SPEED].attrs[key] = value
    assert SECRET[:80].hex() in everything(read_session(nwb))


def test_raw_bytes_of_other_files(nwb, secret):
    with h5py.File(nwb, "r+") as file:
        outside_bytes(file, SPEED, secret, "u1", (80,))
        assert file[SPEED][:].tobytes() == SECRET[:80]
    with pytest.warns(UserWarning, match="behavior/speed/data: left out, its values lie in another file"):
        session = read_session(nwb)
    assert "processing/behavior/Position/place" in session.behavior
    assert SECRET[:20].hex() not in everything(session)


@pytest.mark.parametrize("name", ["identifier", "units/spike_times"])
def test_raw_bytes_that_are_needed(nwb, secret, name):
    with h5py.File(nwb, "r+") as file:
        dtype, shape = ("S40", ()) if name == "identifier" else ("<f8", file[name].shape)
        outside_bytes(file, name, secret, dtype, shape)
    line = line_of(read_session, nwb)
    assert line.startswith(f"{nwb}: {name}: its value")
    assert "in another file, refused" in line


def test_raw_bytes_behind_a_link(nwb, nwb_file, secret, tmp_path):
    """A linked file is no more to be trusted than the one that links to it."""
    (tmp_path / "linked.nwb").write_bytes(nwb_file.read_bytes())
    with h5py.File(tmp_path / "linked.nwb", "r+") as file:
        outside_bytes(file, SPEED, secret, "u1", (80,))
    with h5py.File(nwb, "r+") as file:
        del file["processing/behavior/speed"]
        file["processing/behavior/speed"] = h5py.ExternalLink("linked.nwb", "processing/behavior/speed")
    with pytest.warns(UserWarning, match="left out, its values lie in another file"):
        assert SECRET[:20].hex() not in everything(read_session(nwb))
    with h5py.File(tmp_path / "linked.nwb", "r+") as file:
        outside_bytes(file, "identifier", secret, "S40", ())
    line = line_of(read_session, nwb)
    assert (
        line == f"{tmp_path / 'linked.nwb'}: identifier: its value lies in another file, refused; write the file anew"
    )


def test_arrays_of_other_files(nwb, tmp_path):
    """A virtual array may be put together from any HDF5 file; one of the same file is read."""
    with h5py.File(tmp_path / "private.h5", "w") as file:
        file["x"] = np.full(80, 777.5)
    for source in (tmp_path / "private.h5", Path(".")):
        with h5py.File(nwb, "r+") as file:
            attributes = dict(file[SPEED].attrs)
            del file[SPEED]
            if str(source) == ".":
                file["general/mine"] = np.full(80, 2.5)
            layout = h5py.VirtualLayout((80,), "f8")
            layout[:] = h5py.VirtualSource(str(source), "x" if source.suffix else "general/mine", (80,))
            file.create_virtual_dataset(SPEED, layout)
            for key, value in attributes.items():
                file[SPEED].attrs[key] = value
        if source.suffix:
            with pytest.warns(UserWarning, match="left out, its values lie in another file"):
                assert "processing/behavior/speed" not in read_session(nwb).behavior
        else:
            assert read_session(nwb).behavior["processing/behavior/speed"].values.tolist() == [2.5] * 80


@pytest.mark.parametrize("target", ["/etc/passwd", "../../../../etc/passwd", "nowhere.nwb", "."])
def test_links_to_what_is_no_session(nwb, target):
    with h5py.File(nwb, "r+") as file:
        del file["processing/behavior/speed"]
        file["processing/behavior/speed"] = h5py.ExternalLink(target, "/")
    with pytest.warns(UserWarning, match="left out, a link that leads nowhere"):
        session = read_session(nwb)
    assert "root:" not in everything(session)


def test_links_in_a_circle(nwb):
    with h5py.File(nwb, "r+") as file:
        file["processing/behavior/round"] = h5py.SoftLink("/processing")
        file["processing/behavior/self"] = h5py.ExternalLink(nwb.name, "/")
    assert line_of(read_session, nwb).startswith(f"{nwb}: does not follow the NWB schema (")


@pytest.mark.parametrize("name", ["../../evil", "os", "ldmfilter; touch code-has-run", "a\n\x1b[31mb", "x" * 5000])
def test_names_of_specifications(nwb, bomb, name):
    """A file may bring its own types: their names become part of nothing that is run or opened."""
    with h5py.File(nwb, "r+") as file:
        speed = file["processing/behavior/speed"]
        speed.attrs["namespace"] = name
        speed.attrs["neurodata_type"] = "__import__('os').mkdir('code-has-run')"
        versions = file["specifications"].require_group("odd/1.0")
        versions["namespace"] = f'{{"namespaces": [{{"name": {name!r:.50}, "schema": [{{"source": "../../x"}}]}}]}}'
    with pytest.warns(UserWarning, match=r"session\.nwb: ") as said:
        assert "processing/behavior/speed" not in read_session(nwb).behavior
    assert all(len(str(one.message)) < 600 for one in said)


def test_counts_that_lie_elsewhere(tmp_path, secret):
    from ldmfilter.data.binning import bin_spikes

    path = tmp_path / "counts.nc"
    bin_spikes(Session.from_spikes([np.arange(0.0, 4.0, 0.1)] * 2), 0.1).to_netcdf(path, engine="h5netcdf")
    with h5py.File(path, "r+") as file:
        scales, shape = file["counts"].attrs["DIMENSION_LIST"], file["counts"].shape
        attributes = {key: file["counts"].attrs[key] for key in file["counts"].attrs if key != "DIMENSION_LIST"}
        del file["counts"]
        file.create_dataset("counts", shape=shape, dtype="u1", external=[(str(secret), 0, shape[0] * shape[1])])
        file["counts"].attrs.create("DIMENSION_LIST", scales, dtype=h5py.vlen_dtype(h5py.ref_dtype))
        file["counts"].attrs.update(attributes)
    assert line_of(read_session, path) == (
        f"{path}: counts: its values lie in another file, refused; write the file anew"
    )


# --- names that become paths -----------------------------------------------------------------------------------------

NAMES = ["../../evil", "/etc/evil", "..", ".", "a/b/../../../c", "a\\..\\b", "nul\x00l", "\x1b[31m", "~/x", ".zarray"]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leads_out_of_an_output(session, tmp_path, name):
    crafted = Session.from_spikes(
        {f"{name}1": [0.1, 0.5], f"{name}2": [0.2]},
        units={name or "x": ["a", "b"]},
        intervals={name: {"start_time": [0.0], "stop_time": [1.0], name or "x": ["t"]}},
        behavior={name: next(iter(session.behavior.values()))},
    )
    home = tmp_path / "deep" / "deeper" / "deepest"
    home.mkdir(parents=True)
    assert set(read_session(crafted.to_zarr(home / "session.zarr")).intervals) == {name}
    files = {file.relative_to(tmp_path) for file in tmp_path.rglob("*") if file.is_file()}
    assert all(file.parts[:4] == ("deep", "deeper", "deepest", "session.zarr") for file in files)


@pytest.mark.parametrize("name", [*NAMES, "x" * 300])
def test_a_run_folder_s_name(name, session, tmp_path, monkeypatch):
    from dataclasses import replace
    from datetime import UTC, datetime

    monkeypatch.chdir(tmp_path)
    odd = replace(session, source=replace(session.source, path=f"/data/{name}.nwb"))
    folder = new_folder([odd], datetime.now(UTC))
    assert folder.parent == Path("runs")
    assert re.fullmatch(r"[\w-]{16,90}", folder.name)


def test_a_run_folder_says_no_path_to_write_to(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1, "session": "../../x", "created": "\\u001b[31m", "checksum": ""}')
    assert "run.json" in line_of(Run.open, tmp_path) or "config.toml" in line_of(Run.open, tmp_path)
