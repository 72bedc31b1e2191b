"""Peers' states of a simulated population, where the extra `bench` is installed."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from ldmfilter.analysis import baselines as peers
from ldmfilter.analysis.judged import Bins


@pytest.fixture(scope="module")
def world():
    """A slow phase in trials of 50 bins, and Poisson counts of six units that are tuned to it; one trial is missing."""
    rng, n = np.random.default_rng(0), 1200
    phase = np.cumsum(0.15 * rng.standard_normal(n))
    state = np.stack([np.cos(phase), np.sin(phase)], 1)
    counts = rng.poisson(np.exp(1.0 + state @ rng.standard_normal((2, 6)))).astype(np.float64)
    counts[100:150] = np.nan
    return state, counts


@pytest.mark.parametrize("name", peers.PEERS)
def test_peers_tell_the_state(world, name, monkeypatch):
    package, make = peers.PEERS[name]
    pytest.importorskip(package)
    monkeypatch.setattr(peers, "GPFA_STEPS", 5)
    monkeypatch.setattr(peers, "ITERATIONS", 10)
    state, counts = world
    starts, seen = np.arange(1200) % 50 == 0, ~np.isnan(counts[:, 0])
    fit, rest = seen & (np.arange(1200) < 900), np.arange(1200) >= 900
    found = make(Bins(counts, 0.1 * np.arange(1200), 0.1, starts, seen, fit, rest, True))
    np.testing.assert_array_equal(np.isfinite(found).all(1), seen)
    read, bins = LinearRegression(), np.sqrt(np.nan_to_num(counts))
    of_peer, of_bins = (read.fit(x[fit], state[fit]).score(x[rest], state[rest]) for x in (found, bins))
    assert of_peer > of_bins  # those of one bin alone
