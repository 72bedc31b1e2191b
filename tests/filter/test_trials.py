"""Training in trials: windows from the prior, held-out trials, and what entropy compares."""

import math

import numpy as np
import pytest
import torch
import xarray as xr
from torch.distributions import MultivariateNormal

from ldmfilter.config import FilterConfig
from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.session import Session
from ldmfilter.filter import batches, fit
from ldmfilter.filter.evaluation import LEAST_SCALE
from ldmfilter.filter.kalman import filter
from ldmfilter.filter.linalg import gains, whitening
from ldmfilter.filter.training import Training
from ldmfilter.ldm.entropy import ENTROPIES
from ldmfilter.ranks import Ranks

FAST = {
    "latent_dim": 2,
    "max_steps": 2,
    "learning_rate": 0.01,
    "hidden": (16,),
    "batch_size": 16,
    "dynamics": "fast",
}


def in_trials(bin_size: float) -> xr.DataArray:
    """Trials of 0.3 to 1.4 s, so that few windows are full, and 16 units."""
    rng = np.random.default_rng(0)
    trials = [(2.0 * start, 2.0 * start + 0.1 * length) for start, length in enumerate(rng.integers(3, 15, 40))]
    spikes = np.sort(rng.uniform(0, 80, (16, 800)))
    return bin_spikes(Session.from_spikes(list(spikes)), bin_size, trials)


@pytest.fixture(scope="module")
def unequal() -> xr.DataArray:
    return in_trials(0.1)


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
    # Its innovations are none, and their covariance is as small as it may be.
    model = fitted._network.dynamics()
    S = gains(*model[:4], model.P0, 12)[0] * LEAST_SCALE
    best = max(float(-0.5 * torch.logdet(2 * math.pi * one).detach()) for one in S)
    assert math.isfinite(record.held_out_log_likelihood)
    assert best - 1 < record.held_out_log_likelihood <= best
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


@pytest.mark.parametrize("bin_size", [0.1, 0.03])
def test_windows_of_processes_and_from_disk(unequal, monkeypatch, bin_size):
    """Each process has its share of the counts and knows the extent of all; a recording that is read from where it lies
    gives the same."""
    counts = unequal if bin_size == 0.1 else in_trials(bin_size)
    config = FilterConfig(**FAST)
    (recording,) = Training(config, counts)._now._recordings
    picks = recording.draw((3, 16), torch.Generator().manual_seed(0))
    whole = list(recording.batches(picks))
    assert not all(batch.inside.all() for batch in whole)
    shares = []
    for rank in range(2):
        monkeypatch.setattr(batches, "ranks", lambda rank=rank: Ranks(rank, 2, 2))
        shares.append(list(recording.batches(picks)))
    monkeypatch.setattr(batches, "ranks", Ranks)
    monkeypatch.setattr(batches, "RESIDENT", 10)
    monkeypatch.setattr(batches, "STRETCH", 70)
    (stored,) = Training(config, counts)._now._recordings
    assert stored._resident is None
    torch.testing.assert_close(stored.held, recording.held, rtol=0, atol=0, equal_nan=True)
    assert stored.held_inside.equal(recording.held_inside)
    for batch, first, second, read in zip(whole, *shares, stored.batches(picks), strict=True):
        assert all(one.inside.equal(batch.inside) and one.trial.equal(batch.trial) for one in (first, second, read))
        for one in (torch.cat([first.counts, second.counts]), read.counts):
            torch.testing.assert_close(one, batch.counts, rtol=0, atol=0, equal_nan=True)


def test_held_out_windows_lie_in_held_out_trials(unequal):
    (recording,) = Training(FilterConfig(**FAST), unequal)._now._recordings
    windows, segment = recording.windows, unequal["segment"].to_numpy()
    held = set(segment[windows.held_bins].tolist())
    judged = set()
    for start, length in zip(windows.held_starts.tolist(), windows.held_lengths.tolist(), strict=True):
        assert len(set(segment[start : start + length].tolist())) == 1
        assert set(range(start, start + length)) <= set(windows.held_bins.tolist())
        judged.add(int(segment[start]))
    assert judged == held
