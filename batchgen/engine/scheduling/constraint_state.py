"""A constraint (a grammar, a thinking budget) as one sequence's tokens advance it.

It says what the sequence may generate next, and keeps room for the sequence to end as its grammar
asks. `room`: how many tokens the sequence may still generate.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchgen.engine.request import Constraint
from batchgen.errors import RowError

__all__ = ["ConstraintState"]

_NO_BOUND = 1 << 62


class ConstraintState:
    """`begin` makes the constraint, when it is first asked what it allows.

    `most_tokens`: how many tokens the sequence may generate. `steers` False: the constraint is not
    led to its end in time (`min_tokens` forbids an end token before the last position).
    """

    __slots__ = ("_begin", "_constraint", "_most_tokens", "_num_taken", "error", "is_whole")

    def __init__(self, begin: Callable[[], Constraint], most_tokens: int, *, steers: bool) -> None:
        self._begin = begin
        self._constraint: Constraint | None = None
        self._most_tokens = most_tokens if steers else _NO_BOUND
        self._num_taken = 0
        self.error: RowError | None = None
        """Why the constraint cannot say what it allows; it becomes the row's error."""
        self.is_whole = False
        """Nothing may follow any more: the sequence ends here, without an end token."""

    def fill(self, mask: Any) -> bool:
        """As `Constraint.fill`. If the constraint fails, no token is allowed, so that the sampler
        fails the row; `error` says why."""
        try:
            return self._begun().fill(mask)
        except RowError as error:
            self.error = error
            mask[:] = 0
            return True

    def steer(self, mask: Any) -> None:
        """As `Constraint.steer`."""
        if self.error is None:
            self._begun().steer(mask, self._most_tokens - self._num_taken)

    def refuses(self, token: int) -> bool:
        """As `Constraint.refuses`; False for the last token that the sequence may generate."""
        room = self._most_tokens - self._num_taken - 1
        return room > 0 and self._begun().refuses(token, room)

    def take(self, output: list[int]) -> bool:
        """Advance by the tokens of `output` that are new; whether nothing may follow. Raises
        RowError."""
        constraint, new = self._begun(), output[self._num_taken :]
        for token in new:
            self._num_taken += 1
            if constraint.advance(token, self._most_tokens - self._num_taken):
                self.is_whole = True
        return self.is_whole

    def was_steered(self, output: list[int]) -> bool:
        """Whether a finished sequence was led to its end because few tokens were left. `output`:
        without its end token, if it has one."""
        try:
            self.take(output)
        except RowError:
            return False
        return self._begun().is_steered(self._most_tokens - self._num_taken)

    def _begun(self) -> Constraint:
        if self._constraint is None:
            self._constraint = self._begin()
        return self._constraint
