"""The token budget of the next step: prompts are spread over the decode steps that are left.

A decode step of a large model takes as long as reading its weights, and a chunk of a prompt in the
same step is computed in that time at no cost, up to a number of tokens (Sarathi, arXiv:2308.16369).
An offline job knows how many prompt tokens are still to be computed and about how many decode steps
are left. The budget is the one divided by the other (BlendServe, arXiv:2411.16102): a smaller one
would leave slots empty, a larger one would leave the last decode steps without a prompt to share
them with. Where prompts are most of the work, the quotient, and so the step, is large. It is larger
still where the last row would begin so late that the job took longer (`pace.py`).

A step is padded to the size of its CUDA graph, and padding is computed like tokens: so the budget
is rounded up to the next such size.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection

from batchgen.engine.scheduling.pace import Pace
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.sequence_limit import SequenceLimit

__all__ = ["TokenBudget"]

_FEW_SEQUENCES = 16
"""With so few to decode, prompts take the whole budget: there is little to share a step with."""


class TokenBudget:
    """`minimum`: tokens of a mixed step that take no longer than its decoding alone; None: every
    step may have as many tokens as the configuration allows. `sizes`: what steps are padded to,
    ascending; empty: they are not. `limit`: how many sequences may run at once.

    Learns from finished sequences which share of `max_tokens` outputs use, and from admitted ones
    which share of prompts the prefix cache has.
    """

    def __init__(
        self, minimum: int | None, limit: SequenceLimit, sizes: tuple[int, ...] = ()
    ) -> None:
        self._minimum = minimum
        self._limit = limit
        self._sizes = sizes
        self._pace = Pace(limit)
        self._waiting: dict[Sequence, tuple[int, int]] = {}
        self._waiting_tokens = 0
        self._waiting_outputs = 0
        self._prompt_tokens, self._cached_tokens = 1, 0  # of admitted sequences
        self._limits, self._outputs = 1, 1  # of finished ones: allowed and generated tokens

    def note_waiting(self, sequence: Sequence) -> None:
        """A sequence begins to wait."""
        tokens, outputs = sequence.num_tokens, sequence.num_remaining
        self._waiting[sequence] = tokens, outputs
        self._waiting_tokens += tokens
        self._waiting_outputs += outputs

    def note_left(self, sequence: Sequence) -> None:
        """It does not wait any more."""
        tokens, outputs = self._waiting.pop(sequence)
        self._waiting_tokens -= tokens
        self._waiting_outputs -= outputs

    def note_admission(self, num_tokens: int, num_cached: int) -> None:
        """A sequence of `num_tokens` was admitted, of which the prefix cache had `num_cached`."""
        self._prompt_tokens += num_tokens
        self._cached_tokens += num_cached

    def note_finished(self, sequence: Sequence) -> None:
        """A sequence has all its output."""
        if sequence.is_scored_alone:
            return
        self._outputs += len(sequence.output_token_ids)
        self._limits += max(1, sequence.max_num_tokens - sequence.num_prompt_tokens)

    @property
    def waiting_outputs(self) -> float:
        """Tokens that waiting sequences are expected to generate."""
        return self._waiting_outputs * self.output_share

    @property
    def output_share(self) -> float:
        """How much of their limits finished sequences have generated."""
        return self._outputs / self._limits

    def current(self, most: int, running: Collection[Sequence]) -> int:
        """Tokens that the next step may have, `most` or fewer."""
        if self._minimum is None or len(running) <= _FEW_SEQUENCES:
            return most
        outputs = self._waiting_outputs + sum(sequence.num_remaining for sequence in running)
        steps = outputs * self.output_share / self._limit.wanted
        uncached = 1 - self._cached_tokens / self._prompt_tokens
        spread = self._waiting_tokens * uncached / max(1.0, steps)
        pace = self._pace.current(
            running,
            self._waiting.values(),
            uncached=uncached,
            output_share=self.output_share,
            slowest=spread,
            fastest=most,
        )
        prompts = max(spread, pace)
        wanted = max(self._minimum, len(running) + int(prompts))
        place = bisect_left(self._sizes, wanted)
        return min(most, self._sizes[place] if place < len(self._sizes) else wanted)
