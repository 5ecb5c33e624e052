"""What is known of a run at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from batchgen.job.eta.lengths import Lengths
from batchgen.job.eta.order import ReadingOrder

__all__ = ["BegunRow", "Progress", "ReadRows"]


class BegunRow(NamedTuple):
    """A row in the engine: when it began (monotonic seconds), its samples, their `max_tokens`."""

    begun_at: float
    samples: int
    most_tokens: int


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Rows that were read and are not finished: those `begun`, how many samples of which
    `max_tokens` are `waiting`; whether `max_tokens` change along the input; and of prompts of all
    rows so far, those of rows that were ever begun and of all that were read."""

    begun: tuple[BegunRow, ...] = ()
    waiting: Mapping[int, int] = field(default_factory=dict)
    order: ReadingOrder = field(default_factory=ReadingOrder)
    begun_prompt_tokens: int = 0
    read_prompt_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known at one moment, of this run alone; `rows_left` are neither finished nor begun.

    `made_tokens`: generated so far, unfinished rows' included.
    """

    now: float
    rows: int
    rows_left: int
    made_tokens: int
    read: ReadRows
    lengths: Lengths

    @property
    def running(self) -> int:
        """Samples in the engine."""
        return sum(row.samples for row in self.read.begun)
