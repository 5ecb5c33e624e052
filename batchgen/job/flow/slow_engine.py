"""An engine made slow on purpose, for tests that stop or kill a run at a chosen moment.

    BATCHGEN_FAULT='slow:at=engine.step,seconds=0.01,rows=4'

gives the engine at most `rows` requests a step and sleeps `seconds` before each
(`job.stores.faults`);
with `token_seconds=0.2` finished rows look as if each of their tokens had taken that long;
`at=engine.load` sleeps once, before the engine is there.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable

from batchgen.engine.request import Completion, Engine, FinishReason, Request
from batchgen.errors import RowError
from batchgen.job.flow.wrapped_engine import WrappedEngine
from batchgen.job.stores import faults

__all__ = ["SlowEngine", "slowed"]


class SlowEngine(WrappedEngine):
    """Hands requests to another engine little by little."""

    def __init__(
        self, engine: Engine, seconds: float, rows: int, token_seconds: float = 0.0
    ) -> None:
        super().__init__(engine)
        self._token_seconds = token_seconds
        self._seconds = seconds
        self._rows = rows
        self._backlog: deque[Request] = deque()

    @property
    def num_unfinished(self) -> int:
        """Requests here and in the inner engine."""
        return len(self._backlog) + self._engine.num_unfinished

    def add(self, request: Request) -> None:
        """Queue a request; the inner engine gets it, and may refuse it, in a later step."""
        self._backlog.append(request)

    def step(self) -> list[Completion]:
        """Sleep, pass some requests on, run one step of the inner engine."""
        time.sleep(self._seconds)
        refused = []
        for _ in range(min(self._rows, len(self._backlog))):
            request = self._backlog.popleft()
            try:
                self._engine.add(request)
            except RowError as error:
                refused.append(_refusal(request, error))
        finished = self._engine.step() if self._engine.num_unfinished else []
        for completion in finished:
            completion.timings.first_scheduled -= self._token_seconds * len(completion.token_ids)
        return refused + finished

    def abort(self, request_id: int) -> None:
        """Forget a request wherever it is."""
        waiting = len(self._backlog)
        self._backlog = deque(r for r in self._backlog if r.request_id != request_id)
        if len(self._backlog) == waiting:
            self._engine.abort(request_id)

    def unfinished_outputs(self) -> dict[int, list[int]]:
        """The inner engine's; requests still here keep what they came with."""
        begun = {r.request_id: list(r.output_token_ids) for r in self._backlog}
        return begun | self._engine.unfinished_outputs()


def slowed(load: Callable[[], Engine]) -> Engine:
    """The engine that `load` gives, slow where BATCHGEN_FAULT asks for it."""
    wanted = [f for f in faults.parse(os.environ.get("BATCHGEN_FAULT", "")) if f.kind == "slow"]
    if not wanted:
        return load()
    arguments = wanted[0].arguments
    seconds = float(arguments.get("seconds", "0.01"))
    if arguments.get("at") == "engine.load":
        time.sleep(seconds)
        return load()
    token_seconds = float(arguments.get("token_seconds", "0"))
    return SlowEngine(load(), seconds, int(arguments.get("rows", "1")), token_seconds)


def _refusal(request: Request, error: RowError) -> Completion:
    return Completion(
        request_id=request.request_id,
        token_ids=[],
        finish_reason=FinishReason.ERROR,
        error_code=error.code,
        error_message=error.message,
    )
