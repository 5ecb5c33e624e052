"""Rows on their way into the engine: ready with their requests, or failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from batchgen.engine.request import Request
from batchgen.errors import ErrorCode, RowError
from batchgen.job.answers.reading import Reading
from batchgen.job.decisions.decisions import Decisions
from batchgen.job.row_sizes import BYTES_PER_TOKEN
from batchgen.job.rows import InputRow

__all__ = ["FailedRow", "PreparedRow", "as_row_error", "failed", "request_id", "row_and_sample"]

_SAMPLE_BITS = 10  # n is at most 1,024
_MAX_MESSAGE = 500


@dataclass(slots=True)
class PreparedRow:
    """A row ready for the engine: one request a sample, or what its `decisions` need. `prompt` is
    the output's column, `prompt_token_ids` are those of all its questions."""

    row: InputRow
    prompt: str | None
    prompt_token_ids: Sequence[int]
    requests: list[Request]
    decisions: Decisions | None = None
    reading: Reading | None = None
    """How its answers are read; None: as plain text."""

    @property
    def num_computed_tokens(self) -> int:
        """Tokens of its longest request."""
        return max(len(request.prompt_token_ids) for request in self.requests)

    @property
    def num_prompt_tokens(self) -> int:
        """Tokens of the prompt, counted once whatever the number of samples."""
        return len(self.prompt_token_ids)

    @property
    def weight(self) -> int:
        """Tokens of the prompt, and what the row carries to the output as if it were some."""
        return len(self.prompt_token_ids) + self.row.carried // BYTES_PER_TOKEN


@dataclass(slots=True)
class FailedRow:
    """A row that ends as an error row. `num_prompt_tokens` is None when it was never tokenised;
    `untried`: for what earlier runs met, this one did not begin it."""

    row: InputRow
    error: RowError
    prompt: str | None = None
    num_prompt_tokens: int | None = None
    untried: bool = False


def failed(prepared: PreparedRow, error: RowError, *, untried: bool = False) -> FailedRow:
    """A row that was ready and failed after all."""
    return FailedRow(prepared.row, error, prepared.prompt, prepared.num_prompt_tokens, untried)


def request_id(index: int, sample: int) -> int:
    """The engine's handle of one sample of one row."""
    return index << _SAMPLE_BITS | sample


def row_and_sample(identifier: int) -> tuple[int, int]:
    """The inverse of `request_id`."""
    return identifier >> _SAMPLE_BITS, identifier & ((1 << _SAMPLE_BITS) - 1)


def as_row_error(error: Exception, code: ErrorCode, what: str) -> RowError:
    """One line about an exception that a row's content caused."""
    if isinstance(error, RowError):
        return error
    reason = " ".join(str(error).split())[:_MAX_MESSAGE]
    return RowError(code, f"{what}: {type(error).__name__}: {reason}")
