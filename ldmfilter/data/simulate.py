"""Seeded sessions whose latents are known: a rat on a linear track, and its calcium."""

from dataclasses import replace

import numpy as np
import xarray as xr
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from ldmfilter.data.session import Session
from ldmfilter.data.signal import SignalSession, from_signal
from ldmfilter.data.tables import Floats
from ldmfilter.errors import InputError

_FRAME = 0.02  # s, of behaviour
_CLOCK = 2.0**15  # Hz, of spikes; a power of two keeps their times short in binary
_REFRACTORY = 0.002  # s
_THETA = 8.0  # Hz, in the running rat
_MOVING = 2.0  # cm/s; slower is standing


def linear_track_session(
    seed: int = 0,
    n_units: int = 60,
    duration: float = 600.0,
    rest: float = 120.0,
    track_length: float = 180.0,
    n_interneurons: int | None = None,
    asymmetry: float = 0.0,
) -> Session:
    """A rat that runs to and fro on a linear track, pausing at its ends, and then rests away from it.

    Most place cells have a field in both directions, at unrelated places, over a low background. Their spikes
    are Poisson with a refractory time of 2 ms, modulated by theta (8 Hz) while the rat moves, by a gain drawn
    for each cell and traversal and by a slow gain shared by all. Rates of interneurons depend on theta and speed
    only. At rest no rate depends on the place; place cells then fire in brief population bursts.

    The session has interval tables `epochs` (tags "run" and "rest") and `trials` (one traversal a row,
    `direction` "outbound" or "inbound"), the unit columns `cell_type`, `outbound_field`, `inbound_field`
    (centres, cm, NaN for none), `field_width` (sd, cm), `peak_rate` and `background_rate` (Hz), and behaviour
    at 50 Hz below "processing/behavior/": `linear_position` (cm, NaN at rest), `direction` (1 outbound,
    -1 inbound, 0 standing), `speed` (cm/s), and the rest of the true state: `facing` (1 or -1), `theta_phase`
    (rad), `gain`.

    Parameters
    ----------
    seed : int
        Of everything random.
    n_units : int
        Of all kinds.
    duration : float
        s, of which the last `rest` s are rest.
    rest : float
        s.
    track_length : float
        cm.
    n_interneurons : int, optional
        Without it a sixth of the units.
    asymmetry : float
        From 0 to 1; with more, pauses are longer at the far end and shorter at the near one, and the way there is
        faster than the way back. Sessions of different seeds share a world but no unit; only where the world is not
        symmetric in itself can their states be told from mirrored ones.

    Returns
    -------
    Session

    Raises
    ------
    InputError
        The durations leave no time to run, or there are too few units.

    Examples
    --------
    >>> linear_track_session(duration=60, rest=0, n_units=6)
    <Session memory: 6 units, 1646 spikes, 0 to 60 s>
    """
    if not 0 <= rest < duration or not n_units >= 1:
        raise InputError(
            f"simulation: {n_units} units in {duration:g} s, {rest:g} s of them rest, cannot be; give more"
        )
    rng = np.random.default_rng(seed)
    run, trials = _run(rng, duration, rest, track_length, asymmetry)
    n_inter = n_units // 6 if n_interneurons is None else n_interneurons
    cells, phases = _draw_cells(rng, n_units, n_inter, track_length)
    epochs = slice(0, 2 if rest > 0 else 1)
    session = Session.from_spikes(
        _draw_spikes(rng, run, trials["start_time"], cells, phases),
        units=cells,
        intervals={
            "epochs": {
                "start_time": [0.0, duration - rest][epochs],
                "stop_time": [duration - rest, duration][epochs],
                "tags": [["run"], ["rest"]][epochs],
            },
            "trials": trials,
        },
        behavior={
            f"processing/behavior/{name}": xr.DataArray(
                run[name],
                dims="time",
                coords={"time": run["time"]},
                name=name,
                attrs={"unit": unit, "rate": 1 / _FRAME, "description": description},
            )
            for name, (unit, description) in _BEHAVIOR.items()
        },
    )
    return replace(session, extent=(0.0, float(duration)))


def calcium_session(
    session: Session, seed: int = 0, rate: float = 20.0, decay: float = 0.4, size: float = 0.2, noise: float = 0.2
) -> SignalSession:
    """The dF/F that an indicator would show of a session's spikes, with its behaviour, intervals and unit columns.

    Each spike adds `size`, which decays exponentially, and each frame has Gaussian noise of its own.

    Parameters
    ----------
    session : Session
        Of spikes.
    seed : int
        Of the noise.
    rate : float
        Of frames, Hz.
    decay : float
        Time constant of the indicator, s; CaImAn takes 0.4 s for GCaMP6f.
    size : float
        dF/F of a spike.
    noise : float
        Deviation, dF/F.

    Returns
    -------
    SignalSession

    Raises
    ------
    InputError
        A rate or a decay that is not positive.

    Examples
    --------
    >>> from ldmfilter.data.simulate import calcium_session
    >>> calcium_session(linear_track_session(duration=60, rest=0, n_units=6))
    <SignalSession memory: dff, 6 channels, 0 to 60 s>
    """
    if not (rate > 0 and decay > 0):
        raise InputError(f"simulation: {rate:g} frames a second that decay in {decay:g} s cannot be; give more than 0")
    n = round(session.stop * rate)
    time = np.arange(n) / rate + 0.5 / rate
    values = np.random.default_rng(seed).normal(0.0, noise, (n, session.n_units))
    keep = np.exp(-1 / (rate * decay))
    for unit in range(session.n_units):
        spikes = session.spikes_of(unit)
        frame = np.searchsorted(time, spikes)  # the first that sees a spike
        seen = frame < n
        left = np.exp((spikes[seen] - time[frame[seen]]) / decay)
        values[:, unit] += size * lfilter([1.0], [1.0, -keep], np.bincount(frame[seen], left, n))
    signal = xr.DataArray(
        values,
        dims=("time", "unit"),
        coords={"time": time, "unit": session.units["unit"].values},
        attrs={"unit": "dF/F", "description": "simulated fluorescence over its baseline"},
    )
    columns = {str(name): column.values for name, column in session.units.items()}
    return from_signal(signal, name="dff", units=columns, intervals=session.intervals, behavior=session.behavior)


#: The series of behaviour at each frame, their units and descriptions.
_BEHAVIOR = {
    "linear_position": ("cm", "position along the track, NaN at rest away from it"),
    "direction": ("a.u.", "1 running outbound, -1 running inbound, 0 standing or at rest"),
    "speed": ("cm/s", "running speed"),
    "facing": ("a.u.", "true state: the direction whose place fields are in force"),
    "theta_phase": ("radians", "true state: phase of the theta rhythm"),
    "gain": ("a.u.", "true state: slow gain shared by all units"),
}


def _run(
    rng: np.random.Generator, duration: float, rest: float, length: float, asymmetry: float
) -> tuple[dict[str, Floats], dict[str, list]]:
    """The series (time,) of `_BEHAVIOR`, with `time` (s), `theta` (rad, unwrapped) and `burst`, and the traversals."""
    time = _FRAME * np.arange(round(duration / _FRAME), dtype=np.float64)
    running = time < duration - rest
    position, facing, trials = _traverse(rng, time[running], length, asymmetry)
    n_rest = time.size - position.size
    position = np.concatenate([position, np.full(n_rest, np.nan)])
    facing = np.concatenate([facing, np.full(n_rest, facing[-1])])
    speed = np.where(running, np.abs(np.gradient(np.nan_to_num(position), _FRAME)), 0.0)
    speed[np.flatnonzero(running)[-1]] = 0.0  # no step from the track to the rest box
    theta = np.cumsum(_THETA + 0.5 * _smooth_noise(rng, time.size, 1.0)) * _FRAME * 2 * np.pi
    gain = np.exp(0.15 * _smooth_noise(rng, time.size, 5.0))
    # 100 ms bursts of the whole population, one in two seconds, at rest only.
    starts = np.flatnonzero(~running & (rng.random(time.size) < 0.5 * _FRAME))
    burst = np.zeros(time.size)
    burst[np.minimum(starts[:, None] + np.arange(round(0.1 / _FRAME)), time.size - 1)] = 1.0
    run = {"time": time, "linear_position": position, "facing": facing, "speed": speed, "theta": theta, "gain": gain}
    run |= {"burst": burst, "direction": np.where(speed > _MOVING, facing, 0.0), "theta_phase": theta % (2 * np.pi)}
    return run, trials


def _draw_cells(
    rng: np.random.Generator, n_units: int, n_inter: int, length: float
) -> tuple[dict[str, np.ndarray], Floats]:
    """Unit columns, NaN where an interneuron has none, and the preferred phase of theta of each unit (unit,), rad."""
    n_place, none = n_units - n_inter, np.full(n_inter, np.nan)
    cells = {
        "cell_type": np.where(np.arange(n_units) < n_place, "place", "interneuron"),
        "outbound_field": np.append(_field_centres(rng, n_place, length), none),
        "inbound_field": np.append(_field_centres(rng, n_place, length), none),
        "field_width": np.append(rng.uniform(8.0, 16.0, n_place), none),
        "peak_rate": np.append(rng.uniform(10.0, 25.0, n_place), none),
    }
    background = rng.uniform(0.05, 0.4, n_place)
    phases = rng.uniform(-np.pi, np.pi, n_units)
    return cells | {"background_rate": np.append(background, rng.uniform(6.0, 14.0, n_inter))}, phases


def _draw_spikes(
    rng: np.random.Generator, run: dict[str, Floats], starts: list[float], cells: dict[str, np.ndarray], phases: Floats
) -> list[Floats]:
    """Spike times (spike,), s, of each unit; `starts` of the traversals, s."""
    moving = run["speed"] > _MOVING
    traversal = np.searchsorted(starts, run["time"], side="right")
    depth = np.where(moving, 0.6, 0.0)
    trains = []
    for kind, outbound, inbound, width, peak, background, phase in zip(*cells.values(), phases, strict=True):
        rate = background * (0.8 + 0.01 * run["speed"] + run["burst"])
        if kind == "place":
            centre = np.where(run["facing"] > 0, outbound, inbound)
            field = np.nan_to_num(np.exp(-0.5 * ((run["linear_position"] - centre) / width) ** 2))
            # Standing still at the goal, place cells fire less.
            field = field * np.where(moving, 1.0, 0.5) * rng.lognormal(0.0, 0.25, traversal.max() + 1)[traversal]
            rate = background + peak * field + 6.0 * run["burst"]
        trains.append(_spikes(rng, run["time"], rate * run["gain"], run["theta"], depth, phase))
    return trains


def _smooth_noise(rng: np.random.Generator, n: int, seconds: float) -> Floats:
    """Gaussian noise (time,) of unit variance on the frames, smoothed over a time."""
    noise = gaussian_filter1d(rng.standard_normal(n), seconds / _FRAME, mode="wrap")
    return noise / noise.std()


def _traverse(
    rng: np.random.Generator, time: Floats, length: float, asymmetry: float
) -> tuple[Floats, Floats, dict[str, list]]:
    """Position (time,), cm, and facing (time,), 1 or -1, of a rat going to and fro, and its traversals."""
    trials: dict[str, list] = {"start_time": [], "stop_time": [], "direction": []}
    positions, facings, n, way = [], [], 0, 1.0
    while n < time.size:
        pause = round((1.0 + rng.exponential(2.0 * (1 - way * asymmetry))) / _FRAME)
        frames = round(1.2 * length / (rng.uniform(30.0, 50.0) * (1 + way * asymmetry / 3)) / _FRAME)
        # A bell of speed, made uneven, whose sum is one track length.
        speed = np.sqrt(np.sin(np.pi * (np.arange(frames) + 0.5) / frames))
        speed *= np.exp(0.25 * _smooth_noise(rng, frames, 0.4))
        path = np.cumsum(speed) / speed.sum()
        here = 0.0 if way > 0 else length
        positions += [np.full(pause, here), np.clip(here + way * length * path, 0.0, length)]
        # The rat turns round in the middle of a pause.
        facings += [np.full(pause // 2, -way), np.full(pause - pause // 2 + frames, way)]
        start, stop = (n + pause) * _FRAME, (n + pause + frames) * _FRAME
        if n + pause + frames <= time.size:
            trials["start_time"].append(start)
            trials["stop_time"].append(stop)
            trials["direction"].append("outbound" if way > 0 else "inbound")
        n, way = n + pause + frames, -way
    return np.concatenate(positions)[: time.size], np.concatenate(facings)[: time.size], trials


def _field_centres(rng: np.random.Generator, n: int, length: float) -> Floats:
    """Centres (unit,), cm, evenly over the track in a random order; NaN for the sixth without a field."""
    centres = np.full(n, np.nan)
    has_field = rng.permutation(n)[: n - n // 6]
    spacing = length / max(has_field.size, 1)
    centres[has_field] = spacing * (np.arange(has_field.size) + rng.random(has_field.size))
    return centres


def _spikes(rng: np.random.Generator, time: Floats, rate: Floats, theta: Floats, depth: Floats, phase: float) -> Floats:
    """Spike times (spike,), s: Poisson by thinning; rate (time,), Hz, before modulation by theta."""
    ceiling = (rate * (1 + depth)).max()
    times = np.sort(rng.uniform(time[0], time[-1], rng.poisson(ceiling * (time[-1] - time[0]))))
    frame = np.minimum((times / _FRAME).astype(np.int64), time.size - 1)
    modulated = rate[frame] * (1 + depth[frame] * np.cos(np.interp(times, time, theta) - phase))
    times = times[rng.random(times.size) * ceiling < modulated]
    times = times[np.diff(times, prepend=-np.inf) > _REFRACTORY]
    return np.round(times * _CLOCK) / _CLOCK
