"""Random draws keyed by (seed, row, sample, position): no generator, no state, any order.

A draw is a pure function of a 64-bit key and a position, so batch mates, preemption, resume and
shards cannot change it, and a GPU computes the same number from the same two integers (splitmix64:
Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014).
"""

from __future__ import annotations

import hashlib

__all__ = ["draw_key", "uniform"]

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def draw_key(seed: int, row_key: str, sample: int) -> int:
    """64-bit key of all draws of one sample of one row.

    `row_key` is the row's id marked as explicit, or its index marked as such, so that a row with id
    "3" and the fourth row without an id differ.
    """
    text = f"{seed}\x1f{sample}\x1f{row_key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def uniform(key: int, position: int) -> float:
    """The draw for the token at `position` of the output, in [0, 1), 53 bits."""
    z = (key + (position + 1) * _GAMMA) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    z ^= z >> 31
    return (z >> 11) * 2.0**-53
