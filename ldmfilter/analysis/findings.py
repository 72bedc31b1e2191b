"""Checks and what they find: a number, its bounds, a verdict and a remedy."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from ldmfilter.analysis.measures import Measures

DRIFT_LEVEL = 0.01
Bound = float | Callable[[Measures], float]
REFIT = "--refit, which takes seconds and may tell less of slow behaviour, or "


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        name: of the number.
        question: the one of the three that the check belongs to.
        value, unit: the number, and its unit, empty for a ratio.
        interval: its 95 % interval, where it has one.
        threshold: lowest and highest value that raise no finding; None where there is no bound.
        reason: why the threshold lies there.
        ok: whether nothing is wrong.
        verdict, remedy: in words, and what to change where something is wrong, else empty; the remedy names settings
            as Python does (`check`), or options of the command line (`diagnose`).
        doubtful: whether the value is beyond the threshold, but part of its interval is not: chance may explain it.
        part: slow or fast, of a filter of both, where the number is that of one part: the one with the worse verdict.
    """

    name: str
    question: str
    value: float
    unit: str
    interval: tuple[float, float] | None
    threshold: tuple[float | None, float | None]
    reason: str
    ok: bool
    verdict: str
    remedy: str
    doubtful: bool
    part: str = ""

    @property
    def sign(self) -> str:
        """ok, ok~ where it is doubtful, or !!."""
        return "!!" if not self.ok else "ok~" if self.doubtful else "ok"

    @property
    def number(self) -> str:
        """The value as text, with as many digits as tell it from its threshold."""
        text = _short(self.value)
        told = text not in map(_short, self.threshold) or self.value in self.threshold
        return text if told else f"{self.value:.5g}"

    @property
    def sure(self) -> str:
        """The interval as text, or ""."""
        return f", 95 % interval {_short(self.interval[0])} to {_short(self.interval[1])}" if self.interval else ""

    @property
    def wanted(self) -> str:
        """The threshold as text."""
        low, high = self.threshold
        if low is None:
            return f"<= {_short(high)}"
        return f">= {_short(low)}" if high is None else f"{_short(low)} to {_short(high)}"


def _short(value: float | None) -> str:
    """A number with three significant digits and without an exponent where it is large; "" for None."""
    return "" if value is None else f"{value:.0f}" if 999.5 <= abs(value) < 1e9 else f"{value:.3g}"


def in_python(remedy: str) -> str:
    """A remedy that names options of the command line, by the names that settings and arguments have in Python.

    >>> in_python("choose --refit, --entropy logdet, or twice as many --max-steps")
    "choose refit=True, entropy='logdet', or twice as many max_steps"
    """
    remedy = re.sub(r"--entropy (\w+)", r"entropy='\1'", remedy.replace("--refit", "refit=True"))
    return re.sub(r"--([a-z]+(?:-[a-z]+)*)", lambda found: found[1].replace("-", "_"), remedy)


class Number(NamedTuple):
    """A number that a check judges, with its 95 % interval, or the p-value of its being 0: above `DRIFT_LEVEL` nothing
    is wrong. `missing`: why the number cannot be judged, as where it is NaN: it is then doubtful, and raises no
    finding."""

    value: float
    interval: tuple[float, float] | None = None
    p: float = 0.0
    missing: str = ""


class Limit(NamedTuple):
    """A bound of a check's number, with the verdict and the remedy where the number lies beyond it."""

    at: Bound
    verdict: str
    remedy: str

    def of(self, measures: Measures) -> float:
        """The bound on these measures."""
        return self.at(measures) if callable(self.at) else self.at


@dataclass(frozen=True)
class Check:
    """A row of the table.

    Texts are templates (`str.format`) of `value`, `low`, `high`, `p`, the measures `m`, and `refit`, which is `REFIT`
    where noise has not been refitted. A remedy says what it costs.

    Attributes:
        name, unit: of the number; the unit is empty for a ratio.
        question: `USEFUL`, `HONEST` or `FIT`.
        number: gives the number.
        low, high: its bounds, one or both.
        strict: whether the value itself must lie above `low`; else part of its interval is enough.
        of: the part of a filter of slow and fast states that the number is of: that with the "worst" or the "best"
            verdict, or the "whole", where all parts have the same.
        reason: why the bounds lie there.
        fine: the verdict where nothing is wrong.
        of_behavior: whether it is judged only where behaviour was read.
    """

    name: str
    question: str
    number: Callable[[Measures], Number]
    _: dataclasses.KW_ONLY
    unit: str = ""
    low: Limit | None = None
    high: Limit | None = None
    strict: bool = False
    of: str = "worst"
    reason: str
    fine: str
    of_behavior: bool = False

    def judge_parts(self, measures: Mapping[str, Measures]) -> Finding:
        """The check's finding on a filter of these parts."""
        found = {part: self.judge(one) for part, one in measures.items()}
        best = self.of == "best"

        def rank(part: str) -> tuple[bool, bool, float]:
            return found[part].ok, not found[part].doubtful, found[part].value if best else 0.0

        part = max(found, key=rank) if best else min(found, key=rank)
        if not part or self.of == "whole":
            return found[part]
        return dataclasses.replace(found[part], part=part, verdict=f"{part} states: {found[part].verdict}")

    def judge(self, measures: Measures) -> Finding:
        """The check's finding."""
        value, interval, p, missing = self.number(measures)
        low, high = (limit and limit.of(measures) for limit in (self.low, self.high))
        least, most = -math.inf if low is None else low, math.inf if high is None else high
        first, last = (value, value) if interval is None or self.strict else interval
        # Written so that NaN lies beyond every bound.
        under, over = not (last > least if self.strict else last >= least), not first <= most
        broken = self.low if self.low and under else self.high if self.high and over else None
        if p > DRIFT_LEVEL or missing:
            broken = None
        ok, verdict, remedy = (False, broken.verdict, broken.remedy) if broken else (True, missing or self.fine, "")
        doubtful = ok and (bool(missing) or not least <= value <= most)
        beyond = self.low if value < least else self.high
        if doubtful and not missing and beyond:
            verdict = f"{beyond.verdict}; chance may explain it"
        refit = REFIT if measures.can_refit else ""
        reason, verdict, remedy = (
            re.sub(r"(?<=\d)%", " %", text.format(value=value, low=low, high=high, p=p, m=measures, refit=refit))
            for text in (self.reason, verdict, remedy)
        )
        threshold = low, high
        return Finding(
            self.name, self.question, value, self.unit, interval, threshold, reason, ok, verdict, remedy, doubtful
        )
