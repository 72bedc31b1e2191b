"""Training in trials: windows from the prior, held-out trials, and what entropy compares."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from ldmfilter.config import FilterConfig
from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.session import Session
from ldmfilter.filter import fit
from ldmfilter.filter.kalman import filter
from ldmfilter.filter.linalg import whitening
from ldmfilter.filter.training import Training
from ldmfilter.ldm.entropy import ENTROPIES

FAST = {
    "latent_dim": 2,
    "max_steps": 2,
    "learning_rate": 0.01,
    "hidden": (16,),
    "batch_size": 16,
    "dynamics": "fast",
}


@pytest.fixture(scope="module")
def unequal():
    """Trials of 0.3 to 1.4 s, so that few windows are full, and 16 units."""
    rng = np.random.default_rng(0)
    trials = [(2.0 * start, 2.0 * start + 0.1 * length) for start, length in enumerate(rng.integers(3, 15, 40))]
    spikes = np.sort(rng.uniform(0, 80, (16, 800)))
    return bin_spikes(Session.from_spikes(list(spikes)), 0.1, trials)


@pytest.mark.parametrize("dynamics", ["slow", "fast"])
def test_the_loss_in_trials_is_that_of_the_exact_filter(unequal, dynamics):
    """Of every frame of a trial, the first ones too, each with its own covariance."""
    config = FilterConfig(**FAST | {"entropy": "stopgrad", "dynamics": dynamics})
    fitted = Training(config, unequal)._now
    (batch,) = next(fitted._batches(1))
    assert len(set(batch.inside.sum(1).tolist())) > 3
    assert set(batch.inside.sum(1).tolist()) <= set(range(3, 15))
    assert batch.counts.isnan().all(-1).equal(~batch.inside)
    with torch.no_grad():
        fitted._network.eval()
        (raw,), model = fitted._network([batch.counts])
        found = float(fitted._objective(raw, batch, model))
        mean, W = whitening(raw[batch.inside])
        each = []
        for window, seen in zip((raw - mean) @ W, batch.inside, strict=True):
            alone = filter(model.to(torch.float64), window[seen].double())
            S = MultivariateNormal(torch.zeros(len(W)).double(), alone.innovation_cov)
            each.append(S.log_prob(alone.innovation))
    assert found == pytest.approx(float(torch.cat(each).mean()), abs=1e-4)


def test_held_out_trials_are_judged_by_the_exact_filter(unequal):
    """The score is the highest that one factor on all covariances gives."""
    fitted = Training(FilterConfig(**FAST), unequal)._now
    record = fitted._evaluate()
    recording, network = fitted._recordings[0], fitted._network
    assert not recording.held_inside.all()
    with torch.no_grad():
        z, model = network.encode(recording.held).double(), network.dynamics().to(torch.float64)
        each = [filter(model, one[seen]) for one, seen in zip(z, recording.held_inside, strict=True)]
    e, S = (torch.cat([getattr(one, name) for one in each]) for name in ("innovation", "innovation_cov"))
    zero = torch.zeros_like(e)
    best = max(float(MultivariateNormal(zero, size * S).log_prob(e).mean()) for size in np.geomspace(0.3, 3, 400))
    assert record.held_out_log_likelihood == pytest.approx(best, abs=1e-4)


def test_a_constant_z_scores_low(unequal):
    fitted = Training(FilterConfig(**FAST), unequal)._now
    with torch.no_grad():
        for parameter in fitted._network.encoders.parameters():
            parameter.zero_()
    record = fitted._evaluate()
    assert -20 < record.held_out_log_likelihood < math.inf
    assert record.score < 0.1


def test_in_trials_entropy_compares_trials(unequal, counts, monkeypatch):
    """With others alone, in each phase and each time that one was drawn; windows where a batch has one trial alone, or
    there are no trials."""
    compared = []
    real = fit.predictive
    monkeypatch.setattr(fit, "predictive", lambda *given: compared.append(given[4:6]) or real(*given))
    fitted = Training(FilterConfig(**FAST | {"entropy": "knn", "batch_size": 64}), unequal)._now
    for batch in fitted._batches(2):
        fitted._train_step(batch)
        samples, group = compared.pop()
        sizes = batch[0].inside.sum(1)
        assert len(samples) == len(group) == int(sizes.clamp_max(ENTROPIES["knn"].samples).sum())
        assert set(group.tolist()) == set(batch[0].trial.tolist())
        assert len(set(group.tolist())) < 64
        of_one = batch[0]._replace(trial=torch.zeros(64, dtype=torch.int64))
        assert len(fitted._groups(of_one).unique()) == 64
    whole = Training(FilterConfig(**FAST), counts)._now
    assert not whole.candidate.in_trials
    (batch,) = next(whole._batches(1))
    assert len(batch.trial.unique()) < len(whole._groups(batch).unique()) == 16
