"""Reports on behaviour as text: what commands print, and what the objects show of themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ldmfilter.text import print_lines, print_table

if TYPE_CHECKING:
    from rich.console import Console

    from ldmfilter.analysis.classes import ClassReport
    from ldmfilter.analysis.readout import AnyReport, BehaviorReport

SPIKES, SPEED = "spikes in the last second", "speed"  # what judged bins are ordered by, with width and value

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


def unit_of(by: str, unit: str) -> str:
    """The unit of what a third is ordered by, with a space before it, where the behaviour has this one.

    >>> unit_of("speed", "cm"), unit_of("value", "cm"), unit_of("speed", "")
    (' cm/s', ' cm', '')
    """
    if not unit or by == SPIKES:
        return ""
    return f" {unit}/s" if by == SPEED else f" {unit}"


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
        f"to {third.high:.3g}{unit_of(third.by, one.unit)}"
        for third in one.thirds
        if third.outside
    ]
    end = "where they hold more than their level they are wider than needed, where less too narrow"
    print_lines(console, *off, end if off else "")
