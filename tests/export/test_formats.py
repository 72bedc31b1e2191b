"""Each format, read back by the library that people read it with: every value is what it was."""

import json
import sys
import zipfile

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pynapple as nap
import pytest
import xarray as xr
import zarr

from ldmfilter.errors import InputError
from ldmfilter.export import FORMATS, WRITERS, check_export, read_latents, to_csv, to_netcdf, to_parquet, to_pynapple
from ldmfilter.export.latents import beyond_tables
from ldmfilter.filter.latents import write_latents
from tests.export.conftest import BIN, FORMULA, make_states, series_of

LABELS = [FORMULA, "../../run fast", "@rest"]  # without the line break


def same(found: object, expected: xr.DataArray | np.ndarray) -> None:
    """Equal to the last bit, type included."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.usefixtures("small_blocks")
def test_netcdf(states, tmp_path):
    assert to_netcdf(states, tmp_path / "s.nc") == tmp_path / "s.nc"
    with xr.open_dataset(tmp_path / "s.nc", engine="h5netcdf") as found:
        for name in states.variables:
            if name != "interval":
                same(found[name], states[name])
                assert found[name].dims == states[name].dims
                assert found[name].attrs == states[name].attrs
        assert found["interval"].to_numpy().tolist() == np.repeat(LABELS, [100, 200, 200]).tolist()
        assert found.attrs == states.attrs
        assert set(found.coords) == set(states.coords)


@pytest.mark.usefixtures("small_blocks")
def test_csv(states, tmp_path):
    to_csv(states, tmp_path / "s.csv")
    found = pd.read_csv(tmp_path / "s.csv")
    heads = ["time (s)", "segment", "interval", "observed", "trained"]
    for i in range(3):
        heads += [f"state_{i}", f"state_{i}_lower", f"state_{i}_upper", f"state_{i}_smoothed"]
        heads += [f"state_{i}_lagged", f"state_{i}_lagged_lower", f"state_{i}_lagged_upper"]
        heads += [f"state_{i}_ahead_0.1s", f"state_{i}_ahead_0.5s"]
        heads += [f"state_{i}_ahead_{seconds}s_{end}" for seconds in (0.1, 0.5) for end in ("lower", "upper")]
        heads += [f"state_{i}_predicted"]
    for unit in ("a", "+b"):
        heads += [f"rate_{unit}{end} (Hz)" for end in ("", "_lower", "_upper", "_ahead_0.1s", "_ahead_0.5s")]
        heads += [f"rate_{unit}_ahead_{seconds}s_{end} (Hz)" for seconds in (0.1, 0.5) for end in ("lower", "upper")]
    heads += ["place_mean (cm)", "place_ci_lower (cm)", "place_ci_upper (cm)", "place_true (cm)"]
    heads += ["innovation_0", "innovation_1"]
    heads += [f"place_ahead_{seconds}s_ci_{end} (cm)" for seconds in (0.1, 0.5) for end in ("lower", "upper")]
    heads += ["place_ahead_0.1s_mean (cm)", "place_ahead_0.5s_mean (cm)", "place_fold"]
    assert found.columns.tolist() == heads
    assert beyond_tables(states) == ["filtered_cov", "innovation_cov", "predicted_cov", "smoothed_cov"]
    same(found["place_ahead_0.5s_mean (cm)"].astype(np.float32), states["place_ahead_mean"][1])
    same(found["place_ahead_0.1s_ci_upper (cm)"].astype(np.float32), states["place_ahead_ci"][0, :, 1])
    same(found["rate_+b_ahead_0.5s_lower (Hz)"].astype(np.float32), states["rate_ahead_ci"][1, :, 1, 0])
    same(found["innovation_1"].astype(np.float32), states["innovation"][:, 1])
    same(found["time (s)"], states["time"])
    same(found["segment"].astype(np.int32), states["segment"])
    same(found["observed"].astype(bool), states["observed"])
    same(found["trained"].astype(bool), states["trained"])
    for i in range(3):
        same(found[f"state_{i}"].astype(np.float32), states["filtered_mean"][:, i])
        same(found[f"state_{i}_lower"].astype(np.float32), states["ci"][:, i, 0])
        same(found[f"state_{i}_upper"].astype(np.float32), states["ci"][:, i, 1])
        same(found[f"state_{i}_smoothed"].astype(np.float32), states["smoothed_mean"][:, i])
        same(found[f"state_{i}_ahead_0.5s"].astype(np.float32), states["ahead_mean"][1, :, i])
    same(found["place_mean (cm)"].astype(np.float32), states["place_mean"])
    same(found["place_true (cm)"].astype(np.float32), states["place_true"])
    same(found["place_ci_upper (cm)"].astype(np.float32), states["place_ci"][:, 1])
    # No cell is a formula, and no label has a line of its own.
    assert found["interval"].unique().tolist() == [f"'{FORMULA}", "../../run fast", "'@rest"]
    raw = (tmp_path / "s.csv").read_bytes()
    assert raw.count(b"\r\n") == raw.count(b"\n") == 501


@pytest.mark.usefixtures("small_blocks")
def test_parquet(states, tmp_path):
    to_parquet(states, tmp_path / "s.parquet")
    found = pd.read_parquet(tmp_path / "s.parquet")
    same(found["time"], states["time"])
    same(found["segment"], states["segment"])
    same(found["observed"], states["observed"])
    assert found["interval"].unique().tolist() == LABELS
    for i in range(3):
        same(found[f"state_{i}"], states["filtered_mean"][:, i])
        same(found[f"state_{i}_lower"], states["ci"][:, i, 0])
        same(found[f"state_{i}_smoothed"], states["smoothed_mean"][:, i])
    same(found["place_ci_upper"], states["place_ci"][:, 1])
    same(found["place_fold"], states["place_fold"])
    assert found.attrs == states.attrs
    table = pq.read_table(tmp_path / "s.parquet")
    assert json.loads(table.schema.metadata[b"ldmfilter"]) == states.attrs
    assert table.schema.field("time").metadata == {b"unit": b"s"}
    assert table.schema.field("place_mean").metadata == {b"unit": b"cm"}
    same(found["state_2_ahead_0.5s_upper"], states["ahead_ci"][1, :, 2, 1])
    same(found["state_2_predicted"], states["predicted_mean"][:, 2])
    for name in ("filtered_cov", "predicted_cov", "smoothed_cov", "innovation_cov"):
        expected = states[name].transpose("time", ...)
        field = table.schema.field(name)
        assert pa.types.is_fixed_size_list(field.type)
        shape = json.loads(field.metadata[b"shape"])
        assert json.loads(field.metadata[b"dims"]) == list(expected.dims[1:])
        same(table[name].combine_chunks().flatten().to_numpy().reshape(-1, *shape), expected)


@pytest.mark.usefixtures("small_blocks")
def test_pynapple(states, tmp_path):
    to_pynapple(states, tmp_path / "s")
    folder = nap.load_folder(tmp_path / "s")
    series = series_of(states)
    assert {path.stem for path in (tmp_path / "s").glob("*.npz")} == {*series, "segments"}
    for name, values in series.items():
        found = folder[name]
        assert type(found) is {1: nap.Tsd, 2: nap.TsdFrame, 3: nap.TsdTensor}[values.ndim]
        same(found.values, values.astype(np.uint8) if values.dtype == bool else values)
        same(found.t, states["time"])
        # The two stretches that touch are one support: pynapple would cut into ends that meet.
        np.testing.assert_allclose(found.time_support.values, [[10, 40], [47, 67]], atol=1e-8)
    assert nap.load_file(tmp_path / "s" / "filtered_mean.npz").columns.tolist() == ["state_0", "state_1", "state_2"]
    assert nap.load_file(tmp_path / "s" / "rate_ahead_0.5s.npz").columns.tolist() == ["unit_a", "unit_+b"]
    with pytest.warns(UserWarning, match="Removing 1 microsecond"):
        ends = folder["segments"].values
    np.testing.assert_allclose(ends, [[10, 20], [20, 40], [47, 67]], atol=2e-6)
    about = json.loads((tmp_path / "s" / "about.json").read_text())
    assert about["attributes"] == states.attrs
    assert about["units"]["place_lower"] == "cm"
    assert [(row["segment"], row["label"]) for row in about["segments"]] == list(enumerate(LABELS))
    for path in (tmp_path / "s").glob("*.npz"):
        with np.load(path, allow_pickle=False) as file:
            assert all(file[name].dtype != object for name in file)


def test_segments_end_at_gaps_outside_of_all_too(states, tmp_path):
    states["segment"] = ("time", np.full(500, -1, np.int32))
    to_pynapple(states, tmp_path / "s")
    found = nap.load_folder(tmp_path / "s")["segments"]
    np.testing.assert_allclose(found.values, [[10, 40], [47, 67]], atol=1e-8)
    np.testing.assert_allclose(np.diff(found.values[0]), 300 * BIN)


@pytest.mark.parametrize("to", WRITERS)
def test_from_a_store_as_from_memory(states, to, tmp_path):
    write_latents(states, tmp_path / "latents.zarr")
    ending = FORMATS[to]
    one, other = tmp_path / f"one{ending}", tmp_path / f"other{ending}"
    WRITERS[to](read_latents(tmp_path / "latents.zarr"), one)
    WRITERS[to](states, other)
    if to == "pynapple":
        for path in sorted(other.glob("*.npz")):
            with zipfile.ZipFile(path) as a, zipfile.ZipFile(one / path.name) as b:
                assert {name: a.read(name) for name in a.namelist()} == {name: b.read(name) for name in b.namelist()}
    elif to == "netcdf":
        with xr.open_dataset(one, engine="h5netcdf") as a, xr.open_dataset(other, engine="h5netcdf") as b:
            xr.testing.assert_equal(a, b)
            assert a.attrs == b.attrs
    elif to == "parquet":
        names = pq.read_schema(one).names
        assert sorted(names) == sorted(pq.read_schema(other).names)
        pd.testing.assert_frame_equal(pd.read_parquet(one)[names], pd.read_parquet(other)[names], check_exact=True)
    else:
        assert one.read_bytes() == other.read_bytes()


# Refusals


def line(call, *args, **more) -> str:
    with pytest.raises(InputError) as error:
        call(*args, **more)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("to", WRITERS)
def test_what_exists_is_replaced_only_when_asked(states, to, tmp_path):
    ending = FORMATS[to]
    out = tmp_path / f"s{ending}"
    WRITERS[to](states, out)
    assert line(WRITERS[to], states, out) == f"{out}: exists already; choose another name or overwrite it"
    WRITERS[to](states, out, True)
    # Never a folder or file of another kind.
    other = tmp_path / f"other{ending}"
    other.mkdir()
    (other / "thesis.txt").touch()
    what = (
        "is no folder of states for pynapple and is not replaced"
        if to == "pynapple"
        else f"is a folder, and {to} is one file"
    )
    assert line(WRITERS[to], states, other, True) == f"{other}: {what}; choose another name"
    assert (other / "thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([out.name, other.name])


def test_targets(states, tmp_path):
    assert line(check_export, "hdf", "x.hdf", False) == (
        "hdf: is no format to export to; choose one of nwb, netcdf, csv, pynapple, parquet"
    )
    assert line(to_csv, states, tmp_path / "s.tsv") == (
        f"{tmp_path / 's.tsv'}: must end in .csv, by which other programs know csv; choose another name"
    )
    missing = tmp_path / "no" / "s.csv"
    assert line(to_csv, states, missing) == f"{missing}: its folder does not exist; make it first or write elsewhere"
    store = tmp_path / "latents.zarr"
    write_latents(states, store)
    latents = read_latents(store)
    for out in (store, store / "s", tmp_path):
        assert line(to_pynapple, latents, out, True) == (
            f"{out}: is {store} or would replace a part of it; choose another name"
        )


def test_states_that_are_none(states, tmp_path):
    out = tmp_path / "s.csv"
    for wrong, words in {
        "mean": (states.drop_vars("filtered_mean"), "holds no filtered_mean; give states as `ldmfilter decode` makes"),
        "dims": (states.assign(observed=states["ci"]), "observed has dims ('time', 'state', 'bound'), not ('time',)"),
        "name": (states.assign({"../../evil_mean": states["place_mean"]}), "'../../evil_mean' is no variable of"),
        "size": (states.assign_attrs(bin_size=np.nan), "its bin_size is nan; decode it again"),
        "time": (states.isel(time=slice(None, None, -1)), "its time does not rise; decode it again"),
        "none": (states.isel(time=slice(0, 0)), "holds no bins, or intervals without two bounds; decode it again"),
    }.values():
        assert line(to_csv, wrong, out).startswith(f"states: {words}")
    twice = states.assign(filtered_ci=states["place_ci"])
    assert line(to_pynapple, twice, tmp_path / "s") == (
        "states: two variables have one name without their bounds; decode it again"
    )
    assert list(tmp_path.iterdir()) == []


def test_stores_that_are_none(states, tmp_path):
    store = tmp_path / "latents.zarr"
    assert line(read_latents, store) == f"{store}: no such store; `ldmfilter decode --out {store}` makes one"
    store.mkdir()
    none = f"{store}: is no store of latent states; give one that `ldmfilter decode` made"
    assert line(read_latents, store) == none
    (store / ".zgroup").write_text('{"zarr_format": 2}')
    (store / ".zattrs").write_text('{"format": "other"}')
    assert line(read_latents, store) == none
    (store / ".zattrs").write_text("{")
    assert line(read_latents, store).startswith(f"{store}: is a damaged store of states (")


def test_a_store_with_a_chunk_lost(states, tmp_path):
    store = tmp_path / "latents.zarr"
    write_latents(states, store)
    (store / "filtered_mean" / "0.0").unlink()
    assert line(read_latents, store) == f"{store}: filtered_mean: 1 chunks are missing; decode it again"


def test_a_store_with_a_chunk_cut(states, tmp_path):
    store = tmp_path / "latents.zarr"
    write_latents(states, store)
    chunk = store / "filtered_cov" / "0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:40])
    latents = read_latents(store)
    # CSV holds no covariances.
    for to, out in (("netcdf", "s.nc"), ("parquet", "s.parquet"), ("pynapple", "s")):
        assert line(WRITERS[to], latents, tmp_path / out).startswith(f"{store}: is a damaged store of states (")
    assert [path.name for path in tmp_path.iterdir()] == ["latents.zarr"]


def test_a_store_that_would_run_code(states, tmp_path):
    store = tmp_path / "latents.zarr"
    write_latents(states, store)
    metadata = json.loads((store / "observed" / ".zarray").read_text())
    metadata |= {"dtype": "|O", "filters": [{"id": "pickle"}]}
    (store / "observed" / ".zarray").write_text(json.dumps(metadata))
    assert line(read_latents, store) == (
        f"{store}: observed: codec pickle is refused, it may run code; store numbers, bools or fixed-width text"
    )


class StoppedError(Exception):
    """What a block raises in the tests."""


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("to", WRITERS)
def test_stopped_between_blocks_leaves_what_was(to, tmp_path):
    ending = FORMATS[to]
    out = tmp_path / f"s{ending}"

    def stop(blocks):
        yield next(blocks)
        raise StoppedError

    def content():
        files = [out] if out.is_file() else sorted(out.rglob("*"))
        return [path.read_bytes() for path in files if path.is_file()]

    for before in (False, True):
        if before:
            WRITERS[to](make_states(), out)
        kept = content() if before else None
        with pytest.raises(StoppedError):
            WRITERS[to](make_states(), out, True, stop)
        assert [path.name for path in tmp_path.iterdir()] == ([out.name] if before else [])
        assert not before or content() == kept


def test_follow_sees_every_bin_once(states, small_blocks, tmp_path):
    seen = []

    def follow(blocks):
        for where, part in blocks:
            seen.append((where.start, where.stop, part.sizes["time"]))
            yield where, part

    for to, write in WRITERS.items():
        seen.clear()
        write(states, tmp_path / f"s{FORMATS[to]}", follow=follow)
        assert seen == [(i, min(i + 96, 500), min(96, 500 - i)) for i in range(0, 500, 96)]


def test_without_a_package_that_is_left_out(states, tmp_path, monkeypatch):
    for package, to, out in (("h5netcdf", to_netcdf, "s.nc"), ("pyarrow", to_parquet, "s.parquet")):
        name = "netcdf" if package == "h5netcdf" else "parquet"
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            assert line(to, states, tmp_path / out) == f"{name}: needs the package {package}; `pip install {package}`"


def test_text_that_is_none_is_refused(tmp_path):
    store = tmp_path / "latents.zarr"
    write_latents(make_states(), store)
    bound = zarr.open_group(str(store), mode="r+")["bound"]
    odd = bound[:]
    odd.view(np.uint32)[0] = 2**30  # no letter has that number
    bound[:] = odd
    assert line(read_latents, store).startswith(f"{store}: bound: holds text that cannot be read")
