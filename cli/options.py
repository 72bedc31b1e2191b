"""Options of the command line: those of the configuration, made from its fields, and those that commands share."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from ldmfilter_cli.console import with_parameters

from ldmfilter.config import DEVICES, OPTIONS, kind
from ldmfilter.data import FORMATS
from ldmfilter.data.untrusted.remote import remote_address

if TYPE_CHECKING:
    from ldmfilter.filter.runs import Run

RUN, BEHAVIOR, TRIALS = "Run", "Behaviour", "Trials"
SESSION = "NWB file or address, session in zarr, sorter's folder, pynapple file, or counts."


def completing(choices: Sequence[str]) -> Callable[[str], list[str]]:
    """The shell's completion of an option that has these choices."""

    def complete(incomplete: str) -> list[str]:
        return [one for one in choices if one.startswith(incomplete)]

    return complete


Format = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="FORMAT",
        help=f"What the session is; without it its content decides. One of {', '.join(FORMATS)}.",
        autocompletion=completing(list(FORMATS)),
    ),
]
RunArgument = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="Run folder; without it the latest below runs/.", show_default=False),
]
RunOption = Annotated[
    Path | None,
    typer.Option("--run", metavar="FOLDER", help="Run folder; without it the latest below runs/."),
]
Runs = Annotated[
    list[Path] | None,
    typer.Option("--run", metavar="FOLDER", help="A run folder, as other commands take it; repeatable."),
]
RunSession = Annotated[
    Path | None, typer.Option(metavar="SESSION", help="Where the session lies now; of a run of several, which.")
]
AsJson = Annotated[bool, typer.Option("--json", help="The same as JSON.")]
Device = Annotated[
    str,
    typer.Option(
        metavar="|".join(DEVICES),
        help="Where to compute; auto is CUDA where there is one.",
        autocompletion=completing(DEVICES),
    ),
]
Behaviors = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PATH",
        help="Behaviour to read from the states, as `inspect` prints it or its unique last part, a column as led[0], "
        "or a column of an interval table, as trials.condition; repeatable.",
        rich_help_panel=BEHAVIOR,
    ),
]
Circular = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME",
        help="A behaviour that is circular; repeatable. Angles and directions are seen without.",
        rich_help_panel=BEHAVIOR,
    ),
]
MinSpeed = Annotated[
    float,
    typer.Option(
        metavar="SPEED",
        min=0.0,
        help="Leave out bins in which the first behaviour changes more slowly, its unit per s.",
        rich_help_panel=BEHAVIOR,
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option(metavar="FILE.toml", help="Options; the command line wins.", rich_help_panel=RUN)
]
Dask = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS|local",
        help="Work on a Dask cluster: its scheduler's address, as tcp://HOST:8786, or one process a core here. Workers "
        "need this package and the same files under the same paths. Needs ldmfilter[dask].",
    ),
]


def one_folder(argument: Path | None, option: Path | None) -> Path | None:
    """The run folder of a command, given as RUN or as --run. Raises: typer.BadParameter for both."""
    if argument is not None and option is not None:
        raise typer.BadParameter("names a run, and so does RUN; leave one out", param_hint="--run")
    return argument if option is None else option


def open_run(folder: Path | None) -> "Run":
    """The run of a folder, or the latest below runs/. Raises: InputError, as `Run.open` and `Run.latest`."""
    from ldmfilter.filter.runs import Run

    return Run.latest() if folder is None else Run.open(folder)


def where_now(run: "Run", session: Path | None) -> Path | None:
    """The path of a session that was named, as it lies now; None for where it lay, as for a name that chose one."""
    if session is None or session.exists() or remote_address(session):
        return session
    own = Path(run.session_path)
    return None if len(run.sessions) > 1 or str(session) in (own.name, own.stem) else session


def parse_widths(text: str) -> tuple[int, ...]:
    """Widths of "128,128". Raises: typer.BadParameter for another form."""
    try:
        return tuple(int(width) for width in text.split(",") if width.strip())
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of widths, as 128,128", param_hint="--hidden") from None


def parse_span(text: str, flag: str = "--span") -> tuple[float, float]:
    """A span of "START:STOP", s; an empty end is open. Raises: typer.BadParameter for another form."""
    start, colon, stop = text.partition(":")
    try:
        if not colon:
            raise ValueError
        return float(start) if start.strip() else -math.inf, float(stop) if stop.strip() else math.inf
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not START:STOP in seconds, as 10:60", param_hint=flag) from None


Align = Annotated[
    str | None,
    typer.Option(
        metavar="TABLE.COLUMN",
        help="States in trials, around an event: any column of times of an interval table, as trials.go_cue.",
        rich_help_panel=TRIALS,
    ),
]
Window = Annotated[
    Any,
    typer.Option(
        metavar="START:STOP",
        parser=partial(parse_span, flag="--window"),
        help="From and to, s from the event.",
        show_default=False,
        rich_help_panel=TRIALS,
    ),
]
Filter = Annotated[
    str | None,
    typer.Option(
        metavar="QUERY",
        help='Trials to take, by the table\'s columns: "condition == 3 and rewarded".',
        rich_help_panel=TRIALS,
    ),
]

_METAVARS = {"a number of seconds": "SECONDS", "a share": "SHARE", "a number": "NUMBER"}  # of a number, by its noun


def parse_number(text: Any, noun: str) -> float:
    """A number. Raises: typer.BadParameter where it is none."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not {noun}; give it as 0.1") from None


# The types of fields that are no types of typer: how their text is given, and what reads it.
_TEXTS: dict[Any, tuple[Any, Callable[[str], Any]]] = {
    tuple[int, ...]: (str, parse_widths),
    tuple[tuple[float, float], ...]: (list[str], parse_span),
    tuple[str, ...]: (list[str], str),
}


def _parameter(name: str, several: bool) -> inspect.Parameter:
    """The parameter of a command for a field of the configuration."""
    one = OPTIONS[name]
    about, default = one.metadata, one.default
    text, parser = _TEXTS.get(kind(one), (kind(one), None))
    choices, noun = about.get("choices", ()), about.get("noun", "a number")
    metavar, told = about.get("metavar") or "|".join(choices) or "N", about["help"]
    if len(choices) > 3:
        metavar, told = "NAME", f"{told} One of {', '.join(choices)}."
    if text is float:
        parser, metavar = partial(parse_number, noun=noun), about.get("metavar") or _METAVARS[noun]
    if several:
        text, metavar = list[text], f"{metavar} ..."  # type: ignore[valid-type]
    if isinstance(default, tuple):
        default = ",".join(map(str, default)) or None
    made = typer.Option(
        *([f"--{about['flag']}"] if "flag" in about else []),
        metavar=metavar,
        parser=parser,
        help=told + ("" if default is None else f" (default: {default})"),
        rich_help_panel=about["panel"],
        show_default=False,
        autocompletion=completing(choices) if choices else None,
    )
    annotation = Annotated[text | None, made]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def with_options(*names: str, several: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the options of these fields of the configuration in place of its parameter `options`, a dict of
    those that a person gave; each of `several` may be given several times, and its value is the list of them."""

    def decorate(function: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(**values: Any) -> None:
            named = {name: values.pop(name, None) for name in (*several, *names)}
            given = {
                name: tuple(value) if isinstance(value, list) and name not in several else value
                for name, value in named.items()
                if value is not None and value != []
            }
            function(**values, options=given)

        made = [_parameter(name, name in several) for name in (*several, *names)]
        parameters = inspect.signature(function).parameters.values()
        each = [one for known in parameters for one in (made if known.name == "options" else [known])]
        return with_parameters(run, each)

    return decorate
