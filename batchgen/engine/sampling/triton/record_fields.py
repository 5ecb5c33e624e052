"""Where kernels find what a slot's record says (`record.py`), and its flags.

They read the table as words: int32 and float32 a `WORDS` apart, int64 and float64 a `DOUBLES`.
"""

from __future__ import annotations

import triton.language as tl

from batchgen.engine.sampling.triton import record
from batchgen.engine.sampling.triton.record import RECORD

__all__ = [
    "BIAS",
    "COUNTS",
    "DOUBLES",
    "DRAW_KEY",
    "FILTER",
    "FLAGS",
    "FREQUENCY",
    "LOGPROBS",
    "LOG_MIN_P",
    "MASK",
    "MIN_TOKENS",
    "PRESENCE",
    "REPETITION",
    "TEMPERATURE",
    "TOP",
    "TOP_K",
    "TOP_LOGPROBS",
    "TOP_P",
    "TOUCHED",
    "WORDS",
]


def _place(name: str) -> tl.constexpr:
    """Of a field, in units of its own size."""
    assert RECORD.fields is not None
    dtype, offset = RECORD.fields[name][:2]
    return tl.constexpr(offset // dtype.itemsize)


WORDS, DOUBLES = tl.constexpr(RECORD.itemsize // 4), tl.constexpr(RECORD.itemsize // 8)
TOP_P, PRESENCE, FREQUENCY = _place("top_p"), _place("presence"), _place("frequency")
DRAW_KEY = _place("key")
FLAGS, TOP_K, MIN_TOKENS = _place("flags"), _place("top_k"), _place("min_tokens")
TOP_LOGPROBS = _place("top_logprobs")
TEMPERATURE, LOG_MIN_P = _place("temperature"), _place("log_min_p")
REPETITION = _place("repetition")

COUNTS = tl.constexpr(record.COUNTS)
BIAS = tl.constexpr(record.BIAS)
MASK = tl.constexpr(record.MASK)
FILTER = tl.constexpr(record.FILTER)
LOGPROBS = tl.constexpr(record.LOGPROBS)
TOP = tl.constexpr(record.TOP)
TOUCHED = tl.constexpr(record.COUNTS | record.BIAS | record.MASK)
"""What changes scores."""
