"""`ldmfilter inspect`."""

import json
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ldmfilter_cli.console import Quiet, command
from ldmfilter_cli.options import SESSION, AsJson, Format, with_options

from ldmfilter.errors import InputWarning, warn
from ldmfilter.text import open_console, print_lines, print_table, shown

if TYPE_CHECKING:
    from rich.console import Console


@command
@with_options("series", "sort_times", "ticks", "drop_nan")
def inspect(
    session: Annotated[Path, typer.Argument(metavar="SESSION", help=SESSION)],
    format: Format = None,
    bin_size: Annotated[
        float | None, typer.Option(metavar="S", help="Width of a time bin of counts that do not say it, s.")
    ] = None,
    as_json: AsJson = False,
    *,
    options: dict[str, Any],
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter inspect session.nwb**

    Show what a session holds: units, duration, intervals, behaviour and signals.
    """
    from ldmfilter.data import read_session
    from ldmfilter.data.signal import SeveralSeriesError
    from ldmfilter.data.summary import summarise

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            read = read_session(session, format, bin_size, **options)
        except SeveralSeriesError as error:
            options["series"] = error.paths[0]
            read = read_session(session, format, bin_size, **options)
            warn(f"{session}: has no units and several series; {error.paths[0]} is shown, name one with --series")
    told = (" ".join(str(one.message).split()) for one in caught if one.category is InputWarning)
    odd = list(dict.fromkeys(told))  # once, where the file was read twice
    summary = summarise(read, odd, _given(format=format, **options))
    if as_json:
        print(json.dumps(summary, indent=1, allow_nan=False))
    else:
        _show(summary)


def _given(**options: Any) -> str:
    """Options as words of the command line, those without a value left out."""
    words = []
    for name, value in options.items():
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            words.append(flag)
        else:
            words += [word for one in ([value] if isinstance(value, str) else value or ()) for word in (flag, one)]
    return f" {shlex.join(words)}" if words else ""


def _show(summary: dict[str, Any]) -> None:
    from ldmfilter.data.tables import shorten

    console, size = open_console(), _g(summary["bin_size"])
    start, stop, duration = (_g(summary[key]) for key in ("start", "stop", "duration"))
    odd = [f"warning: {line.removeprefix(summary['path'] + ': ')}" for line in summary["odd"]]
    about = ", ".join(filter(None, (summary[key] for key in ("identifier", "session_id", "session_start_time"))))
    what = f"counts in bins of {size} s, no spike times" if summary["bin_size"] else ""
    if summary["signal"]:
        what = f"signal {summary['signal']} in frames of {size} s, no spikes"
    print_lines(console, summary["path"], style="bold", overflow="fold")
    print_lines(console, f"{start} to {stop} s, {duration} s in all", *odd, about, what)
    _section(console, "Units", _about_units(summary["units"], bool(summary["signal"])))
    tables = [
        (one["table"], str(one["rows"]), _g(one["start"]), _g(one["stop"]), _g(one["seconds"]), _tags(one))
        for one in summary["intervals"]
    ]
    lines = []
    for one in summary["intervals"]:
        events = [f"{one['table']}.{name}" for name in ("start_time", "stop_time")]
        events += [
            f"{one['table']}.{name} ({_g(e['start'])} to {_g(e['stop'])} s)" for name, e in one["events"].items()
        ]
        columns = [name for name in one["columns"] if name not in ("start_time", "stop_time", *one["events"])]
        told = [f"events for --align {shorten(events)}"] + [f"columns {shorten(columns)}"] * bool(columns)
        lines.append(f"{one['table']}: {'; '.join(told)}")
    _section(console, "Intervals", lines, ("table", ">rows", ">from, s", ">to, s", ">seconds", "tags"), tables)
    series = [
        (one["path"], " x ".join(map(str, one["shape"])), one["unit"], _g(one["rate"])) for one in summary["behavior"]
    ]
    _section(console, "Behavior", (), ("path", ">shape", "unit", ">rate, Hz"), series)
    if signals := [(one["path"], one["about"]) for one in summary["series"]]:
        _section(console, "Signals, for --series", (), ("path", "shape, rate, unit"), signals)
    _section(console, "Next", summary["next"], soft_wrap=True)  # a command that is copied holds no line end


def _tags(table: dict[str, Any]) -> str:
    """The tags of an interval table, with the seconds of each where these are known."""
    from ldmfilter.data.tables import shorten

    seconds = table["seconds_by_tag"]
    return shorten(f"{tag} ({_g(seconds[tag])} s)" if tag in seconds else tag for tag in table["tags"])


def _about_units(units: dict[str, Any], signal: bool) -> list[str]:
    columns = "columns: " + (", ".join(units["columns"]) or "none")
    if signal:
        still = f", {units['silent']} of them constant or missing" if units["silent"] else ""
        return [f"{units['number']} channels{still}", columns]
    silent = f", {units['silent']} of them silent" if units["silent"] else ""
    low, high, median = (_g(units[key]) for key in ("rate_min", "rate_max", "rate_median"))
    lines = [
        f"{units['number']} units{silent}, {units['spikes']:,} spikes",
        f"rates {low} to {high} Hz, median {median} Hz",
        columns,
    ]
    return lines + ["observed only within obs_intervals"] * units["observed_intervals"]


def _section(
    console: "Console",
    title: str,
    lines: Sequence[str],
    heads: Sequence[str] = (),
    rows: Sequence[Sequence[str]] = (),
    **how: bool,
) -> None:
    """Print a title, a table, and lines; "none" without either."""
    console.print()
    print_lines(console, title, style="bold")
    if rows:
        print_table(console, heads, rows)
    for line in lines or ["none"] * (not rows):
        console.print(shown(line), **how)  # type: ignore[arg-type]


def _g(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.6g}" if abs(value) < 1e6 else f"{value:,.1f}"  # seconds of a clock that began long ago
