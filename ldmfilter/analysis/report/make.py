"""The making of a report, from a run folder to the page and its JSON file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ldmfilter.analysis.behavior import choose_behavior
from ldmfilter.analysis.behavior_ahead import read_at_lags, widths_at_lags
from ldmfilter.analysis.checks import diagnose
from ldmfilter.analysis.readout import AnyReport, read_behavior
from ldmfilter.analysis.report.page import Picture, listed, write_page
from ldmfilter.analysis.report.sections import SECTIONS, Inputs
from ldmfilter.analysis.trials import choose_condition, read_trials
from ldmfilter.data.counts import check_counts
from ldmfilter.errors import InputError
from ldmfilter.files import AnyPath, check_target, replacing
from ldmfilter.filter.linalg import one_thread
from ldmfilter.filter.runs import Run
from ldmfilter.progress import Told, teller
from ldmfilter.text import finite

FORMAT = 1
STARTS = "trials.start_time"  # of the trials that are shown where no others are asked for


@dataclass(frozen=True, eq=False)
class Report:
    """A report, ready to be written.

    Attributes
    ----------
    content : dict
        Every number and every sentence, as plain JSON types.
    pictures : dict of Picture
        By name, in the order of the page.
    page : str
        The page, in one file that needs no network.
    """

    content: dict[str, Any]
    pictures: dict[str, Picture]
    page: str

    def to_dict(self) -> dict[str, Any]:
        """The content of `report.json`.

        Returns
        -------
        dict
            Plain types, as JSON takes them.

        Examples
        --------
        >>> ldmfilter.report("runs/monday").to_dict()["figures"]  # doctest: +SKIP
        """
        return self.content

    def html(self) -> str:
        """The page, in one file that needs no network."""
        return self.page

    def write(self, path: AnyPath, overwrite: bool = False) -> tuple[Path, Path]:
        """Write the page, and its numbers beside it as JSON with the same stem: both whole or not at all.

        Parameters
        ----------
        path : str or os.PathLike
            Of the page, as ``"report.html"``.
        overwrite : bool
            Replace files that exist.

        Returns
        -------
        (Path, Path)
            Of the page and of the JSON.

        Raises
        ------
        InputError
            One of them exists and `overwrite` is not set, or the disk refuses.

        Examples
        --------
        >>> ldmfilter.report("runs/monday").write("report.html")  # doctest: +SKIP
        """
        page, numbers = check_report(path, overwrite)
        data = json.dumps(self.content, indent=1, allow_nan=False, ensure_ascii=False)
        with replacing(numbers, overwrite) as second, replacing(page, overwrite) as first:
            second.write_text(data + "\n", encoding="utf-8")
            first.write_text(self.page, encoding="utf-8")
        return page, numbers


def check_report(path: AnyPath, overwrite: bool) -> tuple[Path, Path]:
    """Paths of a report's page and numbers; called before the work, it refuses a wrong path at once.

    Raises:
        InputError: the name ends in .json, one of them exists and `overwrite` is False, or the folder is missing.
    """
    target = Path(path)
    if target.suffix.lower() == ".json" or not target.suffix:
        raise InputError(f"{path}: is no name of a page; end it in .html, as report.html")
    return check_target(target, overwrite), check_target(target.with_suffix(".json"), overwrite)


def report(
    run: Run | AnyPath,
    behavior: Sequence[str] = (),
    circular: Sequence[str] = (),
    min_speed: float = 0.0,
    progress: Told = False,
    align: str | None = None,
    window: tuple[float, float] | None = None,
    query: str | None = None,
    condition: str | None = None,
    session: AnyPath | None = None,
    tell: Told = None,
) -> Report:
    """A run's report, from its folder and its session.

    Parameters
    ----------
    run : str, os.PathLike or Run
        The run folder of ``ldmfilter train``; of a run of several sessions the one that `Run.choose` gave.
    behavior : sequence of str
        Paths of the behaviours that are read from the states, as `choose_behavior` takes them.
    circular : sequence of str
        Those of them that are circular whatever their unit and name say.
    min_speed : float
        Bins in which the first behaviour changes more slowly (its unit per s) are not judged.
    progress : bool or callable
        True prints what is being computed, on stderr; a function is called with it.
    align : str, optional
        Trials to show, "TABLE.COLUMN" as `ldmfilter.align` takes it; without it those of the table `trials`, from
        start_time, where there is one, or where one of the next three is given.
    window : (float, float), optional
        s from the event; without it from the event to the median trial's end.
    query : str, optional
        Keeps some rows of the table.
    condition : str, optional
        A column of the table; without it the first that holds values that recur.
    session : str or os.PathLike, optional
        Where the session lies now; without it where it lay.
    tell : callable, optional
        The older name of `progress`.

    Returns
    -------
    Report
        `write(path)` writes the page and its numbers, `to_dict` gives the numbers.

    Raises
    ------
    InputError
        The session is not there any more or has changed; a behaviour, or trials that were asked for, cannot be used.

    Examples
    --------
    >>> page = ldmfilter.report("runs/monday", ["linear_position"])  # doctest: +SKIP
    >>> page.write("report.html")  # doctest: +SKIP
    """
    say = teller(progress or tell)
    run = run if isinstance(run, Run) else Run.open(run)
    model = run.model()
    recording, counts = run.recording(session)
    chosen = choose_behavior(recording, behavior, circular)
    if window or query or condition:  # trials are asked for
        align = align or STARTS
    if align:
        choose_condition(recording, align, query, condition)
    counts = check_counts(counts)
    latents = model.decode(counts, rates=not model.signal_)
    read: tuple[AnyReport, ...] = ()
    if chosen:
        say(f"behaviour: {listed([one.name for one in chosen])}")
        reading = read_behavior(latents, chosen, counts, min_speed=min_speed)
        latents, read = reading.latents, reading.reports
        say("behaviour: lags")
        lags = read_at_lags(model, counts, chosen, min_speed)
    else:
        say("states: lags")
        lags = widths_at_lags(model, counts)
    trials, note = None, ""
    if event := align or (STARTS if "trials" in recording.intervals else None):
        say(f"trials: {event}")
        try:
            with one_thread(every_library=True):
                trials = read_trials(latents, recording, event, window, query, condition)
        except InputError as error:
            if align:
                raise
            note = f"Trials are not shown: {str(error).removeprefix(f'{recording.source.path}: ')}."
    diagnosis = diagnose(model, counts, progress=lambda what: say(f"diagnoses: {what}"), behavior=read)
    reports = finite([one.to_dict() for one in read])
    options = {
        "behavior": behavior,
        "circular": circular,
        "min_speed": f"{min_speed:g}" if min_speed else None,
        "align": align,
        "window": "{:g}:{:g}".format(*window) if window else None,
        "filter": query,
        "condition": condition,
    }
    inputs = Inputs(run, recording, counts, model, latents, diagnosis, reports, options, trials, note, lags)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    content: dict[str, Any] = {"format": "ldmfilter-report", "format_version": FORMAT, "created": created}
    pictures: dict[str, Picture] = {}
    with one_thread(every_library=True):
        for make in SECTIONS.values():
            numbers, drawn = make(inputs)
            content |= numbers
            pictures |= drawn
    content = finite(content | {"figures": {name: picture.numbers for name, picture in pictures.items()}})
    page = write_page(list(SECTIONS), content, pictures)  # which adds the words to the content
    return Report(content, pictures, page)
