"""The examples of docstrings go on from that of `LDMFilter`, as the reference says: its names are theirs too."""

import doctest

import pytest


@pytest.fixture(scope="session")
def doctest_namespace():
    import ldmfilter

    names: dict = {}
    for one in doctest.DocTestParser().get_examples(ldmfilter.LDMFilter.__doc__):
        exec(one.source, names)
    return {name: value for name, value in names.items() if not name.startswith("_")}
