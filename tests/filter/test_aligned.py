"""States in trials: which bin stands where, and that none knows of what it should not."""

import numpy as np
import pytest
import xarray as xr

import ldmfilter
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError
from ldmfilter.filter.latents import write_latents

BIN = 0.1


def states(segments: list[tuple[float, int]], missing: tuple = ()) -> xr.Dataset:
    """States whose mean is the end of their bin, in segments of (start, bins); `missing` bins were not observed."""
    ends = np.concatenate([start + BIN * np.arange(1, bins + 1) for start, bins in segments])
    n = ends.size
    coords = {
        "time": ("time", ends - BIN / 2),
        "segment": ("time", np.repeat(np.arange(len(segments), dtype=np.int32), [bins for _, bins in segments])),
        "interval": ("time", np.full(n, "run")),
        **{name: [0] for name in ("state", "state_2", "latent", "latent_2")},
        "bound": ["lower", "upper"],
    }
    mean = ends[:, None]
    variables = {
        "filtered_mean": (("time", "state"), mean),
        "filtered_cov": (("time", "state", "state_2"), mean[:, :, None]),
        "ci": (("time", "state", "bound"), np.stack([mean, mean], -1), {"level": 0.95}),
        "observed": ("time", ~np.isin(np.arange(n), missing)),
        "place_fold": ("time", np.arange(n, dtype=np.int8)),
    }
    return xr.Dataset(variables, coords, {"format": "ldmfilter-latents", "bin_size": BIN})


def trials(**columns) -> Session:
    return Session.from_spikes([[0.5]], intervals={"trials": columns, "my.cues": {"start_time": [1], "stop_time": [2]}})


def ends_of(aligned: xr.Dataset) -> np.ndarray:
    return aligned["filtered_mean"].to_numpy()[:, :, 0]


def test_events_that_are_no_times_on_the_clock_are_refused_or_told():
    start = np.arange(0.0, 30.0, 3.0)
    cue = np.linspace(0.4, 0.5, 10)
    for rt in (cue, np.append(cue[:-1], 999.0), np.append(cue[:-1], np.nan)):
        session = trials(start_time=start, stop_time=start + 2, rt=rt)
        with pytest.raises(InputError, match=r"trials: rt holds no times on the session's clock: .* start_time \+ rt"):
            ldmfilter.align(states([(0.0, 300)]), session, "trials.rt", (0, 0.5), "id > 8")
        with pytest.raises(InputError, match=r"no column of times 'go' in .* it has start_time, stop_time$"):
            ldmfilter.align(states([(0.0, 300)]), session, "trials.go", (0, 0.5))
    session = trials(start_time=start, stop_time=start + 2, cue=3 * start)
    with pytest.warns(UserWarning, match=r"trials.cue: 9 of 10 events lie far from their own rows, at 0 to 81 s"):
        ldmfilter.align(states([(0.0, 300)]), session, "trials.cue", (0, 0.5))
    for cue, length in ((start - 1, 2), (start + 1, 0.1)):  # in the pause, and a second after a flash
        others = trials(start_time=start, stop_time=start + length, cue=cue)
        ldmfilter.align(states([(0.0, 300)]), others, "trials.cue", (0, 0.5))


def test_a_bin_before_the_event_ends_before_it():
    """Every bin stands where its end, counted by hand, falls; also where edges meet the event, or nearly."""
    events = np.array([1.0, 1.03, 1.07, 0.999999, 1.3 + 1e-13, 1.6])
    session = trials(start_time=np.zeros(6), stop_time=np.full(6, 3.0), cue=events)
    aligned = ldmfilter.align(states([(0.0, 30)]), session, "trials.cue", (-0.5, 0.3))
    assert aligned["filtered_mean"].dims == ("trial", "time", "state")
    np.testing.assert_allclose(aligned["time"], np.arange(-0.45, 0.3, BIN), atol=1e-9)
    away = ends_of(aligned) - events[:, None]
    before = aligned["time"].to_numpy() < 0
    assert away[:, before].max() < 1e-9
    assert away[:, ~before].min() > 1e-9
    late = aligned["time"].to_numpy() + BIN / 2 - away  # the counted bin ends less than a bin after the real one
    assert -1e-6 < late.min() < late.max() < BIN
    np.testing.assert_allclose(aligned["bin_time"] + BIN / 2, ends_of(aligned))
    np.testing.assert_array_equal(aligned["filtered_cov"][..., 0, 0], ends_of(aligned))


def test_spikes_after_the_event_change_no_state_before_it(session, counts, fitted):
    cue = 33.33
    later = counts.copy(data=np.where(counts["time"].to_numpy()[:, None] + 0.05 > cue, 9, counts.to_numpy()))
    table = {"start_time": [cue - 5], "stop_time": [cue + 5], "cue": [cue]}
    recording = Session.from_spikes([[0.5]], intervals={"trials": table})
    one, other = (
        ldmfilter.align(fitted.decode(c.astype(np.uint8)), recording, "trials.cue", (-1, 1)) for c in (counts, later)
    )
    same = (one["filtered_mean"] == other["filtered_mean"]).all("state")[0]
    np.testing.assert_array_equal(same, one["time"] < 0)


def test_bins_of_another_segment_are_none_of_a_trial():
    """Trials that touch, a trial cut short, and one that was not decoded."""
    session = trials(start_time=[1.0, 2.0, 3.0, 7.0], stop_time=[2.0, 3.0, 3.5, 8.0], condition=["a", "b", "b", "a"])
    latents = states([(1.0, 10), (2.0, 10), (3.0, 5)])
    at_start = ldmfilter.align(latents, session, "trials.start_time", (-0.5, 1.5))
    at_stop = ldmfilter.align(latents, session, "trials.stop_time", (-0.5, 0.5))
    found = [np.round(row[np.isfinite(row)], 6).tolist() for row in ends_of(at_start)]
    whole = np.round(latents["filtered_mean"].to_numpy()[:, 0], 6).tolist()
    assert found == [whole[:10], whole[10:20], whole[20:], []]
    assert at_start["segment"].to_numpy().tolist() == [0, 1, 2, -1]
    assert at_start["place_fold"].to_numpy()[:, :5].tolist() == [[-1] * 5] * 4
    assert not at_start["observed"][3].any()
    found = [np.round(row[np.isfinite(row)], 6).tolist() for row in ends_of(at_stop)]
    assert found == [whole[5:10], whole[15:20], whole[20:], []]
    assert np.isfinite(ends_of(at_stop)[:3, 4]).all()  # the last bin ends at the event


def test_a_trial_ends_where_nothing_was_recorded_around_it():
    """In one segment, the time between trials not observed; a bin missing within a trial is the filter's prediction."""
    latents = states([(0.0, 40)], missing=(4, *range(10, 20), *range(30, 40)))
    session = trials(start_time=[0.0, 2.0], stop_time=[1.0, 3.0], id=[5, 6])
    aligned = ldmfilter.align(latents, session, "trials.start_time", (-0.5, 3))
    np.testing.assert_array_equal(np.isfinite(ends_of(aligned)).sum(1), [10, 10])
    assert not aligned["observed"][0, 9]
    assert ends_of(aligned)[0, 9] == pytest.approx(0.5)


def test_bins_that_were_taken_out_leave_a_gap():
    latents = states([(0.0, 30)])
    session = trials(start_time=[0.0], stop_time=[3.0], cue=[1.0])
    kept = latents.isel(time=np.delete(np.arange(30), [12, 13]))
    aligned = ldmfilter.align(kept, session, "trials.cue", (-0.5, 2))
    away = ends_of(aligned)[0] - 1.0 - aligned["time"].to_numpy() - BIN / 2
    assert np.nanmax(np.abs(away)) < 1e-9


def test_columns_are_coordinates_and_a_query_chooses(tmp_path):
    columns = {"start_time": [0.0, 1.0, 2.0], "stop_time": [1.0, 2.0, 3.0], "condition": [1, 3, 3], "go": [0.5, 1.5, 2]}
    columns |= {"time": [7, 8, 9], "odd/name": ["x", "y", "z"], "tags": [["a", "b"], ["c"], []]}
    aligned = ldmfilter.align(states([(0.0, 30)]), trials(**columns), "trials.go", (0, 1), "condition == 3 and id > 1")
    assert aligned["trial"].to_numpy().tolist() == [2]
    assert aligned["condition"].to_numpy().tolist() == [3]
    assert aligned["trial_time"].to_numpy().tolist() == [9]
    assert aligned["odd_name"].to_numpy().tolist() == ["z"]
    assert aligned["tags"].to_numpy().tolist() == [["", ""]]
    write_latents(aligned, tmp_path / "a.zarr")
    with xr.open_zarr(tmp_path / "a.zarr") as read:
        xr.testing.assert_identical(read.load().drop_encoding(), aligned)


def test_a_query_knows_tags_of_which_no_row_has_two():
    columns = {"start_time": [0.0, 1.0, 2.0], "stop_time": [1.0, 2.0, 3.0], "tags": [["run"], ["rest"], []]}
    aligned = ldmfilter.align(states([(0.0, 30)]), trials(**columns), "trials.start_time", (0, 1), "tags == 'rest'")
    assert aligned["trial"].to_numpy().tolist() == [1]


def test_events_that_are_not_known_are_rows_of_nothing():
    cue = [np.nan, 1.0]
    session = trials(start_time=[0.0, 1.0], stop_time=[1.0, np.nan], cue=cue)
    aligned = ldmfilter.align(states([(0.0, 30)]), session, "trials.cue", (0, 0.5))
    np.testing.assert_array_equal(np.isfinite(ends_of(aligned)).sum(1), [0, 5])


@pytest.mark.parametrize(
    ("event", "window", "query", "line"),
    [
        ("trial.cue", (0, 1), None, "memory: no interval table 'trial'; it has trials, my.cues; name a column as"),
        ("trials.go", (0, 1), None, "no column of times 'go' in interval table 'trials'; it has start_time, stop_time"),
        ("my.cues.go", (0, 1), None, "no column of times 'go' in interval table 'my.cues'; it has start_time"),
        ("trials.side", (0, 1), None, "no column of times 'side' in interval table 'trials'"),
        ("trials.cue", (0, 1), None, "memory: trials: cue is NaN in all 2 rows; align to another column of times"),
        ("trials.start_time", (5, 6), None, "no trial reaches the window 5:6 s around trials.start_time (0 to 1 s)"),
        ("trials.start_time", (0, 0.05), None, "window 0:0.05 s holds no whole bin of 0.1 s; widen it"),
        ("trials.start_time", (1, 0), None, "window 1:0 s cannot be used"),
        ("trials.start_time", -1, None, "window -1 cannot be used; give (START, STOP), s from the event"),
        ("trials.start_time", (0, np.inf), None, "window 0:inf s cannot be used"),
        ("trials.start_time", (0, 1), "side == 'up'", "the query \"side == 'up'\"; widen it; side has left, right"),
        ("trials.start_time", (0, 1), "sides == 'up'", "no column sides; it has id, start_time, stop_time, side, cue"),
        ("trials.start_time", (0, 1), "side.upper()", "may hold names, constants, comparisons and arithmetic only"),
    ],
)
def test_what_cannot_be_aligned_is_told_in_a_line(event, window, query, line):
    session = trials(start_time=[0.0, 1.0], stop_time=[1.0, 2.0], side=["left", "right"], cue=[np.nan, np.nan])
    with pytest.raises(InputError) as error:
        ldmfilter.align(states([(0.0, 30)]), session, event, window, query)
    assert line in str(error.value)
    assert "\n" not in str(error.value)
