"""What a job costs on a GPU, by a model simple enough to check by hand.

A step takes a fixed time, plus reading the weights and the live rows' keys and values once, plus
the products of every token computed. Steps are counted row by row: `slots` rows run, a finished one
gives its place to the next. The three factors were fitted to the figures that README measured on an
H200 (Qwen3-0.6B and Llama-3-8B, nano and sharegpt); `tests/test_plan.py` holds their error. Experts
count as dense, windows and shared prefixes as nothing saved.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["GPUS", "Gpu", "ModelShape", "seconds_of"]

_READ, _COMPUTED, _STEP_S = 1.0, 0.8, 0.0014
"""Shares of the data sheet's bandwidth and products that are reached; seconds of any step."""


@dataclass(frozen=True, slots=True)
class Gpu:
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
    kv_bytes_per_token: int


def seconds_of(rows: Sequence[tuple[int, int]], shape: ModelShape, gpu: Gpu, slots: int) -> float:
    """Seconds for rows of (prompt tokens, output tokens), long outputs first as batchgen runs them.

    The rows' order in time is followed with a heap of when, in steps, each live one ends.
    """
    bandwidth, flops = gpu.bandwidth * 1e12 * _READ, gpu.flops * 1e12 * _COMPUTED
    step = _STEP_S + shape.weight_bytes / bandwidth
    prompt = sum(one for one, _ in rows)
    output = sum(two for _, two in rows)
    products = 2 * shape.num_parameters * (prompt + output) / flops
    context = sum(two * (one + two / 2) for one, two in rows)
    return num_steps(rows, slots) * step + products + context * shape.kv_bytes_per_token / bandwidth


def num_steps(rows: Sequence[tuple[int, int]], slots: int) -> int:
    """Steps until the last row ends."""
    ends: list[int] = []
    for _, output in sorted(rows, key=lambda row: -row[1]):
        begin = heapq.heappop(ends) if len(ends) >= max(slots, 1) else 0
        heapq.heappush(ends, begin + output)
    return max(ends, default=0)
