"""An alarm that says when innovations lean to one side for longer than chance allows."""

from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr

from ldmfilter.analysis import alarm as module
from ldmfilter.analysis.alarm import Alarm
from ldmfilter.errors import InputError

WINDOW = 200  # bins of 0.1 s


@pytest.fixture
def alarm(monkeypatch) -> Alarm:
    """Of 400 s of white innovations that training never saw, and 600 s that it saw."""
    x = np.random.default_rng(0).standard_normal((10_000, 6))
    monkeypatch.setattr(module, "_innovations", lambda *_: (x, np.arange(10_000) >= 4_000))
    return Alarm(SimpleNamespace(bin_size_=0.1), xr.DataArray(), seconds=20.0)


def test_the_same_process_is_silent_and_a_shift_is_told_and_its_end(alarm):
    x = np.random.default_rng(1).standard_normal((24_000, 6))
    x[20_000:21_000, 2] += 0.6
    x[5_000:5_100] = np.nan  # missing bins, which change nothing
    on = np.array([alarm.step(one) for one in x])
    begin, end = np.flatnonzero(np.diff(on)) + 1
    assert 20_000 < begin < 20_000 + WINDOW
    assert 21_000 + WINDOW / 2 < end < 21_000 + 2 * WINDOW + 1


def test_sizes_are_those_of_a_plain_mean(alarm):
    x = np.random.default_rng(2).standard_normal((1_030, 6))
    sizes = []
    for one in x:
        alarm.step(one)
        sizes.append(alarm.size)
    assert np.isnan(sizes[: WINDOW - 1]).all()
    length = [np.linalg.norm(x[t - WINDOW : t].mean(0)) for t in (WINDOW, 777, 1_030)]
    ratio = np.array([sizes[t - 1] for t in (WINDOW, 777, 1_030)]) / length
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-12)
    assert ratio[0] == pytest.approx(np.sqrt(WINDOW / 6), rel=0.1)  # 1 is expected of white ones
    assert 1.5 < alarm.limit < 6


def test_too_little_time_that_training_never_saw(alarm):
    counts = xr.DataArray(attrs={"path": "session.nwb"})
    with pytest.raises(
        InputError, match=r"session.nwb: 400 s .* hold 6 of the windows of 60 s; an alarm needs 8.*reserved"
    ):
        Alarm(SimpleNamespace(bin_size_=0.1), counts, seconds=60.0)
    with pytest.raises(InputError, match="give more than 0"):
        Alarm(SimpleNamespace(bin_size_=0.1), counts, seconds=0.0)
