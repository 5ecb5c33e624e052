"""What every process that batchgen starts does first, and how it says what failed."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import signal
import sys
import threading
import warnings
from collections.abc import Callable

__all__ = ["leave_signals_to_parent", "listen", "portable", "speak_as"]

_PARENTS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")


def leave_signals_to_parent() -> None:
    """Those of the terminal and the scheduler reach a whole group of processes."""
    for name in _PARENTS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)


def speak_as(name: str, log_level: int) -> None:
    """Log lines tell which process they are of."""
    logging.basicConfig(format=f"batchgen: {name}: %(message)s", level=logging.ERROR)
    logging.getLogger("batchgen").setLevel(log_level)
    if log_level > logging.INFO and not sys.warnoptions:
        warnings.simplefilter("ignore")  # as in the parent: all are of dependencies


def listen(receive: Callable[[], object]) -> queue.SimpleQueue[object]:
    """Messages as they come, also while a step runs; a parent that is gone ends the process."""
    inbox: queue.SimpleQueue[object] = queue.SimpleQueue()

    def run() -> None:
        try:
            while True:
                inbox.put(receive())
        except (EOFError, OSError):
            os._exit(1)

    threading.Thread(target=run, daemon=True).start()
    return inbox


def portable(error: Exception) -> Exception:
    """As it is where it can be pickled and made again."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
