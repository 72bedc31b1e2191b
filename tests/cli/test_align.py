"""`decode --align` from the command line."""

from dataclasses import replace

import numpy as np
import pytest
import xarray as xr

from ldmfilter.analysis.decode_session import DecodeOptions, decode_session
from ldmfilter.errors import InputError
from ldmfilter.filter.runs import Run
from tests.cli.conftest import here


def decode(folder, *words, out="t.zarr"):
    return here("decode", "--run", "run", "--out", out, *words, cwd=folder)


ALIGNED = ["--align", "trials.start_time", "--window", "-0.5:1.5", "--filter", "direction == 'inbound'"]


def test_states_in_trials(trained):
    ended = decode(trained, *ALIGNED, "--ahead", "0.5", "--ahead", "0.1", "--lag", "0.5", out="trials.zarr")
    assert ended.code == 0, ended.err
    assert ended.out == "trials.zarr\n"
    with xr.open_zarr(trained / "trials.zarr") as aligned:
        assert aligned["filtered_mean"].dims == ("trial", "time", "state")
        assert aligned["filtered_cov"].dims == ("trial", "time", "state", "state_2")
        assert aligned["ahead_cov"].dims == ("ahead", "trial", "time", "state", "state_2")
        assert aligned["ahead"].to_numpy().tolist() == [0.1, 0.5]
        np.testing.assert_array_equal(aligned["lagged_mean"].isnull(), aligned["filtered_mean"].isnull())
        assert set(aligned["direction"].to_numpy().tolist()) == {"inbound"}
        assert aligned.attrs["align"] == "trials.start_time"
    assert "exists already" in decode(trained, *ALIGNED, out="trials.zarr").err
    again = decode(trained, *ALIGNED, "--overwrite", "--quiet", out="trials.zarr")
    assert (again.code, again.err) == (0, "")
    for to, out in (("csv", "x.csv"), ("netcdf", "x.nc")):
        refused = here("export", "trials.zarr", "--to", to, "--out", out, cwd=trained)
        assert refused.code == 3
        assert refused.err == (
            "ldmfilter: trials.zarr: holds states in trials (around trials.start_time), where states in time are "
            "needed; decode without aligning\n"
        )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--align", "trials.cue"], "no column of times 'cue' in interval table 'trials'; it has start_time"),
        (["--align", "laps.start_time"], "no interval table 'laps'; it has epochs, trials"),
        (["--align", "trials"], "'trials' is an interval table; name a column of it, as trials.start_time"),
        (["--align", "trials.start_time", "--window", "900:901"], "no trial reaches the window 900:901 s"),
    ],
)
def test_what_cannot_be_aligned_leaves_the_store_as_it_was(trained, words, line):
    assert decode(trained, "--span", "0:20", "--overwrite", "--quiet", out="kept.zarr").code == 0
    ended = decode(trained, *words, "--overwrite", "--quiet", out="kept.zarr")
    assert ended.code == 3
    assert len(ended.err.splitlines()) == 1
    assert line in ended.err
    with xr.open_zarr(trained / "kept.zarr") as kept:
        assert kept["filtered_mean"].dims == ("time", "state")


def test_one_trial_is_told_as_one(trained):
    words = ["--align", "trials.start_time", "--window", "0:1", "--filter", "id == 0"]
    ended = decode(trained, *words, out="one.zarr")
    assert "1 trial around trials.start_time, 1 in the decoded time" in ended.err


def test_options_of_trials_without_an_event_are_wrong_usage(trained):
    assert decode(trained, "--window", "0:1").code == 2
    assert decode(trained, "--align", "trials.start_time", "--window", "1").code == 2


def test_what_is_there_already_is_kept(trained):
    run, out = Run.open(trained / "run"), trained / "again.zarr"
    options = DecodeOptions(align="trials.start_time", window=(0.0, 1.0))
    assert decode_session(run, None, out, options) == ()
    assert decode_session(run, None, out, options, keep=True) is None
    with pytest.raises(InputError, match="exists already"):
        decode_session(run, None, out, replace(options, window=(0.0, 2.0)), keep=True)
