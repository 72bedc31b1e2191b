"""The command line as a person meets it: words, exit codes, one line for each refusal, nothing left behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from ldmfilter.config import Config
from ldmfilter.data.session import Session
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.filter import runs
from ldmfilter.version import __version__
from tests.cli.conftest import QUICK, here, ldmfilter
from tests.cli.forked import Forked

SAMPLE = Path(__file__).parents[2] / "sample_data" / "linear_track_sim.nwb"


def refused(ended, *words: str) -> None:
    """One line on stderr that holds the words, exit code 3, nothing on stdout."""
    assert ended.code == 3, ended.err
    assert ended.out == ""
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1, ended.err
    for word in ("ldmfilter: ", *words):
        assert word in lines[0], lines[0]


COMMANDS = ("sample", "inspect", "train", "decode", "stream", "sweep", "check", "compare", "report", "export")
COMMANDS += ("reproduce",)


@pytest.mark.parametrize("words", [[], *([name] for name in COMMANDS)])
def test_help_begins_with_an_example(words, tmp_path):
    ended = here(*words, "--help", cwd=tmp_path)
    assert ended.code == 0
    text = ended.out.split("Usage:")[1].split("\n", 1)[1].strip()
    assert text.startswith(("Example: ldmfilter ", "Example: acquisition | ldmfilter "))


@pytest.mark.parametrize("name", ["check", "decode", "export", "report", "score", "stream"])
def test_help_says_which_run_is_taken_without_one(name, tmp_path):
    assert "latest below runs/" in " ".join(here(name, "--help", cwd=tmp_path).out.replace("│", " ").split())


@pytest.mark.parametrize("module", ["ldmfilter", "ldmfilter_cli"])
def test_as_a_module(module, tmp_path):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ldmfilter {__version__}\n", "")


def test_help_needs_nothing_heavy(tmp_path):
    code = (
        "import sys\nsys.argv = ['ldmfilter', '--help']\n"
        "from ldmfilter_cli import run\n"
        "try: run()\n"
        "except SystemExit: pass\n"
        "names = {'torch', 'numpy', 'pandas', 'xarray', 'pynwb', 'zarr', 'h5py', 'lightning_fabric', 'sklearn',"
        " 'plotly', 'optuna', 'sqlalchemy', 'matplotlib', 'pynapple'}\n"
        "heavy = names & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_inspect(session_file, tmp_path):
    text = here("inspect", session_file, cwd=tmp_path)
    assert text.code == 0
    assert "16 units" in text.out
    assert "processing/behavior/linear_position" in text.out
    assert "\x1b[" not in text.out
    summary = json.loads(here("inspect", session_file, "--json", cwd=tmp_path).out)
    assert summary["units"]["number"] == 16
    assert len(summary["units"]["table"]) == 16
    tables = {table["table"]: table for table in summary["intervals"]}
    assert tables["epochs"]["tags"] == ["rest", "run"]
    paths = {b["path"]: b for b in summary["behavior"]}
    assert paths["processing/behavior/linear_position"] == {
        "path": "processing/behavior/linear_position",
        "shape": [6000],
        "unit": "cm",
        "rate": pytest.approx(50),
        "start": pytest.approx(0),
        "stop": pytest.approx(119.98),
    }


def test_a_rate_that_is_no_number_is_none(tmp_path):
    path = linear_track_session(seed=6, n_units=4, duration=20.0, rest=5.0).to_zarr(tmp_path / "s.zarr")
    attributes = next(path.glob("behavior/*speed/data/.zattrs"))
    attributes.write_text(json.dumps(json.loads(attributes.read_text()) | {"rate": ["odd"]}))
    (path / ".zmetadata").unlink()
    summary = json.loads(here("inspect", path, "--json", cwd=tmp_path).out)
    assert [one["rate"] for one in summary["behavior"] if one["path"].endswith("speed")] == [None]


def test_the_two_commands_verbatim(tmp_path):
    """In an empty folder, with a session of that name, and on a narrow terminal's width."""
    shutil.copy(SAMPLE, tmp_path / "session.nwb")
    brief = ["--max-steps", "25"]
    trained = ldmfilter("train", "session.nwb", *brief, cwd=tmp_path, env=os.environ | {"COLUMNS": "40"})
    assert trained.code == 0, trained.err
    run = Path(trained.out.strip())
    assert run.parent == Path("runs")
    assert {path.name for path in (tmp_path / run).iterdir()} == {
        "run.json", "config.toml", "log.jsonl", "checkpoint.safetensors", "model.safetensors", ".lock",
    }  # fmt: skip
    decoded = here("decode", "--out", "latents.zarr", cwd=tmp_path)
    assert decoded.code == 0, decoded.err
    assert decoded.out == "latents.zarr\n"
    with xr.open_zarr(tmp_path / "latents.zarr") as latents:
        assert latents.sizes["time"] == 5999  # bins from the first spike to the last
        assert np.isfinite(latents["filtered_mean"]).all()
        assert latents.attrs["source_path"].endswith("session.nwb")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latents.zarr", "runs", "session.nwb"]


def test_decode_takes_the_latest_run(session_file, trained, tmp_path):
    words = ["train", session_file, *QUICK, "--max-steps", 1, "--quiet"]
    for name, seed in (("b", 1), ("a", 2)):
        here(*words, "--run", f"runs/{name}", "--seed", seed, cwd=tmp_path)
    assert here("decode", "--out", "latents.zarr", cwd=tmp_path).code == 0
    with xr.open_zarr(tmp_path / "latents.zarr") as latents:
        assert latents.attrs["seed"] == 2


def test_interval_and_span_keep_what_lies_in_both(trained, tmp_path):
    out = tmp_path / "latents.zarr"
    words = ["--interval", "epochs=run", "--span", "10:20", "--span", "95:110", "--ci", "0.5", "--smooth"]
    assert here("decode", "--run", "run", "--out", out, *words, cwd=trained).code == 0
    with xr.open_zarr(out) as latents:
        assert latents.sizes["time"] == 150
        assert np.unique(latents["segment"]).tolist() == [0, 1]
        assert np.unique(latents["interval"]).tolist() == ["run"]
        assert latents.attrs["ci_level"] == 0.5
        assert "smoothed_cov" in latents


def test_options_of_the_file_and_of_the_command_line(session_file, tmp_path):
    (tmp_path / "options.toml").write_text(
        "[data]\nbin_size = 0.2\nspans = [[0.0, 80.0]]\n[filter]\nlatent_dim = 2\nmax_steps = 25\nwindow = 3.2\n"
        'dynamics = "fast"\nhidden = [8]\n'
    )
    words = ["--config", "options.toml", "--bin-size", "0.05", "--run", "run", "--units", "rate > 0.5"]
    ended = here("train", session_file, *words, cwd=tmp_path)
    assert ended.code == 0, ended.err
    resolved = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert resolved["data"] == {
        "bin_size": 0.05,
        "spans": [[0.0, 80.0]],
        "units": "rate > 0.5",
        "sort_times": False,
        "drop_nan": False,
        "ticks": [],
        "min_rate": 0.0,
        "reserve": 0.4,
    }
    assert resolved["filter"]["latent_dim"] == 2
    assert resolved["filter"]["hidden"] == [8]
    # The resolved file is a configuration itself.
    again = here("train", session_file, "--config", "run/config.toml", "--run", "again", cwd=tmp_path)
    assert again.code == 0, again.err
    assert (tmp_path / "again" / "config.toml").read_text() == (tmp_path / "run" / "config.toml").read_text()
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        tmp_path / "run" / "model.safetensors"
    ).read_bytes()


def test_units_left_out_are_told(tmp_path):
    rng = np.random.default_rng(0)
    spikes = [np.sort(rng.uniform(0, 100, 300)) for _ in range(4)]
    Session.from_spikes([*spikes, [], [1.0]]).to_zarr(tmp_path / "s.zarr")
    ended = here("train", "s.zarr", "--min-rate", 0.5, "--run", "run", *QUICK, cwd=tmp_path)
    assert "left out 2 of 6 units: 1 silent, 1 below 0.5 Hz" in ended.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][0]["unit_ids"] == [0, 1, 2, 3]


def test_candidates_are_told(session_file, tmp_path):
    words = ["--span", "0:4", "--reserve", 0, "--latent-dim", 2, "--max-steps", 2, "--hidden", 8]
    ended = here("train", session_file, "--run", "run", *words, "--no-refit", cwd=tmp_path)
    told = r"kept: (slow|fast).*spikes predicted ahead / of hidden units, bits per spike.*:\n(  slow.*\n)+(  fast.*\n)+"
    assert re.search(told, ended.err)


def test_bins_too_long_for_short_trials_are_told(session_file, tmp_path):
    spans = [word for start in range(30) for word in ("--span", f"{start}:{start}.4")]
    words = ["--reserve", 0, "--latent-dim", 2, "--max-steps", 2, "--hidden", 8, "--no-refit", *spans]
    ended = here("train", session_file, "--run", "run", *words, cwd=tmp_path)
    assert "stretches of 4 bins or fewer; bins of 0.05 s (--bin-size) show more of the time course" in ended.err
    ended = here("train", session_file, "--run", "shorter", "--bin-size", 0.05, *words, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert "stretches" not in ended.err


def test_quiet_and_log(session_file, tmp_path):
    ended = here("train", session_file, "--run", "run", "--quiet", *QUICK, cwd=tmp_path)
    assert (ended.out, ended.err) == ("run\n", "")
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [record["step"] for record in log] == [0, 25, 50]
    assert {"loss", "held_out_log_likelihood", "effective_rank", "score", "kept_step"} <= set(log[1])


def outputs(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("model.safetensors", "checkpoint.safetensors", "log.jsonl")}


LONG = [*QUICK, "--max-steps", "200"]


@pytest.fixture(scope="module")
def undisturbed(session_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    assert here("train", session_file, "--run", "run", *LONG, cwd=folder).code == 0
    return outputs(folder / "run")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_and_resumed_equals_undisturbed(session_file, undisturbed, tmp_path, how):
    process = Forked("train", session_file, "--run", "run", *LONG, cwd=tmp_path)
    model = tmp_path / "run" / "model.safetensors"  # the last that an evaluation writes
    while not model.exists() and process.running:
        time.sleep(0.02)
    time.sleep(0.3)
    assert process.running, process.end()
    process.send(how)
    ended = process.end()
    assert ended.code == (130 if how is signal.SIGINT else -how)
    if how is signal.SIGINT:
        assert ended.err.strip().endswith("go on with `ldmfilter train --resume --run run`")
    # What is there can be decoded already, with a warning.
    early = here("decode", "--run", "run", "--out", "early.zarr", cwd=tmp_path)
    assert early.code == 0, early.err
    assert "states stopped at step" in early.err
    resumed = here("train", "--resume", "--run", "run", cwd=tmp_path)
    assert resumed.code == 0, resumed.err
    assert outputs(tmp_path / "run") == undisturbed


@pytest.mark.parametrize("records", [1, 3])
def test_a_run_whose_dimensions_are_open_goes_on_to_fewer(session_file, tmp_path, records):
    """Stopped in the first training, and in that of half the dimensions; and resumed at the end."""
    words = ["--dynamics", "fast", "--max-steps", 25, "--hidden", 16, "--window", 2, "--batch-size", 8, "--no-refit"]
    assert here("train", session_file, "--run", "whole", *words, cwd=tmp_path).code == 0
    config = Config.read(tmp_path / "whole" / "config.toml")
    assert config.filter.latent_dim is config.filter.state_dim is None
    run, training = runs.start_run(tmp_path / "run", [session_file], None, config, False)
    started = run.train(training)
    assert [next(started).step for _ in range(records)] == [0, 25, 0][:records]
    run._write(training)
    started.close()
    for _ in range(2):
        resumed = here("train", "--resume", "--run", "run", cwd=tmp_path)
        assert resumed.code == 0, resumed.err
        assert "fast in 4 dimensions" in resumed.err
        assert outputs(tmp_path / "run") == outputs(tmp_path / "whole")


@pytest.mark.parametrize("words", [["decode", "--out", "latents.zarr"], ["check"]])
def test_a_model_is_read_once(trained, tmp_path, monkeypatch, words):
    read, real = [], runs.load
    monkeypatch.setattr(runs, "load", lambda path: read.append(path) or real(path))
    shutil.copytree(trained / "run", tmp_path / "run")
    assert here(*words, "--run", "run", cwd=tmp_path).code == 0
    assert len(read) == 1


def test_resuming_what_is_finished_changes_nothing(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "run")
    before = outputs(tmp_path / "run")
    ended = here("train", "--resume", "--run", "run", cwd=tmp_path)
    assert ended.code == 0
    assert "this training has ended; for a longer one make a new run" in ended.err
    longer = here("train", "--resume", "--run", "run", "--max-steps", 99, cwd=tmp_path)
    assert longer.code == 2
    assert "train SESSION --max-steps 99` makes a new run" in " ".join(longer.err.replace("│", "").split())
    assert outputs(tmp_path / "run") == before


def test_a_pipe_that_closes_is_no_error(session_file, tmp_path):
    command = f"{sys.executable} -m ldmfilter_cli inspect {session_file} --json | head -n 1"
    done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "{\n"
    assert done.stderr == ""


# Bad input: one line, exit code 3, nothing written.


def test_files_that_are_no_session(tmp_path):
    (tmp_path / "empty.nwb").touch()
    (tmp_path / "text.nwb").write_text("no session")
    (tmp_path / "cut.nwb").write_bytes(SAMPLE.read_bytes()[:100_000])
    with h5py.File(tmp_path / "other.nwb", "w") as file:
        file["x"] = [1.0]
    for name, words in {
        "missing.nwb": "no such file",
        "empty.nwb": "is empty",
        "text.nwb": "is not an NWB file",
        "cut.nwb": "cut.nwb",
        "other.nwb": "other.nwb",
    }.items():
        refused(here("train", name, cwd=tmp_path), name, words)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--bin-size", "0"], "bin-size is 0.0; it must be a number of seconds above 0"),
        (["--bin-size", "-1"], "bin-size is -1.0"),
        (["--bin-size", "nan"], "bin-size is nan"),
        (["--bin-size", "500"], "longer than"),
        (["--bin-size", "1e-8"], "more than fit into memory; use larger bins or less time"),
        (["--interval", "trial"], "no interval table 'trial'; it has epochs, trials"),
        (["--interval", "epochs=swim"], "no tag 'swim' in interval table 'epochs'; it has rest, run"),
        (["--span", "20:10"], "span is 20.0:10.0; it must be START:STOP in seconds with STOP after START"),
        (["--span", "1000:2000"], "span 1000:2000 is empty"),
        (["--span", "0:1"], "10 observed bins, 10 in a row at the longest, are too few"),
        (["--units", "quality == 'good'"], "no column quality; it has"),
        (["--units", "rate > 1e6"], "none of 16 fits the query"),
        (["--entropy", "none"], "entropy is none; it must be one of logdet, knn, stopgrad, kde"),
        (["--latent-dim", "0"], "latent-dim is 0"),
        (["--config", "missing.toml"], "missing.toml: cannot be read"),
    ],
)
def test_options_that_cannot_be_used(session_file, tmp_path, words, expected):
    refused(here("train", session_file, *words, cwd=tmp_path), expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bin_size = 1", "unknown table [bin_size]; the tables are [data] and [filter]"),
        ("[filter]\ndepth = 3", "unknown option 'depth'; the options are latent_dim"),
        ("[filter]\nlatent_dim = 'two'", "latent_dim is 'two'; it must be a whole number"),
        ("[filter]\nlatent_dim = -2", "latent_dim is -2; it must be a whole number of 1 or more"),
        ("[filter", "not a TOML file"),
    ],
)
def test_configurations_that_cannot_be_used(session_file, tmp_path, text, expected):
    (tmp_path / "options.toml").write_text(text)
    refused(here("train", session_file, "--config", "options.toml", cwd=tmp_path), "options.toml", expected)


@pytest.mark.parametrize(
    "words",
    [["train"], ["train", "x", "--span", "ten"], ["train", "x", "--bin-size", "ten"], ["decode"], ["swim"]],
)
def test_wrong_usage_is_exit_code_2(tmp_path, words):
    assert here(*words, cwd=tmp_path).code == 2


def test_all_units_silent(tmp_path):
    Session.from_spikes([[], []], intervals={"epochs": {"start_time": [0.0], "stop_time": [50.0]}}).to_zarr(
        tmp_path / "s.zarr"
    )
    refused(here("train", "s.zarr", cwd=tmp_path), "s.zarr", "all 2 units are silent")


def test_nothing_to_decode_from(tmp_path):
    refused(here("decode", "--out", "latents.zarr", cwd=tmp_path), "no run here", "ldmfilter train SESSION")
    refused(
        here("decode", "--run", "x", "--out", "latents.zarr", cwd=tmp_path),
        "x: no such run folder",
    )
    assert list(tmp_path.iterdir()) == []


def test_existing_outputs_are_kept(session_file, trained, tmp_path):
    refused(here("train", session_file, "--run", "run", *QUICK, cwd=trained), "run: exists already", "--resume")
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").write_text("precious")
    refused(here("decode", "--run", "run", "--out", out, cwd=trained), "exists already", "overwrite it")
    for name in (out, trained / "run", trained):  # whatever is not a store of states is never replaced
        ended = here("decode", "--run", "run", "--out", name, "--overwrite", cwd=trained)
        refused(ended, "is no store of latent states")
    assert (out / "notes.txt").read_text() == "precious"
    store = tmp_path / "latents.zarr"
    for words in (["--span", "0:10"], ["--span", "0:20", "--overwrite"]):
        assert here("decode", "--run", "run", "--out", store, *words, cwd=trained).code == 0
    assert xr.open_zarr(store).sizes["time"] == 200


def test_decode_bins_as_train_did_where_units_were_selected(tmp_path):
    """The unit that is left out fires first and last: the session's extent is its own, and so are the bins."""
    rng = np.random.default_rng(0)
    spikes = [np.sort(rng.uniform(3.03, 90.0, 300)) for _ in range(4)]
    Session.from_spikes([*spikes, [0.01, 99.9]], units={"good": [True] * 4 + [False]}).to_zarr(tmp_path / "s.zarr")
    ended = here("train", "s.zarr", "--units", "good == True", "--run", "run", *QUICK, cwd=tmp_path)
    assert "4 units, 599 bins" in ended.err
    assert here("decode", "--run", "run", "--out", "l.zarr", cwd=tmp_path).code == 0
    with xr.open_zarr(tmp_path / "l.zarr") as latents:
        assert latents.sizes["time"] == 998
        assert float(latents["time"][0]) == pytest.approx(0.06)


def test_a_damaged_neighbour_does_not_hide_the_latest_run(trained, tmp_path):
    shutil.copytree(trained / "run", tmp_path / "runs" / "good")
    (tmp_path / "runs" / "bad").mkdir()
    (tmp_path / "runs" / "bad" / "run.json").write_text("{")
    ended = here("decode", "--out", "l.zarr", cwd=tmp_path)
    assert ended.code == 0
    assert "bad/run.json: damaged file; this run is passed over" in ended.err


def test_other_units_are_refused(trained, tmp_path):
    Session.from_spikes({1: [0.5], 2: [0.7], 99: [3.0]}).to_zarr(tmp_path / "other.zarr")
    ended = here("decode", tmp_path / "other.zarr", "--run", "run", "--out", tmp_path / "out.zarr", cwd=trained)
    refused(ended, "its 3 units are not the 16", "it lacks 0, 3", "has 99 besides")
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("name", ["run.json", "config.toml", "model.safetensors", "checkpoint.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "one bit"])
def test_damaged_run_folders(trained, tmp_path, name, damage):
    shutil.copytree(trained / "run", tmp_path / "run")
    path = tmp_path / "run" / name
    content = path.read_bytes()
    path.unlink()
    if damage == "one bit":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage != "missing":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"")
    before = sorted(file.name for file in (tmp_path / "run").iterdir())
    if name == "run.json" and damage == "one bit":
        return  # a bit in a date or a path is not seen, and changes no number
    named = "run: is not a run folder" if name == "run.json" and damage == "missing" else name
    if name != "checkpoint.safetensors":  # decoding does not need it
        refused(here("decode", "--run", "run", "--out", "out.zarr", cwd=tmp_path), named)
    if name != "model.safetensors":  # which the checkpoint makes again
        refused(here("train", "--resume", "--run", "run", cwd=tmp_path), named)
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == before
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("name", ["train", "decode"])
def test_no_space_on_the_disk(session_file, trained, tmp_path, name):
    """A file size limit stands for a full disk: the write fails in the middle in the same way."""
    words = {"decode": ["--run", trained / "run", "--out", "out.zarr"], "train": [session_file, "--run", "out"]}[name]
    ended = Forked(name, "--quiet", *words, cwd=tmp_path, largest=4096).end()
    refused(ended, "out", "no space left on the disk")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist(trained):
    refused(here("decode", "--run", "run", "--out", "nowhere/out.zarr", cwd=trained), "its folder does not exist")


def test_debug_shows_the_traceback(tmp_path):
    assert "Traceback" in here("inspect", "missing.nwb", "--debug", cwd=tmp_path).err


def test_a_run_that_was_killed_before_its_first_checkpoint(trained, tmp_path):
    (tmp_path / "run").mkdir()
    for name in ("run.json", "config.toml"):
        shutil.copy(trained / "run" / name, tmp_path / "run")
    ended = here("decode", "--run", "run", "--out", "l.zarr", cwd=tmp_path)
    refused(ended, "run: its training has kept no model yet; `ldmfilter train --resume --run run` goes on")
    assert here("train", "--resume", "--run", "run", cwd=tmp_path).code == 0
    assert outputs(tmp_path / "run") == outputs(trained / "run")


def test_quiet_is_quiet_in_mixed_precision(session_file, tmp_path):
    words = ["--precision", "bf16-mixed", *QUICK, "--max-steps", "5"]
    ended = Forked("train", session_file, "--run", "r", "-q", *words, cwd=tmp_path).end()
    assert (ended.code, ended.err) == (0, "")


def test_a_session_of_noise_is_told(tmp_path):
    rng = np.random.default_rng(1)
    Session.from_spikes([np.sort(rng.uniform(0, 200, 400)) for _ in range(6)]).to_zarr(tmp_path / "s.zarr")
    ended = here("train", "s.zarr", "--run", "run", *QUICK, "--learning-rate", "0.05", cwd=tmp_path)
    assert "nothing was found that predicts held-out time" in ended.err


def test_a_session_that_has_changed_is_told(tmp_path):
    shutil.copy(SAMPLE, tmp_path / "session.nwb")
    assert here("train", "session.nwb", "--run", "run", *QUICK, cwd=tmp_path).code == 0
    with h5py.File(tmp_path / "session.nwb", "a") as file:
        file["units/spike_times"][0] += 1e-4
    ended = here("decode", "--run", "run", "--span", "0:20", "--out", "l.zarr", cwd=tmp_path)
    assert ended.code == 0
    assert "session.nwb: has changed since run was trained on it" in ended.err
    refused(here("train", "--resume", "--run", "run", cwd=tmp_path), "is not the session that run was trained on")
