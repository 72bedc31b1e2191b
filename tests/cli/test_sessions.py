"""Several sessions on the command line: trained together, decoded one by one, added later."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr

from ldmfilter.data import read_session
from ldmfilter.data.session import Session
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.errors import InputError
from ldmfilter.filter.runs import Run
from tests.cli.conftest import QUICK, here
from tests.cli.test_commands import refused


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three sessions and a run that was trained on the first two."""
    path = tmp_path_factory.mktemp("sessions")
    for seed, name, n_units in ((1, "a", 12), (2, "b", 14), (3, "c", 13)):
        linear_track_session(seed, n_units, duration=120.0, rest=20.0).to_zarr(path / f"{name}.zarr")
    ended = here("train", "a.zarr", "b.zarr", "--run", "run", *QUICK, cwd=path)
    assert ended.code == 0, ended.err
    assert "12 + 14 units, " in ended.err
    assert " in 2 sessions, " in ended.err
    assert ended.out == "run\n"
    return path


def test_each_session_is_decoded_by_its_own_encoder(folder, tmp_path):
    refused(
        here("decode", "--run", "run", "--out", tmp_path / "x.zarr", cwd=folder), "run: has 2 sessions, a.zarr, b.z"
    )
    refused(here("decode", "c.zarr", "--run", "run", "--out", tmp_path / "x.zarr", cwd=folder), "c.zarr: is none of")
    shutil.copytree(folder / "b.zarr", tmp_path / "moved.zarr")
    for session, units in (("a.zarr", 12), (tmp_path / "moved.zarr", 14)):
        out = tmp_path / f"{units}.zarr"
        ended = here("decode", session, "--run", "run", "--out", out, cwd=folder)
        assert ended.code == 0, ended.err
        with xr.open_zarr(out) as latents:
            assert latents.sizes["unit"] == units
            assert latents["trained"].any()


def test_add(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    trained = Run.open(tmp_path / "run").model()
    ended = here("train", "--add", "c.zarr", "--run", tmp_path / "run", cwd=folder)
    assert ended.code == 0, ended.err
    assert ended.out == f"{tmp_path / 'run'}\n"
    assert here("decode", "c.zarr", "--run", tmp_path / "run", "--out", tmp_path / "c.out", cwd=folder).code == 0
    with xr.open_zarr(tmp_path / "c.out") as latents:
        assert latents.sizes["unit"] == 13
    refused(
        here("train", "--add", "c.zarr", "--run", tmp_path / "run", cwd=folder), "is one of the sessions of", "decode"
    )
    # The others are as they were, and going on with what has ended takes nothing away.
    assert here("train", "--resume", "--run", tmp_path / "run", cwd=folder).code == 0
    model = Run.open(tmp_path / "run").model()
    assert [len(one.unit_ids) for one in model.sessions_] == [12, 14, 13]
    tensors = model.network_.state_dict()
    assert all(tensors[name].equal(value) for name, value in trained.network_.state_dict().items())
    # A stop between encoder and run folder leaves an encoder that nobody knows: adding goes on to the same result.
    shutil.copy(folder / "run" / "run.json", tmp_path / "run" / "run.json")
    assert here("train", "--add", "c.zarr", "--run", tmp_path / "run", cwd=folder).code == 0
    assert Run.open(tmp_path / "run").model().model_id_ == model.model_id_


def test_what_another_process_added_is_seen_and_finished_stores_stay_finished(folder, tmp_path):
    shutil.copytree(folder / "run", tmp_path / "run")
    early, late = (Run.open(tmp_path / "run") for _ in range(2))
    words = ("decode", "a.zarr", "b.zarr", "--run", tmp_path / "run", "--out", tmp_path / "states")
    assert here(*words, cwd=folder).code == 0
    third = read_session(folder / "c.zarr")
    *_, records = early.add(third)
    with pytest.raises(InputError, match="another process trains this run"):
        late.add(third)
    for _ in records:
        pass
    with pytest.raises(InputError, match="is one of the sessions of"):
        late.add(third)
    again = here(*words, cwd=folder)
    assert again.code == 0, again.err


def test_resumed_with_sessions_that_were_moved(folder, tmp_path):
    for name in ("a", "b"):
        shutil.copytree(folder / f"{name}.zarr", tmp_path / f"{name}2.zarr")
    shutil.copytree(folder / "run", tmp_path / "run")
    for name in ("checkpoint.safetensors", "model.safetensors"):
        (tmp_path / "run" / name).unlink()
    refused(here("train", "--add", folder / "c.zarr", "--run", "run", cwd=tmp_path), "run", "has kept no model yet")
    ended = here("train", "--resume", "--run", "run", "b2.zarr", "a2.zarr", cwd=tmp_path)
    assert ended.code == 0, ended.err
    before, after = (Run.open(path / "run").model() for path in (folder, tmp_path))
    assert str(before.history_) == str(after.history_)


def test_commands_that_look_at_one_session(folder, tmp_path):
    for words in (["check", "run"], ["report", "run", "--out", tmp_path / "r.html"], ["stream", "--run", "run"]):
        refused(
            here(*words, cwd=folder), "run: has 2 sessions, a.zarr, b.zarr; name one (--session; for `decode` SESSION)"
        )
    assert here("check", "run", "--run", "run", cwd=folder).code == 2
    refused(here("inspect", "run", cwd=folder), "run: is a run folder, not a session")
    assert here("decode", "run", "--out", tmp_path / "x.zarr", cwd=folder).code == 2
    refused(here("check", "run", "--session", "d.zarr", cwd=folder), "d.zarr: is none of the sessions of run")
    ended = here("check", "--run", folder / "run", "--session", "b", "--json", cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert len(json.loads(ended.out)["units"]["unit"]) == 14


def test_bad_input(folder, tmp_path):
    run = ["--run", tmp_path / "run", *QUICK]
    refused(
        here("train", "a.zarr", "a.zarr", *run, cwd=folder),
        "a.zarr: is the same session as ",
        "; name each session once",
    )
    refused(here("train", "a.zarr", "missing.nwb", *run, cwd=folder), "missing.nwb: no such file")
    linear_track_session(4, 12, duration=120.0, rest=0.0).to_zarr(tmp_path / "no_rest.zarr")
    other = tmp_path / "no_rest.zarr"
    refused(here("train", "a.zarr", other, "--interval", "epochs=rest", *run, cwd=folder), "no_rest.zarr: ", "rest")
    Session.from_spikes([np.arange(0.05, 3, 0.1)] * 5).to_zarr(tmp_path / "short.zarr")
    refused(here("train", "a.zarr", tmp_path / "short.zarr", *run, cwd=folder), "short.zarr: ", " observed bins, ")
    assert here("train", "--add", "c.zarr", "a.zarr", "--run", "run", cwd=folder).code == 2
    assert here("train", "--add", "c.zarr", "--seed", "3", "--run", "run", cwd=folder).code == 2
    assert not (tmp_path / "run").exists()
