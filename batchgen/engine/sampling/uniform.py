"""`draws.uniform` on tensors: the same numbers from the same key and position, on any device."""

from __future__ import annotations

import torch

__all__ = ["uniform"]


def uniform(keys: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """Draws in [0, 1), float64 [n], of 64-bit `keys` (as int64 [n]) at `positions` (int64 [n]).

    splitmix64 in wrapping int64 arithmetic; only the right shifts need care, since those of int64
    copy the sign.
    """
    z = keys + (positions + 1) * _signed(0x9E3779B97F4A7C15)
    z = (z ^ _shift_right(z, 30)) * _signed(0xBF58476D1CE4E5B9)
    z = (z ^ _shift_right(z, 27)) * _signed(0x94D049BB133111EB)
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 11).to(torch.float64) * 2.0**-53


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(z: torch.Tensor, bits: int) -> torch.Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)
