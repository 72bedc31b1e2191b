"""From counts to training windows and held-out blocks of time."""

from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real

import numpy as np
import xarray as xr

from ldmfilter.data.counts import check_counts, where_of
from ldmfilter.data.tables import Array
from ldmfilter.errors import InputError

#: Number of held-out blocks, spread over the recording so that they meet all of the behaviour.
HELD_OUT_BLOCKS = 4
LEAST_WINDOW = 3  # frames in a training window
NEAR, FAR = 1.25, 2.5  # factors that whole trials may be off the share that is asked for, at first and at most
TRIALS_SHARE = 1 / 3  # of the observed time, that trials have to hold
SHORT_GAP = 0.25  # s; where trials are segments, a gap that is no longer does not end one
#: Number of reserved blocks: five folds of two blocks each.
RESERVED_BLOCKS = 10
HALVES, TRIAL_BLOCKS = 2, 20  # of the trials: what is trained on one half is judged on the other
RESERVED_BLOCK = 10.0  # s, about the shortest that is worth keeping: several time constants of behaviour


@dataclass(frozen=True)
class Windows:
    """Training windows. One never crosses a segment, a gap, or the edge of a held-out block.

    Attributes:
        window: bins in a window, at most.
        train_starts, held_starts: (start,) int64, first bins, of training, and held out, one every half window.
        train_lengths, held_lengths: (start,) int32, bins of each.
        train_trials: (start,) int32, the number of the trial that each lies in.
        train_weights: (start,) how often each is to be drawn: all windows of a trial together as it is long. None where
            there are no trials, and all are drawn alike.
        train_bins: (bin,) int64, observed bins outside the held-out blocks: scaling is learnt from these alone.
        held_bins: (bin,) int64, observed bins inside them.
    """

    window: int
    train_starts: Array
    held_starts: Array
    train_lengths: Array
    held_lengths: Array
    train_trials: Array
    train_weights: Array | None
    train_bins: Array
    held_bins: Array


def split_windows(
    counts: xr.DataArray,
    window: int,
    held_out: float,
    block: int | None = None,
    frame: int = 1,
    least: int = 0,
    unseen: Array | None = None,
    shortest: int | None = None,
) -> Windows:
    """Divide the observed bins of counts (time, unit) into training windows and held-out blocks.

    Args:
        window: bins in a window.
        held_out: share of the observed bins that is held out, in `HELD_OUT_BLOCKS` blocks spread evenly.
        block: bins in a row that each held-out block has, where there is room; without it a window.
        frame: bins in a frame; held-out windows of different phases share no frame.
        least: windows that the observed bins have to be enough for.
        unseen: (time,) bool, bins that are neither trained on nor held out.
        shortest: in trials. A trial that is shorter than `window` is a window of its own, one for each phase of frames,
            if it has so many bins; and held-out blocks are whole trials, where their share can be about right.

    Raises InputError for fewer, or too few bins in a row for a training window and a held-out one.
    """
    segment, time = _usable(counts)
    if unseen is not None:
        time = time[~unseen[time]]
    trials = _trial_edges(counts, time)
    held = _held_out(time, segment, trials, held_out, block or window, shortest)
    train_bins, held_bins = time[~held[time]], time[held[time]]
    train_starts, train_lengths = _window_starts(train_bins, segment, window, shortest or window, frame)
    held_starts, held_lengths = _window_starts(held_bins, segment, window, shortest or window, frame)
    if train_lengths.max(initial=0) < window or not held_starts.size or time.size < least * window:
        shorter = " or a shorter window" if window > LEAST_WINDOW else ""
        longest = int(np.diff(_edges(time, segment)).max(initial=0))
        raise InputError(
            f"{where_of(counts)}: {time.size} observed bins, {longest} in a row at the longest, are too few to train "
            f"on windows of {window} bins and hold some out; use a longer span, smaller bins{shorter}"
        )
    of_train, of_held, of_bins = (
        np.searchsorted(time[trials[:-1]], bins, "right") - 1 for bins in (train_starts, held_starts, train_bins)
    )
    # Neighbouring held-out windows of a phase overlap by half: more would only count the same frames again.
    keep = [0]
    for i in range(1, held_starts.size):
        far = held_starts[i] >= held_starts[keep[-1]] + max(window // (2 * frame), 1)
        if far or of_held[i] != of_held[keep[-1]]:
            keep.append(i)
    weights = None
    if shortest:
        bins, windows = (np.bincount(one, minlength=trials.size) for one in (of_bins, of_train))
        weights = (bins / windows.clip(1))[of_train]
    return Windows(
        window=window,
        train_starts=train_starts,
        held_starts=held_starts[keep],
        train_lengths=train_lengths,
        held_lengths=held_lengths[keep],
        train_trials=of_train.astype(np.int32),
        train_weights=weights,
        train_bins=train_bins,
        held_bins=held_bins,
    )


def _usable(counts: xr.DataArray) -> tuple[Array, Array]:
    """The segment (time,) of each bin, and the bins (bin,) that are observed."""
    segment = np.asarray(counts["segment"])
    return segment, np.flatnonzero(np.asarray(counts["observed"]) & (segment >= 0))


def reserve(counts: xr.DataArray, share: float = 0.4) -> xr.DataArray:
    """The counts that training may see, without the reserved blocks of time in which its result is judged.

    Parameters
    ----------
    counts : xarray.DataArray (time, unit)
        As `bin_spikes` makes them.
    share : float
        Of the observed bins, from 0 to below 1, kept from training in at most `RESERVED_BLOCKS` blocks of about
        `RESERVED_BLOCK` s or more; a recording that has no room for one block is returned as it is.

    Returns
    -------
    xarray.DataArray (time, unit)
        The other bins, each stretch between two blocks a segment of its own.

    Raises
    ------
    InputError
        The counts are not as `bin_spikes` makes them, or the share is none.

    Examples
    --------
    >>> counts.sizes["time"], ldmfilter.reserve(counts, 0.4).sizes["time"]
    (600, 360)
    """
    if not isinstance(share, Real) or not 0 <= share < 1:
        raise InputError(f"share is {share!r}; it must be a share of the bins, from 0 to below 1, as 0.4")
    counts = check_counts(counts)
    segment, time = _usable(counts)
    bins = share * time.size
    blocks = min(RESERVED_BLOCKS, int(bins * float(counts.attrs["bin_size"]) / RESERVED_BLOCK + 1e-9))
    if not blocks:
        return counts
    trials = _trial_edges(counts, time)
    short = trial_seconds(counts) < 2 * RESERVED_BLOCK
    each = (_blocks(time, trials, segment.size, n, int(bins / n), whole=True) for n in range(blocks, 0, -1) if short)
    near = (reserved for reserved in each if _off(reserved[time].mean() / share) < NEAR)
    whole = next(near, None)
    kept = ~(_blocks(time, trials, segment.size, blocks, int(bins / blocks)) if whole is None else whole)
    fresh = np.diff(segment, prepend=segment[0] - 1) != 0
    fresh[1:] |= kept[1:] & ~kept[:-1]
    numbers = np.where(segment < 0, -1, np.cumsum(fresh) - 1).astype(segment.dtype)
    left = counts.assign_coords(segment=("time", numbers)).isel(time=np.flatnonzero(kept))
    return left.assign_attrs(stretch=trial_seconds(counts))


def half_of(counts: xr.DataArray, half: int) -> Array:
    """(time,) bool, the bins of a half of the trials, which are dealt out in turn, in `TRIAL_BLOCKS` blocks at most."""
    segment, time = _usable(counts)
    lengths = np.diff(_trial_edges(counts, time))
    blocks = np.arange(len(lengths)) * min(len(lengths), TRIAL_BLOCKS) // max(len(lengths), 1)
    inside = np.zeros(len(segment), dtype=bool)
    inside[time] = np.repeat(blocks % HALVES == half, lengths)
    return inside


def stretches(counts: xr.DataArray | xr.Dataset) -> list[tuple[float, float]]:
    """Start and stop, s, of each stretch of bins that follow one another in a segment."""
    time, segment = np.asarray(counts["time"], dtype=np.float64), np.asarray(counts["segment"])
    size = float(counts.attrs["bin_size"])
    last = (np.diff(time) > 1.5 * size) | (np.diff(segment) != 0)
    first, stop = np.append(True, last)[: time.size], np.append(last, True)[: time.size]
    return list(zip((time[first] - size / 2).tolist(), (time[stop] + size / 2).tolist(), strict=True))


def typical_stretch(counts: xr.DataArray, share: float = 0.5) -> int:
    """Bins of a stretch without a gap: a share of the observed bins lies in stretches that are no longer."""
    segment, time = _usable(counts)
    lengths = np.diff(_edges(time, segment))
    return int(np.quantile(np.repeat(lengths, lengths), share, method="higher")) if time.size else 0


def trial_seconds(counts: xr.DataArray) -> float:
    """Length of a typical trial, s, before time was reserved in it: a recording of which a third is in trials has some,
    however long the rest is."""
    return float(counts.attrs.get("stretch", typical_stretch(counts, TRIALS_SHARE) * float(counts.attrs["bin_size"])))


def outside(time: Array, spans: list[tuple[float, float]], guard: float) -> Array:
    """(time,) bool: True for each of the times (time,), s, sorted, that is more than `guard` s away from every span."""
    near = np.zeros(len(time) + 1, dtype=np.int64)
    for start, stop in spans:
        near[np.searchsorted(time, start - guard)] += 1
        near[np.searchsorted(time, stop + guard, side="right")] -= 1
    return np.cumsum(near)[:-1] == 0


def _blocks(time: Array, edges: Array, bins: int, blocks: int, length: int, whole: bool = False) -> Array:
    """(bins,) bool: blocks of about `length` usable bins `time`, spread evenly over them, with what is not usable
    inside a block. An edge moves to the next of the `edges` of trials where trials are shorter than half a block.
    With `whole` every edge does, and a block has one trial at least."""
    inside = np.zeros(bins, dtype=bool)
    for i in range(blocks):
        first = max(int((i + 0.5) * time.size / blocks) - length // 2, 0)
        most = time.size if whole else length // 4
        first, stop = (_nearest(edges, edge, most) for edge in (first, min(first + length, time.size)))
        if first >= stop:
            number = np.searchsorted(edges, int((i + 0.5) * time.size / blocks), "right")
            first, stop = edges[number - 1], edges[number]
        inside[time[first] : time[stop - 1] + 1] = True
    return inside


def _edges(time: Array, segment: Array) -> Array:
    """(stretch + 1,) int: where in the usable bins `time` (bin,) each stretch without a gap begins, and their end."""
    new = (np.diff(time, prepend=-2) != 1) | (np.diff(segment[time], prepend=-1) != 0)
    return np.append(np.flatnonzero(new), time.size)


def _trial_edges(counts: xr.DataArray, time: Array) -> Array:
    """(trial + 1,) int: the same of trials. In one segment each gap ends a trial, in several no short one does."""
    segment, missing = np.asarray(counts["segment"])[time], np.diff(time, prepend=-1) - 1
    fresh = np.diff(segment, prepend=-1) != 0
    short = SHORT_GAP if np.count_nonzero(fresh) > 1 else 0.0
    return np.append(np.flatnonzero(fresh | (missing * float(counts.attrs["bin_size"]) > short)), time.size)


def _nearest(edges: Array, edge: int, most: int) -> int:
    """The one of `edges` that lies nearest, where it is at most `most` away; else `edge`."""
    nearest = int(edges[np.abs(edges - edge).argmin()])
    return nearest if abs(nearest - edge) <= most else edge


def _held_out(time: Array, segment: Array, trials: Array, share: float, row: int, shortest: int | None) -> Array:
    """(bin,) bool: the most blocks that each have `row` usable bins in a row and leave as many to training.

    In trials they are whole trials, where these can make about the share (`NEAR`, or what is nearest within `FAR`).
    """

    def blocks_of(number: int, whole: bool) -> Array:
        return _blocks(time, trials, segment.size, number, max(int(share * time.size / number), row), whole)

    def fitting(whole: bool) -> Iterator[Array]:
        for number in range(HELD_OUT_BLOCKS if time.size else 0, 0, -1):
            held = blocks_of(number, whole)
            starts, _ = _window_starts(time[held[time]], segment, row, min(row, shortest or row))
            if np.unique(np.searchsorted(time, starts) * number // time.size).size != number:
                continue
            if _window_starts(time[~held[time]], segment, row, row)[0].size:
                yield held

    def off(held: Array) -> float:
        return _off(held[time].mean() / share)

    whole = [held for held in fitting(whole=True) if off(held) <= FAR] if shortest else []
    if whole:
        return next((held for held in whole if off(held) < NEAR), min(whole, key=off))
    return next(fitting(whole=False), blocks_of(1, whole=False) if time.size else np.zeros(segment.size, dtype=bool))


def _off(ratio: float) -> float:
    """The factor by which a ratio is off 1, in either direction."""
    return max(ratio, 1 / ratio)


def _window_starts(time: Array, segment: Array, window: int, shortest: int, frame: int = 1) -> tuple[Array, Array]:
    """The bins (start,) that begin a window of usable bins `time` (bin,) in a row, and the bins in each.

    A window begins wherever there is room for `window` bins; in a shorter stretch within its first frame, where
    `shortest` bins follow, and has all whole frames.
    """
    edges = _edges(time, segment)
    stretch = np.repeat(np.arange(len(edges) - 1), np.diff(edges))
    before, left = np.arange(time.size) - edges[stretch], edges[stretch + 1] - np.arange(time.size)
    lengths = np.minimum(left // frame * frame, window)
    begins = (left >= window) | ((before < frame) & (lengths >= shortest))
    return time[begins], lengths[begins].astype(np.int32)
