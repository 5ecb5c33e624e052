"""An engine that stays loaded from one run to the next of the same process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from batchgen.engine.request import Engine
from batchgen.job.flow.wrapped_engine import WrappedEngine

__all__ = ["KeptEngine", "Lend"]

Load = Callable[[], Engine]
Lend = Callable[[Load, bool], Engine]
"""Gives the engine that `Load` makes, or one made before. True: it is to be in a process apart."""


class KeptEngine:
    """Loads once; `close` frees the device."""

    def __init__(self) -> None:
        self._engine: Engine | None = None

    def lend(self, load: Load, apart: bool) -> Engine:
        """For one run. An engine in a process apart is the run's own and has the device alone."""
        if apart:
            self.close()
            return load()
        if self._engine is None:
            self._engine = load()
        return cast("Engine", _Lent(self._engine))

    def close(self) -> None:
        """Close the engine; the next run loads it again."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None


class _Lent(WrappedEngine):
    """The engine, but that closing it only takes back what is unfinished."""

    def close(self) -> None:
        for request_id in self._engine.unfinished_outputs():
            self._engine.abort(request_id)
        self._engine.on_admission = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
