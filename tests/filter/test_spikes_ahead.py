"""Spikes ahead of a known state: the value of the truth, and of noise."""

import numpy as np
import pytest

from ldmfilter.filter import spikes_ahead as module
from ldmfilter.filter.spikes_ahead import HORIZONS, SpikesAhead, spikes_ahead, spikes_ahead_of_all

SIZE = 0.1
N = 12_000


@pytest.fixture(scope="module")
def world():
    """A state of two dimensions with a time constant of 40 s, and Poisson counts of 12 units that it drives."""
    rng = np.random.default_rng(0)
    forget = np.exp(-SIZE / 40.0)
    state = np.zeros((N, 2))
    state[0] = rng.standard_normal(2)
    for t in range(1, N):
        state[t] = forget * state[t - 1] + np.sqrt(1 - forget**2) * rng.standard_normal(2)
    rates = np.exp(0.4 * state @ rng.standard_normal((2, 12)))
    return state, rates, rng.poisson(rates).astype(float)


def halves(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    """Fitted bins, and judged blocks of 30 s between them."""
    judge = (np.arange(n) // 300) % 3 == 1
    return ~judge, judge


def value(states, counts, segment=None) -> SpikesAhead:
    fit, judge = halves(len(counts))
    return spikes_ahead(states, counts, np.zeros(len(counts), int) if segment is None else segment, fit, judge, SIZE)


def ceiling(rates, counts) -> float:
    """Bits per spike of the rates that the units did have in the time ahead, against each unit's mean."""
    fit, judge = halves(len(counts))
    parts = []
    for start, length in HORIZONS:
        a, b = round(start / SIZE), round(length / SIZE)
        bits = spikes = 0.0
        rows = [t for t in range(0, len(counts) - a - b, 6) if len(set(judge[t : t + a + b + 1])) == 1]
        ahead = {t: slice(t + a + 1, t + a + 1 + b) for t in rows}
        means = np.mean([counts[ahead[t]].sum(0) for t in rows if fit[t]], 0)
        for t in rows:
            if judge[t]:
                y, rate = counts[ahead[t]].sum(0), rates[ahead[t]].sum(0)
                bits += (y * np.log2(rate / means) - (rate - means) / np.log(2)).sum()
                spikes += y.sum()
        parts.append(bits / spikes)
    return float(np.mean(parts))


def test_the_true_state_comes_near_the_ceiling_and_noise_is_worth_nothing(world):
    state, rates, counts = world
    highest = ceiling(rates, counts)
    assert highest > 0.1
    true = value(state, counts)
    assert 0.75 * highest < true.value < highest
    assert true.value == pytest.approx(true.blocks.sum())
    noise = value(np.random.default_rng(1).standard_normal((N, 2)), counts)
    assert -0.1 * highest < noise.value < 0.02 * highest
    slow = np.cumsum(np.random.default_rng(2).standard_normal((N, 2)), 0)
    assert value(slow, counts).value < 0.1 * highest  # as slow as the truth, and of another world


def test_all_bins_are_judged_in_turn(world, monkeypatch):
    """Blocks of a twentieth, each by readouts fitted on the other folds, and away from it."""
    state, rates, counts = world
    fitted = []
    single = module.spikes_ahead

    def watched(states, counts, segment, fit, judge, *more, **given):
        fitted.append((fit, judge))
        return single(states, counts, segment, fit, judge, *more, **given)

    monkeypatch.setattr(module, "spikes_ahead", watched)
    segment, every = np.zeros(N, int), np.ones(N, bool)
    found = spikes_ahead_of_all(state, counts, segment, every, SIZE)
    assert np.stack([judge for _, judge in fitted]).sum(0).tolist() == [1] * N
    assert all((fit == ~judge).all() for fit, judge in fitted)
    assert len(fitted) == 5
    assert found.value == pytest.approx(found.blocks.sum())
    highest = ceiling(rates, counts)
    assert 0.7 * highest < found.value < 1.1 * highest
    noise = spikes_ahead_of_all(np.random.default_rng(8).standard_normal((N, 2)), counts, segment, every, SIZE)
    assert abs(noise.value) < 0.1 * highest
    few = spikes_ahead_of_all(state[:120], counts[:120], segment[:120], every[:120], SIZE)
    assert np.isnan(few.value)  # 12 s: nothing is left to fit


@pytest.mark.parametrize(("length", "trials", "whole"), [(90, 100, True), (90, 19, False), (110, 100, False)])
def test_trials_are_judged_whole(world, monkeypatch, length, trials, whole):
    """Blocks of them are dealt to the folds, and those next to each other need no time between; not where they are
    few, or of 10 s or more."""
    state, _, counts = world
    fitted = []
    single = module.spikes_ahead

    def watched(states, counts, segment, fit, judge, *more, guard):
        fitted.append((judge, guard))
        return single(states, counts, segment, fit, judge, *more, guard=guard)

    monkeypatch.setattr(module, "spikes_ahead", watched)
    n = length * trials
    found = spikes_ahead_of_all(state[:n], counts[:n], np.repeat(np.arange(trials), length), np.ones(n, bool), SIZE)
    assert found.value > 0
    assert np.stack([judge for judge, _ in fitted]).sum(0).tolist() == [1] * n
    assert {guard for _, guard in fitted} == {0.0 if whole else 2.0}
    if whole:
        each = np.stack([judge.reshape(trials, length) for judge, _ in fitted])
        assert (each.all(2) | ~each.any(2)).all()
        np.testing.assert_array_equal(np.argmax(each[:, :, 0], 0), np.arange(trials) // 5 % 5)


def test_trials_between_bins_that_are_not_judged(world, monkeypatch):
    """In one segment, or with gaps that are segments of their own."""
    state, _, counts = world
    guards = []
    single = module.spikes_ahead
    monkeypatch.setattr(
        module, "spikes_ahead", lambda *given, guard: guards.append(guard) or single(*given, guard=guard)
    )
    judge = np.tile(np.arange(120) < 30, N // 120)  # 3 s, then 9 s
    for segment in (np.zeros(N, int), np.where(judge, np.arange(N) // 120, -1)):
        spikes_ahead_of_all(state, counts, segment, judge, SIZE)
    assert set(guards) == {0.0}


def test_the_better_of_two_states_leads_by_more_than_its_standard_error(world):
    state, _, counts = world
    better = value(state, counts)
    worse = value(state + 1.5 * np.random.default_rng(3).standard_normal(state.shape), counts)
    lead, error = better.lead(worse)
    assert lead == pytest.approx(better.value - worse.value)
    assert lead > 3 * error > 0
    differences = better.blocks - worse.blocks
    assert len(differences) == int(halves()[1].sum()) // 50  # 5 s each
    assert error == pytest.approx(np.sqrt(len(differences)) * np.std(differences, ddof=1))
    assert worse.lead(better) == (pytest.approx(-lead), pytest.approx(error))


def test_the_standard_error_is_that_of_repeated_worlds():
    """Blocks that are independent: the spread of the lead over repetitions is what one of them says."""
    rng = np.random.default_rng(4)
    zero = SpikesAhead(0.0, np.zeros(60))
    leads = [SpikesAhead(0.0, rng.normal(0.01, 0.002, 60)).lead(zero) for _ in range(2000)]
    assert np.mean([error for _, error in leads]) == pytest.approx(np.std([lead for lead, _ in leads]), rel=0.05)


def test_readouts_know_nothing_of_judged_bins(world, monkeypatch):
    """Other counts where it is judged leave the readouts, and so the predicted rates, as they were."""
    state, _, counts = world
    fit, judge = halves()
    predicted = []

    def watched(readout):
        def made(states, counts, others, mean):
            predicted.append(readout(states, counts, others, mean))
            return predicted[-1]

        return made

    monkeypatch.setattr(module, "READOUTS", tuple(map(watched, module.READOUTS)))
    first = value(state, counts)
    changed = counts.copy()
    changed[judge] = np.random.default_rng(5).poisson(3.0, changed[judge].shape)
    second = value(state, changed)
    n = len(module.READOUTS) * len(HORIZONS)
    assert len(predicted) == 2 * n
    for one, other in zip(predicted[:n], predicted[n:], strict=True):
        np.testing.assert_array_equal(one, other)
    assert second.value < first.value - 0.1
    # Bins within the guard of judged ones are fitted on by none.
    near = np.convolve(judge, np.ones(41), "same") > 0.5
    guarded = counts.copy()
    guarded[near & fit] = np.nan
    there = spikes_ahead(state, counts, np.zeros(N, int), fit & ~near, judge, SIZE)
    assert there.value == first.value


def test_counts_ahead_stay_in_their_segment_and_among_bins_that_were_observed():
    rng = np.random.default_rng(6)
    counts = rng.poisson(1.0, (400, 3)).astype(float)
    counts[150] = np.nan
    counts[60, 1] = np.nan
    segment = np.repeat([0, 1, 2], [100, 200, 100])
    judge = (np.arange(400) >= 220) & (np.arange(400) < 260)
    ahead, there = module._counts_ahead(counts, segment, judge, 5, 4)
    for t in range(400):
        rows = np.arange(t + 6, t + 10)
        inside = rows[-1] < 400 and (segment[t : rows[-1] + 1] == segment[t]).all()
        inside = inside and (judge[t : rows[-1] + 1] == judge[t]).all()
        assert there[t] == (inside and not np.isnan(counts[rows]).all(1).any()), t
        if there[t]:
            np.testing.assert_allclose(ahead[t], np.nansum(counts[rows], 0))
    assert 0 < there.sum() < 400


def test_channels_that_the_fitted_bins_do_not_know_are_standardised_to_0():
    values = np.random.default_rng(7).normal(5.0, 3.0, (200, 3))
    fit = np.arange(200) < 120
    values[fit, 0] = np.nan  # a cell that is seen later
    values[fit, 1] = 2.0
    values[10, 2] = np.nan
    made = module.standardised(values, fit)
    assert np.array_equal(np.isnan(made), np.isnan(values))
    assert not made[~fit, :2].any()
    known = values[:120, 2][~np.isnan(values[:120, 2])]
    np.testing.assert_allclose(made[:, 2], (values[:, 2] - known.mean()) / known.std())


def test_horizons_are_nearer_where_segments_are_short(world):
    """No horizon reaches beyond most of its segment, nor into another one; a segment of one bin has none ahead."""
    state, _, counts = world
    state, counts = state[:3000], counts[:3000]
    judge = halves(3000)[1]
    assert module.horizons_of(counts, np.zeros(3000, int), judge, SIZE) == [(5, 5), (10, 10), (20, 10)]
    for bins in (20, 8, 4):
        segment = np.arange(3000) // bins
        farthest = module.horizons_of(counts, segment, judge, SIZE)[-1]
        assert 0 < sum(farthest) <= 0.75 * bins
        assert value(state, counts, segment).value > 0.05
    gaps = np.where((np.arange(3000) % 14 < 4)[:, None], counts, np.nan)  # trials with unobserved time between them
    assert sum(module.horizons_of(gaps, np.zeros(3000, int), judge, SIZE)[-1]) <= 3
    assert np.isnan(value(state, counts, np.arange(3000)).value)


def test_bins_without_a_state_are_passed_over(world):
    state, _, counts = world
    state = state[:4000].copy()
    whole = value(state, counts[:4000])
    state[350:420] = np.nan
    part = value(state, counts[:4000])
    assert np.isfinite(part.value)
    assert part.value != whole.value
    assert np.isnan(value(np.full_like(state, np.nan), counts[:4000]).value)
