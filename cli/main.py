"""The command `ldmfilter`."""

from functools import partial
from typing import Annotated

import typer
from ldmfilter_cli.check import check
from ldmfilter_cli.compare import compare
from ldmfilter_cli.console import Command, Group
from ldmfilter_cli.decode import decode
from ldmfilter_cli.export import export
from ldmfilter_cli.inspect import inspect
from ldmfilter_cli.report import report
from ldmfilter_cli.reproduce import reproduce
from ldmfilter_cli.sample import sample
from ldmfilter_cli.score import score
from ldmfilter_cli.stream import stream
from ldmfilter_cli.sweep import SeveralValues, sweep
from ldmfilter_cli.train import train

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Example: **ldmfilter train session.nwb**, then **ldmfilter decode --out latents.zarr**

    Latent states of a population of neurons, moment by moment, with covariances: an unsupervised Bayesian filter
    for spike trains.""",
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


command = partial(app.command, cls=Command)
command(short_help="Write a simulated session, to try the other commands on.")(sample)
command(short_help="Show what a session holds: units, intervals, behaviour.")(inspect)
command(short_help="Train a filter on a session's spikes, without labels.")(train)
command(short_help="Decode a session into latent states with covariances.")(decode)
command(short_help="Filter one bin at a time: counts on stdin, states on stdout.")(stream)
app.command(cls=SeveralValues, short_help="Train with several values of options and compare on held-out time.")(sweep)
command(short_help="Check whether a trained filter can be trusted: numbers, verdicts, remedies.")(check)
command(short_help="Score states without labels: spikes predicted on held-out time, beside simpler methods.")(score)
command(short_help="Check whether runs agree: how well one's states give another's.")(compare)
command(short_help="Report what a run found, with uncertainties: one page, and its numbers as JSON.")(report)
command(short_help="Write states for other tools: NWB, netCDF, CSV, pynapple, Parquet.")(export)
command(short_help="Run an experiment of the paper: a picture, its numbers, a verdict.")(reproduce)
