"""The process that compiles a model's GPU kernels while the command imports and loads.

It is started where Triton's cache does not say that they are compiled, and waited for before the
first kernel is needed: two that compile the same would take longer.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from batchgen.startup.folders import use_persistent_caches
from batchgen.startup.timeline import span

__all__ = ["compile_kernels", "wait_for_kernels"]

_MODULE = "batchgen.engine.triton_ahead"
_SOURCES = Path(__file__).parents[1] / "engine"
_MOST_SECONDS = 60.0

_processes: list[subprocess.Popen[bytes]] = []


def compile_kernels(shapes: dict[str, Any], device: str, capability: int) -> bool:
    """Begin, unless they are in the cache; whether it was begun. Never raises.

    `shapes`: as `kernel_shapes` makes them. `capability`: of the GPU, 90 for 9.0.
    """
    with suppress(Exception):
        use_persistent_caches()
        named = "cuda" if device == "auto" else device
        text = json.dumps(shapes | {"device": named}, sort_keys=True)
        done = Path(os.environ["TRITON_CACHE_DIR"]) / f"batchgen-{_digest(text, capability)}"
        if done.exists():
            return False
        path = os.pathsep.join(entry for entry in sys.path if entry)  # with -P: nothing from here
        _processes.append(
            subprocess.Popen(
                [sys.executable, "-P", "-m", _MODULE, text, str(done)],
                env=dict(os.environ) | {"PYTHONPATH": path},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
        return True
    return False


def wait_for_kernels() -> None:
    """Until the process has ended. One that hangs is left behind."""
    for process in _processes:
        with span("kernels"), suppress(subprocess.TimeoutExpired):
            process.wait(_MOST_SECONDS)
    _processes.clear()


def _digest(shapes: str, capability: int) -> str:
    """Of all that the compiled code depends on."""
    digest = hashlib.sha256(f"{shapes} {capability}".encode())
    for package in ("torch", "triton"):
        digest.update(version(package).encode())
    for source in (*sorted(_SOURCES.glob("attention/triton_*.py")), _SOURCES / "cuda_ops.py"):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:24]
