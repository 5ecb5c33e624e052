"""A prompt whose own tokens are scored: what the engine is asked, and what comes of its answer."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from batchgen.engine.request import Completion, SamplingParams
from batchgen.engine.targets import Targets
from batchgen.job.text.token_texts import TokenTexts

__all__ = ["likely_tokens", "num_computed", "prompt_columns", "prompt_targets"]


def prompt_targets(token_ids: Sequence[int], params: SamplingParams) -> Targets | None:
    """Every token but the first, after those before it; None where that is not asked for, or there
    is nothing to score."""
    if params.prompt_logprobs is None or len(token_ids) < 2:
        return None
    return Targets(
        0, array("i", token_ids[1:]), array("i", range(1, len(token_ids))), params.prompt_logprobs
    )


def num_computed(token_ids: Sequence[int], params: SamplingParams) -> int:
    """How many of a prompt's tokens the engine needs: where nothing follows, not the last one."""
    return max(1, len(token_ids) - (params.max_tokens == 0))


def prompt_columns(
    token_ids: Sequence[int], completion: Completion, texts: TokenTexts
) -> dict[str, Any]:
    """The output's columns of a scored prompt; its first token has no log-probability."""
    values = completion.target_logprobs or []
    columns: dict[str, Any] = {
        "prompt_token_texts": texts(token_ids),
        "prompt_logprobs": [None, *values],
        "prompt_logprob_sum": float(sum(values)),
    }
    if completion.target_tops is not None:
        columns["prompt_top_logprobs"] = [[], *likely_tokens(completion.target_tops, texts)]
    return columns


def likely_tokens(
    tops: Sequence[Sequence[tuple[int, float]]], texts: TokenTexts
) -> list[list[dict[str, Any]]]:
    """(id, logprob) as the output's structs."""
    return [
        [
            {"token_id": token, "token": text, "logprob": logprob}
            for (token, logprob), text in zip(top, texts([t for t, _ in top]), strict=True)
        ]
        for top in tops
    ]
