"""Spans and units: what is chosen, and the exact line where nothing can be."""

from dataclasses import replace

import numpy as np
import pytest

from ldmfilter.data import read_session
from ldmfilter.data.binning import bin_spikes, choose_spans, choose_units
from ldmfilter.data.clocks import check_spikes
from ldmfilter.data.selection import choose_trials, observed_table
from ldmfilter.data.session import Observed, Session
from ldmfilter.data.tables import bounds_of, intersect, union
from ldmfilter.errors import InputError


@pytest.fixture
def session():
    return Session.from_spikes(
        {10: [0.0, 1.0, 2.0, 3.0], 11: [5.0, 9.0], 12: [], 13: [100.0]},
        units={
            "quality": ["good", "good", "good", "mua"],
            "snr": [3.0, 1.0, np.nan, 5.0],
            "peak rate": [1, 2, 3, 4],
        },
        intervals={
            "epochs": {
                "start_time": [0.0, 40.0, 60.0],
                "stop_time": [30.0, 60.0, 100.0],
                "tags": [["run", "box 1"], ["rest"], ["run"]],
            },
            "epoch intervals": {"start_time": [1.0], "stop_time": [2.0]},
            "a=b": {"start_time": [3.0], "stop_time": [4.0], "kind": ["x=y"]},
        },
    )


def line_of(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ("epochs=run", [(0, 30, "run"), (60, 100, "run")]),
        ("epochs=box 1", [(0, 30, "box 1")]),
        ("epochs", [(0, 30, "epochs"), (40, 60, "epochs"), (60, 100, "epochs")]),
        ("epoch intervals", [(1, 2, "epoch intervals")]),
        ("a=b", [(3, 4, "a=b")]),
        ("a=b=x=y", [(3, 4, "x=y")]),
    ],
)
def test_intervals(session, interval, expected):
    assert choose_spans(session, interval=interval) == expected


def test_spans(session):
    (whole,) = choose_spans(session)
    assert whole.label == "session"
    assert whole.start == 0.0
    assert 100.0 < whole.stop < 100.0001
    assert choose_spans(session, spans=[(50, 60), (10, 20)]) == [(10, 20, "10:20"), (50, 60, "50:60")]
    # Cut to the session; infinity is an open end.
    assert choose_spans(session, spans=[(-5, 20)]) == [(0, 20, "-5:20")]
    both = choose_spans(session, interval="epochs=run", spans=[(20, 70), (90, np.inf)])
    assert both == [(20, 30, "run"), (60, 70, "run"), (90, 100, "run")]


def test_overlaps_are_joined_with_a_warning(session):
    with pytest.warns(UserWarning, match="memory: joined 3 overlapping spans into 2"):
        spans = choose_spans(session, spans=[(0, 10), (5, 20), (20, 30)])
    assert spans == [(0, 20, "0:20"), (20, 30, "20:30")]


@pytest.mark.parametrize("over", [1e-10, 1e-3])
def test_trials_that_touch_stay_apart_though_their_times_are_rounded(over):
    start = 0.3 * np.arange(40)
    times = {"start_time": start, "stop_time": start + 0.3 + over}
    session = Session.from_spikes([np.linspace(0, 12, 99)], intervals={"trials": times})
    spans = bounds_of(choose_spans(session, interval="trials"))
    np.testing.assert_array_equal(spans[:, 0], start)
    np.testing.assert_array_equal(spans[:-1, 1], start[1:])
    assert np.bincount(bin_spikes(session, 0.1, "trials")["segment"]).tolist() == [3] * 40


def test_rows_without_a_length_are_left_out_with_a_warning():
    times = {"start_time": [0.0, 2.0, np.nan], "stop_time": [1.0, 2.0, 4.0]}
    session = Session.from_spikes([[0.5]], intervals={"trials": times})
    with pytest.warns(UserWarning, match="left out 2 of 3 rows of interval 'trials': no start"):
        assert choose_spans(session, interval="trials") == [(0, 1, "trials")]


def test_time_of_a_table_beyond_the_spikes_is_no_silence():
    times = {"start_time": [-30.0, -0.5, 40.0, 90.0, 130.0], "stop_time": [-20.0, 10.0, 50.0, 120.0, 140.0]}
    tables = {"trials": times, "later": {"start_time": [200.0], "stop_time": [300.0]}}
    session = Session.from_spikes([np.linspace(0, 100, 150)], intervals=tables)
    with pytest.warns(UserWarning, match="interval 'trials': left out 40 s of 3 rows, outside the recording, whose"):
        assert choose_spans(session, interval="trials") == [
            (-0.5, 10, "trials"),
            (40, 50, "trials"),
            (90, 100, "trials"),
        ]
    assert line_of(choose_spans, session, interval="later") == (
        "memory: interval 'later' lies outside the recording, whose spikes are at 0 to 100 s; choose another, or write "
        "both on one clock"
    )
    first = {"trials": {"start_time": [0.0], "stop_time": [9.0]}}
    few = Session.from_spikes([np.linspace(5, 100, 30)], intervals=first)
    assert choose_spans(few, interval="trials") == [(0, 9, "trials")]  # 5 s without a spike tell nothing here
    seen = replace(session, observed=Observed.from_units([np.array([[0.0, 140.0]])]))  # so that nothing was missed
    assert len(choose_spans(seen, interval="trials")) == 5


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        ({"interval": "laps"}, "memory: no interval table 'laps'; it has epochs, epoch intervals, a=b"),
        (
            {"interval": "run"},
            "memory: no interval table 'run'; it has epochs, epoch intervals, a=b; run is a tag: give epochs=run",
        ),
        ({"interval": "laps=run"}, "memory: no interval table 'laps'; it has epochs, epoch intervals, a=b"),
        (
            {"interval": "epochs=ruin"},
            "memory: no tag 'ruin' in interval table 'epochs'; it has box 1, rest, run",
        ),
        (
            {"interval": "epoch intervals=x"},
            "memory: no tag 'x' in interval table 'epoch intervals'; it has none, use 'epoch intervals' alone",
        ),
        ({"spans": [(3, 3)]}, "memory: span 3:3 is empty; give START:STOP in seconds, STOP after START"),
        (
            {"spans": [(np.nan, 3)]},
            "memory: span nan:3 is empty; give START:STOP in seconds, STOP after START",
        ),
        (
            {"spans": [(200, 300)]},
            "memory: span 200:300 is empty: the session is 0 to 100 s; give a span within it",
        ),
        (
            {"interval": "epochs=rest", "spans": [(0, 10)]},
            "memory: span 0:10 is empty: interval 'epochs=rest' is 40 to 60 s; give a span within it",
        ),
    ],
)
def test_time_that_cannot_be_chosen(session, kwargs, line):
    assert line_of(choose_spans, session, **kwargs) == line


def test_no_tables_at_all():
    assert line_of(choose_spans, Session.from_spikes([[1.0]]), interval="epochs=run") == (
        "memory: no interval table 'epochs'; it has none"
    )


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("quality == 'good' and snr > 2", [10]),
        ("quality == 'good' & snr > 2", [10]),
        ("not quality == 'good' | snr < 2", [11, 13]),
        ("quality in ['mua', 'noise']", [13]),
        ("`peak rate` * 2 >= 4 and unit != 13", [11]),
        ("1 <= `peak rate` <= 2", [10, 11]),
        ("rate > 0.03", [10]),
    ],
)
def test_queries(session, query, kept):
    chosen, note = choose_units(session, query=query)
    assert chosen.units["unit"].values.tolist() == kept
    assert note.startswith(f"left out {4 - len(kept)} of 4 units: ")


def test_silent_and_slow_units_are_left_out(session):
    chosen, note = choose_units(session)
    assert chosen.units["unit"].values.tolist() == [10, 11, 13]
    assert note == "left out 1 of 4 units: 1 silent"
    chosen, note = choose_units(session, query="unit < 13", min_rate=0.03)
    assert chosen.units["unit"].values.tolist() == [10]
    assert note == "left out 3 of 4 units: 1 by the query, 1 silent, 1 below 0.03 Hz"
    chosen, note = choose_units(session, spans=choose_spans(session, spans=[(0, 5)]))
    assert chosen.units["unit"].values.tolist() == [10]
    assert choose_units(chosen) == (chosen, "")


@pytest.mark.parametrize(
    "query",
    [
        "__import__('os').system('true')",
        "snr.values > 2",
        "snr[0] > 2",
        "(lambda: 1)() > 0",
        "[x for x in (1,)] == snr",
        "snr ** 9 > 2",
        "f'{snr}' == 'x'",
        "(snr := 1) > 0",
        "snr if snr else snr",
    ],
)
def test_queries_cannot_run_code(session, query):
    assert "may hold names, constants, comparisons and arithmetic only" in line_of(choose_units, session, query=query)


@pytest.mark.parametrize(
    ("kwargs", "line"),
    [
        (
            {"query": "isolation > 2 and snr > 1"},
            "memory: units: query 'isolation > 2 and snr > 1': no column isolation; "
            "it has unit, rate, quality, snr, peak rate",
        ),
        (
            {"query": "quality == 'a `b` c'"},
            "memory: units: query \"quality == 'a `b` c'\": no column b; it has unit, rate, quality, snr, peak rate",
        ),
        ({"query": "snr > 100"}, "memory: units: none of 4 fits the query 'snr > 100'; widen it; snr has 1, 3, 5"),
        (
            {"query": "snr + 1"},
            "memory: units: query 'snr + 1' is no condition; compare a column with a value",
        ),
        (
            {"query": "unit == 12"},
            "memory: units: all 1 units that fit the query are silent in the chosen time; choose other units or time",
        ),
        ({"min_rate": 99}, "memory: units: all 4 units fire below 99 Hz; lower the minimal rate"),
        ({"min_rate": -1}, "memory: a minimal rate of -1 Hz cannot be used; give 0 or more"),
        ({"min_rate": np.nan}, "memory: a minimal rate of nan Hz cannot be used; give 0 or more"),
    ],
)
def test_units_that_cannot_be_chosen(session, kwargs, line):
    assert line_of(choose_units, session, **kwargs) == line


@pytest.mark.parametrize("query", ["", "snr >", "snr > 2; 1", "@snr > 2", "snr = 2", "(" * 300])
def test_queries_that_cannot_be_parsed(session, query):
    assert "cannot be parsed" in line_of(choose_units, session, query=query)


def test_queries_on_values_of_another_type(session):
    assert "cannot be evaluated" in line_of(choose_units, session, query="snr > 'high'")


def test_all_units_silent():
    session = Session.from_spikes([[], []], intervals={"epochs": {"start_time": [0.0], "stop_time": [1.0]}})
    assert line_of(choose_units, session) == (
        "memory: units: all 2 units are silent in the chosen time; choose other units or time"
    )


def test_rates_count_observed_time_only():
    session = Session.from_spikes([[0.5, 1.5, 2.5, 7.5], [0.5, 9.5]])
    observed = Observed(np.array([[0.0, 2.0], [7.0, 9.0], [4.0, 6.0]]), np.array([2, 3]))
    session = Session(session.spike_times, session.spike_times_index, session.units, observed=observed)
    np.testing.assert_allclose(session.rates, [3 / 4, 0])
    np.testing.assert_allclose(session.rates_within(bounds_of(choose_spans(session, spans=[(0, 7.25)]))), [2 / 2.25, 0])


def test_interval_arithmetic_against_a_fine_grid():
    rng = np.random.default_rng(0)
    grid = np.arange(0, 100) + 0.5

    def covered(bounds):
        return ((grid[:, None] >= bounds[:, 0]) & (grid[:, None] < bounds[:, 1])).any(axis=1)

    for _ in range(50):
        raw = [np.sort(rng.integers(0, 100, (rng.integers(0, 12), 2)), axis=1).astype(float) for _ in range(2)]
        a, b = map(union, raw)
        for bounds, disjoint in zip(raw, (a, b), strict=True):
            np.testing.assert_array_equal(covered(disjoint), covered(bounds))
            assert (disjoint[1:, 0] > disjoint[:-1, 1]).all()
        both, rows, others = intersect(a, b)
        np.testing.assert_array_equal(covered(both), covered(a) & covered(b))
        assert (both[:, 1] > both[:, 0]).all()
        assert (both[:, 0] >= a[rows, 0]).all()
        assert (both[:, 1] <= b[others, 1]).all()


def test_selecting_units_keeps_the_extent_of_the_recording(tmp_path):
    session = Session.from_spikes([[0.5, 99.5], [40.0, 50.0]])
    chosen = session.select_units([1])
    assert (chosen.start, chosen.stop) == (session.start, session.stop) == (0.5, 99.5)
    again = read_session(chosen.to_zarr(tmp_path / "chosen.zarr"))
    assert (again.start, again.stop) == (0.5, 99.5)


def test_unit_ids_that_are_given_twice_are_refused():
    with pytest.raises(InputError, match=r"^a\.zarr: units: id 4 is given twice; give each unit its own$"):
        check_spikes(np.arange(3.0), np.array([1, 2, 3]), np.array([4, 5, 4]), "a.zarr")


def observed_in(pieces, table, units=2):
    """A session of units that were all observed in the same pieces, with a table of trials."""
    trials = {"start_time": [one[0] for one in table], "stop_time": [one[1] for one in table]}
    session = Session.from_spikes([np.arange(0.05, 9, 0.5)] * units, intervals={"trials": trials})
    observed = Observed.from_units([np.array(own, float) for own in pieces])
    return replace(session, observed=observed)


TRIALS = [(0.0, 1.0), (2.0, 3.25), (5.0, 6.0)]


def test_a_session_observed_in_trials_alone_is_its_trials():
    session = observed_in([TRIALS, TRIALS], [TRIALS[1], TRIALS[0], TRIALS[2]])
    assert [tuple(span) for span in choose_spans(session)] == [(*one, "trials") for one in TRIALS]
    counts = bin_spikes(session, 0.25)
    assert counts["observed"].all()
    assert np.unique(counts["segment"], return_counts=True)[1].tolist() == [4, 5, 4]
    assert len(choose_spans(session, spans=[(0, 9)])) == 1  # asked for: all of the time


@pytest.mark.parametrize(
    ("pieces", "table"),
    [
        ([TRIALS, TRIALS[:2]], TRIALS),  # one unit was lost
        ([TRIALS, TRIALS], [(0.0, 1.0), (2.0, 3.0), (5.0, 6.0)]),  # observed for longer than a trial
        ([[(0.0, 9.0)]] * 2, TRIALS),  # observed throughout
        ([[(0.0, 4.0), (4.0, 9.0)]] * 2, [(0.0, 4.0), (4.0, 9.0)]),  # without gaps
    ],
)
def test_other_sessions_are_one_span(pieces, table):
    assert [span.label for span in choose_spans(observed_in(pieces, table))] == ["session"]


def test_events_of_the_first_rows_alone_are_times_on_the_clock():
    """As licks, a second after a flash, of an animal that then slept; counted from the rows' starts they are none."""
    start = np.arange(0.0, 300.0, 3.0)
    licks = np.where(start < 60, start + 1, np.nan)
    rows = {"start_time": start, "stop_time": start + 0.1, "lick": licks, "latency": licks - start}
    session = Session.from_spikes([[0.5]], intervals={"flashes": rows})
    assert choose_trials(session, "flashes.lick")[1] == "lick"
    ever = {"start_time": start, "stop_time": np.full(100, 300.0), "last": np.full(100, 299.0)}
    assert choose_trials(Session.from_spikes([[0.5]], intervals={"ever": ever}), "ever.last")[1] == "last"
    with pytest.raises(InputError, match=r"flashes: latency holds .*: 20 of 20 lie far .* half of them at 1 to 1 s;"):
        choose_trials(session, "flashes.latency")


def test_spikes_that_were_cut_to_trials_are_seen_there_alone():
    """Where the session does not tell when it was observed; a stray spike among thousands changes nothing."""
    start = np.arange(50) * 4.0
    rng = np.random.default_rng(0)
    cut = [np.sort(rng.choice(start, 100) + rng.uniform(0, 1, 100)) for _ in range(5)]
    trials = {"trials": {"start_time": start, "stop_time": start + 1}}
    assert {span.label for span in choose_spans(Session.from_spikes(cut, intervals=trials))} == {"trials"}
    blocks = {"start_time": start[::10], "stop_time": start[9::10] + 1}
    assert observed_table(Session.from_spikes(cut, intervals={"blocks": blocks} | trials)) == "trials"
    ends = [np.sort(np.append(one, start[:20] + 1)) for one in cut]
    assert observed_table(Session.from_spikes(ends, intervals=trials)) == "trials"
    for some in (50, 1):
        between = np.sort(np.append(cut[0], start[:some] + 2.5))
        assert observed_table(Session.from_spikes([between, *cut[1:]], intervals=trials)) is None
    few = [one[:5] for one in cut]
    assert observed_table(Session.from_spikes(few, intervals=trials)) is None
