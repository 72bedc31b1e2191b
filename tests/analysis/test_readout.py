"""Readouts and their intervals on worlds with known answers; bins of different use stay apart."""

import dataclasses
import json

import numpy as np
import pytest
import xarray as xr
from scipy.signal import lfilter
from sklearn.linear_model import Ridge
from threadpoolctl import threadpool_info, threadpool_limits

from ldmfilter.analysis.behavior import Behavior
from ldmfilter.analysis.checks import CHECKS
from ldmfilter.analysis.intervals import LEVELS, Readout
from ldmfilter.analysis.measures import Measures
from ldmfilter.analysis.readout import FAST, READOUTS, Reading, read_behavior
from ldmfilter.errors import InputError

BIN = 0.1


def one_network(bins):
    """The networks' candidate with one network of the three, and at most half of the steps."""
    within = "transformedtargetregressor__regressor__"
    (ensemble,) = READOUTS[2].candidates(bins)
    return [ensemble.set_params(**{f"{within}n_estimators": 1, f"{within}estimator__max_iter": 40})]


NETWORK = dataclasses.replace(READOUTS[2], candidates=one_network)


def world(seconds=600.0, states=3, trained=None, seed=0) -> xr.Dataset:
    """Slow states of unit variance, known to 0.2; training saw `trained`, a list of (start, stop), s."""
    rng = np.random.default_rng(seed)
    n = round(seconds / BIN)
    mean = np.stack([lfilter([1], [1, -0.9], rng.normal(size=n)) * np.sqrt(1 - 0.81) for _ in range(states)], 1)
    time = (np.arange(n) + 0.5) * BIN
    seen = np.zeros(n, dtype=bool)
    for start, stop in trained or []:
        seen |= (time > start) & (time < stop)
    return xr.Dataset(
        {
            "filtered_mean": (("time", "state"), mean.astype(np.float32)),
            "filtered_cov": (("time", "state", "state_2"), np.tile(0.04 * np.eye(states, dtype=np.float32), (n, 1, 1))),
            "observed": ("time", np.ones(n, dtype=bool)),
            "trained": ("time", seen),
        },
        {"time": time, "segment": ("time", np.zeros(n, dtype=np.int32)), "bound": ["lower", "upper"]},
        {"bin_size": BIN, "source_path": "session.nwb"},
    )


def sampled(latents, values, **more) -> Behavior:
    """Behaviour with one sample a bin."""
    time = latents["time"].to_numpy()
    lost = np.zeros(time.size, dtype=bool)
    return Behavior("place", "behavior/place", "cm", time, np.asarray(values, dtype=float), lost, **more)


def linear(latents, noise, seed=1):
    mean = latents["filtered_mean"].to_numpy()
    return 100 + mean @ np.arange(10.0, 40.0, 10.0) + noise * np.random.default_rng(seed).normal(size=len(mean))


def one(latents, behavior, **more):
    reading = read_behavior(latents, [behavior], shifts=20, **{"readouts": FAST, **more})
    return reading.latents, reading.reports[0]


def test_a_linear_world_is_read_as_well_as_its_noise_allows():
    latents = world(500)
    out, report = one(latents, sampled(latents, linear(latents, noise=20.0)))
    shown = Reading(out, (report,), {})._repr_html_()
    assert f"<td>R2 {report.read.r2:.3f}</td>" in shown
    expected = 1400 / (1400 + 400)  # variance of the states' part: 10^2 + 20^2 + 30^2
    assert report.chosen == "linear"
    assert report.readouts["linear"].r2 == pytest.approx(expected, abs=0.03)
    assert report.readouts["linear"].median_error == pytest.approx(0.6745 * 20, rel=0.05)
    assert report.control.p <= 1 / 21 + 1e-9
    assert report.control.shifted_95 < 0.1
    assert [i.level for i in report.intervals] == list(LEVELS)
    for i in report.intervals:
        assert i.coverage == pytest.approx(i.level, abs=max(0.02, 3 * i.coverage_se))
    # Gaussian noise of 20 cm: the best 95 % interval is 2 x 1.96 x 20 cm wide.
    assert report.intervals[3].width == pytest.approx(78.4, rel=0.1)
    # Its CRPS is 20 cm over the root of pi, and what happened is as probable as the readout says.
    assert report.distribution.crps == pytest.approx(20 / np.sqrt(np.pi), rel=0.06)
    np.testing.assert_allclose(report.distribution.pit, 0.1, atol=0.03)
    assert out["place_ci"].attrs["level"] == 0.95
    assert "level" not in out["place_true"].attrs
    seen = out["place_true"].to_numpy()[out["place_fold"].to_numpy() >= 0]
    np.testing.assert_allclose(report.value_range, (seen.min(), seen.max()), rtol=1e-6)
    judged = out["place_fold"].to_numpy() >= 0
    inside = (out["place_true"] >= out["place_ci"][:, 0]) & (out["place_true"] <= out["place_ci"][:, 1])
    assert float(inside.to_numpy()[judged].mean()) == pytest.approx(report.intervals[3].coverage, abs=1e-3)
    assert json.loads(out.attrs["behavior"])[0]["intervals"][3]["coverage"] == report.intervals[3].coverage


def test_nothing_is_read_beyond_the_values_that_were_seen():
    """Where a wall keeps behaviour from following the states: a line goes on, the readings do not."""
    latents = world(500)
    out, report = one(latents, sampled(latents, np.clip(linear(latents, noise=1.0), 90, 110)), readouts=FAST[:1])
    assert report.chosen == "linear"
    for told in (out["place_mean"], out["place_ci"]):
        assert (told.min(), told.max()) == (90, 110)


def test_thirds_are_told_where_intervals_do_not_follow():
    """Noise that follows the spikes, of which the states know nothing: right on average, wrong in the thirds."""
    latents = world(800)
    spikes = np.random.default_rng(4).poisson(np.repeat(np.random.default_rng(5).gamma(1, 3, 80), 100))
    noise = np.where(spikes > np.median(spikes), 2.0, 30.0) * np.random.default_rng(6).normal(size=spikes.size)
    coords = {name: latents[name] for name in ("time", "segment", "observed")}
    counts = xr.DataArray(spikes[:, None], coords | {"unit": [0]}, ("time", "unit"), attrs={"bin_size": BIN})
    behavior = sampled(latents, linear(latents, 0.0) + noise)
    reading = read_behavior(latents, [behavior], counts, shifts=20, readouts=FAST)
    reports = reading.reports
    thirds = reports[0].thirds
    off = dataclasses.replace(thirds[3], outside=True)
    told = repr(dataclasses.replace(reports[0], thirds=(off,)))
    assert f"speed of {off.low:.3g} to {off.high:.3g} cm/s" in told
    by = {name: [one for one in thirds if one.by == name] for name in dict.fromkeys(one.by for one in thirds)}
    assert list(by) == ["spikes in the last second", "speed", "predicted width", "value"]
    assert all(len(three) == 3 for three in by.values())
    few, _, many = by["spikes in the last second"]
    assert few.high <= many.low
    assert few.coverage + 3 * few.coverage_se < 0.95 < many.coverage - 3 * many.coverage_se
    assert many.outside
    told = repr(reading).splitlines()  # a table in a Python console
    assert told[0] == f"{reports[0].path}, place in the store"
    read = next(line for line in told if line.startswith("as read"))
    assert read.split()[-2:] == [f"{reports[0].read.r2:.3f}", f"{reports[0].read.median_error:.3g}"]
    assert any(
        line.endswith(f"bins with spikes in the last second of {many.low:.3g} to {many.high:.3g}") for line in told
    )
    measured = Measures(**dict.fromkeys(Measures.__dataclass_fields__, 0) | {"behavior": reports})
    row = next(row for row in CHECKS if row.of_behavior)
    finding = row.judge(measured)
    assert not finding.ok
    assert finding.value in [one.coverage for one in reports[0].thirds if one.outside]
    assert f"{100 * many.coverage:.1f} % of place in bins with spikes in the last second of" in finding.verdict
    inside = dataclasses.replace(reports[0], thirds=tuple(one for one in reports[0].thirds if not one.outside))
    assert row.judge(dataclasses.replace(measured, behavior=(inside,))).ok
    doubt = dataclasses.replace(few, coverage=0.99, coverage_se=0.02, outside=False)
    doubtful = row.judge(dataclasses.replace(measured, behavior=(dataclasses.replace(inside, thirds=(doubt,)),)))
    assert doubtful.sign == "ok~"
    assert "99.0 % of place" in doubtful.verdict
    assert doubtful.interval[1] == 1.0  # a share


def test_widths_follow_noise_that_depends_on_the_state():
    latents = world(800)
    loud = latents["filtered_mean"].to_numpy()[:, 0] > 0
    mean = 40 * latents["filtered_mean"].to_numpy()[:, 1]
    values = mean + np.where(loud, 20.0, 2.0) * np.random.default_rng(2).normal(size=loud.size)
    out, report = one(latents, sampled(latents, values))
    width = np.diff(out["place_ci"], axis=1)[:, 0]
    assert report.follow_state == 1
    assert width[loud].mean() > 1.7 * width[~loud].mean()
    at_95 = report.intervals[3]
    assert at_95.coverage == pytest.approx(0.95, abs=0.03)
    assert at_95.advantage > 2 * at_95.advantage_se > 0


def test_a_bent_map_is_read_by_neighbours_and_a_direction_on_the_circle():
    latents = world(500, states=2)
    mean = latents["filtered_mean"].to_numpy()
    noise = np.random.default_rng(3).normal(size=len(mean))
    _, bent = one(latents, sampled(latents, 50 * np.abs(mean[:, 0]) + 2 * noise))
    assert bent.chosen == "neighbours"
    assert bent.readouts["neighbours"].r2 > 0.9 > 0.3 > bent.readouts["linear"].r2
    direction = (np.rad2deg(np.arctan2(mean[:, 1], mean[:, 0])) + 10 * noise) % 360
    out, circle = one(latents, sampled(latents, direction, period=360.0))
    assert circle.read.median_error == pytest.approx(0.6745 * 10, rel=0.35)
    assert circle.read.r2 > 0.95
    assert circle.intervals[3].coverage == pytest.approx(0.95, abs=0.03)
    assert (out["place_ci"][:, 0] <= out["place_mean"]).all()
    assert (out["place_mean"] <= out["place_ci"][:, 1]).all()
    assert float((out["place_ci"][:, 1] - out["place_ci"][:, 0]).max()) <= 360.001


def test_a_product_is_read_by_networks_and_the_control_stays_with_the_fast_readouts():
    latents = world(250, states=3)
    x = latents["filtered_mean"].to_numpy()
    values = 30 * x[:, 0] * x[:, 1] + 20 * x[:, 2] + 4 * np.random.default_rng(4).normal(size=len(x))
    _, report = one(latents, sampled(latents, values), readouts=[*FAST, NETWORK])
    assert list(report.readouts) == ["linear", "neighbours", "networks"]
    assert report.chosen == "networks"
    assert report.chosen_in == 1
    fast = max(report.readouts[name].r2 for name in ("linear", "neighbours"))
    assert report.read.r2 == report.readouts["networks"].r2 > fast + 0.03
    assert report.control.r2 == pytest.approx(fast, abs=0.05)
    assert report.control.r2 < report.read.r2
    assert report.intervals[3].coverage == pytest.approx(0.95, abs=0.04)


def test_behaviour_that_the_states_know_nothing_of():
    latents = world(300)
    other = world(300, seed=9)
    _, report = one(latents, sampled(latents, linear(other, 0.0)))
    assert report.read.r2 < 0.05
    assert report.control.p > 0.05
    assert report.intervals[3].coverage == pytest.approx(0.95, abs=0.03)


def test_a_direction_that_the_states_know_nothing_of():
    """Of a direction at random an interval of a share of the circle covers that share."""
    latents = world(600)
    turn = np.random.default_rng(9).uniform(0, 360, latents.sizes["time"])
    _, report = one(latents, sampled(latents, turn, period=360.0))
    assert report.control.p > 0.05
    for i in report.intervals:
        assert i.coverage == pytest.approx(i.level, abs=0.025)
        assert i.width == pytest.approx(i.level * 360, rel=0.03)


def test_what_is_judged_was_seen_by_nothing_that_judges_it():
    """With the behaviour of one fold replaced, the readings of that fold stay equal to the last bit."""
    latents = world(220, trained=[(20, 40), (60, 80)])
    values = linear(latents, 10.0)
    out, report = one(latents, sampled(latents, values), readouts=[*FAST, NETWORK])
    assert report.folds == 5
    fold = out["place_fold"].to_numpy()
    other = np.where(fold == 3, values[::-1] * 3, values)
    again, _ = one(latents, sampled(latents, other), readouts=[*FAST, NETWORK])
    for name in ("place_mean", "place_ci"):
        np.testing.assert_array_equal(again[name][fold == 3], out[name][fold == 3])
        assert (again[name][fold != 3] != out[name][fold != 3]).any()


def test_bins_of_different_use_lie_apart():
    latents = world(400, trained=[(0, 60), (120, 160), (300, 310)])
    out, report = one(latents, sampled(latents, linear(latents, 10.0)))
    time, fold = out["time"].to_numpy(), out["place_fold"].to_numpy()
    trained = time[latents["trained"].to_numpy()]
    use = np.where(latents["trained"], -2, fold)
    assert np.abs(time[fold >= 0][:, None] - trained).min() > 2.0
    for a in range(5):
        assert (use == a).sum() > 200
        others = time[(use >= 0) & (use != a)]
        assert np.abs(time[use == a][:, None] - others).min() > 2.0
    assert sum(report.bins.values()) == time.size
    assert report.bins["trained"] == latents["trained"].sum()
    assert report.bins["used"] == (fold >= 0).sum()


@pytest.mark.parametrize("pause", [0.0, 1.23])
def test_trials_that_follow_each_other_are_not_apart(pause):
    latents = world(300)
    trial = np.arange(3000) // 40
    time = latents["time"].to_numpy() + pause * trial
    latents = latents.assign_coords(segment=("time", trial.astype(np.int32)), time=time)
    out, report = one(latents, sampled(latents, linear(latents, 10.0)))
    fold = out["place_fold"].to_numpy()
    assert 5 <= report.blocks <= 15
    for a in range(5):
        others = time[(fold >= 0) & (fold != a)]
        assert np.abs(time[fold == a][:, None] - others).min() > 2.0
    assert report.bins["used"] > 0.9 * time.size
    assert report.bins["used"] + report.bins["guard"] == time.size


def test_too_few_blocks_give_no_interval():
    latents = world(120, trained=[(0, 30), (45, 70), (85, 120)])
    out, report = one(latents, sampled(latents, linear(latents, 5.0)))
    assert (report.blocks, report.calibrated, report.intervals) == (2, False, ())
    assert "too few blocks of time that training never saw to calibrate (2, where 4 are needed)" in report.note
    assert "place_ci" not in out
    assert out["place_mean"].attrs["calibrated"] == 0
    assert np.isfinite(out["place_mean"]).all()
    assert report.read.r2 > 0.8


def test_time_that_training_saw_calibrates_nothing():
    latents = world(300, trained=[(0, 300)])
    out, report = one(latents, sampled(latents, linear(latents, 5.0)))
    assert not report.held_out
    assert not report.calibrated
    assert "training saw all of the time" in report.note
    assert "place_ci" not in out
    assert np.isfinite(out["place_mean"]).all()


def test_masked_and_slow_bins_are_counted_and_not_judged():
    latents = world(600)
    values = np.cumsum(np.where(np.arange(6000) % 200 < 100, 0.05, 3.0))
    values[1000:1200] = np.nan
    out, report = one(latents, sampled(latents, values), min_speed=5.0)
    assert report.bins["nan"] == pytest.approx(200, abs=4)
    judged = out["place_fold"].to_numpy() >= 0
    pace = np.abs(np.gradient(values, BIN))
    assert not (pace[judged] < 5).any()  # NaN beside the masked bins
    assert report.bins["slow"] == pytest.approx((pace < 5).sum(), abs=100)


def test_what_cannot_be_read_is_refused_in_one_line():
    latents = world(300, trained=[(0, 20)])
    values = linear(latents, 5.0)

    def refused(text, behavior, **more):
        with pytest.raises(InputError, match=text) as error:
            read_behavior(latents, [behavior], **more)
        assert "\n" not in str(error.value)
        assert "session.nwb: behavior/place" in str(error.value)

    late = Behavior("place", "behavior/place", "cm", np.arange(1000.0, 1100.0), np.arange(100.0), np.zeros(100, bool))
    refused("does not overlap with the decoded bins", late)
    refused("is constant", sampled(latents, np.where(np.arange(3000) < 2, 1.0, 5.0)))
    refused("no bin is left", sampled(latents, values), min_speed=1e9)
    nearly = np.full(3000, np.nan)
    nearly[500:512] = values[500:512]
    refused("usable bins are too few", sampled(latents, nearly))


def test_names_in_place_of_variables_are_refused():
    for names in ("place", ["place"]):
        with pytest.raises(InputError, match="behavior holds names; give the variables, as choose_behavior"):
            read_behavior(world(300), names)


def test_one_thread_while_readouts_are_fitted():
    latents, threads = world(300), []

    class Seen(Ridge):
        def fit(self, *args):
            threads.extend(one["num_threads"] for one in threadpool_info())
            return super().fit(*args)

    seen = Readout("linear", lambda _: [Seen()])
    with threadpool_limits(2):
        read_behavior(latents, [sampled(latents, linear(latents, 5.0))], shifts=20, readouts=[seen])
        assert {one["num_threads"] for one in threadpool_info()} == {2}
    assert set(threads) == {1}


def test_the_decoder_reads_what_the_counts_hold():
    latents = world(300)
    place = 50 + 45 * np.sin(latents["time"].to_numpy())
    centres = np.linspace(0, 100, 12)
    rate = 0.5 + 25 * np.exp(-0.5 * ((place[:, None] - centres) / 10) ** 2)
    counts = xr.DataArray(
        np.random.default_rng(5).poisson(rate * BIN).astype(np.uint8), dims=("time", "unit"),
        coords={"time": latents["time"], "unit": np.arange(12), "segment": ("time", np.zeros(3000, np.int32))},
        attrs={"bin_size": BIN},
    )  # fmt: skip
    _, report = one(latents, sampled(latents, place), counts=counts)
    assert report.decoder.r2 > 0.9
    assert report.decoder.median_error < 8
    assert report.read.r2 < 0.1  # the states of this world know nothing of the place


def test_networks_read_a_direction():
    latents = world(200, states=2)
    x = latents["filtered_mean"].to_numpy()
    direction = np.rad2deg(np.arctan2(x[:, 1], x[:, 0])) % 360
    _, report = one(latents, sampled(latents, direction, period=360.0), readouts=[FAST[0], NETWORK])
    assert report.readouts["networks"].r2 > 0.9
    assert report.readouts["networks"].median_error < 10
