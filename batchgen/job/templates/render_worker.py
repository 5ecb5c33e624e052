"""What runs in the process that renders templates (`render_process`).

A template is a program that came with a model. The sandbox keeps it from files and secrets, not
from taking all memory (`{{ 'x' * 10**10 }}`) or all time (loops in loops): the limits set here do.
A chat that passes them is an error row. Nothing heavy is imported.

In: pickles, first the template and the seconds of processor time that a chat or a row may take
(twice that in a call into C, which nothing can interrupt), then lists of chats. Out: an answer for
each chat.
"""

from __future__ import annotations

import pickle
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from struct import Struct
from types import FrameType
from typing import Any, BinaryIO, NoReturn

from batchgen.errors import RowError

__all__ = ["FAILED", "HEADER", "MEMORY_BYTES", "PASSED_LIMIT", "READY", "main"]

HEADER = Struct("<BQ")
"""Of an answer: its kind, and how many bytes of UTF-8 follow."""
_RENDERED, FAILED, PASSED_LIMIT = range(3)
READY = b"\n"

MEMORY_BYTES = 1 << 30
_MOST_CHARACTERS = 64 << 20


class _OutOfTime(BaseException):
    """Not an Exception: nothing in a template may catch it."""


def main() -> None:
    """Answer until nobody asks any more."""
    asked, answers = sys.stdin.buffer, sys.stdout.buffer
    template, seconds = pickle.load(asked)
    with suppress(ValueError, OSError):  # a lower limit stands already, or the system knows none
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    signal.signal(signal.SIGPROF, _out_of_time)
    signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    answers.write(READY)
    answers.flush()
    with suppress(EOFError, BrokenPipeError):
        while True:
            for chat in pickle.load(asked):
                _answer(answers, *_rendered(template, chat, seconds))


def _answer(answers: BinaryIO, kind: int, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    answers.write(HEADER.pack(kind, len(data)))
    answers.write(data)
    answers.flush()


def _rendered(template: Any, chat: tuple[Any, ...], seconds: float) -> tuple[int, str]:
    try:
        with _limited_time(seconds):
            text: str = template.render(*chat)
    except RowError as error:
        if isinstance(error.__cause__, MemoryError):
            return PASSED_LIMIT, f"needs more than {MEMORY_BYTES >> 30} GiB of memory"
        return FAILED, error.message
    except _OutOfTime:
        return PASSED_LIMIT, f"is not done after {seconds:g} s"
    if len(text) > _MOST_CHARACTERS:
        return PASSED_LIMIT, f"wrote {len(text):,} characters; {_MOST_CHARACTERS:,} are allowed"
    return _RENDERED, text


@contextmanager
def _limited_time(seconds: float) -> Iterator[None]:
    signal.setitimer(signal.ITIMER_VIRTUAL, 2 * seconds)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def _out_of_time(signum: int, frame: FrameType | None) -> NoReturn:
    raise _OutOfTime
