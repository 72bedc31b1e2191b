"""Every format through the command line: inspect, train and decode; one line for what cannot be used."""

import json
import pickle
import tomllib
import warnings

import numpy as np
import pynapple as nap
import pytest
import xarray as xr

from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.filter.runs import Run
from tests.bomb import Bomb
from tests.cli.conftest import QUICK, here
from tests.cli.test_commands import refused

RATE = 1000.0  # Hz, the clock of the sorters' folders


@pytest.fixture(scope="module")
def simulated():
    """Twelve units on a grid of ms, 60 s."""
    return linear_track_session(seed=6, n_units=12, duration=60.0, rest=10.0)


@pytest.fixture(scope="module")
def counts(simulated):
    return bin_spikes(simulated, 0.1)


def frames_of(session):
    """Samples and units of all spikes, in order of time."""
    frames = np.round(session.spike_times * RATE).astype(np.int64)
    units = np.repeat(np.arange(session.n_units), np.diff(session.spike_times_index, prepend=0))
    order = np.argsort(frames, kind="stable")
    return frames[order], units[order]


def make_phy(session, path):
    path.mkdir()
    frames, units = frames_of(session)
    np.save(path / "spike_times.npy", frames)
    np.save(path / "spike_clusters.npy", units)
    (path / "params.py").write_text(f"sample_rate = {RATE}\n")
    rows = "".join(f"{unit}\t{'good' if unit % 4 else 'mua'}\n" for unit in range(session.n_units))
    (path / "cluster_group.tsv").write_text("cluster_id\tgroup\n" + rows)


def make_sorting(session, path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import spikeinterface.core as sc

        frames, units = frames_of(session)
        sorting = sc.NumpySorting.from_samples_and_labels([frames], [units], RATE, list(range(session.n_units)))
        sorting.set_property("group", np.array(["good" if unit % 4 else "mua" for unit in range(session.n_units)]))
        sorting.save(folder=path)


def make_pynapple(session, path):
    support = nap.IntervalSet(session.start, session.stop)
    trains = {unit: nap.Ts(session.spikes_of(unit), time_support=support) for unit in range(session.n_units)}
    nap.TsGroup(trains, time_support=support).save(str(path))


def make_netcdf(session, path):
    made = bin_spikes(session, 0.1)
    made.assign_coords(group=("unit", ["good" if unit % 4 else "mua" for unit in range(12)])).to_netcdf(
        path, engine="h5netcdf"
    )


def make_zarr(session, path):
    made = bin_spikes(session, 0.1)
    made.assign_coords(group=("unit", ["good" if unit % 4 else "mua" for unit in range(12)])).to_zarr(
        path, zarr_format=2
    )


def make_npz(session, path):
    made = bin_spikes(session, 0.1)
    groups = np.array(["good" if unit % 4 else "mua" for unit in range(12)])
    np.savez(path, counts=made.values, time=made["time"].values, **{"units/group": groups})


FORMATS = {
    "phy": ("phy", make_phy),
    "sorting": ("sorting", make_sorting),
    "pynapple": ("group.npz", make_pynapple),
    "netcdf": ("counts.nc", make_netcdf),
    "zarr": ("counts.zarr", make_zarr),
    "npz": ("counts.npz", make_npz),
}


@pytest.mark.parametrize("format", FORMATS)
def test_inspect_train_decode(simulated, counts, tmp_path, format):
    name, make = FORMATS[format]
    make(simulated, tmp_path / name)
    summary = json.loads(here("inspect", name, "--json", cwd=tmp_path).out)
    assert summary["units"]["number"] == 12
    assert summary["units"]["spikes"] == int(counts.sum()) or format in ("phy", "sorting", "pynapple")
    assert summary["bin_size"] == (0.1 if format in ("netcdf", "zarr", "npz") else None)
    text = here("inspect", name, "--sort-times", cwd=tmp_path).out
    assert f"\nldmfilter train {name} --sort-times" in text.replace(str(tmp_path) + "/", "")
    assert ("counts in bins of 0.1 s, no spike times" in text) == (summary["bin_size"] is not None)
    query = [] if format == "pynapple" else ["--units", "group == 'good'"]
    ended = here("train", name, "--run", "run", *query, *QUICK, "--span", "1:50", cwd=tmp_path)
    assert ended.code == 0, ended.err
    ended = here("decode", "--run", "run", "--out", "latents.zarr", cwd=tmp_path)
    assert ended.code == 0, ended.err
    with xr.open_zarr(tmp_path / "latents.zarr") as latents:
        assert latents.sizes["unit"] == (12 if format == "pynapple" else 9)
        assert latents.sizes["time"] == pytest.approx(counts.sizes["time"], abs=1)
        assert np.isfinite(latents["filtered_mean"].values).all()


def test_the_same_states_from_spikes_and_from_their_counts(simulated, counts, tmp_path):
    """A model trained on spike times decodes the counts of the same session to the same states."""
    simulated.to_zarr(tmp_path / "session.zarr")
    counts.to_netcdf(tmp_path / "counts.nc", engine="h5netcdf")
    assert here("train", "session.zarr", "--run", "run", *QUICK, cwd=tmp_path).code == 0
    for name in ("session.zarr", "counts.nc"):
        ended = here("decode", name, "--run", "run", "--out", f"{name}.latents.zarr", cwd=tmp_path)
        assert ended.code == 0, ended.err
    with (
        xr.open_zarr(tmp_path / "session.zarr.latents.zarr") as spikes,
        xr.open_zarr(tmp_path / "counts.nc.latents.zarr") as binned,
    ):
        np.testing.assert_array_equal(spikes["filtered_mean"], binned["filtered_mean"])
        np.testing.assert_allclose(spikes["time"], binned["time"], rtol=0, atol=1e-9)


def test_bins_of_counts(simulated, tmp_path):
    made = bin_spikes(simulated, 0.05)
    made.to_netcdf(tmp_path / "counts.nc", engine="h5netcdf")
    assert here("train", "counts.nc", "--run", "own", *QUICK, cwd=tmp_path).code == 0
    assert tomllib.loads((tmp_path / "own" / "config.toml").read_text())["data"]["bin_size"] == 0.05
    assert here("train", "counts.nc", "--run", "twice", "--bin-size", "0.1", *QUICK, cwd=tmp_path).code == 0
    assert tomllib.loads((tmp_path / "twice" / "config.toml").read_text())["data"]["bin_size"] == 0.1
    refused(
        here("train", "counts.nc", "--bin-size", "0.08", cwd=tmp_path),
        "counts.nc: counts in bins of 0.05 s cannot be told in bins of 0.08 s; give 0.05 s or a whole multiple",
    )
    (tmp_path / "options.toml").write_text("[data]\nbin-size = 0.12\n")
    refused(here("train", "counts.nc", "--config", "options.toml", cwd=tmp_path), "cannot be told in bins of 0.12 s")
    bin_spikes(simulated, 0.25).to_netcdf(tmp_path / "coarse.nc", engine="h5netcdf")
    refused(
        here("decode", "coarse.nc", "--run", "own", "--out", "x.zarr", cwd=tmp_path),
        "coarse.nc: counts in bins of 0.25 s cannot be told in bins of 0.05 s",
    )
    assert not (tmp_path / "x.zarr").exists()


def test_npy(counts, tmp_path):
    np.save(tmp_path / "counts.npy", counts.values)
    line = "counts.npy: does not say how long a bin or frame is; give --bin-size"
    refused(here("inspect", "counts.npy", cwd=tmp_path), line)
    refused(here("train", "counts.npy", *QUICK, cwd=tmp_path), line)
    assert not (tmp_path / "runs").exists()
    summary = json.loads(here("inspect", "counts.npy", "--bin-size", "0.1", "--json", cwd=tmp_path).out)
    assert summary["duration"] == pytest.approx(0.1 * counts.sizes["time"])
    ended = here("train", "counts.npy", "--bin-size", "0.1", "--run", "run", *QUICK, cwd=tmp_path)
    assert ended.code == 0, ended.err
    # The run knows how long a bin is.
    for words in (("decode", "--run", "run", "--out", "latents.zarr"), ("train", "--resume", "--run", "run")):
        ended = here(*words, cwd=tmp_path)
        assert ended.code == 0, ended.err
    assert Run.open(tmp_path / "run").recording()[1].sizes == counts.sizes


def test_behaviour_beside_counts_is_decoded(simulated, counts, tmp_path):
    position = next(path for path in simulated.behavior if path.endswith("linear_position"))
    series = simulated.behavior[position]
    values = np.interp(counts["time"], series["time"], series.values)
    dataset = counts.to_dataset(name="counts").assign(linear_position=("time", values))
    dataset.to_netcdf(tmp_path / "counts.nc", engine="h5netcdf")
    assert here("train", "counts.nc", "--run", "run", *QUICK, cwd=tmp_path).code == 0
    ended = here(
        "decode", "--run", "run", "--out", "latents.zarr", "--behavior", "linear_position", "--json", cwd=tmp_path
    )
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["behavior"][0]["path"] == "linear_position"


@pytest.mark.parametrize("words", [["inspect"], ["train"], ["decode", "--out", "x.zarr"]])
def test_formats_by_name(session_file, trained, tmp_path, words):
    run = ["--run", trained / "run"] if words[0] == "decode" else []
    refused(
        here(*words, session_file, "--format", "nbw", *run, cwd=tmp_path),
        "no format 'nbw'; the formats are nwb, zarr, phy, kilosort, sorting, analyzer, pynapple, counts",
    )
    refused(here(*words, session_file, "--format", "phy", *run, cwd=tmp_path), "holds no spike_times.npy")
    refused(here(*words, session_file, "--format", "counts", *run, cwd=tmp_path), "session.zarr: ")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["nwb", "zarr", "phy", "kilosort", "sorting", "analyzer", "pynapple", "counts"])
def test_the_wrong_format_is_one_line(simulated, tmp_path, format):
    """Every reader, given what is none of its own."""
    make_phy(simulated, tmp_path / "phy")
    make_npz(simulated, tmp_path / "counts.npz")
    make_pynapple(simulated, tmp_path / "group.npz")
    simulated.to_zarr(tmp_path / "session.zarr")
    (tmp_path / "text.txt").write_text("no session")
    fits = {"phy": {"phy", "kilosort"}, "counts.npz": {"counts"}, "group.npz": {"pynapple"}, "session.zarr": {"zarr"}}
    for name in ("phy", "counts.npz", "group.npz", "session.zarr", "text.txt", "missing"):
        if format not in fits.get(name, ()):
            refused(here("inspect", name, "--format", format, cwd=tmp_path), name)


def test_a_format_with_resume_is_wrong_usage(trained):
    ended = here("train", "--resume", "--run", "run", "--format", "zarr", cwd=trained)
    assert ended.code == 2
    assert "a run keeps its own options" in ended.err


def test_nothing_in_a_folder_is_run(simulated, tmp_path, marker):
    bomb = np.array([Bomb(marker)], dtype=object)
    make_phy(simulated, tmp_path / "phy")
    (tmp_path / "phy" / "params.py").write_text(f"__import__('os').mkdir({str(marker)!r})\nsample_rate = 1000\n")
    (tmp_path / "phy" / "cache.pkl").write_bytes(pickle.dumps(Bomb(marker)))
    assert here("inspect", "phy", cwd=tmp_path).code == 0
    np.save(tmp_path / "phy" / "spike_times.npy", bomb, allow_pickle=True)
    refused(
        here("inspect", "phy", cwd=tmp_path), "spike_times.npy: holds pickled objects, refused as they may run code"
    )
    np.savez(tmp_path / "bomb.npz", counts=bomb)
    refused(here("train", "bomb.npz", cwd=tmp_path), "bomb.npz: counts: holds pickled objects")
    assert not marker.exists()


def test_a_format_that_was_named_is_remembered(simulated, tmp_path):
    """A sorter's folder that looks like another one: the run reads it again as it was told to."""
    make_phy(simulated, tmp_path / "phy")
    (tmp_path / "phy" / "spikeinterface_info.json").write_text("{}")
    refused(here("train", "phy", "--run", "run", *QUICK, cwd=tmp_path), "phy")
    begin = here("train", "phy", "--format", "phy", "--run", "run", *QUICK, cwd=tmp_path)
    assert begin.code == 0, begin.err
    assert Run.open(tmp_path / "run").session.format == "phy"
    moved = ["--session", "moved"]
    for words in (
        ["decode", "--run", "run", "--out", "out.zarr"],
        ["check", "run", *moved],
        ["report", "run", *moved],
        ["export", "run", *moved, "--to", "csv", "--out", "states.csv"],
        ["train", "moved", "--resume", "--run", "run"],
    ):
        if "moved" in words and (tmp_path / "phy").exists():
            (tmp_path / "phy").rename(tmp_path / "moved")
        ended = here(*words, cwd=tmp_path)
        assert ended.code == 0, ended.err
