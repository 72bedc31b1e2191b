"""Several candidates, one after the other: the choice, its restoration, and candidates that fail."""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch
import xarray as xr

from ldmfilter.config import FilterConfig
from ldmfilter.data.binning import bin_spikes
from ldmfilter.data.session import Session
from ldmfilter.data.windows import half_of, reserve
from ldmfilter.errors import InputError, TrainingError
from ldmfilter.filter import fit
from ldmfilter.filter.candidates import CANDIDATES, Candidate, Trained, candidates, listed, read_trained, window_frames
from ldmfilter.filter.fit import Fit
from ldmfilter.filter.model import LDMFilter, load
from ldmfilter.filter.online import OnlineFilter
from ldmfilter.filter.spikes_ahead import NOT_JUDGED, SpikesAhead
from ldmfilter.filter.training import Training
from tests.filter.test_training import same

TINY = {
    "latent_dim": 2,
    "max_steps": 8,
    "learning_rate": 0.01,
    "hidden": (16,),
    "batch_size": 16,
}

FAST = TINY | {"dynamics": "fast", "max_steps": 2}

pytestmark = pytest.mark.usefixtures("short_trainings")


def better(one: Trained, kept: Trained) -> Trained:
    """The one that should be kept."""
    (ahead, error), (hidden, other_error) = one.lead, one.hidden_lead
    if one.dynamics != kept.dynamics:
        return one if ahead > error else kept
    by_ahead = ahead > 2 * error and hidden >= -max(other_error, 0.005 * kept.hidden)
    by_hidden = hidden > 2 * other_error and ahead >= -max(error, 0.005 * kept.bits_per_spike)
    return one if by_ahead or by_hidden else kept


def blocks_of(lead: float, error: float) -> SpikesAhead:
    """Two blocks of bits with this sum and this standard error."""
    blocks = np.array([lead - error, lead + error]) / 2
    return SpikesAhead(float(blocks.sum()), blocks)


def check_resumed(training: Training, config: FilterConfig, records: list) -> None:
    """Stopped after each record and resumed, it gives the same records and ends with the same network."""
    again = Training(config, training.counts)
    for number in range(len(records)):
        assert str(list(itertools.islice(again.run(), 1))) == str(records[number : number + 1])
        tensors, values = again.state()
        again = Training(config, training.counts)
        again.restore(tensors, json.loads(json.dumps(values)))
    assert again.ended
    assert all(same(one, other) for (_, one), (_, other) in zip(again.parts, training.parts, strict=True))


@pytest.fixture(scope="module")
def undisturbed(few, short_trainings) -> tuple[Training, list]:
    training = Training(FilterConfig(**TINY | {"restarts": 1}), few)
    return training, list(training.run())


def test_both_are_trained_and_the_one_that_predicts_better_is_kept(few, undisturbed):
    training, records = undisturbed
    kept, *others = training.trained
    fast = [("fast", 0.1, False), ("fast", 0.1, True)]
    finished = [(one.name, one.frame, one.refit) for one in training.trained]
    assert finished[:3] == [("slow", 0.5, False), *fast]
    for one in others[:2]:
        kept = better(one, kept)
    again = [(f"{kept.name} 2", frame, refit) for name, frame, refit in finished[:3] if name == kept.name]
    assert finished[3:] == again  # from other first weights
    names = ("slow", "fast", f"{kept.name} 2")
    assert [(r.candidate, r.step) for r in records] == [(name, step) for name in names for step in (0, 4, 8)]
    assert len({r.held_out_log_likelihood for r in records if r.candidate.startswith(kept.name)}) == 6
    assert training.ended
    assert training.step == training.steps == 24
    kept = training.trained[0]
    for one in others:
        assert not one.failure
        assert one.lead[0] == pytest.approx(one.bits_per_spike - kept.bits_per_spike)
        assert one.lead[1] > 0
        kept = better(one, kept)
    assert training.kept == kept
    assert training.kept_records[0].candidate == kept.name
    assert training.kept_records[0].step == kept.kept_step


def with_score(found: tuple[float, float, float], score: float) -> tuple[float, float, float]:
    """An evaluation with another score."""
    return found[0], score, found[2]


def test_where_the_first_weights_are_kept_the_last_step_is_judged_too(few, monkeypatch):
    """As in a short session, whose few held-out blocks show what training has not."""
    measured = fit.evaluate
    monkeypatch.setattr(fit, "evaluate", lambda *given: with_score(measured(*given), -training._now.step))
    training = Training(FilterConfig(**TINY | {"dynamics": "slow", "max_steps": 8}), few)
    list(training.run())
    last, first = training.trained
    assert [one.kept_step for one in training.trained] == [8, 0]
    assert first.bits_per_spike != last.bits_per_spike
    assert training.kept == better(first, last)
    assert training.kept_records[0].step == training.kept.kept_step
    assert listed(training.trained).startswith("slow at step 8: ")


def test_where_no_spikes_are_judged_held_out_z_chooses_the_step(few, monkeypatch):
    measured = fit.evaluate
    monkeypatch.setattr(fit, "evaluate", lambda *given: with_score(measured(*given), -training._now.step))
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: NOT_JUDGED)
    training = Training(FilterConfig(**TINY | {"dynamics": "fast", "max_steps": 8}), few)
    list(training.run())
    assert (training.kept.kept_step, training.kept.refit) == (0, False)
    assert same(training.parts[0][1], training._now.finished_state(False))


def test_where_no_spikes_are_judged_the_first_candidate_is_kept(few, monkeypatch):
    """Though another is best at an earlier step: steps of two trainings say nothing of each other."""
    sign = {"slow": 1, "fast": -1}
    measured = fit.evaluate
    monkeypatch.setattr(
        fit,
        "evaluate",
        lambda *given: with_score(measured(*given), sign[training._now.candidate.name] * training._now.step),
    )
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: NOT_JUDGED)
    training = Training(FilterConfig(**TINY | {"max_steps": 8}), few)
    list(training.run())
    assert {one.kept_step for one in training.trained if one.name == "fast"} == {0, 8}
    assert (training.kept.name, training.kept.kept_step) == ("slow", 8)


def test_dynamics_are_refitted_where_that_is_kept(few):
    """And not where it is not; both predict spikes."""
    found = {}
    for refit in (False, True, None):
        training = Training(FilterConfig(**TINY | {"dynamics": "fast", "refit": refit}), few)
        list(training.run())
        assert ("system_A" in training.parts[0][1]) is training.kept.refit
        found[refit] = [(one.refit, one.bits_per_spike) for one in training.trained]
    assert str(found[None]) == str(found[False] + found[True])


def test_dynamics_that_cannot_be_refitted_leave_those_of_training(few, monkeypatch):
    def singular(*_):
        raise np.linalg.LinAlgError("singular")

    monkeypatch.setattr("ldmfilter.filter.finish.fit_linear_system", singular)
    training = Training(FilterConfig(**TINY | {"dynamics": "fast", "refit": None, "restarts": 0}), few)
    list(training.run())
    assert [bool(one.failure) for one in training.trained] == [one.refit for one in training.trained] == [False, True]
    assert training.kept.refit is False


@pytest.mark.parametrize(("lead", "kept"), [((0.02, 0.01), "fast"), ((0.01, 0.02), "slow"), ((-0.1, 0.01), "slow")])
def test_a_lead_within_its_standard_error_is_none(few, monkeypatch, lead, kept):
    """Two blocks of bits whose difference has this sum and this standard error."""
    values = {"slow": np.zeros(2), "fast": np.array([lead[0] - lead[1], lead[0] + lead[1]]) / 2}
    monkeypatch.setattr(
        Fit, "spikes_ahead", lambda one, _: SpikesAhead(values[one.candidate.name].sum(), values[one.candidate.name])
    )
    training = Training(FilterConfig(**TINY | {"max_steps": 2, "refit": False}), few)
    list(training.run())
    assert training.trained[1].lead == pytest.approx(lead)
    assert training.kept.name == kept
    assert training.kept.frame == pytest.approx({"slow": 0.5, "fast": 0.1}[kept])
    network = training.parts[0][1]
    assert same(network, training._now.finished_state(False)) is (kept == "fast")  # the last one trained


@pytest.mark.parametrize(
    ("ahead", "hidden", "refitted"),
    [
        ((0.03, 0.01), (-0.001, 0.002), True),
        ((0.015, 0.01), (0.001, 0.002), False),  # no clear lead in either
        ((0.03, 0.01), (-0.003, 0.002), False),  # behind in the other
        ((0.03, 0.01), (-0.001, 0.0001), True),  # by less than 0.5 %
        ((-0.005, 0.01), (0.005, 0.002), True),
        ((-0.015, 0.01), (0.005, 0.002), False),
    ],
)
def test_refitted_dynamics_have_to_lead_by_two_standard_errors(few, monkeypatch, ahead, hidden, refitted):
    before = np.array([0.1, 0.2])
    for name, lead in (("spikes_ahead", ahead), ("hidden_units", hidden)):
        after = before + blocks_of(*lead).blocks
        found = iter([SpikesAhead(0.3, before), SpikesAhead(after.sum(), after)])
        monkeypatch.setattr(Fit, name, lambda *_, found=found: next(found))
    training = Training(FilterConfig(**TINY | {"dynamics": "fast", "max_steps": 2}), few)
    list(training.run())
    assert training.trained[1].lead == pytest.approx(ahead)
    assert training.trained[1].hidden_lead == pytest.approx(hidden)
    assert training.kept.refit is refitted


OPEN = TINY | {"latent_dim": None, "dynamics": "fast", "max_steps": 4, "refit": False}


@pytest.mark.parametrize(
    ("hidden", "tried"),
    [({8: 0.3, 4: 0.3}, [8, 4]), ({8: 0.3, 4: 0.4, 2: 0.2}, [8, 4, 2]), ({8: 0.1, 4: 0.2, 2: 0.3}, [8, 4, 2])],
)
def test_fewer_dimensions_are_tried_while_they_lead(few, monkeypatch, tmp_path, hidden, tried):
    """Half of 8 dimensions, for 16 units, and half of these; resumed after each record, and read from a file."""
    monkeypatch.setattr(Fit, "hidden_units", lambda fit, _: blocks_of(hidden[fit.config.latents], 0.01))
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: blocks_of(0, 0.01))
    training = Training(FilterConfig(**OPEN), few)
    records = list(training.run())
    names = ["fast", *(f"fast in {size} dimensions" for size in tried[1:])]
    assert [one.name for one in training.trained] == names
    assert [one.candidate for one in records] == [name for name in names for _ in range(2)]
    best = max(tried, key=hidden.__getitem__)  # of two the first
    assert training.kept.name == names[tried.index(best)]
    assert training.step == training.steps == 4 * len(tried)
    model = LDMFilter(**OPEN)._take(training)
    assert model.sized_.latents == model.sized_.states == best
    model.save(tmp_path)
    assert load(tmp_path).decode(few).sizes["state"] == best
    check_resumed(training, FilterConfig(**OPEN), records)


@pytest.mark.parametrize(("value", "kept"), [(0.1, ["fast"]), (-0.1, ["slow", "fast"])])
def test_of_what_predicts_nothing_both_parts_are_kept(few, monkeypatch, value, kept):
    """Though one leads both."""
    ahead = {"slow": value - 0.2, "fast": value}
    monkeypatch.setattr(Fit, "hidden_units", lambda *_: blocks_of(-0.1, 0.01))
    monkeypatch.setattr(Fit, "spikes_ahead", lambda fit, _: blocks_of(ahead[fit.candidate.name.split()[0]], 0.01))
    training = Training(FilterConfig(**TINY | {"latent_dim": 12, "max_steps": 2, "refit": False}), few)
    list(training.run())
    assert [one.dynamics for one, _ in training.parts] == kept


@pytest.mark.parametrize(("value", "tried"), [(0.1, True), (-0.1, False)])
def test_of_what_predicts_nothing_no_fewer_dimensions_are_tried(few, monkeypatch, value, tried):
    monkeypatch.setattr(Fit, "hidden_units", lambda *_: blocks_of(value, 0.01))
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: blocks_of(-0.1, 0.01))
    training = Training(FilterConfig(**OPEN), few)
    list(training.run())
    assert any("dimensions" in one.name for one in training.trained) is tried


@pytest.mark.parametrize(
    ("ahead", "hidden", "kept"),
    [
        (0.1, 0.109, "fast linear"),
        (0.1, 0.111, "fast linear in 4 dimensions"),
        (0.15, 0.1, "fast linear"),  # in spikes ahead alone
        (0.09, 0.15, "fast linear"),  # behind in them
    ],
)
def test_in_trials_fewer_dimensions_have_to_lead_by_more(in_trials, monkeypatch, ahead, hidden, kept):
    """By 0.01 bits per spike, in hidden units."""
    for name, value in (("hidden_units", hidden), ("spikes_ahead", ahead)):
        found = {8: 0.1, 4: value, 2: 0.1}
        monkeypatch.setattr(Fit, name, lambda fit, _, found=found: blocks_of(found[fit.config.latents], 0.001))
    settings = OPEN | {"hidden": None, "dropout": None, "dynamics": "fast", "max_steps": 2}
    training = Training(FilterConfig(**settings), in_trials)
    list(training.run())
    assert training.kept.name == kept


def test_dimensions_that_are_given_stay(few):
    training = Training(FilterConfig(**OPEN | {"latent_dim": 8}), few)
    list(training.run())
    assert [one.name for one in training.trained] == ["fast"]


def test_fewer_dimensions_are_tried_only_where_they_can_be_kept(few, monkeypatch):
    assert Training(FilterConfig(**OPEN), few).tries_fewer
    assert not Training(FilterConfig(**OPEN), few[:, :6]).tries_fewer  # three, of six units
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: NOT_JUDGED)
    training = Training(FilterConfig(**OPEN), few)
    list(training.run())
    assert {one.name for one in training.trained} == {"fast"}
    assert training.ended


@pytest.fixture(scope="module")
def in_trials():
    """Sixteen units in 40 trials of 0.5 s."""
    trials = [(float(start), start + 0.5) for start in range(40)]
    spikes = np.sort(np.random.default_rng(0).uniform(0, 40, (16, 400)))
    return bin_spikes(Session.from_spikes(list(spikes)), 0.1, trials)


def names_of(training: Training) -> list[tuple[str, bool]]:
    """Its candidates, each once though two steps were judged, and whether halves judged it."""
    return list(dict.fromkeys((one.name, one.by_halves) for one in training.trained))


def key(one: Candidate) -> str | float:
    """Its encoder: linear, or with hidden layers and a dropout."""
    return "linear" if one.encoding.linear else one.encoding.dropout


@pytest.mark.parametrize(
    "hidden",
    [
        {"linear": 0.3, 0.5: 0.3},
        {"linear": 0.3, 0.5: 0.4, 0.2: 0.35},
        {"linear": 0.3, 0.5: 0.4, 0.2: 0.5},
    ],
)
def test_hidden_layers_are_tried_while_they_lead_by_halves(in_trials, monkeypatch, tmp_path, hidden):
    """Though on all trials the linear encoder leads; resumed after each record, and read from a file."""
    sign = {True: 1, False: -1}
    monkeypatch.setattr(
        Fit,
        "hidden_units",
        lambda fit, _: blocks_of(sign[" without half " in fit.candidate.name] * hidden[key(fit.candidate)], 0.01),
    )

    def predicted(fit: Fit, _: object) -> SpikesAhead:
        """Nothing any more by what is chosen."""
        own = " without half " in fit.candidate.name or fit.candidate.encoding.linear
        return blocks_of(0.1 if own else -0.1, 0.01)

    monkeypatch.setattr(Fit, "spikes_ahead", predicted)
    settings = TINY | {"max_steps": 4, "hidden": None, "dynamics": "fast"}
    training = Training(FilterConfig(**settings), in_trials)
    records = list(training.run())
    best = max(hidden, key=hidden.__getitem__)  # of two the first
    halved = ["fast linear" if one == "linear" else f"fast with dropout {one:g}" for one in hidden]
    first = halved[0]
    chosen = [f"fast with dropout {best:g}"] if best != "linear" else []
    assert names_of(training) == [
        (first, False), *((name, True) for name in halved), *((name, False) for name in chosen),
    ]  # fmt: skip
    names = [first, *(f"{name} without half {half}" for name in halved for half in (1, 2)), *chosen]
    assert [one.candidate for one in records] == [name for name in names for _ in range(2)]
    assert training.kept.name == (chosen or [first])[0]
    assert training.step == training.steps == 4 * len(names)
    none, *leads = [one.hidden_lead[0] for one in training.trained if one.by_halves]
    assert math.isnan(none)
    assert leads == pytest.approx([two - one for one, two in itertools.pairwise(hidden.values())])
    model = LDMFilter(**settings)._take(training)
    model.save(tmp_path)
    again = load(tmp_path)
    assert str(again.kept_) == str(training.kept)
    assert again.sized_.hidden == model.sized_.hidden == (() if best == "linear" else (128, 128))
    xr.testing.assert_equal(again.decode(in_trials), model.decode(in_trials))
    added = again._adding(in_trials)._now
    assert added.candidate.encoding.dropout == (0.5 if best == "linear" else best)
    assert added.config.widths == model.sized_.hidden
    check_resumed(training, FilterConfig(**settings), records)


def test_restarts_take_the_encoder_that_was_chosen(in_trials, monkeypatch):
    monkeypatch.setattr(Fit, "hidden_units", lambda fit, _: blocks_of(-fit.candidate.encoding.dropout, 0.01))
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: blocks_of(0.1, 0.01))
    training = Training(FilterConfig(**FAST | {"restarts": 1}), in_trials)
    list(training.run())
    assert names_of(training)[-2:] == [("fast with dropout 0.2", False), ("fast 2 with dropout 0.2", False)]
    assert training._now.candidate.encoding.dropout == 0.2


def test_a_half_is_judged_on_whole_trials_that_its_training_did_not_see(in_trials, monkeypatch):
    seen = []
    predicted = fit.spikes_ahead_of_all

    def judged(states, counts, segment, judge, size, signal, horizons, unseen):
        seen.append(unseen)
        return predicted(states, counts, segment, judge, size, signal, horizons, unseen)

    monkeypatch.setattr(fit, "spikes_ahead_of_all", judged)
    training = Training(FilterConfig(**FAST), in_trials)
    learnt = [
        (one.windows.train_starts[:, None] + np.arange(one.windows.window), one.windows.held_bins)
        for half in range(2)
        for one in training._recordings(*training._fits[0][:2], half)
    ]
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: blocks_of(0.1, 0.01))
    list(training.run())
    masks = [unseen for unseen in seen if unseen is not None]
    assert len(masks) % 8 == 0  # of each half four quarters of the units
    first, second = masks[:8:4]
    assert (first ^ second).all()
    assert {len(np.unique(one)) for one in first.reshape(40, 5)} == {1}
    assert first.reshape(40, 5)[:, 0].sum() == 20
    for unseen, (windows, held) in zip((first, second), learnt, strict=True):
        assert not unseen[windows].any()
        assert not unseen[held].any()
        assert len(held)


@pytest.mark.parametrize("half", [1, 2])
@pytest.mark.parametrize(("fails", "kept"), [("linear", "fast with dropout 0.5"), ("with dropout 0.5", "fast linear")])
def test_an_encoder_fails_with_either_half(in_trials, monkeypatch, fails, kept, half):
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: blocks_of(0.1, 0.01))
    failing(monkeypatch, {f"fast {fails} without half {half}"}, 2)
    training = Training(FilterConfig(**FAST | {"hidden": None}), in_trials)
    list(training.run())
    assert training.ended
    assert training.kept.name == kept
    assert [one.name for one in training.trained if one.failure] == [f"fast {fails}"]
    tensors, values = training.state()
    again = Training(training.config, in_trials)
    again.restore(tensors, json.loads(json.dumps(values)))
    assert list(again.run()) == []
    assert same(again.parts[0][1], training.parts[0][1])


@pytest.mark.parametrize(
    ("fast", "both", "kept"),
    [(0.6, 0.3, "fast"), (0.43, 0.1, "slow"), (0.45, 0.5, "slow and fast"), (0.4, 0.1, "slow and fast")],
)
def test_encoders_are_tried_of_each_part_that_is_kept(monkeypatch, fast, both, kept):
    """Of trials most of which are short; there fast states have to lead clearly, and what predicts little stays."""
    trials = [(3.0 * i, 3.0 * i + (1.7 if i % 5 == 0 else 0.5)) for i in range(100)]
    spikes = np.sort(np.random.default_rng(0).uniform(0, 300, (24, 3000)))
    counts = bin_spikes(Session.from_spikes(list(spikes)), 0.1, trials)
    ahead = {"slow": min(fast, 0.41), "fast": fast}
    monkeypatch.setattr(Fit, "hidden_units", lambda *_: blocks_of(0.1, 0.01))

    def predicted(fit: Fit, each: object) -> SpikesAhead:
        (states, _), *_ = each
        dynamics = fit.candidate.name.split()[0]
        return blocks_of(both if states.shape[1] == 12 else ahead[dynamics], 0.01 + 0.02 * (dynamics == "fast"))

    monkeypatch.setattr(Fit, "spikes_ahead", predicted)
    training = Training(FilterConfig(**TINY | {"latent_dim": 12, "max_steps": 2, "hidden": None}), counts)
    list(training.run())
    names = [name for name, _ in names_of(training)]
    assert names[:2] == ["slow linear", "fast linear"]
    assert training.kept.label == kept if " and " in kept else training.kept.dynamics == kept
    tried = [kept] if kept in ahead else ["slow", "fast"]
    names = [f"{part}{one}" for part in tried for one in (" linear", " with dropout 0.5")]
    assert [name for name, by_halves in names_of(training) if by_halves] == names
    assert not any("system_A" in network for _, network in training.parts)  # slow states are not split in trials


@pytest.mark.parametrize(("hidden", "kept"), [(0.294, "fast linear"), (0.304, "fast linear"), (0.306, "fast with")])
def test_in_trials_hidden_layers_have_to_lead_by_more(in_trials, monkeypatch, hidden, kept):
    """By 0.005 bits per spike."""
    value = {"linear": 0.3, 0.5: hidden, 0.2: 0.1}
    monkeypatch.setattr(Fit, "hidden_units", lambda fit, _: blocks_of(value[key(fit.candidate)], 0.001))
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: blocks_of(0.1, 0.01))
    training = Training(FilterConfig(**FAST | {"hidden": None}), in_trials)
    list(training.run())
    assert training.kept.name.startswith(kept)


def test_in_trials_each_part_has_its_own_dimensions_and_encoder(in_trials, monkeypatch, tmp_path):
    """Slow states end with hidden layers in four dimensions, fast ones linear in eight; such a filter is saved, takes a
    further session, and is the same where its training was stopped."""
    value = {("slow", 8): 0.1, ("slow", 4): 0.2, ("slow", 2): 0.15, ("fast", 8): 0.2, ("fast", 4): 0.1}

    def hidden_units(fit: Fit, _: object) -> SpikesAhead:
        dynamics = fit.candidate.name.split()[0]
        led = {"linear": 0, 0.5: 0.02, 0.2: 0.01}[key(fit.candidate)] * (1 if dynamics == "slow" else -1)
        return blocks_of(value[dynamics, fit.config.latents] + led, 0.001)

    monkeypatch.setattr(Fit, "hidden_units", hidden_units)
    monkeypatch.setattr(Fit, "spikes_ahead", lambda *_: blocks_of(0.1, 0.01))
    settings = TINY | {"latent_dim": None, "hidden": None, "max_steps": 2}
    training = Training(FilterConfig(**settings), in_trials)
    records = list(training.run())
    four = "slow in 4 dimensions with dropout "
    halved = [(name, True) for name in ("slow linear in 4 dimensions", f"{four}0.5", f"{four}0.2")]
    assert names_of(training) == [
        ("slow linear", False), ("fast linear", False),
        ("slow linear in 4 dimensions", False), ("slow linear in 2 dimensions", False), *halved,
        ("slow in 4 dimensions with dropout 0.5", False), ("fast linear in 4 dimensions", False),
        ("fast linear", True), ("fast with dropout 0.5", True), ("slow and fast", False),
    ]  # fmt: skip
    assert (training.trained[-1].name, training.kept.name) == ("slow and fast", "slow and fast")
    slow, fast = (one.trained for one in training._kept.values())
    assert [one.name for one in (slow, fast)] == ["slow in 4 dimensions with dropout 0.5", "fast linear"]
    assert math.isnan(next(one for one in training.trained if one.by_halves and one.dynamics == "fast").lead[0])
    assert [one.candidate for one in training.kept_records] == [slow.name, fast.name]
    assert training.step == training.steps == 2 * len({one.candidate for one in records})
    model = LDMFilter(**settings)._take(training)
    assert [(one.sized_.latents, one.sized_.hidden) for one in model.parts] == [(4, (128, 128)), (8, ())]
    model.save(tmp_path)
    again = load(tmp_path)
    assert again.sized_.hidden is None
    xr.testing.assert_equal(again.decode(in_trials), model.decode(in_trials))
    other = in_trials[:, :12].assign_attrs(path="other")
    adding = again._adding(other)
    assert [(key(one), adding._config_of(i).latents) for i, (one, *_) in enumerate(adding._fits)] == [
        (0.5, 4), ("linear", 8),
    ]  # fmt: skip
    assert again.add(other).of(1).decode(other).sizes["state"] == 12
    check_resumed(training, FilterConfig(**settings), records)


@pytest.mark.parametrize("found", [NOT_JUDGED, None])
def test_encoders_that_could_not_be_judged_change_nothing(in_trials, monkeypatch, found):
    """Where trainings on halves fail or judge nothing."""

    def judged(fit: Fit, _: object) -> SpikesAhead:
        if " without half " not in fit.candidate.name:
            return blocks_of(0.1, 0.01)
        if found is None:
            raise TrainingError("training failed; try another")
        return found

    monkeypatch.setattr(Fit, "hidden_units", judged)
    monkeypatch.setattr(Fit, "spikes_ahead", judged)
    training = Training(FilterConfig(**FAST | {"hidden": None}), in_trials)
    list(training.run())
    assert training.ended
    assert training.kept.name == "fast linear"
    assert sum(one.by_halves for one in training.trained) == 2


def test_a_run_of_other_trainings_is_not_taken_up(in_trials):
    training = Training(FilterConfig(**FAST), in_trials)
    tensors, values = training.state()
    Training(FilterConfig(**FAST), in_trials).restore(tensors, values)
    for before in ({"in_trials": True}, {"in_trials": 0}, {}):  # of versions before
        older = {name: value for name, value in values.items() if name != "in_trials"} | before
        with pytest.raises(InputError, match="made by an older ldmfilter"):
            Training(FilterConfig(**FAST), in_trials).restore(tensors, older)


def test_what_is_fixed_is_not_tried(few, in_trials):
    def tried(**given) -> list[tuple[str | float, tuple]]:
        training = Training(FilterConfig(**FAST | {"hidden": None} | given), in_trials)
        assert training.tries_encoders is bool(training._fits[0][0].encodings)
        return [(key(one), [dropout for _, dropout in one.encodings]) for one, *_ in training._fits]

    assert tried() == [("linear", [0.5, 0.5, 0.2])]
    assert tried(dropout=0.1) == [("linear", [0.1, 0.1])]
    assert tried(hidden=(16,)) == [(0.5, [0.5, 0.2])]
    assert tried(hidden=(16,), dropout=0.1) == [(0.1, [])]
    assert tried(hidden=()) == [(0.5, [])]
    assert tried(hidden=[]) == [(0.5, [])]
    assert tried(frame=0.1) == tried()
    assert tried(latent_dim=17) == [(0.5, [0.5, 0.2])]  # of 16 units a linear encoder gives 16
    shared = Training(FilterConfig(**FAST | {"hidden": None}), [in_trials, in_trials[:, :8]])
    assert [key(one) for one, *_ in shared._fits] == [0.5]
    assert not Training(FilterConfig(**FAST), few).tries_encoders
    assert not Training(FilterConfig(**FAST), in_trials[:15]).tries_encoders  # one trial to train on in half of three


def test_a_half_is_of_stretches_without_a_gap(in_trials):
    """Whether trials are segments or stand between bins that were not observed; and of no gap."""
    [each, none] = [[half_of(one, half) for half in (0, 1)] for one in (in_trials, in_trials[:0])]
    assert (each[0] ^ each[1]).all()
    assert not np.concatenate(none).size
    gaps = np.tile([False, *[True] * 5, False], 40)
    spread = in_trials.isel(time=np.clip(np.cumsum(gaps) - 1, 0, None))
    for segment in (np.where(gaps, 0, -1), np.zeros(280, int)):
        spaced = spread.assign_coords(observed=("time", gaps), segment=("time", segment))
        for half in (0, 1):
            np.testing.assert_array_equal(half_of(spaced, half)[gaps], each[half])
            assert not half_of(spaced, half)[~gaps].any()


def test_what_is_finished_or_judged_of_a_long_recording_without_a_half(in_trials):
    training = Training(FilterConfig(**TINY | {"max_steps": 2}), in_trials)
    (recording,) = training._recordings(*training._fits[0][:2], 0)
    assert len(recording.stretches(10**6).counts) == (~recording.unseen).sum()
    judged = recording.judged(64)
    assert len(judged.bins) < len(in_trials)
    assert recording.unseen[judged.bins].any()
    assert not recording.unseen[judged.bins].all()


def test_units_that_were_silent_keep_first_weights_of_usual_size(in_trials):
    """Where fewer units fire than z has dimensions."""
    silent = in_trials.copy(data=in_trials * (np.arange(16) < 6))
    training = Training(FilterConfig(**TINY | {"max_steps": 2, "latent_dim": 8}), silent)
    weights = training._now._network.encoder().linear.weight
    assert weights[:, 6:].abs().max() < 1
    assert weights[:6, 6:].abs().max() < 1e-5  # no component has a share of them


@pytest.mark.parametrize("dynamics", ["slow", "fast"])
def test_in_short_trials_weights_begin_with_principal_components(in_trials, dynamics):
    """Of frames, or of their averages over a second, held-out ones left out."""
    training = Training(FilterConfig(**TINY | {"max_steps": 2, "restarts": 1, "dynamics": dynamics}), in_trials)
    fitted, (recording,) = training._now, training._fits[0][2]
    encoder, x = fitted._network.encoder(), recording.scaling
    roots = (encoder.standardised(x) * encoder.input_scale).double().numpy()
    if dynamics == "slow":
        of = recording.stretches(10**6)
        inputs = (encoder.standardised(of.counts) * encoder.input_scale).double().numpy()
        for i in range(len(inputs)):
            before = 0 if of.starts[i] else inputs[i - 1]
            inputs[i] = before + (1 - np.exp(-fitted.frame / 1.0)) * (inputs[i] - before)
        roots = inputs[~of.held]
    centred = roots - roots.mean(0)
    _, deviations, axes = np.linalg.svd(centred, full_matrices=False)
    to_roots = (encoder.linear.weight / encoder.input_scale).detach().double().numpy()
    expected = centred @ axes[:2].T / deviations[:2] * np.sqrt(len(roots))
    np.testing.assert_allclose(np.abs(centred @ to_roots.T), np.abs(expected), atol=1e-4)
    list(training.run())
    assert training._now.candidate.restart == 1
    assert not training._now.candidate.components


@pytest.mark.parametrize("units", [16, 4, 2])
def test_each_unit_is_hidden_once(few, monkeypatch, units):
    training = Training(FilterConfig(**TINY | {"dynamics": "fast", "latent_dim": 2, "max_steps": 2}), few[:, :units])
    fitted, shown = training._now, []
    measured = fit.filtered_means

    def seen(network, session, judged, frame):
        shown.append(~torch.isnan(judged.frames).all(0).numpy())
        return measured(network, session, judged, frame)

    monkeypatch.setattr(fit, "filtered_means", seen)
    found = fitted.hidden_units(fitted.finished_state(False))
    assert np.isfinite(found.value)
    hidden = ~np.stack(shown)
    assert hidden.shape == (min(4, units), units)
    assert (hidden.sum(0) == 1).all()
    assert (hidden.sum(1) == max(units // 4, 1)).all()


def test_resumed_equals_undisturbed(few, undisturbed):
    """Stopped after every record: in each candidate, between two, and at the end; each time another goes on."""
    whole, records = undisturbed
    training = Training(whole.config, few)
    for number in range(1, len(records) + 1):
        given = list(itertools.islice(training.run(), 1))
        assert str(given) == str(records[number - 1 : number])
        tensors, values = training.state()
        training = Training(whole.config, few)
        training.restore(tensors, json.loads(json.dumps(values)))
        assert len({one.name for one in training.trained}) == number // 3
        assert str(training.history) == str(records[:number])
        torch.rand(5)
    assert list(training.run()) == []
    assert str(training.history) == str(records)
    assert str(training.trained) == str(whole.trained)
    assert str(training.kept) == str(whole.kept)
    assert same(training.parts[0][1], whole.parts[0][1])
    assert same(training.state()[0], whole.state()[0])
    assert json.dumps(training.state()[1]) == json.dumps(whole.state()[1])


def failing(monkeypatch, names, step=4, factorisation=False):
    """Let candidates of these names fail: by an evaluation, or by a factorisation before it."""
    check, train = Fit._check, Fit._train_step

    def checked(one, record):
        if one.candidate.name in names and record.step >= step and not factorisation:
            raise TrainingError(f"training collapsed at step {record.step}")
        check(one, record)

    def trained(one, counts):
        if one.candidate.name in names and one.step >= step and factorisation:
            raise torch.linalg.LinAlgError("not positive definite")
        return train(one, counts)

    monkeypatch.setattr(Fit, "_check", checked)
    monkeypatch.setattr(Fit, "_train_step", trained)


@pytest.mark.parametrize("factorisation", [False, True])
@pytest.mark.parametrize(("fails", "kept"), [("slow", "fast"), ("fast", "slow")])
def test_a_candidate_that_fails_is_left_out(few, monkeypatch, tmp_path, fails, kept, factorisation):
    failing(monkeypatch, {fails}, 6 if factorisation else 4, factorisation)
    training = Training(FilterConfig(**TINY), few)
    records = list(training.run())
    assert training.ended
    assert training.kept.name == kept
    told = {one.name: one for one in training.trained}
    assert "training " in told[fails].failure
    assert told[fails].told.startswith("failed, training ")
    assert "; " not in told[fails].told
    assert not told[kept].failure
    assert math.isnan(told[fails].bits_per_spike)
    assert str(records) == str(training.history)  # each evaluation once
    steps = {name: [r.step for r in records if r.candidate == name] for name in told}
    assert steps == {fails: [0, 4], kept: [0, 4, 8]}
    tensors, values = training.state()
    again = Training(training.config, few)
    again.restore(tensors, json.loads(json.dumps(values)))
    assert again.ended
    assert list(again.run()) == []
    assert same(again.parts[0][1], training.parts[0][1])
    LDMFilter(**TINY)._take(again).save(tmp_path)
    model = load(tmp_path)
    assert (model.kept_.name, model.ended_) == (kept, True)
    assert np.isfinite(model.decode(few)["filtered_mean"]).all()


def test_after_each_record_there_is_a_model_to_keep(few, monkeypatch, tmp_path):
    """Even right after the first candidate has failed: a stop there leaves one that can be read."""
    failing(monkeypatch, {"slow"})
    training = Training(FilterConfig(**TINY | {"max_steps": 5}), few)
    for _ in training.run():
        LDMFilter(**TINY | {"max_steps": 5})._take(training).save(tmp_path)
        model = load(tmp_path)
        assert model.kept_record_.candidate == model.kept_.name
    assert model.kept_.name == "fast"


@pytest.mark.parametrize("bad", [{"slow"}, {"slow", "fast"}])
def test_numbers_that_are_not_finite_at_the_very_start(few, monkeypatch, bad):
    make = Fit._make_network

    def made(one):
        network = make(one)
        if one.candidate.name in bad:
            with torch.no_grad():
                network.encoder().layers[-1].weight.fill_(math.nan)
        return network

    monkeypatch.setattr(Fit, "_make_network", made)
    training = Training(FilterConfig(**TINY | {"max_steps": 2}), few)
    if len(bad) == 2:
        with pytest.raises(TrainingError, match="training diverged at step 0"):
            list(training.run())
    else:
        assert [(r.candidate, r.step) for r in training.run()] == [("fast", 0), ("fast", 2)]
        assert training.kept.name == "fast"


def test_where_all_fail_it_is_told(few, monkeypatch):
    failing(monkeypatch, {"slow", "fast"})
    with pytest.raises(TrainingError, match="training collapsed at step 4"):
        list(Training(FilterConfig(**TINY), few).run())


def test_the_shortest_recordings(few):
    """One of a few seconds is seen in frames as short as those of a trial, by both parts."""
    training = Training(FilterConfig(**TINY | {"max_steps": 2}), few[:30])
    assert [one.frame for one, *_ in training._fits] == [0.1, 0.1]
    assert {one.candidate for one in training.run()} == {"slow", "fast"}
    with pytest.raises(InputError, match="0 observed bins, 0 in a row"):
        Training(FilterConfig(**TINY), few[:30].assign_coords(observed=("time", np.zeros(30, bool))))
    for dynamics in ("slow", "auto"):
        with pytest.raises(InputError, match="7 observed bins"):
            Training(FilterConfig(**TINY, dynamics=dynamics), few[:7])


@pytest.mark.parametrize(("units", "sizes"), [(1, [1]), (3, [1]), (4, [2, 2]), (12, [6, 6]), (40, [16, 16])])
def test_in_trials_each_part_has_as_many_dimensions_as_one_alone(units, sizes):
    spikes = np.sort(np.random.default_rng(0).uniform(0, 40, (units, 400)))
    counts = bin_spikes(Session.from_spikes(list(spikes)), 0.1, [(float(start), start + 0.5) for start in range(40)])
    training = Training(FilterConfig(), counts)
    assert [training._config_of(i).latents for i in range(len(sizes))] == sizes
    assert training._both == (len(sizes) > 1)
    assert not Training(FilterConfig(latent_dim=2), counts)._both


def test_reserved_time_makes_no_trials(few):
    """Of a long recording pieces are left between the blocks, of trials fewer trials."""
    long = few.isel(time=np.arange(4000) % 700).assign_coords(time=np.arange(4000) / 10)
    assert not Training(FilterConfig(), reserve(long))._in_trials
    assert Training(FilterConfig(), long[:150])._in_trials


def test_parts_share_twelve_dimensions_or_more(few):
    assert Training(FilterConfig(latent_dim=12), few)._both
    assert not Training(FilterConfig(latent_dim=11), few)._both
    assert not Training(FilterConfig(latent_dim=12, dynamics="fast"), few)._both
    assert not Training(FilterConfig(), few)._both  # of 16 units 10


@pytest.mark.parametrize(("bin_size", "frame"), [(0.1, 0.1), (0.05, 0.05), (0.01, 0.04)])
def test_trials_of_0_3_s_train(bin_size, frame):
    """In frames of a seventh of a trial."""
    trials = [(float(start), start + 0.3) for start in range(60)]
    spikes = np.sort(np.random.default_rng(0).uniform(0, 60, (3, 2000)))
    model = LDMFilter(**TINY | {"max_steps": 2}).fit(bin_spikes(Session.from_spikes(list(spikes)), bin_size, trials))
    assert model.history_[-1].step == 2
    assert model.frame_ == pytest.approx(frame)


def test_a_session_is_added_as_the_kept_candidate_was_trained():
    """To a filter of frames that short trials shortened, from longer trials too."""

    def counts(length: float, seed: int):
        trials = [(float(start), start + length) for start in range(60)]
        spikes = np.sort(np.random.default_rng(seed).uniform(0, 60, (3, 2000)))
        return bin_spikes(Session.from_spikes(list(spikes)), 0.02, trials)

    model = LDMFilter(**TINY | {"max_steps": 2}).fit(counts(0.4, 0))
    assert model.frame_ == pytest.approx(0.06)
    records = list(model._adding(longer := counts(0.9, 1)).run())
    assert {one.candidate for one in records} == {model.kept_.dynamics}
    model.add(longer)
    assert model.frame_ == pytest.approx(0.06)
    states = model.decode(longer, session=1)
    online = OnlineFilter(model.of(1))
    given = [online.step(row)[0] for row in longer.to_numpy()[:45]]  # the first trial
    np.testing.assert_allclose(np.stack(given), states["filtered_mean"][:45], atol=1e-5)


def test_windows_fit_into_half_of_the_observed_time():
    """Where a single trial is long, the others are trained on too."""
    short, long = (
        [(float(start), start + length) for start in range(0, 4 * n, 4)] for length, n in ((1, 40), (3.9, 3))
    )
    spikes = np.sort(np.random.default_rng(0).uniform(0, 200, (3, 2000)))
    session, config = Session.from_spikes(list(spikes)), FilterConfig(**TINY, dynamics="fast")
    windows = []
    for trials in (short, long + short[3:]):
        candidate, _, (recording,) = Training(config, bin_spikes(session, 0.1, trials))._fits[0]
        windows.append((candidate.frame, recording.windows.window))
    assert windows == [(pytest.approx(0.1), 10)] * 2


def test_frames_of_several_sessions_suit_the_shortest_trials():
    spikes = list(np.sort(np.random.default_rng(0).uniform(0, 120, (3, 2000))))
    short, long = (
        bin_spikes(Session.from_spikes(spikes), 0.05, [(2.0 * start, 2.0 * start + length) for start in range(60)])
        for length in (0.4, 1.6)
    )
    for both in ([short, long], [long, short]):
        training = Training(FilterConfig(**TINY, dynamics="fast"), both)
        assert [one.bins(0.05) for one, *_ in training._fits] == [1]
        assert [one.windows.window for one in training._fits[0][2]] == [8, 8]


@pytest.mark.parametrize("name", ["slow", "fast"])
def test_a_single_dynamics_trains_one(few, name):
    config = FilterConfig(**TINY | {"max_steps": 2, "dynamics": name})
    training = Training(config, few)
    records = list(training.run())
    assert [(r.candidate, r.step) for r in records] == [(name, 0), (name, 2)]
    assert {one.name for one in training.trained} == {training.kept.name} == {name}
    assert math.isfinite(training.kept.bits_per_spike)  # judged, though there is no other
    assert training.kept.frame == pytest.approx({"slow": 0.5, "fast": 0.1}[name])


def test_the_choice_travels_with_the_model(few, tmp_path):
    model = LDMFilter(**TINY | {"max_steps": 2}).fit(few)
    model.save(tmp_path)
    again = load(tmp_path)
    assert str(again.candidates_) == str(model.candidates_)
    assert [one.name for one in again.candidates_] == ["slow", "fast", "fast"]
    assert (str(again.kept_), again.frame_, again.ended_) == (str(model.kept_), model.frame_, True)
    assert again.kept_record_ == model.kept_record_


def test_settings_of_candidates():
    assert candidates(FilterConfig()) == list(CANDIDATES) == candidates(FilterConfig(), stretch=20.0)
    assert [(one.frame, one.refit) for one in candidates(FilterConfig(), stretch=1.6)] == [(0.1, False), (0.1, True)]
    assert not any(one.refit for one in candidates(FilterConfig(), stretch=1.5))
    assert not any(one.refit for one in candidates(FilterConfig(frame=0.5), stretch=7.9))
    few, plenty = (candidates(FilterConfig(), 3.0, 10, seconds) for seconds in (999.0, 1000.0))
    assert key(candidates(FilterConfig(latent_dim=20), 3.0, 10)[0]) == "linear"  # ten of each part
    assert [[key(one), *(d for _, d in one.encodings)] for one in few] == [["linear", 0.5, 0.5, 0.2]] * 2
    assert [[key(one), *(d for _, d in one.encodings)] for one in plenty] == [
        ["linear", 0.1, 0.1], ["linear", 0.2, 0.2],
    ]  # fmt: skip
    assert all(one.in_trials for one in candidates(FilterConfig(), stretch=19.9))
    assert [one.frame for one in candidates(FilterConfig(), stretch=0.35)] == pytest.approx([0.05, 0.05])
    assert [one.frame for one in candidates(FilterConfig(frame=0.2), stretch=0.35)] == [0.2, 0.2]
    assert [one.frame for one in candidates(FilterConfig(frame=0.2))] == [0.2, 0.2]
    assert [one.bins(0.02) for one in CANDIDATES] == [25, 5]
    slow, fast = (one.decay(3, one.frame) for one in CANDIDATES)
    np.testing.assert_allclose(slow, np.exp(-0.5 / 5.0))
    np.testing.assert_allclose(-0.1 / np.log(fast[[0, 2]]), [0.3, 8.0])
    assert window_frames(FilterConfig(window=2.4, warmup=0.8), 0.1) == [(24, 8, None)]
    assert window_frames(FilterConfig(window=0.6, warmup=0.5), 0.5) == [(3, 1, None)]  # some frames carry a loss
    assert window_frames(FilterConfig(), 0.5)[0] == (32, 8, None)
    assert window_frames(FilterConfig(), 0.1, 40)[0] == (32, 0, 3)
    assert window_frames(FilterConfig(), 0.1, 7) == [(7, 0, 3), (4, 0, 3), (3, 0, 3)]
    assert window_frames(FilterConfig(), 0.1, 1) == [(3, 0, 3)]
    assert window_frames(FilterConfig(window=2.0, warmup=0.2), 0.1, 7) == [(7, 2, 5)]
    assert window_frames(FilterConfig(window=0.5, warmup=0.4), 0.1, 7) == [(5, 2, 5)]


def test_a_candidate_in_a_file():
    one = Trained("slow", 0.5, True, 0.1, (math.nan, math.nan), 25)
    assert str(read_trained(json.loads(json.dumps(dataclasses.asdict(one))))) == str(one)
    for wrong in ({"frame": -1.0}, {"kept_step": 2.5}, {"name": 3}, {"lead": "?"}, {"more": 1}):
        with pytest.raises((KeyError, TypeError, ValueError)):
            read_trained(dataclasses.asdict(one) | wrong)
