"""A world small enough to train on in a second."""

import numpy as np
import pytest
import xarray as xr

from ldmfilter import bin_spikes
from ldmfilter.data.counts import check_counts
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.filter import fit
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
    "batch_size": 16,
}


@pytest.fixture(scope="session")
def session():
    return linear_track_session(seed=3, n_units=16, duration=330.0, rest=30.0)


@pytest.fixture(scope="session")
def counts(session) -> xr.DataArray:
    return bin_spikes(session, 0.1, "epochs=run")


@pytest.fixture(scope="session")
def few(counts) -> xr.DataArray:
    """As few bins as both candidates train on."""
    return check_counts(counts[:700])


@pytest.fixture(scope="module")
def short_trainings():
    """Evaluations every four steps, and rates that rise at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "EVALUATE_EVERY", 4)
        patch.setattr(fit, "WARM_STEPS", 2)
        yield


@pytest.fixture(scope="session")
def fitted(counts) -> LDMFilter:
    return LDMFilter(**SMALL).fit(counts)


@pytest.fixture
def noise_counts() -> xr.DataArray:
    """Independent Poisson counts of 5 units: nothing to predict."""
    values = np.random.default_rng(0).poisson(1.0, (1500, 5)).astype(np.uint8)
    coords = {"time": (np.arange(1500) + 0.5) * 0.1, "unit": np.arange(5)}
    return xr.DataArray(values, coords, ("time", "unit"), attrs={"bin_size": 0.1})


def framed(bin_size: float, frame: float) -> tuple[LDMFilter, xr.DataArray]:
    """A filter of frames of several bins, and counts with segments, missing bins and units that are missing."""
    session = linear_track_session(seed=3, n_units=8, duration=40.0 if bin_size < 0.1 else 100.0, rest=0.0)
    counts = bin_spikes(session, bin_size)
    settings = {"window": 8 * frame, "warmup": 2 * frame, "max_steps": 4, "hidden": (16,), "batch_size": 8}
    model = LDMFilter(latent_dim=3, dynamics="slow", frame=frame, learning_rate=0.01, **settings).fit(counts)
    counts = counts[:500]
    rng = np.random.default_rng(0)
    seen = rng.random(counts.shape) > 0.3
    seen[:, 2] = False
    seen[:6] = False
    seen[6, :4] = False
    seen[100:130] = False
    seen[rng.random(500) < 0.2] = False
    segment = np.repeat([0, 1, 2], [233, 3, 264]).astype(np.int32)  # one shorter than a frame
    values = np.where(seen, counts.to_numpy().astype(float), np.nan)
    return model, check_counts(counts.copy(data=values).assign_coords(segment=("time", segment)))


@pytest.fixture(scope="session", params=[(0.1, 0.5), (0.02, 0.1)], ids=lambda p: f"{p[1]} s of {p[0]} s")
def frames(request) -> tuple[LDMFilter, xr.DataArray]:
    return framed(*request.param)
