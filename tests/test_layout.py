"""The house has rooms: imports run one way between them, and each can be held in the head.

`python tests/test_layout.py` prints the import graph by folder, and the longest of each kind.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "batchgen"
MOST_FILES, MOST_LINES = 20, 300
# From the bottom up. Rooms on one line are neighbours: they do not import each other.
FLOORS = [
    ["batchgen.errors", "batchgen.startup"],  # with the other single modules of `batchgen`
    ["batchgen.gguf"],
    ["batchgen.gguf.tokenizer"],
    ["batchgen.gguf.architectures"],
    ["batchgen.engine"],  # its plain values
    ["batchgen.engine.kernels", "batchgen.engine.prefix", "batchgen.engine.attention"],
    ["batchgen.engine.grammar", "batchgen.engine.packed"],
    ["batchgen.engine.scheduling"],
    ["batchgen.engine.attention.cpu", "batchgen.engine.attention.triton"],
    ["batchgen.engine.gguf", "batchgen.engine.quantization"],
    ["batchgen.engine.parallel", "batchgen.engine.mixture"],
    ["batchgen.engine.sampling", "batchgen.engine.checkpoint", "batchgen.engine.model"],
    ["batchgen.engine.execution", "batchgen.engine.last_layer", "batchgen.engine.sampling.triton"],
    ["batchgen.engine.cpu", "batchgen.engine.cuda"],
    ["batchgen.engine.adapters", "batchgen.engine.steady.cuda"],
    ["batchgen.engine.steady"],
    ["batchgen.engine.run"],
    ["batchgen.engine.processes"],
    ["batchgen.job.stores"],
    ["batchgen.job", "batchgen.job.stopping"],
    ["batchgen.job.model", "batchgen.job.decisions", "batchgen.job.answers", "batchgen.job.eta"],
    ["batchgen.job.templates"],
    ["batchgen.job.text"],
    ["batchgen.job.fields"],
    ["batchgen.job.input", "batchgen.job.flow", "batchgen.job.parquet"],
    ["batchgen.job.locking", "batchgen.job.storage"],
    ["batchgen.job.output"],
    ["batchgen.job.ledger"],
    ["batchgen.job.run", "batchgen.job.verbs"],
    ["batchgen.job.ahead"],
    ["batchgen.report.machine", "batchgen.report.page"],
    ["batchgen.report", "batchgen.cluster"],
    ["batchgen.selftest"],
    ["batchgen.cli.flags", "batchgen.cli.process", "batchgen.cli.screen"],
    ["batchgen.cli"],
    ["batchgen.api"],
    ["batchgen"],  # the public names, and the command
]
SINGLE = {
    "errors",
    "causes",
    "counts",
    "devices",
    "gguf_header",
    "installed",
    "interpreter",
    "lora_config",
    "lora_keys",
}  # of the package: every room may use them

DOORS = {"batchgen.engine.factory": "batchgen.engine.run"}
"""Names that scripts rely on, outside the room that has what they name."""


def _module(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}
ROOMS = sorted({path.parent for path in MODULES.values()})


def _room(module: str) -> str:
    if MODULES[module].name == "__init__.py":
        return module
    if module in DOORS:
        return DOORS[module]
    folder, _, name = module.rpartition(".")
    if folder == "batchgen" and name in SINGLE:
        return "batchgen.errors"
    return folder


FLOOR = {room: height for height, rooms in enumerate(FLOORS) for room in rooms}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inner & MODULES.keys() or {node.module}
    return found & MODULES.keys()


@cache
def _graph() -> dict[str, dict[str, set[str]]]:
    """room -> the rooms that it imports -> by which files."""
    edges: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for module, path in MODULES.items():
        for name in _imports(path) - {"batchgen"}:
            if _room(name) != _room(module):
                edges[_room(module)][_room(name)].add(path.name)
    return edges


@pytest.mark.parametrize("room", sorted({_room(module) for module in MODULES}))
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    assert room in FLOOR, f"{room} has no floor: give it one in FLOORS, below those that use it"
    above = {
        other: sorted(files)
        for other, files in _graph()[room].items()
        if FLOOR[other] >= FLOOR[room]
    }
    assert not above


@pytest.mark.parametrize("folder", ROOMS, ids=lambda folder: str(folder.relative_to(PACKAGE)))
def test_a_room_can_be_held_in_the_head(folder: Path) -> None:
    files = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(files) <= MOST_FILES
    long = [path.name for path in files if len(path.read_text().splitlines()) > MOST_LINES]
    assert not long


@pytest.mark.parametrize(
    "folder",
    [room for room in ROOMS if room != PACKAGE],
    ids=lambda folder: str(folder.relative_to(PACKAGE)),
)
def test_a_room_says_what_it_owns_what_it_imports_and_where_to_begin(folder: Path) -> None:
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert "Imports" in text
    assert "Read" in text
    half = PACKAGE.name + "." + folder.relative_to(PACKAGE).parts[0]
    said = re.search(r"Imports (.*?)[.;:]\s", text + "\n", re.DOTALL)
    assert said
    used = set().union(*map(_imports, folder.glob("*.py")))
    used |= {".".join(parts[:n]) for parts in (one.split(".") for one in used) for n in (2, 3, 4)}
    for name in re.findall(r"`([\w.]+)`", said[1]):
        assert {name, f"{PACKAGE.name}.{name}", f"{half}.{name}"} & used, name


def test_the_page_on_the_inside_names_every_room_of_the_halves() -> None:
    page = (PACKAGE / "docs" / "inside.md").read_text(encoding="utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    listed = {
        (half, name)
        for cell in cells
        for half in re.findall(r"`(\w+)/", cell)
        for name in re.findall(r"(\w+)`", cell)
    }
    rooms = [room.relative_to(PACKAGE).parts for room in ROOMS]
    assert listed == {parts for parts in rooms if len(parts) == 2 and parts[0] in ("engine", "job")}


def _functions() -> list[tuple[int, str]]:
    """(lines, name and place) of every function: signature and docstring included."""
    return [
        (node.end_lineno - node.lineno + 1, f"{module}.{node.name}")
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno
    ]


def _longest() -> dict[str, tuple[int, str]]:
    """What -> how long the longest is, and its name."""
    files = [(len(path.read_text().splitlines()), name) for name, path in MODULES.items()]
    folders = [
        (len([path for path in room.glob("*.py") if path.name != "__init__.py"]), _module(room))
        for room in ROOMS
    ]
    return {
        "folder (files)": max(folders),
        "file (lines)": max(files),
        "function (lines)": max(_functions()),
    }


def test_the_longest_of_each_kind_are_told() -> None:
    longest = _longest()
    assert longest["folder (files)"][0] <= MOST_FILES
    assert longest["file (lines)"][0] <= MOST_LINES
    assert longest["function (lines)"][0] < longest["file (lines)"][0]


if __name__ == "__main__":
    graph = _graph()
    for floor in reversed(FLOORS):
        for room in floor:
            print(room, "->", ", ".join(sorted(graph[room], key=lambda r: FLOOR[r])) or "nothing")
    for what, (length, name) in _longest().items():
        print(f"longest {what}: {length}, {name}")
    kernels = "batchgen.engine.attention.triton", "batchgen.engine.sampling.triton"
    others = [found for found in _functions() if not found[1].startswith(kernels)]
    lengths = sorted(length for length, _ in _functions())
    print(f"longest function outside the kernels' rooms: {max(others)[0]}, {max(others)[1]}")
    print(f"functions: {len(lengths):,}, median {lengths[len(lengths) // 2]} lines")
