"""What two rows have in common."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

__all__ = ["num_common"]


def num_common(a: Sequence[Any] | array[int], b: Sequence[Any] | array[int]) -> int:
    """How many items two sequences of one type begin with in common; slices are compared, not
    items."""
    same, most = 0, min(len(a), len(b))
    while same < most:
        middle = (same + most + 1) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            most = middle - 1
    return same
