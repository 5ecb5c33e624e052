"""The way out of a process of ours that has said all it has to. With torch loaded the interpreter's
own takes a second to free 400,000 objects one by one, and some more to let a GPU go."""

from __future__ import annotations

import atexit
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from subprocess import Popen

__all__ = ["end_process", "let_go", "outlived_by"]

_COMPILERS = "torch._inductor.async_compile"


def end_process(code: int) -> NoReturn:
    """End now, with what was registered for the exit done."""
    let_go()
    sys.stderr.flush()
    os._exit(code)


def let_go() -> None:
    """Do what was registered for the exit. torch waits up to a second for its compiling processes:
    they end by themselves as soon as our end of their pipe closes, which it does with us."""
    for pool in getattr(sys.modules.get(_COMPILERS), "_pool_set", ()):
        pool.running = False
    atexit._run_exitfuncs()


def outlived_by(process: Popen[bytes]) -> None:
    """It goes on when this process ends; Python warns of those that do."""
    atexit.register(_forget, process)


def _forget(process: Popen[bytes]) -> None:
    if process.stdout is not None:
        process.stdout.close()
    if process.poll() is None:
        process.returncode = 0
