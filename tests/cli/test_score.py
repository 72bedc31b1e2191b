"""`ldmfilter score`, as a person types it."""

import dataclasses
import json
import sys

import numpy as np
import pytest

from ldmfilter import InputError, score
from ldmfilter.analysis import score as module
from ldmfilter.analysis.baselines import PEERS, SMOOTHING, STATES, chosen
from ldmfilter.data.counts import check_counts
from ldmfilter.filter.forecast import check_horizons
from ldmfilter.filter.runs import Run
from tests.cli.conftest import here


@pytest.fixture(scope="module")
def model_and_counts(trained):
    run = Run.open(trained / "run")
    return run.model(), check_counts(run.recording()[1])


def test_a_table_beside_simpler_methods_and_what_could_not_be_judged(trained, monkeypatch):
    made, real = [], module.score
    monkeypatch.setitem(PEERS, "GPFA", ("numpy", STATES["causal PCA"]))
    monkeypatch.setattr(module, "WIDTHS", (SMOOTHING,))
    monkeypatch.setattr(module, "score", lambda *args: made.append(real(*args)) or made[-1])
    ended = here("score", "run", "--json", "--quiet", "--ahead", 0.5, "--ahead", 900, "--peer", "gpfa", cwd=trained)
    assert (ended.code, ended.err) == (0, "")
    rows = json.loads(ended.out)["rows"]
    found, hidden = rows["0.5 s ahead"], rows["hidden units"]
    assert set(found) == {"run", "smoothed counts", "causal PCA", "factor analysis", "run, smoothed", "GPFA"}
    assert found["GPFA"]["score"] is found["run, smoothed"]["score"] is None  # have seen what is ahead
    assert hidden["GPFA"] == hidden["causal PCA"]
    assert hidden["run, smoothed"]["score"] != hidden["run"]["score"]
    lead, _ = found["causal PCA"]["first_leads_by"]
    assert lead == pytest.approx(found["run"]["score"] - found["causal PCA"]["score"])

    lead = found["run"]["score"] - max(found[name]["score"] for name in STATES)
    monkeypatch.setattr(module, "score", lambda *_: made[0])  # is not computed again
    ended = here("score", "--run", "run", "--session", "session", cwd=trained)
    assert repr(made[0]).splitlines() == ended.out.splitlines()
    assert f"<td>{found['run']['score']:.3f} (" in made[0]._repr_html_()
    heads, first, *_, where, later, far, few = ended.out.splitlines()
    assert heads.startswith("bits per spike")
    assert first.startswith("0.5 s ahead")
    assert f"{found['run']['score']:.3f} ({found['run']['error']:.3f})" in first
    assert f"{lead:+.3f} (" in first
    assert f"held-out bins, 16 units with {made[0].spikes} spikes" in where
    for name in STATES:
        assert f"{name}, {made[0].widths[name]:g} s" in heads
    assert later.startswith("run, smoothed; GPFA: have seen bins to come")
    assert far.startswith("900 s ahead: not judged: no stretch")
    assert few.startswith("hidden units, learnt from 500 bins: not judged: too few bins")


def test_hidden_units_do_not_reach_the_states(model_and_counts):
    model, counts = model_and_counts
    hidden = np.array([1, 5])
    changed = counts.copy()
    changed[:, hidden] = 9
    one, other = (module.means_without(model, each, None, hidden) for each in (counts, changed))
    np.testing.assert_array_equal(one, other)
    assert not np.allclose(one, model.transform(counts), atol=1e-3)


def test_what_cannot_be_scored_is_told_in_one_line(trained, model_and_counts, monkeypatch):
    monkeypatch.setitem(sys.modules, "elephant", None)  # as if it was not installed
    ended = here("score", "run", "--peer", "GPFA", cwd=trained)
    line = "ldmfilter: peer GPFA: the package elephant is missing; pip install 'ldmfilter[bench]'\n"
    assert (ended.code, ended.err) == (3, line)
    with pytest.raises(InputError, match="peer LFADS: not known; choose from GPFA, CEBRA"):
        chosen(["LFADS"])
    ended = here("score", "run", "--ahead", -1, cwd=trained)
    assert (ended.code, ended.err) == (3, "ldmfilter: ahead is -1 s; give a number of seconds above 0, as 0.5\n")
    ended = here("score", "run", "--session", "foo.nwb", cwd=trained)
    assert ended.code == 3
    assert ended.err.startswith("ldmfilter: foo.nwb: ")
    model, counts = model_and_counts
    for wrong in ("x", ["x"], None, [True, "1 s"]):
        with pytest.raises(InputError, match=r"ahead is .*; give a number of seconds above 0, as 0\.5"):
            score(model, counts, ahead=wrong)
    with pytest.raises(InputError, match="model is 'run'; give a fitted LDMFilter"):
        score("run", counts)
    assert check_horizons(0.5) == check_horizons([0.5]) == (0.5,)
    for name, peers in (("causal PCA", []), ("GPFA", ["GPFA"])):
        monkeypatch.setitem(PEERS, "GPFA", ("numpy", STATES["causal PCA"]))
        with pytest.raises(InputError, match=f"model '{name}': .*; give it another name"):
            score({name: model}, counts, peers=peers)
    with pytest.raises(InputError, match="no model is given"):
        score({}, counts)
    everything = model._keep([0])
    everything.sessions_ = [dataclasses.replace(model.sessions_[0], trained_spans=[(0.0, 120.0)])]
    with pytest.raises(
        InputError, match=r"no time is held out, 2 s away from training, .* train with 0.4 of it reserved"
    ):
        score(everything, counts)
    with pytest.raises(InputError, match="too few to judge"):
        score(model, counts[:50].to_numpy())
