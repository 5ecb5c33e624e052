"""The seam between job and engine: what goes in, what comes out, and the calls between them.

Standard library only, so that the job half can be driven by a fake engine without torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from batchgen.counts import counted
from batchgen.engine.stats import EngineStats
from batchgen.engine.targets import Targets
from batchgen.errors import ErrorCode, RowError

__all__ = [
    "MAX_TOP_LOGPROBS",
    "Completion",
    "Constraint",
    "Engine",
    "FinishReason",
    "GrammarKind",
    "Question",
    "Request",
    "SamplingParams",
    "Shared",
    "StopChecker",
    "StructuredOutput",
    "Timings",
]

StopChecker = Callable[[Sequence[int]], str | None]
"""Given all output token ids so far, the stop string they contain, or None. Made by the job."""

MAX_TOP_LOGPROBS = 20


class Constraint(Protocol):
    """What one sequence may generate next: advanced by each token, asked for the next one's mask.

    Made by the job, as stop checkers are. `advance` and `fill` raise RowError for a grammar beyond
    its limits; the sequence then fails with it. `room`: tokens that may still be generated.
    """

    def advance(self, token: int, room: int) -> bool:
        """Advance by a token, after which `room` may follow. True: nothing may follow any more."""

    def fill(self, mask: Any) -> bool:
        """Set the bits of allowed tokens in a zeroed int32 array [ceil(vocab_size / 32)], token t
        being bit t % 32 of word t // 32. False: every token is allowed, the mask is untouched."""

    def steer(self, mask: Any, room: int) -> None:
        """Where `room` tokens just satisfy the grammar, keep those with which that stays so."""

    def refuses(self, token: int, room: int) -> bool:
        """Whether `room` tokens after this sampled one are too few to satisfy the grammar. Another
        one is then sampled in its place, and `steer` excludes this one."""

    def is_steered(self, room: int) -> bool:
        """Whether what came is whole, and `steer` excluded a token before its last one, or would
        now, with `room` tokens left."""


class Shared:
    """Marks a large, read-only object that many requests refer to (a tokenizer, behind their stop
    strings): it is sent to an engine in another process once, not with each request."""

    __slots__ = ()


class FinishReason(StrEnum):
    """Why a sequence ended."""

    STOP = "stop"
    LENGTH = "length"
    ERROR = "error"


class GrammarKind(StrEnum):
    """The language in which a structured output is described."""

    JSON_SCHEMA = "json_schema"
    REGEX = "regex"
    GRAMMAR = "grammar"
    """Lark's, or llama.cpp's GBNF."""


@dataclass(frozen=True, slots=True)
class StructuredOutput:
    """What a whole completion must match. `whitespace`: between the tokens of JSON, None = two
    spaces or a line break with its indentation at most, "" = none, else a regular expression."""

    kind: GrammarKind
    text: str
    whitespace: str | None = None


@dataclass(frozen=True, slots=True)
class Question:
    """One of several that are put to a row's text: which of the `choices` (empty: the row's)."""

    name: str
    text: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one sequence is sampled. Validated by the job; the engine trusts it. top_k 0 = off.

    Ids outside the vocabulary have no effect. `logit_bias`: (token id, what is added), each id
    once. `bad_words`: token sequences that the output never completes. `allowed_token_ids`: no
    others; empty = off. `top_logprobs`: alternatives to report, at most `MAX_TOP_LOGPROBS`, and
    `prompt_logprobs` those at the prompt's own tokens. `max_tokens` is 0 only for a request that is
    scored (`Request.targets`) and generates nothing.
    """

    max_tokens: int = 256
    min_tokens: int = 0
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    n: int = 1
    seed: int = 0
    logprobs: int | None = None
    logit_bias: tuple[tuple[int, float], ...] = ()
    bad_words: tuple[tuple[int, ...], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    no_repeat_ngram_size: int = 0
    top_logprobs: int = 0
    bad_phrases: tuple[str, ...] = ()
    """`bad_words` as text: the job makes ids of them, alone and after a space."""
    structured_outputs: StructuredOutput | None = None
    adapter: str = ""
    """Name of one of several LoRA adapters; empty: the model as it was loaded."""
    prompt_logprobs: int | None = None
    thinking_token_budget: int | None = None  # the job makes a constraint of it
    skip_special_tokens: bool = True
    """How the job makes text of token ids, as the next two; the engine reads none of them."""
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False  # or the token that ended it
    choices: tuple[str, ...] = ()
    """Labels; the most likely one is the completion, and nothing is sampled (`job.decisions`)."""
    questions: tuple[Question, ...] = ()

    @property
    def decides(self) -> bool:
        """Whether the completion is one of several labels."""
        return bool(self.choices or self.questions)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is always taken."""
        return self.temperature == 0.0


@dataclass(frozen=True, slots=True)
class Request:
    """One sample of one row, as token ids.

    `request_id` is the caller's handle, unique among unfinished requests. `draw_key` is the 64-bit
    key of its random draws (`draws.draw_key(seed, row_key, sample)`). `output_token_ids` were
    generated by an earlier run: the engine prefills them and goes on after them.
    """

    request_id: int
    prompt_token_ids: Sequence[int]
    params: SamplingParams
    draw_key: int = 0
    output_token_ids: Sequence[int] = ()
    stop_checker: StopChecker | None = None
    constraint: Callable[[], Constraint] | None = None
    """Begins a constraint at the output's first token; called when it is first needed."""
    targets: Targets | None = None
    """Tokens to score; their positions are computed even where the prefix cache has them."""

    @property
    def most_tokens(self) -> int:
        """Of prompt and output; a request that is only scored samples one too, for nobody."""
        return len(self.prompt_token_ids) + max(1, self.params.max_tokens)

    def check_length(self, max_model_len: int) -> None:
        """Raises RowError(PROMPT_TOO_LONG) where the prompt leaves no room for one token."""
        num_tokens = len(self.prompt_token_ids)
        if num_tokens >= max_model_len:
            raise RowError(
                ErrorCode.PROMPT_TOO_LONG,
                f"the prompt has {counted(num_tokens, 'token')}; prompt and output together "
                f"may have {max_model_len:,} (max_model_len): shorten it to {max_model_len - 1:,}",
            )


@dataclass(slots=True)
class Timings:
    """Moments of one request on `time.monotonic`'s clock, seconds. 0.0 = has not happened."""

    enqueued: float = 0.0
    first_scheduled: float = 0.0
    first_token: float = 0.0
    finished: float = 0.0


@dataclass(slots=True)
class Completion:
    """A finished request. `token_ids` holds every sampled token, a stop token included.

    `stop_reason`: the matched stop string or stop token id; None for EOS and for length.
    `logprobs`: of the chosen tokens, when asked for. With `finish_reason` ERROR, the error fields
    are set and `token_ids` holds what was generated before.
    """

    request_id: int
    token_ids: list[int]
    finish_reason: FinishReason
    stop_reason: str | int | None = None
    error_code: ErrorCode | None = None
    error_message: str | None = None
    logprobs: list[float] | None = None
    top_logprobs: list[list[tuple[int, float]]] | None = None
    """For each token sampled by this request, the most likely (id, logprob), descending; before any
    processor, as `logprobs` are."""
    target_logprobs: list[float] | None = None
    """Of `Request.targets`' token ids, in their order; before any processor."""
    target_tops: list[list[tuple[int, float]]] | None = None
    """For each position of `Request.targets`, the most likely, if asked for."""
    timings: Timings = field(default_factory=Timings)
    preemptions: int = 0
    cached_tokens: int = 0
    ends_with_stop_token: bool = False
    """The last of `token_ids` ended it (EOS, or a stop token id) and is no part of the answer."""
    is_steered: bool = False
    """LENGTH, but whole: its constraint was led to its end because few tokens were left."""


class Engine(Protocol):
    """Token ids in, token ids out. Single-threaded: one caller adds, steps and takes.

    `max_model_len`: the most tokens (prompt + output) one sequence may have, by the model and by
    the whole KV cache. `add` raises RowError(PROMPT_TOO_LONG) for a prompt that leaves no room for
    one token, and cuts `max_tokens` to what fits.
    """

    on_admission: Callable[[list[int]], None] | None
    """Called inside `step` with the requests that it computes for the first time, before it does:
    whoever keeps a journal knows what was in the engine's hands when a process died."""

    @property
    def max_model_len(self) -> int:
        """Most tokens, prompt and output, of one sequence."""

    @property
    def max_num_seqs(self) -> int:
        """Most sequences in one step."""

    @property
    def num_unfinished(self) -> int:
        """Requests added and neither returned nor aborted."""

    def add(self, request: Request) -> None:
        """Queue a request; its clock starts now."""

    def step(self) -> list[Completion]:
        """Run one iteration; the requests that finished with it, in no particular order."""

    def abort(self, request_id: int) -> None:
        """Forget an unfinished request and free what it holds."""

    def unfinished_outputs(self) -> dict[int, list[int]]:
        """Tokens generated so far by each unfinished request: what a polite stop saves."""

    def stats(self) -> EngineStats:
        """Counters so far."""

    def close(self) -> None:
        """Forget everything and free what the engine holds."""
