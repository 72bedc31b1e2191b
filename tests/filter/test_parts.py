"""A filter of slow and fast states: two parts, each an encoder and a Kalman filter, whose states lie side by side."""

import copy
import json
from collections.abc import Iterator

import numpy as np
import pytest
import torch
import xarray as xr

from ldmfilter import OnlineFilter
from ldmfilter.analysis.behavior_ahead import widths_at_lags
from ldmfilter.config import FilterConfig
from ldmfilter.data.counts import check_counts
from ldmfilter.errors import InputError
from ldmfilter.filter.batches import Judged
from ldmfilter.filter.candidates import BOTH, share
from ldmfilter.filter.decode import decode_blocks
from ldmfilter.filter.finish import _filtered, covariance_scale
from ldmfilter.filter.fit import Fit
from ldmfilter.filter.forecast import lag_note
from ldmfilter.filter.model import LDMFilter, load
from ldmfilter.filter.spikes_ahead import SpikesAhead
from ldmfilter.filter.training import Training, side_by_side
from tests.filter.test_candidates import TINY, better, failing
from tests.filter.test_training import same

SHARED = TINY | {"latent_dim": 13, "restarts": 1}
ORDER = ("slow", "fast", "slow 2", "fast 2")

pytestmark = pytest.mark.usefixtures("short_trainings")


@pytest.fixture(scope="module", autouse=True)
def both_lead() -> Iterator[None]:
    """States side by side predict spikes best, so that both parts are kept."""
    own = Fit.spikes_ahead

    def found(fit, each):
        one = own(fit, each)
        more = float(each[0][0].shape[1] == SHARED["latent_dim"])
        return SpikesAhead(one.value + more, one.blocks + more / len(one.blocks))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fit, "spikes_ahead", found)
        yield


@pytest.fixture(scope="module")
def undisturbed(few, short_trainings) -> tuple[Training, list, list]:
    """A training, its records, and its state after each."""
    training = Training(FilterConfig(**SHARED), few)
    after = [(record, copy.deepcopy(training.state())) for record in training.run()]
    return training, [record for record, _ in after], [state for _, state in after]


@pytest.fixture(scope="module")
def model(few, undisturbed) -> LDMFilter:
    return LDMFilter(**SHARED)._take(undisturbed[0])


def same_parts(one: Training, other: Training) -> bool:
    pairs = zip(one.parts, other.parts, strict=True)
    return all(str(a[0]) == str(b[0]) and same(a[1], b[1]) for a, b in pairs)


def test_dimensions_are_shared_out():
    config = FilterConfig(latent_dim=13, state_dim=16)
    parts = [share(config, part) for part in (0, 1)]
    assert [(one.latents, one.states) for one in parts] == [(7, 8), (6, 8)]


def test_each_part_keeps_its_own_best(undisturbed):
    training, records, _ = undisturbed
    names = list(dict.fromkeys(record.candidate for record in records))
    assert names == list(ORDER)
    assert [one.name.split()[0] for one, _ in training.parts] == ["slow", "fast"]
    for kept, network in training.parts:
        own = [one for one in training.trained[:-1] if one.name.split()[0] == kept.name.split()[0]]
        best = own[0]
        for one in own[1:]:
            best = better(one, best)
        assert str(kept) == str(best)
        assert len(network["gauge"]) == {"slow": 7, "fast": 6}[kept.name.split()[0]]
    both = training.trained[-1]
    assert both is training.kept
    assert both.name == BOTH
    best_alone = max(kept.bits_per_spike for kept, _ in training.parts)
    assert both.lead[0] == pytest.approx(both.bits_per_spike - best_alone)
    assert training.step == training.steps == 32
    kept_steps = [(kept.name, kept.kept_step) for kept, _ in training.parts]
    assert [(one.candidate, one.step) for one in training.kept_records] == kept_steps


@pytest.mark.parametrize("stop_after", [2, 4, 5, 8, 12])
def test_resumed_equals_undisturbed(few, undisturbed, stop_after):
    """Stopped in each candidate, between two, and at the end."""
    whole, records, states = undisturbed
    tensors, values = states[stop_after - 1]
    second = Training(whole.config, few)
    second.restore(tensors, json.loads(json.dumps(values)))
    torch.rand(5)
    assert str(list(second.run())) == str(records[stop_after:])
    assert str(second.trained) == str(whole.trained)
    assert str(second.kept) == str(whole.kept)
    assert same_parts(second, whole)
    assert same(second.state()[0], whole.state()[0])


@pytest.mark.parametrize(("fails", "kept"), [({"slow", "slow 2"}, "fast"), ({"fast", "fast 2"}, "slow")])
def test_where_one_part_fails_the_other_is_the_filter(few, monkeypatch, tmp_path, fails, kept):
    failing(monkeypatch, fails)
    training = Training(FilterConfig(**SHARED), few)
    list(training.run())
    assert [one.name.split()[0] for one, _ in training.parts] == [kept]
    again = Training(training.config, few)
    tensors, values = training.state()
    again.restore(tensors, json.loads(json.dumps(values)))
    assert again.ended
    assert same_parts(again, training)
    LDMFilter(**SHARED)._take(again).save(tmp_path)
    latents = load(tmp_path).decode(few)
    assert latents.sizes["state"] == {"slow": 7, "fast": 6}[kept]
    assert "dynamics" not in latents


def test_a_part_that_failed_first_comes_from_other_first_weights(few, monkeypatch):
    failing(monkeypatch, {"slow"})
    training = Training(FilterConfig(**SHARED), few)
    list(training.run())
    assert next(one.name for one, _ in training.parts) == "slow 2"
    assert training.kept.name == BOTH


def test_slow_states_beside_fast_ones_are_split(few, undisturbed, model):
    """As many are handed out as there were, with covariances of the split filter."""
    training, *_ = undisturbed
    (_, slow), (_, fast) = training.parts
    assert len(slow["system_A"]) == 2 * len(slow["gauge"]) == 14
    assert "system_A" not in fast
    latents, own = model.decode(few), model.parts[0].network_.linear_gaussian()
    assert (own.C.shape, own.A.shape) == ((7, 14), (14, 14))
    mean, cov = (latents[f"filtered_{name}"].to_numpy()[:, :7] for name in ("mean", "cov"))
    marginal = np.cov(mean[np.isfinite(mean).all(1)].T) + np.nanmean(cov[:, :, :7], 0)
    np.testing.assert_allclose(marginal, np.eye(7), atol=0.1)
    fit = training._fit(training._kept["slow"].number)
    network = fit._network_of(slow | {"covariance_scale": torch.ones(())})
    with torch.no_grad():
        filtered = _filtered(network, fit._stretches)
    size = covariance_scale(filtered, np.concatenate([one.held for one in fit._stretches]))
    assert float(slow["covariance_scale"]) == pytest.approx(size, rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "is_split"), [({}, True), ({"refit": True}, False), ({"dynamics": "slow"}, False)]
)
def test_slow_states_alone_and_refitted_ones_are_not_split(few, settings, is_split):
    training = Training(FilterConfig(**SHARED | {"restarts": 0, "max_steps": 2, "refit": False} | settings), few)
    list(training.run())
    C = training.parts[0][1].get("system_C", torch.eye(2))
    assert torch.equal(*C.tensor_split(2, dim=1)) == is_split


def test_states_lie_side_by_side(model, few):
    latents = model.decode(few, smooth=True, ahead=0.5, lag=0.7)
    slow, fast = (part.decode(few, smooth=True, ahead=[0.5], lag=0.7) for part in model.parts)
    assert latents["dynamics"].to_numpy().tolist() == ["slow"] * 7 + ["fast"] * 6
    assert [one.attrs["lag"] for one in (latents, slow, fast)] == pytest.approx([0.7, 0.5, 0.7])
    assert lag_note(model, 0.7) == "a lag of 0.7 s in whole frames is 0.5 s for slow states, 0.7 s for fast states"
    assert lag_note(model, 1.0) == ""
    for name in ("filtered", "smoothed", "predicted", "ahead", "lagged"):
        mean, cov = latents[f"{name}_mean"], latents[f"{name}_cov"]
        np.testing.assert_array_equal(mean[..., :7], slow[f"{name}_mean"])
        np.testing.assert_array_equal(mean[..., 7:], fast[f"{name}_mean"])
        np.testing.assert_array_equal(cov[..., :7, :7], slow[f"{name}_cov"])
        np.testing.assert_array_equal(cov[..., 7:, 7:], fast[f"{name}_cov"])
        assert not cov[..., :7, 7:].any()
        assert not cov[..., 7:, :7].any()
    np.testing.assert_array_equal(latents["innovation"], np.concatenate([slow["innovation"], fast["innovation"]], 1))
    np.testing.assert_array_equal(latents["ci"], np.concatenate([slow["ci"], fast["ci"]], 1))
    pieces = list(decode_blocks(model, few, lag=0.7, block=300))
    whole = xr.concat([piece["lagged_mean"] for piece in pieces], "time")
    np.testing.assert_allclose(whole, latents["lagged_mean"], atol=1e-6)


def test_a_saved_filter_of_both_is_the_same(model, few, tmp_path):
    model.save(tmp_path)
    again = load(tmp_path)
    assert (again.model_id_, again.frame_) == (model.model_id_, model.frame_)
    assert str(again.kept_) == str(model.kept_)
    assert str([part.kept_record_ for part in again.parts]) == str([part.kept_record_ for part in model.parts])
    np.testing.assert_array_equal(again.transform(few), model.transform(few))


def test_a_lag_below_the_slow_frame_is_one_of_fast_states(model, few):
    latents = model.decode(few, lag=0.3)
    slow, fast = (latents["dynamics"].to_numpy() == name for name in ("slow", "fast"))
    assert latents.attrs["lag"] == pytest.approx(0.3)
    np.testing.assert_array_equal(latents["lagged_mean"][:, slow], latents["filtered_mean"][:, slow])
    np.testing.assert_array_equal(latents["lagged_cov"][:, slow], latents["filtered_cov"][:, slow])
    expected = model.parts[1].decode(few, lag=0.3)["lagged_mean"]
    np.testing.assert_array_equal(latents["lagged_mean"][:, fast], expected)
    assert not np.array_equal(expected, latents["filtered_mean"][:, fast])
    with pytest.raises(InputError, match=r"lag is 0.09 s, but this filter looks at frames of 0.1 s"):
        model.decode(few, lag=0.09)


def test_intervals_grow_narrower_with_the_lag_of_slow_states_from_their_frame_on(model, few):
    found = widths_at_lags(model, few)
    assert list(found) == ["slow states", "fast states"]
    slow, fast = ([row["width"] for row in rows] for rows in found.values())
    assert [row["lag"] for row in found["slow states"]] == pytest.approx([0, 0.1, 0.2, 0.5, 1, 2, None])
    assert slow[0] == slow[1] == slow[2] > slow[3] > slow[4]
    assert (np.diff(fast[:4]) < 0).all()
    latents = model.decode(few, lag=0.2)
    ci = latents["lagged_ci"].sel(state=latents["dynamics"] == "fast", time=latents["observed"])
    assert fast[2] == pytest.approx(float((ci[..., 1] - ci[..., 0]).mean()), rel=1e-4)


@pytest.mark.parametrize("lag", [None, 0.3, 0.5, 0.7])
def test_online_equals_offline(model, few, lag):
    """With gaps, and segments of which one is shorter than a slow frame and than the lag."""
    counts = few[:200].copy(deep=True)
    counts["observed"][90:99] = False
    segment = np.repeat([0, 1, 2], [50, 3, 147]).astype(np.int32)
    counts = counts.assign_coords(segment=("time", segment))
    latents = model.decode(counts, ahead=[1.0], lag=lag)
    online = OnlineFilter(model, lag)
    given = []
    for i, (row, seen) in enumerate(zip(counts.to_numpy(), counts["observed"].to_numpy(), strict=True)):
        if i in (50, 53):
            given += online.flush()
        given.append(online.step(row if seen else None))
        if lag:
            assert online.lag_bins == round(10 * lag)
            assert (given[-1] is None) == (online.bins <= online.lag_bins)
        if i == 120:
            state = json.loads(json.dumps({k: np.asarray(v).tolist() for k, v in online.state().items()}))
            online = OnlineFilter(model, lag)
            online.restore(state)
            mean, cov = online.ahead(1.0)
            np.testing.assert_allclose(mean, latents["ahead_mean"][0, 120], atol=1e-5)
            np.testing.assert_allclose(cov, latents["ahead_cov"][0, 120], atol=1e-5)
    given = [one for one in given if one is not None] + (online.flush() if lag else [])
    name = "lagged" if lag else "filtered"
    np.testing.assert_allclose(np.stack([mean for mean, _ in given]), latents[f"{name}_mean"], atol=1e-5)
    np.testing.assert_allclose(np.stack([cov for _, cov in given]), latents[f"{name}_cov"], atol=1e-5)


def test_a_further_session_gets_an_encoder_in_each_part(model, counts):
    other = check_counts(counts[700:1300]).assign_attrs(checksum="another", path="other.nwb")
    grown = model._keep([0])
    grown.add(other)
    assert len(grown.sessions_) == 2
    for part, before in zip(grown.parts, model.parts, strict=True):
        assert len(part.network_.encoders) == 2
        assert same(part.network_.dynamics.state_dict(), before.network_.dynamics.state_dict())
    first = grown.of(0)
    assert first.model_id_ == model.model_id_
    assert grown.of("other.nwb").decode(other).sizes["state"] == 13


def test_bins_that_both_parts_judge():
    def judged(bins):
        bins = np.asarray(bins)
        return np.stack([bins, -bins], 1).astype(float), Judged(
            bins, torch.zeros(len(bins), 1), 10.0 * bins[:, None], bins > 0, bins // 3
        )

    states, shared = side_by_side([judged([0, 1, 2, 5]), judged([1, 2, 4, 5])])
    assert shared.bins.tolist() == [1, 2, 5]
    assert shared.counts.ravel().tolist() == [10, 20, 50]
    np.testing.assert_array_equal(states, [[1, -1, 1, -1], [2, -2, 2, -2], [5, -5, 5, -5]])


@pytest.mark.parametrize(
    ("lead", "kept"), [((-0.02, 0.01), ["fast"]), ((-0.005, 0.01), ["fast"]), ((0.005, 0.01), ["slow", "fast"])]
)
def test_a_part_that_leads_is_kept_alone(few, monkeypatch, tmp_path, lead, kept):
    """Two blocks of bits, whose difference from those of fast states has this sum and this standard error."""
    both = 1.0 + np.array([lead[0] - lead[1], lead[0] + lead[1]]) / 2
    blocks = {"slow": np.zeros(2), "fast": np.ones(2)}

    def found(one, each):
        size = each[0][0].shape[1]
        own = both if size == 13 else blocks[one.candidate.name]
        return SpikesAhead(float(own.sum()), own)

    monkeypatch.setattr(Fit, "spikes_ahead", found)
    training = Training(FilterConfig(**SHARED | {"restarts": 0, "max_steps": 2, "refit": False}), few)
    list(training.run())
    assert training.trained[-1].lead == pytest.approx(lead)
    assert [one.name for one, _ in training.parts] == kept
    assert training.kept.name == (BOTH if len(kept) > 1 else "fast")
    assert ("system_A" in training.parts[0][1]) == (len(kept) > 1)  # a part that is kept alone is not split
    again = Training(training.config, few)
    tensors, values = training.state()
    again.restore(tensors, json.loads(json.dumps(values)))
    assert same_parts(again, training)
    LDMFilter(**SHARED, refit=False)._take(again).save(tmp_path)
    assert load(tmp_path).decode(few).sizes["state"] == (13 if len(kept) > 1 else 6)
