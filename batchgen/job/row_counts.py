"""Rows and a small number for each, at some 12 bytes a row: as many as the job has, perhaps."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

__all__ = ["RowCounts"]

Indices = npt.NDArray[np.int64]


class RowCounts:
    """`rows`, sorted, and the `counts` beside them. [num_rows] both"""

    __slots__ = ("counts", "rows")

    def __init__(self, rows: Indices, counts: npt.NDArray[np.int32]) -> None:
        self.rows, self.counts = rows, counts

    @classmethod
    def of(cls, occurrences: Iterable[Indices]) -> RowCounts:
        """How often each row occurs in all of these."""
        rows = np.concatenate([np.empty(0, np.int64), *occurrences])
        if not len(rows):
            return cls(rows, np.empty(0, np.int32))  # a first run's: what follows imports numpy.ma
        rows, counts = np.unique(rows, return_counts=True)
        return cls(rows, counts.astype(np.int32))

    @classmethod
    def first_of(cls, rows: Indices, counts: Indices) -> RowCounts:
        """What stands beside each row where it is first met."""
        rows, places = np.unique(rows, return_index=True)
        return cls(rows, counts[places].astype(np.int32))

    def __len__(self) -> int:
        return len(self.rows)

    def get(self, row: int) -> int:
        """The row's number; 0 where it has none."""
        if not len(self.rows):
            return 0  # a first run asks so for every row
        place = int(np.searchsorted(self.rows, row))
        there = place < len(self.rows) and self.rows[place] == row
        return int(self.counts[place]) if there else 0

    def contains_array(self, indices: Indices) -> npt.NDArray[np.bool_]:
        """Which of these rows have one. [num_indices]"""
        if not len(self.rows):
            return np.zeros(len(indices), np.bool_)
        places = np.minimum(np.searchsorted(self.rows, indices), len(self.rows) - 1)
        found: npt.NDArray[np.bool_] = self.rows[places] == indices
        return found
