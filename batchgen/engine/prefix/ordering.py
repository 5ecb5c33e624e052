"""The order in which a window's rows are admitted: those with a common prefix stand together.

The rows' block hashes form a prefix tree. Its branches are walked longest output first, and so are
the rows of a branch; ties go by arrival. A row that shares nothing is a branch of its own, so rows
without common prefixes are ordered by output length alone: long ones first, for a short tail.
Instruction, document and question come out as nested branches without anybody marking them.

A branch's rows stand together so that what they share is in the cache while they run, and read for
few branches at once. Where all of the window may run at once anyway, it is, wherever they stand:
then output length alone counts, for the last branch's long rows would end the job alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

from batchgen.engine.prefix.common import num_common

__all__ = ["Room", "Row", "admission_order"]


_ROOM_SHARE = 0.9
"""Of the cache: with less to spare, rows may have to wait for each other after all."""


class Row(NamedTuple):
    """`hashes` of its full blocks, the tokens it may still generate, its place of arrival, and the
    tokens that it may have in the end."""

    hashes: Sequence[bytes]
    remaining: int
    arrival: int
    most_tokens: int = 0


class Room(NamedTuple):
    """What may run at once: so many sequences, and tokens that the KV cache holds of them."""

    num_sequences: int
    num_tokens: int
    block_size: int


class _Branch(NamedTuple):
    """Neighbours `first` to `last` in the order of their hashes that begin with the same blocks."""

    num_blocks: int
    first: int
    last: int


def admission_order(rows: Iterable[Row], room: Room | None = None) -> list[int]:
    """Indices into `rows`, the first to be admitted first; `room`: None: not for all of them."""
    rows = list(rows)
    ranks = [(-row.remaining, row.arrival) for row in rows]
    sorted_rows = sorted(range(len(rows)), key=lambda i: list(rows[i].hashes))
    in_order = [rows[i].hashes for i in sorted_rows]
    common = [num_common(*pair) for pair in pairwise(in_order)]
    paths: list[list[tuple[int, int]]] = [[] for _ in rows]
    """Ranks of the branches that a row lies in, from the trunk on, and its own."""
    if room is not None and _run_at_once(rows, sum(common), room):
        for path, row in zip(paths, rows, strict=True):
            path.append((-row.remaining, 0))
    for branch in sorted(_branches(common)):
        members = sorted_rows[branch.first : branch.last + 1]
        first_of_all = min(ranks[i] for i in members)
        for i in members:
            paths[i].append(first_of_all)
    for path, rank in zip(paths, ranks, strict=True):
        path.append(rank)
    return sorted(range(len(rows)), key=paths.__getitem__)


def _run_at_once(rows: Sequence[Row], num_repeated: int, room: Room) -> bool:
    """Whether there is room for all; `num_repeated`: blocks that a row before has already."""
    tokens = sum(row.most_tokens for row in rows) - num_repeated * room.block_size
    return len(rows) <= room.num_sequences and tokens <= _ROOM_SHARE * room.num_tokens


def _branches(lengths: Sequence[int]) -> list[_Branch]:
    """All sets of two or more rows that begin alike: those which are the same set at several
    lengths once (the intervals of a suffix array: Abouelhoda, Kurtz, Ohlebusch, 2004). `lengths`:
    of what each row but the last has in common with the next, in the order of their hashes."""
    found = []
    open_branches: list[tuple[int, int]] = []  # (num_blocks, first), the deepest last
    for last, common in enumerate([*lengths, 0]):
        first = last
        while open_branches and open_branches[-1][0] > common:
            num_blocks, first = open_branches.pop()
            found.append(_Branch(num_blocks, first, last))
        if common > (open_branches[-1][0] if open_branches else 0):
            open_branches.append((common, first))
    return found
