"""The way out of a process that has said and written all it has to."""

from __future__ import annotations

import logging
import os
import sys
import threading

from batchgen.job.stopping.signals import STAGE_THREADS
from batchgen.startup.quick_exit import let_go
from batchgen.startup.timeline import process_age

__all__ = ["leave_at_once"]

_logger = logging.getLogger(__name__)


def leave_at_once(code: int, *, own_process: bool) -> None:
    """End now if a stage of the job still runs (a model load, a step past its grace): the
    interpreter's own way out would tear native code down under its feet. Our own process always
    goes without it: with torch loaded it takes a second to free 400,000 objects one by one, and a
    thread of Arrow's that comes back to Python meanwhile takes the process with it, exit code -6
    after all was done and said (once in thousands of short commands on a busy machine)."""
    stuck = any(thread.name in STAGE_THREADS for thread in threading.enumerate())
    if stuck or own_process:
        if not stuck:
            let_go()
        _logger.info("leaving %.2f s after the start", process_age() or 0.0)
        sys.stderr.flush()
        os._exit(code)
