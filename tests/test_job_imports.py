"""Promise: the scripts of `jobs` find in one another what they import."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

JOBS = Path(__file__).parents[1] / "jobs"
SCRIPTS = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in JOBS.glob("*.py")}


def names(tree: ast.Module) -> set[str]:
    """What a module has at its top level."""
    found: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
    return found


@pytest.mark.parametrize("script", sorted(SCRIPTS))
def test_a_script_imports_what_the_other_ones_have(script: str) -> None:
    missing = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(SCRIPTS[script])
        if isinstance(node, ast.ImportFrom) and node.module in SCRIPTS
        for alias in node.names
        if alias.name not in names(SCRIPTS[node.module])
    ]
    assert not missing
