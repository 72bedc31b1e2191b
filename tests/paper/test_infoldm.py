"""Predictable noise of single units, small."""

import math

import numpy as np
import pytest
import torch

from ldmfilter.paper import infoldm
from ldmfilter.paper.experiment import reproduce
from ldmfilter.paper.infoldm import UNTRAINED, WARMUP, Settings, explained, named, objective, views, world
from ldmfilter.paper.readout import affine_r2

SETTINGS = Settings(seconds=60, units=8, shared=2, seeds=1, steps=1, batch=4, window=30, hidden=(8,))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return reproduce("infoldm", "tiny", tmp_path_factory.mktemp("infoldm"))


def test_own_past_keeps_the_noise_and_the_other_half_s_discards_it(done):
    def mean(context, form, key):
        return done.outcome.numbers[named(context, form)][key]["mean"]

    # Training adds to what an untrained network has of the noise, or takes it away.
    kept = mean("own", "logdet", "made_of_private")
    assert kept > mean("own", UNTRAINED, "made_of_private") + 0.15
    for form in infoldm.FORMS:
        assert mean("other", form, "made_of_private") < mean("other", UNTRAINED, "made_of_private") - 0.15
        assert mean("other", form, "made_of_private") < 0.6 * mean("own", form, "made_of_private")
        assert mean("other", form, "decoded_shared") > mean("own", form, "decoded_shared") + 0.1
    # It was there to be kept, both of it.
    counts = done.outcome.numbers["counts"]
    assert counts["decoded_shared"]["mean"] > 0.6
    assert counts["decoded_private"]["mean"] > 0.6
    assert done.picture.stat().st_size > 50_000


def test_the_world_has_its_rates_and_its_independence():
    truth = world(np.random.default_rng(1), 60_000, 6, 2, shared_gain=0.3, private_gain=0.4, rate=20.0)
    # Mean of a log-normal: exp(variance / 2) times the median.
    np.testing.assert_allclose(truth.counts.mean(0), 2.0 * math.exp((0.3**2 + 0.4**2) / 2), rtol=0.15)
    corner = np.corrcoef(np.column_stack([truth.shared, truth.private]).T)
    assert np.abs(corner - np.eye(8)).max() < 0.15
    # A unit's own modulation shows in its own counts alone.
    gains = np.corrcoef(truth.private.T, np.log1p(truth.counts).T)[:6, 6:]
    assert gains.diagonal().min() > 0.3
    assert np.abs(gains - np.diag(gains.diagonal())).max() < 0.15


def test_claims_are_held_against_the_untrained():
    same = {"made_of_private": {"mean": 0.6}, "decoded_shared": {"mean": 0.5}}
    kept, discarded = (infoldm.claims(dict.fromkeys(infoldm.OBJECTIVES, same))[i] for i in (0, 2))
    assert (kept.value, kept.holds, discarded.value, discarded.holds) == (0, False, 0, False)


def test_a_half_is_predicted_from_the_other_alone():
    torch.manual_seed(0)
    counts = torch.from_numpy(np.random.default_rng(0).poisson(2.0, (400, 8))).float()
    parts = views("other", counts, SETTINGS)
    for part in parts:
        part.eval()
    batch = counts[:120].reshape(4, 30, 8)
    # In the stop-gradient form the encoder of a half learns from the prediction of the other half only.
    with torch.no_grad():
        parts[1].ahead.weight.zero_()  # the second half predicts nothing of the first
    objective(parts, batch, "stopgrad").backward()
    learnt = [[p for p in part.encoder.parameters() if p.requires_grad] for part in parts]
    slopes = [max(float(p.grad.abs().max()) for p in each) for each in learnt]
    assert slopes[0] > 1e-4
    assert slopes[1] < 1e-7


def test_own_past_is_the_filter_s_objective():
    from ldmfilter.filter.kalman import filter_windows
    from ldmfilter.ldm.objectives import predictive

    torch.manual_seed(0)
    counts = torch.from_numpy(np.random.default_rng(0).poisson(2.0, (400, 8))).float()
    (part,) = views("own", counts, SETTINGS)
    part.eval()
    batch = counts[:120].reshape(4, 30, 8)
    z = part.encode(batch, measure=True)
    zhat, S, _ = filter_windows(part.predictor.dynamics(), z)
    expected = predictive(z[:, WARMUP:], zhat[:, WARMUP:], S, "logdet").value
    torch.testing.assert_close(objective([part], batch, "logdet"), expected)
    assert z.shape == (4, 30, 4)


def test_explained_is_judged_on_the_last_fifth():
    rng = np.random.default_rng(0)
    cause = rng.standard_normal((1000, 2))
    effect = np.column_stack([cause @ [1.0, -2.0] + 3, rng.standard_normal(1000)])
    r2 = explained(cause, effect)
    assert r2[0] == pytest.approx(1)
    assert abs(r2[1]) < 0.1
    for i in (0, 1):
        assert r2[i] == pytest.approx(affine_r2(cause[:800], effect[:800, [i]], cause[800:], effect[800:, [i]]))
    effect[800:, 0] += 5  # an error of the mean is one
    assert explained(cause, effect)[0] < -1
    effect[800:, 0] = 5 - effect[800:, 0]
    assert explained(cause, effect)[0] < -1
