"""The process that compiles a model's GPU kernels while the command imports and loads.

It is started where Triton's cache does not say that they are compiled, and waited for before the
first kernel is needed: two that compile the same would take longer. When it has what every run
needs it prints a line, and nobody waits for the rest, which it compiles though the command ends.

What it did is noted beside the compiled code: how often it was started, and which kernels it could
not compile, and why. Where some failed it is started again, for a GPU may have had no room, but no
more than `_MOST_STARTS` times: one that can never be compiled, or that ends the compiler, shall not
cost a process in every run. The runs after that say so with `-v`, and compile when they need one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from batchgen.startup.folders import prepare_compilers
from batchgen.startup.quick_exit import outlived_by
from batchgen.startup.timeline import span

__all__ = ["Record", "compile_kernels", "wait_for_kernels"]

_MODULE = "batchgen.engine.cuda.kernels_ahead"
_SOURCES = Path(__file__).parents[1] / "engine"
_MOST_SECONDS = 60.0
_MOST_STARTS = 3
_UNFINISHED = ("the process that compiles them did not finish",)

_log = logging.getLogger(__name__)
_processes: list[subprocess.Popen[bytes]] = []
_left: list[subprocess.Popen[bytes]] = []
"""Not waited for any more; kept, for what is dropped while it runs is warned of, and asked for when
the next begins, for what has ended takes a place until it is."""


@dataclass(frozen=True, slots=True)
class Record:
    """What is noted of one model's kernels. `failed`: a line for each that is not compiled."""

    starts: int = 0
    failed: Sequence[str] = _UNFINISHED

    @classmethod
    def read(cls, file: Path) -> Record:
        """As noted; where nothing is, it was never started."""
        with suppress(OSError, ValueError, TypeError):
            return cls(**json.loads(file.read_text()))
        return cls()

    def write(self, file: Path) -> None:
        """Note it, whole."""
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f"{file.name}.{os.getpid()}.tmp")
        part.write_text(json.dumps(asdict(self)))
        part.replace(file)


def compile_kernels(shapes: dict[str, Any], device: str, capability: int) -> bool:
    """Begin, unless they are in the cache or failed too often; whether it was begun. Never raises.

    `shapes`: as `kernel_shapes` makes them. `capability`: of the GPU, 90 for 9.0.
    """
    with suppress(Exception):
        prepare_compilers()
        named = "cuda" if device == "auto" else device
        text = json.dumps(shapes | {"device": named}, sort_keys=True)
        file = Path(os.environ["TRITON_CACHE_DIR"]) / f"batchgen-{_digest(text, capability)}.json"
        record = Record.read(file)
        if not record.failed or record.starts >= _MOST_STARTS:
            if record.failed:
                _log.info("not compiled ahead, see %s: %s", file, "; ".join(record.failed))
            return False
        Record(record.starts + 1).write(file)
        _left[:] = [process for process in _left if process.poll() is None]
        path = os.pathsep.join(entry for entry in sys.path if entry)  # with -P: nothing from here
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", _MODULE, text, str(file)],
            env=dict(os.environ) | {"PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        _processes.append(process)
        outlived_by(process)
        return True
    return False


def wait_for_kernels() -> None:
    """Until the process has compiled what every run needs, or has ended. One that hangs is left
    behind."""
    while _processes:
        process = _processes.pop()
        _left.append(process)
        assert process.stdout is not None
        with process.stdout, span("kernels"), DefaultSelector() as selector:
            selector.register(process.stdout, EVENT_READ)
            selector.select(_MOST_SECONDS)


def _digest(shapes: str, capability: int) -> str:
    """Of all that the compiled code depends on."""
    digest = hashlib.sha256(f"{shapes} {capability}".encode())
    for package in ("torch", "triton"):
        digest.update(version(package).encode())
    for room in ("attention", "sampling"):
        for source in sorted((_SOURCES / room / "triton").glob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()[:24]
