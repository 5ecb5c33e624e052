"""How large a step may be while many sequences decode: by what is left of the job.

Where decoding alone waits for the weights to be read, prompts are computed in that time: `least`
tokens a step cost nothing (Sarathi, arXiv:2308.16369). Offline it is known how many tokens are
still to be prefilled, and about how many steps of decoding are left; spread the one over the other
(BlendServe's idea, arXiv:2411.16102), and slots stay filled: fewer tokens a step would leave them
empty, more would leave later steps without a prompt. Where prompts are most of the work, that comes
out as large steps. A step is padded to the next size of a graph, and padding is computed like
tokens: so steps are as large as what they would be padded to.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable

from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["StepSize"]

_FEW_SEQUENCES = 16
"""With this few to decode, prompts have steps of their own: there is nothing to ride along with."""


class StepSize:
    """`least`: tokens of a mixed step that cost no more than its decoding; None: never a bound.
    `sizes`: ascending, what steps are padded to."""

    def __init__(self, least: int | None, sizes: tuple[int, ...] = ()) -> None:
        self._least = least
        self._sizes = sizes
        self._waiting: dict[Sequence, tuple[int, int]] = {}
        self._waiting_tokens = 0
        self._waiting_outputs = 0
        self._prompts, self._cached = 1, 0
        self._limits, self._outputs = 1, 1

    def wait(self, sequence: Sequence) -> None:
        """A sequence begins to wait."""
        tokens, outputs = sequence.num_tokens, sequence.num_remaining
        self._waiting[sequence] = tokens, outputs
        self._waiting_tokens += tokens
        self._waiting_outputs += outputs

    def leave(self, sequence: Sequence) -> None:
        """It does not wait any more."""
        tokens, outputs = self._waiting.pop(sequence)
        self._waiting_tokens -= tokens
        self._waiting_outputs -= outputs

    def admit(self, num_tokens: int, num_cached: int) -> None:
        """Learn how much of what waits is cached by the time it is wanted."""
        self._prompts += num_tokens
        self._cached += num_cached

    def finish(self, sequence: Sequence) -> None:
        """Learn how much of their limits outputs have."""
        if sequence.is_scored_alone:
            return
        self._outputs += len(sequence.output_token_ids)
        self._limits += max(1, sequence.max_num_tokens - sequence.num_prompt_tokens)

    @property
    def waiting_outputs(self) -> float:
        """Tokens that waiting sequences may get, as far as limits are used."""
        return self._waiting_outputs * self._outputs / self._limits

    def budget(
        self, most: int, running: Iterable[Sequence], num_running: int, num_slots: int
    ) -> int:
        """Tokens that the next step may have, where `num_slots` sequences may run."""
        if self._least is None or num_running <= _FEW_SEQUENCES:
            return most
        outputs = self._waiting_outputs + sum(sequence.num_remaining for sequence in running)
        steps = outputs * self._outputs / self._limits / num_slots
        uncached = self._waiting_tokens * (1 - self._cached / self._prompts)
        wanted = max(self._least, num_running + int(uncached / max(1.0, steps)))
        place = bisect_left(self._sizes, wanted)
        return min(most, self._sizes[place] if place < len(self._sizes) else wanted)
