"""The sections of a report's page, in the order of reading. What they say stands in the report's content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ldmfilter.analysis.page import (
    Column,
    Html,
    Picture,
    join,
    number,
    percent,
    script_data,
    table,
    tag,
)

Content = Mapping[str, Any]
Pictures = Mapping[str, Picture]


def body(content: Content, pictures: Pictures, space: Content) -> Html:
    """All that stands on the page."""
    parts = [
        ("states", "What was found", _states(content, pictures, space)),
        ("behavior", "Behaviour, read from the states", _behavior(content, pictures)),
        ("trust", "How sure it may be", _trust(content, pictures)),
        ("units", "Units that matter", _units(content, pictures)),
        ("training", "Training", _training(content, pictures)),
        ("made", "How it was made", _made(content)),
    ]
    shown = [(name, heading, part) for name, heading, part in parts if part]
    contents = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in shown]
    sections = [
        tag("section", tag("h2", heading, id=f"{name}-heading"), part, id=name, aria_labelledby=f"{name}-heading")
        for name, heading, part in shown
    ]
    return join(
        tag("a", "Skip to the summary", href="#summary", class_="skip"),
        tag(
            "header",
            tag("p", "ldmfilter report", class_="eyebrow"),
            tag("h1", content["title"]),
            tag("p", content["under"], class_="under"),
        ),
        tag(
            "main",
            tag("section", _summary(content), id="summary", class_="first", aria_label="Summary"),
            tag("nav", tag("ul", contents), aria_label="Contents"),
            sections,
        ),
        tag(
            "footer",
            tag(
                "p",
                f"Made {content['created']} by ldmfilter {content['made']['versions']['ldmfilter']}. ",
                "Every number on this page stands in the JSON file beside it. Method: Mikulasch & Zenke, "
                "Understanding Self-Supervised Learning via Latent Distribution Matching, ICML 2026, arXiv 2605.03517.",
            ),
        ),
    )


def _summary(content: Content) -> Html:
    summary = content["summary"]
    keys = [
        tag(
            "div",
            tag("dt", key["name"]),
            tag("dd", tag("span", key["shown"], class_="big"), tag("span", key["note"], class_="small")),
        )
        for key in summary["keys"]
    ]
    return join(
        tag("p", summary["verdict"], class_="lead"),
        [tag("p", sentence) for sentence in summary["sentences"]],
        tag("dl", keys, class_="keys"),
    )


def _states(content: Content, pictures: Pictures, space: Content) -> Html:
    raster = None if content["behavior"] else _picture(pictures, "raster")
    return join(pictures["states"].html(), _space(pictures["space"], space), raster)


def _space(picture: Picture, data: Content) -> Html:
    choices = [
        tag(
            "label",
            tag("input", type="radio", name="colour", value=i, checked=i == 0),
            tag("span", choice["label"]),
        )
        for i, choice in enumerate(data["choices"])
    ]
    first = data["choices"][0]
    if first["classes"]:
        scale = [
            tag("span", tag("b", style=f"background:{one['colour']}"), f"{first['label']} {one['label']}")
            for one in first["classes"]
        ]
    else:
        scale = [
            tag("span", f"{first['label']} {first['low_label']}"),
            tag("i", style=f"background:{first['gradient']}"),
            tag("span", first["high_label"]),
        ]
    label = f"{picture.title}. {picture.finding} The picture turns with the arrow keys."
    return tag(
        "figure",
        tag(
            "div",
            tag("fieldset", tag("legend", "Colour by"), choices, class_="choice"),
            tag("div", class_="live", role="application", aria_label=label, tabindex="0"),
            tag("div", picture.still(), class_="still"),
            tag("div", scale, class_="scale"),
            tag("p", "The picture turns where scripts run.", class_="hint", role="status"),
            class_="space",
            id="space",
        ),
        picture.caption(),
        script_data("space-data", data),
        id="figure-space",
    )


def _picture(pictures: Pictures, name: str) -> Html | None:
    return pictures[name].html() if name in pictures else None


def _halves(pictures: Pictures, *names: str) -> Html | None:
    shown = [pictures[name].html() for name in names if name in pictures]
    return tag("div", shown, class_="halves") if len(shown) > 1 else join(shown)


def _behavior(content: Content, pictures: Pictures) -> Html | None:
    reports = content["behavior"]
    if not reports:
        return None
    rows = [row for one in reports for row in _readers(one)]
    columns = [Column("Read by"), Column("What"), Column("R\u00b2", True), Column("Median error", True)]
    notes = [
        f"{one['name']} ({one['path']}): {_bins(one)}{'; ' + one['note'] if one['note'] else ''}." for one in reports
    ]
    tables = [_intervals(one) for one in reports if one["intervals"] and not one["categories"]]
    uncalibrated = [one["name"] for one in reports if not one["calibrated"]]
    return join(
        _picture(pictures, "raster"),
        table("Behaviour on blocks of time that its reader never saw", columns, rows, kind="cards"),
        pictures["calibration"].html("beside") if "calibration" in pictures else None,
        tables,
        [tag("p", f"The intervals of {name} could not be calibrated, so that none is shown.") for name in uncalibrated],
        tag("h3", "Which bins were used"),
        tag("ul", [tag("li", note) for note in notes], class_="notes"),
    )


def _readers(one: Content) -> list[tuple[Any, ...]]:
    """Rows of the table of readouts: ours, the supervised peer, the control."""
    names = {
        "linear": "a linear map of the states",
        "neighbours": "nearest neighbours among the states",
        "networks": "small networks on the states",
    }
    rows: list[tuple[Any, ...]] = []
    for kind, score in one["readouts"].items():
        chosen = " (chosen)" if kind == one["chosen"] else ""
        rows.append(
            (f"{names[kind]}{chosen}", one["name"], number(score["r2"]), number(score["median_error"], one["unit"]))
        )
    if one["decoder"]:
        decoder = one["decoder"]
        label = join("a Bayesian decoder of ", number(decoder["window"], "s"), " of counts, supervised")
        rows.append((label, one["name"], number(decoder["r2"]), number(decoder["median_error"], one["unit"])))
    if one["control"]:
        control = one["control"]
        label = join("the states, of ", number(control["shifts"]), " shifted copies, 95th percentile")
        rows.append((label, one["name"], number(control["shifted_95"]), number(None)))
    return rows


def _intervals(one: Content) -> Html:
    """What the intervals of one behaviour are worth, beside those of one width that cover as much."""
    unit = f", {one['unit']}" if one["unit"] else ""
    columns = [
        Column("Level"),
        Column("Inside", True),
        Column(f"Mean width{unit}", True),
        Column(f"Winkler score{unit}", True),
        Column("Score at one width", True),
        Column("Advantage", True),
    ]
    rows = [
        (
            percent(i["level"], 0),
            join(percent(i["coverage"]), " \u00b1 ", percent(i["coverage_se"])),
            join(number(i["width"]), " \u00b1 ", number(i["width_se"], digits=2)),
            join(number(i["score"]), " \u00b1 ", number(i["score_se"], digits=2)),
            number(i["same_coverage_score"]),
            join(number(i["advantage"]), " \u00b1 ", number(i["advantage_se"], digits=2)),
        )
        for i in one["intervals"]
    ]
    caption = (
        f"Intervals of {one['name']}, with standard errors by block bootstrap. The lower the Winkler score the "
        "better; beside it that of intervals of one width that cover as much"
    )
    return table(caption, columns, rows, kind="cards")


def _bins(one: Content) -> str:
    return ", ".join(f"{count:,} bins {reason}" for reason, count in one["bins"].items())


def _trust(content: Content, pictures: Pictures) -> Html:
    diagnosis = content["diagnosis"]
    seen = "time that training never saw" if diagnosis["held_out"] else "trained time, which flatters"
    baselines = [
        (one["name"], number(one["log_likelihood"]), number(one["lead"]), _interval(one["interval"]))
        for one in diagnosis["baselines"]
    ]
    columns = [
        Column("Predictor"),
        Column("Log-likelihood, nats per bin", True),
        Column("The filter leads by", True),
        Column("95 % interval", True),
    ]
    ours = ("this filter", number(diagnosis["log_likelihood"]), number(None), number(None))
    return join(
        _findings(diagnosis["findings"], f"Diagnoses, on {diagnosis['seconds']:g} s of {seen}"),
        _halves(pictures, "nis", "correlation"),
        _picture(pictures, "sharing"),
        table(
            "Predictors of the same pseudo-observations, fitted where the filter was trained",
            columns,
            [ours, *baselines],
            kind="cards",
        ),
        _halves(pictures, "spectrum", "memory"),
        _picture(pictures, "drift"),
    )


def _findings(findings: Sequence[Content], caption: str) -> Html:
    """What asks for a look comes first, what chance may explain next."""
    rows = []
    for one in sorted(findings, key=lambda finding: (finding["ok"], not finding["doubtful"])):
        word, kind = (
            ("doubtful", "look") if one["doubtful"] else ("in order", "ok") if one["ok"] else ("look here", "look")
        )
        mark = tag("span", word, class_=f"mark {kind}")
        remedy = tag("span", tag("b", "What to do: "), one["remedy"], class_="remedy") if one["remedy"] else None
        value = join(
            tag("span", number(one["value"]), class_="whole"),
            tag("span", " ", one["unit"], class_="why unit") if one["unit"] else None,
            _interval(one["interval"], "why whole") if one["interval"] else None,
        )
        verdict = join(_sentence(one["verdict"]), remedy, tag("span", f"Why there: {one['reason']}.", class_="why"))
        rows.append((join(_sentence(one["name"], ""), " ", mark), value, _threshold(*one["threshold"]), verdict))
    return table(caption, [Column("Check"), Column("Value"), Column("Wanted"), Column("Verdict")], rows, kind="cards")


def _sentence(text: str, end: str = ".") -> str:
    return text[:1].upper() + text[1:] + end


def _threshold(low: float | None, high: float | None) -> Html:
    if low is None and high is None:
        return join("no bound")
    if low is None:
        words = join("at most ", number(high))
    else:
        words = join("at least ", number(low)) if high is None else join(number(low), " to ", number(high))
    return tag("span", words, class_="whole")


def _interval(bounds: Sequence[float | None] | None, kind: str | None = None) -> Html:
    if bounds is None:
        return number(None)
    return tag("span", number(bounds[0]), " to ", number(bounds[1]), class_=kind)


def _units(content: Content, pictures: Pictures) -> Html:
    units = content["diagnosis"]["units"]
    order = sorted(range(len(units["unit"])), key=lambda i: -(units["loss"][i] or 0.0))
    rows = [
        (
            str(units["unit"][i]),
            number(units["rate"][i]),
            number(units["loss"][i]),
            percent(units["share"][i]),
            number(units["saliency"][i]),
        )
        for i in order
    ]
    columns = [
        Column("Unit"),
        Column("Rate, Hz", True),
        Column("Loss, nats per bin", True),
        Column("Share", True),
        Column("Saliency", True),
    ]
    return join(
        _picture(pictures, "units"),
        tag(
            "details",
            tag("summary", f"All {len(rows)} units"),
            table("Units, by what is lost without them", columns, rows),
        ),
    )


def _training(content: Content, pictures: Pictures) -> Html:
    return join(pictures["training"].html())


def _made(content: Content) -> Html:
    made, session = content["made"], content["session"]

    def facts(caption: str, heads: tuple[str, str], rows: Mapping[str, Any]) -> Html:
        shown = [(key, _plain(value)) for key, value in rows.items()]
        return table(caption, [Column(head) for head in heads], shown, kind="facts")

    source = {
        "file": session["path"], "identifier": session["identifier"], "session": session["session_id"],
        "recorded": session["session_start_time"], "checksum": session["checksum"], "used": session["chosen"],
        "units used": session["units"], "units in the file": session["units_in_file"],
        "spikes": number(session["spikes"]), "bins": number(session["bins"]),
        "bin, s": session["bin_size"], "run folder": content["model"]["run"],
        "model": content["model"]["id"], "trained": content["model"]["created"],
    }  # fmt: skip
    return join(
        tag("p", "These commands give the same numbers again."),
        tag("pre", tag("code", "\n".join(made["commands"])), tabindex="0"),
        facts("The session and the run", ("What", "Value"), {k: v for k, v in source.items() if v not in ("", None)}),
        tag(
            "details",
            tag("summary", "Settings and versions"),
            facts("Settings of the data", ("Setting", "Value"), made["settings"]["data"]),
            facts("Settings of the filter", ("Setting", "Value"), made["settings"]["filter"]),
            facts("Versions", ("Software", "Version"), made["versions"]),
        ),
    )


def _plain(value: Any) -> Any:
    """A setting as it is read: lists with commas, numbers with all their digits."""
    if isinstance(value, list):
        return join([(", " if i else "", _plain(one)) for i, one in enumerate(value)]) if value else "none"
    if isinstance(value, Html):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    return tag("data", str(value), value=repr(value)) if isinstance(value, int | float) else str(value)
