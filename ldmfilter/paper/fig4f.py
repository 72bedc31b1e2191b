"""Figure 4, E to G: the filter on spikes of a rat that runs to and fro on a track.

The filter is trained without behaviour on six tenths of the time that the animal is on the track. From its states are
then read, by readouts that saw other blocks of the rest (`analysis.readout`): position, with a 95 % interval, and the
phase of the lap, which is half a turn on the way out and the other half on the way back. The ring that position and
direction make is measured in the plane of the states in which a linear map, fitted on other bins, reads the phase's
cosine and sine: on a ring the mean state of each phase lies in the direction of that phase, away from the middle.
A readout by neighbours alone may read the phase without a ring. All that is drawn is time that training did not see.

Data: any session that `read_session` reads, with one series of position on a track, one whose path says "linear"
(DANDI 000044: `processing/behavior/<prefix>LinearMazePosition/<prefix>LinearMazeSpatialSeries`). Two columns are
taken along their principal axis. Without data, the sample session of `ldmfilter sample`, which is simulated: it
shows what the figure looks like, not that it holds for an animal; verdict, numbers and picture are marked so.
"""

from __future__ import annotations

import dataclasses
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.figure import Figure, SubFigure

from ldmfilter.analysis.behavior import Behavior, align, choose_behavior
from ldmfilter.analysis.intervals import LEVELS
from ldmfilter.analysis.plots import plot_behavior, plot_raster
from ldmfilter.analysis.readout import BehaviorReport, read_behavior
from ldmfilter.config import DataConfig
from ldmfilter.data import read_session
from ldmfilter.data.prepare import prepare
from ldmfilter.data.sample import IDENTIFIER, write_sample
from ldmfilter.data.session import Session
from ldmfilter.data.tables import shorten
from ldmfilter.data.windows import RESERVED_BLOCK, reserve
from ldmfilter.errors import InputError
from ldmfilter.filter.model import LDMFilter
from ldmfilter.filter.training import Record
from ldmfilter.paper.experiment import OURS, STATED, Claim, Outcome, Say, bare
from ldmfilter.paper.readout import affine

BIN = 0.1  # s
RESERVED = 0.4  # of the time, for readout, calibration and judgement
SLOW = 0.03  # of the track's length a second: slower bins are not judged
SMOOTH = 0.5  # s, over which the direction of running is taken
LEVEL = 0.95
LONGEST_GAP = 10.0  # s without a position, within a stretch of time on the track
SHORTEST = 20.0  # s, of such a stretch
PHASE_BINS = 24  # of a lap, by which the raster's units are put in order
RING_BINS = 12  # of a lap, in each of which the mean state is looked at
LEAST_STATES = 5  # that make a mean
LARGEST_STEP = np.pi / 2  # rad, of the phase from one bin to the next: more is a turn on the way, not a lap
REPORTS = 6  # of training
OWN = "own reasoning"
SIMULATED = "simulated sample session; give --data for a recording"


@dataclass(frozen=True)
class Settings:
    """Attributes:
    steps: of training.
    shown: s of the raster and the decoded position, at most.
    """

    steps: int
    shown: float


SIZES = {"tiny": Settings(25, 20.0), "small": Settings(600, 40.0), "paper": Settings(600, 40.0)}


def find_position(session: Session) -> Behavior:
    """The animal's position along the track.

    Raises:
        InputError: no series, or several, whose path says that it is linear; or it has more than two columns.
    """
    where = session.source.path
    paths = [path for path in session.behavior if "linear" in "/".join(path.split("/")[-2:]).lower()]
    single = [path for path in paths if session.behavior[path].ndim == 1 or session.behavior[path].shape[1] == 1]
    paths = single or paths
    if len(paths) != 1:
        found = shorten(paths or list(session.behavior)) if session.behavior else "none"
        raise InputError(
            f"{where}: {'several series' if paths else 'no series'} of position on a linear track among its behaviour "
            f"({found}); give a session with one whose path says 'linear'"
        )
    columns = choose_behavior(session, paths)
    if len(columns) == 1:
        return dataclasses.replace(columns[0], name="position")
    if len(columns) > 2:
        raise InputError(f"{where}: {paths[0]} has {len(columns)} columns; position on a track has one or two")
    xy = np.stack([column.values for column in columns], 1)
    known = np.isfinite(xy).all(1)
    centred = xy - xy[known].mean(0)
    axis = np.linalg.svd(centred[known], full_matrices=False)[2][0]
    return dataclasses.replace(
        columns[0], name="position", path=paths[0], values=centred @ (axis * np.sign(axis[np.abs(axis).argmax()]))
    )


def on_track(position: Behavior) -> list[tuple[float, float]]:
    """Stretches of time, s, in which the position is known."""
    time = position.time[np.isfinite(position.values)]
    ends = np.flatnonzero(np.diff(time) > LONGEST_GAP)
    first, last = np.append(0, ends + 1), np.append(ends, time.size - 1)
    return [(a, b) for a, b in zip(time[first].tolist(), time[last].tolist(), strict=True) if b - a >= SHORTEST]


def lap_phase(position: Behavior, time: np.ndarray) -> tuple[Behavior, float]:
    """The phase of the lap, rad, a circular variable sampled at times (time,), s, BIN apart where nothing is missing;
    and the length of the track, in the unit of position.

    Half a turn is the way out, towards larger positions, the other half the way back.
    """
    place, _ = align(position, time, BIN)
    low, high = np.nanpercentile(place, [1, 99])
    share = np.clip((place - low) / (high - low), 0, 1)
    reach = max(1, round(SMOOTH / BIN))
    ahead, behind = np.roll(place, -reach), np.roll(place, reach)
    ahead[-reach:], behind[:reach] = np.nan, np.nan
    out = ahead > behind
    phase = np.where(out, share, 2 - share) * np.pi % (2 * np.pi)
    phase[~np.isfinite(ahead - behind)] = np.nan
    lost = np.zeros(time.size, dtype=bool)
    return Behavior("lap", "phase of the lap", "rad", time, phase, lost, period=2 * np.pi), float(high - low)


class _Recording(NamedTuple):
    session: Session
    counts: xr.DataArray
    seen: xr.DataArray  # the counts, without those kept from training
    position: Behavior
    phase: Behavior
    length: float  # of the track
    simulated: bool


def _sample() -> Session:
    with tempfile.TemporaryDirectory() as folder:
        return read_session(write_sample(Path(folder) / "linear_track_sim.nwb"))


def _prepare(data: Path | None) -> _Recording:
    """Read a session, or without one the sample session, and split its time on the track.

    Raises:
        InputError: it has no usable position, or too little time.
    """
    session = _sample() if data is None else read_session(data)
    position = find_position(session)
    stretches = on_track(position)
    if not stretches:
        raise InputError(
            f"{session.source.path}: {position.path}: position is never known for {SHORTEST:g} s in a row; "
            "give a session with more"
        )
    counts = prepare(session, DataConfig(bin_size=BIN, spans=tuple(stretches)))
    seen = reserve(counts, RESERVED)
    if seen.sizes["time"] == counts.sizes["time"]:
        raise InputError(
            f"{session.source.path}: {counts.sizes['time'] * BIN:.0f} s on the track are too few to keep some from "
            f"training; give a session with {RESERVED_BLOCK / RESERVED:g} s or more"
        )
    simulated = session.source.identifier == IDENTIFIER
    return _Recording(session, counts, seen, position, *lap_phase(position, counts["time"].to_numpy()), simulated)


def run(settings: Settings, seed: int, say: Say, data: Path | None) -> Outcome:
    """Train, decode, read position and phase.

    Raises:
        InputError: see `_prepare`.
        TrainingError: training diverged or collapsed.
    """
    session, counts, seen, position, phase, length, simulated = _prepare(data)
    note = SIMULATED if simulated else ""
    if note:
        say(note)
    say(f"{counts.sizes['time']} bins of {BIN:g} s, {counts.sizes['unit']} units, {position.path}")

    def report(record: Record) -> None:
        if record.step % max(1, settings.steps // REPORTS) == 0:
            say(f"step {record.step} of {settings.steps}, predictive information {record.score:.3f} nats a bin")

    model = LDMFilter(seed=seed, max_steps=settings.steps, device="cpu").fit(seen, progress=report)
    say("reading position and phase from the states, and 39 shifted ones")
    states = model.decode(counts, ci=LEVEL)
    reading = read_behavior(states, [position, phase], ci=LEVEL, min_speed=SLOW * length, shifts=39)
    (place, lap), latents = reading.reports, reading.latents
    assert isinstance(place, BehaviorReport)
    assert isinstance(lap, BehaviorReport)
    plane = _phase_plane(latents)
    ring, direction_right = ring_radii(latents, plane), _direction_right(latents)
    stretches, (path, turned) = drawn_stretches(latents, settings.shown), drawn_lap(latents)
    time = latents["time"].to_numpy()
    numbers = {
        "session": Path(session.source.path).name,
        "simulated": simulated,
        "units": counts.sizes["unit"],
        "bins": int(counts.sizes["time"]),
        "track_length": length,
        "unit": position.unit,
        "kept_step": model.kept_step_,
        "position": place.to_dict(),
        "lap": lap.to_dict(),
        "direction_right": direction_right,
        "ring_radii": ring,
        "drawn": {
            "stretches": [time[bins[[0, -1]]].tolist() for bins in stretches],
            "lap": time[path[[0, -1]]].tolist(),
            "lap_turns": turned,
        },
    }
    figure = Figure(figsize=(13, 5.5), layout="constrained")
    figure.suptitle(note, fontsize=11, color="C3")
    left, right = figure.subfigures(1, 2, squeeze=False, width_ratios=[1, 1.4])[0]
    _draw_plane(left, latents, plane, path, turned)
    _draw_stretches(right, latents, session.select_units(counts["unit"].to_numpy()), stretches)
    return Outcome(numbers, claims(place, lap, direction_right, length, ring), figure, note)


def claims(
    place: BehaviorReport, lap: BehaviorReport, direction_right: float, length: float, ring: np.ndarray
) -> list[Claim]:
    """The statements of figure 4E-G, measured on held-out time."""
    level = place.intervals[LEVELS.index(LEVEL)] if place.intervals else None
    coverage, width, constant = (level.coverage, level.width, level.constant_width) if level else (np.nan,) * 3
    r2, phase_r2 = (report.read.r2 if report.read else np.nan for report in (place, lap))
    low, high = round(LEVEL - 0.03, 6), round(LEVEL + 0.03, 6)
    rows: list[tuple[str, float, float | None, float | None, str]] = [
        ("R2 of position", r2, 0.5, None, "figure 4G"),
        (f"coverage of the {LEVEL:.0%} interval of position", coverage, low, high, "figure 4G"),
        (f"its width, as a share of the track's length of {length:.0f}", width / length, None, 0.5, OWN),
        ("its width over that of intervals of one width", width / constant, None, 1.0, OWN),
        (
            "R2 of the phase of the lap, which position and direction make, read linearly or by neighbours",
            phase_r2,
            0.3,
            None,
            "figure 4E",
        ),
        (
            "the states lie on a ring: least radius, from 0 in the middle to 1, of the mean state of a phase",
            float(np.min(ring)),
            0.5,
            None,
            "figure 4E",
        ),
        ("share of running bins whose direction is read right", direction_right, 0.7, None, "figure 4E"),
    ]
    if lap.control is not None:
        text = f"p value of the phase's R2 among {lap.control.shifts} shifted ones"
        rows.append((text, lap.control.p, None, 0.05, OWN))
    return [Claim(*row, limit=STATED if row[0].startswith("its width over") else OURS) for row in rows]


def _direction_right(latents: xr.Dataset) -> float:
    """Share of judged bins whose phase is read on the right half of the turn."""
    judged = latents["lap_fold"].to_numpy() >= 0
    true, read = (latents[f"lap_{what}"].to_numpy()[judged] % (2 * np.pi) for what in ("true", "mean"))
    return float(((true < np.pi) == (read < np.pi)).mean()) if judged.any() else np.nan


def ring_radii(latents: xr.Dataset, plane: np.ndarray) -> np.ndarray:
    """Radii (phase,) of the mean states of RING_BINS phases, each along the direction of its phase in the plane
    (time, 2) of `_phase_plane`: 1 on a ring, 0 in the middle, NaN of fewer than LEAST_STATES judged bins."""
    lap = latents["lap_true"].to_numpy()
    judged = latents["lap_fold"].to_numpy() >= 0
    number = np.where(judged, lap % (2 * np.pi) / (2 * np.pi) * RING_BINS, -1).astype(int)
    middle = (np.arange(RING_BINS) + 0.5) * 2 * np.pi / RING_BINS
    return np.array(
        [
            plane[number == k].mean(0) @ [np.cos(angle), np.sin(angle)]
            if (number == k).sum() >= LEAST_STATES
            else np.nan
            for k, angle in enumerate(middle)
        ]
    )


def _unseen(latents: xr.Dataset) -> list[np.ndarray]:
    """Stretches of bins in a row that training did not see."""
    segment = latents["segment"].to_numpy()
    bins = np.flatnonzero(~latents["trained"].to_numpy().astype(bool) & latents["observed"].to_numpy().astype(bool))
    return np.split(bins, np.flatnonzero((np.diff(bins) > 1) | (np.diff(segment[bins]) != 0)) + 1)


def drawn_stretches(latents: xr.Dataset, seconds: float) -> list[np.ndarray]:
    """Bins, in order of time, of the unseen stretches in which most is judged, together no longer than `seconds` (but
    one at least, of which that long a part is taken)."""
    judged = latents["position_fold"].to_numpy() >= 0
    most = max(1, round(seconds / BIN))
    parts = []
    for bins in _unseen(latents):
        some = min(most, bins.size)
        first = int(np.convolve(judged[bins], np.ones(some), "valid").argmax())
        parts.append(bins[first : first + some])
    parts.sort(key=lambda bins: int(judged[bins].sum()), reverse=True)
    total = np.cumsum([bins.size for bins in parts])
    return sorted(parts[: max(1, int((total <= most).sum()))], key=lambda bins: int(bins[0]))


def drawn_lap(latents: xr.Dataset) -> tuple[np.ndarray, float]:
    """Bins of the quickest whole turn of the phase in an unseen stretch, or of the largest part of a turn where none
    is whole; and how many turns these are."""
    lap = latents["lap_true"].to_numpy()
    best, key = np.empty(0, dtype=int), (-1.0, 0)
    for stretch in _unseen(latents):
        known = stretch[np.isfinite(lap[stretch])]
        step = np.abs(np.angle(np.exp(1j * np.diff(lap[known]))))
        for bins in np.split(known, np.flatnonzero((np.diff(known) > 1) | (step > LARGEST_STEP)) + 1):
            turns = np.unwrap(lap[bins]) / (2 * np.pi)
            for first, start in enumerate(turns):
                done = np.flatnonzero(turns[first:] - start >= 1)
                last = first + int(done[0]) if done.size else first + int(turns[first:].argmax())
                found = (min(float(turns[last] - start), 1.0), first - last)
                if found > key:
                    best, key = bins[first : last + 1], found
    return best, key[0]


def _draw_plane(figure: SubFigure, latents: xr.Dataset, plane: np.ndarray, path: np.ndarray, turned: float) -> None:
    """Unseen states in the plane of the phase, with a lap over them."""
    lap, judged = latents["lap_true"].to_numpy(), latents["lap_fold"].to_numpy() >= 0
    axes = figure.subplots()
    x, y = plane[judged].T
    drawn = axes.scatter(x, y, c=lap[judged], s=4, cmap="hsv", vmin=0, vmax=2 * np.pi, linewidths=0)
    axes.plot(*plane[path].T, color="black", linewidth=1.4)
    axes.set_aspect("equal", "datalim")
    axes.set(xlabel="decoded cosine of the phase", ylabel="decoded sine of the phase")
    part = "one lap" if turned >= 1 else f"{turned:.0%} of a lap"
    axes.set_title(f"states that training did not see; {part}", fontsize=10)
    bare(axes)
    bar = figure.colorbar(drawn, ax=axes, shrink=0.6, ticks=[0, np.pi, 2 * np.pi])
    bar.ax.set_yticklabels(["start", "far end", "start"])


def _draw_stretches(figure: SubFigure, latents: xr.Dataset, session: Session, stretches: list[np.ndarray]) -> None:
    """Raster, and position with its interval, a column for each stretch."""
    time, lap = latents["time"].to_numpy(), latents["lap_true"].to_numpy()
    widths = [bins.size for bins in stretches]
    grid = figure.subplots(
        2, len(stretches), squeeze=False, sharex="col", sharey="row", height_ratios=[1.4, 1], width_ratios=widths
    )
    order = _by_phase(session, time, np.where(latents["trained"], lap, np.nan))
    for (above, below), bins in zip(grid.T, stretches, strict=True):
        ends = time[bins[[0, -1]]] + [-BIN / 2, BIN / 2]
        plot_raster([session.spikes_of(unit) for unit in order], above, *ends)
        plot_behavior(latents.isel(time=bins), "position", below)
        above.set_xlabel("")
        above.tick_params(labelbottom=False)
    for axes in grid[:, 1:].flat:
        axes.set_ylabel("")
    unit = latents["position_mean"].attrs["unit"]
    grid[1, 0].set_ylabel(f"position, {unit}" if unit else "position")
    grid[1, -1].legend(fontsize=8, frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1.0))
    number = f"{len(stretches)} stretches" if len(stretches) > 1 else "a stretch"
    figure.suptitle(f"{number} of time that training did not see", fontsize=10)


def _phase_plane(latents: xr.Dataset) -> np.ndarray:
    """States (time, 2) in the plane of cosine and sine of the phase: least squares on bins that are not judged."""
    mean, lap = latents["filtered_mean"].to_numpy(), latents["lap_true"].to_numpy()
    fitted = (latents["lap_fold"].to_numpy() < 0) & np.isfinite(lap)
    return affine(mean[fitted], np.stack([np.cos(lap), np.sin(lap)], 1)[fitted]).predict(mean)


def _by_phase(session: Session, time: np.ndarray, lap: np.ndarray) -> list[int]:
    """Units by the phase at which they fire most."""
    edges = np.linspace(0, 2 * np.pi, PHASE_BINS + 1)
    spent = np.histogram(lap[np.isfinite(lap)], edges)[0]
    peaks = []
    for unit in range(session.n_units):
        spikes = session.spikes_of(unit)
        near = np.searchsorted(time, spikes).clip(0, time.size - 1)
        phases = lap[near[np.abs(time[near] - spikes) <= BIN]]
        peaks.append(int((np.histogram(phases[np.isfinite(phases)], edges)[0] / np.maximum(spent, 1)).argmax()))
    return np.argsort(peaks, kind="stable").tolist()
