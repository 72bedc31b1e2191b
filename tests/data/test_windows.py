"""Blocks of time that training never sees."""

import numpy as np
import pytest
import xarray as xr

from ldmfilter.data.windows import outside, reserve, split_windows, stretches, trial_seconds, typical_stretch
from ldmfilter.errors import InputError


def make(lengths: list[int], unobserved: slice = slice(0, 0), bin_size: float = 0.1) -> xr.DataArray:
    """Segments of these lengths, a second apart."""
    segment = np.repeat(np.arange(len(lengths)), lengths)
    time = (np.arange(len(segment)) + 0.5) * bin_size + segment * 1.0
    observed = np.ones(len(segment), dtype=bool)
    observed[unobserved] = False
    return xr.DataArray(
        np.zeros((len(segment), 2), np.uint8),
        {"time": time, "unit": [0, 1], "segment": ("time", segment), "observed": ("time", observed)},
        ("time", "unit"),
        attrs={"bin_size": bin_size},
    )


def test_the_share_is_kept_apart_in_ten_blocks():
    counts = make([5000])
    kept = reserve(counts, 0.4)
    assert kept.sizes["time"] == 3000
    assert len(stretches(kept)) == 11
    gone = ~np.isin(counts["time"], kept["time"])
    assert np.flatnonzero(np.diff(gone.astype(int)) == 1).size == 10


def test_a_stretch_between_two_blocks_is_a_segment_of_its_own():
    kept = reserve(make([3000, 2000]), 0.4)
    segment, time = kept["segment"].to_numpy(), kept["time"].to_numpy()
    np.testing.assert_array_equal(np.diff(segment) == 1, np.diff(time) > 0.15)
    assert (np.diff(segment) >= 0).all()


def test_nothing_is_reserved_where_there_is_no_room_for_a_block():
    counts = make([200])
    assert reserve(counts, 0.4).identical(counts)
    assert reserve(counts, 0.0).identical(counts)


def test_blocks_are_never_shorter_than_ten_seconds():
    counts = make([1000])
    kept = reserve(counts, 0.4)
    assert len(stretches(kept)) == 5
    assert kept.sizes["time"] == 600


def test_only_observed_time_counts_towards_the_share():
    kept = reserve(make([4000], unobserved=slice(0, 2000)), 0.4)
    assert kept["observed"].sum() == 1200
    assert (~kept["observed"]).sum() == 2000


def trials(n: int, bins: int = 4, gap: int = 10) -> xr.DataArray:
    """Trials with time that is not observed between them."""
    counts = make([n * (bins + gap)])
    return counts.assign_coords(observed=("time", np.arange(n * (bins + gap)) % (bins + gap) < bins))


def test_trials_are_reserved_whole_with_the_time_between_them():
    counts = trials(210)
    kept = reserve(counts, 0.4)
    gone = ~np.isin(counts["time"], kept["time"])
    assert np.diff(gone.astype(int)).nonzero()[0].size == 6  # three blocks
    whole = (gone & counts["observed"].to_numpy()).reshape(210, 14).sum(1)
    assert set(whole) == {0, 4}
    assert whole.sum() == pytest.approx(0.4 * 840, abs=8)
    lengths = [30] * 60
    segments = reserve(make(lengths), 0.4)  # a segment each, without time between them
    assert set(np.unique(segments["segment"], return_counts=True)[1]) == {30}


def test_stretches_end_at_gaps_and_segments():
    assert stretches(make([20, 30])) == [pytest.approx((0, 2)), pytest.approx((3, 6))]


def test_outside_keeps_the_guard_on_both_sides():
    time = np.arange(100) + 0.5
    far = outside(time, [(20.0, 30.0), (29.0, 40.0), (90.0, 120.0)], 2.0)
    expected = [t for t in time if not (18 <= t <= 42 or t >= 88)]
    np.testing.assert_array_equal(time[far], expected)
    assert outside(time, [], 2.0).all()


@pytest.mark.parametrize(
    ("lengths", "unobserved", "half", "third"),
    [
        ([50], slice(0, 0), 50, 50),
        ([4, 4, 4, 6, 2], slice(0, 0), 4, 4),
        ([4, 4, 9], slice(0, 0), 9, 4),
        ([10], slice(3, 4), 6, 6),
    ],
)
def test_the_typical_stretch_by_shares_of_the_observed_time(lengths, unobserved, half, third):
    assert typical_stretch(make(lengths, unobserved)) == half
    assert trial_seconds(make(lengths, unobserved)) == pytest.approx(third / 10)
    assert typical_stretch(make(lengths, slice(0, 50))) == 0


def test_a_share_is_from_0_to_below_1():
    counts = make([5000])
    assert reserve(counts).equals(reserve(counts, 0.4))
    for share in (40, 1, -0.1):
        with pytest.raises(InputError, match="it must be a share of the bins, from 0 to below 1"):
            reserve(counts, share)


def test_in_trials_a_window_is_a_whole_trial_of_each_phase():
    """Of five bins two frames of two, of two phases; one too short for them is left out; a long one has windows as long
    as they may be, anywhere. Held-out blocks are whole trials."""
    lengths = [9, 4, 3, *[5] * 10]
    counts = make(lengths)
    windows = split_windows(counts, 6, 0.2, frame=2, shortest=4)
    segment, first = counts["segment"].to_numpy(), np.cumsum([0, *lengths])
    of_length = {9: [(start, 6) for start in range(4)], 4: [(0, 4)], 3: [], 5: [(0, 4), (1, 4)]}
    held = set(segment[windows.held_bins].tolist())
    assert held.isdisjoint(segment[windows.train_bins].tolist())
    assert 2 <= len(held) <= 4
    found = {number: [] for number in range(13)}
    for start, size in zip(windows.train_starts.tolist(), windows.train_lengths.tolist(), strict=True):
        found[segment[start]].append((start - first[segment[start]], size))
    assert found == {number: [] if number in held else of_length[size] for number, size in enumerate(lengths)}
    pairs = set(zip(segment[windows.train_starts].tolist(), windows.train_trials.tolist(), strict=True))
    assert len(pairs) == len(set(windows.train_trials.tolist())) == sum(map(bool, found.values()))


def test_held_out_trials_are_whole_where_there_are_several():
    """Of ten trials of 15 s two; of a single one a part."""
    windows = split_windows(make([150] * 10), 32, 0.2, shortest=3)
    assert sorted(np.bincount(windows.held_bins // 150, minlength=10)) == [0] * 8 + [150] * 2
    alone = split_windows(make([150]), 32, 0.2, shortest=3)
    assert 0 < len(alone.held_bins) < 75


@pytest.mark.parametrize("lengths", [[30] * 3, [30] * 6, [30] * 10, [4, 30, 30, 30, 30, 4, 30], [150, 6, 150, 150]])
def test_of_few_trials_about_the_share_is_held_out(lengths):
    windows = split_windows(make(lengths), 30, 0.2, shortest=3)
    held = np.bincount(np.repeat(np.arange(len(lengths)), lengths)[windows.held_bins], minlength=len(lengths))
    assert 0.1 < held.sum() / sum(lengths) <= 0.34
    if min(lengths) == max(lengths):
        assert set(held.tolist()) == {0, lengths[0]}


def test_a_trial_with_a_gap_is_one():
    """Where trials are segments, and the gap is short; in one segment each gap ends a trial."""
    counts = make([30] * 20)
    observed = np.arange(600) % 30 != 15
    windows = split_windows(counts.assign_coords(observed=("time", observed)), 15, 0.2, shortest=3)
    segment = counts["segment"].to_numpy()
    assert set(segment[windows.held_bins]).isdisjoint(segment[windows.train_bins])
    assert len(set(windows.train_trials.tolist())) == len(set(segment[windows.train_bins].tolist())) == 16
    assert len(windows.train_starts) == 2 * 16
    alone = counts.assign_coords(observed=("time", observed), segment=("time", np.zeros(600, int)))
    assert len(set(split_windows(alone, 15, 0.2, shortest=3).train_trials.tolist())) > 16


def test_windows_of_a_trial_are_drawn_as_often_as_it_is_long():
    counts = make([4] * 20 + [40] * 5)
    windows = split_windows(counts, 10, 0.2, shortest=3)
    segment = counts["segment"].to_numpy()
    weights = np.bincount(segment[windows.train_starts], windows.train_weights, minlength=25)
    bins = np.bincount(segment[windows.train_bins], minlength=25)
    np.testing.assert_allclose(weights, bins)
    assert set(bins.tolist()) == {0, 4, 40}
    assert split_windows(counts, 10, 0.2).train_weights is None


@pytest.mark.parametrize(("length", "trials"), [(60, 30), (150, 30), (150, 12)])
def test_trials_are_reserved_whole(length, trials):
    kept = reserve(make([length] * trials), 0.4)
    assert set(np.bincount(kept["segment"]).tolist()) <= {0, length}
    assert kept.sizes["time"] == pytest.approx(0.6 * trials * length, rel=0.15)


def test_long_segments_are_reserved_in_parts():
    """A block in each part of a recording, though whole segments would make the share."""
    kept = reserve(make([1500] * 10), 0.4)
    assert len(set(kept["segment"].to_numpy().tolist())) > 14
