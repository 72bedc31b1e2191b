"""The checker of shapes and types that `--shapes` puts on the package."""

from beartype import BeartypeConf, beartype

typechecker = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is a float, as for every type checker
