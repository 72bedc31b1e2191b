"""Spikes on a linear track: which series is position, the phase of a lap, and the run beside its control."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import ldmfilter
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError
from ldmfilter.paper import fig4f
from ldmfilter.paper.fig4f import BIN

SAMPLE = Path(__file__).parents[2] / "sample_data" / "linear_track_sim.nwb"
REAL = Path("/work/shared/data/linear_track.nwb")
DANDI = "processing/behavior/1.6mLinearMazePosition/1.6mLinearMazeSpatialSeries"


def session(**behavior):
    """A session of one unit with series (sample,) or (sample, column) at 10 Hz."""
    made = Session.from_spikes([[0.5, 1.5]])
    for path, values in behavior.items():
        values = np.asarray(values, dtype=float)
        made.behavior[path] = xr.DataArray(
            values, dims=("time", "column")[: values.ndim], coords={"time": 0.1 * np.arange(len(values))}
        )
    return made


def there_and_back(laps=3, seconds=10.0, length=50.0):
    """Time at 10 Hz and place, out in `seconds` and back in as many."""
    time = 0.1 * np.arange(round(20 * laps * seconds))
    return time, length * (1 - np.abs((time / seconds) % 2 - 1))


def test_position_is_the_linear_series():
    _, place = there_and_back()
    found = fig4f.find_position(session(**{DANDI: place, "processing/behavior/speed": place + 1}))
    assert found.path == DANDI
    np.testing.assert_array_equal(found.values, place)


def test_two_columns_are_taken_along_their_axis():
    _, place = there_and_back()
    across = 0.1 * np.sin(np.arange(place.size))
    xy = np.stack([100 + 0.6 * place - 0.8 * across, 0.8 * place + 0.6 * across - 40], 1)
    found = fig4f.find_position(session(**{DANDI: xy}))
    assert found.path == DANDI
    np.testing.assert_allclose(found.values, place - place.mean(), atol=0.2)


@pytest.mark.parametrize(
    ("series", "reason"),
    [
        ({}, "no series"),
        ({"processing/behavior/speed": np.arange(9.0)}, "no series"),
        ({"a/linear_position": np.arange(9.0), "b/linear_position": np.arange(9.0)}, "several series"),
        ({"a/linear_position": np.random.default_rng(0).normal(size=(9, 3))}, "3 columns"),
    ],
)
def test_sessions_without_one_position_are_refused_in_a_line(series, reason):
    with pytest.raises(InputError, match=reason) as refusal:
        fig4f.find_position(session(**series))
    assert "\n" not in str(refusal.value)


def test_time_on_the_track_is_where_position_is_known():
    _, place = there_and_back()
    place[250:380] = np.nan
    found = fig4f.on_track(fig4f.find_position(session(**{DANDI: place})))
    np.testing.assert_allclose(found, [(0.0, 24.9), (38.0, 59.9)])


def test_phase_turns_once_a_lap():
    time, place = there_and_back()
    position = fig4f.find_position(session(**{DANDI: place}))
    phase, length = fig4f.lap_phase(position, time)
    assert length == pytest.approx(50, rel=0.05)
    assert phase.period == 2 * np.pi
    # At the ends, where the animal turns, the direction is that of half a second: they are left out.
    inner = np.isfinite(phase.values) & (place > 3) & (place < 47)
    expected = np.pi * time / 10
    away = phase.difference(phase.values, expected)[inner]
    assert inner.sum() > 400
    assert np.abs(away).max() < 0.15


def test_position_that_is_never_known_for_long_is_refused(monkeypatch):
    short = session(**{DANDI: np.arange(20.0)})
    monkeypatch.setattr(fig4f, "read_session", lambda path: short)
    with pytest.raises(InputError, match="never known"):
        fig4f.run(fig4f.SIZES["tiny"], 0, lambda text: None, Path("short.nwb"))


@pytest.fixture(scope="module")
def short():
    """A short run, with the states that it read from and what it said."""
    kept, said = [], []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fig4f, "write_sample", lambda path: shutil.copy(SAMPLE, path))  # which it is, and takes long
        patch.setattr(
            fig4f, "read_behavior", lambda *a, real=fig4f.read_behavior, **k: kept.append(real(*a, **k)) or kept[0]
        )
        outcome = fig4f.run(fig4f.SIZES["tiny"], 0, said.append, None)
    return outcome, kept[0].latents, said


def test_a_short_run_reads_more_than_its_control(short):
    outcome, _, said = short
    place, lap = outcome.numbers["position"], outcome.numbers["lap"]
    for report in (place, lap):
        assert report["read"]["r2"] > report["control"]["shifted_95"] + 0.2
    assert outcome.numbers["direction_right"] > 0.6  # a coin has 0.5
    found = {claim.text: claim for claim in outcome.claims}["coverage of the 95% interval of position"]
    assert found.value > 0.85
    assert (found.least, found.most) == (0.92, 0.98)
    assert any("step" in line for line in said)


def test_a_simulated_session_is_called_so(short):
    outcome, _, said = short
    assert outcome.numbers["simulated"] is True
    assert outcome.note in said
    assert outcome.note == outcome.picture.get_suptitle() == "simulated sample session; give --data for a recording"


def test_nothing_that_training_saw_is_drawn(short):
    outcome, latents, _ = short
    trained, time = latents["trained"].to_numpy(), latents["time"].to_numpy()
    assert 0.5 < trained.mean() < 0.7
    path, _ = fig4f.drawn_lap(latents)
    space, *rest = outcome.picture.axes
    drawn = space.lines[0].get_xydata()
    np.testing.assert_allclose(drawn, fig4f._phase_plane(latents)[path])
    assert not trained[path].any()
    limits = [axes.get_xlim() for axes in rest if axes.get_xlabel() == "time, s"]
    assert limits
    for start, stop in limits:
        inside = (time > start) & (time < stop)
        assert inside.sum() > 100
        assert not trained[inside].any()


def states(lap, trained, fold=None):
    """Latents that hold what the picture is chosen by, in one segment."""
    lap, trained = np.asarray(lap, dtype=float), np.asarray(trained, dtype=bool)
    fold = np.where(trained, -1, 0) if fold is None else fold
    about = {"lap_true": lap, "trained": trained, "observed": np.ones(lap.size, bool), "lap_fold": fold,
             "position_fold": fold}  # fmt: skip
    coords = {"time": BIN * np.arange(lap.size), "segment": ("time", np.zeros(lap.size, int))}
    return xr.Dataset({name: ("time", values) for name, values in about.items()}, coords)


def test_the_lap_is_the_quickest_whole_one_of_unseen_time():
    lap = np.concatenate([np.linspace(0, 7, 60), np.linspace(0, 7, 20), np.linspace(0, 7, 40)]) % (2 * np.pi)
    trained = np.arange(120) // 20 == 3  # the quickest
    path, turned = fig4f.drawn_lap(states(lap, trained))
    assert turned == 1
    assert (path.min() >= 80, path.max() < 120, path.size) == (True, True, 37)
    path, turned = fig4f.drawn_lap(states(np.linspace(0, 3, 50), np.arange(50) < 10))
    assert turned == pytest.approx(3 * 39 / 49 / (2 * np.pi))
    assert path.tolist() == list(range(10, 50))
    # A turn on the way, to the other half of the phase, is no lap.
    jumps = np.tile([2.0, 4.2], 20)
    assert fig4f.drawn_lap(states(jumps, np.zeros(40)))[1] == 0


def test_stretches_are_those_in_which_most_is_judged():
    trained = np.zeros(90, dtype=bool)
    trained[[30, 31, 60, 61]] = True
    fold = np.full(90, -1)
    fold[5:10], fold[35:55], fold[70:85] = 0, 1, 2
    latents = states(np.zeros(90), trained, fold)
    assert [part[[0, -1]].tolist() for part in fig4f.drawn_stretches(latents, 5.7)] == [[32, 59], [62, 89]]
    (one,) = fig4f.drawn_stretches(latents, 2.0)
    assert one.size == 20
    assert (fold[one] == 1).all()


def test_a_ring_is_told_from_a_line():
    phase = np.random.default_rng(0).uniform(0, 2 * np.pi, 3000)
    latents = states(phase, np.zeros(3000))
    ring = np.stack([np.cos(phase), np.sin(phase)], 1)
    np.testing.assert_allclose(fig4f.ring_radii(latents, ring), 1, atol=0.02)
    line = ring * [1, 0]  # position alone: the way there and the way back are one
    assert fig4f.ring_radii(latents, line).min() < 0.1
    few = states(np.where(phase < 0.53, np.nan, phase), np.zeros(3000), np.where(phase < 0.53, -1, 0))
    assert np.isnan(fig4f.ring_radii(few, ring)).sum() == 1


def test_too_little_time_to_keep_some_from_training(monkeypatch):
    _, place = there_and_back(laps=1, seconds=12.0)
    monkeypatch.setattr(fig4f, "read_session", lambda path: session(**{DANDI: place}))
    with pytest.raises(InputError, match="are too few to keep some from training; give a session with 25 s or more"):
        fig4f.run(fig4f.SIZES["tiny"], 0, lambda text: None, Path("short.nwb"))


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not here")
def test_the_recorded_session_has_one_position():
    position = fig4f.find_position(ldmfilter.read_session(REAL))
    assert position.path == "processing/behavior/linear_position"
    assert len(fig4f.on_track(position)) >= 1
