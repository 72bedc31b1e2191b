"""Statistics against closed forms and other programs; diagnoses of filters that are right, wrong, and of nothing."""

import copy
import dataclasses
import json
from functools import lru_cache

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.stats import chi2

from ldmfilter import InputError, LDMFilter, bin_spikes, reserve
from ldmfilter.analysis import diagnostics as d
from ldmfilter.data.simulate import linear_gaussian_world, linear_track_session
from ldmfilter.filter.kalman import LinearGaussian, filter
from ldmfilter.filter.linalg import stationary_covariance

SMALL = {"latent_dim": 3, "max_steps": 75, "learning_rate": 0.01, "hidden": (32,), "window": 24, "batch_size": 16}


@lru_cache
def world_of(seed, **more):
    return linear_gaussian_world(seed, **more)


def system_of(world, Q=1.0, R=1.0) -> LinearGaussian:
    """The world's own parameters, with Q and R as many times as large."""
    A, Q, C, R, b = (torch.from_numpy(x) for x in (world.A, Q * world.Q, world.C, R * world.R, world.b))
    return LinearGaussian(A, Q, C, R, b, stationary_covariance(A, Q))


def findings_of(world, **wrong) -> dict[str, d.Finding]:
    result = filter(system_of(world, **wrong), torch.from_numpy(world.z))
    x = d.normalised(result.innovation.numpy(), result.innovation_cov.numpy())
    n = len(x)
    judged = np.arange(n) >= 20
    c = d.consistency(x, judged, np.zeros(n, int), 0.1 * np.arange(n), 0.1)
    return {finding.name: finding for finding in d.innovation_findings(c)}


# Innovations


@pytest.mark.parametrize("seed", range(3))
def test_true_parameters_pass(seed):
    found = findings_of(world_of(seed, n_steps=3000))
    assert all(finding.ok for finding in found.values()), found
    assert found["innovation size"].value == pytest.approx(1, abs=0.07)
    assert found["innovation outliers"].value == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"Q": 0.1}, {"innovation size": "overconfident", "innovation correlation": "predict each other"}),
        ({"R": 8.0}, {"innovation size": "underconfident", "innovation correlation": "predict each other"}),
        ({"Q": 4.0, "R": 4.0}, {"innovation size": "underconfident"}),
        ({"Q": 0.4, "R": 0.4}, {"innovation size": "overconfident", "innovation outliers": "outside the region"}),
    ],
)
def test_wrong_covariances_are_found(wrong, words):
    found = findings_of(world_of(1, n_steps=3000), **wrong)
    assert {name for name, finding in found.items() if not finding.ok} >= set(words)
    for name, word in words.items():
        assert word in found[name].verdict
        assert found[name].remedy.startswith("choose ")


def test_normalised_innovations_have_the_nis_of_its_definition():
    rng = np.random.default_rng(0)
    e, root = rng.standard_normal((50, 3)), rng.standard_normal((50, 3, 3))
    S = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(3)
    expected = [v @ np.linalg.inv(M) @ v for v, M in zip(e, S, strict=True)]
    np.testing.assert_allclose((d.normalised(e, S) ** 2).sum(1), expected, rtol=1e-9)


def test_nis_quantiles_of_white_innovations_are_those_of_chi_square():
    x = np.random.default_rng(1).standard_normal((20_000, 4))
    everywhere = np.ones(len(x), bool)
    c = d.consistency(x, everywhere, np.zeros(len(x), int), 0.1 * np.arange(len(x)), 0.1)
    middle = (c.probability > 0.05) & (c.probability < 0.95)
    np.testing.assert_allclose(c.nis[middle], chi2.ppf(c.probability[middle], 4), rtol=0.05)
    assert c.size_interval[0] < 1 < c.size_interval[1]
    assert c.tail_interval[0] < 0.05 < c.tail_interval[1]


def test_the_white_band_holds_white_noise():
    rng, exceeded = np.random.default_rng(2), 0
    for _ in range(100):
        x = rng.standard_normal((400, 3))
        matrices, pairs = d.lagged_correlations(x, np.ones(400, bool), np.zeros(400, int), 5)
        exceeded += bool((np.linalg.norm(matrices, 2, (1, 2)) > d.white_band(3, pairs)).any())
    assert exceeded <= 10  # 5 % of 100 and two deviations


def test_correlations_cross_no_gap():
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 2))
    x[100:200] = x[:100]  # the same again in another segment: no pair of bins may know
    segment = np.repeat([0, 1, 2], 100)
    judged = np.ones(300, bool)
    judged[50:60] = False
    _, pairs = d.lagged_correlations(x, judged, segment, 3)
    expected = [
        sum(judged[t] and judged[t - k] and segment[t] == segment[t - k] for t in range(k, 300)) for k in (1, 2, 3)
    ]
    assert pairs.tolist() == expected


def test_one_lagged_correlation_is_the_ordinary_one_and_the_portmanteau_that_of_box_and_pierce():
    rng = np.random.default_rng(4)
    x = np.convolve(rng.standard_normal(2001), [1, 0.5], "valid")[:, None]
    n = len(x)
    matrices, pairs = d.lagged_correlations(x, np.ones(n, bool), np.zeros(n, int), 3)
    centred = x[:, 0] - x.mean()
    r = [(centred[k:] * centred[:-k]).sum() / (centred**2).sum() * n / (n - k) for k in (1, 2, 3)]
    np.testing.assert_allclose(matrices[:, 0, 0], r, rtol=1e-6)
    assert r[0] == pytest.approx(0.4, abs=0.05)
    statistic, p = d.portmanteau(matrices, pairs)
    assert statistic == pytest.approx(sum((n - k) * v**2 for k, v in zip((1, 2, 3), r, strict=True)), rel=1e-6)
    assert p == pytest.approx(chi2.sf(statistic, 3))


def test_the_block_bootstrap_knows_that_neighbours_resemble_each_other():
    rng, rho, n = np.random.default_rng(5), 0.9, 20_000
    x = np.zeros(n)
    noise = rng.standard_normal(n)
    for t in range(1, n):
        x[t] = rho * x[t - 1] + noise[t]
    mean, (low, high) = d.mean_interval(x, np.arange(n) // 200)
    # The mean of a first-order autoregression has variance 1 / (n (1 - rho)^2).
    assert (high - low) / (2 * 1.96) == pytest.approx(1 / (np.sqrt(n) * (1 - rho)), rel=0.25)
    assert low < mean < high
    assert mean == pytest.approx(x.mean())


# Rank, gain and rivals


def test_effective_rank():
    assert d.effective_rank(np.ones(5)) == pytest.approx(5)
    assert d.effective_rank(np.array([2.0, 0, 0])) == pytest.approx(1)


def test_predictive_gain_of_an_autoregression():
    rng, rho = np.random.default_rng(6), np.array([0.9, 0.5])
    z = np.zeros((40_000, 2))
    for t in range(1, len(z)):
        z[t] = rho * z[t - 1] + rng.standard_normal(2)
    error = z[1:] - rho * z[:-1]
    gain = d.predictive_gain(z[1:], error)
    assert gain == pytest.approx(-0.5 * np.log(1 - rho**2).sum(), abs=0.03)
    M = np.array([[2.0, 1.0], [0.3, -5.0]])
    assert d.predictive_gain(z[1:] @ M + 3, error @ M) == pytest.approx(gain, abs=1e-6)


def test_smoothing_errors_as_a_loop():
    rng = np.random.default_rng(7)
    z, starts, gain = rng.standard_normal((60, 2)), np.zeros(60, bool), np.array([0.2, 1.0])
    starts[[0, 25, 26]] = True
    expected = np.zeros_like(z)
    for t in range(60):
        if starts[t]:
            level = z[t].copy()
        else:
            expected[t] = z[t] - level
            level = level + gain * (z[t] - level)
    np.testing.assert_allclose(d.smoothing_errors(z, starts, gain), expected, atol=1e-10)


def test_local_level_finds_the_steady_gain():
    rng, q, r = np.random.default_rng(8), np.array([0.01, 0.5]), np.array([1.0, 0.5])
    z = np.cumsum(rng.standard_normal((5000, 2)) * np.sqrt(q), 0) + rng.standard_normal((5000, 2)) * np.sqrt(r)
    starts = np.arange(5000) == 0
    P = 0.5 * (q + np.sqrt(q**2 + 4 * q * r))  # predicted variance, from P = P - P^2 / (P + r) + q
    np.testing.assert_allclose(d.fit_local_level(z, starts, ~starts), P / (P + r), rtol=0.25)


@pytest.mark.parametrize("state_dim", [2, 4])
def test_linear_system_comes_near_the_true_one(state_dim):
    """A world of as many states, seen in segments; judged on a part that was not fitted to."""
    world = linear_gaussian_world(2, n_steps=3500, state_dim=state_dim, latent_dim=2)
    z, half = world.z, 2000
    fitted = d.fit_linear_system(z[:half], np.arange(half) % 500 == 0, state_dim)

    def score(system, mean=0.0):
        result = filter(system, torch.from_numpy(z[half:] - mean))
        return d.log_likelihood(result.innovation.numpy(), result.innovation_cov.numpy())[20:].mean()

    memoryless = d.log_likelihood(z[half:] - z.mean(0), np.cov(z.T)).mean()
    true = score(system_of(world))
    assert true - memoryless > 0.1
    assert true - score(fitted, z[:half].mean(0)) < 0.1 * (true - memoryless)


# Memory, drift, coupling


def test_time_constants_and_periods_of_a_known_matrix():
    turn, decay = 2 * np.pi * 0.1 / 1.5, np.exp(-0.1 / 3.0)  # a period of 1.5 s, a time constant of 3 s
    A = np.zeros((3, 3))
    A[:2, :2] = decay * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    A[2, 2] = np.exp(-0.1 / 0.05)
    memory = d._memory(A, 0.1)
    np.testing.assert_allclose(memory.time_constant, [3.0, 3.0, 0.05], rtol=1e-9)
    np.testing.assert_allclose(memory.period, [1.5, 1.5, np.inf], rtol=1e-9)


def test_trend_is_that_of_a_line_and_knows_chance():
    rng, time = np.random.default_rng(9), np.sort(np.random.default_rng(9).uniform(0, 100, 10))
    steady = rng.standard_normal(10)
    slope = np.polyfit(time, steady, 1)[0]
    change, p = d.trend(steady, time)
    assert change == pytest.approx(slope * (time[-1] - time[0]))
    assert p > 0.01
    assert d.trend(steady + 0.1 * time, time)[1] < 0.01
    chance = [d.trend(rng.standard_normal((10, 3)), time, seed=i)[1] for i in range(60)]
    assert np.mean(np.asarray(chance) <= 0.05) < 0.15


def test_coupling_sees_what_units_share_and_not_their_own_rhythms():
    rng, n, units = np.random.default_rng(10), 4000, 12
    own, common = np.zeros((n, units)), np.zeros(n)
    noise = rng.standard_normal((n, units + 1))
    for t in range(1, n):
        own[t] = 0.95 * own[t - 1] + noise[t, :units]
        common[t] = 0.95 * common[t - 1] + noise[t, units]
    seen = rng.standard_normal((n, units))
    fit = np.arange(n) < n // 2
    alone = d.coupling(own / own.std(0) + seen, fit, ~fit, 0.1)
    together = d.coupling(common[:, None] / common.std() + seen, fit, ~fit, 0.1)
    assert abs(alone) < 0.04
    assert together > 0.2


def test_coupling_sees_fast_exchange_too():
    """Unit 1 fires one bin of 10 ms after unit 0, and neither has a memory of its own."""
    rng = np.random.default_rng(11)
    leader = rng.standard_normal(4000)
    x = np.stack([leader, 0.7 * np.concatenate([[0], leader[:-1]]) + rng.standard_normal(4000)], 1)
    fit = np.arange(4000) < 2000
    assert d.coupling(x, fit, ~fit, 0.01) > 0.2


# A model


def shifted(counts: xr.DataArray, seed: int) -> xr.DataArray:
    """Each unit shifted circularly in time by itself."""
    rng, n = np.random.default_rng(100 + seed), counts.sizes["time"]
    columns = [np.roll(column, rng.integers(n // 10, n - n // 10)) for column in counts.to_numpy().T]
    return counts.copy(data=np.stack(columns, 1))


@pytest.fixture(scope="module")
def counts():
    return bin_spikes(linear_track_session(seed=3, n_units=16, duration=330.0, rest=30.0), 0.1, "epochs=run")


@pytest.fixture(scope="module")
def model(counts):
    return LDMFilter(**SMALL).fit(reserve(counts, 0.4))


@pytest.fixture(scope="module")
def diagnosis(model, counts):
    return d.diagnose(model, counts)


def named(diagnosis: d.Diagnosis) -> dict[str, d.Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


def test_recorded_spikes_hold_something_predictive(diagnosis):
    assert diagnosis.predictive
    assert diagnosis.held_out
    assert "never saw" in diagnosis.summary
    assert "Nothing predictive" not in diagnosis.summary
    assert named(diagnosis)["gain over no memory"].value > 0.5
    assert diagnosis.sharing.gain > diagnosis.sharing.surrogate_gain.max()


@pytest.mark.parametrize("seed", range(3))
def test_a_model_trained_on_shifted_spikes_is_told_apart(counts, seed):
    spikes = shifted(counts, seed)
    found = d.diagnose(LDMFilter(**SMALL | {"seed": seed}).fit(reserve(spikes, 0.4)), spikes)
    assert not found.predictive
    assert found.summary.startswith("Nothing predictive was found")
    assert not found.ok


def test_everything_has_a_number_a_threshold_a_reason_a_verdict_and_a_remedy(diagnosis):
    assert len(named(diagnosis)) == len(diagnosis.findings)
    for finding in diagnosis.findings:
        assert np.isfinite(finding.value)
        assert finding.reason
        assert finding.verdict
        assert bool(finding.remedy) is not finding.ok
        assert finding.threshold != (None, None)
    assert diagnosis.ok is all(finding.ok for finding in diagnosis.findings)


def test_it_is_plain_json(diagnosis):
    read = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert [f["name"] for f in read["findings"]] == [f.name for f in diagnosis.findings]
    assert read["units"]["unit"] == list(range(16))
    assert len(read["drift"]["mean_z"]) == len(read["drift"]["start"]) == 10
    assert len(read["consistency"]["nis"]) == len(read["consistency"]["chi2"])
    assert read["rivals"][0]["name"] == "a Gaussian without memory"


def test_likelihoods_are_those_of_the_decoded_innovations(diagnosis, model, counts):
    """By their formula, from the decoded dataset, on bins 2 s away from training."""
    latents = model.decode(counts)
    time = latents["time"].to_numpy()
    trained = time[latents["trained"].to_numpy()]
    after = np.searchsorted(trained, time)
    near = np.minimum(
        np.abs(time - trained[np.minimum(after, len(trained) - 1)]), np.abs(time - trained[np.maximum(after - 1, 0)])
    )
    judged = np.flatnonzero(near > 2.0 + 0.05)
    assert diagnosis.bins == len(judged)
    e, S = latents["innovation"].to_numpy(), latents["innovation_cov"].to_numpy()
    nis = [e[t] @ np.linalg.inv(S[t]) @ e[t] for t in judged]
    logdet = [np.log(np.linalg.det(2 * np.pi * S[t])) for t in judged]
    assert diagnosis.log_likelihood == pytest.approx(-0.5 * (np.mean(nis) + np.mean(logdet)), abs=1e-3)
    assert named(diagnosis)["innovation size"].value == pytest.approx(np.mean(nis) / 3, rel=1e-3)


def test_a_unit_that_is_dropped_costs_what_decoding_without_it_costs(model, counts):
    """The loss of one unit again, through `decode` of counts in which it is NaN."""
    part = counts.isel(time=slice(0, 400))
    bins = d._bins(model, d.check_counts(part), model.decode(part)["trained"].to_numpy())
    bins = dataclasses.replace(bins, judged=np.arange(400) >= 100)
    with torch.no_grad():
        units = d._units(model, bins, 0)
    without = part.astype(float)
    without[:, 5] = np.nan
    # The filter begins as far ahead of the judged bins as the guard says, so that it does here.
    rows = slice(80, 400)
    whole, partial = model.decode(part[rows]), model.decode(without[rows])
    C = model.network_.linear_gaussian().C.numpy()
    z = whole["innovation"].to_numpy() + whole["predicted_mean"].to_numpy() @ C.T
    S = whole["innovation_cov"].to_numpy()
    nis = [
        np.mean([(z[t] - C @ m[t]) @ np.linalg.inv(S[t]) @ (z[t] - C @ m[t]) for t in range(20, 320)])
        for m in (whole["predicted_mean"].to_numpy(), partial["predicted_mean"].to_numpy())
    ]
    assert units.loss[5] == pytest.approx(0.5 * (nis[1] - nis[0]), abs=1e-4)
    assert units.rate[5] == pytest.approx(float(part[rows].mean("time")[5]) / 0.1)


def test_saliency_is_the_gradient(model, counts):
    """Against finite differences of the encoder in one standardised root count."""
    part = torch.from_numpy(counts.to_numpy()[:200].astype(np.float32))
    with torch.no_grad():
        saliency = d._saliency(model, part)
        encoder, step = model.network_.encoder(), 1e-2
        roots = part.sqrt()
        up, down = roots.clone(), roots.clone()
        # Roots may go below zero in the difference: shift the mean instead of the count.
        mean = encoder.input_mean.clone()
        encoder.input_mean[4] = mean[4] - step * encoder.input_scale[4]
        z_up = model.network_.encode(up.square())
        encoder.input_mean[4] = mean[4] + step * encoder.input_scale[4]
        z_down = model.network_.encode(down.square())
        encoder.input_mean.copy_(mean)
    gradient = ((z_up - z_down) / (2 * step)).square().sum(1).mean().sqrt()
    assert saliency[4] == pytest.approx(float(gradient), rel=0.02)


def test_a_filter_of_one_unit_is_named():
    """One unit with a slow rate among units of noise."""
    rng, n = np.random.default_rng(12), 4000
    slow = np.zeros(n)
    noise = rng.standard_normal(n)
    for t in range(1, n):
        slow[t] = 0.97 * slow[t - 1] + 0.25 * noise[t]
    values = rng.poisson(1.0, (n, 6))
    values[:, 2] = rng.poisson(np.exp(1.5 + slow))
    coords = {"time": 0.1 * np.arange(n) + 0.05, "unit": [10, 11, 12, 13, 14, 15]}
    counts = d.check_counts(xr.DataArray(values.astype(np.uint8), coords, ("time", "unit"), attrs={"bin_size": 0.1}))
    found = d.diagnose(LDMFilter(**SMALL | {"latent_dim": 1}).fit(reserve(counts, 0.4)), counts)
    finding = named(found)["largest unit"]
    assert not finding.ok
    assert "unit 12" in finding.verdict
    assert not found.predictive  # a rhythm of one unit is shared by none


def test_units_that_fall_silent_are_a_drift(model, counts):
    rng = np.random.default_rng(13)
    left = np.linspace(1.0, 0.0, counts.sizes["time"])[:, None]
    fading = counts.copy(data=rng.binomial(counts.to_numpy(), left).astype(np.uint8))
    found = named(d.diagnose(model, fading, surrogates=2))
    assert not found["drift of z"].ok
    assert "drifts" in found["drift of z"].verdict


def test_without_reserved_time_it_says_that_it_is_optimistic(counts):
    model = LDMFilter(**SMALL | {"max_steps": 25}).fit(counts)
    found = d.diagnose(model, counts, surrogates=2)
    assert not found.held_out
    assert "optimistic" in found.summary
    assert found.bins == counts.sizes["time"] - 1  # the first bin has no past


def test_another_session_is_judged_too(model, counts):
    found = d.diagnose(model, counts.assign_attrs(checksum="another"), surrogates=2)
    assert found.held_out
    assert 0.3 * counts.sizes["time"] < found.bins < 0.6 * counts.sizes["time"]


def test_missing_bins_and_units_are_passed_over(model, counts):
    holes = counts.astype(float)
    holes[500:620] = np.nan
    holes[:700, 3] = np.nan
    holes[:, 9] = np.nan
    found = d.diagnose(model, holes, surrogates=3)
    assert all(np.isfinite(finding.value) for finding in found.findings)


def test_a_long_recording_is_judged_on_a_part(model, counts, monkeypatch):
    monkeypatch.setattr(d, "MOST_BINS", 2000)
    monkeypatch.setattr(d, "PIECE_BINS", 400)
    monkeypatch.setattr(d, "FIT_BINS", 500)
    part = d._excerpt(d.check_counts(counts), 0)
    assert part.sizes["time"] == 2000
    assert len(np.unique(part["segment"])) > 1  # of several stretches, each a segment
    found = d.diagnose(model, counts, surrogates=2)
    assert d.LEAST_BINS <= found.bins <= 2000


def test_too_little_is_refused_in_one_line(model, counts):
    with pytest.raises(InputError, match="too few to judge") as error:
        d.diagnose(model, counts.isel(time=slice(0, 60)))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="units"):
        d.diagnose(model, counts.isel(unit=slice(0, 4)))
    with pytest.raises(InputError, match="not been fitted"):
        d.diagnose(LDMFilter(), counts)


@pytest.mark.filterwarnings("ignore::ldmfilter.filter.linalg.JitterWarning")
def test_pseudo_observations_that_do_not_vary_are_refused_in_one_line(model, counts):
    dull = copy.deepcopy(model)
    dull.network_.encoder().z_whiten.zero_()
    with pytest.raises(InputError, match="do not vary") as error:
        d.diagnose(dull, counts, surrogates=2)
    assert "\n" not in str(error.value)
