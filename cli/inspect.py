"""`ldmfilter inspect`."""

import json
import math
import numbers
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ldmfilter_cli.console import Debug, Quiet, command, shown

from ldmfilter.data import FORMATS

if TYPE_CHECKING:
    from ldmfilter.data.session import Session

SESSION = "NWB file or address, session in zarr, sorter's folder, pynapple file, or counts."

Format = Annotated[
    str | None,
    typer.Option("--format", metavar="|".join(FORMATS), help="What the session is; without it its content decides."),
]


@command
def inspect(
    session: Annotated[Path, typer.Argument(help=SESSION)],
    format: Format = None,
    bin_size: Annotated[
        float | None, typer.Option(metavar="S", help="Width of a time bin of counts that do not say it, s.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Example: **ldmfilter inspect session.nwb**

    Show what a session holds: units, duration, intervals and behaviour.
    """
    from ldmfilter.data import read_session

    summary = summarise(read_session(session, format, bin_size))
    if as_json:
        print(json.dumps(summary, indent=1, allow_nan=False))
    else:
        _show(summary)


def summarise(session: "Session") -> dict[str, Any]:
    """What `inspect --json` prints. Times in s, rates in Hz; a rate that cannot be told is null, as is the bin size
    of a session that has spike times."""
    import numpy as np

    from ldmfilter.data.formats.binned import BinnedSession

    rates = session.rates
    quantiles = [_number(rate) for rate in np.quantile(rates, [0, 0.5, 1])] if session.n_units else [None] * 3
    return {
        "path": session.source.path,
        "identifier": session.source.identifier,
        "session_id": session.source.session_id,
        "session_start_time": session.source.session_start_time,
        "checksum": session.source.checksum,
        "start": session.start,
        "stop": session.stop,
        "duration": session.duration,
        "bin_size": session.bin_size if isinstance(session, BinnedSession) else None,
        "units": {
            "number": session.n_units,
            "spikes": session.n_spikes,
            "silent": int((rates == 0).sum()),
            "rate_min": quantiles[0],
            "rate_median": quantiles[1],
            "rate_max": quantiles[2],
            "columns": [str(name) for name in session.units],
            "observed_intervals": session.observed is not None,
            "table": [
                {"unit": unit, "rate": rate}
                for unit, rate in zip(session.units["unit"].to_numpy().tolist(), rates.tolist(), strict=True)
            ],
        },
        "intervals": [
            {
                "table": name,
                "rows": table.sizes["interval"],
                "start": _number(table["start_time"].min().item()) if table.sizes["interval"] else None,
                "stop": _number(table["stop_time"].max().item()) if table.sizes["interval"] else None,
                "columns": [str(column) for column in table],
                "tags": _tags(table),
            }
            for name, table in session.intervals.items()
        ],
        "behavior": [
            {
                "path": path,
                "shape": list(series.shape),
                "unit": str(series.attrs.get("unit", "")),
                "rate": _number(series.attrs.get("rate")),
                "start": _number(float(series["time"][0])) if series.sizes["time"] else None,
                "stop": _number(float(series["time"][-1])) if series.sizes["time"] else None,
            }
            for path, series in session.behavior.items()
        ],
    }


def _number(value: Any) -> float | None:
    number = isinstance(value, numbers.Real) and math.isfinite(value)
    return float(value) if number else None


def _tags(table: Any) -> list[str]:
    texts = [column.to_numpy().ravel().tolist() for column in table.values() if column.dtype.kind == "U"]
    return sorted({text for column in texts for text in column} - {""})


def _show(summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ldmfilter.data.tables import shorten

    console = Console()

    def heading(text: str) -> None:
        console.print()
        console.print(shown(text, style="bold"))

    def table(*columns: tuple[str, str], rows: list[tuple[str, ...]]) -> None:
        grid = Table(box=None, pad_edge=False, header_style="dim")
        for name, justify in columns:
            grid.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in rows:
            grid.add_row(*map(shown, row))
        console.print(grid)

    units = summary["units"]
    console.print(shown(summary["path"], style="bold", overflow="fold"))
    about = [summary[key] for key in ("identifier", "session_id", "session_start_time") if summary[key]]
    if about:
        console.print(shown(", ".join(about)))
    console.print(shown(f"{_g(summary['start'])} to {_g(summary['stop'])} s, {_g(summary['duration'])} s in all"))
    if summary["bin_size"]:
        console.print(shown(f"counts in bins of {_g(summary['bin_size'])} s, no spike times"))

    heading("Units")
    silent = f", {units['silent']} of them silent" if units["silent"] else ""
    console.print(shown(f"{units['number']} units{silent}, {units['spikes']:,} spikes"))
    console.print(
        shown(f"rates {_g(units['rate_min'])} to {_g(units['rate_max'])} Hz, median {_g(units['rate_median'])} Hz")
    )
    console.print(shown("columns: " + (", ".join(units["columns"]) or "none")))
    if units["observed_intervals"]:
        console.print(shown("observed only within obs_intervals"))

    heading("Intervals")
    if summary["intervals"]:
        table(
            ("table", "left"), ("rows", "right"), ("from, s", "right"), ("to, s", "right"), ("tags", "left"),
            rows=[
                (t["table"], str(t["rows"]), _g(t["start"]), _g(t["stop"]), shorten(t["tags"]))
                for t in summary["intervals"]
            ],
        )  # fmt: skip
    else:
        console.print("none")

    heading("Behavior")
    if summary["behavior"]:
        table(
            ("path", "left"), ("shape", "right"), ("unit", "left"), ("rate, Hz", "right"),
            rows=[
                (b["path"], " x ".join(map(str, b["shape"])), b["unit"], _g(b["rate"])) for b in summary["behavior"]
            ],
        )  # fmt: skip
    else:
        console.print("none")


def _g(value: float | None) -> str:
    return "?" if value is None else f"{value:,.6g}"
