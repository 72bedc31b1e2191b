"""`ldmfilter stream`."""

import sys
from collections import deque
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer
from ldmfilter_cli.console import Quiet, command, say
from ldmfilter_cli.options import (
    Behaviors,
    Circular,
    RunArgument,
    RunOption,
    RunSession,
    one_folder,
    open_run,
    where_now,
)

from ldmfilter.errors import InputError

if TYPE_CHECKING:
    from ldmfilter.analysis.online_readout import OnlineReadout
    from ldmfilter.filter.lines import CountLines
    from ldmfilter.filter.online import Array, OnlineFilter
    from ldmfilter.filter.runs import Run

_IN, _OUT = "Lines that come in", "Lines that go out"
LEVEL = 0.95  # of the intervals of behaviour


class Format(StrEnum):
    """The format of a line."""

    json = "json"
    csv = "csv"


@command
def stream(
    run: RunArgument = None,
    run_option: RunOption = None,
    session: RunSession = None,
    format: Annotated[
        Format | None,
        typer.Option(
            metavar="json|csv", help="Without it each line shows its own.", rich_help_panel=_IN, show_default=False
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="CSV begins with unit ids, or does not. Without it: where its first line holds every id.",
            rich_help_panel=_IN,
            show_default=False,
        ),
    ] = None,
    out_format: Annotated[
        Format, typer.Option(metavar="json|csv", help="How states are written.", rich_help_panel=_OUT)
    ] = Format.json,
    ci: Annotated[
        float | None, typer.Option(metavar="LEVEL", help="Add intervals of this level, as 0.95.", rich_help_panel=_OUT)
    ] = None,
    lag: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Wait so much, in whole frames of slow and of fast states: each line has the state of the bin that "
            "lies so far behind, given all counts up to now.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    behavior: Behaviors = None,
    circular: Circular = None,
    alarm: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Tell where the counts of the last seconds, as 20, are not those that the filter was trained on; more "
            "seconds tell smaller changes. Not with --lag.",
            rich_help_panel=_OUT,
        ),
    ] = None,
    no_cov: Annotated[bool, typer.Option("--no-cov", help="Leave the covariance out.", rich_help_panel=_OUT)] = False,
    head: Annotated[
        bool,
        typer.Option(
            "--head", help="Begin JSON with a line about the model; else a line in is a line out.", rich_help_panel=_OUT
        ),
    ] = False,
    strict: Annotated[
        bool,
        typer.Option("--strict", help="End, with exit code 3, at a line that cannot be used.", rich_help_panel=_IN),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Example: **acquisition | ldmfilter stream --run run > states.jsonl**

    Filter one bin at a time: a line of counts comes in on stdin, a line with
    the state goes out on stdout at once.

    JSON in: an array of counts in the order of the model's units (null: that
    unit is not observed), or an object {"unit id": count} (units left out
    are 0), or null for a missing bin. CSV in: counts with commas between them;
    an empty field is a unit that is not observed, an empty line a missing bin.
    Of a model of a signal the numbers are the means of its channels over a bin,
    and channels left out of an object are not observed.
    In either, "reset" starts a new segment; no state goes out for it. Units of
    the run's session that the model does not use may stand in objects and
    under headers.

    JSON out: bin (from 0), time (its middle, s from the start of bin 0),
    observed, mean, cov, ci (lower and upper bound of each state); with --head
    first {"header": ...}: the model's id, its units in order, the bin size, s,
    and the number of states. CSV out: the same of each bin as columns, below
    their names. A line that cannot be used is named on stderr, and its bin is
    missing; --strict ends there.

    With --lag a line goes out for a bin once the lag has passed; those that
    are left go out at "reset" and at the end.

    With --behavior each line has what the state says of it, in an interval of
    --ci (0.95 without it); the readout is fitted to the run's session first.
    Where the behaviour is measured, its value stands after the counts in the
    line that comes in, or in an object or under a header by its name (null or
    empty where it was not), and the intervals adapt to it: they stay true when
    the session drifts. A bound is null, or inf, where any value may be inside.

    With --alarm each line has alarm, true where the mean innovation of so much
    time is larger than chance makes it once a day, and until it was not for as
    long; stderr tells where that begins and ends. What chance does is learnt
    first from the run's session, from the time that training never saw.
    """
    if circular and not behavior:
        raise typer.BadParameter("means something only with --behavior", param_hint="--circular")
    for asked, name in ((behavior, "--behavior"), (alarm, "--alarm")):
        if asked and lag is not None:
            raise typer.BadParameter("is of states without a lag; leave one out", param_hint=name)
    from ldmfilter.filter.decode import check_level
    from ldmfilter.filter.forecast import lag_note
    from ldmfilter.filter.lines import CountLines, StateLines
    from ldmfilter.filter.online import OnlineFilter

    if ci is not None:
        check_level(ci)
    the_run = open_run(one_folder(run, run_option)).choose(session)
    model = the_run.model()
    online = OnlineFilter(model, lag)
    readouts = _readouts(the_run, behavior, circular or [], ci or LEVEL) if behavior else {}
    names = list(readouts)
    watch = None
    if alarm is not None:
        from ldmfilter.analysis.alarm import Alarm  # seconds to import, which a stream without one starts without

        watch = Alarm(model, the_run.recording(where_now(the_run, session))[1], alarm)
    lines = CountLines(model.unit_ids_.tolist(), the_run.session_unit_ids, format, header, model.signal_, names)
    about = {"model": model.model_id_, "run": str(the_run.folder), "bin_size": model.bin_size_, "ci": ci}
    about |= {"units": model.unit_ids_.tolist(), "states": model.sized_.states}
    states = StateLines(out_format, ci, not no_cov, model.bin_size_, about if head else None, names, alarm is not None)
    if first := states.header(model.sized_.states):
        print(first, flush=True)
    if not quiet:
        behind = f", {online.lag_bins} bins behind" if online.lag_bins else ""
        size = model.bin_size_
        if lag is not None and (note := lag_note(model, lag)):
            say(note)
        say(f"{len(model.unit_ids_)} units, a line for each bin of {size:g} s{behind}, model of {the_run.folder}")
    on = False
    for n, seen, state in _stream(online, lines, list(readouts.values()), strict, quiet):
        before, on = on, watch is not None and watch.step(online.innovation)
        if watch is not None and on != before:
            size = f"{watch.size:.2f} times what is expected, limit {watch.limit:.2f}"
            what = f"the mean innovation of the last {alarm:g} s is {size}"
            meaning = "the spikes are not those that the filter was trained on (drift, lost units, another behaviour)"
            told = f"alarm: {what}: {meaning}" if on else f"the alarm ends: {what}"
            say(f"bin {n} ({(n + 0.5) * model.bin_size_:g} s): {told}")
        print(states.state(n, seen, *state, [one.read(*state) for one in readouts.values()], on), flush=True)


def _readouts(run: "Run", behavior: list[str], circular: list[str], level: float) -> "dict[str, OnlineReadout]":
    """Readouts of behaviours by name, fitted to the run's session."""
    from ldmfilter.analysis.behavior import choose_behavior
    from ldmfilter.analysis.online_readout import OnlineReadout
    from ldmfilter.analysis.readout import read_behavior

    session, counts = run.recording()
    reading = read_behavior(run.model().decode(counts), choose_behavior(session, behavior, circular), shifts=20)
    for report in reading.reports:
        if report.name not in reading.readers:
            why = "is one of classes" if report.to_dict()["categories"] else report.note
            raise InputError(f"{session.source.path}: {report.path} cannot be read with intervals: {why}")
    return {name: OnlineReadout(reader, level) for name, reader in reading.readers.items()}


def _stream(
    online: "OnlineFilter", lines: "CountLines", readouts: "list[OnlineReadout]", strict: bool, quiet: bool
) -> "Iterator[tuple[int, bool, tuple[Array, Array]]]":
    """Filter the lines of stdin to its end: of each bin its number, whether it was observed, and its state. The
    readouts have read it when the next one is asked for."""
    import numpy as np

    from ldmfilter.filter.lines import RESET, HeaderError

    bins: deque[tuple[int, bool]] = deque()  # whose states have not gone out yet, and whether they were observed
    n, units = 0, len(online.unit_ids)

    def out(found: "list[tuple[Array, Array]]") -> "Iterator[tuple[int, bool, tuple[Array, Array]]]":
        return ((*bins.popleft(), state) for state in found)

    for number, line in enumerate(sys.stdin.buffer, 1):
        measured: Sequence[float] = ()
        try:
            counts = lines.read(line)
            if isinstance(counts, str):
                if counts == RESET:
                    yield from out(online.flush())
                elif not quiet:
                    say(f"line {number}: unit ids, read as a header; --no-header if these are counts")
                continue
            if counts is not None and len(counts) == units + len(readouts):
                counts, measured = counts[:units], counts[units:].tolist()
            new = online.step(counts)
        except InputError as error:
            if strict or isinstance(error, HeaderError):
                raise InputError(f"line {number}: {error}") from None
            say(f"line {number}: {error}; taken as a missing bin")
            counts, measured, new = None, (), online.step(None)
        bins.append((n, counts is not None and not bool(np.isnan(counts).all())))
        n += 1
        yield from out([] if new is None else [new])
        for readout, value in zip(readouts, measured, strict=False):
            readout.observe(value)
    yield from out(online.flush())
