"""Intervals that adapt, on a world whose map from state to behaviour shifts half-way."""

import numpy as np
import pytest

from ldmfilter.analysis.online_readout import AdaptiveConformal, OnlineReadout
from ldmfilter.analysis.readout import FAST, read_behavior
from ldmfilter.errors import InputError
from tests.analysis.test_readout import linear, sampled, world


@pytest.fixture(scope="module")
def reader():
    latents = world(300)
    return read_behavior(latents, [sampled(latents, linear(latents, 20.0))], shifts=20, readouts=FAST).readers["place"]


def drifting() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States, covariances and behaviour of other time; from the middle on it lies 50 cm (2.5 deviations) higher."""
    latents = world(150, seed=8)
    truth = linear(latents, 20.0, seed=9)
    truth[truth.size // 2 :] += 50
    return *(latents[name].to_numpy().astype(np.float64) for name in ("filtered_mean", "filtered_cov")), truth


def held(online: OnlineReadout) -> np.ndarray:
    inside = []
    for mean, cov, truth in zip(*drifting(), strict=True):
        _, lower, upper = online.read(mean, cov)
        inside.append(lower <= truth <= upper)
        online.observe(truth)
    return np.array(inside)


def test_coverage_stays_with_adaptation_and_falls_without(reader):
    with_it, without = held(OnlineReadout(reader, gamma=0.01)), held(OnlineReadout(reader, gamma=0.0))
    assert with_it.mean() == pytest.approx(0.95, abs=0.02)
    assert with_it[750:].mean() == pytest.approx(0.95, abs=0.02)
    assert without[:750].mean() == pytest.approx(0.95, abs=0.02)
    assert without.mean() < 0.9


def test_equal_to_a_plain_loop():
    """Limits from sorted lists, alpha written out."""
    rng = np.random.default_rng(0)
    calibration, later = rng.exponential(size=199), rng.exponential(size=2000) * np.repeat([1.0, 3.0], 1000)
    adaptive, alpha, window, errors = AdaptiveConformal(calibration, 0.9, 0.02), 0.1, list(calibration), []
    for score in later:
        rank = int(np.ceil(200 * (1 - alpha) - 1e-9))
        limit = np.inf if alpha <= 0 or rank > 199 else sorted(window)[rank - 1] if alpha < 1 else -np.inf
        assert adaptive.limit == limit
        adaptive.observe(score)
        errors.append(score > limit)
        alpha += 0.02 * (0.1 - errors[-1])
        window = [*window[1:], score]
        assert adaptive.alpha == pytest.approx(alpha)
    assert abs(np.mean(errors) - 0.1) <= (0.9 + 0.02) / (0.02 * 2000)


def test_what_is_not_measured_changes_nothing_and_no_shares_are_refused(reader):
    online = OnlineReadout(reader)
    mean, cov, _ = (part[0] for part in drifting())
    first = online.read(mean, cov)
    online.observe(np.nan)
    assert online.read(mean, cov) == first
    assert online.adaptive.alpha == pytest.approx(0.05)
    for wrong in ({"level": 95.0}, {"gamma": -0.1}):
        with pytest.raises(InputError, match="give shares"):
            OnlineReadout(reader, **wrong)
