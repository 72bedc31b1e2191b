"""Counts, or a signal, and states as lines of JSON or CSV, one a bin: what `ldmfilter stream` reads and writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import ndtri

from ldmfilter.errors import InputError

RESET, HEADER = "reset", "header"


class HeaderError(InputError):
    """A header that does not fit: no later line can be understood."""


class CountLines:
    """A reader of lines of counts.

    Args:
        unit_ids: the model's units, in its order.
        session_ids: all units of its session: those that the model does not use may be named too.
        format: "json" or "csv"; without it each line shows its own.
        header: whether CSV begins with unit ids; None: it does where its first line holds every id.
        signal: whether the numbers are a signal's: a unit that is left out is not observed, where its count would be 0.
        behavior: names of behaviours that may come after the counts.
    """

    def __init__(
        self,
        unit_ids: Sequence,
        session_ids: Sequence,
        format: str | None,
        header: bool | None,
        signal: bool = False,
        behavior: Sequence[str] = (),
    ):
        self._noun = "number" if signal else "count"
        self._left_out = None if signal else 0
        self._units, self._behavior = list(map(str, unit_ids)), list(behavior)
        self._names = self._units + self._behavior
        self._known = {*self._names, *map(str, session_ids)}
        self._format, self._header = format, header
        self._columns: list[int] | None = None  # below a header: where each of the model's units stands in a line
        self._width = 0
        self._first = True

    def read(self, line: bytes) -> np.ndarray | str | None:
        """Counts (unit,) of a line in the model's order, NaN for a unit that was not observed, and after them the
        values of behaviours, NaN where not measured; None for a line of nothing; RESET, or HEADER.

        Raises:
            HeaderError: a header that does not fit the model.
            InputError: the line is malformed.
        """
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise InputError("not text in UTF-8") from None
        if text.strip('"') == RESET:
            return RESET
        # No line of CSV begins as an array or an object does, so that each line shows by itself what it is.
        is_json = self._format == "json" if self._format else text[:1] in ("[", "{") or text == "null"
        values = self._from_json(text) if is_json else self._from_csv(text)
        if values is None or isinstance(values, str):
            return values
        try:
            counts = np.array(values, dtype=np.float64)
        except OverflowError:
            raise InputError("a count is too large to be one") from None
        if len(counts) == len(self._units):
            counts = np.append(counts, [np.nan] * len(self._behavior))
        return None if len(counts) == len(self._names) and np.isnan(counts).all() else counts

    def _from_json(self, text: str) -> list | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON ({str(error) if text else 'an empty line'})") from None
        if value is None:
            return None
        if isinstance(value, dict):
            for unit in value:
                if unit not in self._known:
                    raise InputError(f"the session that the model was trained on has no unit {unit[:40]!r}")
            value = [*(value.get(unit, self._left_out) for unit in self._units), *map(value.get, self._behavior)]
        if not isinstance(value, list):
            raise InputError("neither an array of counts, an object of unit ids and counts, null nor reset")
        for one in value:
            if not (one is None or type(one) in (int, float)):
                raise InputError(f"{json.dumps(one)[:40]} is not a {self._noun}")
        return value

    def _from_csv(self, text: str) -> list[float] | str | None:
        try:
            fields = [field.strip() for field in next(csv.reader([text], skipinitialspace=True), [])]
        except csv.Error as error:
            raise InputError(f"not CSV ({error})") from None
        if not any(fields):
            return None
        first, self._first = self._first, False
        if first and self._is_header(fields):
            self._columns, self._width = [fields.index(name) for name in self._names], len(fields)
            return HEADER
        if self._columns is not None:
            if len(fields) != self._width:
                raise InputError(f"{len(fields)} fields below a header of {self._width}")
            fields = [fields[i] for i in self._columns]
        for field in fields:
            if not _is_number(field):
                raise InputError(f"{field[:40]!r} is not a {self._noun}")
        return [float(field or "nan") for field in fields]

    def _is_header(self, fields: list[str]) -> bool:
        """Raises: HeaderError for a header that does not fit the model."""
        lacking = [name for name in self._names if name not in fields]
        foreign = [unit for unit in fields if unit not in self._known]
        names = not any(map(_is_number, fields)) and len(foreign) < len(fields)
        if not (self._header or (self._header is None and (names or not lacking))):
            return False
        if lacking or foreign:
            kind = "unit " if lacking and lacking[0] in self._units else ""
            problem = f"lacks {kind}{lacking[0]}" if lacking else f"has {foreign[0][:40]!r}, no unit of the session"
            raise HeaderError(f"the header {problem}; give the id of each of the model's {len(self._units)} units")
        return True


class StateLines:
    """A writer of lines of states.

    Args:
        format: "json" or "csv".
        ci: level of the intervals, or None for none.
        cov: whether covariances are written.
        bin_size: s.
        about: what the first line of JSON says of the model, or None for no such line.
        behavior: names of what is read from the states.
        alarm: whether lines tell of alarms.
    """

    def __init__(
        self,
        format: str,
        ci: float | None,
        cov: bool,
        bin_size: float,
        about: dict[str, Any] | None = None,
        behavior: Sequence[str] = (),
        alarm: bool = False,
    ):
        self._json = format == "json"
        self._bin_size, self._about = bin_size, about
        self._half = None if ci is None else float(ndtri(0.5 + 0.5 * ci))
        self._cov, self._behavior, self._alarm = cov, behavior, alarm

    def header(self, states: int) -> str | None:
        """The names of the columns, where there are columns; else the line about the model, where one is wanted."""
        if self._json:
            return json.dumps({"header": self._about}) if self._about else None
        names = ["bin", "time", "observed", *(f"mean_{i}" for i in range(states))]
        if self._cov:
            names += [f"cov_{i}_{j}" for i in range(states) for j in range(states)]
        if self._half is not None:
            names += [f"{bound}_{i}" for i in range(states) for bound in ("lower", "upper")]
        names += [f"{name}{end}" for name in self._behavior for end in ("", "_lower", "_upper")]
        names += ["alarm"] * self._alarm
        return ",".join(names)

    def state(
        self,
        n: int,
        observed: bool,
        mean: np.ndarray,
        cov: np.ndarray,
        read: Sequence[tuple[float, float, float]] = (),
        alarm: bool = False,
    ) -> str:
        """The state of bin n: mean (state,) and covariance (state, state), t|t or t|t+lag; of each behaviour its value
        and bounds; and whether there is an alarm."""
        time = round((n + 0.5) * self._bin_size, 9)
        record: dict[str, Any] = {"bin": n, "time": time, "observed": observed, "mean": mean.tolist()}
        if self._cov:
            record["cov"] = cov.tolist()
        if self._half is not None:
            half = self._half * cov.diagonal() ** 0.5
            record["ci"] = np.stack([mean - half, mean + half], -1).tolist()
        if self._json:
            for name, (value, *bounds) in zip(self._behavior, read, strict=True):
                ends = [bound if np.isfinite(bound) else None for bound in bounds]
                record.setdefault("behavior", {})[name] = {"mean": value, "ci": ends}
            return json.dumps(record | ({"alarm": alarm} if self._alarm else {}))
        rows = [*record.get("cov", []), *record.get("ci", []), *read, [int(alarm)] * self._alarm]
        return ",".join(map(repr, [n, time, int(observed), *record["mean"], *(value for row in rows for value in row)]))


def _is_number(field: str) -> bool:
    """True where a field is a number or empty."""
    try:
        float(field)
    except ValueError:
        return not field
    return True
