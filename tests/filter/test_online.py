"""One bin at a time gives what decoding the whole recording gives."""

import json

import numpy as np
import pytest
import torch
import xarray as xr

from ldmfilter.data.counts import check_counts
from ldmfilter.errors import InputError
from ldmfilter.filter.decode import decode_blocks
from ldmfilter.filter.model import LDMFilter, load
from ldmfilter.filter.online import OnlineFilter
from tests.filter.conftest import SMALL
from tests.filter.reference import loop


@pytest.fixture
def online(fitted) -> OnlineFilter:
    return OnlineFilter(fitted)


def run(online: OnlineFilter, bins) -> tuple[np.ndarray, np.ndarray]:
    """Means and covariances of every bin."""
    means, covs = zip(*(online.step(bin) for bin in bins), strict=True)
    return np.array(means), np.array(covs)


def with_gaps(counts: xr.DataArray) -> tuple[xr.DataArray, list]:
    """Counts with missing bins (the first, single ones, a long stretch) and what `step` gets for them."""
    observed = np.ones(counts.sizes["time"], bool)
    observed[[0, 7, 900, 902]] = False
    observed[1200:1300] = False
    values = counts.to_numpy()
    return counts.assign_coords(observed=("time", observed)), [
        row if seen else None for row, seen in zip(values, observed, strict=True)
    ]


def test_equal_to_decoding_offline(fitted, online, counts):
    labelled, bins = with_gaps(counts)
    latents = fitted.decode(labelled)
    mean, cov = run(online, bins)
    np.testing.assert_allclose(mean, latents["filtered_mean"], atol=1e-6)
    np.testing.assert_allclose(cov, latents["filtered_cov"], atol=1e-6)


def test_a_linear_encoder_has_no_hidden_layer(counts, tmp_path):
    """Pseudo-observations are then linear in the roots of counts, and all else is as with layers."""
    model = LDMFilter(**SMALL | {"hidden": (), "max_steps": 4}).fit(counts[:400])
    model.save(tmp_path / "model")
    means, _ = run(OnlineFilter(load(tmp_path / "model")), counts[:50].to_numpy())
    np.testing.assert_allclose(means, model.decode(counts[:50])["filtered_mean"], atol=1e-4)
    roots = torch.randn(3, counts.shape[1])
    middle = model.network_.encoder(0).eval().raw(roots.mean(0, keepdim=True))
    torch.testing.assert_close(middle, model.network_.encoder(0).raw(roots).mean(0, keepdim=True))


def test_a_bin_in_which_no_unit_was_observed_is_missing_in_decoding_too(fitted, online, counts):
    seen = np.ones(counts.shape, bool)
    seen[100:120] = False
    latents = fitted.decode(counts.assign_coords(unit_observed=(("time", "unit"), seen)))
    assert np.flatnonzero(~latents["observed"]).tolist() == list(range(100, 120))
    mean, _ = run(online, np.where(seen, counts.to_numpy(), np.nan))
    np.testing.assert_allclose(mean, latents["filtered_mean"], atol=1e-6)


def test_equal_to_the_plain_loop_in_float64(fitted, online, counts):
    """Tighter than the offline states' float32 allows: the steady gain takes over and leaves no trace."""
    labelled, bins = with_gaps(counts)
    with torch.no_grad():
        z = fitted.network_.encode(torch.from_numpy(counts.to_numpy().astype(np.float32))).double().numpy()
        model = [v.numpy() for v in fitted.network_.linear_gaussian()]
        fitted.network_.float()
    observed = labelled["observed"].to_numpy()
    expected = loop(*model, z, observed, np.zeros(len(z), bool))
    mean, cov = run(online, bins)
    assert all(one.steady for one in online._parts[0]._last)
    np.testing.assert_allclose(cov, expected[3], atol=1e-11)
    np.testing.assert_allclose(mean, expected[2], atol=1e-6)


def test_units_that_are_not_observed_enter_as_their_mean(fitted, online, counts):
    seen = np.random.default_rng(0).random(counts.shape) > 0.3
    seen[40] = False
    labelled = counts.assign_coords(unit_observed=(("time", "unit"), seen), observed=("time", seen.any(1)))
    mean, cov = run(online, np.where(seen, counts.to_numpy().astype(float), np.nan))
    latents = fitted.decode(labelled)
    np.testing.assert_allclose(mean, latents["filtered_mean"], atol=1e-6)
    np.testing.assert_allclose(cov, latents["filtered_cov"], atol=1e-6)


def test_reset_starts_a_new_segment(online, counts):
    bins = counts.to_numpy()[:30]
    first = run(online, bins)
    assert online.bins == 30
    online.reset()
    assert online.bins == 0
    for one, other in zip(first, run(online, bins), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_missing_first_bin_is_the_prior(fitted, online):
    mean, cov = online.step(None)
    dynamics = fitted.network_.linear_gaussian()
    np.testing.assert_array_equal(mean, 0)
    np.testing.assert_allclose(cov, dynamics.P0.detach(), atol=1e-6)


@pytest.mark.parametrize("nothing", [[None] * 16, np.full(16, np.nan)])
def test_all_units_unobserved_is_a_missing_bin(fitted, counts, nothing):
    a, b = OnlineFilter(fitted), OnlineFilter(fitted)
    bins = list(counts.to_numpy()[:5])
    for one, two in zip(run(a, [*bins, nothing]), run(b, [*bins, None]), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("after", [0, 5, 1500])
def test_a_saved_state_goes_on_as_if_nothing_had_happened(fitted, online, counts, tmp_path, after):
    bins = counts.to_numpy()
    run(online, bins[:after]) if after else None
    state = online.state()
    np.savez(tmp_path / "state.npz", **state)
    text = json.dumps({k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in state.items()})
    expected = run(online, bins[after : after + 20])
    for saved in (json.loads(text), np.load(tmp_path / "state.npz"), state):
        other = OnlineFilter(fitted)
        other.restore(saved)
        for one, two in zip(expected, run(other, bins[after : after + 20]), strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_id": "0123"}, "of model 0123, but this is"),
        ({"mean": [0.0]}, r"mean \(1,\)"),
        ({"mean": [[np.nan] * 4]}, "NaN or infinity"),
        ({"cov": [-np.eye(4)]}, "not symmetric and positive semidefinite"),
        ({"cov": [np.eye(4) + np.eye(4, k=1)]}, "not symmetric"),
        ({"cov": [np.eye(4) * 1.7e308]}, "NaN or infinity"),  # a step from it would be
        ({"mean": [[0.0] * 4] * 2}, r"mean \(2, 4\)"),
        ({"recent": [[0.0] * 15]}, r"recent \(1, 15\)"),
        ({"recent": [[np.inf] * 16]}, "NaN or infinity"),
        ({"bins": "many"}, "incomplete or damaged"),
    ],
)
def test_a_state_that_cannot_be_used_is_refused(online, counts, change, message):
    online.step(counts.to_numpy()[0])
    before = online.state()
    with pytest.raises(InputError, match=message):
        online.restore({**before, **change})
    with pytest.raises(InputError, match="incomplete or damaged"):
        online.restore({})
    np.testing.assert_equal(online.state(), before)


def test_counts_that_cannot_be_used_are_refused_and_change_nothing(online, counts):
    bin = counts.to_numpy()[0].astype(float)
    online.step(bin)
    before = online.state()
    unit = online.unit_ids[3]
    for value, shown in ((-1.0, "-1"), (np.inf, "inf"), (0.5, "0.5"), (1e300, r"1e\+300")):
        wrong = bin.copy()
        wrong[3] = value
        with pytest.raises(InputError, match=f"unit {unit} has {shown}; give whole numbers of 0 or more"):
            online.step(wrong)
    with pytest.raises(InputError, match="15 counts, but the model has 16 units"):
        online.step(bin[:-1])
    with pytest.raises(InputError, match=r"shape \(1, 16\)"):
        online.step(bin[None])
    for wrong in ("three", [[1], [2, 3]], ["x"] * 16):
        with pytest.raises(InputError, match="not all are numbers"):
            online.step(wrong)
    np.testing.assert_equal(online.state(), before)


def test_states_are_the_callers_own(online, counts):
    bins = counts.to_numpy()[:50]
    expected = run(online, bins)
    online.reset()
    kept = []
    for bin in bins:
        mean, cov = online.step(bin)
        kept.append((mean.copy(), cov.copy()))
        mean[:], cov[:] = np.nan, np.nan
    np.testing.assert_array_equal(np.array([m for m, _ in kept]), expected[0])
    np.testing.assert_array_equal(np.array([c for _, c in kept]), expected[1])


def test_the_model_is_read_once(fitted, counts):
    model = LDMFilter(**fitted.get_params())
    vars(model).update({k: v for k, v in vars(fitted).items() if k.endswith("_")})
    model._set_network({k: v.clone() for k, v in fitted.network_.state_dict().items()})
    online, bins = OnlineFilter(model), counts.to_numpy()[:5]
    expected = run(OnlineFilter(fitted), bins)[0]
    with torch.no_grad():
        for parameter in model.network_.parameters():
            parameter.zero_()
    np.testing.assert_array_equal(run(online, bins)[0], expected)


def test_a_model_without_training_is_refused():
    with pytest.raises(InputError, match="has not been fitted"):
        OnlineFilter(LDMFilter())


@pytest.mark.parametrize(
    ("lag", "message"),
    [("x", "lag is 'x'; give a number of seconds"), (1e9, r"lag is 1e\+09 s, and at most 10,000 bins.*give 1000 s or")],
)
def test_a_lag_that_cannot_be_waited_for_is_refused(fitted, online, lag, message):
    with pytest.raises(InputError, match=message):
        OnlineFilter(fitted, lag)
    with pytest.raises(InputError, match="ahead is 'x'"):
        online.ahead("x")


# Frames of several bins


def bins_of(counts: xr.DataArray) -> np.ndarray:
    """What `step` takes: NaN where a unit was not observed."""
    values = counts.to_numpy().astype(float)
    values[~counts["unit_observed"].to_numpy() | ~counts["observed"].to_numpy()[:, None]] = np.nan
    return values


def run_segments(online: OnlineFilter, counts: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """The states of all bins, with a `reset` before each segment."""
    parts, segment = [], counts["segment"].to_numpy()
    for number in np.unique(segment):
        online.reset()
        parts.append(run(online, bins_of(counts)[segment == number]))
    return np.concatenate([m for m, _ in parts]), np.concatenate([P for _, P in parts])


def test_frames_online_are_those_of_decoding(frames):
    model, counts = frames
    assert model.frame_bins_ > 1
    latents = model.decode(counts)
    assert 0 < latents["observed"].sum() < len(counts)
    mean, cov = run_segments(OnlineFilter(model), counts)
    np.testing.assert_allclose(mean, latents["filtered_mean"], atol=1e-5)
    np.testing.assert_allclose(cov, latents["filtered_cov"], atol=1e-5)


def test_a_frame_in_which_no_unit_was_seen_for_half_of_it_is_missing(frames):
    """The bins of the frame are observed, each by other units: online and offline take it for missing alike."""
    model, counts = frames
    counts, k = counts[:40], model.frame_bins_
    seen = np.zeros(counts.shape, bool)
    seen[np.arange(40), np.arange(40) % 8] = True
    values = np.where(seen, 1.0, np.nan)
    few = check_counts(counts.drop_vars(["unit_observed", "observed", "segment"]).copy(data=values))
    latents = model.decode(few)
    assert not latents["observed"][k - 1 :].any()
    mean, cov = run(OnlineFilter(model), values)
    np.testing.assert_allclose(mean, latents["filtered_mean"], atol=1e-5)
    np.testing.assert_allclose(cov, latents["filtered_cov"], atol=1e-5)


def test_frames_decoded_in_pieces_are_those_of_the_whole(frames):
    model, counts = frames
    asked = {"ahead": [3 * model.frame_, model.frame_], "lag": 2.5 * model.frame_}
    for block, n in ((1, 16), (7, 70), (100, 260)):
        pieces = list(decode_blocks(model, counts[:n], block=block, **asked))
        assert {piece.sizes["time"] for piece in pieces[:-1]} == {block}
        together = xr.concat(pieces, "time", data_vars="minimal", coords="minimal")
        for name, whole in model.decode(counts[:n], **asked).data_vars.items():
            assert together[name].dims == whole.dims
            np.testing.assert_allclose(together[name], whole, atol=1e-6, err_msg=f"{name} {block}")


def test_frames_are_causal_and_begin_anew_in_each_segment(frames):
    model, counts = frames
    whole = model.decode(counts)["filtered_mean"].to_numpy()
    changed = counts.copy()
    changed[350:] = 9
    after = model.decode(changed)["filtered_mean"].to_numpy()
    np.testing.assert_array_equal(after[:350], whole[:350])
    assert not np.allclose(after[350:], whole[350:])
    changed = counts.copy()
    changed[:236] = 9
    np.testing.assert_array_equal(model.decode(changed)["filtered_mean"][236:], whole[236:])


def test_frames_are_smoothed_each_phase_by_itself(frames):
    """A phase by itself, as a recording in frames that follow one another."""
    model, counts = frames
    k, start = model.frame_bins_, 236
    latents = model.decode(counts, smooth=True)
    assert np.isfinite(latents["smoothed_mean"]).all()
    variance, filtered = (
        np.trace(latents[name].to_numpy(), axis1=1, axis2=2) for name in ("smoothed_cov", "filtered_cov")
    )
    assert (variance <= filtered + 1e-5).all()
    assert variance.mean() < filtered.mean()
    last = counts.sizes["time"] - k
    np.testing.assert_allclose(latents["smoothed_mean"][last:], latents["filtered_mean"][last:], atol=1e-5)
    changed = counts.copy()
    changed[last:] = 9  # reaches back to every phase of its segment, and to no other segment
    other = model.decode(changed, smooth=True)
    np.testing.assert_array_equal(other["smoothed_mean"][:start], latents["smoothed_mean"][:start])
    apart = (other["smoothed_mean"] != latents["smoothed_mean"]).any("state").to_numpy()[last - k : last]
    observed = latents["observed"].to_numpy()[last:]
    assert apart[observed].all()


def test_a_state_saved_in_the_middle_of_a_frame_goes_on(frames):
    model, counts = frames
    bins, k = bins_of(counts), model.frame_bins_
    for after in (1, k // 2, 200 + k // 2):
        online = OnlineFilter(model)
        run(online, bins[:after])
        state = online.state()
        assert state["mean"].shape == (k, 3)
        assert state["cov"].shape == (k, 3, 3)
        assert state["recent"].shape == (k, 8)
        expected = run(online, bins[after : after + 60])
        text = json.dumps({key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in state.items()})
        for saved in (state, json.loads(text)):
            other = OnlineFilter(model)
            other.restore(saved)
            for one, two in zip(expected, run(other, bins[after : after + 60]), strict=True):
                np.testing.assert_array_equal(one, two)
    other.reset()
    for one, two in zip(run(other, bins[:50]), run(OnlineFilter(model), bins[:50]), strict=True):
        np.testing.assert_array_equal(one, two)


def test_innovations_are_those_of_decoding(frames):
    model, counts = frames
    latents = model.decode(counts)
    online, found, before = OnlineFilter(model), [], None
    for bin, segment in zip(bins_of(counts), counts["segment"].to_numpy(), strict=True):
        if segment != before:
            online.reset()
            assert np.isnan(online.innovation).all()
        online.step(bin)
        found.append(online.innovation)
        before = segment
    e, S = latents["innovation"].to_numpy(), latents["innovation_cov"].to_numpy()
    size = np.einsum("ti,tij,tj->t", e, np.linalg.inv(S), e)
    np.testing.assert_allclose((np.array(found) ** 2).sum(1), size, rtol=1e-4)
    assert np.isnan(size).any()
    assert not np.isnan(size).all()


def test_lagged_states_and_forecasts_online_are_those_of_decoding(frames):
    """Segments are flushed; one begins in the middle of the others' frames, one is shorter than the lag."""
    model, counts = frames
    lag = 3 * model.frame_
    latents = model.decode(counts, lag=lag, ahead=(model.frame_, 4 * model.frame_))
    online = OnlineFilter(model, lag=lag)
    assert online.lag_bins == 3 * model.frame_bins_
    states, forecasts = [], []
    for number in range(3):
        for bin in bins_of(counts)[counts["segment"].to_numpy() == number]:
            states.append(online.step(bin))
            forecasts.append([online.ahead(seconds) for seconds in latents["ahead"].to_numpy()])
        states += online.flush()
    mean, cov = zip(*(one for one in states if one is not None), strict=True)
    np.testing.assert_allclose(mean, latents["lagged_mean"], atol=1e-5)
    np.testing.assert_allclose(cov, latents["lagged_cov"], atol=1e-5)
    for i, name in enumerate(("ahead_mean", "ahead_cov")):
        expected = latents[name].transpose("time", ...)
        np.testing.assert_allclose([[state[i] for state in one] for one in forecasts], expected, atol=1e-5)


@pytest.mark.parametrize("after", [3, 40])
def test_a_state_saved_within_the_lag_goes_on(fitted, counts, after):
    bins = counts.to_numpy()[:90]
    one, other = (OnlineFilter(fitted, lag=0.7) for _ in range(2))
    for bin in bins[:after]:
        one.step(bin)
    saved = {key: v.tolist() if isinstance(v, np.ndarray) else v for key, v in one.state().items()}
    other.restore(json.loads(json.dumps(saved)))
    expected, found = ([online.step(bin) for bin in bins[after:]] + online.flush() for online in (one, other))
    assert sum(state is not None for state in expected) == 90 - max(after - 7, 0)
    np.testing.assert_equal(found, expected)
    with pytest.raises(InputError, match=r"mean \(8, 4\).* frames of 1 bins"):
        OnlineFilter(fitted).restore(saved)
