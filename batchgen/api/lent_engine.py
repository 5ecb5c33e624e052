"""An engine that outlives whoever drives it: closing it only takes back what is unfinished."""

from __future__ import annotations

from batchgen.engine.request import Completion, Engine, Request
from batchgen.job.flow.wrapped_engine import WrappedEngine

__all__ = ["LentEngine"]


class LentEngine(WrappedEngine):
    """`request.Engine` over another one, for the time of one call."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine)
        self._unfinished: set[int] = set()

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

    def close(self) -> None:
        """Take back what is unfinished; the inner engine stays."""
        for request_id in list(self._unfinished):
            self.abort(request_id)
        self._engine.on_admission = None
