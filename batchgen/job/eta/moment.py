"""What is known of a run at one moment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from batchgen.job.eta.lengths import Lengths

__all__ = ["BegunRow", "Progress"]


class BegunRow(NamedTuple):
    """A row in the engine: when it began (monotonic seconds), its samples, their `max_tokens`."""

    begun_at: float
    samples: int
    most_tokens: int


@dataclass(frozen=True, slots=True)
class Progress:
    """What is known at one moment, of this run alone; `rows_left` are neither finished nor begun.

    `made_tokens`: generated so far, unfinished rows' included.
    """

    now: float
    rows: int
    rows_left: int
    made_tokens: int
    begun: tuple[BegunRow, ...]
    lengths: Lengths

    @property
    def running(self) -> int:
        """Samples in the engine."""
        return sum(row.samples for row in self.begun)
