"""The command line; `run` is the command `ldmfilter`."""

import sys


def run() -> None:
    """Entry point. Ctrl-C is quiet from the first moment on, while modules are still being imported; a letter
    that the terminal's encoding lacks is spelt out."""
    try:
        from ldmfilter_cli.main import app

        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        app(prog_name="ldmfilter")
    except KeyboardInterrupt:
        sys.exit(130)
