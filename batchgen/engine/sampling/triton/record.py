"""What sampling one sequence takes, as a record of the device's table by slot."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["BIAS", "COUNTS", "FILTER", "LOGPROBS", "MASK", "RECORD", "TOP", "record_of"]

RECORD = np.dtype(
    [
        ("top_p", np.float64),
        ("presence", np.float64),
        ("frequency", np.float64),
        ("key", np.uint64),
        ("flags", np.int32),
        ("top_k", np.int32),
        ("min_tokens", np.int32),
        ("top_logprobs", np.int32),
        ("temperature", np.float32),
        ("log_min_p", np.float32),
        ("repetition", np.float32),
        ("unused", np.int32),
    ]
)
"""64 bytes: 16 words, 8 double words."""

COUNTS, BIAS, MASK, FILTER, LOGPROBS, TOP = 1, 2, 4, 8, 16, 32
"""Flags: what a row uses."""


def record_of(sequence: Sequence, vocab_size: int, *, masked: bool) -> npt.NDArray[np.void]:
    """One record [1]. `masked`: some tokens are forbidden to it by its mask."""
    params = sequence.request.params
    record = np.zeros(1, dtype=RECORD)
    in_vocab = 0 < params.top_k < vocab_size
    record["top_p"] = params.top_p
    record["presence"] = params.presence_penalty
    record["frequency"] = params.frequency_penalty
    record["key"] = sequence.request.draw_key
    record["top_k"] = params.top_k if in_vocab else 0
    record["min_tokens"] = params.min_tokens
    record["top_logprobs"] = params.top_logprobs
    record["temperature"] = params.temperature
    record["log_min_p"] = np.log(np.float32(params.min_p)) if params.min_p > 0 else -math.inf
    record["repetition"] = params.repetition_penalty
    filtered = in_vocab or params.top_p < 1.0 or params.min_p > 0.0
    record["flags"] = (
        COUNTS * sequence.counts_tokens
        + BIAS * bool(params.logit_bias)
        + MASK * masked
        + FILTER * (filtered and not params.greedy)
        + LOGPROBS * (params.logprobs is not None)
        + TOP * (params.top_logprobs > 0)
    )
    return record
