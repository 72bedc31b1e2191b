"""A world small enough to train on in a second."""

import numpy as np
import pytest
import xarray as xr

from ldmfilter import bin_spikes
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.filter.model import LDMFilter

SMALL = {
    "latent_dim": 3,
    "state_dim": 4,
    "max_steps": 100,
    "learning_rate": 0.01,
    "hidden": (32,),
    "window": 2.4,
    "warmup": 0.8,
    "dynamics": "slow",
    "frame": 0.1,
    "restarts": 0,
    "batch_size": 16,
}


@pytest.fixture(scope="session")
def session():
    return linear_track_session(seed=3, n_units=16, duration=330.0, rest=30.0)


@pytest.fixture(scope="session")
def counts(session) -> xr.DataArray:
    return bin_spikes(session, 0.1, "epochs=run")


@pytest.fixture(scope="session")
def fitted(counts) -> LDMFilter:
    return LDMFilter(**SMALL).fit(counts)


@pytest.fixture
def noise_counts() -> xr.DataArray:
    """Independent Poisson counts of 5 units: nothing to predict."""
    values = np.random.default_rng(0).poisson(1.0, (1500, 5)).astype(np.uint8)
    coords = {"time": (np.arange(1500) + 0.5) * 0.1, "unit": np.arange(5)}
    return xr.DataArray(values, coords, ("time", "unit"), attrs={"bin_size": 0.1})
