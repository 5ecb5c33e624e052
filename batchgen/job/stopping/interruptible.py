"""A long call that a signal must not have to wait for, such as fetching a model from the hub."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from batchgen.job.stopping.signals import STAGE_THREADS, Stop

__all__ = ["interruptible"]

Result = TypeVar("Result")
_LOOK_EVERY_S = 0.1


def interruptible(work: Callable[[], Result], stop: Stop, what: str) -> Result:
    """The result of `work`, done in a thread of its own; what it raises is raised here.

    Raises StoppedError as soon as a stop is requested; the thread is left behind then.
    """
    results: list[Result] = []
    failures: list[BaseException] = []

    def call() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call, name=STAGE_THREADS[0], daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_LOOK_EVERY_S)
        if thread.is_alive():
            stop.check(what)
    if failures:
        raise failures[0]
    return results[0]
