"""What must be light is light: whom it imports, and what comes with that."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from echo_runs import environment

PACKAGE = Path(__file__).parents[1] / "batchgen"
STDLIB_ONLY = [
    "errors.py", "engine/request.py", "engine/config.py", "engine/draws.py", "engine/run/echo.py",
    "engine/scheduling/sequence.py", "engine/scheduling/block_manager.py",
    "engine/scheduling/scheduler.py", "job/spec.py", "job/rows.py", "job/stopping/signals.py",
    "job/storage/manifest.py",
]  # fmt: skip


@cache
def imported(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is imported as the file is): type-checking imports left out."""
    return list(_imports(ast.parse(path.read_text(encoding="utf-8")), top=True))


def _imports(node: ast.AST, top: bool) -> Iterator[tuple[str, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom) and child.level == 0 and child.module:
            yield child.module, top
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from _imports(child, top and not inside)


def test_the_job_half_never_imports_torch() -> None:
    found = [
        (str(path.relative_to(PACKAGE)), name.split(".")[0], top)
        for path in (PACKAGE / "job").rglob("*.py")
        for name, top in imported(path)
    ]
    assert len(found) > 1000
    assert not [at for at in found if at[1] in ("torch", "triton")]
    assert not [at for at in found if at[1] in ("transformers", "datasets") and at[2]]


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_the_core_of_each_half_is_standard_library_only(name: str) -> None:
    foreign = {
        module
        for module, _ in imported(PACKAGE / name)
        if module.split(".")[0] not in sys.stdlib_module_names | {"batchgen"}
    }
    assert not foreign


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "startup").glob("*.py")), ids=lambda path: path.name
)
def test_what_starts_a_process_needs_the_standard_library_alone(path: Path) -> None:
    names = {name for name, _ in imported(path)}
    others = {name for name in names if name.split(".")[0] not in sys.stdlib_module_names}
    assert all(name.startswith("batchgen.startup") for name in others), others


def test_importing_batchgen_imports_nothing_heavy() -> None:
    code = "import batchgen, sys; print(' '.join(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert not set(result.stdout.split()) & {"torch", "pyarrow", "transformers", "click", "numpy"}


def test_every_public_name_can_be_imported() -> None:
    import batchgen

    assert len(set(batchgen.__all__)) == len(batchgen.__all__)
    for name in batchgen.__all__:
        assert getattr(batchgen, name) is not None
