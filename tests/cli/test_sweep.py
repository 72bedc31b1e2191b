"""`ldmfilter sweep` as a person meets it."""

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest
import typer
import xarray as xr
from ldmfilter_cli.sweep import expand

from ldmfilter.analysis.sweep import Sweep, run_sweeps
from ldmfilter.filter.model import load
from tests.cli.conftest import here
from tests.cli.forked import Forked

QUICK = ["--dynamics", "fast", "--hidden", "16", "--window", "2", "--batch-size", "8"]
QUICK += ["--no-refit"]
QUICK += ["--max-steps", "25"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("s.nwb --latent-dim 2 4 8", "s.nwb --latent-dim 2 --latent-dim 4 --latent-dim 8"),
        ("--latent-dim 2 4 s.nwb --seed 0 1", "--latent-dim 2 --latent-dim 4 s.nwb --seed 0 --seed 1"),
        ("--entropy knn stopgrad s.nwb", "--entropy knn --entropy stopgrad s.nwb"),
        ("--entropy knn --entropy stopgrad", "--entropy knn --entropy stopgrad"),
        ("--entropy none knn", "--entropy none --entropy knn"),
        ("--dropout=0 .1 1e-3", "--dropout=0 --dropout .1 --dropout 1e-3"),
        ("--hidden 64 128,128 s.nwb", "--hidden 64 --hidden 128,128 s.nwb"),
        ("--seed -1 -2 -q", "--seed -1 --seed -2 -q"),
        ("--latent-dim 2 -- 4", "--latent-dim 2 -- 4"),
        ("--window 16 s.nwb --jobs 2 --bin-size=0.1 s.nwb", "--window 16 s.nwb --jobs 2 --bin-size=0.1 s.nwb"),
        ("--latent-dim", "--latent-dim"),
    ],
)
def test_several_values_after_one_flag(words, expected):
    assert expand(words.split()) == expected.split()


@pytest.mark.parametrize("words", ["--window 16 32", "--bin-size=0.1 0.2", "--window 16 s.nwb --window=16"])
def test_one_value_for_what_changes_the_bins_that_judge(words):
    with pytest.raises(typer.BadParameter, match="takes one value in a sweep"):
        expand(words.split())


def test_help_begins_with_an_example(tmp_path):
    text = here("sweep", "--help", cwd=tmp_path).out.split("Usage:")[1].split("\n", 1)[1].strip()
    assert text.startswith("Example: ldmfilter sweep session.nwb --latent-dim 2 4 8 --entropy knn stopgrad")


def test_the_command_and_then_decode(session_file, tmp_path):
    """The best run is what `decode` takes; the same command again only shows the table."""
    command = ["sweep", session_file, "--latent-dim", 2, 4, "--entropy", "knn", "stopgrad", *QUICK, "--json"]
    ended = here(*command, cwd=tmp_path)
    assert ended.code == 0, ended.err
    table = json.loads(ended.out)
    options = [(one["options"]["latent_dim"], one["options"]["entropy"]) for one in table["combinations"]]
    assert sorted(options) == [(2, "knn"), (2, "stopgrad"), (4, "knn"), (4, "stopgrad")]
    scores = [one["score"] for one in table["combinations"]]
    assert scores == sorted(scores, reverse=True)
    assert table["best"] == table["combinations"][0]["runs"][0]["run"]
    assert "4/4  latent-dim 4, entropy stopgrad: " in ended.err
    assert f"best run {table['best']}" in ended.err
    assert (tmp_path / table["sweep"] / "sweep.png").read_bytes().startswith(b"\x89PNG")
    decoded = here("decode", "--out", "latents.zarr", "--span", "0:20", cwd=tmp_path)
    assert decoded.code == 0, decoded.err
    with xr.open_zarr(tmp_path / "latents.zarr") as latents:
        assert latents.attrs["model_id"] == load(tmp_path / table["best"]).model_id_
        assert latents.sizes["latent"] == options[0][0]
    again = here(*command, cwd=tmp_path)
    assert json.loads(again.out) == table
    assert "4 of 4 runs are done" in again.err
    assert " bits per spike, rank" not in again.err
    plain = here("sweep", "--resume", table["sweep"], "--quiet", cwd=tmp_path)
    assert (plain.code, plain.err) == (0, "")
    lines = plain.out.splitlines()
    assert lines[0].split() == [
        *["run", "folder", "latent-dim", "entropy", "bits", "per", "spike", "ahead,", "in", "training"],
        *["hidden", "units,", "reserved", "time", "step", "rank", "s"],
    ]
    assert [line.split()[1:3] for line in lines[1:]] == [[str(dim), entropy] for dim, entropy in options]
    assert [float(line.split()[3]) for line in lines[1:]] == pytest.approx(scores, abs=5e-4)
    hidden = [one["runs"][0]["hidden_units"] for one in table["combinations"]]
    assert [float(line.split()[4]) for line in lines[1:]] == pytest.approx(hidden, abs=5e-4)
    judged = json.loads(here("score", table["best"], "--json", "--ahead", 1, cwd=tmp_path).out)["rows"]
    assert judged["hidden units"][table["best"]]["score"] == pytest.approx(hidden[0])


def test_a_run_that_fails_is_in_the_table(session_file, tmp_path):
    ended = here("sweep", session_file, "--weight-decay", 1e30, 0.01, "--seed", 0, 1, *QUICK[:-1], 5, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "weight-decay 1e+30, seed 0: failed, training diverged at step" in ended.err
    rows = ended.out.splitlines()
    assert "seeds from to" in rows[0]
    assert "2 of 2 failed: training diverged at step" in rows[2]
    ended = here("sweep", session_file, "--weight-decay", 1e30, 2e30, *QUICK[:-1], 5, cwd=tmp_path)
    assert ended.code == 1
    assert "no run has ended well; the table tells why" in ended.err


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (["--latent-dim", 2], 2, "nothing to compare"),
        (["--latent-dim", 2, 4, "--bin-size", 0.05, 0.1], 2, "or leads over a causal PCA in `ldmfilter check`"),
        (["--latent-dim", 2, 2.5], 2, "--latent-dim"),
        (["--entropy", "knn", "stopgard"], 2, "stopgard"),
        (["--resume", "runs/x"], 3, "runs/x: is not a sweep folder"),
        (["--resume", "runs/x", "--latent-dim", 2, 4], 2, "a resumed sweep keeps its own options"),
        (["--entropy", "none", "knn"], 3, "entropy is none; it must be one of logdet, knn, stopgrad, kde"),
        (["--latent-dim", 0, 2], 3, "latent-dim is 0; it must be a whole number of 1 or more"),
        (["--seed", -1, 2], 3, "seed is -1"),
        (["--latent-dim", 2, 4, "--bin-size", 0], 3, "bin-size is 0.0"),
        (["--latent-dim", 2, 4, "--interval", "epochs=swim"], 3, "no tag 'swim'"),
        (["--latent-dim", 2, 4, "--span", "0:1"], 3, "are too few to train on"),
        (["--latent-dim", *range(1, 60), "--seed", *range(60)], 3, "are too many; draw some with --trials N"),
    ],
)
def test_what_cannot_be_used(session_file, tmp_path, words, code, expected):
    ended = here("sweep", session_file, *words, cwd=tmp_path)
    assert (ended.code, ended.out) == (code, "")
    assert expected in " ".join(ended.err.replace("│", " ").split())
    if code == 3:
        assert len(ended.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_session_is_asked_for(tmp_path):
    assert here("sweep", "--latent-dim", 2, 4, cwd=tmp_path).code == 2


LONG = [*QUICK[:-1], 150, "--latent-dim", 2, 3, "--sweep", "sweep"]


def test_killed_and_resumed(session_file, tmp_path):
    process = Forked("sweep", session_file, *LONG, cwd=tmp_path)
    while not (tmp_path / "sweep" / "000" / "model.safetensors").exists() and process.running:
        time.sleep(0.02)
    process.send(signal.SIGKILL)
    assert process.end().code == -signal.SIGKILL
    sweep = Sweep.open(tmp_path / "sweep")
    assert [run.state for run in sweep.runs()] == ["started", "waiting"]
    ended = here("sweep", "--resume", "sweep", cwd=tmp_path)
    assert ended.code == 0, ended.err
    runs = sweep.runs()
    assert [run.state for run in runs] == ["done", "done"]
    for run in runs:  # every step was taken once
        steps = [json.loads(line)["step"] for line in (run.folder / "log.jsonl").read_text().splitlines()]
        assert steps == list(range(0, 151, 25))


def test_interrupted_with_its_jobs_and_resumed(session_file, tmp_path):
    over = threading.Event()

    def interrupt() -> None:
        while not (tmp_path / "sweep" / "000" / "model.safetensors").exists():
            if over.wait(0.02):
                return
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=interrupt)
    presser.start()
    try:
        ended = here("sweep", session_file, *LONG, "--jobs", 2, cwd=tmp_path)
    finally:
        over.set()
        presser.join()
    assert ended.code == 130, ended.err
    assert ended.err.splitlines()[-1] == "ldmfilter: interrupted; go on with `ldmfilter sweep --resume sweep`"
    assert multiprocessing.active_children() == []
    sweep = Sweep.open(tmp_path / "sweep")
    assert sweep.runs()[0].state == "started"
    again = run_sweeps([sweep])
    assert next(again)[1].number == 0  # nobody holds it any more
    again.close()
