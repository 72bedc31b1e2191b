"""Behavioural variables: the choice of a series, its period and lost samples, and its value in every bin."""

import numpy as np
import pytest
import xarray as xr

from ldmfilter.analysis.behavior import align, as_behavior, choose_behavior, speed
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError

TIME = np.arange(0.0, 60.0, 0.05)
WALK = 100 + 80 * np.sin(TIME / 3)


def session(**series) -> Session:
    """A session with behaviour: name -> values, or (values, unit), or (values, unit, time)."""
    behavior = {}
    for name, given in series.items():
        values, unit, time = (*given, TIME)[:3] if isinstance(given, tuple) else (given, "cm", TIME)
        dims = ("time", "component")[: np.ndim(values)]
        behavior[f"processing/behavior/{name}"] = xr.DataArray(
            np.asarray(values), dims=dims, coords={"time": time}, attrs={"unit": unit}
        )
    return Session.from_spikes({1: [0.5, 59.0]}, behavior=behavior)


def one(name="x", circular=(), **series):
    return choose_behavior(session(**series), [name], circular)[0]


def refused(text, call, *args, **more):
    with pytest.raises(InputError, match=text) as error:
        call(*args, **more)
    assert "\n" not in str(error.value)


def test_series_in_memory_are_taken_as_those_of_a_session():
    recording = session(x=WALK)
    found = as_behavior({"x": recording.behavior["processing/behavior/x"]})[0]
    np.testing.assert_array_equal(found.values, choose_behavior(recording, ["x"])[0].values)
    refused("dims", as_behavior, {"x": xr.DataArray(WALK)})


def test_a_string_is_one_name():
    recording = session(x=WALK)
    assert choose_behavior(recording, "x")[0].name == "x"


def test_a_path_or_its_last_part():
    recording = session(x=WALK, Position=np.stack([WALK, -WALK], 1))
    assert choose_behavior(recording, ["processing/behavior/x"])[0].name == "x"
    assert choose_behavior(recording, ["behavior/x"])[0].path == "processing/behavior/x"
    assert [b.name for b in choose_behavior(recording, ["Position"])] == ["Position_0", "Position_1"]
    second = choose_behavior(recording, ["Position[1]"])[0]
    assert second.path == "processing/behavior/Position[1]"
    np.testing.assert_array_equal(second.values, -WALK)


def test_what_cannot_be_chosen_is_refused():
    recording = session(x=WALK, eight=np.ones((TIME.size, 8)) * WALK[:, None], flat=np.ones(TIME.size))
    recording.behavior["acquisition/x"] = recording.behavior["processing/behavior/x"]
    refused("no behaviour 'y'; it has processing/behavior/x", choose_behavior, recording, ["y"])
    refused("may be .*x.*give the whole path", choose_behavior, recording, ["x"])
    refused("eight has 8 columns, more than 3; choose some, as eight", choose_behavior, recording, ["eight"])
    refused(r"has 8 columns, \[0\] to \[7\], and no \[8\]", choose_behavior, recording, ["eight[8]"])
    refused(r"flat is constant \(1\); choose another behaviour", choose_behavior, recording, ["flat"])
    refused("none of the chosen", choose_behavior, recording, ["behavior/x", "eight[0]"][1:], ["z"])
    refused("no value that is not NaN", one, x=np.full(TIME.size, np.nan))
    refused("fit no turn", one, "x", ["x"], x=5 * WALK)


def test_names_are_safe_and_apart():
    recording = session(**{"my place (cm)": WALK, "2d": WALK, "filtered": WALK})
    recording.behavior["acquisition/2d"] = recording.behavior["processing/behavior/2d"]
    wanted = ["my place (cm)", "processing/behavior/2d", "acquisition/2d", "filtered"]
    names = [b.name for b in choose_behavior(recording, wanted)]
    assert names == ["my_place_cm", "behavior_2d", "behavior_2d_2", "behavior_filtered"]
    assert all(name.isidentifier() for name in names)


@pytest.mark.parametrize(
    ("name", "values", "unit", "period"),
    [
        ("theta", TIME % (2 * np.pi), "radians", 2 * np.pi),
        ("theta", TIME % (2 * np.pi) - np.pi, "rad", 2 * np.pi),
        ("theta", 20 * TIME % 360, "degrees", 360.0),
        ("theta", 20 * TIME, "degrees", None),  # a wheel that was turned three times is no direction
        ("theta", np.linspace(-21, 12, len(TIME)), "radians", None),  # five turns, not unwound
        ("eye", 2.4 * np.sin(TIME), "degrees", 360.0),  # a few degrees, and no radians
        ("heading", TIME / TIME.max(), "a.u.", None),  # parts of a turn, of which nothing tells the unit
        ("theta", TIME % (2 * np.pi), "rad/s", None),
        ("head_direction", TIME % (2 * np.pi), "", 2 * np.pi),
        ("head_direction", 20 * TIME % 360 - 180, "a.u.", 360.0),
        ("head_direction", TIME % 6.0, "cm", None),
        ("direction", np.where(TIME % 10 < 5, -1.0, 1.0), "radians", None),
        ("x", TIME % 6.0, "", None),
    ],
)
def test_circular_variables_are_recognised(name, values, unit, period):
    chosen = one(name, **{name: (values, unit)})
    assert chosen.period == period
    assert ("taken as circular" in chosen.note) == (period is not None)


@pytest.mark.parametrize(
    ("series", "what"),
    [(np.ones(3), "is a ndarray"), (xr.DataArray(np.ones(3), dims="t"), r"has dims \('t',\)")],
)
def test_behaviour_in_memory_has_times(series, what):
    with pytest.raises(InputError, match=rf"memory: behavior 'x' {what}; give a DataArray \(time,\) with a coordinate"):
        as_behavior({"x": series})


def test_a_place_of_zeros_is_lost_tracking():
    place = np.stack([WALK, 2 * WALK], axis=1)
    place[100:130] = 0
    place[400] = np.nan
    for column in choose_behavior(session(place=place), ["place"]):
        assert column.note == "0 in all of 2 columns taken as tracking lost, 30 samples"
        assert np.flatnonzero(np.isnan(column.values)).tolist() == [*range(100, 130), 400]
    corner = np.abs(np.stack([np.sin(TIME), np.sin(TIME)], axis=1))
    corner[np.abs(corner) < 0.05] = 0  # an animal that walks to it
    assert not any(one.note for one in choose_behavior(session(place=corner), ["place"]))
    stick = np.stack([np.sin(TIME / 30), np.sin(TIME / 50)], axis=1)
    stick[np.linalg.norm(stick, axis=1) < 0.3] = 0  # which tells nothing of what is smaller
    assert not any(one.note for one in choose_behavior(session(stick=stick), ["stick"]))


def test_circular_by_word():
    assert one("x", ["x"], x=(TIME % 6.2, "")).period == 2 * np.pi
    assert one("x", ["x"], x=(5 * TIME, "")).period == 360


def test_interpolation_at_bin_centres():
    values, why = align(one(x=3 * TIME + 2), np.array([0.03, 10.013, 41.99]), 0.1)
    np.testing.assert_allclose(values, 3 * np.array([0.03, 10.013, 41.99]) + 2)
    assert (why == "used").all()


def test_circular_interpolation_takes_the_shorter_arc():
    chosen = one(x=((20 * TIME) % 360, "deg"))
    at = np.arange(0.525, 55, 0.1)  # in the middle between samples, where the jump from 360 to 0 would show
    values, _ = align(chosen, at, 0.1)
    away = np.exp(1j * np.deg2rad(values)) / np.exp(1j * np.deg2rad(20 * at))
    np.testing.assert_allclose(np.angle(away), 0, atol=1e-9)
    assert values.min() >= 0
    assert values.max() <= 360


def test_categories_are_not_interpolated():
    chosen = one(x=np.where(TIME % 4 < 2, -1.0, 1.0))
    assert chosen.categories
    assert np.isfinite(chosen.values).all()  # -1 is a direction here
    values, _ = align(chosen, np.arange(1.96, 2.02, 0.003), 0.1)
    assert set(values.tolist()) == {0.0, 1.0}
    assert [chosen.label(value) for value in (0.0, 1.0)] == ["-1", "1"]


def test_lost_tracking_is_masked_and_counted():
    values = WALK.copy()
    values[(TIME >= 10) & (TIME < 14)] = -1
    values[(TIME >= 30) & (TIME < 33)] = -1
    chosen = one(x=values)
    assert "-1 taken as tracking lost, 140 samples" in chosen.note
    at = np.arange(0.05, 60, 0.1)
    read, why = align(chosen, at, 0.1)
    lost = why == "lost"
    assert lost.sum() == pytest.approx(70, abs=3)
    assert np.isnan(read[lost]).all()
    assert np.nanmin(read) > 15


@pytest.mark.parametrize(
    "values",
    [
        WALK - 100,  # spans -1
        np.clip(WALK / 100 - 1, -1, 1),  # comes to -1 step by step
        np.round(5 + 6 * np.sin(TIME)),  # whole numbers from -1 to 11
        np.where(TIME % 4 < 2, -1.0, 1.0),
    ],
)
def test_minus_one_that_is_a_value_stays(values):
    chosen = one(x=values)
    assert not chosen.lost.any()
    own = chosen.values if chosen.classes is None else chosen.classes[chosen.values.astype(int)]
    np.testing.assert_array_equal(own, values)


@pytest.mark.parametrize(
    ("values", "lost"), [(WALK, True), (np.random.default_rng(0).uniform(0, 10, TIME.size), False)]
)
def test_minus_one_between_nan_is_judged_by_what_is_known_around(values, lost):
    """Of a series that moves little -1 is far off; of one that jumps about anyway it may be a value."""
    at, around = (TIME >= 10) & (TIME < 14), (TIME >= 9.9) & (TIME < 14.1)
    chosen = one(x=np.where(at, -1.0, np.where(around, np.nan, values)))
    assert chosen.lost.sum() == (at.sum() if lost else 0)


def test_nan_gaps_and_what_lies_outside_are_told_apart():
    values, time = WALK.copy(), TIME
    values[(time >= 5) & (time < 7)] = np.nan
    keep = (time < 20) | (time >= 25)
    chosen = one(x=(values[keep], "cm", time[keep]))
    at = np.arange(0.05, 80, 0.1)
    _, why = align(chosen, at, 0.1)
    for reason, start, stop in (("nan", 5, 7), ("gap", 20, 25), ("outside", 60, 80)):
        of = at[why == reason]
        assert start - 0.1 < of.min() < of.max() < stop + 0.1
        assert of.size == pytest.approx(10 * (stop - start), abs=5)


def test_clocks_that_step_back_or_stand_still():
    time = TIME.copy()
    time[100:110] = time[100:110][::-1]
    time[300] = time[299]
    with pytest.warns(UserWarning, match="timestamps step back 9 times, samples put in order"):
        chosen = one(x=(3 * time, "cm", time))
    assert (np.diff(chosen.time) > 0).all()
    values, _ = align(chosen, np.arange(1.0, 50.0, 0.1), 0.1)
    np.testing.assert_allclose(values, 3 * np.arange(1.0, 50.0, 0.1))


def test_speed_on_the_line_and_on_the_circle():
    time = np.arange(100) * 0.1
    segment = np.repeat([0, 1], 50)
    line, circle = one(x=WALK), one(x=(20 * TIME % 360, "deg"))
    values = 7 * time + 1000 * segment
    values[20] = np.nan
    pace = speed(line, values, segment, 0.1)
    assert np.isnan(pace[20])
    np.testing.assert_allclose(np.delete(pace, 20), 7)  # the jump between segments is none
    np.testing.assert_allclose(speed(circle, (130 * time) % 360, segment, 0.1), 130)
