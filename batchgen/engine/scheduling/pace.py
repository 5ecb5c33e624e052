"""How fast prompts are computed where all rows that wait could run at once.

Such a job ends as many steps after its last row's beginning as that row has tokens to generate, and
every step has a fixed cost: reading the weights, launches. So rows had better begin early: each at
the latest so long before the job's end that it is done by then. The end is given by the longest
row; where all are as long, all would begin at once. What speaks against it is the KV cache: rows
that begin together are at their fullest together. Then the pace is the fastest at which the cache
holds them all, one begun after the other: who has to wait for another row's end begins later still.

(Played through with costs that an H200 showed for an 8B model in float8: 700 rows of 1,000 tokens
in and out take 12% less, 1,024 rows 5%, 1,024 rows of 128 in and out 16%; rows of unlike lengths
the same time as before.)
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import sqrt

from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.sequence_limit import STEPS_BETWEEN_LOOKS, SequenceLimit

__all__ = ["Pace"]

_HALVINGS = 6
"""Of the range in which the pace is searched for, in octaves: of one to 64, a fifteenth is left."""


class Pace:
    """Looks at all rows now and then: sorting them takes a few milliseconds on the host."""

    def __init__(self, limit: SequenceLimit) -> None:
        self._limit = limit
        self._age = STEPS_BETWEEN_LOOKS
        self._tokens = 0.0

    def current(
        self,
        running: Collection[Sequence],
        waiting: Collection[tuple[int, int]],
        *,
        uncached: float,
        output_share: float,
        slowest: float,
        fastest: float,
    ) -> float:
        """Tokens of prompts that a step should have, `fastest` at most; 0 where it does not pay to
        have more than `slowest`, which it has anyway.

        waiting: tokens to compute, and tokens that may be generated, of each row; uncached: the
        share of the former that the prefix cache does not have; output_share: the share of the
        latter that rows generate.
        """
        if not waiting or len(running) + len(waiting) > self._limit.most:
            self._age = STEPS_BETWEEN_LOOKS
            return 0.0
        self._age += 1
        if self._age >= STEPS_BETWEEN_LOOKS:
            self._age = 0
            rows = sorted(
                ((outputs, tokens * uncached) for tokens, outputs in waiting), reverse=True
            )
            self._tokens = self._look(running, rows, output_share, slowest, fastest)
        return self._tokens

    def _look(
        self,
        running: Collection[Sequence],
        waiting: list[tuple[int, float]],  # (outputs, tokens to compute), long outputs first
        output_share: float,
        slowest: float,
        fastest: float,
    ) -> float:
        now = [(s.num_remaining, float(s.num_tokens - s.num_shared_tokens)) for s in running]
        longest = max(remaining for remaining, _ in now + waiting)
        wanted, computed = 0.0, 0.0
        for outputs, tokens in waiting:
            computed += tokens
            spare = (longest - outputs) * output_share  # steps that it may begin late
            wanted = max(wanted, computed / max(1.0, spare))

        def holds(pace: float) -> bool:
            return self._limit.holds([*now, *_begun(waiting, pace, output_share)], output_share)

        fastest = min(wanted, fastest)
        if fastest <= slowest:
            return 0.0
        if holds(fastest):
            return fastest
        if not holds(slowest):
            return 0.0
        for _ in range(_HALVINGS):
            middle = sqrt(slowest * fastest)
            slowest, fastest = (middle, fastest) if holds(middle) else (slowest, middle)
        return slowest


def _begun(
    waiting: Iterable[tuple[int, float]], pace: float, output_share: float
) -> Iterable[tuple[float, float]]:
    """Rows (limit of tokens to come, tokens now) as if they ran already: one that begins n steps
    from now is as one that has n tokens less, and n more to come."""
    computed = 0.0
    for outputs, tokens in waiting:
        computed += tokens
        steps = computed / pace
        yield outputs + steps / output_share, tokens - steps
