"""The checks of a fitted filter: a table with a row for each, under three questions. A new check is a new row.

`check` measures a model on time that training never saw and judges every row.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ldmfilter.analysis.baselines import LINEAR_SYSTEM, LOCAL_LEVEL, NO_MEMORY, RANDOM_WALK
from ldmfilter.analysis.calibration import BAND
from ldmfilter.analysis.measures import LEVEL, SURROGATES, Measures, measure
from ldmfilter.analysis.signal_words import of_signal
from ldmfilter.analysis.statistics import INFORMATION_UNIT, information_scale
from ldmfilter.html import table

if TYPE_CHECKING:
    from ldmfilter.analysis.readout import AnyReport
    from ldmfilter.filter.model import LDMFilter

QUESTIONS = USEFUL, HONEST, FIT = "are the states useful?", "are the intervals honest?", "do the dynamics fit?"

CORRELATION = 0.25  # of innovations, beyond that of white noise
LAG_BEHIND = 0.02  # nats per frame and latent dimension
DRIFT_LEVEL = 0.01
COUPLING_DEVIATIONS = 5.0
REFIT = "--refit, which takes seconds and may tell less of slow behaviour, or "

SPIKES_AHEAD, LEAD_OVER_PCA = "spikes ahead", "lead over a causal PCA"
PREDICTIVE_INFORMATION, COUPLING = "predictive information", "coupling of the units"
SHARED_INFORMATION = "shared predictive information"


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes:
        name: of the number.
        question: the one of the three that the check belongs to.
        value: the number.
        unit: its unit, empty for a ratio.
        interval: its 95 % interval, where it has one.
        threshold: lowest and highest value that raise no finding; None where there is no bound.
        reason: why the threshold lies there.
        ok: whether nothing is wrong.
        verdict: in words.
        remedy: what to change where something is wrong, else empty.
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
        """The value as text."""
        return f"{self.value:.3g}"

    @property
    def sure(self) -> str:
        """The interval as text, or ""."""
        return f", 95 % interval {self.interval[0]:.3g} to {self.interval[1]:.3g}" if self.interval else ""

    @property
    def wanted(self) -> str:
        """The threshold as text."""
        low, high = self.threshold
        if low is None:
            return f"<= {high:.3g}"
        return f">= {low:.3g}" if high is None else f"{low:.3g} to {high:.3g}"


class Number(NamedTuple):
    """A number that a check judges, with its 95 % interval, or the p-value of its being 0: above `DRIFT_LEVEL` nothing
    is wrong. `missing`: why there is no number, which is then NaN and raises no finding."""

    value: float
    interval: tuple[float, float] | None = None
    p: float = 0.0
    missing: str = ""


class Limit(NamedTuple):
    """A bound of a check's number, with the verdict and the remedy where the number lies beyond it."""

    at: Callable[[Measures], float]
    verdict: str
    remedy: str


@dataclass(frozen=True)
class Check:
    """A row of the table.

    Texts are templates (`str.format`) of `value`, `low`, `high`, `p`, the measures `m`, and `refit`, which is
    `REFIT` where noise has not been refitted. A remedy says what it costs.

    Attributes:
        name: of the number.
        question: `USEFUL`, `HONEST` or `FIT`.
        number: gives the number.
        unit: of the number, empty for a ratio.
        low, high: its bounds, one or both.
        strict: whether the value itself must lie above `low`; else part of its interval is enough.
        of: which part of a filter of slow and fast states the number is of: that with the "worst" or the "best"
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
        low, high = (limit.at(measures) if limit else None for limit in (self.low, self.high))
        least, most = -math.inf if low is None else low, math.inf if high is None else high
        first, last = (value, value) if interval is None or self.strict else interval
        # Written so that NaN lies beyond every bound.
        under, over = not (last > least if self.strict else last >= least), not first <= most
        broken = self.low if self.low and under else self.high if self.high and over else None
        if p > DRIFT_LEVEL or missing:
            broken = None
        ok, verdict, remedy = (False, broken.verdict, broken.remedy) if broken else (True, missing or self.fine, "")
        doubtful = ok and (bool(missing) or (interval is not None and not least <= value <= most))
        if doubtful and not missing:
            verdict += "; beyond the threshold, but chance may explain it"
        refit = REFIT if measures.can_refit else ""
        reason, verdict, remedy = (
            text.format(value=value, low=low, high=high, p=p, m=measures, refit=refit)
            for text in (self.reason, verdict, remedy)
        )
        threshold = low, high
        return Finding(
            self.name, self.question, value, self.unit, interval, threshold, reason, ok, verdict, remedy, doubtful
        )


def _lead(m: Measures, baseline: str) -> Number:
    return next(Number(one.lead, one.interval) for one in m.baselines if one.name == baseline)


def _unjudged(m: Measures) -> str:
    return "" if math.isfinite(m.spikes.states) else "it could not be judged: too few bins in a row"


def _coupling_limit(m: Measures) -> float:
    others = m.sharing.surrogate_coupling
    return max(float(others.mean() + COUPLING_DEVIATIONS * others.std(ddof=1)), 0.0) if len(others) > 1 else 0.0


def _coverage_ahead(m: Measures) -> Number:
    worst = next(one for one in m.ahead if one.seconds == m.worst_ahead)
    missing = "" if worst.bins else "it could not be judged: no stretch is longer than a frame"
    return Number(worst.coverage, worst.coverage_interval, missing=missing)


def _coverage_in_thirds(m: Measures) -> Number:
    if m.worst_third is None:
        return Number(math.nan, missing="it could not be judged: no intervals were calibrated")
    third = m.worst_third[1]
    return Number(third.coverage, (third.coverage - 2 * third.coverage_se, third.coverage + 2 * third.coverage_se))


_IN_A_THIRD = (
    "95 % intervals of behaviour do not hold 92 to 98 % everywhere: {m.thirds_outside}",
    "choose a --min-speed, which leaves slow bins out, or more --reserve, which leaves less to train on",
)


def _lead_check(
    name: str, baseline: str, at: Callable[[Measures], float], reason: str, fine: str, strict: bool
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


def _drift_check(
    name: str, question: str, key: str, unit: str, at: Callable[[Measures], float], reason: str, what: str
) -> Check:
    wrong = (
        f"{what} drifts over the session (p = {{p:.2g}})",
        "choose a shorter --span, which leaves less to train on, or stable --units",
    )
    return Check(
        name,
        question,
        lambda m: Number(m.drift.changes[key][0], p=m.drift.changes[key][1]),
        unit=unit,
        low=Limit(lambda m: -at(m), *wrong),
        high=Limit(at, *wrong),
        reason=f"{reason}; and not by chance, p <= {DRIFT_LEVEL:g}",
        fine=f"{what} does not drift over the session (p = {{p:.2g}})",
    )


CHECKS = (
    Check(
        SPIKES_AHEAD, USEFUL, lambda m: Number(m.spikes.states, missing=_unjudged(m)),
        unit="bits per spike",
        low=Limit(
            lambda m: 0.0,
            "the states do not tell what the population will do next",
            "choose other --units or a longer --span, and train anew",
        ),
        of="whole",
        reason="0 is what each unit's mean rate tells; counted 0.5 to 3 s ahead, nearer where stretches are short",
        fine="the states predict spikes to come better than mean rates",
    ),
    Check(
        LEAD_OVER_PCA, USEFUL, lambda m: Number(m.spikes.lead, m.spikes.interval, missing=_unjudged(m)),
        unit="bits per spike",
        low=Limit(
            lambda m: 0.0,
            "a causal PCA of smoothed counts predicts spikes better ({m.spikes.pca:.3f} bits, {m.spikes.states:.3f} by "
            "the states)",
            "choose the other --dynamics, or --max-steps twice as high, which takes twice as long",
        ),
        of="whole",
        reason="below 0 smoothing the counts would have done",
        fine="the states predict spikes as well as a causal PCA or better "
        "({m.spikes.states:.3f} and {m.spikes.pca:.3f})",
    ),
    Check(
        PREDICTIVE_INFORMATION, USEFUL, lambda m: _lead(m, NO_MEMORY),
        unit=INFORMATION_UNIT,
        low=Limit(
            lambda m: 0.0,
            f"the past does not help: the filter predicts no better than {NO_MEMORY}",
            "choose another --bin-size, other --units, or a longer --span, and train anew",
        ),
        strict=True,
        of="best",
        reason="below 0 the simpler predictor is the better one",
        fine="the past helps to predict each bin",
    ),
    Check(
        COUPLING, USEFUL, lambda m: Number(m.sharing.coupling),
        low=Limit(
            _coupling_limit,
            "units do not predict each other: nothing is shared that lasts longer than a bin",
            "choose another --bin-size, more --units, or a longer --span, and train anew",
        ),
        strict=True,
        of="best",
        reason=f"{COUPLING_DEVIATIONS:g} deviations above {{m.sharing.surrogate_coupling.size}} sets of spikes with "
        "each unit shifted in time by itself",
        fine="units predict each other beyond their own rhythms",
    ),
    Check(
        SHARED_INFORMATION, USEFUL, lambda m: Number(m.sharing.predictive_information),
        unit=INFORMATION_UNIT,
        low=Limit(
            lambda m: float(m.sharing.surrogate_information.max(initial=0.0)),
            "predictive information is {value:.2f} on the recorded spikes and up to {low:.2f} on shifted ones: the "
            "filter follows each unit's own rhythm",
            "choose twice as many --max-steps, which takes twice as long, other --units, or a longer --span",
        ),
        strict=True,
        of="best",
        reason="the most that the same filter reaches on {m.sharing.surrogate_information.size} sets of spikes with "
        "each unit shifted in time by itself",
        fine="predictive information is {value:.2f} on the recorded spikes, {low:.2f} at most on shifted ones",
    ),
    Check(
        "rank of z", USEFUL, lambda m: Number(m.spectrum.z_rank),
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
        "rank of the prediction", USEFUL, lambda m: Number(m.spectrum.prediction_rank),
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
        "largest unit", USEFUL, lambda m: Number(float(m.units.share.max())),
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
        lambda m: 0.5 * max(abs(_lead(m, NO_MEMORY).value), 0.1 * information_scale(m.bin_size)),
        "half of the predictive information: states at the end would be worth much more or less than at the start",
        "predictive information",
    ),
    Check(
        "innovation size", HONEST, lambda m: Number(m.consistency.size, m.consistency.size_interval),
        low=Limit(
            lambda m: 0.8,
            "the filter is underconfident: squared innovations are {value:.2f} times what it expects",
            "choose {refit}twice as many --max-steps, which takes twice as long",
        ),
        high=Limit(
            lambda m: 1.25,
            "the filter is overconfident: squared innovations are {value:.2f} times what it expects",
            "choose fewer --latent-dim, which can hold less, or a longer --span",
        ),
        reason="1 where the covariances are true; beyond 0.8 to 1.25 intervals are a tenth too wide or too narrow",
        fine="innovations are about as large as the filter expects",
    ),
    Check(
        "innovation outliers", HONEST, lambda m: Number(m.consistency.tail, m.consistency.tail_interval),
        high=Limit(
            lambda m: 0.1,
            "{value:.1%} of bins lie outside the region that should hold 95 %: more than under a Gaussian",
            "choose a larger --bin-size, whose counts are more Gaussian and whose states come less often, or a higher "
            "--min-rate, which leaves units out",
        ),
        reason="0.05 where innovations are Gaussian; at twice that, 95 % regions miss twice as often as they should",
        fine="{value:.1%} of bins lie outside the region that should hold 95 %",
    ),
    Check(
        "forecast coverage", HONEST, _coverage_ahead,
        low=Limit(
            lambda m: 0.9,
            "95 % intervals of forecasts hold {value:.1%} {m.worst_ahead:g} s ahead: too few",
            "choose {refit}fewer --latent-dim, which can hold less, or a longer --span",
        ),
        high=Limit(
            lambda m: 0.99,
            "95 % intervals of forecasts hold {value:.1%} {m.worst_ahead:g} s ahead: they are too wide",
            "choose {refit}twice as many --max-steps, which takes twice as long",
        ),
        reason="at 0.9 intervals miss twice as often as they should, at 0.99 a fifth as often; judged on what the "
        "encoder sees later",
        fine="95 % intervals of forecasts hold {value:.1%} {m.worst_ahead:g} s ahead, where they are furthest off",
    ),
    _drift_check(
        "drift of the innovations", HONEST, "nis", "", lambda m: 0.5,
        "0.5 is as much as intervals a quarter too wide or too narrow at one end",
        "the size of innovations against what the filter expects",
    ),
    Check(
        "coverage of behaviour in thirds", HONEST, _coverage_in_thirds,
        low=Limit(lambda m: LEVEL - BAND, *_IN_A_THIRD),
        high=Limit(lambda m: LEVEL + BAND, *_IN_A_THIRD),
        reason="intervals that are right on average may be wrong where it matters: each third of the bins, by spikes "
        "of the last second, speed, predicted width and value, should be within 3 % and 2 standard errors",
        fine="95 % intervals of behaviour hold {value:.1%} in the third where they are furthest off",
        of_behavior=True,
        of="whole",
    ),
    Check(
        "innovation correlation", FIT, lambda m: Number(float(m.consistency.correlation.max())),
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
    *(
        _lead_check(
            name, baseline, lambda m: 0.0, "below 0 the simpler predictor is the better one", "better than", strict
        )
        for name, baseline, strict in (
            ("lead over a random walk", RANDOM_WALK, True), ("lead over a walk in noise", LOCAL_LEVEL, False)
        )
    ),
    _lead_check(
        "lead over a linear system", LINEAR_SYSTEM,
        lambda m: -LAG_BEHIND * len(m.spectrum.z) * information_scale(m.bin_size),
        "the filter is one itself and should come near the best; 0.02 nats a frame and dimension are errors 2 % larger",
        "as well as", strict=False,
    ),
    Check(
        "states without memory", FIT, lambda m: Number(float((m.memory.time_constant < m.bin_size).sum())),
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
        "slowest state", FIT, lambda m: Number(float(m.memory.time_constant.max())),
        unit="s",
        high=Limit(
            lambda m: m.longest_stretch,
            "the slowest state hardly changes in any stretch: its time constant is not known",
            "choose a longer --span, or fewer --latent-dim, which can hold less",
        ),
        reason="the longest stretch without a gap has {high:.0f} s: nothing slower can be told from a constant",
        fine="the time constant of the slowest state is shorter than the longest stretch",
    ),
    _drift_check(
        "drift of z", FIT, "mean_z", "deviations", lambda m: 0.5,
        "half a deviation of z, along the direction it moves in: half of what it varies by anyway",
        "the mean of the pseudo-observations",
    ),
)  # fmt: skip


@dataclass(frozen=True, eq=False)
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
        needed = (SPIKES_AHEAD, SHARED_INFORMATION)
        return all(finding.ok for finding in self.findings if finding.name in needed)

    @property
    def summary(self) -> str:
        """In words."""
        seen = "never saw" if self.held_out else "saw, as none was reserved (--reserve): this is optimistic"
        where = f"Judged on {self.seconds:.0f} s that training {seen}."
        if not self.predictive:
            return f"Nothing predictive was found, beyond each unit's own rhythm. {where}"
        wrong = ", ".join(finding.name for finding in self.findings if not finding.ok)
        doubts = f"To look at: {wrong}." if wrong else "No check raises a doubt."
        beaten = any(finding.name == LEAD_OVER_PCA and not finding.ok for finding in self.findings)
        first = "A causal PCA of smoothed counts predicts spikes better than these states. " if beaten else ""
        first = of_signal(first) if self.signal else first
        return f"{first}Something predictive was found that the units share. {where} {doubts}"

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
        content = {"ok": self.ok, "summary": self.summary, "predictive": self.predictive} | dataclasses.asdict(self)
        content["behavior"] = [one.to_dict() for one in self.behavior]
        text = json.dumps(content, default=lambda value: value.tolist())
        plain: dict[str, Any] = json.loads(text, parse_constant=lambda _: None)
        return plain


def check(
    model: LDMFilter,
    counts: Any,
    surrogates: int = SURROGATES,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
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
    progress : callable, optional
        Called with what is being computed.
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
    words: Callable[[str], str] = of_signal if model.signal_ else str
    tell = progress or (lambda _: None)
    measures = measure(model, counts, surrogates, seed, lambda what: tell(words(what)), behavior)
    findings = []
    for one in (row.judge_parts(measures) for row in CHECKS if behavior or not row.of_behavior):
        texts: dict[str, Any] = {k: words(v) for k, v in vars(one).items() if isinstance(v, str)}
        findings.append(dataclasses.replace(one, **texts))
    parts = measures if len(measures) > 1 else {}
    first = next(iter(measures.values()))
    return Diagnosis(**vars(first), findings=tuple(findings), signal=model.signal_, parts=parts)
