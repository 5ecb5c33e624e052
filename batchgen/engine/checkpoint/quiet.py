"""What other packages print while they load, kept off stderr: of the loading thread alone.

The engine loads in a thread, and redirecting the process's stderr there would swallow what other
threads say meanwhile: the error, it may be, that ends the command.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from typing import Any, TextIO

__all__ = ["quiet_thread", "quietly"]

_installing = threading.Lock()


class _ByThread:
    """A stream that hands each thread's text to where that thread wants it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.words: dict[int, list[StringIO]] = {}

    def write(self, text: str) -> int:
        """Write where this thread's text goes."""
        return self._place().write(text)

    def flush(self) -> None:
        """Flush it."""
        self._place().flush()

    def _place(self) -> TextIO:
        own = self.words.get(threading.get_ident())
        return own[-1] if own else self.stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def _installed() -> _ByThread:
    current: Any = sys.stderr
    stream = current if isinstance(current, _ByThread) else _ByThread(current)
    sys.stderr = stream
    return stream


@contextmanager
def quiet_thread() -> Iterator[StringIO]:
    """Inside, what this thread writes to `sys.stderr` is collected; other threads go on."""
    words, ident = StringIO(), threading.get_ident()
    with _installing:
        stream = _installed()
        stream.words.setdefault(ident, []).append(words)
    try:
        yield words
    finally:
        with _installing:
            stream.words[ident].pop()
            if not stream.words[ident]:
                del stream.words[ident]
            if not stream.words and sys.stderr is stream:
                sys.stderr = stream.stream


@contextmanager
def quietly(said: list[str] | None = None) -> Iterator[None]:
    """Keep other packages' bars and warnings off stderr; `said` collects transformers' words."""
    logger = logging.getLogger("transformers")
    handlers, level = logger.handlers, logger.level
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it warns at every call
    with quiet_thread() as words:
        logger.handlers = [logging.StreamHandler(words)]
        logger.setLevel(logging.WARNING)
        try:
            yield
        finally:
            logger.handlers = handlers
            logger.setLevel(level)
            if said is not None:
                said.append(words.getvalue())
