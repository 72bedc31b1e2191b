"""Models, runs and stores that version 0.1.0 wrote, before its package was ordered anew, are read as they were.

`fixtures/0.1.0` holds the run and the store of

    linear_track_session(seed=3, n_units=8, duration=200.0, rest=10.0)
    ldmfilter train session.zarr --run run --latent-dim 2 --max-steps 50 --hidden 8 --window 20 --batch-size 8 --refit
    ldmfilter decode --run run --smooth --behavior linear_position --out latents.zarr
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import ldmfilter
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.filter.runs import Run
from tests.cli.conftest import here

OLD = Path(__file__).parent / "fixtures" / "0.1.0"


@pytest.fixture(scope="module")
def session(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("old") / "session.zarr"
    return linear_track_session(seed=3, n_units=8, duration=200.0, rest=10.0).to_zarr(path)


@pytest.fixture
def run(tmp_path) -> Path:
    return shutil.copytree(OLD / "run", tmp_path / "run")


@pytest.fixture(scope="module")
def store() -> xr.Dataset:
    return xr.open_zarr(OLD / "latents.zarr")


def test_an_old_model_decodes_as_it_did(session, store):
    counts = ldmfilter.bin_spikes(ldmfilter.read_session(session), 0.1)
    counts.attrs["checksum"] = store.attrs["source_checksum"]  # a store of sessions has other metadata now
    latents = ldmfilter.load(OLD / "run").decode(counts, smooth=True)
    for name in ("filtered_mean", "filtered_cov", "predicted_mean", "smoothed_mean", "smoothed_cov", "innovation"):
        np.testing.assert_allclose(latents[name], store[name], rtol=1e-4, atol=1e-5, err_msg=name)
    np.testing.assert_array_equal(latents["trained"], store["trained"])


def test_an_old_run_is_opened_and_its_commands_work(run, session, tmp_path, store):
    opened = Run.open(run)
    assert opened.config.filter.refit
    assert opened.config.filter.latent_dim == 2
    assert opened.unit_ids == store["unit"].values.tolist()
    ended = here("decode", session, "--run", run, "--out", "latents.zarr", cwd=tmp_path)
    assert ended.code == 0, ended.err
    np.testing.assert_allclose(
        xr.open_zarr(tmp_path / "latents.zarr")["filtered_mean"], store["filtered_mean"], rtol=1e-4, atol=1e-5
    )


def test_an_old_store_is_exported(tmp_path, store):
    ended = here("export", OLD / "latents.zarr", "--to", "csv", "--out", "states.csv", cwd=tmp_path)
    assert ended.code == 0, ended.err
    lines = (tmp_path / "states.csv").read_text().splitlines()
    assert len(lines) == store.sizes["time"] + 1
