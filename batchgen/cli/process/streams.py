"""Standard streams that may be closed, full or without a reader: no work is lost over a message.

A cron job's log disk runs full, a terminal goes away, `2>&1 | head` has seen enough: the run goes
on, silently. Its exit code and its files say the rest.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

__all__ = ["lasting_streams", "silence"]


class _Lasting:
    """A text stream whose writes never fail: after the first that would, nothing is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or fall silent."""
        try:
            return self._stream.write(text)
        except OSError:
            silence(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush, or fall silent."""
        try:
            self._stream.flush()
        except OSError:
            silence(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def silence(stream: TextIO) -> None:
    """Send what is written from here on, and what still waits in the buffer, to nowhere."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextmanager
def lasting_streams() -> Iterator[None]:
    """Inside, stderr takes every message, and a stream that the caller closed is a silent one."""
    before = sys.stdout, sys.stderr
    for descriptor in range(3):
        _occupy(descriptor)
    stdout, stderr = (_opened(stream, number) for number, stream in enumerate(before, 1))
    sys.stdout, sys.stderr = stdout, _Lasting(stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def _occupy(descriptor: int) -> None:
    """Point a closed standard descriptor (`>&-`) at nothing: the next file to be opened would get
    its number, and whatever a library says its text."""
    try:
        os.fstat(descriptor)
    except OSError:
        os.open(os.devnull, os.O_RDWR)  # the lowest free number


def _opened(stream: TextIO | None, descriptor: int) -> TextIO:
    """The stream; Python has None where it found the descriptor closed."""
    return open(descriptor, "w", closefd=False) if stream is None else stream
