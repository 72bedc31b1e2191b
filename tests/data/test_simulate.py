"""The simulated worlds are what they claim to be."""

import numpy as np
import pytest
import xarray as xr

from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.errors import InputError
from tests.worlds import linear_gaussian_world


@pytest.fixture(scope="module")
def session():
    return linear_track_session(seed=3)


def test_same_seed_same_session(session):
    again, other = linear_track_session(seed=3), linear_track_session(seed=4)
    np.testing.assert_array_equal(session.spike_times, again.spike_times)
    for name, series in session.behavior.items():
        xr.testing.assert_identical(series, again.behavior[name])
    assert session.n_spikes != other.n_spikes


def test_behavior(session):
    position, direction, speed, facing = (
        session.behavior[f"processing/behavior/{name}"] for name in ("linear_position", "direction", "speed", "facing")
    )
    run, rest = position.sel(time=slice(0, 479.9)), position.sel(time=slice(480.01, None))
    assert (float(run.min()), float(run.max())) == (0.0, pytest.approx(180.0))
    assert np.isnan(rest).all()
    assert set(direction.values.tolist()) == {-1.0, 0.0, 1.0}
    assert 20 < float(speed.max()) < 120
    moving = np.abs(direction.values) > 0
    np.testing.assert_array_equal(direction.values[moving], facing.values[moving])
    steps = np.diff(run.values)
    sure = np.abs(steps) > 0.2
    np.testing.assert_array_equal(np.sign(steps[sure]), direction.values[: len(steps)][sure])
    trials = session.intervals["trials"]
    assert trials.sizes["interval"] > 40
    at = position.sel(time=trials["stop_time"] - 0.02, method="nearest")
    np.testing.assert_allclose(at, np.where(trials["direction"] == "outbound", 180.0, 0.0), atol=0.5)


def test_place_cells_fire_in_their_fields_and_at_rest_nowhere(session):
    behavior = session.behavior
    time = behavior["processing/behavior/linear_position"]["time"].values
    position = behavior["processing/behavior/linear_position"].values
    direction = behavior["processing/behavior/direction"].values
    place = np.flatnonzero(session.units["cell_type"] == "place")
    assert len(place) == 50
    for way, field in ((1, "outbound_field"), (-1, "inbound_field")):
        seen = 0
        for unit in place:
            centre, peak = session.units[field].values[unit], session.units["peak_rate"].values[unit]
            frames = np.minimum(np.searchsorted(time, session.spikes_of(unit), side="right") - 1, len(time) - 1)
            spikes = np.bincount(frames, minlength=len(time))
            near = (np.abs(position - centre) < 4) & (direction == way)
            # Away from the field of this way, whatever the other way's field is.
            far = (np.abs(position - centre) > 50) & (direction == way)
            if np.isnan(centre) or near.sum() < 50:
                continue
            seen += 1
            assert spikes[near].mean() / 0.02 == pytest.approx(peak, rel=0.6, abs=3)
            assert spikes[far].mean() / 0.02 < 1.5
        assert seen > 30


def test_theta_modulates_running(session):
    phase = session.behavior["processing/behavior/theta_phase"]
    running = session.behavior["processing/behavior/speed"] > 5
    angle = np.unwrap(phase.values)
    rate = np.diff(angle) / (2 * np.pi * 0.02)
    assert rate.mean() == pytest.approx(8.0, abs=0.3)
    spikes = session.spikes_of(session.n_units - 1)
    for state, low, high in ((True, 0.2, 0.4), (False, 0.0, 0.1)):
        chosen = spikes[np.interp(spikes, phase["time"], running) > 0.5] if state else None
        if chosen is None:
            chosen = spikes[spikes > 480]
        length = np.abs(np.exp(1j * np.interp(chosen, phase["time"], angle)).mean())
        assert low <= length < high


def test_refractory_and_informative(session):
    for unit in range(session.n_units):
        assert (np.diff(session.spikes_of(unit)) > 0.0015).all()
    counts = bin_spikes(session, 0.1, "epochs=run").values.astype(float)
    position = session.behavior["processing/behavior/linear_position"].values[: 480 * 50].reshape(-1, 5).mean(1)
    # Linear regression on smoothed counts already finds the place.
    kernel = np.ones(7) / 7
    smooth = np.sqrt(np.apply_along_axis(np.convolve, 0, counts, kernel, mode="same"))
    X = np.column_stack([smooth, np.ones(len(smooth))])
    split = int(0.8 * len(X))
    weights = np.linalg.lstsq(X[:split], position[:split], rcond=None)[0]
    residual = position[split:] - X[split:] @ weights
    assert 1 - residual.var() / position[split:].var() > 0.85


@pytest.mark.parametrize("bad", [{"n_units": 0}, {"duration": 10.0, "rest": 10.0}, {"rest": -1.0}])
def test_worlds_that_cannot_be(bad):
    with pytest.raises(InputError, match=r"^simulation: "):
        linear_track_session(**bad)


def test_linear_gaussian_world_has_the_moments_it_states():
    world = linear_gaussian_world(seed=1, n_steps=100_000, state_dim=3, latent_dim=2)
    assert np.abs(np.linalg.eigvals(world.A)).max() == pytest.approx(0.95)
    for covariance in (world.Q, world.R):
        np.testing.assert_array_equal(covariance, covariance.T)
        assert np.linalg.eigvalsh(covariance).min() > 0
    h = world.h - world.b
    np.testing.assert_allclose(np.cov((h[1:] - h[:-1] @ world.A.T).T), world.Q, atol=0.02)
    np.testing.assert_allclose(np.cov((world.z - world.h @ world.C.T).T), world.R, atol=0.02)
    stationary = np.cov(h.T)
    np.testing.assert_allclose(world.A @ stationary @ world.A.T + world.Q, stationary, rtol=0.05, atol=0.1)
    np.testing.assert_array_equal(world.z, linear_gaussian_world(1, 100_000, 3, 2).z)
