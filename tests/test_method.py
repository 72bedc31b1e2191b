"""METHOD.md: each link leads to a file that defines the name on it, and no equation's function is missing there."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LINKS = re.findall(r"\[`(\w+)`\]\(([^)]+)\)", (ROOT / "METHOD.md").read_text(encoding="utf-8"))


def defined(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}


@pytest.mark.parametrize(("name", "path"), LINKS, ids=[f"{path}:{name}" for name, path in LINKS])
def test_the_name_is_defined_where_the_link_leads(name, path):
    assert name in defined(ROOT / path)


@pytest.mark.parametrize(
    "path",
    [
        "ldmfilter/ldm/objectives.py",
        "ldmfilter/ldm/alignment.py",
        "ldmfilter/ldm/entropy.py",
        "ldmfilter/images/objectives.py",
    ],
)
def test_every_objective_alignment_and_entropy_is_on_the_page(path):
    public = {name for name in defined(ROOT / path) if not name.startswith("_")}
    helpers = {"log_sphere_area", "log_vmf_norm", "concentration"}  # normalisers, not equations of their own
    assert public - helpers <= {name for name, where in LINKS if where == path}
