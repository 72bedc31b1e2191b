"""Frames of several bins: sums of counts, against plain loops."""

import numpy as np
import pytest
import xarray as xr

from ldmfilter.data.counts import check_counts
from ldmfilter.data.frames import apart, first_bins, frame_bins, observed_frames, phases, sum_frames

SEGMENT = np.repeat([0, 1, -1, 2], [23, 2, 4, 31])  # one shorter than a frame, and bins between intervals


def world(seed: int = 0) -> np.ndarray:
    """Counts (time, unit) with missing bins, units that are missing now and then, and one that is never seen."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(2.0, (len(SEGMENT), 4)).astype(np.float32)
    counts[rng.random(counts.shape) < 0.3] = np.nan
    counts[8:14] = np.nan
    counts[:, 3] = np.nan
    return counts


def plain(counts: np.ndarray, segment: np.ndarray, k: int) -> np.ndarray:
    """Frame by frame, bin by bin, unit by unit."""
    out = np.full(counts.shape, np.nan)
    for t in range(len(counts)):
        for unit in range(counts.shape[1]):
            seen = []
            for back in range(k):
                if t - back < 0 or segment[t - back] != segment[t]:
                    break
                if not np.isnan(counts[t - back, unit]):
                    seen.append(float(counts[t - back, unit]))
            if 2 * len(seen) >= k:
                out[t, unit] = sum(seen) * k / len(seen)
    return out


@pytest.mark.parametrize("k", [2, 3, 4, 5, 25])
def test_sums_are_those_of_a_plain_loop(k):
    counts = world()
    found = sum_frames(counts, SEGMENT, k)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain(counts, SEGMENT, k), rtol=1e-6)
    assert np.isnan(found).any()
    assert np.isnan(found[:, 3]).all()


def test_sums_do_not_depend_on_what_comes_later_or_on_other_segments():
    counts = world()
    whole = sum_frames(counts, SEGMENT, 5)
    changed = counts.copy()
    changed[40:] = 100
    np.testing.assert_array_equal(sum_frames(changed, SEGMENT, 5)[:40], whole[:40])
    assert not np.array_equal(sum_frames(changed, SEGMENT, 5)[40], whole[40])
    changed = counts.copy()
    changed[:23] = 100
    np.testing.assert_array_equal(sum_frames(changed, SEGMENT, 5)[23:], whole[23:])


def test_a_frame_of_one_bin_is_the_bin():
    counts = world()
    assert sum_frames(counts, SEGMENT, 1) is counts
    assert (frame_bins(0.5, 0.02), frame_bins(0.1, 0.5), frame_bins(0.3, 0.1)) == (25, 1, 3)


@pytest.mark.parametrize("k", [1, 3, 7])
def test_phases_count_from_the_beginning_of_each_segment(k):
    expected, first = [], 0
    for t in range(len(SEGMENT)):
        if t and SEGMENT[t] != SEGMENT[t - 1]:
            first = t
        assert first_bins(SEGMENT)[t] == first
        expected.append((t - first) % k)
    assert phases(SEGMENT, k).tolist() == expected


@pytest.mark.parametrize("k", [1, 2, 4, 5])
def test_a_frame_is_observed_where_half_of_it_is(k):
    observed = np.random.default_rng(1).random(len(SEGMENT)) > 0.4
    expected = []
    for t in range(len(SEGMENT)):
        rows = [s for s in range(t - k + 1, t + 1) if s >= 0 and (SEGMENT[s : t + 1] == SEGMENT[t]).all()]
        expected.append(2 * observed[rows].sum() >= k)
    found = observed_frames(observed, SEGMENT, k)
    assert found.tolist() == expected
    assert 0 < found.sum() < len(found)


def labelled() -> xr.DataArray:
    n = len(SEGMENT)
    values = np.random.default_rng(2).poisson(40.0, (n, 3)).astype(np.uint8)
    coords = {"time": 0.02 * np.arange(n) + 0.01, "unit": [5, 6, 7]}
    counts = xr.DataArray(values, coords, ("time", "unit"), attrs={"bin_size": 0.02, "path": "a.nwb"})
    observed = np.ones(n, bool)
    observed[[4, 5, 6, 7, 11]] = False
    seen = np.ones(values.shape, bool)
    seen[15:18, 1] = False
    counts = counts.assign_coords(segment=("time", SEGMENT.astype(np.int32)), observed=("time", observed))
    return check_counts(counts.assign_coords(unit_observed=(("time", "unit"), seen)))


def test_apart_gives_the_sums_of_its_rows():
    counts, k = labelled(), 5
    frames = apart(counts, k)
    groups = [range(a, a + k) for a in (0, 5, 10, 15)] + [range(a, a + k) for a in range(29, 59, 5)]
    assert dict(frames.sizes) == {"time": len(groups), "unit": 3}  # none of segment 1, none outside of segments
    assert frames.attrs == {"bin_size": pytest.approx(0.1), "path": "a.nwb"}
    assert frames.dtype.kind == "u"
    for frame, rows in zip(frames, map(list, groups), strict=True):
        assert frame.values.tolist() == counts.values[rows].sum(0, dtype=int).tolist()  # beyond one byte
        assert float(frame["time"]) == pytest.approx(float(counts["time"][rows].mean()))
        assert int(frame["segment"]) == int(counts["segment"][rows[0]])
        assert bool(frame["observed"]) == (2 * int(counts["observed"][rows].sum()) >= k)
        assert frame["unit_observed"].values.tolist() == (2 * counts["unit_observed"].values[rows].sum(0) >= k).tolist()
    assert frames["observed"].values.tolist() == [True, False, *[True] * 8]
    assert not frames["unit_observed"].values[3, 1]
    xr.testing.assert_equal(check_counts(frames), frames)  # counts like any others


def test_apart_in_frames_of_a_bin_are_the_counts():
    counts = labelled()
    assert apart(counts, 1) is counts
