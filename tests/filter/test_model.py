"""The estimator: fit, decode, save, load; and the dataset that it gives."""

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import norm

import ldmfilter
from ldmfilter.config import FilterConfig
from ldmfilter.data.counts import check_counts
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError
from ldmfilter.filter.decode import decode_blocks, select_model_units
from ldmfilter.filter.latents import write_latents
from ldmfilter.filter.model import LDMFilter, load
from ldmfilter.tensors import read_tensors, write_tensors
from tests.filter.conftest import SMALL
from tests.filter.reference import loop


def test_follows_scikit_learn(counts):
    model = LDMFilter(latent_dim=3)
    assert model.get_params()["latent_dim"] == 3
    assert not [name for name in vars(model) if name.endswith("_")]
    assert model.set_params(seed=4) is model
    assert model.seed == 4
    with pytest.raises(InputError, match="unknown setting 'depth'"):
        model.set_params(depth=3)
    assert type(model)(**model.get_params()).get_params() == model.get_params()
    with pytest.raises(InputError, match="has not been fitted"):
        model.decode(counts)


def test_states_are_those_of_the_plain_loop(fitted, counts):
    latents = fitted.decode(counts, smooth=True)
    with torch.no_grad():
        z = fitted.network_.encode(torch.from_numpy(counts.to_numpy().astype(np.float32))).double().numpy()
        model = [v.double().numpy() for v in fitted.network_.linear_gaussian()]
        fitted.network_.float()
    T = len(z)
    expected = loop(*model, z, np.ones(T, bool), np.zeros(T, bool))
    names = (
        "predicted_mean",
        "predicted_cov",
        "filtered_mean",
        "filtered_cov",
        "smoothed_mean",
        "smoothed_cov",
    )
    for name, value in zip(names, expected, strict=True):
        np.testing.assert_allclose(latents[name], value, atol=2e-5, err_msg=name)


def test_intervals_are_the_normal_quantile(fitted, counts):
    for level in (0.5, 0.95):
        latents = fitted.decode(counts, ci=level)
        sd = np.sqrt(np.diagonal(latents["filtered_cov"], axis1=1, axis2=2))
        half = norm.ppf(0.5 + level / 2) * sd
        np.testing.assert_allclose(latents["ci"].sel(bound="upper"), latents["filtered_mean"] + half, atol=1e-5)
        np.testing.assert_allclose(latents["ci"].sel(bound="lower"), latents["filtered_mean"] - half, atol=1e-5)
        assert latents.attrs["ci_level"] == latents["ci"].attrs["level"] == level


def test_causal(fitted, counts):
    """What comes after a bin does not change its state."""
    whole = fitted.decode(counts)["filtered_mean"]
    changed = counts.copy()
    changed[300:] = 9
    np.testing.assert_array_equal(fitted.decode(changed)["filtered_mean"][:300], whole[:300])
    assert not np.allclose(fitted.decode(changed)["filtered_mean"][300], whole[300])


def test_unobserved_bins_are_predicted_only(fitted, counts):
    observed = np.ones(counts.sizes["time"], bool)
    observed[50:60] = False
    latents = fitted.decode(counts.assign_coords(observed=("time", observed)))
    np.testing.assert_array_equal(latents["filtered_mean"][50:60], latents["predicted_mean"][50:60])
    np.testing.assert_array_equal(np.isnan(latents["innovation"]).all("latent"), ~observed)
    variance = np.trace(latents["filtered_cov"].to_numpy(), axis1=1, axis2=2)
    assert (np.diff(variance[49:60]) > 0).all()


def test_nan_is_a_missing_bin_or_a_unit_that_was_not_observed(fitted, counts):
    values = counts.astype(np.float32)
    values[50:60] = np.nan
    values[100, 3] = np.nan
    observed, seen = np.ones(counts.sizes["time"], bool), np.ones(counts.shape, bool)
    observed[50:60], seen[100, 3] = False, False
    marked = counts.assign_coords(observed=("time", observed), unit_observed=(("time", "unit"), seen))
    xr.testing.assert_equal(fitted.decode(values), fitted.decode(marked))
    assert LDMFilter(**SMALL | {"max_steps": 25}).fit(values).history_[-1].step == 25


def test_a_unit_that_is_not_observed_enters_as_its_mean(fitted, counts):
    seen = np.ones(counts.shape, bool)
    seen[:, 0] = False
    masked = counts.assign_coords(unit_observed=(("time", "unit"), seen))
    silent = counts.copy()
    silent[:, 0] = 0
    assert np.isfinite(fitted.decode(masked)["filtered_mean"]).all()
    assert not np.allclose(fitted.decode(masked)["filtered_mean"], fitted.decode(silent)["filtered_mean"])


def test_schema_and_store(fitted, counts, tmp_path):
    latents = fitted.decode(counts, smooth=True)
    write_latents(latents, tmp_path / "latents.zarr")
    with xr.open_zarr(tmp_path / "latents.zarr") as store:
        xr.testing.assert_identical(store.load(), latents)
        assert set(store.sizes) == {"time", "state", "state_2", "latent", "latent_2", "unit", "bound"}
        assert store["time"].dtype == np.float64
        assert store["time"].attrs["units"] == "s"
        assert store["segment"].dtype == np.int32
        assert {"interval", "segment", "unit"} <= set(store.coords)
        for name in (
            "model_id",
            "config",
            "seed",
            "source_checksum",
            "session_start_time",
            "bin_size",
            "created",
        ):
            assert name in store.attrs, name
        assert json.loads(store.attrs["config"])["latent_dim"] == 3
        assert all(variable.dtype.kind in "fibuU" for variable in store.variables.values())
    assert [p.name for p in tmp_path.iterdir()] == ["latents.zarr"]
    with pytest.raises(InputError, match="exists already; choose another name or overwrite it"):
        write_latents(latents, tmp_path / "latents.zarr")
    (tmp_path / "mine").mkdir()
    (tmp_path / "notes.txt").write_text("precious")
    latents.drop_attrs().assign_attrs(model_id="of another tool").to_zarr(tmp_path / "foreign.zarr", zarr_format=2)
    for name in ("mine", "notes.txt", "foreign.zarr"):
        with pytest.raises(InputError, match="is no store of latent states and is not replaced"):
            write_latents(latents, tmp_path / name, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "precious"
    write_latents(latents.isel(time=slice(10)), tmp_path / "latents.zarr", overwrite=True)
    with xr.open_zarr(tmp_path / "latents.zarr") as store:
        assert store.sizes["time"] == 10


def test_a_write_that_fails_leaves_the_old_store(fitted, counts, tmp_path, monkeypatch):
    latents = fitted.decode(counts)
    write_latents(latents, tmp_path / "latents.zarr")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(xr.Dataset, "to_zarr", full)
    with pytest.raises(InputError, match="no space left on the disk"):
        write_latents(latents, tmp_path / "latents.zarr", overwrite=True)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["latents.zarr"]
    with xr.open_zarr(tmp_path / "latents.zarr") as store:
        xr.testing.assert_identical(store.load(), latents)


def test_no_such_model_is_told(tmp_path):
    with pytest.raises(InputError, match="nix: no such model; give the folder that "):
        load(tmp_path / "nix")


def test_save_and_load(fitted, counts, tmp_path):
    fitted.save(tmp_path / "model")
    again = ldmfilter.load(tmp_path / "model")
    assert again.model_id_ == fitted.model_id_
    assert again.get_params() == fitted.get_params()
    assert str(again.history_) == str(fitted.history_)
    xr.testing.assert_equal(again.decode(counts), fitted.decode(counts))


def rewrite(path: Path, **changes: object) -> None:
    tensors, description = read_tensors(path)
    write_tensors(path, tensors, {**description, **changes})


def test_damaged_models_are_refused_in_one_line(fitted, tmp_path):
    path = fitted.save(tmp_path)
    good = path.read_bytes()
    cases = {
        "truncated": good[:-100],
        "empty": b"",
        "not safetensors": b"\x80\x04pickle",
        "one bit": good[:-5] + bytes([good[-5] ^ 1]) + good[-4:],
        "tensors missing": None,
    }
    for name, content in cases.items():
        if content is None:
            path.write_bytes(good)
            tensors, description = read_tensors(path)
            write_tensors(path, {"gauge": tensors["gauge"]}, description)
        else:
            path.write_bytes(content)
        with pytest.raises(InputError, match=r"model\.safetensors: damaged") as error:
            load(tmp_path)
        assert "\n" not in str(error.value), name
    path.unlink()
    with pytest.raises(InputError, match="no such model; give the folder"):
        load(tmp_path)


def test_a_model_without_the_record_of_its_kept_step_is_damaged(fitted, tmp_path):
    path = fitted.save(tmp_path)
    history = read_tensors(path)[1]["history"]
    rewrite(path, history=[one for one in history if one["step"] != fitted.kept_step_])
    with pytest.raises(InputError, match=r"model\.safetensors: damaged"):
        load(tmp_path)


def test_a_newer_model_and_a_strange_one(fitted, tmp_path):
    path = fitted.save(tmp_path)
    rewrite(path, format=99, package_version="9.0")
    with pytest.raises(InputError, match=r"model format 99, made by ldmfilter 9\.0, is newer .* update ldmfilter"):
        load(tmp_path)
    rewrite(path, format=1, settings={"latent_dim": "many"})
    with pytest.raises(InputError, match="latent_dim is 'many'; it must be a whole number"):
        load(tmp_path)


def test_other_units_and_other_bins_are_refused(fitted, counts):
    with pytest.raises(InputError, match=r"its 15 units are not the 16 .* it lacks 0 and has none besides"):
        fitted.decode(counts.isel(unit=slice(1, None)))
    renamed = counts.assign_coords(unit=[100, *range(1, 16)])
    with pytest.raises(InputError, match="it lacks 0 and has 100 besides"):
        fitted.decode(renamed)
    with pytest.raises(InputError, match=r"bins of 0\.2 s, but the model was trained on 0\.1 s"):
        fitted.decode(counts.assign_attrs(bin_size=0.2))
    with pytest.raises(InputError, match="ci is 95"):
        fitted.decode(counts, ci=95)


def test_trained_time_is_known_in_a_copy_of_the_recording(fitted, counts, monkeypatch):
    """A file to which something was added has other bytes; its identifier stays."""
    of = fitted.sessions_[0]
    source = {"checksum": "sha256:1", "identifier": "rat 1"}
    monkeypatch.setattr(fitted, "sessions_", [replace(of, source=source)])
    counts = counts.isel(time=slice(0, 50))
    for checksum, identifier, trained in (
        ("sha256:1", "rat 1", True),
        ("sha256:2", "rat 1", True),
        ("sha256:1", "", True),
        ("sha256:2", "rat 2", False),
        ("sha256:2", "", False),
    ):
        latents = fitted.decode(counts.assign_attrs(checksum=checksum, identifier=identifier))
        assert (latents["trained"] == trained).all(), (checksum, identifier)
    monkeypatch.setattr(fitted, "sessions_", [replace(of, source={"checksum": "sha256:1", "identifier": ""})])
    assert not fitted.decode(counts.assign_attrs(checksum="sha256:2", identifier=""))["trained"].any()


def test_ids_alone_do_not_make_sessions_the_same(fitted):
    """A model of units 0 to 15 of some session must not decode a session of 100 units that holds these ids."""
    large = Session.from_spikes([[0.1, 0.5]] * 100)
    ids = fitted.unit_ids_.tolist()
    with pytest.raises(InputError, match="its 100 units are not the 16"):
        select_model_units(large, fitted, ids)
    assert select_model_units(large, fitted, list(range(100))).n_units == 16


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.T, "give dims"),
        (lambda c: c.assign_attrs(bin_size=0), "no attribute bin_size"),
        (lambda c: c.astype(float) + 0.5, r"counts: \d\.5 at 0\.05 s in unit 0 is no count \(48000 such values\)"),
        (lambda c: c.astype(np.int64) - 500, r"counts: -500.* at 0\.05 s in unit 0 is no count"),
        (lambda c: c.astype(float) / 0.0, "counts: inf at .* is no count|counts: nan"),
        (lambda c: c.astype(str), "give whole numbers"),
    ],
)
def test_counts_that_are_none(counts, change, message):
    with pytest.raises(InputError, match=message):
        LDMFilter(**SMALL).fit(change(counts))


def test_the_readmes_lines(session, tmp_path):
    counts = ldmfilter.bin_spikes(session, 0.1)
    model = ldmfilter.LDMFilter(latent_dim=2, state_dim=2, max_steps=25, window=1.6, dynamics="fast").fit(counts)
    latents = model.decode(counts, ci=0.95)
    assert np.isfinite(latents["filtered_mean"]).all()
    assert latents["ci"].sizes["bound"] == 2


def test_bins_that_were_taken_out_end_a_segment(fitted, counts):
    apart = counts.isel(time=np.r_[0:100, 200:300])
    latents = fitted.decode(apart)
    assert np.unique(latents["segment"]).tolist() == [0, 1]
    alone = fitted.decode(counts.isel(time=slice(200, 300)))
    np.testing.assert_array_equal(latents["filtered_mean"][100:], alone["filtered_mean"])


def test_half_precision_needs_a_gpu(counts):
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="16-mixed, which needs CUDA"):
            LDMFilter(**SMALL, precision="16-mixed").fit(counts)
    latents = LDMFilter(**SMALL | {"max_steps": 25}, precision="bf16-mixed", device="cpu").fit(counts).decode(counts)
    assert np.isfinite(latents["filtered_mean"]).all()


def test_decoding_in_blocks_is_decoding(fitted, counts, tmp_path):
    segment = np.repeat([0, 1], [1300, 1700]).astype(np.int32)
    observed = np.ones(3000, bool)
    observed[995:1010] = False
    world = check_counts(counts.assign_coords(segment=("time", segment), observed=("time", observed)))
    whole = fitted.decode(world)
    pieces = list(decode_blocks(fitted, world, block=500))
    assert [piece.sizes["time"] for piece in pieces] == [500] * 6
    together = xr.concat(pieces, "time", data_vars="minimal", coords="minimal")
    for name in whole.data_vars:
        np.testing.assert_allclose(together[name], whole[name], atol=1e-6, err_msg=str(name))
    write_latents(decode_blocks(fitted, world, block=500), tmp_path / "latents.zarr")
    with xr.open_zarr(tmp_path / "latents.zarr") as store:
        store = store.load()
    assert store.attrs.keys() == whole.attrs.keys()
    for name in whole.variables:
        np.testing.assert_array_equal(store[name], together[name], err_msg=str(name))


def test_every_setting_is_explained_in_the_help():
    text = " ".join(LDMFilter.__doc__.split())
    for one in fields(FilterConfig):
        assert f"{one.name} : " in text
        assert one.metadata["help"] in text


def test_an_array_is_decoded_as_the_counts_it_holds(fitted, counts):
    np.testing.assert_allclose(fitted.transform(counts.to_numpy()), fitted.transform(counts), atol=1e-6)
