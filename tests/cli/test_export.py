"""`ldmfilter export` as a person meets it."""

import json
import shutil
import warnings

import numpy as np
import pandas as pd
import pynapple as nap
import pytest
import xarray as xr

from ldmfilter.data import read_session
from tests.cli.conftest import QUICK, here
from tests.cli.test_commands import SAMPLE

LEFT_OUT = "has no filtered_cov, innovation_cov, predicted_cov; parquet and netcdf hold all"
ENDINGS = {"nwb": ".nwb", "netcdf": ".nc", "csv": ".csv", "parquet": ".parquet", "pynapple": ""}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a session, a run on some of it, and the states of all of it as `decode` gives them."""
    folder = tmp_path_factory.mktemp("export")
    shutil.copy(SAMPLE, folder / "rat 1.nwb")
    words = ["--run", "runs/one", "--span", "0:120", "--quiet", *QUICK]
    assert here("train", "rat 1.nwb", *words, cwd=folder).code == 0
    assert here("decode", "--out", "latents.zarr", "--quiet", cwd=folder).code == 0
    return folder


@pytest.fixture(scope="module")
def decoded(folder):
    with xr.open_zarr(folder / "latents.zarr") as latents:
        return latents.load()


def refused(ended, line: str) -> None:
    """Just this line, exit code 3, nothing on stdout."""
    assert (ended.code, ended.out, ended.err) == (3, "", f"ldmfilter: {line}\n")


def means(to: str, path) -> np.ndarray:
    """The filtered means, as the libraries that people use read them."""
    if to == "nwb":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return nap.load_file(str(path))["filtered_mean"].values[:]
    if to == "pynapple":
        return nap.load_folder(path)["filtered_mean"].values
    if to == "netcdf":
        with xr.open_dataset(path, engine="h5netcdf") as states:
            return states["filtered_mean"].to_numpy()
    table = pd.read_csv(path) if to == "csv" else pd.read_parquet(path)
    return table[["state_0", "state_1"]].to_numpy().astype(np.float32)


@pytest.mark.parametrize("to", ENDINGS)
def test_the_latest_run_under_the_session_s_name(folder, decoded, to):
    ended = here("export", "--to", to, cwd=folder)
    assert ended.code == 0, ended.err
    assert ended.out == f"rat_1-latents{ENDINGS[to]}\n"
    first, *more = ended.err.splitlines()
    assert first == f"5999 bins of 0.1 s from {folder / 'rat 1.nwb'}, model of runs/one"
    assert more == [f"rat_1-latents.csv: {LEFT_OUT}"] * (to == "csv")
    np.testing.assert_array_equal(means(to, folder / ended.out.strip()), decoded["filtered_mean"])
    assert not list(folder.glob(".*"))
    refused(
        here("export", "--to", to, cwd=folder),
        f"rat_1-latents{ENDINGS[to]}: exists already; choose another name or overwrite it",
    )
    again = here("export", "runs/one", "--to", to, "--overwrite", "--quiet", cwd=folder)
    assert (again.code, again.out, again.err) == (0, ended.out, "")


@pytest.mark.parametrize("to", ENDINGS)
def test_what_decode_made(folder, decoded, tmp_path, to):
    out = tmp_path / f"states{ENDINGS[to]}"
    ended = here("export", "latents.zarr", "--to", to, "--out", out, cwd=folder)
    assert (ended.code, ended.out, ended.err) == (0, f"{out}\n", f"{out}: {LEFT_OUT}\n" if to == "csv" else "")
    np.testing.assert_array_equal(means(to, out), decoded["filtered_mean"])


def test_behaviour_and_smoothed_states_come_with_what_decode_made(trained, tmp_path):
    store, out = tmp_path / "more.zarr", tmp_path / "more.csv"
    words = ["--run", "run", "--smooth", "--behavior", "linear_position", "--quiet"]
    assert here("decode", "--out", store, *words, cwd=trained).code == 0
    assert here("export", store, "--to", "csv", "--out", out, cwd=trained).code == 0
    table = pd.read_csv(out)
    with xr.open_zarr(store) as latents:
        for head, values in {
            "state_1_smoothed": latents["smoothed_mean"][:, 1],
            "linear_position_mean (cm)": latents["linear_position_mean"],
            "linear_position_true (cm)": latents["linear_position_true"],
        }.items():
            np.testing.assert_array_equal(table[head].astype(np.float32), values)


def test_counts_and_other_sessions_that_are_no_nwb(trained, session_file, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    out = tmp_path / "run" / "states.parquet"
    assert here("export", "run", "--to", "parquet", "--out", "run/states.parquet", cwd=tmp_path).code == 0
    assert len(pd.read_parquet(out)) == 1200
    refused(
        here("export", "run", "--to", "nwb", cwd=trained),
        f"{session_file}: is no NWB file; states are written into NWB in HDF5 only; choose another format to export to",
    )


def test_in_place(folder, tmp_path):
    for name in ("runs", "latents.zarr"):
        shutil.copytree(folder / name, tmp_path / name)
    session = tmp_path / "moved.nwb"
    shutil.copy(folder / "rat 1.nwb", session)
    ended = here("export", "--to", "nwb", "--in-place", "--session", session, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out == f"{session}\n"
    assert ended.err.splitlines()[1:] == [
        f"{session}: has another checksum now; commands that read a run's own session want the file as it was"
    ]
    assert means("nwb", session).shape == (5999, 2)
    assert set(read_session(session).behavior) == set(read_session(SAMPLE).behavior)
    words = ["export", "--to", "nwb", "--session", session]
    refused(
        here(*words, cwd=tmp_path),
        f"{session}: holds processing/ldmfilter already; overwrite it, or choose another format to export to",
    )
    refused(
        here(*words, "--overwrite", cwd=tmp_path),
        f"{session}: is not the session that runs/one was trained on, or has changed; decode it and export what decode "
        "made",
    )
    # As that line says.
    assert here("decode", session, "--out", "new.zarr", "--quiet", cwd=tmp_path).code == 0
    again = here("export", "new.zarr", "--to", "nwb", "--in-place", "--overwrite", cwd=tmp_path)
    assert again.code == 0, again.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latents.zarr", "moved.nwb", "new.zarr", "runs"]


def test_refusals_before_any_work(folder, tmp_path):
    session, out = folder / "rat 1.nwb", tmp_path / "states.nwb"
    make = "`ldmfilter decode --out nothing.zarr` makes one"
    address = "https://host/session.nwb"
    server = f"{address}: lies on a server; download it, or choose another format to export to"
    gone = "no such file; say where the session lies now"
    replaced = "or would replace a part of it; choose another name"
    for words, said in {
        ("nothing.zarr", "--to", "csv"): f"nothing.zarr: no such store; {make}",
        ("runs", "--to", "csv"): "runs: is no run folder and no store of states; name what train or decode made",
        ("rat 1.nwb", "--to", "csv"): (
            "rat 1.nwb: is no store of latent states; give one that `ldmfilter decode` made"
        ),
        ("--to", "csv", "--out", "no/s.csv"): "no/s.csv: its folder does not exist; make it first or write elsewhere",
        ("--to", "csv", "--out", "s.txt"): (
            "s.txt: must end in .csv, by which other programs know csv; choose another name"
        ),
        ("--to", "nwb", "--out", session, "--overwrite"): f"{session}: is {session} {replaced}",
        ("latents.zarr", "--to", "pynapple", "--out", "latents.zarr", "--overwrite"): (
            f"latents.zarr: is latents.zarr {replaced}"
        ),
        ("--to", "pynapple", "--out", "runs/one", "--overwrite"): (
            "runs/one: is no folder of states for pynapple and is not replaced; choose another name"
        ),
        ("--to", "nwb", "--session", "gone.nwb"): f"gone.nwb: {gone}",
        ("--to", "csv", "--run", "gone"): "gone: no such run folder; name one that `ldmfilter train` made",
        ("--to", "csv", "--session", "gone.nwb"): "gone.nwb: no such file; check the path",
        ("--to", "nwb", "--session", address): server,
        ("latents.zarr", "--to", "nwb", "--session", address, "--in-place"): server,
    }.items():
        refused(here("export", *words, cwd=folder), said)
    other = tmp_path / "other.nwb"
    other.write_bytes(session.read_bytes() + b" ")
    refused(
        here("export", "latents.zarr", "--to", "nwb", "--session", other, "--out", out, cwd=folder),
        f"{other}: is not the file that the states were decoded from, or has changed since; decode it again",
    )
    assert not out.exists()
    assert not (folder / "s.csv").exists()


def test_wrong_usage(folder):
    for words in (
        ["--to", "hdf"],
        ["--to", "csv", "--in-place"],
        ["--to", "nwb", "--in-place", "--out", "s.nwb"],
        [],
    ):
        ended = here("export", *words, cwd=folder)
        assert (ended.code, ended.out) == (2, "")
        assert "--to" in ended.err or "--in-place" in ended.err


def test_without_a_run(tmp_path):
    refused(
        here("export", "--to", "csv", cwd=tmp_path),
        "runs: no run here; run `ldmfilter train SESSION` first, or give --run FOLDER",
    )


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("../../evil", "evil"),
        ("/etc/passwd/../=1+1.nwb", "1_1"),
        ("a/\u202e\n=x\0", "x"),
        ("https://host/..%2f..%2fevil.nwb", "2f___2fevil"),
    ],
)
def test_a_crafted_store_names_no_output_elsewhere(folder, tmp_path, path, stem):
    inner = tmp_path / "a" / "b"
    inner.mkdir(parents=True)
    shutil.copytree(folder / "latents.zarr", inner / "latents.zarr")
    about = json.loads((inner / "latents.zarr" / ".zattrs").read_text()) | {"source_path": path}
    (inner / "latents.zarr" / ".zattrs").write_text(json.dumps(about))
    ended = here("export", "latents.zarr", "--to", "csv", cwd=inner)
    assert ended.code == 0, ended.err
    name = ended.out.removesuffix("\n")
    assert {path.name for path in inner.iterdir()} == {"latents.zarr", name}
    assert name == f"{stem}-latents.csv"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]


def test_states_that_do_not_say_where_they_are_from(folder, tmp_path):
    shutil.copytree(folder / "latents.zarr", tmp_path / "latents.zarr")
    about = json.loads((tmp_path / "latents.zarr" / ".zattrs").read_text()) | {"source_path": ""}
    (tmp_path / "latents.zarr" / ".zattrs").write_text(json.dumps(about))
    assert here("export", "latents.zarr", "--to", "csv", cwd=tmp_path).out == "session-latents.csv\n"
    words = ["export", "latents.zarr", "--to", "nwb"]
    refused(
        here(*words, cwd=tmp_path),
        "latents.zarr: does not say which file it was decoded from; name it with --session",
    )
    assert here(*words, "--session", folder / "rat 1.nwb", cwd=tmp_path).out == "rat_1-latents.nwb\n"
