"""Polite stops: the first signal, or a deadline, sets a flag; the second signal ends at once.

A signal often comes twice at once: to the whole process group, and handed on by the shell, srun or
`timeout` above. The same one again within a moment is one request; of SIGINT, which may be a
person's, within a moment that no person presses two keys in.
The handler does no I/O and takes no lock; whoever works looks at the flag. Only where there is
nothing to save yet it raises. Standard library only, so that handlers stand before anything heavy
is imported.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from batchgen.errors import StoppedError
from batchgen.job.stopping.deadline import Deadline

__all__ = ["POLITE_SIGNALS", "STAGE_THREADS", "Stop", "install", "wait_to_be_killed"]

STAGE_THREADS = ("batchgen-reader", "batchgen-engine", "batchgen-writer")
"""Names of the threads that a run works in; one may be stuck when a stop leaves without it."""

_NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")
POLITE_SIGNALS = tuple(signal.Signals[name] for name in _NAMES if hasattr(signal, name))
_SAME_S, _SAME_KEY_S = 0.25, 0.1


class Stop:
    """Whether the job has to stop, and why: a signal came, or its time is nearly over."""

    def __init__(self) -> None:
        self.signum: int | None = None
        self.deadline: Deadline | None = None
        self.created = time.monotonic()
        self._came = 0.0
        self._begun_what = ""

    @property
    def requested(self) -> bool:
        """True once a signal came, or the moment to leave."""
        return self.signum is not None or self._time_is_over

    @property
    def reason(self) -> str:
        """The signal's name, or the deadline's, for messages."""
        if self.signum is not None:
            return signal.Signals(self.signum).name
        return "no signal" if self.deadline is None else self.deadline.name

    def check(self, what: str) -> None:
        """Raise StoppedError, saying that it came while `what`, if a stop is requested."""
        if self.requested:
            raise StoppedError(
                f"stopped by {self.reason} while {what}", "run the same command again to continue"
            )

    @contextmanager
    def at_once(self, what: str) -> Iterator[None]:
        """While there is nothing to save: the first signal raises StoppedError wherever it finds
        the main thread, in an import or in a slow read."""
        self._begun_what = what
        try:
            self.check(what)
            yield
        finally:
            self._begun_what = ""
        self.check(what)  # code in between may have kept the error to itself

    def grace(self, wanted: float) -> float:
        """Seconds for saving and leaving from now on: `wanted`, or less before a deadline."""
        if self.deadline is None:
            return wanted
        return max(0.0, min(wanted, 0.75 * (self.deadline.at - time.monotonic())))

    @property
    def _time_is_over(self) -> bool:
        return self.deadline is not None and time.monotonic() >= self.deadline.leave_at

    def handle(self, signum: int, _: FrameType | None) -> None:
        """First call: set the flag. Second: leave; what is durable stays durable."""
        now = time.monotonic()
        if self.signum is None:
            self.signum, self._came = signum, now
            if self._begun_what:
                self.check(self._begun_what)
            return
        same_s = _SAME_KEY_S if signum == signal.SIGINT else _SAME_S
        if signum != self.signum or now - self._came > same_s:
            os._exit(128 + signum)


def install() -> Stop:
    """Let the five signals set one flag; SIGHUP stays ignored where `nohup` ignored it.

    Outside the main thread (a notebook's worker) Python allows no handlers: the flag stays unset.
    """
    stop = Stop()
    if threading.current_thread() is threading.main_thread():
        for signum in POLITE_SIGNALS:
            if not (signum == signal.SIGHUP and signal.getsignal(signum) == signal.SIG_IGN):
                signal.signal(signum, stop.handle)
    return stop


def wait_to_be_killed() -> None:
    """Sleep for good: the next signal ends the process (`--on-signal wait`)."""
    while True:
        time.sleep(3600)
