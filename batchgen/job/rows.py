"""A row on its way in, and a row on its way out. Data only; standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from batchgen.engine.request import SamplingParams
from batchgen.errors import RowError

__all__ = ["FirstFailure", "InputRow", "OutputColumns", "OutputRow"]


@dataclass(slots=True)
class InputRow:
    """One input row, parsed and validated, or the error it became (`error` set, rest best effort).

    `index` is the 0-based ordinal in the whole input, before sharding; `origin` is `file:line` for
    messages. Exactly one of prompt, messages, prompt_token_ids is set on a good row. `id` is None
    where the row has none: it is then keyed by its index.
    """

    index: int
    origin: str
    id: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    prompt_token_ids: list[int] | None = None
    params: SamplingParams = field(default_factory=SamplingParams)
    kept: dict[str, Any] = field(default_factory=dict)
    error: RowError | None = None
    template_kwargs: dict[str, Any] = field(default_factory=dict)
    """What the chat template reads beside the messages: tools, documents, enable_thinking, ..."""
    truncate_prompt_tokens: int | None = None
    """Of the prompt, only so many last tokens; -1: as many as fit."""
    forced_tool: str | None = None
    """The function that its answer has to call, "" for any of its tools."""
    columns: Mapping[str, Any] | None = None
    """What `--template` reads of the row, until it has made the prompt (or the last message)."""
    carried: int = 0
    """Bytes of `id` and `kept`, about."""
    digest: bytes = b""
    """Of what the input has for it (`InputDigest.add`)."""

    @property
    def output_id(self) -> str:
        """The `id` column: the explicit id, or the index as text."""
        return str(self.index) if self.id is None else self.id

    @property
    def row_key(self) -> str:
        """Key of the row's draws: explicit ids and indices never meet (`draws.draw_key`)."""
        return f"#{self.index}" if self.id is None else f"={self.id}"


@dataclass(frozen=True, slots=True)
class OutputColumns:
    """What the output's rows and `api.Result` have under one name; None = null, times in s."""

    index: int
    sample: int
    id: str
    status: str
    prompt: str | None = None
    completion: str | None = None
    reasoning: str | None = None
    finish_reason: str | None = None
    stop_reason: str | None = None
    error_code: str | None = None
    error_message: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    ttft_s: float | None = None
    decode_s: float | None = None
    tpot_s: float | None = None
    latency_s: float | None = None
    preemptions: int = 0
    attempt: int = 1
    seed: int | None = None
    run_id: str = ""
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    token_texts: list[str] | None = None
    top_logprobs: list[list[dict[str, Any]]] | None = None
    prompt_logprobs: list[float | None] | None = None
    prompt_logprob_sum: float | None = None
    prompt_token_texts: list[str] | None = None
    prompt_top_logprobs: list[list[dict[str, Any]]] | None = None
    tool_calls: str | None = None
    """JSON text of OpenAI's list."""
    reasoning_tokens: int | None = None
    choice: str | None = None
    choice_probs: list[dict[str, Any]] | None = None
    decisions: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class OutputRow(OutputColumns):
    """One row of the Parquet output (`schema.py`)."""

    started_at: int | None = None  # microseconds since the epoch, UTC
    finished_at: int | None = None
    kept: dict[str, Any] = field(default_factory=dict)
    input_digest: bytes = b""
    """Of a failed row: what it was made of, so that a mended one is known."""


@dataclass(frozen=True, slots=True)
class FirstFailure:
    """The first failed row of its kind. `origin`: `file:line`; the rest is as in its output row."""

    code: str
    index: int
    origin: str
    message: str
