"""Where the time from the command's start to its first token went: named spans of one process.

Spans may lie beside each other in several threads, so they do not add up to the whole.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

__all__ = ["Span", "begin", "mark", "process_age", "seconds_of", "span", "spans", "text"]

FIRST_TOKEN = "first token"


class Span(NamedTuple):
    """Begin and end in seconds since the timeline's zero."""

    name: str
    begin: float
    end: float


_lock = threading.Lock()
_spans: list[Span] = []
_zero = time.monotonic()


def begin(*, own_process: bool = False) -> None:
    """Forget what was noted and count from now; of an own process, from the moment it was made."""
    global _zero
    with _lock:
        _spans.clear()
        _zero = time.monotonic() - ((process_age() or 0.0) if own_process else 0.0)


@contextmanager
def span(name: str) -> Iterator[None]:
    """Note how long the block takes."""
    start = time.monotonic()
    try:
        yield
    finally:
        _add(name, start, time.monotonic())


def mark(name: str) -> bool:
    """Note the first moment of `name`; False where it is known already."""
    now = time.monotonic()
    with _lock:
        if any(known.name == name for known in _spans):
            return False
    _add(name, now, now)
    return True


def spans() -> list[Span]:
    """All of them, by their beginning."""
    with _lock:
        return sorted(_spans, key=lambda known: (known.begin, -known.end))


def seconds_of(name: str) -> float:
    """Together, all spans of that name; of a mark, its moment. 0 where there is none."""
    found = [known for known in spans() if known.name == name]
    if found and all(known.begin == known.end for known in found):
        return found[0].end
    return sum(known.end - known.begin for known in found)


def text() -> str:
    """One line: `imports 0.24-2.31, weights 2.31-2.52, first token 3.02`."""
    return ", ".join(
        f"{known.name} {known.begin:.2f}" + (f"-{known.end:.2f}" if known.end > known.begin else "")
        for known in spans()
    )


def process_age() -> float | None:
    """Seconds since the system made this process, to 10 ms; None where it does not say."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        made = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - made)
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def _add(name: str, start: float, end: float) -> None:
    with _lock:
        _spans.append(Span(name, max(0.0, start - _zero), max(0.0, end - _zero)))
