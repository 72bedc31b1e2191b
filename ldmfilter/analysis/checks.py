"""Checks of a fitted filter on time that training never saw: a number, its bounds, a verdict and a remedy each.

The checks are rows of the table `CHECKS`, under three questions. A new check is a new row.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Console

from ldmfilter.analysis.baselines import LINEAR_SYSTEM, LOCAL_LEVEL, NO_MEMORY, RANDOM_WALK
from ldmfilter.analysis.intervals import BAND
from ldmfilter.analysis.judged import GUARD, check_model
from ldmfilter.analysis.measures import LEVEL, SURROGATES, Measures, measure
from ldmfilter.analysis.readout import AnyReport
from ldmfilter.analysis.statistics import INFORMATION_UNIT
from ldmfilter.filter.model import LDMFilter
from ldmfilter.html import table
from ldmfilter.progress import Told, teller
from ldmfilter.text import finite, plain, print_lines, shown

QUESTIONS = USEFUL, HONEST, FIT = "are the states useful?", "are the intervals honest?", "do the dynamics fit?"

CORRELATION = 0.25  # of innovations, beyond that of white noise
LAG_BEHIND = 0.02  # nats per frame and latent dimension
COUPLING_DEVIATIONS = 5.0

SPIKES_AHEAD, LEAD_OVER_PCA = "spikes ahead", "lead over a causal PCA"
PREDICTIVE_INFORMATION, COUPLING = "predictive information", "coupling of the units"
HIDDEN_UNITS = "spikes of hidden units"

DRIFT_LEVEL = 0.01  # p-value above which a drift may be one of chance
CHANCE = "chance may explain it"
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

    @property
    def words(self) -> list[str]:
        """A finding in sentences, with the number, the threshold and the remedy."""
        return [
            f"Found: {self.verdict}.",
            f"Number: {' '.join((self.number, self.unit)).strip()}{self.sure}; wanted {self.wanted}.",
            f"Why there: {self.reason}.",
            f"Remedy: {self.remedy}.",
        ]


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
    """A number that a check judges, with its 95 % interval. `excuse`: why it raises no finding, but a doubt, where it
    lies beyond a bound or is NaN."""

    value: float
    interval: tuple[float, float] | None = None
    excuse: str = ""


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

    Texts are templates (`str.format`) of `value`, `low`, `high`, the measures `m`, and `refit`, which is `REFIT` where
    dynamics have not been refitted. A remedy says what it costs.

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
    number: Callable[[Measures], Number | float]
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
        part = (max if best else min)(
            found, key=lambda name: (found[name].ok, not found[name].doubtful, best and found[name].value)
        )
        if not part or self.of == "whole":
            return found[part]
        return dataclasses.replace(found[part], part=part, verdict=f"{part} states: {found[part].verdict}")

    def judge(self, measures: Measures) -> Finding:
        """The check's finding."""
        number = self.number(measures)
        value, interval, excuse = number if isinstance(number, Number) else Number(float(number))
        low, high = (limit and limit.of(measures) for limit in (self.low, self.high))

        def beyond(first: float, last: float) -> Limit | None:
            """The limit beyond which all from first to last lies; NaN lies beyond every one."""
            if low is not None and not (last > low if self.strict else last >= low):
                return self.low
            return None if high is None or first <= high else self.high

        off = beyond(value, value)
        broken = None if excuse else beyond(*interval) if interval and not self.strict else off
        verdict, remedy = (broken.verdict, broken.remedy) if broken else (self.fine, "")
        if off and not broken:
            verdict = excuse if math.isnan(value) else f"{off.verdict}; {excuse or CHANCE}"
        refit = REFIT if measures.can_refit else ""
        reason, verdict, remedy = (
            re.sub(r"(?<=\d)%", " %", text.format(value=value, low=low, high=high, m=measures, refit=refit))
            for text in (self.reason, verdict, remedy)
        )
        ok, doubtful, threshold = broken is None, bool(off and not broken), (low, high)
        return Finding(
            self.name, self.question, value, self.unit, interval, threshold, reason, ok, verdict, remedy, doubtful
        )


def _lead(m: Measures, baseline: str) -> Number:
    return next(Number(one.lead, one.interval) for one in m.baselines if one.name == baseline)


def _in_a_row(value: float, interval: tuple[float, float] | None = None) -> Number:
    return Number(value, interval, "" if math.isfinite(value) else "it could not be judged: too few bins in a row")


def _coupling_limit(m: Measures) -> float:
    others = m.sharing.surrogate_coupling
    return max(float(others.mean() + COUPLING_DEVIATIONS * others.std(ddof=1)), 0.0) if len(others) > 1 else 0.0


def _coupling(m: Measures) -> Number:
    # In short recordings and short trials it misses what the states tell of hidden units.
    return Number(m.sharing.coupling, excuse="see spikes of hidden units" if m.spikes.hidden > 0 else "")


def _coverage_in_thirds(m: Measures) -> Number:
    if not m.thirds:
        return Number(math.nan, excuse="it could not be judged: no intervals were calibrated")
    third, _ = m.thirds[0]
    low, high = (third.coverage + sign * 2 * third.coverage_se for sign in (-1, 1))
    return Number(third.coverage, (max(low, 0.0), min(high, 1.0)))


_IN_A_THIRD = (
    "95 % intervals of behaviour do not hold 92 to 98 % everywhere: {m.thirds_off}",
    "choose a --min-speed, which leaves slow bins out, or more --reserve, which leaves less to train on",
)


def _lead_check(
    name: str,
    baseline: str,
    strict: bool,
    at: Bound = 0.0,
    reason: str = "below 0 the simpler predictor is the better one",
    fine: str = "better than",
) -> Check:
    return Check(
        name,
        FIT,
        lambda m: _lead(m, baseline),
        unit=INFORMATION_UNIT,
        low=Limit(
            at,
            f"{baseline} predicts the same pseudo-observations better: the filter's dynamics do not fit them",
            "choose {refit}twice as many --max-steps, which takes twice as long",
        ),
        strict=strict,
        reason=reason,
        fine=f"the filter predicts {fine} {baseline}",
    )


def _drift_check(name: str, question: str, key: str, unit: str, at: Bound, reason: str, what: str) -> Check:
    def change(m: Measures) -> Number:
        value, p = m.drift.changes[key]
        return Number(value, excuse=CHANCE if p > DRIFT_LEVEL else "")

    over = f"over the session (p = {{m.drift.changes[{key}][1]:.2g}})"
    wrong = (
        f"{what} drifts {over}",
        "choose a shorter --span, which leaves less to train on, or stable --units; conditions in blocks drift too",
    )
    high = Limit(at, *wrong)
    return Check(
        name,
        question,
        change,
        unit=unit,
        low=Limit(lambda m: -high.of(m), *wrong),
        high=high,
        reason=f"{reason}; and not by chance, p <= {DRIFT_LEVEL:g}",
        fine=f"{what} does not drift {over}",
    )


CHECKS = (
    Check(
        SPIKES_AHEAD, USEFUL, lambda m: _in_a_row(m.spikes.states),
        unit="bits per spike",
        low=Limit(
            0.0,
            "the states do not tell what the population will do next",
            "choose other --units or a longer --span, and train anew",
        ),
        of="whole",
        reason="0 is what each unit's mean rate tells; counted {m.spikes.nearest:g} to {m.spikes.farthest:g} s ahead",
        fine="the states predict spikes to come better than mean rates",
    ),
    Check(
        LEAD_OVER_PCA, USEFUL, lambda m: _in_a_row(m.spikes.lead, m.spikes.interval),
        unit="bits per spike",
        low=Limit(
            0.0,
            "a causal PCA of smoothed counts predicts spikes better ({m.spikes.pca:.3f} bits, {m.spikes.states:.3f} by "
            "the states)",
            "choose the other --dynamics, or --max-steps twice as high, which takes twice as long",
        ),
        of="whole",
        reason="below 0 a prediction from smoothed counts alone is better",
        fine="the states predict spikes as well as a causal PCA or better "
        "({m.spikes.states:.3f} and {m.spikes.pca:.3f})",
    ),
    Check(
        PREDICTIVE_INFORMATION, USEFUL, lambda m: _lead(m, NO_MEMORY),
        unit=INFORMATION_UNIT,
        low=Limit(
            0.0,
            f"the past does not help: the filter predicts no better than {NO_MEMORY}",
            "choose another --bin-size, other --units, or a longer --span, and train anew",
        ),
        strict=True,
        of="best",
        reason="below 0 the simpler predictor is the better one",
        fine="the past helps to predict each bin",
    ),
    Check(
        COUPLING, USEFUL, _coupling,
        low=Limit(
            _coupling_limit,
            "a linear regression does not show that units predict each other for longer than a bin",
            "choose another --bin-size, more --units, or a longer --span, and train anew",
        ),
        strict=True,
        of="best",
        reason=f"{COUPLING_DEVIATIONS:g} deviations above {{m.sharing.surrogate_coupling.size}} sets of spikes with "
        "each unit shifted in time by itself",
        fine="units predict each other beyond their own rhythms",
    ),
    Check(
        HIDDEN_UNITS, USEFUL, lambda m: _in_a_row(m.spikes.hidden, m.spikes.hidden_interval),
        unit="bits per spike",
        low=Limit(
            0.0,
            "states that are not shown a unit do not tell its spikes: the filter follows each unit's own rhythm",
            "choose twice as many --max-steps, which takes twice as long, other --units, or a longer --span",
        ),
        strict=True,
        of="whole",
        reason="0 is what each unit's mean rate tells; a quarter of the units is hidden at a time",
        fine="states that are not shown a unit tell its spikes, so that what they follow is shared",
    ),
    Check(
        "rank of z", USEFUL, lambda m: m.spectrum.z_rank,
        unit="dimensions",
        low=Limit(
            lambda m: 0.5 * len(m.spectrum.z),
            "the pseudo-observations of {m.spectrum.z.size} dimensions collapse on new time",
            "choose fewer --latent-dim, which can hold less, --entropy logdet, or a longer --span",
        ),
        reason="z is white on training's bins, of rank {m.spectrum.z.size}; half of that is a collapse on new ones",
        fine="the pseudo-observations use their {m.spectrum.z.size} dimensions",
    ),
    Check(
        "rank of the prediction", USEFUL, lambda m: m.spectrum.prediction_rank,
        unit="dimensions",
        low=Limit(
            lambda m: 0.25 * len(m.spectrum.z),
            "few dimensions can be predicted: the rest of the {m.spectrum.z.size} is noise",
            "choose --latent-dim {value:.0f}, which is faster, and loses what it cannot predict",
        ),
        reason="below a quarter of the latent dimensions most of them are noise to the filter",
        fine="prediction is spread over several dimensions",
    ),
    Check(
        "largest unit", USEFUL, lambda m: m.units.share.max(),
        high=Limit(
            lambda m: max(0.5, 1.5 / len(m.units.share)),
            "unit {m.units.largest} carries {value:.0%} of what single units add: the filter follows one unit",
            "look at unit {m.units.largest}; leave it out by --units, or choose more "
            "--dropout, which blurs what few units tell",
        ),
        reason="a filter of the population should not depend on one unit, which may be lost",
        fine="unit {m.units.largest} counts most, with {value:.0%} of what single units add",
    ),
    _drift_check(
        "drift of the predictive information", USEFUL, "predictive_information", INFORMATION_UNIT,
        lambda m: 0.5 * max(abs(_lead(m, NO_MEMORY).value), 0.1 / m.bin_size),
        "half of the predictive information: states at the end would be worth much more or less than at the start",
        "predictive information",
    ),
    Check(
        "innovation size", HONEST, lambda m: Number(m.consistency.size, m.consistency.size_interval),
        low=Limit(
            0.8,
            "the filter is underconfident: squared innovations are {value:.2f} times what it expects",
            "choose {refit}twice as many --max-steps, which takes twice as long",
        ),
        high=Limit(
            1.25,
            "the filter is overconfident: squared innovations are {value:.2f} times what it expects",
            "choose fewer --latent-dim, which can hold less, or a longer --span",
        ),
        reason="1 where the covariances are true; beyond 0.8 to 1.25 intervals are a tenth too wide or too narrow",
        fine="innovations are about as large as the filter expects",
    ),
    Check(
        "innovation outliers", HONEST, lambda m: Number(m.consistency.tail, m.consistency.tail_interval),
        high=Limit(
            0.1,
            "{value:.1%} of bins lie outside the region that should hold 95 %: more than under a Gaussian",
            "choose a larger --bin-size, whose counts are more Gaussian and whose states come less often, or a higher "
            "--min-rate, which leaves units out",
        ),
        reason="0.05 where innovations are Gaussian; at twice that, 95 % regions miss twice as often as they should",
        fine="{value:.1%} of bins lie outside the region that should hold 95 %",
    ),
    Check(
        "forecast coverage", HONEST, lambda m: _in_a_row(m.worst_ahead.coverage, m.worst_ahead.coverage_interval),
        low=Limit(
            0.9,
            "95 % intervals of forecasts hold {value:.1%} {m.worst_ahead.seconds:g} s ahead: too few",
            "choose {refit}fewer --latent-dim, which can hold less, or a longer --span",
        ),
        high=Limit(
            0.99,
            "95 % intervals of forecasts hold {value:.1%} {m.worst_ahead.seconds:g} s ahead: they are too wide",
            "choose {refit}twice as many --max-steps, which takes twice as long",
        ),
        reason="at 0.9 intervals miss twice as often as they should, at 0.99 a fifth as often; judged on what the "
        "encoder sees later",
        fine="95 % intervals of forecasts hold {value:.1%} {m.worst_ahead.seconds:g} s ahead, where they are furthest "
        "off",
    ),
    _drift_check(
        "drift of the innovations", HONEST, "nis", "", 0.5,
        "at 0.5 intervals are a quarter too wide or too narrow at one end",
        "the size of innovations against what the filter expects",
    ),
    Check(
        "coverage of behaviour in thirds", HONEST, _coverage_in_thirds,
        low=Limit(LEVEL - BAND, *_IN_A_THIRD),
        high=Limit(LEVEL + BAND, *_IN_A_THIRD),
        reason="intervals that are right on average may be wrong where it matters: each third of the bins, by spikes "
        "of the last second, speed, predicted width and value, should be within 3 % and 2 standard errors",
        fine="95 % intervals of behaviour hold {value:.1%} in the third where they are furthest off",
        of_behavior=True,
        of="whole",
    ),
    Check(
        "innovation correlation", FIT, lambda m: m.consistency.correlation.max(),
        high=Limit(
            lambda m: math.hypot(float(m.consistency.white.max()), CORRELATION),
            "innovations predict each other, most of all {m.consistency.worst_lag:g} s apart: the dynamics miss "
            "something ({m.consistency.hosking})",
            "choose {refit}a --state-dim above --latent-dim, which makes filtering slower",
        ),
        reason=f"{CORRELATION:g} beyond the bound of white innovations in so many bins means that {CORRELATION**2:.0%} "
        "of an innovation could have been predicted from one before",
        fine="little is left to predict in the innovations ({m.consistency.hosking})",
    ),
    _lead_check("lead over a random walk", RANDOM_WALK, strict=True),
    _lead_check("lead over a walk in noise", LOCAL_LEVEL, strict=False),
    _lead_check(
        "lead over a linear system", LINEAR_SYSTEM, False,
        lambda m: -LAG_BEHIND * len(m.spectrum.z) * (1 / m.bin_size),
        "the filter is one itself and should come near the best; 0.02 nats a frame and dimension are errors 2 % larger",
        "as well as",
    ),
    Check(
        "states without memory", FIT, lambda m: (m.memory.time_constant < m.bin_size).sum(),
        unit="states",
        high=Limit(
            lambda m: 0.5 * len(m.memory.time_constant),
            "{value:.0f} of {m.memory.time_constant.size} states have time constants below a bin",
            "choose fewer --latent-dim, which can hold less, or a smaller --bin-size",
        ),
        reason="a state whose time constant is below a bin of {m.bin_size:g} s predicts nothing; half of them may",
        fine="{value:.0f} of {m.memory.time_constant.size} states have time constants below a bin",
    ),
    Check(
        "slowest state", FIT, lambda m: m.memory.time_constant.max(),
        unit="s",
        high=Limit(
            lambda m: m.duration,
            "the slowest state hardly changes in the session: its time constant is not known",
            "choose a longer --span, or fewer --latent-dim, which can hold less",
        ),
        reason="{high:.0f} s were observed: nothing slower can be told from a constant",
        fine="the time constant of the slowest state is shorter than the session",
    ),
    _drift_check(
        "drift of z", FIT, "mean_z", "deviations", 0.5,
        "half a standard deviation of z, along the direction in which it moves",
        "the mean of the pseudo-observations",
    ),
)  # fmt: skip

# Words for a signal, in place of those for spikes.
_OF_SIGNAL = (
    ("bits per spike", "of the variance"),
    (" bits, ", " of the variance, "),
    ("mean rate", "mean"),
    ("; counted ", "; "),
    ("smoothed counts", "the smoothed signal"),
    ("whose counts are", "whose means are"),
    (", or a higher --min-rate, which leaves units out", ""),
    ("sets of spikes", "signals"),
    ("recorded spikes", "recorded signal"),
    ("spikes ahead", "signal ahead"),
    ("spikes shifted", "the signal shifted"),
    ("spikes of hidden", "signal of hidden"),
    ("its spikes", "its signal"),
    (" spikes", " the signal"),
)


def of_signal(text: str) -> str:
    """A sentence of the checks on spikes, as it reads where the model is one of a signal.

    >>> of_signal("the states predict spikes to come better than mean rates")
    'the states predict the signal to come better than means'
    """
    for spikes, signal in _OF_SIGNAL:
        text = text.replace(spikes, signal)
    return text


@dataclass(frozen=True, eq=False, repr=False)
class Diagnosis(Measures):
    """The measures of a model, of several parts those of the first, and what the checks find in them.

    Attributes:
        findings: one for each row of `CHECKS` that could be judged, in the table's order.
        signal: whether the model is one of a signal, not of spikes.
        parts: the measures of each part, slow and fast, of a filter of both; else empty.
    """

    findings: tuple[Finding, ...]
    signal: bool = False
    parts: dict[str, Measures] = dataclasses.field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """True where nothing is wrong."""
        return all(finding.ok for finding in self.findings)

    @property
    def predictive(self) -> bool:
        """True where the states predict something that the units share, beyond each unit's own rhythm."""
        return not self.unpredictive

    @property
    def unpredictive(self) -> str:
        """The verdicts by which they do not, "" where they do."""
        needed = {of_signal(name) if self.signal else name for name in (SPIKES_AHEAD, HIDDEN_UNITS)}
        return "; ".join(finding.verdict for finding in self.findings if finding.name in needed and not finding.ok)

    @property
    def summary(self) -> str:
        """In words."""
        seen = (
            f"never saw, {GUARD:g} s or more from what it saw"
            if self.held_out
            else "saw, as none was reserved: this is optimistic"
        )
        where = f"Judged on {self.seconds:.0f} s that training {seen}."
        if not self.predictive:
            return f"Nothing predictive was found: {self.unpredictive}. {where}"
        wrong = ", ".join(finding.name for finding in self.findings if not finding.ok)
        doubts = f"To look at: {wrong}." if wrong else "No check raises a doubt."
        beaten = any(finding.name == LEAD_OVER_PCA and not finding.ok for finding in self.findings)
        first = "A causal PCA of smoothed counts predicts spikes better than these states. " if beaten else ""
        first = of_signal(first) if self.signal else first
        return f"{first}Something predictive was found that the units share. {where} {doubts}"

    def __repr__(self) -> str:
        return plain(self.show)

    def show(self, console: Console) -> None:
        """A summary, a table of findings under their questions, and what to do about those that are not well."""
        from rich.table import Table

        print_lines(console, self.summary)
        grid = Table(box=None, pad_edge=False, header_style="dim")
        grid.add_column("", no_wrap=True)
        grid.add_column("finding", overflow="fold", ratio=1)
        for head in ("value", "wanted"):
            grid.add_column(head, justify="right", no_wrap=True)
        for question, group in itertools.groupby(self.findings, lambda one: one.question):
            findings = list(group)
            wrong = sum(not one.ok for one in findings)
            grid.add_row("", shown(f"{question} {f'{wrong} to look at' if wrong else 'yes'}", style="bold"))
            for one in findings:
                style = "" if one.ok else "bold yellow"
                grid.add_row(*(shown(text, style=style) for text in (one.sign, one.name, one.number, one.wanted)))
        console.print()
        console.print(grid)
        if any(one.doubtful for one in self.findings):
            print_lines(console, "ok~: not as wanted, but chance may explain it, or it cannot be judged", style="dim")
        for one in self.findings:
            if not one.ok:
                console.print()
                print_lines(console, one.name, style="bold yellow")
                print_lines(console, *one.words)

    def _repr_html_(self) -> str:
        """For a notebook: the summary, and a row for each check."""
        rows = [
            (one.sign, one.question, one.name, one.number, one.unit, one.wanted, one.verdict, one.remedy)
            for one in self.findings
        ]
        heads = ("", "question", "finding", "value", "unit", "wanted", "verdict", "remedy")
        return table("check", rows, heads, self.summary)

    def to_dict(self) -> dict[str, Any]:
        """Findings and measures in plain types, as JSON takes them.

        Returns
        -------
        dict
            Numbers that are not finite are None.

        Examples
        --------
        >>> ldmfilter.check(model, counts, surrogates=2).to_dict()["findings"]  # doctest: +SKIP
        """
        shown = ("ok", "summary", "predictive", "unpredictive")
        content = {name: getattr(self, name) for name in shown} | dataclasses.asdict(self)
        return dict(finite(content | {"behavior": [one.to_dict() for one in self.behavior]}))


def check(
    model: LDMFilter,
    counts: Any,
    surrogates: int = SURROGATES,
    seed: int = 0,
    progress: Told = False,
    behavior: Sequence[AnyReport] = (),
) -> Diagnosis:
    """Check a model: are its states useful, its intervals honest, and do its dynamics fit?

    All is judged on bins that training never saw, `judged.GUARD` s away from those it did. Where there are none,
    training's own bins are used, `held_out` is False, and the summary says so.

    Parameters
    ----------
    model : LDMFilter
        Fitted.
    counts : xarray.DataArray (time, unit)
        Of the session it was trained on, reserved time included, or of another one, as `LDMFilter.fit` takes them.
    surrogates : int
        Number of sets of spikes with each unit shifted anew.
    seed : int
        Of shifts, bootstrap and permutations.
    progress : bool or callable
        True prints what is being computed, on stderr; a function is called with it.
    behavior : sequence of BehaviorReport or ClassReport
        Reports of `read_behavior` on these counts, whose 95 % intervals are then judged too.

    Returns
    -------
    Diagnosis
        `summary`, in words; `ok`; `findings`, each with its name, value, unit, threshold, verdict and remedy;
        `to_dict`.

    Raises
    ------
    InputError
        Not fitted, counts of other units or bins, fewer than 100 bins to judge on, or pseudo-observations that do not
        vary.

    Examples
    --------
    >>> diagnosis = ldmfilter.check(model, counts, surrogates=2)
    >>> diagnosis.findings[0].name, diagnosis.findings[0].unit
    ('spikes ahead', 'bits per spike')
    """
    found = diagnose(model, counts, surrogates, seed, progress, behavior)
    findings = (dataclasses.replace(one, remedy=in_python(one.remedy)) for one in found.findings)
    return dataclasses.replace(found, findings=tuple(findings))


def diagnose(
    model: LDMFilter,
    counts: Any,
    surrogates: int = SURROGATES,
    seed: int = 0,
    progress: Told = False,
    behavior: Sequence[AnyReport] = (),
) -> Diagnosis:
    """As `check`, with remedies that name options of the command line."""
    check_model(model)
    words: Callable[[str], str] = of_signal if model.signal_ else str
    tell = teller(progress)
    measures = measure(model, counts, surrogates, seed, lambda what: tell(words(what)), behavior)
    findings = []
    in_thirds = any(hasattr(one, "thirds") for one in behavior)  # readouts of classes have no intervals
    for one in (row.judge_parts(measures) for row in CHECKS if in_thirds or not row.of_behavior):
        texts: dict[str, Any] = {k: words(v) for k, v in vars(one).items() if isinstance(v, str)}
        findings.append(dataclasses.replace(one, **texts))
    parts = measures if len(measures) > 1 else {}
    first = next(iter(measures.values()))
    return Diagnosis(**vars(first), findings=tuple(findings), signal=model.signal_, parts=parts)
