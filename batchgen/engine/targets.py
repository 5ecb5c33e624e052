"""Which tokens of a request are to be scored: their log-probability, without sampling them."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

__all__ = ["Targets"]


@dataclass(frozen=True, slots=True)
class Targets:
    """Tokens whose log-probability is asked for, after each position of the prompt from `first` on.

    After position `first + i` these are `token_ids[ends[i - 1] : ends[i]]` (from 0 where i is 0).
    """

    first: int
    token_ids: array[int]
    ends: array[int]
    top: int = 0
    """Most likely ones to report at each position, beside them."""

    @property
    def last(self) -> int:
        """One past the last position."""
        return self.first + len(self.ends)

    def within(self, begin: int, end: int) -> slice:
        """Where in `token_ids` those of positions `begin` to `end` stand."""
        i, j = begin - self.first, end - self.first
        return slice(self.ends[i - 1] if i else 0, self.ends[j - 1] if j else 0)
