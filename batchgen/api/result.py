"""One finished sample of one row, with the names of the output's columns."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

from batchgen.job.rows import OutputRow

__all__ = ["Result", "result_of"]


@dataclass(frozen=True, slots=True)
class Result:
    """A completion, or the error that stands in its place (`status` is `ok` or `error`).

    Names and meanings are those of the output file's columns; `columns` holds what else the row
    had, as it was given. `index` is the row's place among those of its call, from 0; a row with
    `n` above 1 has a result for each `sample`. Times are in seconds.
    """

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
    started_at: datetime | None = None
    finished_at: datetime | None = None
    run_id: str = ""
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    token_texts: list[str] | None = None
    top_logprobs: list[list[dict[str, Any]]] | None = None
    prompt_logprobs: list[float | None] | None = None
    prompt_logprob_sum: float | None = None
    prompt_token_texts: list[str] | None = None
    prompt_top_logprobs: list[list[dict[str, Any]]] | None = None
    choice: str | None = None
    choice_probs: list[dict[str, Any]] | None = None
    decisions: list[dict[str, Any]] | None = None
    tool_calls: str | None = None
    reasoning_tokens: int | None = None
    columns: dict[str, Any] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether there is a completion."""
        return self.status == "ok"


_MOMENTS = ("started_at", "finished_at")
_SAME = tuple(one.name for one in fields(Result) if one.name not in (*_MOMENTS, "columns"))
_NEWER = tuple({one.name for one in fields(OutputRow)} - {*_SAME, *_MOMENTS, "kept"})
"""Columns of the output that have no field here yet: they come among the row's own."""


def result_of(row: OutputRow) -> Result:
    """The output's row as a result."""
    values: dict[str, Any] = {name: getattr(row, name) for name in _SAME}
    for name in _MOMENTS:
        moment = getattr(row, name)
        values[name] = None if moment is None else datetime.fromtimestamp(moment / 1e6, UTC)
    newer = {name: value for name in _NEWER if (value := getattr(row, name)) is not None}
    return Result(**values, columns=row.kept | newer)
