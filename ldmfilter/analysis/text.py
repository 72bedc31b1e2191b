"""Scores, checks and reports on behaviour as text: what commands print, and what the objects show of themselves."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING, Any

from ldmfilter.text import print_lines, print_table, shown

if TYPE_CHECKING:
    from rich.console import Console

    from ldmfilter.analysis.checks import Diagnosis
    from ldmfilter.analysis.classes import ClassReport
    from ldmfilter.analysis.findings import Finding
    from ldmfilter.analysis.readout import AnyReport, BehaviorReport
    from ldmfilter.analysis.score import Scores
    from ldmfilter.filter.spikes_ahead import SpikesAhead

REASONS = {
    "trained": "that training saw",
    "guard": "at the edges of blocks",
    "short block": "in blocks of too few bins",
    "unobserved": "without a frame of observed counts",
    "nan": "without a value",
    "lost": "where tracking was lost",
    "gap": "in gaps of the behaviour",
    "outside": "before, after or between its times",
    "slow": "slower than --min-speed",
    "rare": "of classes in too few trials",
}


def reason_in_words(name: str) -> str:
    """The exclusion reason of bins, as it is read after their number.

    >>> reason_in_words("trained"), reason_in_words("used")
    ('that training saw', 'used')
    """
    return REASONS.get(name, name)


def score_table(scores: Scores) -> tuple[list[str], list[tuple[str, ...]]]:
    """Heads and rows: a column for each source of states, the lead of each filter, that of the first over others."""
    widths, (first, *others) = scores.widths, scores.models
    sources = [
        f">{source}, {widths[source]:g} s" if source in widths else f">{source}"
        for source in next(iter(scores.rows.values()))
    ]
    leads = {"lead over the best of the simpler methods": (first, list(widths))}
    if others:
        leads = {f"lead of {name}": (name, list(widths)) for name in scores.models}
        leads |= {f"lead of {first} over {name}": (first, [name]) for name in others}
    return [scores.unit, *sources, *leads], [
        (name, *map(_number, row.values()), *(_lead(row, *pair) for pair in leads.values()))
        for name, row in scores.rows.items()
    ]


def score_notes(scores: Scores) -> list[str]:
    """Lines that say which bins and units are scored, and the reasons for scores that are missing."""
    left = f"; {scores.silent} left out, which never fire on held-out time or in training" if scores.silent else ""
    spikes = f" with {scores.spikes} spikes" * (scores.spikes > 0)
    of = f"{scores.judged} held-out bins, {scores.units} units{spikes}{left}"
    errors = "in brackets standard errors over blocks of time"
    later = [f"{'; '.join(scores.peers)}: have seen bins to come: not judged ahead, and not counted in the lead"]
    missing = [f"{name}: not judged: {reason}" for name, reason in scores.missing.items()]
    return [f"{of}; {errors}", *later[: len(scores.peers)], *missing]


def show_scores(console: Console, scores: Scores) -> None:
    """A table of scores, and notes."""
    print_table(console, *score_table(scores))
    print_lines(console, *score_notes(scores))


def _number(one: SpikesAhead) -> str:
    return "-" if math.isnan(one.value) else f"{one.value:.3f} ({one.error:.3f})"


def _lead(row: dict[str, SpikesAhead], name: str, others: list[str]) -> str:
    """The lead of a filter over the best of others, named where there are several."""
    best = max(others, key=lambda other: -math.inf if math.isnan(row[other].value) else row[other].value)
    lead, error = row[name].lead(row[best])
    over = f" over {best}" * (len(others) > 1)
    return "" if math.isnan(lead) else f"{lead:+.3f} ({error:.3f}){over}"


def show_checks(console: Console, diagnosis: Diagnosis) -> None:
    """A summary, a table of findings under their questions, and what to do about those that are not well."""
    from rich.table import Table

    print_lines(console, diagnosis.summary)
    grid = Table(box=None, pad_edge=False, header_style="dim")
    grid.add_column("", no_wrap=True)
    grid.add_column("finding", overflow="fold", ratio=1)
    for head in ("value", "wanted"):
        grid.add_column(head, justify="right", no_wrap=True)
    for question, group in itertools.groupby(diagnosis.findings, lambda one: one.question):
        findings = list(group)
        wrong = sum(not one.ok for one in findings)
        grid.add_row("", shown(f"{question} {f'{wrong} to look at' if wrong else 'yes'}", style="bold"))
        for one in findings:
            style = "" if one.ok else "bold yellow"
            grid.add_row(*(shown(text, style=style) for text in (one.sign, one.name, one.number, one.wanted)))
    console.print()
    console.print(grid)
    if any(one.doubtful for one in diagnosis.findings):
        print_lines(console, "ok~: not as wanted, but chance may explain it, or it cannot be judged", style="dim")
    for one in diagnosis.findings:
        if not one.ok:
            console.print()
            print_lines(console, one.name, style="bold yellow")
            print_lines(console, *words(one))


def words(finding: Finding) -> list[str]:
    """A finding in sentences, with the number, the threshold and the remedy."""
    return [
        f"Found: {finding.verdict}.",
        f"Number: {' '.join((finding.number, finding.unit)).strip()}{finding.sure}; wanted {finding.wanted}.",
        f"Why there: {finding.reason}.",
        f"Remedy: {finding.remedy}.",
    ]


def show_report(console: Console, one: AnyReport) -> None:
    """Print the readouts of a variable, their bins and their scores."""
    about = one.to_dict()
    kind = ", circular" * about["circular"] + f", {len(about.get('classes', ()))} classes" * about["categories"]
    print_lines(console, f"{one.path}{kind}, {one.name} in the store", style="bold")
    left = ", ".join(f"{n} {reason_in_words(why)}" for why, n in one.bins.items() if why != "used")
    blocks = f"{one.blocks} block{'s' if one.blocks != 1 else ''}"
    bins = f"{one.bins['used']} bins in {blocks}" + (f"; left out {left}" if left else "")
    print_lines(console, bins, one.note)
    # Scores of what is read, each fold by the readout that is best on the others, and of each readout alone.
    read = {} if one.read is None else {"as read: by the best on other blocks": one.read}
    show: Any = _show_classes if about["categories"] else _show_scores
    show(console, one, read | one.readouts)


def _show_classes(console: Console, one: ClassReport, scores: dict[str, Any]) -> None:
    """Scores of each classifier, beside the supervised decoder and chance, and the calibration of probabilities."""
    rows = [
        (name, f"{score.balanced_accuracy:.1%}", f"{score.accuracy:.1%}", f"{score.log_loss:.3g}")
        for name, score in scores.items()
    ]
    if one.decoder:
        rows.append((f"Bayesian decoder, {one.decoder.window:g} s", f"{one.decoder.balanced_accuracy:.1%}", "", ""))
    rows.append(("a guess", f"{one.chance:.1%}", "", ""))
    if one.control:
        rows.append(("shifted or shuffled, 95th percentile", f"{one.control.shifted_95:.1%}", "", ""))
    print_table(console, ["readout", ">balanced accuracy", ">accuracy", ">nats a bin"], rows)
    if one.control:
        print_lines(console, f"p {one.control.p:.2g} against {one.control.shifts} surrogates")
    if one.recall:
        print_lines(console, "read right: " + ", ".join(f"{name} {share:.0%}" for name, share in one.recall.items()))
    if one.calibration:
        steps = [
            (f"{i.probability:.1%}", f"{i.share:.1%} +- {i.share_se:.1%}", f"{i.pairs:,}") for i in one.calibration
        ]
        print_table(console, ["probability", ">share", ">bins and classes"], steps)


def _show_scores(console: Console, one: BehaviorReport, scores: dict[str, Any]) -> None:
    """Scores of each readout, beside the supervised decoder and chance."""
    rows = [(name, f"{score.r2:.3f}", f"{score.median_error:.3g}") for name, score in scores.items()]
    read, decoder, unit = one.read, one.decoder, one.unit or "its unit"
    if decoder:
        rows.append((f"Bayesian decoder, {decoder.window:g} s", f"{decoder.r2:.3f}", f"{decoder.median_error:.3g}"))
    if one.control:
        rows.append(("shifted behaviour, 95th percentile", f"{one.control.shifted_95:.3f}", ""))
    if rows:
        print_table(console, ["readout", ">R2", f">median error, {unit}"], rows)
    if one.control:
        against = f"against {one.control.shifts} shifts, of the best of the fast readouts (R2 {one.control.r2:.3f})"
        print_lines(console, f"p {one.control.p:.2g} {against}")
    if read and decoder and (decoder.r2 < read.r2) != (decoder.median_error > read.median_error):
        print_lines(console, "R2 and median error disagree: R2 counts few large errors most, the median not at all")
    if one.intervals:
        levels = [
            (
                f"{i.level:.0%}",
                f"{i.coverage:.1%} +- {i.coverage_se:.1%}",
                f"{i.width:.3g} +- {i.width_se:.2g}",
                f"{i.score:.4g} +- {i.score_se:.2g}",
                f"{min(i.constant_score, i.same_coverage_score):.4g}",
            )
            for i in one.intervals
        ]
        heads = ["interval", ">covers", f">width, {unit}", ">Winkler score", ">best at one width"]
        print_table(console, heads, levels)
        print_lines(console, "Winkler score: the width, and more for values outside; the lower the better")
    if one.value_range:
        low, high = one.value_range
        print_lines(console, f"{one.name} goes from {low:.3g} to {high:.3g} {one.unit}".rstrip())
    if one.distribution:
        score = one.distribution
        rank = f"{score.width_rank:.2f} +- {score.width_rank_se:.2f}"
        print_lines(
            console,
            f"CRPS {score.crps:.4g} +- {score.crps_se:.2g} {one.unit}".rstrip(),
            f"rank correlation of width and error {rank} (0: widths tell nothing of the error)",
        )
    off = [
        f"intervals hold {third.coverage:.1%} +- {third.coverage_se:.1%} in bins with {third.by} of {third.low:.3g} "
        f"to {third.high:.3g}"
        for third in one.thirds
        if third.outside
    ]
    end = "where they hold more than their level they are wider than needed, where less too narrow"
    print_lines(console, *off, end if off else "")
