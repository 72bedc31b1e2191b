"""The reference lists every public name, and each docstring says what goes in, what comes out, and how it is used."""

import doctest
import inspect
import re
import tomllib
from pathlib import Path
from pydoc import locate

import pytest

import ldmfilter
import ldmfilter.export
import ldmfilter.plot

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "reference" / "python.md").read_text(encoding="utf-8")
OPENING = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]
DIRECTIVE = re.compile(r"\.\. (\w+):: (\S+)(?:\n   :members:(.*))?")


def listed() -> dict[str, object]:
    """What the reference shows, by its full name: functions, classes and their members."""
    found: dict[str, object] = {}
    module = ""
    for kind, name, members in DIRECTIVE.findall(PAGE):
        if kind == "currentmodule":
            module = name
            continue
        full = name if name.startswith("ldmfilter.") else f"{module}.{name}"
        every = "\n".join(locate(full).__all__) if kind == "automodule" and not members.strip() else members
        names = [f"{full}.{one}" for one in re.findall(r"\w+", every)]
        found |= {one: locate(one) for one in [full, *names] if kind != "automodule" or one != full}
    return found


LISTED = listed()
CALLED = {name: one for name, one in LISTED.items() if inspect.isfunction(one) or inspect.ismethod(one)}
# Their examples are shown and not run: each wants a file or a run, or what another example has made at some cost.
NOT_RUN = {"ldmfilter.report", "ldmfilter.export.to_nwb", "ldmfilter.analysis.report.make.Report.write"}
NOT_RUN |= {name for name in CALLED if name.endswith(".to_dict")}


def section(name: str, title: str) -> str:
    text = inspect.getdoc(LISTED[name]) or ""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[\w ]*\n--+$|\Z)", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def test_every_public_name_is_in_the_reference():
    public = {f"ldmfilter.{name}" for name in ldmfilter.__all__ if name != "__version__"}
    public |= {f"{module.__name__}.{name}" for module in (ldmfilter.plot, ldmfilter.export) for name in module.__all__}
    assert public - set(LISTED) <= {"ldmfilter.export.FORMATS"}


@pytest.mark.parametrize("name", CALLED)
def test_a_docstring_has_its_parts(name):
    signature = inspect.signature(CALLED[name])
    described = [line.partition(" : ")[0] for line in section(name, "Parameters").splitlines() if line[:1].strip()]
    names = [one.strip("*") for line in described for one in line.split(", ")]
    assert names == [one for one in signature.parameters if one not in ("self", "cls")]
    assert bool(section(name, "Returns")) == (signature.return_annotation not in (None, "None"))
    shown = section(name, "Examples")
    assert ">>>" in shown
    assert ("+SKIP" in shown) == (name in NOT_RUN)


def test_the_page_shows_the_lines_that_examples_go_on_from():
    *lines, _ = doctest.DocTestParser().get_examples(ldmfilter.LDMFilter.__doc__)
    assert {one.source.strip() for one in lines} == {line for line in OPENING.splitlines() if line}


@pytest.fixture(scope="module")
def opened() -> dict:
    """The names that a reader has who has pasted the page's opening lines, and nothing else."""
    names: dict = {}
    exec(OPENING, names)
    return names


@pytest.mark.parametrize("name", LISTED)
def test_an_example_runs_when_it_is_pasted_after_the_opening_lines(name, opened):
    text = inspect.getdoc(LISTED[name]) or ""
    example = doctest.DocTestParser().get_doctest(text, dict(opened), name, None, None)
    told: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(example, out=told.append)
    assert not told, "".join(told)


def test_the_conda_environment_agrees_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = (ROOT / "environment.yml").read_text(encoding="utf-8")
    entries = dict(re.findall(r"^ +- ([\w.-]+?)(?:[>=]+([\d.]+))?$", environment, re.MULTILINE))
    torch = next(one for one in project["dependencies"] if one.startswith("torch>="))
    assert entries["pytorch-cpu"] == torch.removeprefix("torch>=")
    least = project["requires-python"].removeprefix(">=")
    assert [int(part) for part in entries["python"].split(".")] >= [int(part) for part in least.split(".")]
    assert "." in entries  # the package itself, by pip, which brings all the rest
