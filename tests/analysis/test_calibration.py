"""Scores of intervals against definitions written out otherwise, and against numbers known beforehand."""

import numpy as np
import pytest
from scipy.special import ndtr, ndtri
from scipy.stats import spearmanr

from ldmfilter.analysis.intervals import (
    ErrorDistribution,
    block_means,
    conformal_quantile,
    covered,
    crps,
    interval_score,
    score_distribution,
    score_intervals,
    thirds,
)


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_interval_score_is_the_sum_of_its_quantile_losses(level):
    rng = np.random.default_rng(0)
    truth, middle, half = rng.normal(size=200), rng.normal(size=200), rng.exponential(size=200)
    lower, upper, alpha = middle - half, middle + half, 1 - level

    def pinball(quantile, p):
        return [p * (y - q) if y >= q else (1 - p) * (q - y) for y, q in zip(truth, quantile, strict=True)]

    losses = np.asarray(pinball(lower, alpha / 2)) + np.asarray(pinball(upper, 1 - alpha / 2))
    np.testing.assert_allclose(interval_score(truth, (lower, upper), level), 2 / alpha * losses)


def test_the_best_interval_is_that_of_the_quantiles():
    truth = np.random.default_rng(1).normal(size=100_000)
    right = interval_score(truth, (np.full_like(truth, -1.645), np.full_like(truth, 1.645)), 0.9).mean()
    for half in (1.2, 2.2):
        assert interval_score(truth, (np.full_like(truth, -half), np.full_like(truth, half)), 0.9).mean() > right + 0.1


def test_a_new_score_lies_below_the_conformal_quantile_as_often_as_promised():
    rng = np.random.default_rng(2)
    below = [rng.exponential() <= conformal_quantile(rng.exponential(size=39), 0.9) for _ in range(4000)]
    assert np.mean(below) == pytest.approx(0.9, abs=0.015)  # exactly 36 / 40; the error of 4,000 is 0.005
    assert conformal_quantile(np.arange(98.0), 0.99) == np.inf
    assert conformal_quantile(np.arange(99.0), 0.99) == 98


def test_standard_errors_are_those_of_independent_blocks():
    """Blocks that are constant within: the error is that of a mean of 400 numbers, not of 4,000."""
    of_block = np.random.default_rng(3).normal(size=400)
    found = block_means(np.repeat(np.arange(400), 10), x=np.repeat(of_block, 10))
    assert found["x"] == pytest.approx(of_block.mean())
    assert found["x_se"] == pytest.approx(of_block.std() / np.sqrt(400), rel=0.1)


def test_intervals_that_follow_the_spread_beat_constant_ones():
    rng = np.random.default_rng(4)
    spread = np.where(np.arange(6000) % 2, 0.5, 4.0)
    truth = spread * rng.normal(size=6000)
    half = np.full(6000, np.quantile(np.abs(truth), 0.9))

    def of_width(half):
        return -half, half

    bounds, blocks = np.stack([-1.645 * spread, 1.645 * spread]), np.repeat(np.arange(30), 200)
    score = score_intervals(truth, bounds, of_width, half, np.abs(truth), 0.9, blocks)
    assert score.coverage == pytest.approx(0.9, abs=0.015)
    assert score.constant_coverage == pytest.approx(0.9, abs=0.001)
    assert score.coverage_se == pytest.approx(np.sqrt(0.9 * 0.1 / 6000), rel=0.4)
    assert score.width == pytest.approx(2 * 1.645 * spread.mean())
    assert score.advantage == pytest.approx(score.same_coverage_score - score.score)
    assert score.advantage > 5 * score.advantage_se > 0


def test_bounds_belong_to_the_interval():
    assert covered(np.array([0.0, 1.0, 1.1]), (np.zeros(3), np.ones(3))).tolist() == [True, True, False]


def gaussian_intervals(bins, levels, scale):
    half = scale * ndtri(0.5 + np.asarray(levels) / 2)
    return np.tile(-half, (bins, 1)), np.tile(half, (bins, 1))


def test_crps_is_that_of_a_gaussian():
    """Against its closed form (Gneiting & Raftery 2007, eq. 21 for a Gaussian)."""
    levels, scale = (0.5, 0.8, 0.9, 0.95, 0.99), 3.0
    truth = scale * np.random.default_rng(5).normal(size=4000)
    z = truth / scale
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    exact = scale * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    found = crps(truth, gaussian_intervals(truth.size, levels, scale), levels)
    assert found.mean() == pytest.approx(exact.mean(), rel=0.01)
    np.testing.assert_allclose(found, exact, atol=0.03 * scale)
    for wrong in (0.5, 2.0):
        assert crps(truth, gaussian_intervals(truth.size, levels, wrong * scale), levels).mean() > 1.05 * found.mean()


@pytest.mark.parametrize("share", [1.0, 0.5])
def test_pit_is_level_where_intervals_are_right_and_high_at_the_ends_where_they_are_half_as_wide(share):
    rng = np.random.default_rng(6)
    near = ErrorDistribution(np.tile(ndtri((np.arange(80) + 0.5) / 80), (4000, 1)), np.full(4000, 0.05))
    scores = near.score(share * rng.normal(size=4000))
    pit = near.pit(rng.normal(size=4000), scores)
    found = score_distribution(np.zeros(4000), pit, np.ones(4000), rng.normal(size=4000), np.arange(4000) // 10)
    assert found.width_rank == 0  # of one width
    assert sum(found.pit) == pytest.approx(1)
    if share == 1:
        np.testing.assert_allclose(found.pit, 0.1, atol=0.025)
        assert np.median(found.pit_se) == pytest.approx(np.sqrt(0.1 * 0.9 / 4000), rel=0.3)
    else:  # half the quantile of a tenth, -1.28, is exceeded by 26 %
        np.testing.assert_allclose([found.pit[0], found.pit[-1]], ndtr(0.5 * ndtri(0.1)), atol=0.03)
        assert max(found.pit[1:-1]) < 0.13


def test_ranks_of_widths_are_compared_with_those_of_errors():
    rng = np.random.default_rng(8)
    width = rng.choice([1.0, 2.0, 5.0], 5000)
    error = np.abs(width * rng.normal(size=5000))
    found = score_distribution(error, rng.uniform(size=5000), width, error, np.arange(5000) // 10)
    assert found.width_rank == pytest.approx(spearmanr(width, error).statistic)
    others = [spearmanr(*rng.choice(np.array([width, error]), 5000, axis=1)).statistic for _ in range(200)]
    assert found.width_rank_se == pytest.approx(np.std(others), rel=0.4)


def test_a_quantity_that_rests_has_its_rest_and_two_halves():
    speed = np.concatenate([np.zeros(500), np.linspace(1, 2, 400)])
    hit, width = np.arange(900) % 10 > 0, np.ones(900)
    found = thirds({"speed": speed, "still": np.zeros(900)}, hit, width, 0.95, np.arange(900) // 10)
    assert [(one.low, one.high) for one in found] == [(0, 0), (0, 1.5), (1.5, 2)]
    assert [one.coverage for one in found] == pytest.approx([0.9, 0.9, 0.9])
