"""The page: its pictures, and the templates that write the words about a report's numbers, in one file that needs no
network.

Pictures are drawn by matplotlib, as SVG elements in the page's own colours. Every text from a session (unit names,
paths, tags) is escaped by the templates. A content security policy names the two scripts by their hashes, so that a
browser runs nothing else, and asks the network for nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import matplotlib as mpl
from jinja2 import Environment, PackageLoader, StrictUndefined
from jinja2.environment import TemplateModule
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ldmfilter.analysis.blocks import reason_in_words
from ldmfilter.analysis.intervals import unit_of
from ldmfilter.analysis.plots import COLOURS

WIDE, NARROW = 9.2, 3.3  # inches, of a picture
HALF = (3.3, 2.9), 4.3  # heights and width of one that is half as wide as the page
# Pictures are drawn in these colours and then take the page's, which change with its theme.
_INK, _MUTED, _LINE = "#111213", "#717273", "#d1d2d3"
_THEME = {_INK: "var(--ink)", _MUTED: "var(--muted)", _LINE: "var(--line)"} | {
    colour.lower(): f"var(--c{number})" for number, colour in enumerate(COLOURS)
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.linewidth": 0.7,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.3,
    "lines.markersize": 4,
    "legend.frameon": False,
    "text.color": _INK,
    "grid.color": _LINE,
    **dict.fromkeys(("axes.labelsize", "axes.titlesize"), 9),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 8.5),
    **dict.fromkeys(("xtick.major.width", "ytick.major.width"), 0.7),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), _MUTED),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), "none"),
}


@dataclass(frozen=True)
class Picture:
    """A picture that is drawn twice, for a wide page and for a phone.

    Attributes:
        draw: (figure, narrow) draws it.
        numbers: that its caption names; report.json holds them beside the caption.
        heights: in inches, on a wide page and on a phone.
        width: in inches, on a wide page; on a phone it is `NARROW`.
        data: for the page's script, plain types.
    """

    draw: Callable[[Figure, bool], None]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    heights: tuple[float, float] = (3.2, 3.0)
    width: float = WIDE
    data: Any = None

    def svg(self, name: str, label: str, narrow: bool = False) -> Markup:
        """The picture as an SVG element in the page's colours, in one of its sizes. 100 pixels of the page are one
        inch, and a font of 9 points is 12.5 pixels high.

        Args:
            name: the ids inside begin with it, so that no two pictures of a page share one.
            label: description of the picture, for screen readers.
            narrow: in the size for a phone.
        """
        name += "-n" if narrow else "-w"
        style: dict[Any, Any] = mpl.rcParamsDefault | _STYLE | {"svg.hashsalt": name}
        with mpl.rc_context(style), warnings.catch_warnings():
            # The browser has letters that matplotlib's own font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
            size = NARROW if narrow else self.width, self.heights[narrow]
            figure = Figure(figsize=size, layout="constrained", dpi=144)
            self.draw(figure, narrow)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        _, box, inside = re.split(r'<svg[^>]*(viewBox="[^"]+")[^>]*>', buffer.getvalue())
        inside = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", inside, flags=re.S)
        inside = re.sub(r"<[^>]+>", lambda match: _themed(match[0], name), inside)
        head = Markup('<svg xmlns="http://www.w3.org/2000/svg" {} role="img" aria-label="{}">')
        return head.format(Markup(box), label) + Markup(inside.strip())


#: Of a section: keys of report.json and of the template with their values, and its pictures by name.
Section = tuple[dict[str, Any], dict[str, Picture]]


def one_plot(draw: Callable[[Axes], None], numbers: Mapping[str, Any] | None = None, high: float = 0.0) -> Picture:
    """A picture of one plot: half as wide as the page, or, where `high` is given, as wide as the page and so high."""
    size = ((high, high), WIDE) if high else HALF
    return Picture(lambda figure, _: draw(figure.add_subplot()), numbers or {}, *size)


def pair(figure: Figure, narrow: bool, **options: Any) -> Sequence[Axes]:
    """Axes of two plots: one above the other on a phone, else side by side."""
    return figure.subplots(2, 1, **options) if narrow else figure.subplots(1, 2, **options)


def _themed(element: str, name: str) -> str:
    """One tag of a picture: its ids begin with `name`, its colours are the page's, its numbers have two decimals."""
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", element)
    if element.startswith("<image"):
        return element  # the rest of it is pixels
    element = re.sub(r"#[0-9a-f]{6}\b", lambda match: _THEME.get(match[0], match[0]), element)
    element = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--sans)", element)
    return re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match[0]):.2f}".rstrip("0").rstrip("."), element)


def environment() -> Environment:
    """The templates, with the filters below."""
    made = Environment(
        loader=PackageLoader("ldmfilter.analysis.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    filters = (short, plain_number, in_words, listed, plain, with_options, reason_in_words, unit_of)
    made.filters |= {one.__name__: one for one in filters}
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


def write_section(name: str, content: dict[str, Any], pictures: Mapping[str, Picture]) -> TemplateModule:
    """A section's markup, empty where it has nothing to show; its attribute `heading` is the heading.

    Args:
        name: of the section and its template.
        content: the report's numbers, plain types. The words that report.json repeats (captions, the summary's
            sentences) are added to it.
        pictures: by name.
    """
    return environment().get_template(f"{name}.html").make_module({**content, "content": content, "pictures": pictures})


def write_page(names: Sequence[str], content: dict[str, Any], pictures: Mapping[str, Picture]) -> str:
    """The whole page, of the sections in this order; `content` and `pictures` as for `write_section`."""
    from plotly.offline import get_plotlyjs

    # A browser reads every line end as \n, and checks the script's hash after that.
    scripts = [text.replace("\r\n", "\n") for text in (get_plotlyjs(), asset("report.js"))]
    hashes = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    sections = [(name, write_section(name, content, pictures)) for name in names]
    template = environment().get_template("page.html")
    return template.render(content, sections=sections, scripts=scripts, hashes=hashes, css=asset("report.css"))


def asset(name: str) -> str:
    """The text of a file that lies beside this module."""
    return (files("ldmfilter.analysis.report") / name).read_text(encoding="utf-8")


# Numbers and names as text: filters of the templates.

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def short(value: float | None, digits: int = 3) -> str:
    """A number in plain text: whole ones with thousands apart, others with `digits` significant digits; a dash for None
    and for what is not finite.

    >>> short(12345), short(0.98765), short(24.0), short(-0.00001234), short(None)
    ('12,345', '0.988', '24.0', '\u22121.23e\u22125', '\u2013')
    """
    if value is None or not math.isfinite(value):
        return "\u2013"
    if isinstance(value, int) or abs(value) >= 10**digits:
        text = f"{value:,.0f}"
    elif value and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        text = f"{mantissa}e{int(exponent)}"
    else:
        text = f"{value:#.{digits}g}".rstrip(".") if value else "0"
    return text.replace("-", "\u2212")


def with_options(text: str) -> Markup:
    """A sentence as markup, each option of the command line in it as code, which no line end divides.

    >>> with_options("choose a larger --bin-size & wait")
    Markup('choose a larger <code class="whole">--bin-size</code> &amp; wait')
    """
    return Markup(re.sub(r"--[a-z][a-z-]*", r'<code class="whole">\g<0></code>', str(escape(text))))


def plain_number(value: float) -> str:
    """A time, or another value on a scale, with two decimals at most.

    >>> plain_number(1200.0), plain_number(-0.256)
    ('1,200', '\u22120.26')
    """
    return f"{round(value, 2):,.10g}".replace("-", "\u2212")


def in_words(count: int) -> str:
    """A small number as a word, others in digits."""
    return _NUMBERS[count] if count < len(_NUMBERS) else short(count)


def listed(names: Sequence[str]) -> str:
    """Names in a sentence.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def plain(markup: str) -> str:
    """The text of a piece of a page in one line, which does not break between a number and its percent sign."""
    return Markup(markup).striptags().replace(" %", "\u202f%")
