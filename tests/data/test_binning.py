"""Counts against oracles that count in another way: numpy's histogram and plain loops over exact edges."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ldmfilter.data import read_session
from ldmfilter.data.binning import Span, bin_spikes
from ldmfilter.data.session import Observed, Session
from ldmfilter.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.* are longer than the 3 s over which a filter is judged")


def poisson_session(seed=0, rates=(5.0, 0.0, 20.0), stop=100.0):
    rng = np.random.default_rng(seed)
    return Session.from_spikes([np.sort(rng.uniform(0, stop, rng.poisson(rate * stop))) for rate in rates])


def brute_force(session, start, stop, bin_size):
    """One spike, one bin at a time; edges as the docstring gives them."""
    n = math.floor((stop - start) / bin_size + 1e-6)  # a millionth of a bin is rounding
    counts = np.zeros((n, session.n_units), dtype=int)
    for unit in range(session.n_units):
        for spike in session.spikes_of(unit):
            for k in range(n):
                if start + k * bin_size <= spike < start + (k + 1) * bin_size:
                    counts[k, unit] += 1
    return counts


@pytest.mark.parametrize("bin_size", [0.02, 0.1, 0.3, 1 / 3, 7.0])
def test_equals_numpy_histogram(bin_size):
    session = poisson_session()
    counts = bin_spikes(session, bin_size, [(0.0, 100.0)])
    edges = 0.0 + np.arange(counts.sizes["time"] + 1) * bin_size
    for unit in range(session.n_units):
        spikes = session.spikes_of(unit)
        # A histogram's last bin is closed, ours is not.
        expected, _ = np.histogram(spikes[spikes < edges[-1]], edges)
        np.testing.assert_array_equal(counts.values[:, unit], expected)
    np.testing.assert_allclose(counts["time"], (edges[:-1] + edges[1:]) / 2, atol=1e-12)
    assert counts["time"].attrs["units"] == "s"


def test_spikes_on_the_edges_belong_to_the_bin_that_they_open():
    # 0.1 is no binary number: many of these edges are one rounding error off k / 10.
    edges = 4410.0 + np.arange(1000) * 0.1
    counts = bin_spikes(Session.from_spikes([edges]), 0.1, [(4410.0, 4510.0)])
    np.testing.assert_array_equal(counts.values[:, 0], 1)
    just_before = Session.from_spikes([np.nextafter(edges, -np.inf)[1:]])
    counts = bin_spikes(just_before, 0.1, [(4410.0, 4510.0)])
    np.testing.assert_array_equal(counts.values[:, 0], [1] * 999 + [0])


def test_segments_labels_and_attributes():
    session = Session.from_spikes(
        {3: [0.5, 1.5, 2.5, 9.5], 4: [10.25]},
        intervals={"trials": {"start_time": [9.0, 0.0], "stop_time": [11.4, 2.0], "kind": ["go", "go"]}},
    )
    counts = bin_spikes(session, 1.0, "trials=go")
    np.testing.assert_array_equal(counts, [[1, 0], [1, 0], [1, 0], [0, 1]])
    np.testing.assert_array_equal(counts["segment"], [0, 0, 1, 1])
    assert counts["segment"].dtype == np.int32
    np.testing.assert_array_equal(counts["interval"], "go")
    np.testing.assert_array_equal(counts["time"], [0.5, 1.5, 9.5, 10.5])
    np.testing.assert_array_equal(counts["unit"], [3, 4])
    assert counts["observed"].all()
    assert "unit_observed" not in counts.coords
    assert counts.attrs["bin_size"] == 1.0
    assert counts.attrs["path"] == "memory"


def test_whole_session_runs_from_the_first_event():
    counts = bin_spikes(Session.from_spikes([[2.0, 2.5, 3.0]]), 0.5)
    np.testing.assert_array_equal(counts["time"], [2.25, 2.75])
    assert set(counts["interval"].values) == {"session"}


def test_thousands_of_trials_equal_one_at_a_time():
    session = poisson_session(3, stop=300.0)
    spans = [(start, start + 0.07) for start in np.arange(0, 300, 0.1)]
    counts = bin_spikes(session, 0.01, spans)
    one_by_one = [bin_spikes(session, 0.01, [span]) for span in spans[::100]]
    for number, single in enumerate(one_by_one):
        np.testing.assert_array_equal(counts.values[counts["segment"] == 100 * number], single.values)
    assert counts.sizes["time"] == 7 * len(spans)


@pytest.mark.parametrize(
    ("spikes", "dtype"), [(255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, np.uint32)]
)
def test_smallest_dtype_that_holds_the_counts(spikes, dtype):
    counts = bin_spikes(Session.from_spikes([np.linspace(0.1, 0.9, spikes), [1.5]]), 1.0, [(0, 2)])
    assert counts.dtype == dtype
    np.testing.assert_array_equal(counts, [[spikes, 0], [0, 1]])


def test_unobserved_time_is_marked():
    session = Session.from_spikes([[0.5, 8.5], [0.5], [8.5]])
    # Unit 0 sees all, in two touching pieces; unit 1 until 4.5 s; unit 2 nothing.
    observed = Observed(np.array([[0.0, 5.0], [5.0, 10.0], [0.0, 4.5]]), np.array([2, 3, 3]))
    session = Session(session.spike_times, session.spike_times_index, session.units, observed=observed)
    counts = bin_spikes(session, 1.0, [(0, 10)])
    expected = np.zeros((10, 3), dtype=bool)
    expected[:, 0] = True
    expected[:4, 1] = True
    np.testing.assert_array_equal(counts["unit_observed"], expected)
    np.testing.assert_array_equal(counts["observed"], expected.sum(1) >= 1.5)


def test_units_observed_alike_have_no_mask_of_their_own():
    observed = Observed(np.array([[0.0, 0.3], [0.6, 1.0]] * 2), np.array([2, 4]))
    session = Session.from_spikes([[0.05], [0.95]])
    session = Session(session.spike_times, session.spike_times_index, session.units, observed=observed)
    counts = bin_spikes(session, 0.1, [(0, 1)])
    assert "unit_observed" not in counts.coords
    np.testing.assert_array_equal(counts["observed"], [1, 1, 1, 0, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize(
    ("bin_size", "line"),
    [
        (0, "memory: a bin size of 0 s cannot be used; give a positive number of seconds"),
        (-0.1, "memory: a bin size of -0.1 s cannot be used; give a positive number of seconds"),
        (math.nan, "memory: a bin size of nan s cannot be used; give a positive number of seconds"),
        (math.inf, "memory: a bin size of inf s cannot be used; give a positive number of seconds"),
        ("0.1", "memory: a bin size of '0.1' s cannot be used; give a positive number of seconds"),
        (10**400, "memory: a bin size of 10000000000000000000 s cannot be used; give a positive number of seconds"),
        (60, "memory: a bin size of 60 s is longer than the session (9 s); give less"),
    ],
)
def test_bin_sizes_that_cannot_be_used(bin_size, line):
    with pytest.raises(InputError) as caught:
        bin_spikes(Session.from_spikes([[1.0, 10.0]]), bin_size)
    assert str(caught.value) == line


@pytest.mark.parametrize(
    ("spans", "line"),
    [
        ([], "memory: no span to bin; give at least one (start, stop) in seconds"),
        ([(2, 1)], "memory: span 2:1 is empty or infinite; give STOP after START"),
        ([(math.nan, 1)], "memory: span nan:1 is empty or infinite; give STOP after START"),
        ([(0, math.inf)], "memory: span 0:inf is empty or infinite; give STOP after START"),
        ([(0, 0.5), (1, 1.5)], "memory: a bin size of 1 s is longer than every span (0.5 s); give less"),
    ],
)
def test_spans_that_cannot_be_used(spans, line):
    with pytest.raises(InputError) as caught:
        bin_spikes(Session.from_spikes([[1.0, 10.0]]), 1.0, spans)
    assert str(caught.value) == line


@pytest.mark.parametrize("spans", [(1.0, 9.0), [1.0], 3])
def test_what_is_no_list_of_spans_is_refused(spans):
    with pytest.raises(InputError, match=r"are no spans; give \[\(start, stop\)\] in s, or TABLE=TAG"):
        bin_spikes(Session.from_spikes([[1.0, 10.0]]), 1.0, spans)


def test_long_bins_are_told():
    with pytest.warns(UserWarning, match=r"bins of 4 s are longer than the 3 s .*; give shorter ones, as 0\.1 s"):
        bin_spikes(Session.from_spikes([[1.0, 10.0]]), 4.0)


def test_short_spans_are_left_out_with_a_warning():
    session = Session.from_spikes([[0.5, 1.2, 3.5]])
    with pytest.warns(UserWarning, match="memory: left out 1 of 3 spans, shorter than a bin of 1 s"):
        counts = bin_spikes(session, 1.0, [(0, 1), (1.1, 1.4), (3, 4)])
    np.testing.assert_array_equal(counts["segment"], [0, 1])
    np.testing.assert_array_equal(counts.values[:, 0], [1, 1])


# Dyadic times and bin sizes have exact sums, so that the oracle needs no tolerance.
dyadic = st.integers(0, 2**14).map(lambda n: n / 2**8)
trains = st.lists(st.lists(dyadic, max_size=30), min_size=1, max_size=4)


@given(trains, dyadic, st.integers(1, 40), st.sampled_from([0.125, 0.5, 1.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_every_spike_of_the_span_is_in_exactly_one_bin(trains, start, n_bins, bin_size):
    session = Session.from_spikes([sorted(train) for train in trains])
    stop = start + n_bins * bin_size
    counts = bin_spikes(session, bin_size, [Span(start, stop)])
    np.testing.assert_array_equal(counts, brute_force(session, start, stop, bin_size))
    inside = [sum(start <= t < stop for t in train) for train in trains]
    np.testing.assert_array_equal(counts.sum("time"), inside)


@given(trains, st.integers(1, 20), st.integers(1, 20), st.sampled_from([0.125, 0.5, 1.0]))
@settings(max_examples=60, deadline=None)
def test_splitting_a_span_between_bins_changes_its_segments_only(trains, before, after, bin_size):
    session = Session.from_spikes([sorted(train) for train in trains])
    middle, stop = before * bin_size, (before + after) * bin_size
    whole = bin_spikes(session, bin_size, [(0.0, stop)])
    split = bin_spikes(session, bin_size, [(0.0, middle), (middle, stop)])
    np.testing.assert_array_equal(split.values, whole.values)
    np.testing.assert_array_equal(split["time"], whole["time"])
    np.testing.assert_array_equal(split["segment"], [0] * before + [1] * after)


@given(st.floats(1e-3, 2.0), st.floats(0, 1e5), st.integers(0, 2**32 - 1))
@example(0.001001, 32768.0, 0)  # the stop is rounded to 7e-9 of a bin
@settings(max_examples=60, deadline=None)
def test_edges_are_exact_for_any_bin_size(bin_size, start, seed):
    rng = np.random.default_rng(seed)
    edges = start + np.arange(50) * bin_size
    near = np.concatenate([edges, np.nextafter(edges, -np.inf), np.nextafter(edges, np.inf)])
    spikes = np.sort(np.concatenate([near, start + rng.uniform(0, 50 * bin_size, 20)]))
    session = Session.from_spikes([spikes])
    stop = start + 50 * bin_size
    counts = bin_spikes(session, bin_size, [(start, stop)])
    np.testing.assert_array_equal(counts, brute_force(session, start, stop, bin_size))


def test_real_session_equals_a_histogram(real_path):
    session = read_session(real_path)
    counts = bin_spikes(session, 0.1, "epochs=run")
    assert counts.shape == (9500, 31)
    assert counts.dtype == np.uint8
    edges = 4410.0 + np.arange(9501) * 0.1
    expected = [np.histogram(session.spikes_of(unit), edges)[0] for unit in range(31)]
    np.testing.assert_array_equal(counts.values.T, expected)
    assert counts.attrs["identifier"] == "nelpy-example-data-linear-track"
    assert counts.attrs["checksum"].startswith("sha256:")


# Spans that overlap nothing, at places and of lengths that no grid shares.
pieces = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 400)), min_size=1, max_size=5)


@given(trains, pieces, st.sampled_from([0.125, 0.25, 1.0]))
@settings(max_examples=60, deadline=None)
def test_every_spike_of_several_spans_is_in_exactly_one_bin(trains, pieces, bin_size):
    """A spike is in one bin where it lies within the whole bins of a span, and in none elsewhere."""
    session = Session.from_spikes([sorted(train) for train in trains])
    edges = np.cumsum(np.ravel(pieces)) / 2**5
    spans = [Span(float(a), float(b)) for a, b in edges.reshape(-1, 2)]
    kept = [(s.start, s.start + (s.stop - s.start) // bin_size * bin_size) for s in spans]  # dyadic: exact
    kept = [(a, b) for a, b in kept if b > a]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # spans that hold no bin are told
        if not kept:
            with pytest.raises(InputError):
                bin_spikes(session, bin_size, spans)
            return
        counts = bin_spikes(session, bin_size, spans)
    inside = [sum(any(a <= t < b for a, b in kept) for t in train) for train in trains]
    np.testing.assert_array_equal(counts.sum("time"), inside)
    lefts = counts["time"].values - bin_size / 2
    for unit, train in enumerate(trains):
        each = [sum(left <= t < left + bin_size for t in train) for left in lefts]
        np.testing.assert_array_equal(counts.values[:, unit], each)


@given(trains, st.integers(1, 12), st.integers(2, 5), st.sampled_from([0.125, 0.5]))
@settings(max_examples=40, deadline=None)
def test_wide_bins_are_sums_of_narrow_ones(trains, n_bins, times, bin_size):
    session = Session.from_spikes([sorted(train) for train in trains])
    span = [(0.0, n_bins * times * bin_size)]
    narrow, wide = bin_spikes(session, bin_size, span), bin_spikes(session, times * bin_size, span)
    np.testing.assert_array_equal(wide, narrow.values.astype(int).reshape(n_bins, times, -1).sum(1))


@given(trains, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_units_and_of_spans_does_not_matter(trains, random):
    session = Session.from_spikes([sorted(train) for train in trains])
    spans = [(0.0, 8.0), (16.0, 24.0), (40.0, 44.0)]
    counts = bin_spikes(session, 0.5, spans)
    order, mixed = list(range(len(trains))), list(spans)
    random.shuffle(order)
    random.shuffle(mixed)
    np.testing.assert_array_equal(bin_spikes(session.select_units(order), 0.5, spans), counts.values[:, order])
    np.testing.assert_array_equal(bin_spikes(session, 0.5, mixed), counts)
