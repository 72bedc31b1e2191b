"""Statistics against closed forms, definitions written out otherwise, and known processes."""

import numpy as np
import pytest
from scipy.stats import chi2

from ldmfilter.analysis import statistics as s


def test_normalised_innovations_have_the_nis_of_its_definition():
    rng = np.random.default_rng(0)
    e, root = rng.standard_normal((50, 3)), rng.standard_normal((50, 3, 3))
    S = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(3)
    expected = [v @ np.linalg.inv(M) @ v for v, M in zip(e, S, strict=True)]
    np.testing.assert_allclose((s.normalised(e, S) ** 2).sum(1), expected, rtol=1e-9)


def test_nis_quantiles_of_white_innovations_are_those_of_chi_square():
    x = np.random.default_rng(1).standard_normal((20_000, 4))
    everywhere = np.ones(len(x), bool)
    c = s.consistency(x, everywhere, np.zeros(len(x), int), 0.1 * np.arange(len(x)), 0.1)
    middle = (c.probability > 0.05) & (c.probability < 0.95)
    np.testing.assert_allclose(c.nis[middle], chi2.ppf(c.probability[middle], 4), rtol=0.05)
    assert c.size_interval[0] < 1 < c.size_interval[1]
    assert c.tail_interval[0] < 0.05 < c.tail_interval[1]


def test_the_white_band_holds_white_noise():
    rng, exceeded = np.random.default_rng(2), 0
    for _ in range(100):
        x = rng.standard_normal((400, 3))
        matrices, pairs = s.lagged_correlations(x, np.ones(400, bool), np.zeros(400, int), 5)
        exceeded += bool((np.linalg.norm(matrices, 2, (1, 2)) > s.white_band(3, pairs)).any())
    assert exceeded <= 10  # 5 % of 100 and two deviations


def test_correlations_cross_no_gap():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 2))
    x[100:200] = x[:100]  # the same again in another segment: no pair of bins may know
    segment = np.repeat([0, 1, 2], 100)
    judged = np.ones(300, bool)
    judged[50:60] = False
    _, pairs = s.lagged_correlations(x, judged, segment, 3)
    expected = [
        sum(judged[t] and judged[t - k] and segment[t] == segment[t - k] for t in range(k, 300)) for k in (1, 2, 3)
    ]
    assert pairs.tolist() == expected


def test_one_lagged_correlation_is_the_ordinary_one_and_the_portmanteau_that_of_box_and_pierce():
    rng = np.random.default_rng(4)
    x = np.convolve(rng.standard_normal(2001), [1, 0.5], "valid")[:, None]
    n = len(x)
    matrices, pairs = s.lagged_correlations(x, np.ones(n, bool), np.zeros(n, int), 3)
    centred = x[:, 0] - x.mean()
    r = [(centred[k:] * centred[:-k]).sum() / (centred**2).sum() * n / (n - k) for k in (1, 2, 3)]
    np.testing.assert_allclose(matrices[:, 0, 0], r, rtol=1e-6)
    assert r[0] == pytest.approx(0.4, abs=0.05)
    statistic, p = s.portmanteau(matrices, pairs)
    assert statistic == pytest.approx(sum((n - k) * v**2 for k, v in zip((1, 2, 3), r, strict=True)), rel=1e-6)
    assert p == pytest.approx(chi2.sf(statistic, 3))


def test_the_block_bootstrap_knows_that_neighbours_resemble_each_other():
    rng, rho, n = np.random.default_rng(5), 0.9, 20_000
    x = np.zeros(n)
    noise = rng.standard_normal(n)
    for t in range(1, n):
        x[t] = rho * x[t - 1] + noise[t]
    mean, (low, high) = s.mean_interval(x, np.arange(n) * s.BLOCK / 200)
    # The mean of a first-order autoregression has variance 1 / (n (1 - rho)^2).
    assert (high - low) / (2 * 1.96) == pytest.approx(1 / (np.sqrt(n) * (1 - rho)), rel=0.25)
    assert low < mean < high
    assert mean == pytest.approx(x.mean())


def test_effective_rank():
    assert s.effective_rank(np.ones(5)) == pytest.approx(5)
    assert s.effective_rank(np.array([2.0, 0, 0])) == pytest.approx(1)


def test_time_constants_and_periods_of_a_known_matrix():
    turn, decay = 2 * np.pi * 0.1 / 1.5, np.exp(-0.1 / 3.0)  # a period of 1.5 s, a time constant of 3 s
    A = np.zeros((3, 3))
    A[:2, :2] = decay * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    A[2, 2] = np.exp(-0.1 / 0.05)
    memory = s.memory(A, 0.1, len(A))
    np.testing.assert_allclose(memory.time_constant, [3.0, 3.0, 0.05], rtol=1e-9)
    np.testing.assert_allclose(memory.period, [1.5, 1.5, np.inf], rtol=1e-9)
    np.testing.assert_array_equal(s.memory(A, 0.1, 2).time_constant, memory.time_constant[:2])


def test_trend_is_that_of_a_line_and_knows_chance():
    rng, time = np.random.default_rng(9), np.sort(np.random.default_rng(9).uniform(0, 100, 10))
    steady = rng.standard_normal(10)
    slope = np.polyfit(time, steady, 1)[0]
    change, p = s.trend(steady, time)
    assert change == pytest.approx(slope * (time[-1] - time[0]))
    assert p > 0.01
    assert s.trend(steady + 0.1 * time, time)[1] < 0.01
    chance = [s.trend(rng.standard_normal((10, 3)), time, seed=i)[1] for i in range(60)]
    assert np.mean(np.asarray(chance) <= 0.05) < 0.15


def test_coupling_sees_what_units_share_and_not_their_own_rhythms():
    rng, n, units = np.random.default_rng(10), 4000, 12
    own, common = np.zeros((n, units)), np.zeros(n)
    noise = rng.standard_normal((n, units + 1))
    for t in range(1, n):
        own[t] = 0.95 * own[t - 1] + noise[t, :units]
        common[t] = 0.95 * common[t - 1] + noise[t, units]
    seen = rng.standard_normal((n, units))
    fit = np.arange(n) < n // 2
    alone = s.coupling(own / own.std(0) + seen, fit, ~fit, 0.1)
    together = s.coupling(common[:, None] / common.std() + seen, fit, ~fit, 0.1)
    assert abs(alone) < 0.04
    assert together > 0.2


def test_coupling_sees_fast_exchange_too():
    """Unit 1 fires one bin of 10 ms after unit 0, and neither has a memory of its own."""
    rng = np.random.default_rng(11)
    leader = rng.standard_normal(4000)
    x = np.stack([leader, 0.7 * np.concatenate([[0], leader[:-1]]) + rng.standard_normal(4000)], 1)
    fit = np.arange(4000) < 2000
    assert s.coupling(x, fit, ~fit, 0.01) > 0.2


def test_lags_of_too_few_pairs_are_not_judged():
    """Trials of four bins have no bins that lie four apart, and few that lie three apart."""
    x = np.random.default_rng(12).standard_normal((400, 4))
    c = s.consistency(x, np.ones(400, bool), np.repeat(np.arange(100), 4), 0.1 * np.arange(400), 0.1)
    np.testing.assert_allclose(c.lag, [0.1, 0.2, 0.3])
    assert (c.correlation < c.white).all()
    assert (c.white < 1).all()
    assert c.portmanteau[1] > 1e-3
