"""A helper process: compiles its share of the modules that a start imports, in their order.

Run as a script, apart from the package: PREFIX PATH NUMBER COUNT. `modules.txt` names what a start
imports with torch 2.11 to 2.13 and transformers 5.17 to 5.23; what is not there is left out. Of
Python's own library too: what that was installed with is not looked at where there is a PREFIX.
"""

from __future__ import annotations

import os
import py_compile
import sys
from contextlib import suppress
from importlib.util import cache_from_source
from pathlib import Path


def main(prefix: str, path: str, number: int, count: int) -> None:
    """Compile every `count`-th module from the `number`-th on that has no bytecode yet."""
    sys.pycache_prefix = prefix or None
    names = Path(__file__).with_name("modules.txt").read_text().split()
    for source in sources(names, path.split(os.pathsep))[number::count]:
        if not os.path.exists(cache_from_source(source)):
            with suppress(OSError):
                py_compile.compile(source, quiet=2)


def sources(names: list[str], path: list[str]) -> list[str]:
    """The source files of `names`, in order. `a.b.*` is every module of the package a.b."""
    homes: dict[str, str] = {}
    found: dict[str, None] = {}
    for name in names:
        top, _, rest = name.partition(".")
        if top not in homes:
            homes[top] = next((e for e in path if _holds(e, top)), "")
        if homes[top]:
            found |= dict.fromkeys(_files(os.path.join(homes[top], top), rest))
    return list(found)


def _holds(folder: str, top: str) -> bool:
    place = os.path.join(folder, top)
    return os.path.isdir(place) or os.path.isfile(f"{place}.py")


def _files(package: str, rest: str) -> list[str]:
    target = os.path.join(package, *rest.split(".")) if rest else package
    if rest == "*" or rest.endswith(".*"):
        folder = os.path.dirname(target)
        with suppress(OSError):
            names = sorted(name for name in os.listdir(folder) if name.endswith(".py"))
            return [os.path.join(folder, name) for name in names]
        return []
    candidates = (os.path.join(target, "__init__.py"), f"{target}.py")
    return [file for file in candidates if os.path.isfile(file)][:1]


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
