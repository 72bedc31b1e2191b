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

from ldmfilter.errors import InputWarning
from ldmfilter.text import open_console, print_table, shown

if TYPE_CHECKING:
    from rich.console import Console


@command
@with_options("sort_times", "ticks", "drop_nan")
def inspect(
    session: Annotated[Path, typer.Argument(help=SESSION)],
    format: Format = None,
    bin_size: Annotated[
        float | None, typer.Option(metavar="S", help="Width of a time bin of counts that do not say it, s.")
    ] = None,
    series: Annotated[
        str | None, typer.Option(metavar="PATH", help="Signal in place of spikes, by its path or the last part of it.")
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
    from ldmfilter.data.summary import summarise

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        read = read_session(session, format, bin_size, series, **options)
    odd = [" ".join(str(one.message).split()) for one in caught if one.category is InputWarning]
    summary = summarise(read, odd, _given(format=format, series=series, **options))
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

    console = open_console()
    console.print(shown(summary["path"], style="bold", overflow="fold"))
    about = [summary[key] for key in ("identifier", "session_id", "session_start_time") if summary[key]]
    start, stop, duration = (_g(summary[key]) for key in ("start", "stop", "duration"))
    odd = [f"warning: {line.removeprefix(summary['path'] + ': ')}" for line in summary["odd"]]
    for line in (f"{start} to {stop} s, {duration} s in all", *odd, ", ".join(about)):
        if line:
            console.print(shown(line))
    if summary["signal"]:
        console.print(shown(f"signal {summary['signal']} in frames of {_g(summary['bin_size'])} s, no spikes"))
    elif summary["bin_size"]:
        console.print(shown(f"counts in bins of {_g(summary['bin_size'])} s, no spike times"))
    _heading(console, "Units")
    for line in _about_units(summary["units"], bool(summary["signal"])):
        console.print(shown(line))
    _heading(console, "Intervals")
    tables = [
        (one["table"], str(one["rows"]), _g(one["start"]), _g(one["stop"]), _g(one["seconds"]), _tags(one))
        for one in summary["intervals"]
    ]
    _show_table(console, ("table", ">rows", ">from, s", ">to, s", ">seconds", "tags"), tables)
    for one in summary["intervals"]:
        events = [f"{one['table']}.{name}" for name in ("start_time", "stop_time")]
        events += [
            f"{one['table']}.{name} ({_g(e['start'])} to {_g(e['stop'])} s)" for name, e in one["events"].items()
        ]
        columns = [name for name in one["columns"] if name not in ("start_time", "stop_time", *one["events"])]
        told = [f"events for --align {shorten(events)}"] + [f"columns {shorten(columns)}"] * bool(columns)
        console.print(shown(f"{one['table']}: {'; '.join(told)}"))
    _heading(console, "Behavior")
    series = [
        (one["path"], " x ".join(map(str, one["shape"])), one["unit"], _g(one["rate"])) for one in summary["behavior"]
    ]
    _show_table(console, ("path", ">shape", "unit", ">rate, Hz"), series)
    if summary["series"]:
        _heading(console, "Signals, for --series")
        _show_table(console, ("path", "shape, rate, unit"), [(one["path"], one["about"]) for one in summary["series"]])
    _heading(console, "Next")
    for line in summary["next"]:
        console.print(shown(line), soft_wrap=True)  # a command that is copied holds no line end


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


def _heading(console: "Console", text: str) -> None:
    console.print()
    console.print(shown(text, style="bold"))


def _show_table(console: "Console", heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        print_table(console, heads, rows)
    else:
        console.print("none")


def _g(value: float | None) -> str:
    return "?" if value is None else f"{value:,.6g}"
