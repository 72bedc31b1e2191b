"""How the command line speaks: results on stdout, messages on stderr, one line for each refusal."""

import functools
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from ldmfilter.errors import InputError, TrainingError, one_line, short
from ldmfilter.ranks import ranks

if TYPE_CHECKING:
    from rich.text import Text

FAILED, UNUSABLE, INTERRUPTED = 1, 3, 130
PATIENCE = 10.0  # s

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Messages")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Results only.", rich_help_panel="Messages")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


def say(text: str) -> None:
    """A message for the person, on stderr."""
    print(short(text), file=sys.stderr, flush=True)


def shown(text: str, **style: Any) -> "Text":
    """A text of unknown origin for a console: no markup in it is obeyed, by Rich or by the terminal."""
    from rich.text import Text

    return Text(one_line(text), **style)


def give_up(failures: Sequence[Exception]) -> None:
    """Where some of several things have failed: a line for each, at the end. Raises: typer.Exit, 3 where all is input
    that cannot be used."""
    for error in failures:
        say(f"ldmfilter: {_line(error)}")
    if failures:
        raise typer.Exit(UNUSABLE if all(isinstance(error, InputError) for error in failures) else FAILED)


def _line(error: Exception) -> str:
    if isinstance(error, InputError | TrainingError):
        return str(error)
    return f"failed ({type(error).__name__}: {' '.join(str(error).split())}); --debug shows where"


Item = TypeVar("Item")


def follow(
    items: Iterable[Item],
    total: int,
    done: Callable[[Item], int],
    text: Callable[[Item], str],
    unit: str,
    quiet: bool,
    start: int = 0,
) -> Iterator[Item]:
    """Pass items through and show how far they are: a bar with a time estimate on a terminal, a line for every tenth
    elsewhere. `done` tells of an item how much of `total` is behind it."""
    if quiet:
        yield from items
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.table import Column

        # On a narrow terminal the numbers at the end are cut, not how far it is.
        columns = [
            BarColumn(bar_width=20, table_column=Column(min_width=5)),
            MofNCompleteColumn(table_column=Column(no_wrap=True, min_width=2 * len(str(total)) + 1)),
            TimeRemainingColumn(table_column=Column(no_wrap=True, min_width=7)),
            TextColumn("{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis")),
        ]
        with Progress(*columns, console=Console(stderr=True)) as bar:
            task = bar.add_task("", total=total, completed=start)
            for item in items:
                bar.update(task, completed=done(item), description=text(item))
                yield item
    else:
        said = -total
        for item in items:
            behind = done(item)
            if behind - said >= total / 10 or behind == total:
                said = behind
                say(f"{unit} {said}/{total}  {text(item)}".rstrip())
            yield item


def _let_the_first_speak() -> None:
    """What all processes of torchrun fail for, the first says, and torchrun ends the others while they wait here; one
    that fails alone speaks after that."""
    if not ranks().first:
        time.sleep(PATIENCE)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Turn what a command raises into one line on stderr and an exit code: 3 for input that cannot be used,
    1 for a failure of ours, 130 for Ctrl-C. Warnings become lines too. A traceback only with --debug. Of processes that
    torchrun started, the first speaks."""

    @functools.wraps(function)
    def run(*args: Any, debug: bool = False, quiet: bool = False, **kwargs: Any) -> None:
        quiet = quiet or not ranks().first
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            for noise in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning):
                warnings.simplefilter("ignore", noise)
            warnings.showwarning = lambda message, *_, **__: (
                None if quiet else say(f"warning: {' '.join(str(message).split())}")
            )
            try:
                function(*args, quiet=quiet, **kwargs)
                sys.stdout.flush()
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except (InputError, TrainingError) as error:
                _let_the_first_speak()
                if debug:
                    traceback.print_exc()
                give_up([error])
            except MemoryError as error:
                if debug:
                    traceback.print_exc()
                reason = " ".join(str(error).split()) or "out of memory"
                say(f"ldmfilter: more memory is needed than there is ({reason}); give a shorter span or fewer units")
                raise typer.Exit(UNUSABLE) from None
            except KeyboardInterrupt:
                say("ldmfilter: interrupted")
                raise typer.Exit(INTERRUPTED) from None
            except BrokenPipeError:
                # The reader of our output has gone, as `head` does: nothing is left to say, or to flush to it.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(FAILED) from None
            except Exception as error:
                _let_the_first_speak()
                if debug:
                    traceback.print_exc()
                give_up([error])

    return run
