"""One request inside the engine: its tokens, how far they are computed, and how it ended.

    add -> WAITING -> RUNNING -> FINISHED
              ^----------'  preempted: computed again from its first token

`num_computed_tokens` moves when a step is launched, before its sampled token is known: until then
the token is *pending* and counts as a placeholder in `num_tokens`.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from batchgen.engine.request import FinishReason, Request, Timings
from batchgen.engine.scheduling.constraint_state import ConstraintState
from batchgen.engine.token_ids import token_array
from batchgen.errors import ErrorCode, RowError

__all__ = ["Sequence", "SequenceStatus"]


class SequenceStatus(IntEnum):
    """Life cycle; a preempted sequence is WAITING with everything to compute again."""

    WAITING = 0
    RUNNING = 1
    FINISHED = 2


@dataclass(slots=True, eq=False)
class Sequence:
    """Mutable state of one request; compared and hashed by identity."""

    request: Request
    max_num_tokens: int
    """Prompt and output together; the last token is never computed."""
    eos_token_ids: frozenset[int] = frozenset()
    timings: Timings = field(default_factory=Timings)
    status: SequenceStatus = SequenceStatus.WAITING
    token_ids: array[int] = field(init=False)
    """Prompt and known output; pending tokens are not in it."""
    output_token_ids: list[int] = field(init=False)
    logprobs: list[float] = field(default_factory=list)
    top_logprobs: list[list[tuple[int, float]]] = field(default_factory=list)
    target_logprobs: list[float] = field(default_factory=list)
    target_tops: list[list[tuple[int, float]]] = field(default_factory=list)
    num_scored: int = 0
    """Positions of its targets whose log-probabilities are known."""
    num_prompt_tokens: int = field(init=False)
    num_computed_tokens: int = 0
    num_pending: int = 0
    """Tokens that launched steps will sample."""
    num_in_flight: int = 0
    """Launched steps that hold this sequence and have not come back."""
    block_table: list[int] = field(default_factory=list)
    slot: int = -1
    """Row in the runner's tables while blocks are held."""
    admission_index: int = -1
    num_preemptions: int = 0
    block_hashes: list[bytes] = field(default_factory=list)
    """Of its full blocks, for the prefix cache; empty where prefix caching is off."""
    shares_prefix: bool = False
    """When it was last admitted, its first blocks were in the prefix cache."""
    num_shared_tokens: int = 0
    """Tokens in those blocks."""
    num_cached_tokens: int = 0
    """Of its prompt, found in the cache when it was first admitted."""
    finish_reason: FinishReason | None = None
    stop_reason: str | int | None = None
    error_code: ErrorCode | None = None
    error_message: str | None = None
    device_counts: bool = False
    """The runner counts its tokens itself, as they are sampled: penalties need not wait."""
    needs_known_tokens: bool = field(init=False)
    """What it may sample depends on its output in ways that only the host computes (a grammar,
    n-grams, phrases): never scheduled while a token is pending."""
    counts_tokens: bool = field(init=False)
    """Penalties: sampling reads how often each token was seen."""
    plain_until: int = 0
    """While it has computed fewer tokens than this, a step does nothing for it but decode."""
    plain_length: int = field(init=False)
    """While it has fewer tokens than this, one that is no stop is appended and that is all."""
    stop_ids: frozenset[int] = field(init=False)
    """Tokens that end it, and may not come before `min_tokens`."""
    constraint: ConstraintState | None = field(init=False)
    is_steered: bool = False
    """It ended by its constraint because its length would have cut it."""

    def __post_init__(self) -> None:
        request = self.request
        self.output_token_ids = list(request.output_token_ids)
        prompt = request.prompt_token_ids
        self.num_prompt_tokens = len(prompt)
        self.token_ids = token_array(prompt)[:]
        self.token_ids.extend(self.output_token_ids)
        params = request.params
        self.counts_tokens = (
            params.repetition_penalty != 1.0
            or params.presence_penalty != 0.0
            or params.frequency_penalty != 0.0
        )
        self.needs_known_tokens = (
            (self.counts_tokens and not self.device_counts)
            or request.constraint is not None
            or params.no_repeat_ngram_size > 0
            or any(len(word) > 1 for word in params.bad_words)
        )
        stops = frozenset(params.stop_token_ids)
        self.stop_ids = stops if params.ignore_eos else stops | self.eos_token_ids
        most = self.max_num_tokens - self.num_prompt_tokens
        begin, steers = request.constraint, params.min_tokens < most
        self.constraint = None if begin is None else ConstraintState(begin, most, steers=steers)
        checked = request.stop_checker is not None or request.constraint is not None
        reports = params.logprobs is not None or params.top_logprobs > 0
        plain = not (checked or reports or self.is_scored_alone) and request.targets is None
        self.plain_length = self.max_num_tokens - 1 if plain else 0

    @property
    def num_tokens(self) -> int:
        """Prompt, output, and pending tokens."""
        return len(self.token_ids) + self.num_pending

    @property
    def num_remaining(self) -> int:
        """Tokens it may still get."""
        return self.max_num_tokens - self.num_tokens

    @property
    def is_complete(self) -> bool:
        """Whether every token it may have exists or is pending: nothing is left to schedule."""
        return self.num_tokens >= self.max_num_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that can be scheduled now; computing the last of them samples the next one.

        Not to be asked once it `is_complete`.
        """
        if self.num_pending and self.needs_known_tokens:
            return 0
        return len(self.token_ids) + self.num_pending - self.num_computed_tokens

    @property
    def is_finished(self) -> bool:
        """Whether it has ended, well or not."""
        return self.status is SequenceStatus.FINISHED

    @property
    def is_scored_alone(self) -> bool:
        """Whether nothing is generated for it: what its last step samples is thrown away."""
        return self.request.params.max_tokens == 0

    @property
    def first_needed(self) -> int:
        """The first position that has to be computed whatever the cache holds."""
        targets = self.request.targets
        if targets is None or self.num_scored == len(targets.ends):
            return self.num_tokens - 1
        return targets.first + self.num_scored

    def take_scores(
        self,
        begin: int,
        end: int,
        logprobs: list[float],
        tops: list[list[tuple[int, float]]],
    ) -> None:
        """Of its targets at positions `begin` to `end`, maybe again."""
        targets = self.request.targets
        assert targets is not None
        self.target_logprobs[targets.within(begin, end)] = logprobs
        self.target_tops[begin - targets.first : end - targets.first] = tops
        self.num_scored = max(self.num_scored, end - targets.first)

    @property
    def ends_with_stop_token(self) -> bool:
        """Whether its last token ended it, not its text, its length or a failure."""
        if self.is_scored_alone:
            return False
        by_text = isinstance(self.stop_reason, str)
        is_whole = self.constraint is not None and self.constraint.is_whole
        by_end = self.finish_reason is FinishReason.STOP or self.is_steered
        return by_end and not by_text and not is_whole

    def advance(self, num_tokens: int) -> bool:
        """A step with `num_tokens` of it is launched; whether it samples a token."""
        self.num_computed_tokens += num_tokens
        self.num_in_flight += 1
        if self.num_computed_tokens < len(self.token_ids) + self.num_pending:
            return False
        self.num_pending += 1
        return True

    def note_decoding(self, block_size: int) -> None:
        """What it computed last sampled a token: how long it only decodes from here on."""
        if self.request.targets is None and not self.needs_known_tokens:
            self.plain_until = min(len(self.block_table) * block_size, self.max_num_tokens - 2)

    def deliver(
        self,
        token: int,
        logprob: float | None = None,
        top: list[tuple[int, float]] | None = None,
    ) -> None:
        """The token of a launched step is known; finishes the sequence where it ends there."""
        if not self.output_token_ids and any(map(math.isnan, self.target_logprobs)):
            self.fail(ErrorCode.NAN_LOGITS, "a log-probability of the prompt is no number")
            return
        if self.is_scored_alone:
            self.finish(FinishReason.STOP)
            return
        if self._refuses(token):
            return
        self.token_ids.append(token)
        self.output_token_ids.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        if top is not None:
            self.top_logprobs.append(top)
        self.check_stop()

    def check_stop(self) -> None:
        """Finish if the last output token ends the sequence: EOS, a stop id, a stop string, length.

        Called once before the first step too: an earlier run may have left a complete output.
        """
        if not self.output_token_ids:
            return
        token, params = self.output_token_ids[-1], self.request.params
        if token in self.eos_token_ids and not params.ignore_eos:
            self.finish(FinishReason.STOP)
        elif token in params.stop_token_ids:
            self.finish(FinishReason.STOP, token)
        elif (matched := self._matched_stop()) is not None:
            self.finish(FinishReason.STOP, matched)
        elif not self.is_finished and self._has_become_whole():
            self.finish(FinishReason.STOP)
        elif not self.is_finished and len(self.token_ids) >= self.max_num_tokens:
            self.finish(FinishReason.LENGTH)

    def fill_allowed(self, mask: Any) -> bool:
        """What its constraint allows next, as `Constraint.fill`."""
        if self.constraint is None or self.is_finished:  # its last token is known by now
            return False
        return self.constraint.fill(mask)

    def finish(self, reason: FinishReason, stop_reason: str | int | None = None) -> None:
        """End it; tokens that come later are ignored."""
        self.status = SequenceStatus.FINISHED
        self.finish_reason = reason
        self.stop_reason = stop_reason
        if self.constraint is not None and reason is FinishReason.STOP:
            ended = isinstance(stop_reason, str) or self.constraint.is_whole
            output = self.output_token_ids if ended else self.output_token_ids[:-1]
            self.is_steered = self.constraint.was_steered(output)
            self.finish_reason = FinishReason.LENGTH if self.is_steered else reason

    def fail(self, code: ErrorCode, message: str) -> None:
        """End it with an error; what was generated before is kept."""
        self.finish(FinishReason.ERROR)
        refused = None if self.constraint is None else self.constraint.error
        self.error_code = code if refused is None else refused.code
        self.error_message = message if refused is None else refused.message

    def _refuses(self, token: int) -> bool:
        """Whether its constraint could not end in time after this one, which is sampled again."""
        if self.constraint is None or token in self.stop_ids or not self.constraint.refuses(token):
            return False
        self.num_computed_tokens = min(self.num_computed_tokens, len(self.token_ids) - 1)
        return True

    def _has_become_whole(self) -> bool:
        """Hand new tokens to the constraint; whether it allows nothing after them."""
        if self.constraint is None:
            return False
        try:
            return self.constraint.take(self.output_token_ids)
        except RowError as error:
            self.fail(error.code, error.message)
            return False

    def _matched_stop(self) -> str | None:
        checker = self.request.stop_checker
        if checker is None or len(self.output_token_ids) < self.request.params.min_tokens:
            return None
        try:
            return checker(self.output_token_ids)
        except Exception as error:  # a row's text must not end the job
            self.fail(ErrorCode.INTERNAL, f"the stop string check failed: {error!r}")
            return None
