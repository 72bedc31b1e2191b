"""The contents of a session in numbers and names, as `ldmfilter inspect --json` prints them."""

from __future__ import annotations

import math
import numbers
from typing import Any

import numpy as np
import xarray as xr

from ldmfilter.data.formats.binned import BinnedSession
from ldmfilter.data.session import Session
from ldmfilter.data.signal import SignalSession


def summarise(session: Session) -> dict[str, Any]:
    """Units, intervals, behaviour and signals of a session as plain values, for JSON.

    Times in s, rates in Hz. None stands for a rate that cannot be told, and for the bin size of a session that has
    spike times.
    """
    source, rates = session.source, session.rates
    quantiles = [_number(rate) for rate in np.quantile(rates, [0, 0.5, 1])] if session.n_units else [None] * 3
    return {
        **{
            name: getattr(source, name)
            for name in ("path", "identifier", "session_id", "session_start_time", "checksum")
        },
        **{name: getattr(session, name) for name in ("start", "stop", "duration")},
        "bin_size": session.bin_size if isinstance(session, BinnedSession) else None,
        "signal": session.name if isinstance(session, SignalSession) else None,
        "series": [
            {"path": path, "about": about} for path, about in session.series.items() if path not in session.behavior
        ],
        "units": {
            "number": session.n_units,
            "spikes": session.n_spikes,
            "silent": int((rates == 0).sum()),
            **dict(zip(("rate_min", "rate_median", "rate_max"), quantiles, strict=True)),
            "columns": [str(name) for name in session.units],
            "observed_intervals": session.observed is not None,
            "table": [
                {"unit": unit, "rate": _number(rate)}
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
    return float(value) if isinstance(value, numbers.Real) and math.isfinite(value) else None


def _tags(table: xr.Dataset) -> list[str]:
    texts = [column.to_numpy().ravel().tolist() for column in table.values() if column.dtype.kind == "U"]
    return sorted({text for column in texts for text in column} - {""})
