"""Polite stops: the first signal sets a flag, the second ends the process at once.

The handler does no I/O and takes no lock; whoever works looks at the flag. Standard library only,
so that handlers stand before anything heavy is imported.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType

__all__ = ["STAGE_THREADS", "Stop", "install"]

STAGE_THREADS = ("batchgen-reader", "batchgen-engine", "batchgen-writer")
"""Names of the threads that a run works in; one may be stuck when a stop leaves without it."""

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")
_SIGNALS = tuple(getattr(signal, name) for name in _NAMES if hasattr(signal, name))


class Stop:
    """Whether the job was asked to stop, and by what."""

    def __init__(self) -> None:
        self.signum: int | None = None

    @property
    def requested(self) -> bool:
        """True once a signal came."""
        return self.signum is not None

    @property
    def reason(self) -> str:
        """The signal's name, for messages."""
        return "no signal" if self.signum is None else signal.Signals(self.signum).name

    def handle(self, signum: int, _: FrameType | None) -> None:
        """First call: set the flag. Second: leave; what is durable stays durable."""
        if self.signum is not None:
            os._exit(128 + signum)
        self.signum = signum


def install() -> Stop:
    """Let the five signals set one flag; SIGHUP stays ignored where `nohup` ignored it.

    Outside the main thread (a notebook's worker) Python allows no handlers: the flag stays unset.
    """
    stop = Stop()
    if threading.current_thread() is threading.main_thread():
        for signum in _SIGNALS:
            if not (signum == signal.SIGHUP and signal.getsignal(signum) == signal.SIG_IGN):
                signal.signal(signum, stop.handle)
    return stop
