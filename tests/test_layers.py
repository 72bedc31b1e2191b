"""Imports run one way through the rooms of the house, and what must start at once imports no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# A module may import from its own room and from those before it.
ROOMS = [
    "errors version ranks",
    "config files cluster tensors",
    "data ldm",
    "trainer",
    "filter ica images",
    "analysis export",
    "paper",
    "__init__",
    "ldmfilter_cli",
]
LEVEL = {name: level for level, names in enumerate(ROOMS) for name in names.split()}
# ica and images stand on ldm alone; export writes states and knows no analysis.
ALONE = [("data", "ldm"), ("ldm", "data"), ("analysis", "export"), ("export", "analysis")]
ALONE += [(one, other) for one in ("ica", "images") for other in ("data", "filter", "ica", "images") if one != other]
ALONE += [("filter", "ica"), ("filter", "images")]


def modules() -> list[tuple[str, Path]]:
    package = [("ldmfilter", path) for path in sorted((ROOT / "ldmfilter").rglob("*.py"))]
    return package + [("ldmfilter_cli", path) for path in sorted((ROOT / "cli").glob("*.py"))]


def room(name: str) -> str:
    parts = name.split(".")
    if parts[0] == "ldmfilter_cli":
        return "ldmfilter_cli"
    return parts[1] if len(parts) > 1 and parts[1] in LEVEL else "__init__"


def imported(tree: ast.AST) -> list[str]:
    """Names of our own modules that a module imports, those for the type checker left out."""
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = [ast.Pass()]
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return [name for name in names if name.split(".")[0] in ("ldmfilter", "ldmfilter_cli")]


@pytest.mark.parametrize(("package", "path"), modules(), ids=lambda x: getattr(x, "stem", x))
def test_imports_run_one_way(package, path):
    base = ROOT / ("ldmfilter" if package == "ldmfilter" else "cli")
    own = room(".".join([package, *path.relative_to(base).with_suffix("").parts]))
    for name in imported(ast.parse(path.read_text())):
        other = room(name)
        assert LEVEL[other] <= LEVEL[own], f"{path} imports {name}"
        assert (own, other) not in ALONE, f"{path} imports {name}"


@pytest.mark.parametrize(
    "module", ["ldmfilter", "ldmfilter.data.binning", "ldmfilter.data.formats.nwb", "ldmfilter.data.formats.zarr"]
)
def test_data_starts_without_torch(module):
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
