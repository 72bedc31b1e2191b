"""Checks of filters that are right, wrong, and of nothing."""

import copy
import dataclasses
import json
import re
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

from ldmfilter import InputError, LDMFilter, bin_spikes, reserve
from ldmfilter.analysis import judged, measures
from ldmfilter.analysis.checks import (
    CHECKS,
    COUPLING,
    HIDDEN_UNITS,
    QUESTIONS,
    SPIKES_AHEAD,
    Diagnosis,
    Finding,
    check,
    of_signal,
)
from ldmfilter.analysis.statistics import consistency, normalised
from ldmfilter.data.counts import check_counts
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.filter.kalman import filter
from tests.analysis.test_baselines import system_of
from tests.worlds import linear_gaussian_world

SMALL = {
    "latent_dim": 3,
    "max_steps": 75,
    "learning_rate": 0.01,
    "hidden": (32,),
    "window": 2.4,
    "dynamics": "slow",
    "frame": 0.1,
    "batch_size": 16,
}


@lru_cache
def world_of(seed, **more):
    return linear_gaussian_world(seed, **more)


def findings_of(world, **wrong) -> dict[str, Finding]:
    result = filter(system_of(world, **wrong), torch.from_numpy(world.z))
    x = normalised(result.innovation.numpy(), result.innovation_cov.numpy())
    n = len(x)
    c = consistency(x, np.arange(n) >= 20, np.zeros(n, int), 0.1 * np.arange(n), 0.1)
    only = SimpleNamespace(consistency=c, can_refit=False)
    rows = [row for row in CHECKS if row.name.startswith("innovation ")]
    assert len(rows) == 3
    return {row.name: row.judge(only) for row in rows}


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


def forecasts_of(world, size, **wrong):
    n = len(world.z)
    time, yes = size * np.arange(n), np.ones(n, bool)
    segment_starts = np.isin(np.arange(n), [0, 1000])
    bins = judged.Bins(world.z, time, size, segment_starts, yes, yes, np.arange(n) >= 20, True)
    return measures.forecasts(system_of(world, **wrong), world.z, bins, seed=0)


def test_forecasts_of_the_true_system_are_calibrated_at_every_horizon():
    world = world_of(0, n_steps=6000)
    right, wrong = forecasts_of(world, 0.1), forecasts_of(world, 0.1, Q=0.1)
    assert [one.seconds for one in right] == pytest.approx([0.1, 0.5, 1.0])
    assert [one.bins for one in right] == [5979, 5975, 5970]
    for one, other in zip(right, wrong, strict=True):
        assert one.coverage == pytest.approx(0.95, abs=0.015)
        assert one.size == pytest.approx(1, abs=0.1)
        assert other.coverage < 0.9
    short = forecasts_of(world, 0.5)
    assert [one.bins > 0 for one in short] == [False, True, True]
    assert np.isnan(short[0].coverage)
    assert [one.seconds for one in forecasts_of(world, 2.0)] == [2.0]


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
    return check(model, counts)


def named(diagnosis: Diagnosis) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnosis.findings}


def test_recorded_spikes_hold_something_predictive(diagnosis):
    assert diagnosis.predictive
    assert diagnosis.held_out
    assert "never saw" in diagnosis.summary
    assert "Nothing predictive" not in diagnosis.summary
    assert named(diagnosis)["predictive information"].value > 0.5
    assert diagnosis.sharing.coupling > diagnosis.sharing.surrogate_coupling.max()


@pytest.mark.parametrize("seed", range(2))
def test_a_model_trained_on_shifted_spikes_is_told_apart(counts, seed):
    spikes = shifted(counts, seed)
    found = check(LDMFilter(**SMALL | {"seed": seed}).fit(reserve(spikes, 0.4)), spikes)
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
        assert "--" not in finding.remedy
        assert finding.threshold != (None, None)
    assert diagnosis.ok is all(finding.ok for finding in diagnosis.findings)


def test_every_text_of_the_table_can_be_made(diagnosis):
    for row in CHECKS:
        limits = [limit for limit in (row.low, row.high) if limit]
        assert limits
        for text in (row.reason, row.fine, *(part for limit in limits for part in limit[1:])):
            made = text.format(value=1.0, low=0.5, high=2.0, p=0.5, m=diagnosis, refit="--refit, ")
            assert made
            assert "{" not in made


def test_the_table_is_in_the_order_of_the_three_questions(diagnosis):
    questions = [finding.question for finding in diagnosis.findings]
    assert list(dict.fromkeys(questions)) == list(QUESTIONS)
    assert questions == sorted(questions, key=QUESTIONS.index)


def test_a_coupling_that_is_not_seen_is_a_doubt_where_hidden_units_are_told():
    row = next(row for row in CHECKS if row.name == COUPLING)
    for hidden, coupling, sign in ((0.5, 0.1, "ok~"), (-0.1, 0.1, "!!"), (0.5, 0.3, "ok"), (-0.1, 0.3, "ok")):
        sharing = SimpleNamespace(coupling=coupling, surrogate_coupling=np.array([0.1, 0.12, 0.14]))
        measured = SimpleNamespace(sharing=sharing, spikes=SimpleNamespace(hidden=hidden), can_refit=False)
        assert row.judge(measured).sign == sign


@pytest.mark.parametrize("name", [SPIKES_AHEAD, HIDDEN_UNITS])
@pytest.mark.parametrize("signal", [False, True])
def test_the_summary_says_why_nothing_was_found(diagnosis, name, signal):
    wrong = [dataclasses.replace(one, ok=one.name != name, verdict=f"about {one.name}") for one in diagnosis.findings]
    if signal:
        wrong = [dataclasses.replace(one, name=of_signal(one.name)) for one in wrong]
    found = dataclasses.replace(diagnosis, findings=tuple(wrong), signal=signal)
    assert not found.predictive
    assert found.summary.startswith(f"Nothing predictive was found: about {name}. ")


def test_numbers_and_shares_are_written_alike(diagnosis):
    """Without exponents, and with a space before each percent sign."""
    slowest = dataclasses.replace(named(diagnosis)["slowest state"], value=1234.5, threshold=(None, 1968.1))
    assert (slowest.number, slowest.wanted) == ("1234", "<= 1968")
    assert dataclasses.replace(slowest, value=-999.7).number == "-1000"
    assert not any(re.search(r"\d%", one.verdict + one.reason) for one in diagnosis.findings)
    assert any(re.search(r"\d %", one.verdict) for one in diagnosis.findings)


def test_it_is_plain_json(diagnosis):
    read = json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False))
    assert [f["name"] for f in read["findings"]] == [f.name for f in diagnosis.findings]
    assert read["units"]["unit"] == list(range(16))
    assert len(read["drift"]["mean_z"]) == len(read["drift"]["start"]) == 10
    assert len(read["consistency"]["nis"]) == len(read["consistency"]["chi2"])
    assert read["baselines"][0]["name"] == "a Gaussian without memory"


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
    assert 0.1 * diagnosis.log_likelihood == pytest.approx(-0.5 * (np.mean(nis) + np.mean(logdet)), abs=1e-3)
    assert named(diagnosis)["innovation size"].value == pytest.approx(np.mean(nis) / 3, rel=1e-3)


def test_a_unit_that_is_dropped_costs_what_decoding_without_it_costs(model, counts):
    """The loss of one unit again, through `decode` of counts in which it is NaN."""
    part = counts.isel(time=slice(0, 400))
    bins = judged.bins_of(check_counts(part), model.decode(part)["trained"].to_numpy(), model.trained_spans_)
    bins = dataclasses.replace(bins, judged=np.arange(400) >= 100)
    with torch.no_grad():
        units = measures.unit_importance(model, bins, 0)
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
    assert 0.1 * units.loss[5] == pytest.approx(0.5 * (nis[1] - nis[0]), abs=1e-4)  # nats a second
    assert units.rate[5] == pytest.approx(float(part[rows].mean("time")[5]) / 0.1)


def test_saliency_is_the_gradient(model, counts):
    """Against finite differences of the encoder in one standardised root count."""
    part = torch.from_numpy(counts.to_numpy()[:200].astype(np.float32))
    with torch.no_grad():
        saliency = measures.saliency(model, part)
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
    counts = check_counts(xr.DataArray(values.astype(np.uint8), coords, ("time", "unit"), attrs={"bin_size": 0.1}))
    found = check(LDMFilter(**SMALL | {"latent_dim": 1}).fit(reserve(counts, 0.4)), counts)
    finding = named(found)["largest unit"]
    assert not finding.ok
    assert "unit 12" in finding.verdict
    assert not found.predictive  # a rhythm of one unit is shared by none


def test_units_that_fire_more_and_more_are_a_drift(model, counts):
    """Every other unit has spikes besides, which grow in number."""
    growing = 2 * np.linspace(0.0, 1.0, counts.sizes["time"])[:, None] * (np.arange(counts.sizes["unit"]) % 2 == 0)
    more = counts.copy(data=counts.to_numpy() + np.random.default_rng(13).poisson(growing).astype(np.uint8))
    found = named(check(model, more, surrogates=2))
    assert not found["drift of z"].ok
    assert "drifts" in found["drift of z"].verdict


def test_units_that_fall_silent_are_a_drift(model, counts):
    spoken = np.linspace(0.0, 1.0, counts.sizes["time"])[:, None] < 0.3
    silent = counts.copy(data=np.where(spoken, counts.to_numpy(), 0).astype(np.uint8))
    found = named(check(model, silent, surrogates=2))
    assert not found["drift of the innovations"].ok
    assert "drifts" in found["drift of the innovations"].verdict


def test_without_reserved_time_it_says_that_it_is_optimistic(counts):
    model = LDMFilter(**SMALL | {"max_steps": 25}).fit(counts)
    found = check(model, counts, surrogates=2)
    assert not found.held_out
    assert "optimistic" in found.summary
    assert found.bins == counts.sizes["time"] - 1  # the first bin has no past


def test_another_session_is_judged_too(model, counts):
    found = check(model, counts.assign_attrs(checksum="another"), surrogates=2)
    assert found.held_out
    assert 0.3 * counts.sizes["time"] < found.bins < 0.6 * counts.sizes["time"]


def test_missing_bins_and_units_are_passed_over(model, counts):
    holes = counts.astype(float)
    holes[500:620] = np.nan
    holes[:700, 3] = np.nan
    holes[:, 9] = np.nan
    found = check(model, holes, surrogates=3)
    assert all(np.isfinite(finding.value) for finding in found.findings)


def test_a_long_recording_is_judged_on_a_part(model, counts, monkeypatch):
    monkeypatch.setattr(judged, "MOST_BINS", 2000)
    monkeypatch.setattr(measures, "PIECE_BINS", 400)
    monkeypatch.setattr(measures, "FIT_BINS", 500)
    part = judged.excerpt(check_counts(counts), 0)
    assert part.sizes["time"] == 2000
    assert len(np.unique(part["segment"])) > 1  # of several stretches, each a segment
    found = check(model, counts, surrogates=2)
    assert judged.LEAST_BINS <= found.bins <= 2000


def test_too_little_is_refused_in_one_line(model, counts):
    with pytest.raises(InputError, match="too few to judge") as error:
        check(model, counts.isel(time=slice(0, 60)))
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="units"):
        check(model, counts.isel(unit=slice(0, 4)))
    with pytest.raises(InputError, match="not been fitted"):
        check(LDMFilter(), counts)
    with pytest.raises(InputError, match="model is 'runs/one'; give a fitted LDMFilter"):
        check("runs/one", counts)


@pytest.mark.filterwarnings("ignore::ldmfilter.filter.linalg.JitterWarning")
def test_pseudo_observations_that_do_not_vary_are_refused_in_one_line(model, counts):
    dull = copy.deepcopy(model)
    dull.network_.encoder().z_whiten.zero_()
    with pytest.raises(InputError, match="do not vary") as error:
        check(dull, counts, surrogates=2)
    assert "\n" not in str(error.value)
