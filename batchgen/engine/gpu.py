"""What a GPU can do, as kernels and checks ask it; answers for what interprets kernels too."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from batchgen.errors import UsageError

__all__ = ["check_float8", "has_capability", "has_tma", "is_hopper", "num_sms", "shared_memory"]

_FLOAT8 = (8, 9)
"""Least compute capability with instructions that convert e4m3, and with products of it."""


@lru_cache
def num_sms(device: torch.device) -> int:
    """Multiprocessors; a handful where kernels are interpreted."""
    return _properties(device).multi_processor_count if device.type == "cuda" else 4


@lru_cache
def shared_memory(device: torch.device) -> int:
    """Bytes that a block of threads may have: 64 KiB (T4) to 227 KiB (H100)."""
    return _properties(device).shared_memory_per_block_optin if device.type == "cuda" else 1 << 30


def has_capability(device: torch.device, least: tuple[int, int]) -> bool:
    """Whether it is a GPU of that compute capability (9.0: (9, 0)) or a later one."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= least


def has_tma(device: torch.device) -> bool:
    """Hopper and later."""
    return has_capability(device, (9, 0))


def is_hopper(device: torch.device) -> bool:
    """H100, H200, GH200: products that run while their warps go on are of that generation alone."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0)


def check_float8(device: torch.device, flag: str, does: str) -> None:
    """Raises UsageError where a GPU is too old for what the flag `does` with float8."""
    if not has_capability(device, _FLOAT8):
        major, minor = torch.cuda.get_device_capability(device)
        raise UsageError(
            f"{flag} needs a GPU that {does} float8, of compute capability 8.9 or later; "
            f"{torch.cuda.get_device_name(device)} has {major}.{minor}",
            f"leave {flag.split()[0]} out",
        )


def _properties(device: torch.device) -> Any:
    return torch.cuda.get_device_properties(device)
