"""Figure 4, E to G: the filter on spikes of a rat that runs to and fro on a track.

The filter is trained without behaviour on six tenths of the time that the animal is on the track. From its states are
then read, by readouts that saw other blocks of the rest (`analysis.readout`): position, with a 95 % interval, and the
phase of the lap, which is half a turn on the way out and the other half on the way back. That position and direction
lie on a ring is seen in the picture and measured by how well the phase is read.

Data: any session that `read_session` reads, with one series of position on a track, one whose path says "linear"
(DANDI 000044: `processing/behavior/<prefix>LinearMazePosition/<prefix>LinearMazeSpatialSeries`). Two columns are
taken along their principal axis. Without data, the sample session of the repository: simulated, so that it shows what
the figure looks like, and not that it holds for an animal.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from ldmfilter.analysis.behavior import Behavior, align, choose_behavior
from ldmfilter.analysis.readout import LEVELS, BehaviorReport, read_behavior
from ldmfilter.data import read_session
from ldmfilter.data.binning import bin_spikes, choose_spans, choose_units
from ldmfilter.data.session import Session
from ldmfilter.data.tables import shorten
from ldmfilter.data.windows import reserve
from ldmfilter.errors import InputError
from ldmfilter.filter.model import LDMFilter
from ldmfilter.paper.experiment import Claim, Outcome, Say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE = Path(__file__).parents[2] / "sample_data" / "linear_track_sim.nwb"
BIN = 0.1  # s
RESERVED = 0.4  # of the time, for readout, calibration and judgement
SLOW = 0.03  # of the track's length a second: slower bins are not judged
SMOOTH = 0.5  # s, over which the direction of running is taken
LEVEL = 0.95
LONGEST_GAP = 10.0  # s without a position, within a stretch of time on the track
SHORTEST = 20.0  # s, of such a stretch
PHASE_BINS = 24  # of a lap, by which the raster's units are put in order


@dataclass(frozen=True)
class Settings:
    """steps: of training; shown: s of the raster and the decoded position."""

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


def run(settings: Settings, seed: int, data: Path | None, say: Say) -> Outcome:
    """Train, decode, read position and phase.

    Raises:
        InputError: there is no sample session and no other was given, or it has no usable position.
        TrainingError: training diverged or collapsed.
    """
    if data is None and not SAMPLE.is_file():
        raise InputError(
            f"{SAMPLE}: the sample session is not part of an installed package; give a session of a linear track with "
            "--data (DANDI 000044, https://dandiarchive.org/dandiset/000044, or sample_data/ of the repository)"
        )
    session = read_session(SAMPLE if data is None else data)
    position = find_position(session)
    stretches = on_track(position)
    if not stretches:
        raise InputError(
            f"{session.source.path}: {position.path}: position is never known for {SHORTEST:g} s in a row; "
            "give a session with more"
        )
    spans = choose_spans(session, spans=stretches)
    chosen, _ = choose_units(session, spans=spans)
    counts = bin_spikes(chosen, BIN, spans)
    phase, length = lap_phase(position, counts["time"].to_numpy())
    say(f"{counts.sizes['time']} bins of {BIN:g} s, {chosen.n_units} units, {position.path}")
    model = LDMFilter(seed=seed, max_steps=settings.steps, device="cpu").fit(reserve(counts, RESERVED))
    reading = read_behavior(
        model.decode(counts, ci=LEVEL), [position, phase], ci=LEVEL, min_speed=SLOW * length, shifts=39
    )
    place, lap = reading.reports
    direction_right = _direction_right(reading.latents)
    numbers = {
        "session": Path(session.source.path).name,
        "units": chosen.n_units,
        "bins": int(counts.sizes["time"]),
        "track_length": length,
        "unit": position.unit,
        "kept_step": model.kept_step_,
        "position": place.to_dict(),
        "lap": lap.to_dict(),
        "direction_right": direction_right,
    }
    return Outcome(numbers, claims(place, lap, direction_right), _picture(reading.latents, chosen, settings))


def claims(place: BehaviorReport, lap: BehaviorReport, direction_right: float) -> list[Claim]:
    """What figure 4E-G shows; the limits are this package's, as the paper gives none."""
    found = [
        Claim("R2 of position on held-out time", place.read.r2 if place.read else np.nan, 0.5, source="figure 4G"),
        Claim(
            f"coverage of the {LEVEL:.0%} interval of position",
            place.intervals[LEVELS.index(LEVEL)].coverage if place.intervals else np.nan,
            LEVEL - 0.03,
            LEVEL + 0.03,
            source="figure 4G",
        ),
        Claim(
            "R2 of the phase of the lap, which position and direction make",
            lap.read.r2 if lap.read else np.nan,
            0.3,
            source="figure 4E",
        ),
        Claim("share of running bins whose direction is read right", direction_right, 0.7, source="figure 4E"),
    ]
    if lap.control is not None:
        found.append(
            Claim("share of shifted phases that are read as well", lap.control.p, most=0.05, source="a control")
        )
    return found


def _direction_right(latents: xr.Dataset) -> float:
    """Share of judged bins whose phase is read on the right half of the turn."""
    judged = latents["lap_fold"].to_numpy() >= 0
    true, read = (latents[f"lap_{what}"].to_numpy()[judged] % (2 * np.pi) for what in ("true", "mean"))
    return float(((true < np.pi) == (read < np.pi)).mean()) if judged.any() else np.nan


def _picture(latents: xr.Dataset, session: Session, settings: Settings) -> Figure:
    """States in a plane by place and direction with one lap over them; raster; position with its interval."""
    from matplotlib.figure import Figure

    from ldmfilter.analysis.plots import plot_behavior, plot_raster

    time = latents["time"].to_numpy()
    start, stop = _shown(latents, settings.shown)
    shown = (time >= start) & (time < stop)
    lap = latents["lap_true"].to_numpy()
    points = _phase_plane(latents)

    figure = Figure(figsize=(13, 5.5), layout="constrained")
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.4], height_ratios=[1.4, 1])
    space = figure.add_subplot(grid[:, 0])
    judged = latents["lap_fold"].to_numpy() >= 0
    x, y = points[judged].T
    drawn = space.scatter(x, y, c=lap[judged], s=4, cmap="hsv", vmin=0, vmax=2 * np.pi, linewidths=0)
    path = _one_lap(lap, shown)
    space.plot(*points[path].T, color="black", linewidth=1.4)
    space.set_aspect("equal", "datalim")
    space.set(xlabel="cosine of the phase", ylabel="sine of the phase")
    space.set_title("held-out states, in the plane that says most of the phase; one lap", fontsize=10)
    space.spines[["top", "right"]].set_visible(False)
    bar = figure.colorbar(drawn, ax=space, shrink=0.6, ticks=[0, np.pi, 2 * np.pi])
    bar.ax.set_yticklabels(["start", "far end", "start"])

    above = figure.add_subplot(grid[0, 1])
    order = _by_phase(session, time, lap)
    plot_raster([session.spikes_of(unit) for unit in order], above, start, stop)
    above.set_xlabel("")
    above.tick_params(labelbottom=False)
    below = figure.add_subplot(grid[1, 1], sharex=above)
    plot_behavior(latents.isel(time=np.flatnonzero(shown)), "position", below)
    unit = latents["position_mean"].attrs["unit"]
    below.set_ylabel(f"position, {unit}" if unit else "position")
    below.legend(fontsize=8, frameon=False, ncols=3, loc="upper right", bbox_to_anchor=(1, 1.18))
    return figure


def _phase_plane(latents: xr.Dataset) -> np.ndarray:
    """States (time, 2) in the plane of cosine and sine of the phase: least squares on bins that are not judged."""
    mean, lap = latents["filtered_mean"].to_numpy(), latents["lap_true"].to_numpy()
    x = np.column_stack([mean, np.ones(len(mean))])
    fitted = (latents["lap_fold"].to_numpy() < 0) & np.isfinite(lap)
    angle = np.stack([np.cos(lap), np.sin(lap)], 1)
    return x @ np.linalg.lstsq(x[fitted], angle[fitted], rcond=None)[0]


def _shown(latents: xr.Dataset, length: float) -> tuple[float, float]:
    """The stretch of time, s, whose bins are most often judged, of those that are shown so long."""
    time, judged = latents["time"].to_numpy(), latents["position_fold"].to_numpy() >= 0
    bins = min(max(1, round(length / BIN)), time.size)
    whole = time[bins - 1 :] - time[: time.size - bins + 1] < bins * BIN
    total = np.convolve(judged, np.ones(bins), "valid")
    first = int(np.argmax(np.where(whole, total, -1)))
    return float(time[first] - BIN / 2), float(time[first + bins - 1] + BIN / 2)


def _one_lap(lap: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Bins of the first turn of the phase among those that are shown; all of these where it does not turn."""
    bins = np.flatnonzero(shown)
    known = bins[np.isfinite(lap[bins])]
    turned = np.unwrap(lap[known])
    done = np.flatnonzero(turned - turned[:1] >= 2 * np.pi)
    return np.arange(known[0], known[done[0]] + 1) if done.size else bins


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
