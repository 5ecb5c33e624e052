"""How long rows take by what was measured: which of them can still finish before a deadline."""

from __future__ import annotations

import time

from batchgen.engine.request import Completion, SamplingParams

__all__ = ["Pace"]

_FORGET = 0.99
"""Of what is known, kept with every finished sample: about the last hundred count."""


class Pace:
    """Mean length of finished samples, and their seconds a token, lately."""

    def __init__(self, leave_at: float) -> None:
        """`leave_at`: the moment, on the monotonic clock, at which the run begins to leave."""
        self._leave_at = leave_at
        self._samples = 0.0
        self._tokens = 0.0
        self._seconds = 0.0

    def note(self, completion: Completion) -> None:
        """Learn from a finished sample."""
        timings = completion.timings
        if not timings.first_scheduled or not timings.finished:
            return
        self._samples = self._samples * _FORGET + 1
        self._tokens = self._tokens * _FORGET + max(1, len(completion.token_ids))
        self._seconds = self._seconds * _FORGET + timings.finished - timings.first_scheduled

    def expected_seconds(self, params: SamplingParams) -> float:
        """Time in the engine of a sample that begins now; 0.0 while nothing is known."""
        if not self._samples:
            return 0.0
        mean = self._tokens / self._samples
        tokens = params.max_tokens if params.ignore_eos else min(params.max_tokens, mean)
        return max(tokens, params.min_tokens) * self._seconds / self._tokens

    def fits(self, params: SamplingParams) -> bool:
        """Whether a sample that begins now is expected to finish before the run leaves."""
        return time.monotonic() + self.expected_seconds(params) <= self._leave_at
