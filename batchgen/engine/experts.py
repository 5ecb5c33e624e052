"""Mixtures of experts, by their configs: which share of a layer's experts computes a token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

__all__ = ["NUM_EXPERTS", "expert_share"]

NUM_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What configs call the number of a layer's experts."""
_NUM_CHOSEN = ("num_experts_per_tok", "moe_topk", "moe_k", "top_k_experts")


def expert_share(read: Callable[[str], Any]) -> float:
    """`read`: a config's value by its name, None where it has none. 1.0 without experts."""
    experts = next((n for name in NUM_EXPERTS if (n := read(name))), None)
    chosen = next((n for name in _NUM_CHOSEN if (n := read(name))), None)
    return chosen / experts if experts and chosen else 1.0
