"""Agreement of fits: an affine map of the same states agrees, other states do not."""

import numpy as np
import pytest

from ldmfilter.analysis.score import IN_TRAINING, agreement, compare, score_runs
from ldmfilter.config import Config, DataConfig, FilterConfig
from ldmfilter.data import read_session
from ldmfilter.data.prepare import prepare
from ldmfilter.data.simulate import linear_track_session
from ldmfilter.data.windows import reserve
from ldmfilter.errors import InputError
from ldmfilter.filter.runs import Run
from ldmfilter.filter.training import Training
from tests.filter.conftest import SMALL


def slow(seed: int, n: int = 2000, dims: int = 3) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((n, dims))
    states = np.zeros((n, dims))
    for t in range(1, n):
        states[t] = 0.95 * states[t - 1] + noise[t]
    return states


def test_an_affine_map_agrees_and_chance_does_not():
    one = slow(0)
    fold = np.arange(len(one)) // 200 % 5
    mapped = one @ np.random.default_rng(1).standard_normal((3, 4)) + 7
    r2, control = agreement(one, mapped, fold)
    assert r2 == pytest.approx(1)
    assert control < 0.2
    assert agreement(one, slow(2), fold)[0] < 0.2


def test_noise_takes_its_share():
    one = slow(0, 20_000)
    other = one + np.random.default_rng(3).standard_normal(one.shape) * one.std(0)
    fold = np.arange(len(one)) // 500 % 5
    assert agreement(one, other, fold)[0] == pytest.approx(0.5, abs=0.02)


def make_run(folder, session, steps=SMALL["max_steps"], **options) -> Run:
    config = Config(DataConfig(**options), FilterConfig(**SMALL | {"max_steps": steps, "refit": steps > 1}))
    counts = prepare(session, config.data)
    run = Run.create(folder, config, session, counts)
    kept = reserve(counts, run.config.data.reserve)
    for _ in run.train(Training(config.filter, kept)):
        pass
    return run


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "session.zarr"
    return read_session(linear_track_session(seed=3, n_units=16, duration=330.0, rest=0.0).to_zarr(path))


def test_runs_are_compared_where_none_was_trained(session, tmp_path):
    first = make_run(tmp_path / "a", session)
    second = make_run(tmp_path / "b", session, spans=((0.0, 320.0),))
    result = compare([first, second])
    assert result.held_out
    assert 80 < result.bins < 660  # what neither was trained on
    assert result.median > result.chance
    assert np.diag(result.r2).tolist() == [1, 1]
    in_training = tuple(run.model().kept_.bits_per_spike for run in (first, second))
    assert (result.predicted, result.bits_per_spike) == (IN_TRAINING, in_training)  # their counts have other times
    assert result.to_dict()["runs"] == [str(tmp_path / "a"), str(tmp_path / "b")]

    again = make_run(tmp_path / "e", session, steps=1)
    result = compare([first, again])
    row = score_runs([first, again], ()).rows["hidden units"]
    assert result.predicted == "hidden units"
    assert dict(zip(result.runs, result.bits_per_spike, strict=True)) == pytest.approx(
        {name: row[name].value for name in result.runs}
    )

    everything = make_run(tmp_path / "c", session, steps=1, reserve=0.0)
    result = compare([first, everything])
    assert (result.held_out, result.predicted) == (False, IN_TRAINING)
    with pytest.raises(
        InputError, match=rf"{everything.folder}: .*: no time is held out, .* train with 0.4 of it reserved"
    ):
        score_runs([first, everything])

    coarse = make_run(tmp_path / "d", session, steps=1, bin_size=0.2)
    with pytest.raises(InputError, match=r"has bins of 0.2 s, .* of 0.1 s; compare runs with the same bins"):
        compare([first, coarse])
    with pytest.raises(InputError, match="two runs or more"):
        compare([first])


def test_runs_of_two_sessions_are_refused(session, tmp_path):
    other = linear_track_session(seed=4, n_units=16, duration=200.0, rest=0.0).to_zarr(tmp_path / "other.zarr")
    runs = [make_run(tmp_path / "a", session, steps=1), make_run(tmp_path / "b", read_session(other), steps=1)]
    with pytest.raises(InputError, match="compare runs of one session"):
        compare(runs)
