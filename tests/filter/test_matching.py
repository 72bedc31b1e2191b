"""The rotation that brings one session's moments onto another's: found where there is one, else doubtful."""

import numpy as np
import pytest
from scipy.signal import lfilter
from scipy.stats import ortho_group

from ldmfilter.filter.matching import Moments, _likeness, _unit, match, moments_of, rotated

BIN = 0.1


def process(seed: int, skewed: bool, n: int = 60_000) -> np.ndarray:
    """White autoregressions (time, latent) of different time constants, driven by skewed or by normal noise."""
    rng = np.random.default_rng(seed)
    noise = rng.gamma(0.1, size=(n, 4)) - 0.1 if skewed else rng.standard_normal((n, 4))
    decays = np.exp(-BIN / np.array([2.0, 1.0, 0.5, 0.25]))
    z = np.stack([lfilter([1], [1, -decay], noise[:, i]) for i, decay in enumerate(decays)], 1)
    return (z - z.mean(0)) / z.std(0)


def whole(z: np.ndarray) -> Moments:
    return moments_of(z, np.zeros(len(z), int), BIN)


@pytest.mark.parametrize("seed", range(4))
def test_finds_the_rotation_and_the_mirrors(seed):
    U = ortho_group.rvs(4, random_state=seed)
    found = match(whole(process(seed, True) @ U.T), whole(process(100 + seed, True)))
    np.testing.assert_allclose(found.rotation, U, atol=0.15)
    assert found.likeness > 0.98
    assert not found.doubtful


def test_a_world_that_is_symmetric_in_itself_is_doubtful():
    assert match(whole(process(0, False)), whole(process(1, False))).doubtful


def test_the_moments_turn_with_z_and_gaps_are_not_bridged():
    z, U = process(0, True, 3000), ortho_group.rvs(4, random_state=0)
    for one, other in zip(rotated(whole(z), U), whole(z @ U), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    run = np.arange(len(z)) // 1500
    apart, halves = moments_of(z, run, BIN), [z[:1500], z[1500:]]
    swapped = moments_of(np.concatenate(halves[::-1]), run, BIN)
    np.testing.assert_allclose(apart.second, swapped.second, atol=1e-12)
    np.testing.assert_allclose(apart.third, swapped.third, atol=1e-12)


def test_gradient_of_the_likeness():
    moments, onto = _unit(whole(process(0, True, 3000))), _unit(whole(process(1, True, 3000)))
    U, step = ortho_group.rvs(4, random_state=1), np.random.default_rng(0).standard_normal((4, 4))
    value, gradient = _likeness(U[None], moments, onto)
    after = rotated(moments, U)
    assert value[0] == pytest.approx(0.5 * ((after.second * onto.second).sum() + (after.third * onto.third).sum()))
    up, down = (_likeness((U + h * step)[None], moments, onto)[0][0] for h in (1e-5, -1e-5))
    assert (up - down) / 2e-5 == pytest.approx((gradient[0] * step).sum(), rel=1e-6)
