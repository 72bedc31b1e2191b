"""`python -m ldmfilter`: the command line."""

from ldmfilter_cli import run

run()
