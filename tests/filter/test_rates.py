"""Rates of units whose true rates are known: the regression, the expected rates, the intervals."""

import numpy as np
import pytest
import xarray as xr

from ldmfilter import InputError, Rates

N, SIZE = 8000, 0.1


@pytest.fixture(scope="module")
def world():
    """States h of unit covariance, given means m with covariance P, and counts of units whose log rate is linear in h;
    the last unit never fires, the first is not observed for a while in which it would fire at 100 Hz."""
    rng = np.random.default_rng(0)
    P = np.array([[0.3, 0.1], [0.1, 0.2]])
    m = rng.multivariate_normal(np.zeros(2), np.eye(2) - P, N)
    h = m + rng.multivariate_normal(np.zeros(2), P, N)
    w, c = np.array([[1.0, 0.0], [-0.5, 0.7], [0.0, 0.0], [0.3, 0.3]]), np.log([5.0, 8.0, 3.0, 0.0 + 1e-12])
    rates = np.exp(h @ w.T + c)
    values, seen = rng.poisson(rates * SIZE).astype(np.uint8), np.ones((N, 4), bool)
    values[:500, 0], seen[:500, 0] = 10, False
    coords = {"time": (np.arange(N) + 0.5) * SIZE, "unit": np.arange(4), "unit_observed": (("time", "unit"), seen)}
    counts = xr.DataArray(values, coords, ("time", "unit"), attrs={"bin_size": SIZE})
    wide = 0.5 * (np.eye(2) + P)  # of a forecast: what is known from m and noise of its size
    ahead = 0.5 * (m + rng.multivariate_normal(np.zeros(2), np.eye(2) - P, N))
    variables = {
        "filtered_mean": (("time", "state"), m),
        "filtered_cov": (("time", "state", "state_2"), np.tile(P, (N, 1, 1))),
        "ahead_mean": (("ahead", "time", "state"), ahead[None]),
        "ahead_cov": (("ahead", "time", "state", "state_2"), np.tile(wide, (1, N, 1, 1))),
        "trained": ("time", np.arange(N) < 6000),
        "observed": ("time", np.ones(N, bool)),
    }
    return xr.Dataset(variables, attrs={"ci_level": 0.95}), counts, w, c, rates


def test_expected_rates_and_intervals_are_those_of_the_world(world):
    latents, counts, w, c, rates = world
    fitted = Rates.fit(latents, counts)
    np.testing.assert_allclose(fitted.weights[:3], w[:3], atol=0.06)
    np.testing.assert_allclose(fitted.log_rate[:3], c[:3], atol=0.06)
    made = fitted.add(latents)
    for one in (made[["rate", "rate_ci"]], made[["rate_ahead", "rate_ahead_ci"]].isel(ahead=0)):
        rate, ends = (x.to_numpy()[6000:] for x in one.values())
        np.testing.assert_allclose(rate[:, :3].mean(0), rates[6000:, :3].mean(0), rtol=0.06)
        inside = ((ends[..., 0] <= rates[6000:]) & (rates[6000:] <= ends[..., 1]))[:, :2].mean(0)
        np.testing.assert_allclose(inside, 0.95, atol=0.02)  # the third has no interval to speak of
        assert np.isnan(rate[:, 3]).all()


def test_rates_show_their_sizes_alone():
    assert repr(Rates(np.zeros((5, 2)), *np.zeros((3, 5)))) == "Rates(5 units given 2 states)"


def test_rates_do_not_leave_what_was_fitted(world):
    latents, counts, *_ = world
    fitted = Rates.fit(latents, counts)
    far, cov = np.array([[1e3, -1e3]]), np.stack([np.zeros((2, 2)), 1e4 * np.eye(2)])
    rate, ends = fitted.expected(far.repeat(2, 0), cov)
    np.testing.assert_allclose(rate[0, :2], np.exp([fitted.highest[0], fitted.lowest[1]]))
    low, high = np.exp(fitted.lowest[:3]), np.exp(fitted.highest[:3])
    assert (low <= ends[:, :3, 0]).all()
    assert (ends[:, :3, 0] <= rate[:, :3]).all()
    assert (rate[:, :3] <= ends[:, :3, 1]).all()
    assert (ends[:, :3, 1] <= high).all()


def test_a_unit_of_few_spikes_stays_near_its_mean(world):
    """A Poisson regression that is not held back finds weights by which its few spikes are certain."""
    latents, counts, *_ = world
    counts = counts.copy()
    trained = np.flatnonzero(latents["trained"])
    spikes = np.random.default_rng(1).choice(trained, 3, replace=False)
    counts[:, 3] = np.isin(np.arange(counts.sizes["time"]), spikes)
    fitted = Rates.fit(latents, counts)
    mean = 3 / trained.size / float(counts.attrs["bin_size"])
    rate = fitted.add(latents)["rate"].to_numpy()[:, 3]
    assert mean / 3 < rate.min() < rate.max() < 3 * mean


def test_what_has_no_rates_is_refused(world):
    latents, counts, *_ = world
    with pytest.raises(InputError, match="holds a signal, which has no rates"):
        Rates.fit(latents, counts.astype(float).assign_attrs(kind="signal"))
    with pytest.raises(InputError, match="0 bins of training time are too few"):
        Rates.fit(latents.assign(trained=("time", np.zeros(N, bool))), counts)
