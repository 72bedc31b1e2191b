"""Tables for terminals, pipes and the Python console: what commands print and objects show of themselves, as text."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from ldmfilter.errors import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


def shown(text: str, **style: Any) -> Text:
    """A text of unknown origin for a console: no markup in it is obeyed, by Rich or by the terminal."""
    from rich.text import Text

    return Text(one_line(text), **style)


def open_console(stderr: bool = False) -> Console:
    """A console of stdout or stderr. Where that is no terminal, a line stays one, however long."""
    from rich.console import Console

    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(stderr=stderr, width=None if terminal else 1000)


def print_table(console: Console, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table without lines; without heads where all are empty. A head that begins with > has its column on the
    right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=any(heads), header_style="dim")
    for head in heads:
        table.add_column(head.lstrip(">"), justify="right" if head.startswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(shown, row))
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        print(line.rstrip(), file=console.file)


def plain(show: Callable[[Console], None]) -> str:
    """The text that `show` prints on a console, without colours, as wide as the terminal."""
    from rich.console import Console

    text = io.StringIO()
    show(Console(file=text, width=open_console().width, color_system=None))
    return "\n".join(line.rstrip() for line in text.getvalue().splitlines())
