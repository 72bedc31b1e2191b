"""Spikes on a linear track: which series is position, the phase of a lap, and the run beside its control."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import ldmfilter
from ldmfilter.data.session import Session
from ldmfilter.errors import InputError
from ldmfilter.paper import fig4f

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


def test_no_sample_and_no_data_is_one_line(monkeypatch, tmp_path):
    monkeypatch.setattr(fig4f, "SAMPLE", tmp_path / "none.nwb")
    with pytest.raises(InputError, match="--data") as refusal:
        fig4f.run(fig4f.SIZES["tiny"], 0, None, lambda text: None)
    assert "\n" not in str(refusal.value)


def test_position_that_is_never_known_for_long_is_refused(monkeypatch):
    short = session(**{DANDI: np.arange(20.0)})
    monkeypatch.setattr(fig4f, "read_session", lambda path: short)
    with pytest.raises(InputError, match="never known"):
        fig4f.run(fig4f.SIZES["tiny"], 0, Path("short.nwb"), lambda text: None)


def test_a_short_run_reads_more_than_its_control():
    said = []
    outcome = fig4f.run(fig4f.SIZES["tiny"], 0, None, said.append)
    place, lap = outcome.numbers["position"], outcome.numbers["lap"]
    for report in (place, lap):
        assert report["read"]["r2"] > report["control"]["shifted_95"] + 0.2
    assert outcome.numbers["direction_right"] > 0.6  # a coin has 0.5
    assert {claim.text: claim for claim in outcome.claims}["coverage of the 95% interval of position"].value > 0.85
    assert len(outcome.picture.axes) == 4  # states, colours, raster, position
    assert said


@pytest.mark.skipif(not REAL.is_file(), reason=f"{REAL} is not here")
def test_the_recorded_session_has_one_position():
    position = fig4f.find_position(ldmfilter.read_session(REAL))
    assert position.path == "processing/behavior/linear_position"
    assert len(fig4f.on_track(position)) >= 1
