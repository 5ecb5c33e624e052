"""Sizes that steps are padded to, so that few CUDA graphs serve every step."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

__all__ = ["Bucket", "Buckets", "sizes_up_to", "token_sizes"]

FINEST = 16
"""Sizes are multiples of this: kernels specialise on divisibility by 16."""


class Bucket(NamedTuple):
    """Room for so many tokens and sequences."""

    num_tokens: int
    num_seqs: int
    shares: bool = False
    """Whether keys are read for several sequences at once: such steps have graphs of their own."""

    @property
    def is_decode(self) -> bool:
        """Whether every sequence has one token at most."""
        return self.num_tokens == self.num_seqs


class Buckets:
    """Sizes of decode steps, which are many, and of steps with prompt chunks.

    `large_model`: products take most of a step; see `token_sizes`.
    """

    def __init__(
        self, max_num_tokens: int, max_num_seqs: int, *, large_model: bool = False
    ) -> None:
        self._decode = _sizes(max_num_seqs, steps_per_octave=4)
        self._seqs = _sizes(max_num_seqs, steps_per_octave=2, first=64)
        most_tokens = max(max_num_tokens, self._seqs[-1] + 1)  # a mixed step has more tokens
        self._tokens = token_sizes(most_tokens, large_model=large_model)

    def find(self, num_tokens: int, num_seqs: int) -> Bucket:
        """The smallest bucket with room for a step."""
        if num_tokens == num_seqs:
            size = _at_least(self._decode, num_seqs)
            return Bucket(size, size)
        seqs = _at_least(self._seqs, num_seqs)
        tokens = _at_least(self._tokens, max(num_tokens, seqs + 1))
        return Bucket(tokens, seqs)

    @property
    def largest(self) -> Bucket:
        """Room for any step."""
        return Bucket(self._tokens[-1], self._seqs[-1])


def token_sizes(largest: int, *, large_model: bool) -> list[int]:
    """Ascending, what steps with prompt chunks are padded to; the last holds `largest` tokens.

    Products work in tiles of 64 to 320 rows, a wave of tiles at a time. Of an 8B model's layer in
    bfloat16 an H200 computes 512 rows in 302 us, but 480 in 305, 448 in 408 and 416 in 295; 1,024
    in 580 and 832 in 559 (cuBLAS 13, `jobs/bench_products.py`). So a large model has no size
    between 3/2 and 2 of a power of two: padding there costs less than it seems, another graph more.
    """
    sizes = _sizes(largest, steps_per_octave=4, first=64)
    if large_model and sizes[-1] % 7 == 0:
        sizes.append(sizes[-1] // 7 * 8)
    return [size for size in sizes if size % 7] if large_model else sizes


def sizes_up_to(largest: int) -> list[int]:
    """Every size that steps of so many tokens may be padded to, ascending; the last holds them."""
    return _sizes(largest, steps_per_octave=8)


def _sizes(largest: int, steps_per_octave: int, first: int = FINEST) -> list[int]:
    """`first`, then `steps_per_octave` sizes for each doubling, the last one at least `largest`."""
    sizes = [first]
    while sizes[-1] < largest:
        octave = first
        while octave * 2 <= sizes[-1]:
            octave *= 2
        sizes.append(sizes[-1] + max(FINEST, octave // steps_per_octave // FINEST * FINEST))
    return sizes


def _at_least(sizes: list[int], wanted: int) -> int:
    return sizes[bisect_left(sizes, wanted)]
