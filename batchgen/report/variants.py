"""Ways in which a bench's rows are sampled: what people ask for, and all of it mixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from batchgen.report.workloads import WorkItem

__all__ = ["VARIANTS", "RowSampling", "own"]

RowSampling = Callable[[int, WorkItem], dict[str, Any]]
"""From a row's number and the row to its `SamplingParams`, lengths aside."""

_FILTERS: dict[str, Any] = {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "seed": 7}
_PENALTIES: dict[str, Any] = {"repetition_penalty": 1.1, "frequency_penalty": 0.2}


def own(_row: int, item: WorkItem) -> dict[str, Any]:
    """As the workload has it: a real row's own, else the most likely token."""
    return dict(item.sampling)


def _one_in_16(row: int, _item: WorkItem) -> dict[str, Any]:
    return _FILTERS if row % 16 == 0 else {}


_MIX: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 1.0, "seed": 7},
    _FILTERS,
    _PENALTIES,
    {"logprobs": 1},
    {"temperature": 1.0, "min_p": 0.05, "top_p": 0.95, "seed": 7},
    {"logit_bias": ((11, 5.0), (13, -100.0)), "min_tokens": 20},
    {"logprobs": 1, "top_logprobs": 5, "temperature": 1.0, "seed": 7},
)

VARIANTS: dict[str, RowSampling] = {
    "own": own,
    "greedy": lambda row, item: {},
    "temperature": lambda row, item: {"temperature": 1.0, "seed": 7},
    "filters": lambda row, item: _FILTERS,
    "penalties": lambda row, item: _PENALTIES,
    "logprobs": lambda row, item: {"logprobs": 1},
    "one_in_16": _one_in_16,
    "mixed": lambda row, item: _MIX[row % len(_MIX)],
}
"""Neighbours of `mixed` are all sampled differently."""
