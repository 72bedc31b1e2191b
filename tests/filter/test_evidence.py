"""Noise that falls with the spikes of a bin: `Network.observe`, and covariances that differ in every bin."""

import copy

import numpy as np
import pytest
import torch
import xarray as xr

from ldmfilter import LDMFilter, OnlineFilter, load
from ldmfilter.config import FilterConfig
from ldmfilter.errors import InputError
from ldmfilter.filter.decode import decode_blocks
from ldmfilter.filter.encoder import MOST_SPIKES
from ldmfilter.filter.kalman import filter, smooth, smooth_lagged
from ldmfilter.filter.network import names_of_format_2
from ldmfilter.filter.training import Training
from ldmfilter.tensors import digest
from tests.filter.conftest import SMALL, framed
from tests.filter.reference import loop
from tests.filter.test_kalman import make_model
from tests.filter.test_training import same


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
    lagged = smooth_lagged(model.to(dtype), found, flags, 5)
    for t in rng.integers(0, T, 20):  # a lag: the smoother of what there is so much later
        stop = min(t + 6, int(ends[ends > t][0]))
        part = slice(0, stop)
        *_, mean, cov = loop(*(x.numpy() for x in model), z[part], observed[part], starts[part], evidence[part])
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
    assert 1 - 0.6 - 1e-6 <= evidence.min() < 0.7
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
    seen[-1] = True  # its innovation is looked at
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
    error, S = (
        z[-1] - model[2] @ (model[4] + model[0] @ (mean[-2] - model[4])),
        latents["innovation_cov"].to_numpy()[-1],
    )
    np.testing.assert_allclose(np.linalg.cholesky(S) @ online.innovation, error, atol=1e-4)
    lagged = OnlineFilter(by_spikes, lag=0.6)
    late = [one for one in map(lagged.step, bins) if one is not None] + lagged.flush()
    np.testing.assert_allclose([one for one, _ in late], latents["lagged_mean"], atol=1e-5)
    np.testing.assert_allclose([one for _, one in late], latents["lagged_cov"], atol=1e-6)


def test_it_travels_with_the_model(by_spikes, fitted, counts, tmp_path):
    by_spikes.save(tmp_path)
    again = load(tmp_path)
    assert again.model_id_ == by_spikes.model_id_ != fitted.model_id_
    xr.testing.assert_equal(again.decode(counts)["filtered_cov"], by_spikes.decode(counts)["filtered_cov"])


def test_constant_noise_leaves_the_id_of_a_model(fitted):
    """The id is made of what models had before there was evidence."""
    later = ("evidence_share", "mean_counts")
    tensors = {name: value for name, value in fitted.network_.state_dict().items() if not name.endswith(later)}
    assert len(tensors) == len(fitted.network_.state_dict()) - 2
    assert fitted.model_id_ == digest(names_of_format_2(tensors))[:16]


def test_training_takes_the_share_and_goes_on_after_a_stop(few):
    """Both parts of a filter of both; the state after each record leads to the same end."""
    config = FilterConfig(latent_dim=13, max_steps=8, hidden=(16,), batch_size=16, evidence=0.3)
    training = Training(config, few)
    states = [copy.deepcopy(training.state()) for _ in training.run()]
    assert len(training.parts) == 2
    for _, network in training.parts:
        assert float(network["evidence_share"]) == pytest.approx(0.3)
    for tensors, values in states[:: len(states) // 2]:
        again = Training(config, few)
        again.restore(tensors, values)
        list(again.run())
        assert all(same(a[1], b[1]) for a, b in zip(again.parts, training.parts, strict=True))


def test_a_training_from_before_there_was_evidence_goes_on(few):
    """Its tensors lack two names, those of what is kept too."""
    config = FilterConfig(latent_dim=13, max_steps=8, hidden=(16,), batch_size=16)
    training = Training(config, few)
    for record in training.run():
        if record.candidate == "fast" and record.step:
            break
    tensors, values = copy.deepcopy(training.state())
    list(training.run())
    old = {name: x for name, x in tensors.items() if not name.endswith(("evidence_share", "mean_counts"))}
    assert any(name.startswith("kept.slow.") for name in old)
    again = Training(config, few)
    again.restore(old, values)
    list(again.run())
    assert [one.bits_per_spike for one in again.trained] == [one.bits_per_spike for one in training.trained]


def test_a_signal_has_no_spikes(few):
    signal = few.astype(np.float32).assign_attrs(kind="signal")
    with pytest.raises(InputError, match="a signal has no spikes"):
        Training(FilterConfig(**SMALL | {"evidence": 0.2}), signal)


def test_missing_bins_are_never_surer_than_silent_ones():
    """A frame of which bins are missing is scaled up for the encoder; its evidence is not."""
    model, counts = framed(0.1, 0.3)
    model.network_.evidence_share.fill_(0.6)
    few = counts.isel(time=slice(60, 90)).copy().drop_vars("unit_observed", errors="ignore")
    few = few.assign_coords(segment=("time", np.zeros(30, int)), observed=("time", np.ones(30, bool)))
    few.values[:] = 0
    few.values[15] = 20
    seen = np.ones(30, bool)
    seen[16] = False
    silent, missing = (
        model.decode(one)["filtered_cov"].to_numpy().astype(float)
        for one in (few, few.assign_coords(observed=("time", seen)))
    )
    assert np.linalg.eigvalsh(missing - silent).min() > -1e-6


def test_what_the_encoder_does_not_see_adds_no_evidence():
    """A unit seen in one bin of a frame of three enters as its mean, however many spikes it had there."""
    model, counts = framed(0.1, 0.3)
    model.network_.evidence_share.fill_(0.6)
    seen = np.ones((30, counts.sizes["unit"]), bool)
    seen[[14, 15], 0] = False
    few = counts.isel(time=slice(60, 90)).copy(data=np.ones((30, counts.sizes["unit"]), np.uint8))
    few = few.assign_coords(segment=("time", np.zeros(30, int)), observed=("time", np.ones(30, bool)))
    few = few.assign_coords(unit_observed=(("time", "unit"), seen))
    covs, online = [], []
    for spikes in (0, 8):
        few.values[16, 0] = spikes
        covs.append(model.decode(few)["filtered_cov"].to_numpy()[16])
        each, rows = OnlineFilter(model), np.where(seen, few.to_numpy(), np.nan)
        online.append([each.step(row)[1] for row in rows[:17]][-1])
    np.testing.assert_array_equal(covs[0], covs[1])
    np.testing.assert_array_equal(online[0], online[1])


def test_frames_with_gaps_are_the_same_bin_by_bin():
    model, counts = framed(0.1, 0.3)
    model.network_.evidence_share.fill_(0.6)
    latents, online = model.decode(counts), OnlineFilter(model)
    seen, units = counts["observed"].to_numpy(), counts["unit_observed"].to_numpy()
    for t, segment in enumerate(counts["segment"].to_numpy()):
        if t and segment != counts["segment"].to_numpy()[t - 1]:
            online.reset()
        mean, cov = online.step(np.where(units[t], counts.to_numpy()[t].astype(float), np.nan) if seen[t] else None)
        np.testing.assert_allclose(mean, latents["filtered_mean"][t], atol=1e-5)
        np.testing.assert_allclose(cov, latents["filtered_cov"][t], atol=1e-6)


def test_what_a_spike_may_add_is_bounded(by_spikes, counts):
    encoder = copy.deepcopy(by_spikes.network_.encoder())
    values = torch.from_numpy(counts.to_numpy().astype(np.float32))
    values[:, 3] = 0
    encoder.set_input_scale(values)
    weights = encoder.spike_weights()
    assert weights[3] == 0  # of a unit that was silent in training nothing was learnt
    assert float(weights @ values.double().mean(0)) == pytest.approx(1)
    burst = torch.full((1, 16), 1e4)
    assert float(encoder.evidence(burst, 0.5)) == pytest.approx(0.5 + 0.5 * MOST_SPIKES)


def test_a_hidden_unit_is_not_taken_for_a_silent_one(by_spikes, counts):
    """It enters the encoder as its mean, and so does what is undone: z stays where it was, only less sure."""
    values = counts.to_numpy().astype(np.float32)
    hidden = values.copy()
    hidden[:, :8] = np.nan
    as_mean = values.copy()
    as_mean[:, :8] = by_spikes.network_.encoder().mean_counts.numpy()[:8]
    (z, a), (_, full) = observed_by(by_spikes, hidden), observed_by(by_spikes, as_mean)
    with torch.no_grad():
        plain = by_spikes.network_.encode(torch.from_numpy(hidden)).double().numpy()
        silence = by_spikes.network_.encode(torch.zeros(1, 16)).double().numpy()
    np.testing.assert_allclose(z - silence, (plain - silence) * (0.5 + 0.5 / full)[:, None], atol=1e-5)
    assert (a <= full + 1e-9).all()


def test_intervals_hold_in_thirds_by_spikes():
    """A world of the filter's own kind, seen through more or fewer spikes: 95 % intervals of its states hold so often
    in each third of the bins by their evidence; with constant noise they do not."""
    rng = np.random.default_rng(0)
    model, T = make_model(3, 2, 2), 100_000
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
