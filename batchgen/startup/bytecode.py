"""Python's compiled modules, kept in the cache folder where the installation has none.

Images made without them (`uv` compiles nothing unless asked to, and many set
PYTHONDONTWRITEBYTECODE) compile some 4,000 modules of torch and transformers at every start: 9 s.
Where that is so, helper processes compile them ahead of the first import, and later starts find
them. `BATCHGEN_BYTECODE=0` turns it off.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Sequence
from importlib.machinery import PathFinder
from importlib.util import cache_from_source
from pathlib import Path

from batchgen.startup.folders import cache_folder
from batchgen.startup.quick_exit import outlived_by

__all__ = ["begin_command", "keep_bytecode"]

_WITNESSES = ("torch", "transformers")
_MOST_HELPERS = 8
_QUICK = {"-h", "--help", "--help-all", "--version"}
_WITH_MODEL = {"run", "bench"}


def begin_command(words: Sequence[str]) -> None:
    """At the very start of a command line, so that all of its own modules are kept too. One that
    only asks for help leaves no trace."""
    if not words or not _QUICK.isdisjoint(words):
        return
    if words[0] in _WITH_MODEL and "echo" not in words:
        keep_bytecode()
    else:
        _place_bytecode()


@functools.cache
def keep_bytecode() -> int:
    """As `_place_bytecode`, and compile what is missing there; returns how many helper processes
    now do. Once a process, before torch is imported."""
    return _compile_ahead() if _place_bytecode() else 0


def _place_bytecode() -> bool:
    """Give this process and its children a place for bytecode if they lack it. Whether there is one
    where bytecode is missing still."""
    missing = [path for path in map(_source, _WITNESSES) if path and not _is_compiled(path)]
    if not missing or os.environ.get("BATCHGEN_BYTECODE") == "0":
        return False
    if sys.dont_write_bytecode or not os.access(missing[0].parent, os.W_OK):
        folder = None if sys.pycache_prefix else cache_folder("bytecode")
        if folder is None:
            return False
        sys.pycache_prefix, sys.dont_write_bytecode = str(folder), False
        os.environ["PYTHONPYCACHEPREFIX"] = str(folder)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    return any(not _is_compiled(path) for path in missing)


def _source(package: str) -> Path | None:
    spec = PathFinder.find_spec(package)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _is_compiled(source: Path) -> bool:
    return os.path.exists(cache_from_source(str(source)))


def _compile_ahead() -> int:
    """Start helpers, each with every n-th module; nobody waits for them."""
    import subprocess

    count = min(_MOST_HELPERS, len(os.sched_getaffinity(0)) - 1)
    worker = Path(__file__).with_name("compile_worker.py")
    path = os.pathsep.join(entry for entry in sys.path if entry)
    for number in range(count):
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(worker), sys.pycache_prefix or "", path,
             str(number), str(count)],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        outlived_by(process)
    return max(count, 0)
