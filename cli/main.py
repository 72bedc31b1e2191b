"""The command `ldmfilter`."""

from typing import Annotated

import typer
from ldmfilter_cli.decode import decode
from ldmfilter_cli.inspect import inspect
from ldmfilter_cli.train import train

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""What a population of neurons encodes, moment by moment, and how sure one can be.

    Example:

      ldmfilter train session.nwb
      ldmfilter decode --out latents.zarr
    """.replace("\n      ", "\n\n      "),
)


def _version(wanted: bool) -> None:
    if wanted:
        from ldmfilter.version import __version__

        print(f"ldmfilter {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


app.command()(inspect)
app.command()(train)
app.command()(decode)


def main() -> None:
    """Entry point."""
    app(prog_name="ldmfilter")
