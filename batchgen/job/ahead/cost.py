"""What a job costs on a GPU, by a model simple enough to check by hand.

Every step takes a fixed time and reads the weights once; a row takes a fixed time to begin; prompt
tokens are multiplied with the weights and attend to what is before them; every token generated
reads the row's keys and values, where rows begin alike once for all of them. Steps are counted row
by row: `slots` rows run, a finished one gives its place to the next. The factors were fitted to the
figures of docs/speed.md for an H200 and an H100; `tests/test_plan.py` holds their error. Windows
count as nothing saved.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["FLOAT8_RATE", "GPUS", "Gpu", "ModelShape", "Work", "num_steps", "seconds_of"]

_STEP_S, _ROW_S = 0.00071, 0.0001
_PRODUCTS, _EXPERTS, _CACHE = 0.475, 0.7, 0.765
"""Shares that are reached: of the data sheet's products in prompts; of its bandwidth where experts,
and where keys and values are read (the weights between them are read at all of it)."""
FLOAT8_RATE = 1.15
"""`ModelShape.product_rate` of layers in float8, what they round included."""
_QUERIES = 25
"""Tokens of a prompt that share one reading of the keys before them."""


class Gpu(NamedTuple):
    """By its data sheet: memory in GB, bandwidth in TB/s, dense bfloat16 products in TFLOP/s."""

    memory_gb: float
    bandwidth: float
    flops: float


GPUS = {
    "b200": Gpu(180, 8.0, 2250),
    "h200": Gpu(141, 4.8, 989),
    "h100": Gpu(80, 3.35, 989),
    "a100": Gpu(80, 2.04, 312),
    "a100-40gb": Gpu(40, 1.56, 312),
    "l40s": Gpu(48, 0.86, 362),
    "a10": Gpu(24, 0.6, 125),
    "l4": Gpu(24, 0.3, 121),
    "t4": Gpu(16, 0.32, 65),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """What time and memory depend on; bytes as they lie on the GPU."""

    num_parameters: int
    weight_bytes: int
    """All of them, in memory."""
    active_parameters: int
    """That a token is multiplied with: of experts those it is sent to, no table of embeddings."""
    dense_bytes: int
    """Of weights that every step reads."""
    kv_bytes_per_token: int
    expert_bytes: int = 0
    expert_share: float = 1.0
    """Of a layer's experts, those that one token is sent to."""
    product_rate: float = 1.0
    """How many times as fast as in 16 bits products are."""


@dataclass(frozen=True, slots=True)
class Work:
    """Rows that are computed. `outputs`: tokens that each generates."""

    outputs: Sequence[int]
    prompt_tokens: int
    """Computed, not taken from the cache."""
    attended: float
    """Over these: tokens at or before each."""
    read_tokens: float
    """Of the cache, over all tokens generated."""


def seconds_of(work: Work, shape: ModelShape, gpu: Gpu, slots: int) -> float:
    """Seconds of the engine, long outputs first as batchgen runs them."""
    bandwidth, flops = gpu.bandwidth * 1e12, gpu.flops * 1e12
    steps, generated = num_steps(work.outputs, slots), sum(work.outputs)
    live = generated / max(steps, 1)
    missed: float = (1 - shape.expert_share) ** live
    experts = shape.expert_bytes * (1 - missed) / _EXPERTS
    reading = steps * (shape.dense_bytes + experts) / bandwidth
    products = 2 * shape.active_parameters / flops / _PRODUCTS / shape.product_rate
    cache = shape.kv_bytes_per_token / bandwidth
    return (
        steps * _STEP_S
        + len(work.outputs) * _ROW_S
        + max(reading, generated * products * _PRODUCTS)
        + work.prompt_tokens * products
        + work.attended / _QUERIES * cache
        + work.read_tokens / _CACHE * cache
    )


def num_steps(outputs: Sequence[int], slots: int) -> int:
    """Steps until the last row ends: with a heap of when each live one does."""
    ends: list[int] = []
    for output in sorted(outputs, reverse=True):
        begin = heapq.heappop(ends) if len(ends) >= max(slots, 1) else 0
        heapq.heappush(ends, begin + output)
    return max(ends, default=0)
