"""What a prompt must be for an engine to take it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from batchgen.engine.request import Request
from batchgen.engine.token_ids import token_array
from batchgen.errors import ErrorCode, RowError

__all__ = ["with_checked_prompt"]


def with_checked_prompt(request: Request, max_model_len: int, vocab_size: int) -> Request:
    """The request, its prompt made int32 once for all who read it. Raises RowError: empty_prompt,
    prompt_too_long, invalid_row."""
    prompt = request.prompt_token_ids
    if not len(prompt):
        raise RowError(ErrorCode.EMPTY_PROMPT, "the prompt has no tokens")
    request.check_length(max_model_len)
    try:
        tokens = token_array(prompt)
    except OverflowError:
        raise _outside(max(prompt, key=abs), vocab_size) from None
    # Below zero is above everything else without a sign: one pass looks for both.
    if np.frombuffer(tokens, dtype=np.uint32).max() >= vocab_size:
        lowest = min(tokens)
        raise _outside(lowest if lowest < 0 else max(tokens), vocab_size)
    return request if tokens is prompt else replace(request, prompt_token_ids=tokens)


def _outside(token: int, vocab_size: int) -> RowError:
    return RowError(
        ErrorCode.INVALID_ROW,
        f"token id {token} is outside the model's vocabulary of {vocab_size}",
    )
