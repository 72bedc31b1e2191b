"""Progress of a long work, shown on stderr: a bar on a terminal or in a notebook, lines in a log."""

import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import TypeVar

from ldmfilter.errors import short

Item = TypeVar("Item")


#: True to print what is being computed, on stderr; or what gets it, a line at a time; False or None for neither.
Told = bool | Callable[[str], None] | None


def teller(progress: Told) -> Callable[[str], None]:
    """The function that gets the lines which tell what is being computed."""
    if callable(progress):
        return progress
    return _print if progress else _ignore


def _print(line: str) -> None:
    print(short(f"{line} ..."), file=sys.stderr, flush=True)


def _ignore(_: str) -> None:
    pass


def follow(
    items: Iterable[Item],
    total: int | Callable[[], int],
    done: Callable[[Item], int],
    text: Callable[[Item], str],
    unit: str,
    quiet: bool = False,
    start: int = 0,
) -> Iterator[Item]:
    """Pass items through and show how far they are: a bar with a time estimate on a terminal and in a notebook that has
    ipywidgets, a line for every tenth elsewhere. `done` tells of an item how much of `total` is behind it; a
    total that may grow is a function."""
    whole = total if callable(total) else lambda: total
    if quiet:
        yield from items
    elif sys.stderr.isatty() or _in_notebook():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        # On a narrow terminal the numbers at the end are cut, not how far it is.
        digits = len(str(whole())) + callable(total)
        columns = [
            BarColumn(bar_width=20, table_column=Column(min_width=5)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * digits + 1)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        ]
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=whole(), completed=start)
            for item in items:
                bar.update(task, total=whole(), completed=done(item), description=text(item))
                yield item
    else:
        last = -whole()
        for item in items:
            now, of = done(item), whole()
            if now - last >= of / 10 or now == of:
                last = now
                print(short(f"{unit} {now}/{of}  {text(item)}".rstrip()), file=sys.stderr, flush=True)
            yield item


def _in_notebook() -> bool:
    """True in Jupyter, where rich draws a bar with ipywidgets."""
    if "IPython" not in sys.modules or find_spec("ipywidgets") is None:
        return False
    from rich.console import Console

    return Console(stderr=True).is_jupyter
