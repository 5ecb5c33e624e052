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


class _Branch(NamedTuple):
    """Neighbours `first` to `last` in the order of their hashes that begin with the same blocks."""

    num_blocks: int
    first: int
    last: int


def admission_order(rows: Iterable[Row]) -> list[int]:
    """Indices into `rows`, the first to be admitted first."""
    rows = list(rows)
    ranks = [(-row.remaining, row.arrival) for row in rows]
    sorted_rows = sorted(range(len(rows)), key=lambda i: list(rows[i].hashes))
    paths: list[list[tuple[int, int]]] = [[] for _ in rows]
    """Ranks of the branches that a row lies in, from the trunk on, and its own."""
    for branch in sorted(_branches([rows[i].hashes for i in sorted_rows])):
        members = sorted_rows[branch.first : branch.last + 1]
        first_of_all = min(ranks[i] for i in members)
        for i in members:
            paths[i].append(first_of_all)
    for path, rank in zip(paths, ranks, strict=True):
        path.append(rank)
    return sorted(range(len(rows)), key=paths.__getitem__)


def _branches(hashes: Sequence[Sequence[bytes]]) -> list[_Branch]:
    """All sets of two or more rows that begin alike, of sorted rows: those which are the same set
    at several lengths once (the intervals of a suffix array: Abouelhoda, Kurtz, Ohlebusch, 2004).
    """
    found = []
    open_branches: list[tuple[int, int]] = []  # (num_blocks, first), the deepest last
    for last, this in enumerate(hashes):
        is_end = last + 1 == len(hashes)
        common = 0 if is_end else _num_common(this, hashes[last + 1])
        first = last
        while open_branches and open_branches[-1][0] > common:
            num_blocks, first = open_branches.pop()
            found.append(_Branch(num_blocks, first, last))
        if common > (open_branches[-1][0] if open_branches else 0):
            open_branches.append((common, first))
    return found


def _num_common(a: Sequence[bytes], b: Sequence[bytes]) -> int:
    """How many hashes two rows begin with in common; slices are compared, not items."""
    same, most = 0, min(len(a), len(b))
    while same < most:
        middle = (same + most + 1) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            most = middle - 1
    return same
