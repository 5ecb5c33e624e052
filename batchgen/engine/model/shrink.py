"""Thresholds that a few tokens would never cross, lowered in a clone so that they are crossed."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["SMALL", "shrink"]

SMALL = 5
"""What a threshold becomes: a sliding window, the position from which on a query scale grows."""


def shrink(module: nn.Module, max_position: int) -> bool:
    """Lower the thresholds of a clone's config and modules; whether there were any.

    A window of `max_position` or more is never crossed and stays.
    """
    found = (getattr(part, "config", None) for part in module.modules())
    configs = {id(config): config for config in found if config is not None}
    holders: list[Any] = [*configs.values(), *module.modules()]
    shrunk = [_shrink_window(holder, max_position) for holder in holders]
    ropes = [getattr(config, "rope_parameters", None) for config in configs.values()]
    shrunk += [_shrink_rope(rope) for rope in ropes]
    return any(shrunk)


def _shrink_window(holder: Any, max_position: int) -> bool:
    value = getattr(holder, "sliding_window", None)
    if isinstance(value, bool) or not isinstance(value, int) or not SMALL < value < max_position:
        return False
    holder.sliding_window = SMALL
    return True


def _shrink_rope(rope: Any) -> bool:
    """The length that Llama 4's kind of query scale starts from; RoPE itself is set up already."""
    if not isinstance(rope, dict):
        return False
    if "llama_4_scaling_beta" not in rope:
        layers = [_shrink_rope(value) for value in rope.values()]
        return any(layers)
    rope["original_max_position_embeddings"] = SMALL
    return True
