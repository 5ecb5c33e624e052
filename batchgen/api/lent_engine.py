"""An engine that outlives whoever drives it: closing it only takes back what is unfinished."""

from __future__ import annotations

from collections.abc import Callable

from batchgen.engine.request import Completion, Engine, EngineStats, Request

__all__ = ["LentEngine"]


class LentEngine:
    """`request.Engine` over another one, for the time of one call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._unfinished: set[int] = set()

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
        """Requests of this call."""
        return len(self._unfinished)

    def add(self, request: Request) -> None:
        """Queue a request, as the inner engine does."""
        self._engine.add(request)
        self._unfinished.add(request.request_id)

    def step(self) -> list[Completion]:
        """One step of the inner engine."""
        finished = self._engine.step()
        self._unfinished.difference_update(done.request_id for done in finished)
        return finished

    def abort(self, request_id: int) -> None:
        """Forget a request."""
        self._unfinished.discard(request_id)
        self._engine.abort(request_id)

    def unfinished_outputs(self) -> dict[int, list[int]]:
        """Nobody goes on from them."""
        return {}

    def stats(self) -> EngineStats:
        """The inner engine's."""
        return self._engine.stats()

    def close(self) -> None:
        """Take back what is unfinished; the inner engine stays."""
        for request_id in list(self._unfinished):
            self.abort(request_id)
        self._engine.on_admission = None
