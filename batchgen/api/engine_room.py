"""The thread that an engine lives in: it is loaded there, works there call after call, and ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from batchgen.engine.request import Engine
from batchgen.errors import UsageError

__all__ = ["EngineRoom", "wait_for"]

Value = TypeVar("Value")
_LOOK_EVERY_S = 0.2
_END_S = 30.0
_Work = tuple["Future[Any]", Callable[[], Any]]


class EngineRoom:
    """Runs what it is given, one after the other, on one daemon thread."""

    def __init__(self) -> None:
        self._works: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._engine: Engine | None = None
        self._stop: Callable[[], None] = lambda: None
        self._thread = threading.Thread(
            target=_work, args=(self._works,), name="batchgen-engine", daemon=True
        )
        self._thread.start()

    @property
    def engine(self) -> Engine:
        """To be used on this room's thread. UsageError where it is closed."""
        if self._engine is None:
            raise UsageError("this LLM is closed", "make another one")
        return self._engine

    def load(self, load: Callable[[], Engine]) -> None:
        """Load the engine; raises what loading raises."""
        self._engine = wait_for(self.begin(load))

    def begin(
        self, work: Callable[[], Value], stop: Callable[[], None] = lambda: None
    ) -> Future[Value]:
        """Have it done after what was begun before; `stop` ends it early, for `close`."""
        future: Future[Value] = Future()
        self._stop = stop
        self._works.put((future, work))
        return future

    def close(self) -> None:
        """Stop what is under way and close the engine; waits for a step, not for ever."""
        self._stop()
        engine, self._engine = self._engine, None
        if engine is not None:
            self.begin(engine.close)
        self._works.put(None)
        if self._thread is not threading.current_thread():
            self._thread.join(_END_S)


def wait_for(future: Future[Value]) -> Value:
    """Its result; Ctrl-C gets through meanwhile."""
    while True:
        try:
            return future.result(_LOOK_EVERY_S)
        except TimeoutError:
            if future.done():
                raise


def _work(works: queue.SimpleQueue[_Work | None]) -> None:
    """Knows the queue alone, so that nothing is kept alive by its thread."""
    while (work := works.get()) is not None:
        future, call = work
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        del work, future, call
