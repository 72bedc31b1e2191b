"""The two ways this package says no."""


class InputError(ValueError):
    """Input that cannot be used: one line saying what is wrong, in which file and object, and what to do.

    The command line prints the line and exits with code 3.
    """


class TrainingError(RuntimeError):
    """Training that cannot go on (collapsed or diverged): one line saying what was seen and what to try.

    The command line prints the line and exits with code 1.
    """
