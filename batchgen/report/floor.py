"""The bandwidth floor of a workload: the least time one device needs, everything admitted at once.

Weights are read once a step, each token's KV once for every later token, and prompts cost their
FLOPs at the matmul rate (2 per parameter and token). No engine is faster without reading less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from batchgen.report.workloads import WorkItem

__all__ = ["ModelSize", "floor_seconds"]


class ModelSize(NamedTuple):
    """What the floor needs of a model: parameters that a token passes, and bytes."""

    active_parameters: int
    weight_bytes: int
    kv_bytes_per_token: int


def floor_seconds(
    work: Sequence[WorkItem], size: ModelSize, bytes_per_s: float, flops_per_s: float
) -> float:
    """Seconds for `work` at `bytes_per_s` of read bandwidth and `flops_per_s` of matmul rate."""
    num_steps = max(item.max_tokens for item in work)
    num_prompt_tokens = sum(len(item.prompt_token_ids) for item in work)
    kv_reads = sum(
        item.max_tokens * len(item.prompt_token_ids) + item.max_tokens**2 / 2 for item in work
    )
    weights = num_steps * size.weight_bytes / bytes_per_s
    kv = kv_reads * size.kv_bytes_per_token / bytes_per_s
    prefill = 2 * size.active_parameters * num_prompt_tokens / flops_per_s
    return weights + kv + prefill
