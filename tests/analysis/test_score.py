"""Scores of states in a world whose rates are known: these are the ceiling, and shuffled states are worth nothing."""

import dataclasses

import numpy as np
import pytest

from ldmfilter.analysis.baselines import STATES
from ldmfilter.analysis.judged import Bins
from ldmfilter.analysis.score import FEW_SHOT, HIDDEN, THIS_BIN, Judge

SIZE, N, UNITS, STEPS = 0.1, 3000, 9, 5


@pytest.fixture(scope="module")
def world():
    """A state of two dimensions with a time constant of 5 s, the rates that it drives, and Poisson counts; the last
    unit never fires in the second half."""
    rng, forget = np.random.default_rng(0), np.exp(-SIZE / 5.0)
    state = np.zeros((N, 2))
    for t in range(1, N):
        state[t] = forget * state[t - 1] + np.sqrt(1 - forget**2) * rng.standard_normal(2)
    rates = np.exp(0.5 * state @ rng.standard_normal((2, UNITS)))
    rates[N // 2 :, -1] = 0
    return state, rates, rng.poisson(rates).astype(np.float32)


@pytest.fixture(scope="module")
def true(world):
    """The scores of the true state."""
    return judge_of(world[2]).scores(lambda hidden: world[0])


def bins_of(counts) -> Bins:
    """Fitted on the first half, judged on the second."""
    time, fit = np.arange(N), np.arange(N) < N // 2
    return Bins(counts, (time + 0.5) * SIZE, SIZE, time == 0, time >= 0, fit, ~fit, True)


def judge_of(counts) -> Judge:
    return Judge(bins_of(counts), (0.01, STEPS * SIZE, 900.0))


def ceiling(rates, counts, steps, units) -> float:
    """Bits per spike of the true rates so many bins ahead, against each unit's mean in the first half."""
    fitted, judged = np.arange(N // 2 - 20 - steps), np.arange(N // 2, N - steps)
    bits = spikes = 0.0
    for unit in units:
        y, rate, mean = counts[judged + steps, unit], rates[judged + steps, unit], counts[fitted + steps, unit].mean()
        bits += (y * np.log2(rate / mean) - (rate - mean) / np.log(2)).sum()
        spikes += y.sum()
    return bits / spikes


def test_the_true_rates_are_the_ceiling(world, true):
    state, rates, counts = world
    judge = judge_of(counts)
    assert judge.units.tolist() == list(range(UNITS - 1))  # what never fires on held-out time is left out
    highest = {
        row: ceiling(rates, counts, steps, judge.units)
        for row, steps in {"0.5 s ahead": STEPS, HIDDEN: 0, FEW_SHOT: 0, THIS_BIN: 0}.items()
    }
    made = judge.scores(lambda hidden: judge.made(STATES["causal PCA"], hidden))
    shuffled = judge.scores(lambda hidden: np.random.default_rng(1).permutation(state))
    for row, most in highest.items():
        least = {"0.5 s ahead": 0.6, FEW_SHOT: 0.7}.get(row, 0.85)  # half a second loses a tenth of the state
        assert least * most < true[row].value < most + true[row].error, row
        assert abs(shuffled[row].value) < 0.15 * most, row
        if row != THIS_BIN:  # which the PCA has seen
            assert 0 < made[row].value < true[row].value, row
    assert true[FEW_SHOT].value < true[HIDDEN].value
    for row in ("0.01 s ahead", "900 s ahead"):
        assert np.isnan(true[row].value)
    assert judge.reason("0.01 s ahead") == "a bin has 0.1 s"
    assert "long enough" in judge.reason("900 s ahead")


def test_superfluous_dimensions_cost_more_where_few_bins_teach(world, true):
    state, _, counts = world
    wide = np.column_stack([state, np.random.default_rng(2).standard_normal((N, 20))])
    wider = judge_of(counts).scores(lambda hidden: wide)
    lost = {row: true[row].value - wider[row].value for row in (HIDDEN, FEW_SHOT)}
    assert lost[FEW_SHOT] > lost[HIDDEN] > 0


def test_each_unit_is_hidden_once_a_grouping_and_baselines_do_not_see_it(world):
    counts = world[2][:, :5]
    judge, hidden = judge_of(counts), []

    def states(units):
        hidden.append(units.tolist())
        return judge.made(STATES["smoothed counts"], units)

    scores = judge.scores(states)
    most, *middle, least = np.argsort(-counts[N // 2 :].sum(0)).tolist()  # ranked by their spikes
    assert hidden[0] == []
    assert sorted(hidden[1:5]) == sorted([sorted([most, least]), *([unit] for unit in middle)])
    assert sorted(hidden[5:]) == sorted([[most], sorted([middle[0], least]), [middle[1]], [middle[2]]])
    assert np.isfinite(scores[HIDDEN].value)
    alone = judge_of(counts[:, :1]).scores(lambda units: world[0])
    assert np.isnan(alone[HIDDEN].value)
    changed = counts.copy()
    changed[:, [0, 4]] = 7
    nothing = judge_of(np.zeros_like(counts))
    for make in STATES.values():
        assert not nothing.made(make, np.zeros(0, int)).any()
        units = np.array([0, 4])
        np.testing.assert_array_equal(judge.made(make, units), judge_of(changed).made(make, units))


@pytest.mark.parametrize("name", STATES)
def test_hidden_units_score_the_same_with_silent_units_and_in_another_order(world, name):
    counts = world[2][:, :-1]
    silent = np.insert(counts, [0, 3], 0, axis=1)
    scores = []
    for each in (counts, silent, counts[:, ::-1]):
        judge = judge_of(each)
        scores.append(judge.hidden(lambda units, judge=judge: judge.made(STATES[name], units)))
    for other in scores[1:]:  # but for neighbours that are as near as others
        assert other.value == pytest.approx(scores[0].value, rel=1e-3)


def test_the_width_is_that_of_the_world(world):
    """Longer where a state is slow than where it is fast; reserved time has no part in it."""
    rng, forget = np.random.default_rng(3), np.exp(-SIZE / 0.15)
    state = rng.standard_normal((N, 2))
    for t in range(1, N):
        state[t] = forget * state[t - 1] + np.sqrt(1 - forget**2) * state[t]
    fast = rng.poisson(np.exp(1 + 0.7 * state @ rng.standard_normal((2, UNITS))))
    assert judge_of(world[2]).width() == 0.5
    assert judge_of(fast).width() == 0.1
    fast[N // 2 :] = world[2][N // 2 :]
    assert judge_of(fast).width() == 0.1


def test_horizons_are_whole_bins_and_the_guard_is_time_on_the_clock(world):
    bins = bins_of(world[2])
    judge = Judge(bins, (0.07, 0.1, 0.26))
    assert judge.ahead == {"0.1 s ahead": 1, "0.3 s ahead": 3}
    assert judge.bins.fit.sum() == N // 2 - 20
    later = np.where(bins.judged, 5.0, 0.0) + bins.time  # seconds that were not recorded
    assert Judge(dataclasses.replace(bins, time=later)).bins.fit.sum() == N // 2
