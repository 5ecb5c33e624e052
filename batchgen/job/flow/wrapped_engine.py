"""Engines over another engine: a wrapper changes some calls, and passes the others on."""

from __future__ import annotations

from collections.abc import Callable

from batchgen.engine.request import Completion, Engine, Request
from batchgen.engine.stats import EngineStats

__all__ = ["LentEngine", "WrappedEngine", "innermost"]


class WrappedEngine:
    """`request.Engine` that passes every call on to another engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def on_admission(self) -> Callable[[list[int]], None] | None:
        """The inner engine's."""
        return self._engine.on_admission

    @on_admission.setter
    def on_admission(self, call: Callable[[list[int]], None] | None) -> None:
        self._engine.on_admission = call

    @property
    def max_model_len(self) -> int:
        """The inner engine's."""
        return self._engine.max_model_len

    @property
    def max_num_seqs(self) -> int:
        """The inner engine's."""
        return self._engine.max_num_seqs

    @property
    def num_unfinished(self) -> int:
        """The inner engine's."""
        return self._engine.num_unfinished

    def add(self, request: Request) -> None:
        """Queue a request in the inner engine; raises what that raises."""
        self._engine.add(request)

    def step(self) -> list[Completion]:
        """One step of the inner engine."""
        return self._engine.step()

    def abort(self, request_id: int) -> None:
        """Forget a request."""
        self._engine.abort(request_id)

    def unfinished_outputs(self) -> dict[int, list[int]]:
        """The inner engine's."""
        return self._engine.unfinished_outputs()

    def stats(self) -> EngineStats:
        """The inner engine's."""
        return self._engine.stats()

    def close(self) -> None:
        """Close the inner engine."""
        self._engine.close()


class LentEngine(WrappedEngine):
    """An engine that outlives the one user it is lent to: closing it only aborts what that user
    left unfinished."""

    def close(self) -> None:
        """Abort what is unfinished; the inner engine stays open."""
        for request_id in self._engine.unfinished_outputs():
            self._engine.abort(request_id)
        self._engine.on_admission = None


def innermost(engine: Engine) -> Engine:
    """The engine inside all wrappers."""
    while isinstance(engine, WrappedEngine):
        engine = engine._engine
    return engine
