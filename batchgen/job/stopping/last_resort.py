"""The last resort: a process ends in time even where saving, or leaving, waits for good.

A disk or a network file system that does not answer holds whoever writes to it, a reader that
stopped reading holds whoever prints. A thread that nobody can hold hears of the signal as soon as
it arrives, also while the main thread is inside native code and Python's handler cannot run, and
ends the process a moment after the grace. That is safe at any time, as SIGKILL is: what is durable
stays, and the same command computes the rest. Standard library only.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time

from batchgen.errors import StoppedError
from batchgen.job.stopping.signals import POLITE_SIGNALS, Stop

__all__ = ["LastResort"]

_SLACK_S = 3.0
_LOOK_EVERY_S = 1.0
_WORDS = (
    b"batchgen: saving or leaving did not end within --grace; the process ends without it\n"
    b"  next: what is in the checkpoint folder is kept; run the same command again\n"
)


class LastResort:
    """From the moment it is made, in the main thread of a process of our own, until `call_off`."""

    def __init__(self, stop: Stop, grace: float) -> None:
        self._stop = stop
        self._grace = grace
        self._leave_at: float | None = None
        self._called_off = False
        self._ear, mouth = os.pipe()
        os.set_blocking(mouth, False)
        signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=_fall_silent)
        threading.Thread(target=self._watch, name="batchgen-last-resort", daemon=True).start()

    def call_off(self) -> None:
        """Whatever comes now may take its time."""
        self._called_off = True

    def _watch(self) -> None:
        while not self._called_off:
            if select.select([self._ear], [], [], _LOOK_EVERY_S)[0]:
                self._hear(os.read(self._ear, 512))
            if self._is_over() and not self._called_off:
                _leave()

    def _hear(self, numbers: bytes) -> None:
        if self._leave_at is None and not set(POLITE_SIGNALS).isdisjoint(numbers):
            self._leave_at = time.monotonic() + self._stop.grace(self._grace) + _SLACK_S

    def _is_over(self) -> bool:
        moments = [] if self._leave_at is None else [self._leave_at]
        if self._stop.deadline is not None:
            moments.append(self._stop.deadline.at + _SLACK_S)
        return bool(moments) and time.monotonic() > min(moments)


def _leave() -> None:
    """The exit, with a word where stderr takes it at once."""
    try:
        if select.select([], [2], [], 0)[1]:
            os.write(2, _WORDS)
    finally:
        os._exit(StoppedError.exit_code)


def _fall_silent() -> None:
    """In a forked child, whose signals are its own."""
    signal.set_wakeup_fd(-1)
