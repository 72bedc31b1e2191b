"""Several sessions, one filter: each has its own units and encoder, all have one state space."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.optimize import minimize_scalar
from scipy.stats import multivariate_normal

from ldmfilter import LDMFilter, OnlineFilter, bin_spikes, load
from ldmfilter.config import FilterConfig
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.errors import InputError
from ldmfilter.filter.kalman import filter_windows
from ldmfilter.filter.training import Training
from ldmfilter.tensors import read_tensors, write_tensors
from tests.filter.conftest import SMALL
from tests.filter.test_training import same

TRUTH = ("linear_position", "facing")


def session_of(seed: int, n_units: int) -> tuple[xr.DataArray, np.ndarray]:
    """Counts of a session in the asymmetric track's world, and its true latents (time, 2) at the bins."""
    session = linear_track_session(seed, n_units, duration=600.0, rest=0.0, asymmetry=0.75)
    counts = bin_spikes(session, 0.1).assign_attrs(path=f"{seed}.nwb", identifier=f"id {seed}", checksum=f"sum {seed}")
    series = [session.behavior[f"processing/behavior/{name}"] for name in TRUTH]
    return counts, np.stack([np.interp(counts["time"], one["time"], one) for one in series], 1)


@pytest.fixture(scope="module")
def world() -> list[tuple[xr.DataArray, np.ndarray]]:
    return [session_of(seed, n_units) for seed, n_units in ((1, 42), (2, 44), (3, 46))]


@pytest.fixture(scope="module")
def joint(world) -> LDMFilter:
    """Trained on the first two sessions; the third was added."""
    settings = {
        "max_steps": 200,
        "hidden": (64,),
        "window": 2.4,
        "warmup": 0.8,
        "dynamics": "slow",
        "frame": 0.1,
        "batch_size": 32,
        "learning_rate": 3e-3,
    }
    model = LDMFilter(**settings).fit([counts for counts, _ in world[:2]])
    before = {name: value.clone() for name, value in model.network_.state_dict().items()}
    model_id = model.model_id_
    model.add(world[2][0])
    after = model.network_.state_dict()
    assert same(before, {name: after[name] for name in before})
    assert {name.split(".")[1] for name in after.keys() - before.keys()} == {"2"}
    assert model.model_id_ != model_id
    return model


def affine(states: np.ndarray) -> np.ndarray:
    return np.column_stack([states, np.ones(len(states))])


def test_a_readout_of_one_session_holds_for_the_others(joint, world):
    """What maps one session's states to the truth does so for another, R2 within 0.05 of that session's own."""
    states = [affine(joint.decode(counts)["filtered_mean"].to_numpy()) for counts, _ in world]
    truth = [x for _, x in world]
    maps = [np.linalg.lstsq(m, x)[0] for m, x in zip(states, truth, strict=True)]
    r2 = np.array(
        [
            [1 - ((x - m @ W) ** 2).sum(0) / ((x - x.mean(0)) ** 2).sum(0) for m, x in zip(states, truth, strict=True)]
            for W in maps
        ]
    )  # (map of, session, truth)
    own = r2[range(3), range(3)]
    assert (own[:, 0] > 0.85).all()
    assert (own - r2 < 0.05).all(), np.round(own - r2, 3)


def test_counts_tell_whose_encoder_is_meant(joint, world):
    expected = [joint.of(i).decode(counts) for i, (counts, _) in enumerate(world)]
    assert [d.sizes["unit"] for d in expected] == [42, 44, 46]
    assert len({d.attrs["model_id"] for d in expected}) == 3
    for i, (counts, _) in enumerate(world):
        xr.testing.assert_equal(joint.decode(counts), expected[i])
        by_units = joint.decode(counts.assign_attrs(checksum="moved on", path="elsewhere"))
        xr.testing.assert_equal(by_units["filtered_mean"], expected[i]["filtered_mean"])
        xr.testing.assert_equal(joint.of(f"{i + 1}.nwb").decode(counts), expected[i])
        xr.testing.assert_equal(joint.decode(counts, session=f"id {i + 1}"), expected[i])
        assert expected[i]["trained"].all()
    strange = world[0][0].isel(unit=slice(7)).assign_attrs(checksum="", path="new.nwb")
    with pytest.raises(InputError, match=r"^new\.nwb: is none of the model's 3 sessions \(1\.nwb, 2\.nwb, 3\.nwb\); "):
        joint.decode(strange)
    with pytest.raises(InputError, match=r"new\.nwb: its 7 units are not the 42"):
        joint.decode(strange, session=0)
    with pytest.raises(InputError, match="session 3: is none of the model's 3 sessions"):
        joint.decode(strange, session=3)


def test_what_takes_one_session_takes_one_of_several(joint, world):
    with pytest.raises(InputError, match=r"choose one of the model's 3 sessions \(.*\) first, with of\(session\)"):
        OnlineFilter(joint)
    online = OnlineFilter(joint.of(1))
    counts = world[1][0][:200]
    for row in counts.to_numpy():
        mean, _ = online.step(row)
    np.testing.assert_allclose(mean, joint.decode(counts)["filtered_mean"][-1], atol=1e-5)


def test_save_and_load(joint, world, tmp_path):
    joint.save(tmp_path)
    again = load(tmp_path)
    assert again.model_id_ == joint.model_id_
    for counts, _ in world:
        xr.testing.assert_equal(again.decode(counts), joint.decode(counts))


def test_sessions_with_the_same_ids_are_told_apart_by_name_only(noise_counts):
    settings = SMALL | {"max_steps": 25}
    other = noise_counts.copy(data=noise_counts.to_numpy()[::-1])
    model = LDMFilter(**settings).fit([noise_counts, other])
    with pytest.raises(InputError, match="counts: is like 2 of the model's 2 sessions"):
        model.decode(other)
    assert not np.allclose(*(model.decode(other, session=i)["filtered_mean"] for i in (0, 1)))


def test_sessions_are_judged_by_covariances_of_one_size(world):
    """Their score is the highest that one factor on S for both gives: a filter has no other size for each session."""
    counts = [world[0][0][:1500], world[1][0][:1500]]
    counts[1] = counts[1].copy(data=np.random.default_rng(0).permutation(counts[1]))  # nothing to predict
    training = Training(FilterConfig(**SMALL | {"max_steps": 25}), counts)
    *_, record = training.run()
    assert record.kept_step == 25  # so that the network is the one that was judged
    network, warmup = training._now._network, training._now._warmup
    with torch.no_grad():
        z = [network.encode(one.held, i) for i, one in enumerate(training._now._recordings)]
        filtered = [filter_windows(network.dynamics(), one) for one in z]
    e = [(one - zhat)[:, warmup:].flatten(0, 1).double().numpy() for one, (zhat, *_) in zip(z, filtered, strict=True)]
    S = filtered[0][1].double().numpy()

    def less(each, factor):
        return -multivariate_normal(cov=factor * S).logpdf(each).mean()

    assert len(e[0]) == len(e[1])
    best = minimize_scalar(lambda factor: less(e[0], factor) + less(e[1], factor), bounds=(0.1, 10), method="bounded")
    assert record.held_out_log_likelihood == pytest.approx(-best.fun / 2, abs=1e-4)
    alone = [minimize_scalar(lambda factor, one=one: less(one, factor), bounds=(0.1, 10)).fun for one in e]
    assert -np.mean(alone) > record.held_out_log_likelihood + 1e-3


def test_resumed_equals_undisturbed(world):
    config, counts = FilterConfig(**SMALL | {"max_steps": 50}), [one[:1000] for one, _ in world[:2]]
    whole, first, second = (Training(config, counts) for _ in range(3))
    records = list(whole.run())
    for _, _ in zip(first.run(), range(1), strict=False):
        pass
    tensors, values = first.state()
    second.restore(tensors, json.loads(json.dumps(values)))
    list(second.run())
    assert str(second.history) == str(records)
    assert same(second.parts[0][1], whole.parts[0][1])


def test_sessions_that_do_not_go_together(joint, world):
    a, b, c = (counts for counts, _ in world)
    with pytest.raises(InputError, match=r"^2\.nwb: bins of 0\.2 s beside others of 0\.1 s; bin all sessions alike"):
        LDMFilter().fit([a, b.assign_attrs(bin_size=0.2).assign_coords(time=2 * b["time"])])
    with pytest.raises(InputError, match=r"^copy\.nwb: is the same session as 1\.nwb; name each session once"):
        LDMFilter().fit([a, a.assign_attrs(path="copy.nwb")])
    with pytest.raises(InputError, match=r"^2\.nwb: 40 observed bins"):
        LDMFilter(window=3.2).fit([a, b[:40]])
    with pytest.raises(InputError, match=r"^2\.nwb: 7 observed bins"):
        LDMFilter().fit([a, b[:7]])
    with pytest.raises(InputError, match="no session to train on"):
        LDMFilter().fit([])
    with pytest.raises(InputError, match=r"^3\.nwb: is one of the model's 3 sessions .* already; decode it"):
        joint.add(c)
    with pytest.raises(InputError, match=r"^3\.nwb: bins of 0\.2 s, but the model was trained on 0\.1 s"):
        joint.add(c.assign_attrs(bin_size=0.2).assign_coords(time=2 * c["time"]))


def test_a_model_file_of_one_session_as_it_was_written_before(fitted, counts, tmp_path):
    path = fitted.save(tmp_path)
    fitted = load(path)
    with torch.no_grad():
        fitted.network_.encoder().linear.weight.zero_()  # which encoders did not have
    tensors, description = read_tensors(path)
    old = {
        name.removeprefix("encoders.0.") if ".z_" in name else name.replace("encoders.0.", "encoder."): value
        for name, value in tensors.items()
        if not name.endswith(("_moments", "linear.weight"))
    }
    assert {"encoder.input_mean", "z_mean", "z_whiten", "gauge"} < old.keys()
    description = {**description, **description.pop("sessions")[0], "format": 1}
    write_tensors(path, old, description)
    model = load(path)
    xr.testing.assert_equal(model.decode(counts)["filtered_mean"], fitted.decode(counts)["filtered_mean"])
    assert model.trained_spans_ == fitted.trained_spans_
    with pytest.raises(InputError, match="is of an older ldmfilter and takes no further session"):
        model.add(counts.assign_attrs(checksum="another"))
    assert torch.equal(model.network_.third_moments, torch.zeros_like(fitted.network_.third_moments))
