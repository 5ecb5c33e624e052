"""Rows that are done in the engine, on their way to the writer's thread: some at a time, because
each time wakes that thread.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from batchgen.engine.request import Completion
from batchgen.job.flow.channel import Channel
from batchgen.job.text.prepared import FailedRow, PreparedRow

__all__ = ["FinishedRow", "Outbox", "Outcome"]

_MOST_ROWS = 256
_MOST_S = 0.1


@dataclass(slots=True)
class FinishedRow:
    """A row all of whose samples are complete, in order of sample."""

    prepared: PreparedRow
    completions: list[Completion]


Outcome = FinishedRow | FailedRow


class Outbox:
    """Of the engine's thread alone."""

    def __init__(self, finished: Channel[list[Outcome]]) -> None:
        self._finished = finished
        self._held: list[Outcome] = []
        self._next_time = 0.0
        self.last: int | None = None
        """Index of the row that was handed over last."""

    def add(self, *outcomes: Outcome) -> None:
        """Hold them until the next time."""
        self._held += outcomes

    def hand_over(self) -> None:
        """Now; waits while the writer has much to do."""
        if self._held:
            self.last = _index(self._held[-1])
            self._finished.put(self._held)
            self._held = []

    def hand_over_some(self) -> None:
        """If many are held, or the last time was long ago."""
        now = time.monotonic()
        if len(self._held) >= _MOST_ROWS or now >= self._next_time:
            self.hand_over()
            self._next_time = now + _MOST_S


def _index(outcome: Outcome) -> int:
    return (outcome if isinstance(outcome, FailedRow) else outcome.prepared).row.index
