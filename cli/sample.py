"""`ldmfilter sample`."""

from pathlib import Path
from typing import Annotated

import typer
from ldmfilter_cli.console import Overwrite, Quiet, command


@command
def sample(
    path: Annotated[Path, typer.Argument(metavar="SESSION", help="Where the file goes, as session.nwb.")],
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Example: **ldmfilter sample session.nwb**

    Write a simulated session as NWB, to try the other commands on: ten minutes of a rat on a linear track, 60 units.
    Its place is processing/behavior/linear_position, its laps are the trials. Prints the file.
    """
    from ldmfilter.data.sample import write_sample

    print(write_sample(path, overwrite))
