"""The command `ldmfilter`."""

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


for function, line in {
    sample: "Write a simulated session, to try the other commands on.",
    inspect: "Show what a session holds: units, intervals, behaviour.",
    train: "Train a filter on a session's spikes, without labels.",
    decode: "Decode a session into latent states with covariances.",
    stream: "Filter one bin at a time: counts on stdin, states on stdout.",
    sweep: "Train with several values of options and compare on held-out time.",
    check: "Check whether a trained filter can be trusted: numbers, verdicts, remedies.",
    score: "Score states without labels: spikes predicted on held-out time, beside simpler methods.",
    compare: "Check whether runs agree: how well one's states give another's.",
    report: "Report what a run found, with uncertainties: one page, and its numbers as JSON.",
    export: "Write states for other tools: NWB, netCDF, CSV, pynapple, Parquet.",
    reproduce: "Run an experiment of the paper: a picture, its numbers, a verdict.",
}.items():
    app.command(cls=SeveralValues if function is sweep else Command, short_help=line)(function)
