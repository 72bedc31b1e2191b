"""Errors and warnings whose message is one line, and the cleaning of text of unknown origin."""

import re
import sys
import warnings

LONGEST = 1200  # letters of a message
# Control characters, which a terminal would obey, line ends of any kind, and halves of letters, which none can show.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")


def one_line(text: str) -> str:
    """The text on one line, as it can be shown on any terminal.

    >>> one_line("red" + chr(27) + "[31m" + chr(10) + "alert")
    'red [31m alert'
    """
    return _CONTROL.sub(" ", text)


def short(line: str) -> str:
    """A line that a person reads: where a file has a name of a thousand letters, its middle is left out."""
    line = one_line(line)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 300]} ... {line[-300:]}"


def warn(line: str) -> None:
    """Warn with a line; the place that is shown with it is not in this package, but in the code that called it."""
    frame, level = sys._getframe(1), 2
    while frame.f_globals.get("__name__", "").startswith("ldmfilter") and frame.f_back is not None:
        frame, level = frame.f_back, level + 1
    warnings.warn(line, InputWarning, stacklevel=level)


class InputWarning(UserWarning):
    """Input that is taken in part or with a doubt: one line saying what, in which file and object."""


class InputError(ValueError):
    """Input that cannot be used: one line saying what is wrong, in which file and object, and what to do.

    The command line prints the line and exits with code 3.

    Parameters
    ----------
    line : str
        The message.

    Examples
    --------
    >>> import ldmfilter
    >>> try:
    ...     ldmfilter.read_session("no.nwb")
    ... except ldmfilter.InputError as error:
    ...     print(error)
    no.nwb: no such file; check the path
    """

    def __init__(self, line: str):
        super().__init__(short(line))


class UnsafeInputError(InputError):
    """Input that is refused because reading it may run code."""


class BusyError(InputError):
    """A run that another process trains."""


class TrainingError(RuntimeError):
    """Training that cannot go on (collapsed or diverged): one line saying what was seen and what to try.

    The command line prints the line and exits with code 1.

    Parameters
    ----------
    line : str
        The message.

    Examples
    --------
    >>> str(ldmfilter.TrainingError("the loss is not finite at step 7; lower the learning rate"))
    'the loss is not finite at step 7; lower the learning rate'
    """

    def __init__(self, line: str):
        super().__init__(short(line))
