"""Messages, progress and exit codes of the command line: results on stdout, messages on stderr."""

import functools
import inspect
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from ldmfilter.config import OPTIONS
from ldmfilter.errors import InputError, TrainingError, short
from ldmfilter.ranks import ranks

HELP_ALL = "ldmfilter.help_all"  # marks a context in which every option is shown
FAILED, UNUSABLE, INTERRUPTED = 1, 3, 130
PATIENCE = 10.0  # s that torchrun has to end the other processes when the first has failed

Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel="Messages")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Results only.", rich_help_panel="Messages")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output.")]


#: The options that the help of a command leaves out, and --help-all shows.
_RARE = tuple(name for name, one in OPTIONS.items() if one.metadata.get("rare"))
FOLDED = {
    "train": _RARE,
    "sweep": (
        *_RARE, "reserve", "restarts", "device", "dask", "config", "as_json", "debug", "quiet", "series",
        "trials", "jobs",
    ),
    "decode": ("format", "circular", "as_json", "filter", "device", "dask", "debug", "quiet"),
    "stream": ("header", "out_format", "circular", "no_cov", "head", "strict", "debug", "quiet"),
}  # fmt: skip


def _show_all(context: typer.Context, wanted: bool) -> None:
    if wanted:
        context.meta[HELP_ALL] = False
        print(context.get_help(), end="")
        raise typer.Exit


HelpAll = Annotated[
    bool, typer.Option("--help-all", callback=_show_all, is_eager=True, help="Show every option, and end.")
]


def say(text: str) -> None:
    """A message for the person, on stderr."""
    print(short(text), file=sys.stderr, flush=True)


def give_up(failures: Sequence[Exception]) -> None:
    """Print a line for each failure. Raises: typer.Exit where there is one, with 3 where all are `InputError`, else
    1."""
    for error in failures:
        line = str(error)
        if not isinstance(error, InputError | TrainingError):
            line = f"failed ({type(error).__name__}: {' '.join(line.split())}); --debug shows where"
        say(f"ldmfilter: {line}")
    if failures:
        raise typer.Exit(UNUSABLE if all(isinstance(error, InputError) for error in failures) else FAILED)


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Turn what a command raises into one line on stderr and an exit code: 3 for input that cannot be used, 1 for any
    other failure, 130 for Ctrl-C. Warnings become lines too. Adds --debug, which shows the traceback, and --help-all
    where options are folded. Of processes that torchrun started, only the first prints."""

    def show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
        say(f"warning: {' '.join(str(message).split())}")

    @functools.wraps(function)
    def run(*args: Any, debug: bool = False, quiet: bool = False, help_all: bool = False, **kwargs: Any) -> None:
        quiet = quiet or not ranks().first
        with warnings.catch_warnings():
            warnings.simplefilter("ignore" if quiet else "default")
            for noise in (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ResourceWarning):
                warnings.simplefilter("ignore", noise)
            warnings.showwarning = show_warning
            try:
                function(*args, quiet=quiet, **kwargs)
                sys.stdout.flush()
            except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
                raise  # of output whose reader has gone, as `head` does, typer says nothing, and ends with 1
            except KeyboardInterrupt:
                say("ldmfilter: interrupted")
                raise typer.Exit(INTERRUPTED) from None
            except Exception as error:
                if debug:
                    traceback.print_exc()
                failure = error
                if isinstance(error, MemoryError):
                    reason = " ".join(str(error).split()) or "out of memory"
                    failure = InputError(
                        f"more memory is needed than there is ({reason}); give less time or fewer units"
                    )
                elif not ranks().first:
                    time.sleep(PATIENCE)  # the first reports what all fail for, and torchrun ends the others
                give_up([failure])

    added = {"debug": Debug} | ({"help_all": HelpAll} if function.__name__ in FOLDED else {})
    flags = [
        inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=a) for key, a in added.items()
    ]
    return with_parameters(run, [*inspect.signature(function).parameters.values(), *flags])


class _Help:
    """Help that shows no type beside an argument or a flag, has defaults in its sentences, and leaves out the options
    that are `FOLDED`."""

    name: str | None

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for one in parameters:
            if one.param_type_name == "argument":
                one.display_type = lambda ctx: ""
            elif one.is_flag:
                one.metavar = ""
            elif one.show_default and one.default is not None:
                one.help, one.show_default = (
                    f"{one.help} (default: {getattr(one.default, 'value', one.default)})",
                    False,
                )
            one.hidden = one.name in FOLDED.get(self.name or "", ()) and ctx.meta.get(HELP_ALL, True)
        return parameters


class Command(_Help, TyperCommand):
    """A command."""


class Group(_Help, TyperGroup):
    """All commands."""


def with_parameters(run: Callable[..., None], parameters: Sequence[inspect.Parameter]) -> Callable[..., None]:
    """A function that is called by keywords, with the parameters that typer shall see."""
    named = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in parameters]
    run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in named}
    return run
