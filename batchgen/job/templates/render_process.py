"""Templates rendered in a process of their own, which may die of them; the job goes on."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import IO, Any, Protocol

from batchgen.errors import BatchgenError, ErrorCode, ModelRefusedError, RowError
from batchgen.job.templates.render_worker import FAILED, HEADER, PASSED_LIMIT, READY

__all__ = ["RenderProcess"]

_CODE = "import pickle, sys; sys.path[:] = pickle.load(sys.stdin.buffer); " \
        "from batchgen.job.templates.render_worker import main; main()"  # fmt: skip
_POLITE = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
_SECONDS = 3.0
_TRIES = 2
_MANY = 8
"""Chats that pass a limit one after the other: then it is the template that cannot be used."""
_END_S = 1.0


class Template(Protocol):
    """What can be rendered: picklable, and named in messages."""

    noun: str
    unit: str
    """What one rendering is of: `chat`, `row`."""
    flag: str

    def render(self, *given: Any) -> str:
        """The text. Raises RowError."""


class _DiedError(Exception):
    """The process is gone."""


class RenderProcess:
    """One template's process: begun with the first chat, begun again where a chat ended it.

    `seconds`: of processor time that one chat may take.
    """

    def __init__(self, template: Template, seconds: float = _SECONDS) -> None:
        self._template = template
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._num_passed = 0

    def render(self, chats: Sequence[tuple[Any, ...]]) -> list[str | RowError]:
        """Each chat's (or row's) text, or what is wrong with it. A chat is what `render` takes.

        Raises ModelRefusedError where chat after chat passes the limits of memory or time, and
        BatchgenError where no process can be started.
        """
        answers: list[str | RowError] = []
        deaths = 0
        while len(answers) < len(chats):
            before = len(answers)
            try:
                for answer in self._answers(chats[before:]):
                    answers.append(answer)
            except _DiedError:
                deaths = 1 if len(answers) > before else deaths + 1
                code = self.close()
                if code == -signal.SIGVTALRM or deaths == _TRIES:
                    answers.append(self._passed(_last_words(code)))
                    deaths = 0
        return answers

    def close(self) -> int:
        """End the process; its exit code."""
        process, self._process = self._process, None
        if process is None:
            return 0
        for stream in (process.stdin, process.stdout):
            with suppress(OSError):
                _opened(stream).close()
        with suppress(subprocess.TimeoutExpired):
            return process.wait(_END_S)
        process.kill()
        return process.wait()

    def _answers(self, chats: Sequence[tuple[Any, ...]]) -> Iterator[str | RowError]:
        process = self._process or self._begin()
        with _died_if_broken():
            _send(process, list(chats))
        for _ in chats:
            kind, size = HEADER.unpack(_read(process, HEADER.size))
            text = _read(process, size).decode("utf-8", "surrogatepass")
            if kind == PASSED_LIMIT:
                yield self._passed(text)
                continue
            self._num_passed = 0
            yield RowError(ErrorCode.TEMPLATE_ERROR, text) if kind == FAILED else text

    def _passed(self, what: str) -> RowError:
        self._num_passed += 1
        noun, unit = self._template.noun, self._template.unit
        if self._num_passed >= _MANY:
            many = f"{_MANY} {unit}s one after the other"
            raise ModelRefusedError(
                f"the {noun} cannot be used: {many} passed its limits; the last one {what}",
                f"give another one with {self._template.flag}",
            )
        return RowError(ErrorCode.TEMPLATE_ERROR, f"{noun}: this {unit} {what}")

    def _begin(self) -> subprocess.Popen[bytes]:
        """Start the process. Polite signals, which often go to all of a job's processes, are not
        for it: it ends when this one does."""
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, _POLITE)
        try:
            self._process = process = subprocess.Popen(
                [sys.executable, "-P", "-c", _CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=dict(os.environ),  # a copy: other threads import what changes the environment
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            with _died_if_broken():
                _send(process, sys.path)
                _send(process, (self._template, self._seconds))
            _read(process, len(READY))
        except _DiedError:
            raise BatchgenError(
                f"the process that renders chat templates cannot be started: {sys.executable} "
                f"ended at once ({self.close()})",
                "run the same command again; free memory or processes if it says the same",
            ) from None
        return process


def _send(process: subprocess.Popen[bytes], what: object) -> None:
    stdin = _opened(process.stdin)
    pickle.dump(what, stdin)
    stdin.flush()


def _read(process: subprocess.Popen[bytes], size: int) -> bytes:
    data = _opened(process.stdout).read(size)
    if len(data) < size:
        raise _DiedError
    return data


@contextmanager
def _died_if_broken() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise _DiedError from None


def _opened(stream: IO[bytes] | None) -> IO[bytes]:
    assert stream is not None, "made with pipes"
    return stream


def _last_words(code: int) -> str:
    if code == -signal.SIGVTALRM:
        return "took too much processor time"
    return f"ended the process that renders chat templates ({code})"
