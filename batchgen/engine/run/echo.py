"""An engine that answers at once with the prompt's own tokens: for testing jobs without a model.

Standard library only, and little work a request: it must never be the slow half.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from batchgen.engine.request import Completion, FinishReason, Request, Timings
from batchgen.engine.stats import EngineStats
from batchgen.engine.targets import Targets

__all__ = ["EchoEngine"]


class EchoEngine:
    """`request.Engine`; every step answers all that waits."""

    def __init__(self, max_num_seqs: int = 4096, max_model_len: int = 1 << 20) -> None:
        self.max_num_seqs = max_num_seqs
        """What a caller should keep queued."""
        self.max_model_len = max_model_len
        """A length that no test passes."""
        self._waiting: dict[int, tuple[Request, float]] = {}
        self._stats = EngineStats()
        self.on_admission: Callable[[list[int]], None] | None = None

    @property
    def num_unfinished(self) -> int:
        """Requests that wait for the next step."""
        return len(self._waiting)

    def add(self, request: Request) -> None:
        """Queue a request. Raises RowError(PROMPT_TOO_LONG)."""
        request.check_length(self.max_model_len)
        self._waiting[request.request_id] = (request, time.monotonic())

    def step(self) -> list[Completion]:
        """Answer everything that waits."""
        waiting, self._waiting = self._waiting, {}
        if waiting and self.on_admission is not None:
            self.on_admission(list(waiting))
        now = time.monotonic()
        completions = [_echo(request, enqueued, now) for request, enqueued in waiting.values()]
        self._count(waiting, completions)
        return completions

    def abort(self, request_id: int) -> None:
        """Forget a request."""
        self._waiting.pop(request_id, None)

    def unfinished_outputs(self) -> dict[int, list[int]]:
        """Nothing is generated before the step that finishes it."""
        return {i: list(request.output_token_ids) for i, (request, _) in self._waiting.items()}

    def stats(self) -> EngineStats:
        """Counters so far; the same object each time."""
        self._stats.num_waiting = len(self._waiting)
        return self._stats

    def close(self) -> None:
        """Forget everything."""
        self._waiting.clear()

    def _count(
        self, waiting: dict[int, tuple[Request, float]], completions: list[Completion]
    ) -> None:
        stats = self._stats
        stats.num_steps += 1
        stats.prompt_tokens += sum(len(r.prompt_token_ids) for r, _ in waiting.values())
        stats.output_tokens += sum(len(c.token_ids) for c in completions)


def _echo(request: Request, enqueued: float, now: float) -> Completion:
    params, prompt, targets = request.params, request.prompt_token_ids, request.targets
    cut = params.max_tokens > 0 and len(prompt) > params.max_tokens
    tokens = list(prompt[: params.max_tokens])  # none for a request that is scored alone
    return Completion(
        request.request_id,
        tokens,
        FinishReason.LENGTH if cut else FinishReason.STOP,
        logprobs=None if params.logprobs is None else [0.0] * len(tokens),
        top_logprobs=[[(token, 0.0)] for token in tokens] if params.top_logprobs else None,
        target_logprobs=None if targets is None else [0.0] * len(targets.token_ids),
        target_tops=_tops(targets) if targets is not None and targets.top else None,
        timings=Timings(enqueued, now, now, now),
    )


def _tops(targets: Targets) -> list[list[tuple[int, float]]]:
    places = range(targets.first, targets.last)
    return [[(t, 0.0) for t in targets.token_ids[targets.within(i, i + 1)][:1]] for i in places]
