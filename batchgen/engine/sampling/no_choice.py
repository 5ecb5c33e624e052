"""Why a row got no token: its own settings left none, or the model's logits did.

Asked once it has happened; on a GPU, a step only says that there is none.
"""

from __future__ import annotations

from collections.abc import Iterable

from batchgen.engine.request import SamplingParams
from batchgen.engine.sampling.rules import TokenRules, mask_of
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import RowFailure, ScheduledStep
from batchgen.errors import ErrorCode

__all__ = ["failures_of"]

_NAN_FAILURE = RowFailure(
    ErrorCode.NAN_LOGITS,
    "the model's logits hold NaN or leave no token to choose; try --dtype float32",
)


def failures_of(step: ScheduledStep, rows: Iterable[int], vocab_size: int) -> dict[int, RowFailure]:
    """Of these of the step's sampled rows; to be asked before its tokens are delivered."""
    return {j: _failure_of(step.sequences[step.sampled[j]], vocab_size) for j in rows}


def _failure_of(sequence: Sequence, vocab_size: int) -> RowFailure:
    mask = TokenRules(sequence.request, vocab_size).mask(sequence)
    if mask is None:
        return _NAN_FAILURE
    mask &= mask_of(range(vocab_size), vocab_size)  # no bits of padding
    params, num_tokens = sequence.request.params, len(sequence.output_token_ids)
    names = _names(params, sequence.request.constraint is not None)
    if mask.any() and num_tokens < params.min_tokens:
        names.append("min_tokens")
        mask &= ~mask_of(sequence.stop_ids, vocab_size)
    if mask.any():
        return _NAN_FAILURE
    text = f"{' and '.join(names)} together" if len(names) > 1 else names[0]
    after = f"at the {num_tokens + 1}. token" if num_tokens else "to begin with"
    return RowFailure(
        ErrorCode.NO_ALLOWED_TOKEN, f"{text} allow no token {after}: loosen what excludes the rest"
    )


def _names(params: SamplingParams, is_constrained: bool) -> list[str]:
    """The settings that ban tokens, as rows name them."""
    is_set = {
        "structured_outputs": is_constrained and params.structured_outputs is not None,
        "thinking_token_budget": is_constrained and params.thinking_token_budget is not None,
        "allowed_token_ids": bool(params.allowed_token_ids),
        "bad_words": bool(params.bad_words),
        "no_repeat_ngram_size": params.no_repeat_ngram_size > 0,
    }
    return [name for name, given in is_set.items() if given] or ["the row's constraint"]
