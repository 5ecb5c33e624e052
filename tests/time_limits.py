"""Hooks by which no test waits for ever, nor a process of tests at its end.

A part of a test (its fixtures, itself, their end) that takes too long fails where it stands. What
Python cannot interrupt there, native code, ends the process a minute later with the stacks of its
threads on stderr: pytest-xdist reports the test by name and starts another process.
"""

from __future__ import annotations

import faulthandler
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType

import pytest

__all__ = [
    "pytest_configure",
    "pytest_runtest_call",
    "pytest_runtest_setup",
    "pytest_runtest_teardown",
    "pytest_unconfigure",
]

MOST_SECONDS = 240
"""A single wait is bounded by 120 s: this is for several, on a machine that others use."""
ON_GPU_SECONDS = 1200
"""Kernels are compiled there."""
_MERCY_S = 60
_LEAVING_S = 60
_AGAIN_S = 5
_stderr = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep the stderr that the tests' own is taken from."""
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is None:
        config.stash[_stderr] = os.dup(2)
        return
    with capture.global_and_fixture_disabled():
        config.stash[_stderr] = os.dup(2)


def pytest_unconfigure(config: pytest.Config) -> None:
    """A thread that never ends must not keep the process: first with Python's stacks, then by the
    system itself, which also ends what native code does at its exit."""
    faulthandler.dump_traceback_later(_LEAVING_S, exit=True, file=config.stash[_stderr])
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(2 * _LEAVING_S)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, object, object]:
    """Bounded."""
    with _bounded(item):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Bounded."""
    with _bounded(item):
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Bounded."""
    with _bounded(item):
        return (yield)


@contextmanager
def _bounded(item: pytest.Item) -> Iterator[None]:
    """Fails the test from within; again and again, where what it does catches everything."""
    seconds = ON_GPU_SECONDS if item.get_closest_marker("cuda") else MOST_SECONDS

    def ring(_: int, frame: FrameType | None) -> None:
        pytest.fail(f"it took longer than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN_S)
    faulthandler.dump_traceback_later(
        seconds + _MERCY_S, exit=True, file=item.config.stash[_stderr]
    )
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        faulthandler.cancel_dump_traceback_later()
