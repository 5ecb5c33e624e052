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
    """Rows that were read and are not finished: those `begun`, and how many samples of which
    `max_tokens` are `waiting`. `alone`: the share of both that is computed, where others take the
    answer of an equal one. `order`: whether `max_tokens` change along the input.

    Tokens of prompts: of all rows that were ever read, of those that were begun, and of these what
    the engine computed.
    """

    begun: tuple[BegunRow, ...] = ()
    waiting: Mapping[int, int] = field(default_factory=dict)
    order: ReadingOrder = field(default_factory=ReadingOrder)
    prompt_tokens: int = 0
    begun_prompt_tokens: int = 0
    computed_prompt_tokens: int = 0
    alone: float = 1.0


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
    def running(self) -> float:
        """Samples in the engine's steps."""
        return self.read.alone * sum(row.samples for row in self.read.begun)
