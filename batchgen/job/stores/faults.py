"""Faults on purpose, for testers: `BATCHGEN_FAULT` breaks a write at a named point. Off by default.

    BATCHGEN_FAULT='kill:at=part.rename,nth=3'      # SIGKILL before the third part is renamed
    BATCHGEN_FAULT='full:at=final.write;kill:at=manifest.renamed'

Kinds: `kill` (SIGKILL), `full` (ENOSPC), `readonly` (EROFS), `tear` (the file loses its second
half, as after a power loss), `flip` (one byte changes), `stall` (sleeps `seconds`). `at` is
WHAT.STEP: WHAT is part, manifest, final, inflight or journal; STEP is write, fsync, rename (just
before it, past the last check of ownership) or renamed (just after), and of final also piece (as
its rows are merged). `nth` (1) counts the passes of that point. Kinds that are not listed here
belong to other parts of batchgen and are ignored: `slow` (`job.flow.slow_engine`), `oom`, `nan`,
`abort`, `refuse` and `broken` (`job.flow.engine_faults`).
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Fault", "FaultHook", "install", "parse", "reach"]

FaultHook = Callable[[str, Any], None]
"""Called with the point's name and the file or object about to be committed, if there is one."""


@dataclass(slots=True)
class Fault:
    """One `kind:key=value,...` of BATCHGEN_FAULT; `left` counts down to the pass that breaks."""

    kind: str
    arguments: dict[str, str]
    left: int = 1


_hook: FaultHook | None = None
_faults: list[Fault] | None = None


def parse(text: str) -> list[Fault]:
    """Faults written as `kind:key=value,key=value;kind:...`."""
    faults = []
    for item in filter(None, text.split(";")):
        kind, _, rest = item.strip().partition(":")
        arguments = _arguments(rest)
        nth = arguments.get("nth", "1")
        faults.append(Fault(kind, arguments, int(nth) if nth.isdigit() else 1))
    return faults


def _arguments(text: str) -> dict[str, str]:
    """`step=5,9,nth=2` -> {"step": "5,9", "nth": "2"}."""
    arguments: dict[str, str] = {}
    name = ""
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if equals:
            name, arguments[key] = key, value
        elif name:
            arguments[name] += f",{item}"
    return arguments


def install(hook: FaultHook | None) -> FaultHook | None:
    """Call `hook` at every point from now on (None: nothing); returns the one before."""
    global _hook
    previous, _hook = _hook, hook
    return previous


def reach(point: str, path: Any = None) -> None:
    """Pass a write boundary: nothing happens unless a tester asked for it."""
    global _faults
    if _hook is not None:
        _hook(point, path)
    if _faults is None:
        _faults = parse(os.environ.get("BATCHGEN_FAULT", ""))
    for fault in _faults:
        if fault.arguments.get("at") == point:
            fault.left -= 1
            if fault.left == 0:
                _strike(fault, path)


def _strike(fault: Fault, path: Any) -> None:
    if fault.kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault.kind == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    elif fault.kind == "readonly":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    elif fault.kind == "stall":
        time.sleep(float(fault.arguments.get("seconds", "1")))
    elif fault.kind == "tear" and path is not None:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif fault.kind == "flip" and path is not None:
        _flip_byte(path)


def _flip_byte(path: Any) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
