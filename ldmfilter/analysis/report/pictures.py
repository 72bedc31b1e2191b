"""Pictures of a page: drawn by matplotlib, as SVG elements in the page's own colours."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ldmfilter.analysis.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
        wide, narrow: size in inches.
        data: for the page's script, plain types.
    """

    draw: Callable[[Figure, bool], None]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    wide: tuple[float, float] = (9.2, 3.2)
    narrow: tuple[float, float] = (3.3, 3.0)
    data: Any = None

    def svg(self, name: str, label: str, narrow: bool = False) -> Markup:
        """The picture as an SVG element in the page's colours, in one of its sizes. 100 pixels of the page are one
        inch, and a font of 9 points is 12.5 pixels high.

        Args:
            name: the ids inside begin with it, so that no two pictures of a page share one.
            label: description of the picture, for screen readers.
            narrow: in the size for a phone.
        """
        import matplotlib as mpl
        from matplotlib.figure import Figure

        name += "-n" if narrow else "-w"
        style: dict[Any, Any] = mpl.rcParamsDefault | _STYLE | {"svg.hashsalt": name}
        with mpl.rc_context(style), warnings.catch_warnings():
            # The browser has letters that matplotlib's own font lacks.
            warnings.filterwarnings("ignore", message="Glyph .* missing from")
            warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
            figure = Figure(figsize=self.narrow if narrow else self.wide, layout="constrained", dpi=144)
            self.draw(figure, narrow)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
        _, box, inside = re.split(r'<svg[^>]*(viewBox="[^"]+")[^>]*>', buffer.getvalue())
        inside = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", inside, flags=re.S)
        inside = re.sub(r"<[^>]+>", lambda match: _themed(match.group(0), name), inside)
        head = Markup('<svg xmlns="http://www.w3.org/2000/svg" {} role="img" aria-label="{}">')
        return head.format(Markup(box), label) + Markup(inside.strip())


#: Of a section: keys of report.json and of the template with their values, and its pictures by name.
Section = tuple[dict[str, Any], dict[str, Picture]]


def one_plot(draw: Callable[[Axes], None], numbers: Mapping[str, Any] | None = None, high: float = 0.0) -> Picture:
    """A picture of one plot: half as wide as the page, or, where `high` is given, as wide as the page and so high."""
    sizes = ((9.2, high), (3.3, high)) if high else ((4.3, 3.3), (3.3, 2.9))
    return Picture(lambda figure, _: draw(figure.add_subplot()), numbers or {}, *sizes)


def pair(figure: Figure, narrow: bool, **options: Any) -> Sequence[Axes]:
    """Axes of two plots: one above the other on a phone, else side by side."""
    return figure.subplots(2, 1, **options) if narrow else figure.subplots(1, 2, **options)


def _themed(element: str, name: str) -> str:
    """One tag of a picture: its ids begin with `name`, its colours are the page's, its numbers have two decimals."""
    element = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", element)
    if element.startswith("<image"):
        return element  # the rest of it is pixels
    element = re.sub(r"#[0-9a-f]{6}\b", lambda match: _THEME.get(match.group(0), match.group(0)), element)
    element = re.sub(r"(font: [^;\"]*?px) [^;\"]+", r"\1 var(--sans)", element)
    return re.sub(r"-?\d+\.\d{3,}", lambda match: f"{float(match.group(0)):.2f}".rstrip("0").rstrip("."), element)
