"""Noise that falls with the spikes of a bin: `Network.observe`, and covariances that differ in every bin."""

import copy

import numpy as np
import pytest
import torch
import xarray as xr

from ldmfilter import LDMFilter, OnlineFilter, load
from ldmfilter.config import FilterConfig
from ldmfilter.filter.decode import decode_blocks
from ldmfilter.filter.finish import SHARES
from ldmfilter.filter.fit import Fit
from ldmfilter.filter.kalman import filter, smooth, smooth_lagged
from ldmfilter.filter.spikes_ahead import SpikesAhead
from ldmfilter.filter.training import Training
from tests.filter.conftest import SMALL
from tests.filter.reference import loop
from tests.filter.test_kalman import make_model


@pytest.fixture(scope="module")
def by_spikes(fitted) -> LDMFilter:
    """The filter with a share of the evidence, which no training chose."""
    model = copy.deepcopy(fitted)
    model.network_.evidence_share.fill_(0.6)
    return model


def observed_by(model: LDMFilter, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        z, evidence = model.network_.observe(torch.from_numpy(counts.astype(np.float32)))
    return z.numpy(), evidence.numpy()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4)])
def test_covariances_of_every_bin_are_those_of_the_plain_loop(dtype, tolerance):
    """Long enough for several pieces that are computed beside each other; with segments and missing bins."""
    rng = np.random.default_rng(0)
    model = make_model(0, 4, 3)
    T = 1500
    z, evidence = rng.normal(size=(T, 3)), rng.gamma(1.0, size=T) + 0.05
    observed, starts = rng.random(T) > 0.02, rng.random(T) < 0.005
    m_pred, P_pred, m, P, ms, Ps = loop(*(x.numpy() for x in model), z, observed, starts, evidence)
    flags = torch.from_numpy(starts)
    found = filter(
        model.to(dtype),
        torch.from_numpy(z).to(dtype),
        torch.from_numpy(observed),
        flags,
        evidence=torch.from_numpy(evidence),
    )
    smoothed = smooth(model.to(dtype), found, flags)
    for name, value, expected in (
        ("predicted mean", found.predicted_mean, m_pred),
        ("predicted cov", found.predicted_cov, P_pred),
        ("filtered mean", found.filtered_mean, m),
        ("filtered cov", found.filtered_cov, P),
        ("smoothed mean", smoothed.smoothed_mean, ms),
        ("smoothed cov", smoothed.smoothed_cov, Ps),
    ):
        np.testing.assert_allclose(value, expected, atol=tolerance, err_msg=name)
    ends = np.append(np.flatnonzero(starts[1:]) + 1, T)
    for t in rng.integers(0, T, 20):  # a lag: the smoother of what there is so much later
        stop = min(t + 6, int(ends[ends > t][0]))
        part = slice(0, stop)
        *_, mean, cov = loop(*(x.numpy() for x in model), z[part], observed[part], starts[part], evidence[part])
        lagged = smooth_lagged(model.to(dtype), found, flags, 5)
        np.testing.assert_allclose(lagged.smoothed_mean[t], mean[t], atol=tolerance)
        np.testing.assert_allclose(lagged.smoothed_cov[t], cov[t], atol=tolerance)


def test_even_evidence_is_constant_noise():
    model = make_model(1, 3, 2)
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    constant, even = filter(model, z), filter(model, z, evidence=torch.ones(200))
    assert len(even.covariances.filtered) == len(constant.covariances.filtered)  # takes no more room
    torch.testing.assert_close(even.filtered_mean, constant.filtered_mean, rtol=0, atol=0)


def test_fewer_spikes_are_never_more_certainty(by_spikes, counts):
    """Random counts, from which spikes are taken one by one: no covariance gets smaller in any direction."""
    rng = np.random.default_rng(0)
    few = counts.isel(time=slice(0, 40)).copy()
    few.values[:] = rng.poisson(0.4, few.shape)
    before = by_spikes.decode(few)["filtered_cov"].to_numpy().astype(float)
    for _ in range(40):
        t, unit = (int(rng.choice(where)) for where in np.nonzero(few.values))
        while not few.values[t, unit]:
            t, unit = int(rng.integers(40)), int(rng.integers(few.shape[1]))
        few.values[t, unit] -= 1
        after = by_spikes.decode(few)["filtered_cov"].to_numpy().astype(float)
        assert np.linalg.eigvalsh(after - before).min() > -1e-6
        assert np.trace(after[t]) > np.trace(before[t])
        assert (after[:t] == before[:t]).all()  # nothing of it is known before
        before = after


def test_evidence_is_one_on_average_and_a_unit_not_observed_adds_none(by_spikes, counts):
    values = counts.to_numpy().astype(np.float32)
    _, evidence = observed_by(by_spikes, values)
    assert evidence.mean() == pytest.approx(1, abs=0.1)  # over training time
    assert evidence.min() >= 1 - 0.6 - 1e-6
    hidden = values.copy()
    hidden[:, 0] = np.nan
    _, without = observed_by(by_spikes, hidden)
    assert (without <= evidence).all()
    np.testing.assert_allclose(without[values[:, 0] == 0], evidence[values[:, 0] == 0])
    assert (without < evidence)[values[:, 0] > 0].all()


def test_the_encoders_shrinkage_is_undone(by_spikes, counts):
    """z - z_0 = 2 a / (1 + a) (what is observed - z_0); silence is observed as the encoder gives it."""
    values = np.concatenate([np.zeros((1, counts.shape[1])), counts.to_numpy()[:50]]).astype(np.float32)
    with torch.no_grad():
        z = by_spikes.network_.encode(torch.from_numpy(values)).double().numpy()
    found, a = observed_by(by_spikes, values)
    np.testing.assert_allclose(found[0], z[0], atol=1e-6)
    np.testing.assert_allclose((2 * a / (1 + a))[:, None] * (found - z[0]), z - z[0], atol=1e-6)


def test_states_are_those_of_the_loop_however_they_are_computed(by_spikes, counts):
    """Decoded whole, in pieces, and bin by bin; with gaps, a lag and segments."""
    seen = np.random.default_rng(1).random(counts.sizes["time"]) > 0.05
    labelled = counts.assign_coords(observed=("time", seen))
    z, evidence = observed_by(by_spikes, counts.to_numpy())
    with torch.no_grad():
        model = [x.numpy() for x in by_spikes.network_.linear_gaussian()]
    _, _, mean, cov, _, smoothed = loop(*model, z, seen, np.zeros(len(z), bool), evidence)
    latents = by_spikes.decode(labelled, smooth=True, lag=0.6)
    np.testing.assert_allclose(latents["filtered_mean"], mean, atol=2e-5)
    np.testing.assert_allclose(latents["filtered_cov"], cov, atol=2e-6)
    np.testing.assert_allclose(latents["smoothed_cov"], smoothed, atol=2e-6)
    pieces = xr.concat(list(decode_blocks(by_spikes, labelled, block=97)), "time", data_vars="minimal")
    for name in ("filtered_mean", "filtered_cov", "innovation_cov"):
        np.testing.assert_allclose(pieces[name], latents[name], atol=1e-6)
    bins = [bin if there else None for bin, there in zip(counts.to_numpy(), seen, strict=True)]
    online = OnlineFilter(by_spikes)
    each = [online.step(bin) for bin in bins]
    np.testing.assert_allclose([one for one, _ in each], mean, atol=1e-6)
    np.testing.assert_allclose([one for _, one in each], cov, atol=1e-9)
    error, S = z[-1] - model[2] @ (model[4] + model[0] @ (mean[-2] - model[4])), latents["innovation_cov"][-1]
    if seen[-1]:
        np.testing.assert_allclose(np.linalg.cholesky(S) @ online.innovation, error, atol=1e-4)
    lagged = OnlineFilter(by_spikes, lag=0.6)
    late = [one for one in map(lagged.step, bins) if one is not None] + lagged.flush()
    np.testing.assert_allclose([one for one, _ in late], latents["lagged_mean"], atol=1e-5)
    np.testing.assert_allclose([one for _, one in late], latents["lagged_cov"], atol=1e-6)


def test_it_travels_with_the_model_and_constant_noise_leaves_the_id(by_spikes, fitted, counts, tmp_path):
    by_spikes.save(tmp_path)
    again = load(tmp_path)
    assert again.model_id_ == by_spikes.model_id_ != fitted.model_id_
    xr.testing.assert_equal(again.decode(counts)["filtered_cov"], by_spikes.decode(counts)["filtered_cov"])


@pytest.fixture
def tried(few, monkeypatch):
    """A training of which spikes ahead are told: 0, and for each share that is tried these two blocks."""

    def train(blocks: list[float], shares: list[float], **settings) -> Training:
        told = iter([[0.0, 0.0], *([value, value] for value in blocks)])
        monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: SpikesAhead(sum(now := next(told)), np.array(now)))
        monkeypatch.setattr(Fit, "evidence_shares", lambda *_: shares)
        training = Training(FilterConfig(**SMALL | {"max_steps": 2, "evidence": None} | settings), few)
        list(training.run())
        return training

    return train


def test_it_is_taken_where_spikes_are_predicted_no_worse(tried):
    training = tried([-0.1, 0.0], [0.8, 0.2])
    assert [one.evidence for one in training.trained] == [False, True]
    assert training.kept.evidence
    assert float(training.parts[0][1]["evidence_share"]) == pytest.approx(0.2)
    assert training.kept.label == "slow with noise by spikes"
    assert not tried([-0.1, -0.1], [0.8, 0.2]).kept.evidence
    assert not tried([], []).kept.evidence  # constant noise predicts held-out z best
    assert float(tried([-0.1], [0.8], evidence=True).parts[0][1]["evidence_share"]) == pytest.approx(0.8)
    assert not tried([], [0.8], evidence=False).kept.evidence


def test_shares_are_in_the_order_of_held_out_z(few):
    training = Training(FilterConfig(**SMALL | {"max_steps": 2}), few)
    list(training.run())
    shares = training._now.evidence_shares(training.parts[0][1])
    assert set(shares) <= set(SHARES)


def test_a_signal_has_constant_noise(few):
    signal = few.astype(np.float32).assign_attrs(kind="signal")
    training = Training(FilterConfig(**SMALL | {"max_steps": 2, "evidence": True}), signal)
    list(training.run())
    assert not training.kept.evidence


def test_intervals_hold_in_thirds_by_spikes():
    """A world of the filter's own kind, seen through more or fewer spikes: 95 % intervals of its states hold so often
    in each third of the bins by their evidence; with constant noise they do not."""
    rng = np.random.default_rng(0)
    model, T = make_model(3, 2, 2), 20_000
    evidence = rng.gamma(0.7, 1 / 0.7, T) + 0.05
    A, Q, C, R, b, P0 = (x.numpy() for x in model)
    h = np.empty((T, 2))
    h[0] = b + np.linalg.cholesky(P0) @ rng.normal(size=2)
    for t in range(1, T):
        h[t] = b + A @ (h[t - 1] - b) + np.linalg.cholesky(Q) @ rng.normal(size=2)
    z = h @ C.T + rng.normal(size=(T, 2)) @ np.linalg.cholesky(R).T / np.sqrt(evidence)[:, None]
    third = np.digitize(evidence, np.quantile(evidence, [1 / 3, 2 / 3]))
    covered = {}
    for name, given in (("own", torch.from_numpy(evidence)), ("constant", None)):
        found = filter(model, torch.from_numpy(z), evidence=given)
        half = 1.96 * np.sqrt(np.diagonal(found.filtered_cov, axis1=1, axis2=2))
        inside = np.abs(found.filtered_mean.numpy() - h) < half
        covered[name] = [inside[third == number].mean() for number in range(3)]
    assert all(0.94 < share < 0.96 for share in covered["own"])
    assert min(covered["constant"]) < 0.93
