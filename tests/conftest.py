"""Shapes in signatures are checked in every test."""

from jaxtyping import install_import_hook

import tests.typecheck

install_import_hook(
    ["ldmfilter.ldm", "ldmfilter.filter", "ldmfilter.images"], f"{tests.typecheck.__name__}.typechecker"
)
