"""A sequence's constraint as its tokens come: what it allows, and whether it can end in time.

`room`: tokens that the sequence may still get.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchgen.engine.request import Constraint
from batchgen.errors import RowError

__all__ = ["Following"]

_NO_BOUND = 1 << 62


class Following:
    """Begun with the first look at what it allows. `most_tokens`: that its sequence may generate;
    `steers` False: it does not see to its end (no end token may come before that)."""

    __slots__ = ("_begin", "_constraint", "_most_tokens", "_num_taken", "error", "is_whole")

    def __init__(self, begin: Callable[[], Constraint], most_tokens: int, *, steers: bool) -> None:
        self._begin = begin
        self._constraint: Constraint | None = None
        self._most_tokens = most_tokens if steers else _NO_BOUND
        self._num_taken = 0
        self.error: RowError | None = None
        """Why it cannot say what it allows: the row's failure, whatever is found first."""
        self.is_whole = False
        """It allows nothing more: the sequence ends without a token that says so."""

    def fill(self, words: Any) -> bool:
        """As `Constraint.fill`; nothing once it has failed, so that the row gets no token and says
        why."""
        try:
            return self._begun().fill(words)
        except RowError as error:
            self.error = error
            words[:] = 0
            return True

    def steer(self, words: Any) -> None:
        """As `Constraint.steer`."""
        if self.error is None:
            self._begun().steer(words, self._most_tokens - self._num_taken)

    def refuses(self, token: int) -> bool:
        """As `Constraint.refuses`; never the last token that there may be."""
        room = self._most_tokens - self._num_taken - 1
        return room > 0 and self._begun().refuses(token, room)

    def take(self, output: list[int]) -> bool:
        """All tokens so far; whether nothing can follow. Raises RowError."""
        constraint, new = self._begun(), output[self._num_taken :]
        for token in new:
            self._num_taken += 1
            if constraint.advance(token, self._most_tokens - self._num_taken):
                self.is_whole = True
        return self.is_whole

    def was_steered(self, output: list[int]) -> bool:
        """Whether the sequence, which has ended, ended so in order to end in time. `output`: but
        for its end token, if there is one."""
        try:
            self.take(output)
        except RowError:
            return False
        return self._begun().is_steered(self._most_tokens - self._num_taken)

    def _begun(self) -> Constraint:
        if self._constraint is None:
            self._constraint = self._begin()
        return self._constraint
