"""The output of commands and objects: tables for terminals and consoles, and plain JSON types."""

from __future__ import annotations

import io
import itertools
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ldmfilter.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

NARROW = 20  # letters that a column of texts has at least, where it holds so many
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")


def clean(text: str) -> str:
    """The same with a replacement mark for each control character, which no page may hold."""
    return _CONTROL.sub("\ufffd", text)


def finite(value: Any) -> Any:
    """Plain JSON types of it: NaN and infinities become None, numpy's types plain ones, texts clean."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return clean(value) if isinstance(value, str) else value


def shown(text: str, **style: Any) -> Text:
    """A text of unknown origin for a console: no markup in it is obeyed, by Rich or by the terminal."""
    from rich.text import Text

    return Text(one_line(text), **style)


def print_lines(console: Console, *lines: str, **style: Any) -> None:
    """Print texts of unknown origin, each as a line of its own, without those that are empty."""
    for line in filter(None, lines):
        console.print(shown(line, **style))


def open_console(stderr: bool = False) -> Console:
    """A console of stdout or stderr. Where that is no terminal, a line stays one, however long."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else 1000)


def print_table(console: Console, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without lines; without heads where all are empty. A head that begins with > has its column on the
    right. Where columns do not fit, each row is a list of heads and cells."""
    from rich.table import Table

    right, names = [head.startswith(">") for head in heads], [shown(head.removeprefix(">")) for head in heads]
    cells = [[*map(shown, row)] for row in rows]
    widths = _widths([*zip(names, *cells, strict=True)], right, console.width)
    if not widths and any(heads):
        for i, row in enumerate(cells):
            print(end="\n" * (i > 0), file=console.file)
            print_table(
                console, ["", ""], [(f"{one}", f"{cell}") for one, cell in zip(names, row, strict=True) if cell]
            )
        return
    table = Table(box=None, pad_edge=False, show_header=any(heads), header_style="dim")
    for name, on_right, width in itertools.zip_longest(names, right, widths):
        table.add_column(name, justify="right" if on_right else "left", overflow="fold", width=width)
    for row in cells:
        table.add_row(*row)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=console.file)


def _widths(columns: Sequence[Sequence[Text]], right: Sequence[bool], room: int) -> list[int]:
    """Widths at which columns fit, heads first, the cells of those on the right unfolded; none where they do not."""
    widths = [max(one.cell_len for one in column) for column in columns]
    least = [min(NARROW, width) for width in widths]
    for i, (head, *cells) in enumerate(columns):
        if right[i]:
            words = [min(NARROW, len(word)) for word in f"{head}".split()]
            least[i] = max([*words, *(cell.cell_len for cell in cells)], default=0)
    while sum(widths) + 2 * (len(widths) - 1) > room:
        spare = [i for i, width in enumerate(widths) if width > least[i]]
        if not spare:
            return []
        widths[max(spare, key=lambda i: widths[i])] -= 1
    return widths


def plain(show: Callable[[Console], None]) -> str:
    """The text that `show` prints on a console, without colours, as wide as the terminal."""
    from rich.console import Console

    text = io.StringIO()
    show(Console(file=text, width=open_console().width, color_system=None, force_jupyter=False))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
