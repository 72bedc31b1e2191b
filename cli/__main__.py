"""`python -m ldmfilter_cli`."""

from ldmfilter_cli import run

run()
