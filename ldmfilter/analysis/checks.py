"""Checks of a fitted filter on time that training never saw: the rows of `check_table.CHECKS`, judged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ldmfilter.analysis.check_table import CHECKS, HIDDEN_UNITS, LEAD_OVER_PCA, SPIKES_AHEAD, of_signal
from ldmfilter.analysis.findings import Finding, in_python
from ldmfilter.analysis.judged import GUARD, check_model
from ldmfilter.analysis.measures import SURROGATES, Measures, measure
from ldmfilter.analysis.text import show_checks
from ldmfilter.html import table
from ldmfilter.progress import Told, teller
from ldmfilter.text import finite, plain

if TYPE_CHECKING:
    from ldmfilter.analysis.readout import AnyReport
    from ldmfilter.filter.model import LDMFilter


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
        return plain(lambda console: show_checks(console, self))

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
        plain: dict[str, Any] = finite(content | {"behavior": [one.to_dict() for one in self.behavior]})
        return plain


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
