"""`ldmfilter stream`."""

import csv
import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ldmfilter_cli.console import Debug, Quiet, command, say

from ldmfilter.errors import InputError

if TYPE_CHECKING:
    import numpy as np

_IN, _OUT = "Lines that come in", "Lines that go out"


class Format(StrEnum):
    """How a line is written."""

    json = "json"
    csv = "csv"


@command
def stream(
    run: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Run folder; without it the latest below runs/.")
    ] = None,
    session: Annotated[
        Path | None, typer.Option(metavar="SESSION", help="Which of the run's sessions, where it has several.")
    ] = None,
    format: Annotated[
        Format | None,
        typer.Option(help="Without it each line shows its own.", rich_help_panel=_IN, show_default=False),
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
    out_format: Annotated[Format, typer.Option(help="How states are written.", rich_help_panel=_OUT)] = Format.json,
    ci: Annotated[
        float | None, typer.Option(metavar="LEVEL", help="Add intervals of this level, as 0.95.", rich_help_panel=_OUT)
    ] = None,
    no_cov: Annotated[bool, typer.Option("--no-cov", help="Leave the covariance out.", rich_help_panel=_OUT)] = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Example: **acquisition | ldmfilter stream --run run > states.jsonl**

    Filter one bin at a time: a line of counts comes in on stdin, a line with
    the state goes out on stdout at once.

    JSON in: an array of counts in the order of the model's units (null: that
    unit is not observed), or an object {"unit id": count} (units left out
    are 0), or null for a missing bin. CSV in: counts with commas between them;
    an empty field is a unit that is not observed, an empty line a missing bin.
    In either, "reset" starts a new segment; no state goes out for it. Units of
    the run's session that the model does not use may stand in objects and
    under headers.

    JSON out: bin (from 0), observed, mean, cov, ci (lower and upper bound of
    each state). CSV out: the same as columns, below a header. A line that
    cannot be used is named on stderr, and its bin is missing.
    """
    from ldmfilter.filter.decode import check_level
    from ldmfilter.filter.online import OnlineFilter
    from ldmfilter.filter.runs import Run

    if ci is not None:
        check_level(ci)
    the_run = (Run.open(run) if run is not None else Run.latest()).choose(session)
    model = the_run.model()
    online = OnlineFilter(model)
    lines = _Lines(model.unit_ids_.tolist(), the_run.session_unit_ids, format, header)
    write = _Writer(out_format, ci, not no_cov)
    write.header(model.states)
    if not quiet:
        say(f"{len(online.unit_ids)} units, a line for each bin of {model.bin_size_:g} s, model of {the_run.folder}")
    n = 0
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            counts = lines.counts(line)
            if isinstance(counts, str):
                if counts == RESET:
                    online.reset()
                elif not quiet:
                    say(f"line {number}: unit ids, read as a header; --no-header if these are counts")
                continue
            mean, cov = online.step(counts)
        except _HeaderError as error:
            raise InputError(f"line {number}: {error}") from None
        except InputError as error:
            say(f"line {number}: {error}; taken as a missing bin")
            counts = None
            mean, cov = online.step(None)
        write.state(n, counts is not None, mean, cov)
        n += 1


RESET, HEADER = "reset", "header"


class _HeaderError(InputError):
    """A header that does not fit: no later line can be understood."""


class _Lines:
    """Lines to counts in the model's order."""

    def __init__(self, unit_ids: Sequence, session_ids: Sequence, format: Format | None, header: bool | None):
        self.position = {str(unit): i for i, unit in enumerate(unit_ids)}
        self.session_ids = {str(unit) for unit in session_ids}
        self.format = format
        self.header = header
        self.columns: list[int] | None = None  # where each of the model's units stands in a line of CSV
        self.first = True

    def counts(self, line: bytes) -> "np.ndarray | str | None":
        """Counts (unit,), None for a missing bin, or RESET or HEADER.

        Raises:
            InputError: the line is malformed.
        """
        try:
            text = line.decode("utf-8-sig").strip()
        except UnicodeDecodeError:
            raise InputError("not text in UTF-8") from None
        if text.strip('"') == RESET:
            return RESET
        # No line of CSV begins as an array or an object does, so that each line shows by itself what it is.
        is_json = self.format is Format.json if self.format else text[:1] in ("[", "{") or text == "null"
        values = self._from_json(text) if is_json else self._from_csv(text)
        if values is None or isinstance(values, str):
            return values
        import numpy as np

        try:
            counts = np.array(values, dtype=np.float64)
        except OverflowError:
            raise InputError("a count is too large to be one") from None
        return None if len(counts) == len(self.position) and np.isnan(counts).all() else counts

    def _from_json(self, text: str) -> list | None:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON ({str(error) if text else 'an empty line'})") from None
        if value is None:
            return None
        if isinstance(value, dict):
            for unit in value:
                if not self._known(unit):
                    raise InputError(f"the session that the model was trained on has no unit {unit[:40]!r}")
            value = [value.get(unit, 0) for unit in self.position]
        if not isinstance(value, list):
            raise InputError("neither an array of counts, an object of unit ids and counts, null nor reset")
        for one in value:
            if not (one is None or type(one) in (int, float)):
                raise InputError(f"{json.dumps(one)[:40]} is not a count")
        return value

    def _from_csv(self, text: str) -> list[float] | str | None:
        try:
            fields = [field.strip() for field in next(csv.reader([text], skipinitialspace=True), [])]
        except csv.Error as error:
            raise InputError(f"not CSV ({error})") from None
        if not any(fields):
            return None
        if self.first:
            self.first = False
            if self._is_header(fields):
                self.columns = [fields.index(unit) for unit in self.position]
                self.width = len(fields)
                return HEADER
        if self.columns is not None:
            if len(fields) != self.width:
                raise InputError(f"{len(fields)} fields below a header of {self.width}")
            fields = [fields[i] for i in self.columns]
        return [_number(field) for field in fields]

    def _is_header(self, fields: list[str]) -> bool:
        """Raises: _HeaderError for a header that does not fit the model."""
        lacking = [unit for unit in self.position if unit not in fields]
        foreign = [unit for unit in fields if not self._known(unit)]
        names = not any(map(_is_number, fields)) and len(foreign) < len(fields)
        if not (self.header or (self.header is None and (names or not lacking))):
            return False
        if lacking or foreign:
            what = f"lacks unit {lacking[0]}" if lacking else f"has {foreign[0][:40]!r}, no unit of the session"
            raise _HeaderError(f"the header {what}; give the id of each of the model's {len(self.position)} units")
        return True

    def _known(self, unit: str) -> bool:
        return unit in self.position or unit in self.session_ids


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return not field
    return True


def _number(field: str) -> float:
    if not _is_number(field):
        raise InputError(f"{field[:40]!r} is not a count")
    return float(field or "nan")


class _Writer:
    """States to lines, each out at once."""

    def __init__(self, format: Format, ci: float | None, cov: bool):
        from scipy.special import ndtri

        self.format = format
        self.half = None if ci is None else float(ndtri(0.5 + 0.5 * ci))
        self.cov = cov

    def header(self, states: int) -> None:
        """The names of the columns, where there are columns."""
        if self.format is Format.json:
            return
        names = ["bin", "observed", *(f"mean_{i}" for i in range(states))]
        if self.cov:
            names += [f"cov_{i}_{j}" for i in range(states) for j in range(states)]
        if self.half is not None:
            names += [f"{bound}_{i}" for i in range(states) for bound in ("lower", "upper")]
        self._out(",".join(names))

    def state(self, n: int, observed: bool, mean: "np.ndarray", cov: "np.ndarray") -> None:
        """The state of bin n."""
        record: dict[str, Any] = {"bin": n, "observed": observed, "mean": mean.tolist()}
        if self.cov:
            record["cov"] = cov.tolist()
        if self.half is not None:
            half = self.half * cov.diagonal() ** 0.5
            record["ci"] = [list(pair) for pair in zip((mean - half).tolist(), (mean + half).tolist(), strict=True)]
        if self.format is Format.json:
            self._out(json.dumps(record))
        else:
            rows = [*record.get("cov", []), *record.get("ci", [])]
            self._out(",".join(map(repr, [n, int(observed), *record["mean"], *(v for row in rows for v in row)])))

    @staticmethod
    def _out(line: str) -> None:
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
