"""What a prompt must be for an engine to take it."""

from __future__ import annotations

from collections.abc import Sequence

from batchgen.counts import counted
from batchgen.errors import ErrorCode, RowError

__all__ = ["check_prompt"]


def check_prompt(prompt: Sequence[int], max_model_len: int, vocab_size: int) -> None:
    """Raises RowError: empty_prompt, prompt_too_long, invalid_row."""
    if not len(prompt):
        raise RowError(ErrorCode.EMPTY_PROMPT, "the prompt has no tokens")
    if len(prompt) >= max_model_len:
        raise RowError(
            ErrorCode.PROMPT_TOO_LONG,
            f"the prompt has {counted(len(prompt), 'token')}; prompt and output together "
            f"may have {max_model_len:,} (max_model_len): shorten it to {max_model_len - 1:,}",
        )
    for token in (min(prompt), max(prompt)):
        if not 0 <= token < vocab_size:
            raise RowError(
                ErrorCode.INVALID_ROW,
                f"token id {token} is outside the model's vocabulary of {vocab_size}",
            )
