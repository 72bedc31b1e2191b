"""What a page is made of: markup that escapes by itself, pictures as SVG that follow the page's colours, one file.

A text from a session (unit names, paths, tags) enters the page as `str` and is escaped; only what this module has
built is `Html` and is not. A content security policy names the two scripts by their hashes, so that a browser runs
nothing else, and asks the network for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import math
import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from ldmfilter.analysis.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Canvas

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_VOID = ("meta", "link", "br", "input")


class Html(str):
    """Markup that is safe as it stands."""


def tag(name: str, /, *children: Any, **attributes: Any) -> Html:
    """An element. Children that are no `Html` are escaped, None is left out, an iterable is taken apart.

    Attributes: a trailing underscore is dropped and others become hyphens; True stands alone, None and False are
    left out.
    """
    text = [f"<{name}"]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        text.append(f" {key}" if value is True else f' {key}="{escape(str(value))}"')
    text.append(">")
    if name not in _VOID:
        text += [*_flat(children), f"</{name}>"]
    return Html("".join(text))


def join(*children: Any) -> Html:
    """Elements one after the other, escaped as by `tag`."""
    return Html("".join(_flat(children)))


def _flat(children: Iterable[Any]) -> Iterable[str]:
    for child in children:
        if isinstance(child, Html):
            yield child
        elif isinstance(child, str):
            yield escape(child)
        elif child is not None:
            yield from _flat(child)


def escape(text: str) -> Html:
    """Text for the inside of an element or of a quoted attribute; control characters become a replacement mark."""
    return Html(html.escape(clean(text), quote=True))


def clean(text: str) -> str:
    """The same without control characters, which no page may hold."""
    return _CONTROL.sub("\ufffd", text)


def number(value: float | None, unit: str = "", digits: int = 3) -> Html:
    """A number as people read it; the element keeps all its digits. NaN and None are a dash."""
    if value is None or not math.isfinite(value):
        return Html('<span aria-label="not known">\u2013</span>')
    shown = figure_of(value, digits) + (f"\u202f{unit}" if unit == "%" else f" {unit}" if unit else "")
    return tag("data", shown, value=repr(value))


def figure_of(value: float, digits: int = 3) -> str:
    """A number in plain text: whole ones with thousands apart, others with so many digits that count.

    >>> figure_of(12345), figure_of(0.98765), figure_of(24.0), figure_of(-0.00001234)
    ('12,345', '0.988', '24.0', '\u22121.23e\u22125')
    """
    if isinstance(value, int) or abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    elif value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".") if value else "0"
    return text.replace("-", "\u2212")


def percent(share: float | None, digits: int = 1) -> Html:
    """A share as a percentage; the element keeps the share."""
    if share is None or not math.isfinite(share):
        return number(None)
    return tag("data", f"{100 * share:.{digits}f}\u202f%", value=repr(share))


@dataclass(frozen=True)
class Column:
    """A column of a table: its heading, and whether it holds numbers."""

    name: str
    numeric: bool = False


def table(caption: str, columns: Sequence[Column], rows: Iterable[Sequence[Any]], kind: str = "") -> Html:
    """A table with a caption and headings of columns and rows: the first cell of a row is its heading.

    Args:
        caption: what it holds.
        columns: one for each cell of a row.
        rows: cells, as `tag` takes them.
        kind: a class of the style sheet. "cards" becomes a list on a phone; then the roles are written out, as a
            browser drops them with the layout.
    """
    cards = kind == "cards"

    def role(name: str) -> str | None:
        return name if cards else None

    head = [
        tag("th", c.name, scope="col", class_="n" if c.numeric else None, role=role("columnheader")) for c in columns
    ]
    body = []
    for row in rows:
        cells = [tag("th", row[0], scope="row", role=role("rowheader"))]
        for column, cell in zip(columns[1:], row[1:], strict=True):
            label = column.name if cards else None
            cells.append(tag("td", cell, class_="n" if column.numeric else None, data_label=label, role=role("cell")))
        body.append(tag("tr", cells, role=role("row")))
    inner = tag(
        "table",
        tag("caption", tag("span", caption)),
        tag("thead", tag("tr", head, role=role("row")), role=role("rowgroup")),
        tag("tbody", body, role=role("rowgroup")),
        class_=kind or None,
        role=role("table"),
    )
    # What may scroll sideways must be reached with the keyboard too.
    return tag("div", inner, class_="scroll", role="region", aria_label=caption, tabindex=None if cards else "0")


# Pictures. They are drawn in these colours and then take the page's, which change with its theme.
_INK, _MUTED, _LINE = "#111213", "#717273", "#d1d2d3"
_THEME = {_INK: "var(--ink)", _MUTED: "var(--muted)", _LINE: "var(--line)"} | {
    colour.lower(): f"var(--c{number})" for number, colour in enumerate(COLOURS[:6])
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.linewidth": 0.7,
    "axes.titlesize": 9,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "text.color": _INK,
    "axes.edgecolor": _MUTED,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
}


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn twice, for a wide page and for a phone.

    Attributes:
        name: of the element, and in the report's JSON.
        title: one phrase.
        finding: what is to be seen, in a sentence or two: the caption, and the words for who does not see it.
        draw: (figure, narrow) draws it.
        wide, narrow: size in hundreds of pixels.
    """

    name: str
    title: str
    finding: str
    draw: Callable[[Canvas, bool], None]
    wide: tuple[float, float] = (9.2, 3.2)
    narrow: tuple[float, float] = (3.3, 3.0)

    def html(self, kind: str | None = None) -> Html:
        """The figure element, of a class of the style sheet."""
        plots = [
            tag("div", self._svg(size, size is self.narrow), class_=f"plot {kind}")
            for kind, size in (("wide", self.wide), ("narrow", self.narrow))
        ]
        return tag("figure", plots, self.caption(), id=f"figure-{self.name}", class_=kind)

    def caption(self) -> Html:
        """Title and finding."""
        return tag("figcaption", tag("strong", f"{self.title}."), " ", self.finding)

    def still(self) -> Html:
        """The picture alone, wide."""
        return tag("div", self._svg(self.wide, False))

    def _svg(self, size: tuple[float, float], narrow: bool) -> Html:
        label = f"{self.title}. {self.finding}"
        return svg(lambda figure: self.draw(figure, narrow), size, label, f"{self.name}-{'n' if narrow else 'w'}")


def svg(draw: Callable[[Canvas], None], size: tuple[float, float], label: str, name: str) -> Html:
    """A picture as an SVG element in the page's colours.

    Args:
        draw: draws onto a figure of matplotlib.
        size: inches; 100 pixels of the page are one inch, and a font of 9 points is 12.5 pixels high.
        label: what is to be seen, for who does not see it.
        name: of the picture, which keeps its inner names apart from those of others.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: dict[Any, Any] = mpl.rcParamsDefault | _STYLE | {"svg.hashsalt": name}
    with mpl.rc_context(style), warnings.catch_warnings():
        # The browser has letters that matplotlib's own font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure = Figure(figsize=size, layout="constrained", dpi=144)
        FigureCanvasSVG(figure)
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r"<[^>]+>", lambda match: _themed(match.group(0), name), text)
    box = re.search(r'viewBox="[^"]+"', text)
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {box.group(0) if box else ""} role="img" '
    opening += f'aria-label="{escape(label)}">'
    return Html(opening + text[text.index(">") + 1 :].strip())


def _themed(element: str, name: str) -> str:
    """One tag of a picture: its names made its own, its colours the page's, its numbers short."""
    if element.startswith("<image"):
        return re.sub(r'(id|clip-path)="(url\(#)?([^"]+)"', rf'\1="\2{name}-\3"', element)
    element = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', element)
    element = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", element)
    element = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', element)
    element = re.sub(r"#[0-9a-f]{6}\b", lambda match: _THEME.get(match.group(0), match.group(0)), element)
    element = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--sans)", element)
    return re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match.group(0)):.2f}".rstrip("0").rstrip("."), element)


def script_data(name: str, value: Any) -> Html:
    """Data for a script, in an element that is no script itself and that no text inside can close."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"), ensure_ascii=True)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Html(f'<script type="application/json" id="{escape(name)}">{text}</script>')


def document(title: str, body: Html, scripts: Sequence[str]) -> str:
    """The whole page, in one file that needs no other.

    Args:
        title: of the page.
        body: all that stands in it.
        scripts: run in this order, and nothing else is.
    """
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src 'unsafe-eval' {hashes}"
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("link", rel="icon", href="data:,"),
        tag("title", title),
        Html(f"<style>{asset('report.css')}</style>"),
    )
    run = [Html(f"<script>{script}</script>") for script in scripts]
    return "<!doctype html>\n" + tag("html", head, tag("body", body, run), lang="en") + "\n"


def asset(name: str) -> str:
    """The text of a file that lies beside this module."""
    return (files("ldmfilter.analysis") / name).read_text(encoding="utf-8")
