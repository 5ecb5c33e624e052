"""What the Triton kernels ask of their device; answers for one that interprets them too."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

__all__ = ["has_tma", "is_hopper", "num_sms", "shared_memory"]


@lru_cache
def num_sms(device: torch.device) -> int:
    """Multiprocessors; a handful where kernels are interpreted."""
    return _properties(device).multi_processor_count if device.type == "cuda" else 4


@lru_cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a block of threads may have: 64 KiB (T4) to 227 KiB (H100)."""
    return _properties(device).shared_memory_per_block_optin if device.type == "cuda" else 1 << 30


def has_tma(device: torch.device) -> bool:
    """Hopper and later."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 9


def is_hopper(device: torch.device) -> bool:
    """H100, H200, GH200: products that run while their warps go on are of that generation alone."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def _properties(device: torch.device) -> Any:
    return torch.cuda.get_device_properties(device)
