"""The session in memory."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from ldmfilter.data.session import Observed, Session
from ldmfilter.errors import InputError


def line_of(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_layout():
    session = Session.from_spikes({5: [1.0, 2.0], 7: [], 9: [0.5]})
    np.testing.assert_array_equal(session.spike_times, [1.0, 2.0, 0.5])
    np.testing.assert_array_equal(session.spike_times_index, [2, 2, 3])
    assert [session.spikes_of(unit).tolist() for unit in range(3)] == [[1.0, 2.0], [], [0.5]]
    assert (session.n_units, session.n_spikes) == (3, 3)
    assert repr(session) == "<Session memory: 3 units, 3 spikes, 0.5 to 2 s>"


def test_spike_times_in_seconds_are_not_copied():
    times = np.array([1.0, 2.0, 0.5])
    assert Session.checked(times, np.array([2, 3]), np.arange(2)).spike_times is times


def test_extent_is_that_of_the_spikes():
    position = xr.DataArray([0.0, 1.0], dims="time", coords={"time": [-1.0, np.nan]})
    with pytest.warns(UserWarning, match="memory: position: left out 1 of 2 samples, their timestamps are NaN"):
        session = Session.from_spikes(
            [[3.0]],
            intervals={"epochs": {"start_time": [1.0], "stop_time": [np.inf]}},
            behavior={"position": position},
        )
    assert (session.start, session.stop, session.duration) == (3.0, 3.0, 0.0)
    empty = Session.from_spikes([])
    assert (empty.start, empty.stop, empty.n_units) == (0.0, 0.0, 0)


def test_a_warning_shows_the_line_that_asked_for_it():
    with pytest.warns(UserWarning, match="sorted the spike_times of 1 unsorted units") as told:
        Session.from_spikes([[0.4, 0.1]], sort_times=True)
    assert told[0].filename == __file__


def test_rates_of_a_whole_session():
    np.testing.assert_allclose(Session.from_spikes([[0.0, 1.0, 2.0, 4.0], [1.0], []]).rates, [1.0, 0.25, 0.0])


def test_columns_become_plain_arrays():
    session = Session.from_spikes(
        [[1.0], [2.0]],
        units=pd.DataFrame({"quality": ["good", None], "snr": [1, 2], "ok": [True, False]}),
        intervals={"trials": {"start_time": [0, 1], "stop_time": [1, 2], "tags": [["a", "long"], []]}},
    )
    assert session.units["quality"].values.tolist() == ["good", ""]
    assert session.units["ok"].dtype == bool
    tags = session.intervals["trials"]["tags"]
    assert tags.values.tolist() == [["a", "long"], ["", ""]]
    assert session.intervals["trials"]["start_time"].dtype == np.float64
    kinds = {v.dtype.kind for table in (session.units, tags.to_dataset()) for v in table.variables.values()}
    assert kinds <= set("biufU")


def test_unsorted_spikes_are_sorted_with_a_warning():
    with pytest.warns(UserWarning, match="^memory: units: sorted the spike_times of 2 unsorted units$"):
        session = Session.from_spikes([[2.0, 1.0], [1.0, 3.0], [5.0, 4.0, 4.5]])
    assert [session.spikes_of(unit).tolist() for unit in range(3)] == [
        [1.0, 2.0],
        [1.0, 3.0],
        [4.0, 4.5, 5.0],
    ]


def test_the_times_of_one_unit_alone_are_no_units():
    line = "memory: spike_times holds single times; give those of each unit as a list of its own"
    assert line_of(Session.from_spikes, np.array([0.5, 1.5, 2.5])) == line
    assert line_of(Session.from_spikes, {7: 0.5, 9: [1.0]}) == line


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_spikes_at_no_time_are_refused(bad):
    trains = {"a": [1.0], "b": [bad, 2.0], "c": [bad]}
    line = "2 of 4 spikes, NaN or infinite spike_times in unit b, c"
    assert line_of(Session.from_spikes, trains) == (
        f"memory: units: {line}; give --drop-nan, in Python drop_nan, to leave these spikes out, or mend the file"
    )
    with pytest.warns(UserWarning, match=f"^memory: units: left out {line}$"):
        session = Session.from_spikes(trains, drop_nan=True)
    assert [session.spikes_of(unit).tolist() for unit in range(3)] == [[1.0], [2.0], []]


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        ({"units": {"snr": [1.0]}}, "memory: units: column 'snr' has 1 rows, not 2"),
        (
            {"units": {"what": [object(), object()]}},
            "memory: units: column 'what' holds no numbers, bools or strings; leave it out",
        ),
        (
            {"intervals": {"trials": {"start_time": [0.0]}}},
            "memory: trials: an interval table needs the columns start_time and stop_time",
        ),
        (
            {"behavior": {"x": xr.DataArray([1.0], dims="frame")}},
            "memory: x: must be a DataArray with dims (time,) or (time, component) and a coordinate time",
        ),
        (
            {"behavior": {"x": np.ones(3)}},
            "memory: x: must be a DataArray with dims (time,) or (time, component) and a coordinate time",
        ),
    ],
)
def test_tables_that_do_not_fit(kwargs, line):
    assert line_of(Session.from_spikes, [[1.0], [2.0]], **kwargs) == line


def test_select_units():
    session = Session.from_spikes({3: [1.0, 2.0], 5: [3.0], 8: [4.0]}, units={"snr": [1, 2, 3]})
    observed = Observed(np.array([[0.0, 1.0], [1.0, 2.0], [3.0, 4.0]]), np.array([2, 2, 3]))
    session = Session(session.spike_times, session.spike_times_index, session.units, observed=observed)
    chosen = session.select_units([8, 3])
    assert chosen.units["unit"].values.tolist() == [8, 3]
    assert chosen.units["snr"].values.tolist() == [3, 1]
    assert [chosen.spikes_of(u).tolist() for u in range(2)] == [[4.0], [1.0, 2.0]]
    assert [chosen.observed.of(u).tolist() for u in range(2)] == [[[3.0, 4.0]], [[0.0, 1.0], [1.0, 2.0]]]
    masked = session.select_units([False, True, False])
    assert masked.units["unit"].values.tolist() == [5]
    assert masked.observed.of(0).shape == (0, 2)
    assert session.select_units([]).n_units == 0
    assert line_of(session.select_units, [3, 4]) == "memory: units: no unit 4; it has 3, 5, 8"
    assert line_of(session.select_units, [True]) == "memory: a mask of 1 units for a session of 3"
