"""The order in which a window's rows are admitted: those with a common prefix stand together.

The rows' block hashes form a prefix tree. Its branches are walked longest output first, and so are
the rows of a branch; ties go by arrival. A row that shares nothing is a branch of its own, so rows
without common prefixes are ordered by output length alone: long ones first, for a short tail.
Instruction, document and question come out as nested branches without anybody marking them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

__all__ = ["Row", "admission_order"]


class Row(NamedTuple):
    """`hashes` of its full blocks, the tokens it may still generate, and its place of arrival."""

    hashes: Sequence[bytes]
    remaining: int
    arrival: int


class _Branch:
    """Rows that begin with the same blocks: how many, and who of them goes first."""

    __slots__ = ("count", "rank")

    def __init__(self) -> None:
        self.count = 0
        self.rank = (1, 0)

    def add(self, rank: tuple[int, int]) -> None:
        self.count += 1
        self.rank = min(self.rank, rank)


def admission_order(rows: Iterable[Row]) -> list[int]:
    """Indices into `rows`, the first to be admitted first."""
    rows = list(rows)
    ranks = [(-row.remaining, row.arrival) for row in rows]
    branches: dict[bytes, _Branch] = {}
    for row, rank in zip(rows, ranks, strict=True):
        for block_hash in row.hashes:
            branch = branches.get(block_hash)
            if branch is None:
                branch = branches[block_hash] = _Branch()
            branch.add(rank)
    paths = [_path(row, rank, branches) for row, rank in zip(rows, ranks, strict=True)]
    return sorted(range(len(rows)), key=paths.__getitem__)


def _path(
    row: Row, rank: tuple[int, int], branches: dict[bytes, _Branch]
) -> tuple[tuple[int, int], ...]:
    """Ranks of the branches that a row lies in, from the trunk on, and its own."""
    path: list[tuple[int, int]] = []
    count = 0
    for block_hash in row.hashes:
        branch = branches[block_hash]
        if branch.count == 1:
            break
        if branch.count != count:  # some rows went another way here
            count = branch.count
            path.append(branch.rank)
    path.append(rank)
    return tuple(path)
