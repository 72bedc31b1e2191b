"""From a run and a session's file to a store of states, with the behaviour that is read from them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import xarray as xr

from ldmfilter.analysis.behavior import choose_behavior
from ldmfilter.analysis.behavior_ahead import read_behavior_ahead
from ldmfilter.analysis.judged import excerpt
from ldmfilter.analysis.readout import AnyReport, read_behavior
from ldmfilter.config import DataConfig
from ldmfilter.data.counts import check_counts
from ldmfilter.data.prepare import prepare
from ldmfilter.data.selection import choose_trials
from ldmfilter.data.session import Session
from ldmfilter.data.windows import reserve
from ldmfilter.filter.aligned import align, window_steps
from ldmfilter.filter.decode import check_level, decode_blocks, select_model_units
from ldmfilter.filter.forecast import check_horizons, lag_note
from ldmfilter.filter.latents import check_store, is_made_from, write_latents
from ldmfilter.filter.model import LDMFilter
from ldmfilter.filter.rates import Rates
from ldmfilter.filter.runs import Run
from ldmfilter.filter.training import resolve_device

WINDOW = (-0.5, 1.5)  # s around an event
HUGE = 3_000_000  # bins: their states and covariances are then several GB in memory

Say = Callable[[str], None]
Follow = Callable[[Iterator[xr.Dataset], int], Iterator[xr.Dataset]]  # gets blocks and the number of all bins


@dataclass(frozen=True)
class DecodeOptions:
    """The options of decoding a session.

    Attributes:
        format: of the session, as `read_session` takes it; without it its content decides.
        interval, spans: the time, as in `DataConfig`; without them the whole session.
        ci: level of the intervals.
        smooth: add each bin's state given its whole segment.
        rates: add each unit's expected rate given the state (`filter.rates`).
        behavior, circular: as `choose_behavior` takes them.
        min_speed: bins in which the first behaviour changes more slowly, its unit per s, are left out.
        ahead, lag: s, forecasts and states with a lag, as `filter.decode` takes them.
        align, window, filter: states in trials, as `ldmfilter.align` takes its event, window and query; without
            `align` states in time.
        device: where to compute; it does not change what comes out.
    """

    format: str | None = None
    interval: str | None = None
    spans: tuple[tuple[float, float], ...] = ()
    ci: float = 0.95
    smooth: bool = False
    rates: bool = False
    behavior: list[str] | None = None
    circular: list[str] | None = None
    min_speed: float = 0.0
    ahead: tuple[float, ...] = ()
    lag: float | None = None
    align: str | None = None
    window: tuple[float, float] = WINDOW
    filter: str | None = None
    device: str = "cpu"

    def check(self) -> None:
        """Check what needs no session. Raises: InputError or TrainingError, as `check_level`, `check_horizons` and
        `resolve_device`."""
        check_level(self.ci)
        check_horizons(self.ahead)
        resolve_device(self.device)

    def to_json(self) -> str:
        """All that decides what comes out: the attribute `decode_options` of a store."""
        asked = vars(self) | {"spans": [f"{start!r}:{stop!r}" for start, stop in self.spans]}
        unused = ("device", *(() if self.align else ("align", "window", "filter")), *(() if self.rates else ("rates",)))
        return json.dumps({name: value for name, value in asked.items() if name not in unused})


def decode_session(
    run: Run,
    session: str | Path | Session | None,
    out: str | Path,
    options: DecodeOptions = DecodeOptions(),
    *,
    overwrite: bool = False,
    keep: bool = False,
    say: Say | None = None,
    follow: Follow | None = None,
) -> tuple[AnyReport, ...] | None:
    """Decode a session into the store `out`. Returns the reports on behaviour, or None where an existing store was
    kept.

    Args:
        session: its path, or as read; None for the run's own.
        keep: leave a store that exists as it is where it is of the same model, session and options.
        say: gets messages, a line each.
        follow: passes the blocks of states on, and shows how far they are.

    Raises:
        InputError: the session cannot be used, or the store not be written.
    """
    say = say or (lambda text: None)
    recording = run.read(session, options.format) if isinstance(session, str | Path) else session
    run = run.choose(recording)
    recording = recording or run.read(None, options.format)
    model = run.model()
    if keep and is_made_from(out, model.model_id_, recording.source.checksum, options.to_json()):
        return None
    check_store(out, overwrite)
    if session is None and recording.source.checksum != run.checksum:
        say(f"warning: {recording.source.path}: has changed since {run.folder} was trained on it")
    if stopped := stopped_early(run, model):
        say(stopped)
    if options.align:
        choose_trials(recording, options.align, options.filter)
        window_steps(options.window, model.bin_size_)
    variables = choose_behavior(recording, options.behavior, options.circular or ()) if options.behavior else []
    trained = run.config.data
    if variables and (trained.interval or trained.spans) and not (options.interval or options.spans):
        part = f"--interval {trained.interval}" if trained.interval else "--span as in training"
        say(f"behaviour is read in the whole session, where the run has a part; {part} reads it there, as report does")
    data = DataConfig(model.bin_size_, options.interval, options.spans)
    counts = prepare(select_model_units(recording, model, run.session_unit_ids), data, model.unit_ids_.tolist())
    bins = counts.sizes["time"]
    say(f"{bins} bins of {model.bin_size_:g} s from {counts.attrs['path']}, model of {run.folder}")
    if options.lag is not None and (note := lag_note(model, options.lag)):
        say(note)
    blocks = decode_blocks(
        model, check_counts(counts), options.ci, options.smooth,
        device=options.device, ahead=options.ahead, lag=options.lag,
    )  # fmt: skip
    if follow:
        blocks = follow(blocks, bins)
    if options.rates:
        blocks = map(fit_rates(run, model, recording).add, blocks)
    marked = (block.assign_attrs(decode_options=options.to_json()) for block in blocks)
    if not variables and not options.align:
        write_latents(marked, out, overwrite)
        return ()
    if bins > HUGE:
        say(f"warning: this takes all {bins:,} bins into memory; --span takes fewer")
    latents = xr.concat(list(marked), "time", data_vars="minimal", coords="minimal")
    reports: tuple[AnyReport, ...] = ()
    if variables:
        for one in variables:
            if one.note:
                say(f"{one.path}: {one.note}")
        say(f"behaviour: {', '.join(one.name for one in variables)} ...")
        reading = read_behavior(latents, variables, counts, ci=options.ci, min_speed=options.min_speed)
        latents, reports = reading.latents, reading.reports
    if options.ahead:
        numbers = [one for one in variables if not one.categories]
        for one in variables:
            if one.categories:
                say(f"{one.path}: is of classes, which are read now and not ahead")
        if numbers:
            say("behaviour ahead")
            latents, _ = read_behavior_ahead(latents, numbers, options.ci, options.min_speed)
    if options.align:
        latents = align(latents, recording, options.align, options.window, options.filter)
        n, reached = latents.sizes["trial"], int((latents["segment"] >= 0).sum())
        say(f"{n} trial{'s' if n != 1 else ''} around {options.align}, {reached} in the decoded time")
    write_latents(latents, out, overwrite)
    return reports


def stopped_early(run: Run, model: LDMFilter) -> str:
    """A warning about a run whose training was stopped, of its model; else ""."""
    if model.ended_:
        return ""
    last, wanted = model.history_[-1], run.config.filter.max_steps
    training = f"training of {last.candidate} states" if last.candidate else "training"
    return f"warning: {run.folder}: {training} stopped at step {last.step} of {wanted}; what it kept is used"


def fit_rates(run: Run, model: LDMFilter, recording: Session) -> Rates:
    """The rates of a run's units, fitted to what training saw of its chosen session, which is `recording`, or is read.

    Raises:
        InputError: the run's session cannot be read or has changed, or as `Rates.fit`.
    """
    own = recording.source.checksum == run.checksum
    counts = prepare(recording, run.config.data, run.unit_ids) if own else run.recording()[1]
    counts = excerpt(reserve(counts, run.config.data.reserve), 0)
    return Rates.fit(model.decode(counts), counts)
