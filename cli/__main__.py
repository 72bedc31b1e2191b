"""`python -m ldmfilter_cli`."""

from ldmfilter_cli.main import main

main()
