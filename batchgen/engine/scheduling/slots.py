"""How many sequences run at once: as many as make the steps that are left cheaper.

A step costs something whatever is in it (launches, reading the weights, the host), so fewer, fuller
steps are cheaper, until one of two things is reached. No job has fewer steps left than its longest
sequence has tokens to come: more slots than (all tokens to come / the longest) only empty the tail.
And once reading the sequences' own keys takes longer than everything else, a further sequence costs
its whole share. Rows that share their beginnings and answer briefly run a thousand at a time; long
ones a few hundred.
"""

from __future__ import annotations

from collections.abc import Iterable

from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["Slots"]

_STEPS = 16
"""Between two looks at all running sequences."""
_UNEVEN = 1.5
"""Rows that begin alike are admitted together, so that some long ones begin late."""


class Slots:
    """`fewest` always pay, there is room for `most`; beyond `fewest` the running sequences together
    have `most_own_tokens` of their own: those that no other one begins with."""

    def __init__(self, fewest: int, most: int, most_own_tokens: int) -> None:
        self._fewest = fewest
        self._most = most
        self._most_own_tokens = most_own_tokens
        self.wanted = fewest
        """How many were found to pay, last."""
        self._own_tokens = 0
        self._age = _STEPS
        self._arrived = True

    def arrive(self) -> None:
        """A sequence waits from now on."""
        self._arrived = True

    def admit(self, num_own_tokens: int) -> None:
        """A sequence runs from now on."""
        self._own_tokens += num_own_tokens

    def skip(self) -> None:
        """A step in which nobody waits."""
        self._age += 1

    def now(self, running: Iterable[Sequence], num_running: int, waiting_outputs: float) -> int:
        """How many may run in the next step. `waiting_outputs`: tokens that waiting ones may get,
        about."""
        self._age += 1
        if self._most <= self._fewest or num_running < self._fewest // 2:
            return self._fewest
        if self._age >= _STEPS:
            self._look(running, waiting_outputs)
        return self.wanted if self._own_tokens < self._most_own_tokens else self._fewest

    def _look(self, running: Iterable[Sequence], waiting_outputs: float) -> None:
        self._age = 0
        longest, outputs, self._own_tokens = 1, 0, 0
        for sequence in running:
            remaining = sequence.num_remaining
            longest = max(longest, remaining)
            outputs += remaining
            self._own_tokens += sequence.num_tokens - sequence.num_shared_tokens
        steps_of_all = int((outputs + waiting_outputs) * _UNEVEN / longest)
        wanted = max(self._fewest, min(self._most, steps_of_all))
        # Who is left when nobody else comes is few, and the sooner the last of them begins the
        # better.
        self.wanted = wanted if self._arrived else max(wanted, self.wanted)
        self._arrived = False
