"""The interpreter's settings while rows stream through several threads."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["tuned_interpreter"]

_THRESHOLDS = (200_000, 10, 100)
_SHORT_TURN_S = 0.0005


@contextmanager
def tuned_interpreter(short_turns: bool) -> Iterator[None]:
    """Collect garbage rarely: rows make hundreds of thousands of objects and no cycles, and with
    Python's thresholds the collector takes a third of the job half's time looking for them.

    `short_turns`: let a thread wait 0.5 ms for the interpreter instead of 5. A model's thread comes
    back from the device every few milliseconds and must not find a tokenizer's loop in its way.
    """
    thresholds, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.set_threshold(*_THRESHOLDS)
    if short_turns:
        sys.setswitchinterval(_SHORT_TURN_S)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        sys.setswitchinterval(interval)
