"""A set of row indices at one bit a row, growing as rows come."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["Bitmap"]

_MIN_BYTES = 1024


class Bitmap:
    """Row indices from 0; no Python object a row. One thread adds, any thread may look."""

    def __init__(self) -> None:
        self._bits = bytearray(_MIN_BYTES)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, index: int) -> bool:
        byte = index >> 3
        return byte < len(self._bits) and bool(self._bits[byte] & (1 << (index & 7)))

    def add(self, index: int) -> bool:
        """Add one index; False when it was there."""
        if index in self:
            return False
        self._grow(index)
        self._bits[index >> 3] |= 1 << (index & 7)
        self._count += 1
        return True

    def add_array(self, indices: npt.NDArray[np.int64]) -> None:
        """Add many at once. indices: [num_rows], any order, repetitions allowed."""
        if not len(indices):
            return
        self._grow(int(indices.max()))
        bits = np.frombuffer(self._bits, dtype=np.uint8)
        masks = np.left_shift(1, indices & 7).astype(np.uint8)
        new = np.unique(indices[(bits[indices >> 3] & masks) == 0])
        np.bitwise_or.at(bits, indices >> 3, masks)
        self._count += len(new)

    def contains_array(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which of the indices are in the set. [num_rows]"""
        bits = np.frombuffer(self._bits, dtype=np.uint8)
        inside: npt.NDArray[np.bool_] = indices >> 3 < len(bits)
        holders = bits[np.where(inside, indices >> 3, 0)]
        found: npt.NDArray[np.bool_] = (holders >> (indices & 7).astype(np.uint8)) & 1 == 1
        return inside & found

    def _grow(self, index: int) -> None:
        needed = (index >> 3) + 1
        if needed > len(self._bits):
            grown = bytearray(max(needed, 2 * len(self._bits)))
            grown[: len(self._bits)] = self._bits
            self._bits = grown
