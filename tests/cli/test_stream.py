"""Counts in, states out, through a real pipe."""

import contextlib
import json
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from ldmfilter_cli.main import app
from typer.testing import CliRunner

from ldmfilter import bin_spikes
from ldmfilter.data import read_session
from ldmfilter.filter.runs import Run

COMMAND = [sys.executable, "-m", "ldmfilter_cli", "stream"]
N = 16  # units of the session


@pytest.fixture(scope="module")
def model(trained):
    return Run.open(trained / "run").model()


@pytest.fixture(scope="module")
def counts(session_file, model) -> xr.DataArray:
    return bin_spikes(read_session(session_file), model.bin_size_, "epochs=run")[:120]


def stream(trained: Path, lines: Sequence[str | bytes], *words: str) -> tuple[list[str], list[str], int]:
    """Lines of stdout and stderr, and the exit code."""
    raw = b"".join((line.encode() if isinstance(line, str) else line) + b"\n" for line in lines)
    with contextlib.chdir(trained):  # in this process, which is quicker than in its own
        done = CliRunner().invoke(app, ["stream", *words], input=raw, prog_name="ldmfilter")
    return done.stdout.splitlines(), done.stderr.splitlines(), done.exit_code


def states(trained: Path, lines: Sequence[str | bytes], *words: str) -> list[dict]:
    """States of lines without a fault."""
    out, err, code = stream(trained, lines, "--run", "run", "--quiet", *words)
    assert (err, code) == ([], 0)
    return [json.loads(line) for line in out]


def as_json(counts: xr.DataArray) -> list[str]:
    return [json.dumps(row.tolist()) for row in counts.to_numpy()]


def assert_equal(got: Sequence[dict], latents: xr.Dataset) -> None:
    np.testing.assert_allclose([s["mean"] for s in got], latents["filtered_mean"], atol=1e-6)
    np.testing.assert_allclose([s["cov"] for s in got], latents["filtered_cov"], atol=1e-6)
    assert [s["bin"] for s in got] == list(range(latents.sizes["time"]))
    assert [s["observed"] for s in got] == latents["observed"].to_numpy().tolist()


@pytest.fixture(scope="module")
def with_gaps(counts) -> xr.DataArray:
    """Three missing bins, and from bin 70 on another segment."""
    observed = np.ones(len(counts), bool)
    observed[[5, 40, 41]] = False
    segment = (np.arange(len(counts)) >= 70).astype(np.int32)
    return counts.assign_coords(observed=("time", observed), segment=("time", segment))


def test_json_equals_decoding_offline(trained, model, with_gaps):
    lines = as_json(with_gaps)
    lines[5], lines[40], lines[41] = "null", json.dumps([None] * N), " null "
    lines.insert(70, '"reset"')
    got = states(trained, lines, "--ci", "0.9")
    latents = model.decode(with_gaps, ci=0.9)
    assert_equal(got, latents)
    np.testing.assert_allclose([s["ci"] for s in got], latents["ci"], atol=2e-6)


def test_csv_equals_decoding_offline(trained, model, with_gaps):
    order = np.random.default_rng(0).permutation(N)
    lines = [",".join(map(str, row)) for row in with_gaps.to_numpy()[:, order]]
    lines[5], lines[40], lines[41] = "", "," * (N - 1), " , " * 3
    lines.insert(70, "reset")
    assert_equal(states(trained, [",".join(map(str, model.unit_ids_[order])), *lines]), model.decode(with_gaps))


def test_objects_by_unit_id(trained, model, counts):
    lines = [
        json.dumps({str(u): int(c) for u, c in zip(model.unit_ids_, row, strict=True) if c})
        for row in counts.to_numpy()
    ]
    assert_equal(states(trained, lines), model.decode(counts))


def test_units_that_are_not_observed(trained, model, counts):
    seen = np.ones(counts.shape, bool)
    seen[::3, 2] = False
    latents = model.decode(counts.assign_coords(unit_observed=(("time", "unit"), seen)))
    values = [
        [c if s else None for c, s in zip(*pair, strict=True)]
        for pair in zip(counts.to_numpy().tolist(), seen, strict=True)
    ]
    assert_equal(states(trained, list(map(json.dumps, values))), latents)
    lines = [",".join("" if c is None else str(c) for c in row) for row in values]
    assert_equal(states(trained, lines), latents)


def test_csv_out(trained, counts):
    lines = as_json(counts[:3])
    out, _, code = stream(trained, lines, "--run", "run", "--quiet", "--out-format", "csv", "--ci", "0.95")
    expected = states(trained, lines, "--ci", "0.95")
    assert code == 0
    names = out[0].split(",")
    d = len(expected[0]["mean"])
    assert names[:3] == ["bin", "time", "observed"]
    assert len(names) == 3 + d + d * d + 2 * d
    assert [names[3 + d + 1], names[-1]] == ["cov_0_1", f"upper_{d - 1}"]
    for line, state in zip(out[1:], expected, strict=True):
        values = list(map(float, line.split(",")))
        assert values == [
            state["bin"],
            state["time"],
            1,
            *state["mean"],
            *np.ravel(state["cov"]),
            *np.ravel(state["ci"]),
        ]


def test_a_line_about_the_model_and_the_times_of_bins(trained, model, counts):
    first, *got = states(trained, as_json(counts[:3]), "--head")
    about = first["header"]
    assert (about["model"], about["bin_size"], about["units"]) == (model.model_id_, 0.1, list(range(N)))
    assert [one["time"] for one in got] == [0.05, 0.15, 0.25]


def test_a_strict_stream_ends_at_a_wrong_line(trained, counts):
    out, err, code = stream(trained, [*as_json(counts[:2]), "nonsense", *as_json(counts[:1])], "--strict", "run")
    assert (len(out), code) == (2, 3)
    assert err[-1].startswith("ldmfilter: line 3: ")


def test_without_covariance(trained, counts):
    assert set(states(trained, as_json(counts[:1]), "--no-cov")[0]) == {"bin", "time", "observed", "mean"}
    out, _, _ = stream(trained, as_json(counts[:1]), "--run", "run", "--quiet", "--no-cov", "--out-format", "csv")
    assert "cov" not in out[0]


MALFORMED = {
    "[1, 2": "not JSON",
    "[" * 100_000: "not JSON",
    "[1, 2, 3]": "3 counts, but the model has 16 units",
    "[]": "0 counts",
    "[null]": "1 counts",
    json.dumps([-1] + [0] * 15): "has -1; give whole numbers of 0 or more",
    json.dumps([0.5] + [0] * 15): "has 0.5",
    json.dumps([float("inf")] + [0] * 15): "has inf",
    json.dumps([10**400] + [0] * 15): "too large",
    json.dumps(["1"] + [0] * 15): '"1" is not a count',
    json.dumps([True] + [0] * 15): "true is not a count",
    json.dumps([[1] * 16]): "is not a count",
    '{"unheard": 1}': "has no unit 'unheard'",
    "hello": "'hello' is not a count",
    "12": "1 counts",
    "1,2,x": "'x' is not a count",
    '"a,b': "is not a count",
}


def test_a_malformed_line_is_named_once_and_its_bin_is_missing(trained, counts):
    lines = as_json(counts[:10])
    bad: list[str | bytes] = [*MALFORMED, b"\xff\xfe[1]"]
    mixed = [lines[0], *bad, *lines[1:]]
    out, err, code = stream(trained, mixed, "--run", "run", "--quiet")
    assert code == 0
    assert len(err) == len(bad), err
    for number, (said, reason) in enumerate(zip(err, [*MALFORMED.values(), "not text in UTF-8"], strict=True), 2):
        assert said.startswith(f"line {number}: "), said
        assert reason in said
        assert said.endswith("; taken as a missing bin")
        assert len(said) < 250
    clean = states(trained, [lines[0], *["null"] * len(bad), *lines[1:]])
    assert [json.loads(line) for line in out] == clean


def test_a_malformed_first_line_decides_nothing(trained, counts):
    out, err, code = stream(trained, ["what is this?", *as_json(counts[:3])], "--run", "run", "--quiet")
    assert (code, len(out), len(err)) == (0, 4, 1)
    assert json.loads(out[3])["observed"]


def test_a_named_format_is_kept_to(trained, counts):
    _, err, _ = stream(trained, ["1,2,3", ""], "--run", "run", "--quiet", "--format", "json")
    assert ["not JSON" in line for line in err] == [True, True]
    _, err, _ = stream(trained, as_json(counts[:1]), "--run", "run", "--quiet", "--format", "csv")
    assert len(err) == 1
    assert "is not a count" in err[0]


def test_headers(trained, model, counts):
    ids = [str(u) for u in model.unit_ids_]
    row = ",".join(map(str, counts.to_numpy()[0]))
    _, err, code = stream(trained, [",".join(ids[:-1]), row], "--run", "run", "--quiet", "--header")
    assert code == 3
    assert len(err) == 1
    assert f"line 1: the header lacks unit {ids[-1]}" in err[0]
    _, err, code = stream(trained, [",".join([*ids, "time"]), row + ",0.5"], "--run", "run", "--quiet")
    assert code == 3
    assert "has 'time', no unit of the session" in err[0]
    out, err, code = stream(trained, [",".join(ids), row], "--run", "run", "--quiet", "--no-header")
    assert (code, len(out), err) == (0, 2, [])
    out, err, code = stream(trained, [",".join(ids), row + ",7"], "--run", "run")
    assert (code, len(out), len(err)) == (0, 1, 3)
    assert "read as a header" in err[1]
    assert "17 fields below a header of 16" in err[2]


def test_each_state_goes_out_while_stdin_is_open(trained, counts):
    """An acquisition system waits for the answer before it sends the next bin. When it leaves, the end is quiet."""
    lines = [line.encode() + b"\n" for line in [*as_json(counts[:5]), "null", "nonsense"]]
    with subprocess.Popen(
        [*COMMAND, "--run", "run"], cwd=trained, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            for n, line in enumerate(lines):
                process.stdin.write(line)
                process.stdin.flush()
                assert select.select([process.stdout], [], [], 60)[0], "no state came"
                assert json.loads(process.stdout.readline())["bin"] == n
            process.stdout.close()
            process.stdin.write(lines[0] * 5)
            process.stdin.close()
            process.wait(60)
            about, of_nonsense = process.stderr.read().decode().splitlines()
        finally:
            process.kill()
    assert "16 units, a line for each bin of 0.1 s" in about
    assert of_nonsense.endswith("; taken as a missing bin")


def test_what_cannot_begin(trained, tmp_path):
    _, err, code = stream(tmp_path, [])
    assert (code, len(err)) == (3, 1)
    assert "no run here" in err[0]
    _, err, code = stream(trained, [], "--run", "run", "--ci", "95")
    assert (code, len(err)) == (3, 1)
    assert "ci is 95" in err[0]
    assert stream(trained, [], "--format", "xml")[2] == 2


def test_nothing_in_nothing_out(trained):
    assert stream(trained, [], "--run", "run", "--quiet") == ([], [], 0)


def test_the_latest_run(trained, tmp_path):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "one").symlink_to(trained / "run")
    out, err, code = stream(tmp_path, ["null"])
    assert (code, len(out)) == (0, 1)
    assert "model of runs/one" in err[0]


def test_with_a_lag_each_line_has_the_bin_that_lies_behind(trained, model, counts):
    """A reset in the middle gives the bins that are left, as the end does."""
    labelled = counts.assign_coords(segment=("time", np.repeat([0, 1], [40, 80]).astype(np.int32)))
    latents = model.decode(labelled, lag=0.5)
    lines = as_json(counts)
    got = states(trained, [*lines[:40], "reset", *lines[40:50], "null", *lines[51:]], "--lag", "0.5")
    assert [state["bin"] for state in got] == list(range(120))
    assert [state["bin"] for state in got if not state["observed"]] == [50]
    np.testing.assert_allclose([state["mean"] for state in got[:40]], latents["lagged_mean"][:40], atol=1e-6)
    np.testing.assert_allclose([state["cov"] for state in got[:40]], latents["lagged_cov"][:40], atol=1e-6)
    assert len(states(trained, lines[:7], "--lag", "0.5")) == 7
    out, err, code = stream(trained, [], "--run", "run", "--lag", "0.25")
    assert (out, code) == ([], 0)
    assert err[0] == "a lag of 0.25 s in whole frames is 0.2 s for fast states"
    assert "2 bins behind" in err[1]
    assert "at most 10,000 bins" in stream(trained, [], "--run", "run", "--lag", "1e9")[1][0]
    out, err, code = stream(trained, [], "--run", "run", "--lag", "0.01")
    assert (out, code) == ([], 3)
    assert err == [
        "ldmfilter: lag is 0.01 s, but this filter looks at frames of 0.1 s and learns nothing new of a bin before the "
        "next one ends; give 0.1 s or more"
    ]


def test_behavior_is_read_in_intervals_that_adapt(trained, model, counts, monkeypatch):
    """Places come after the counts, from bin 30 on far from what the states say; the states are as without them."""
    monkeypatch.setattr("ldmfilter.analysis.blocks.LEAST_FOLDS", 3)  # the session is short
    place, rows = [80.0] * 30 + [1e4] * 90, counts.to_numpy().tolist()
    lines = [json.dumps([*row, one]) for row, one in zip(rows, place, strict=True)]
    lines[3] = json.dumps({"linear_position": 80.0} | {str(unit): count for unit, count in enumerate(rows[3])})
    lines[7] = json.dumps(rows[7])  # without a place
    lines[9] = json.dumps([None] * N + [80.0])
    asked = ("--behavior", "linear_position", "--no-cov", "--ci", "0.9")
    got = states(trained, lines, *asked)
    assert [i for i, one in enumerate(got) if not one["observed"]] == [9]
    np.testing.assert_allclose([s["mean"] for s in got[:9]], model.decode(counts[:9])["filtered_mean"], atol=1e-6)
    read = [one["behavior"]["linear_position"] for one in got]
    assert all(one["ci"][0] < one["mean"] < one["ci"][1] for one in read)
    held = [one["ci"][0] <= truth <= one["ci"][1] for one, truth in zip(read, place, strict=True)]
    assert not any(held[30:40])
    assert all(held[-10:])
    ids = ",".join([*map(str, model.unit_ids_), "linear_position"])
    csv = [ids, *(",".join(map(str, [*row, one])) for row, one in zip(rows[:3], place, strict=False))]
    out, _, code = stream(trained, csv, "--run", "run", "--quiet", "--out-format", "csv", *asked)
    assert code == 0
    assert out[0].endswith("linear_position,linear_position_lower,linear_position_upper")
    assert list(map(float, out[1].split(",")[-3:])) == [read[0]["mean"], *read[0]["ci"]]


def test_behavior_that_cannot_be_streamed(trained):
    _, err, code = stream(trained, [], "--run", "run", "--behavior", "linear_position")
    assert (code, len(err)) == (3, 1)
    assert "linear_position cannot be read with intervals: too few blocks of time" in err[0]
    assert stream(trained, [], "--run", "run", "--behavior", "linear_position", "--lag", "0.5")[2] == 2
    assert stream(trained, [], "--run", "run", "--circular", "linear_position")[2] == 2


def test_an_alarm_when_spikes_change(trained, counts):
    """The same process is silent; from bin 120 on there are ten times as many spikes."""
    rows = counts.to_numpy()
    changed = np.concatenate([rows, 10.0 * rows])
    asked = ("--run", "run", "--quiet", "--no-cov", "--alarm", "4")
    out, err, code = stream(trained, [json.dumps(row.tolist()) for row in changed], *asked)
    alarms = [json.loads(line)["alarm"] for line in out]
    begin = alarms.index(True)
    assert code == 0
    assert 120 <= begin < 160
    assert len(err) == np.count_nonzero(np.diff(alarms))
    assert err[0].startswith(f"bin {begin} ({begin / 10 + 0.05:g} s): alarm: the mean innovation of the last 4 s is ")
    out, _, _ = stream(trained, as_json(counts[:2]), *asked, "--out-format", "csv")
    assert out[0].endswith(",alarm")
    assert out[1].endswith(",0")
    assert stream(trained, [], "--run", "run", "--alarm", "4", "--lag", "0.5")[2] == 2
