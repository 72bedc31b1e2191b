"""Tables for notebooks: what objects show of themselves, as HTML without colours of its own."""

from collections.abc import Iterable, Sequence
from html import escape

from ldmfilter.errors import one_line


def table(title: str, rows: Iterable[Sequence[object]], heads: Sequence[str] = (), note: str = "") -> str:
    """A title, a line below it, and a table; all texts are escaped.

    >>> table("<a>", [("units", 3)])
    '<div><b>&lt;a&gt;</b><table><tr><td>units</td><td>3</td></tr></table></div>'
    """

    def row(cells: Sequence[object], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(one_line(str(cell)))}</{tag}>" for cell in cells) + "</tr>"

    head = f"<thead>{row(heads, 'th')}</thead>" if heads else ""
    said = f"<div>{escape(one_line(note))}</div>" if note else ""
    body = "".join(row(cells, "td") for cells in rows)
    return f"<div><b>{escape(one_line(title))}</b>{said}<table>{head}{body}</table></div>"
