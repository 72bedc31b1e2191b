"""Imports run one way through the packages, no files import each other in a circle, and data starts without torch."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module may import from its own row and from those before it.
ROOMS = [
    "errors version ranks html text progress",
    "config files cluster tensors",
    "data ldm",
    "trainer",
    "filter ica images",
    "analysis export",
    "paper",
    "__init__",
    "ldmfilter_cli __main__",
]
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names.split()}
# ica and images stand on ldm alone; export writes states and knows no analysis.
ALONE = [("data", "ldm"), ("ldm", "data"), ("analysis", "export"), ("export", "analysis")]
ALONE += [(one, other) for one in ("ica", "images") for other in ("data", "filter", "ica", "images") if one != other]
ALONE += [("filter", "ica"), ("filter", "images")]


def modules() -> dict[str, Path]:
    """Every module of the package and of the command line, by its name."""
    found = {}
    for package, base in (("ldmfilter", ROOT / "ldmfilter"), ("ldmfilter_cli", ROOT / "cli")):
        for path in sorted(base.rglob("*.py")):
            parts = [package, *path.relative_to(base).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def room(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "ldmfilter_cli":
        return "ldmfilter_cli"
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"


@cache
def imported(path: Path) -> list[str]:
    """Names from our own modules that a module imports, within functions too; those for the type checker left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] in ("ldmfilter", "ldmfilter_cli")]


def module_of(name: str) -> str:
    """The module that an imported name is, or comes from."""
    return name if name in MODULES else name.rpartition(".")[0]


def circle(without: Iterable[tuple[str, str]] = ()) -> list[str]:
    """Modules that import each other in a circle, or none; imports from one of a pair to the other are passed over."""
    graph = {name: {*map(module_of, imported(path))} - {name} for name, path in MODULES.items()}
    assert set().union(*graph.values()) <= set(graph)
    for one, other in without:
        graph[one] -= {other}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_one_way(name):
    own = room(name)
    for wanted in imported(MODULES[name]):
        other = room(wanted)
        assert LEVEL[other] <= LEVEL[own], f"{name} imports {wanted}"
        assert (own, other) not in ALONE, f"{name} imports {wanted}"


def test_no_circle_among_files():
    assert circle() == []


def test_data_starts_without_torch():
    code = "import sys, ldmfilter.data; assert not {'torch', 'numpy', 'pynwb', 'zarr'} & set(sys.modules)\n"
    code += "".join(
        f"import ldmfilter.data.{one}\n" for one in ("binning", "simulate", "formats.nwb", "formats.arrays")
    )
    assert subprocess.run([sys.executable, "-c", code + "assert 'torch' not in sys.modules"]).returncode == 0


def test_exports_start_without_pynwb():
    code = "import sys, ldmfilter.export; assert not {'torch', 'pynwb', 'pynapple'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


#: Modules whose messages only commands show.
OF_COMMANDS = "cluster filter.runs filter.run_files analysis.decode_session analysis.sweep paper ldmfilter_cli"


def messages(path: Path) -> Iterable[str]:
    """The texts that a module raises or warns with."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and ast.unparse(node.func).endswith("warn")):
            yield "".join(
                one.value for one in ast.walk(node) if isinstance(one, ast.Constant) and str(one.value) == one.value
            )


def test_messages_that_python_shows_too_do_not_name_options_of_the_command_line_alone():
    some = 0
    for name, path in MODULES.items():
        if not any(name.removeprefix("ldmfilter.").startswith(one) for one in OF_COMMANDS.split()):
            for text in messages(path):
                some += bool(text)
                assert not re.search(r"--[a-z]", text) or "in Python" in text or "`ldmfilter " in text, (name, text)
    assert some > 300
