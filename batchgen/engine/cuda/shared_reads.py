"""Which decoding rows of a step read which keys together: groups of rows whose tables begin with
the same blocks, cut into items for the device.

Two levels: an instruction that many rows share, and below it the document that some of them do. The
host's table names blocks, so nothing else has to be known of prompts: equal beginnings lie in the
same blocks because the prefix cache put them there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from batchgen.engine.attention.interface import ROW_WORDS, SHARED_WORDS, SharingShape
from batchgen.engine.scheduling.step import ScheduledStep

__all__ = ["Group", "SharedPlan", "find_groups", "plan_shared_reads", "sharing_shape_of"]

_Ints = npt.NDArray[np.int32]
_FEWEST_ROWS = 4
_FEWEST_KEYS = 1024
"""A group that saves fewer reads of keys than this is not worth an item."""
_MOST_SPLITS = 16


class Group(NamedTuple):
    """Rows of a step that have the keys from `first` to `end` in common, on one of two levels."""

    rows: _Ints
    first: int
    end: int
    level: int = 0

    @property
    def saved(self) -> int:
        """Reads of keys that need not be made."""
        return (len(self.rows) - 1) * (self.end - self.first)


@dataclass(frozen=True, slots=True)
class SharedPlan:
    """`SharedReads` on the host, its arrays as long as the step needs; `saved` keys in all."""

    items: _Ints  # [num_items, SHARED_WORDS]
    members: _Ints  # [num_members]
    rows: _Ints  # [num_seqs, ROW_WORDS]
    saved: int


def sharing_shape_of(model: Any, block_size: int) -> SharingShape | None:
    """What the model's backend asks for; None where it reads every row's keys apart. Its caches
    are allocated before."""
    sharing = getattr(getattr(model, "backend", None), "sharing", None)
    if sharing is None:
        return None
    shape: SharingShape | None = sharing(model.specs, model.cache_dtype, block_size, model.device)
    return shape


def plan_shared_reads(
    step: ScheduledStep, table: _Ints, block_size: int, shape: SharingShape
) -> SharedPlan | None:
    """`table` [num_slots, max_blocks]. None where it does not pay."""
    starts = np.array(step.starts, dtype=np.int64)
    decodes = np.array(step.num_tokens, dtype=np.int64) == 1
    whole = np.where(decodes, starts // block_size, 0)  # blocks that a row sees whole
    if np.count_nonzero(whole) < _FEWEST_ROWS:
        return None
    groups = list(find_groups(table, np.array(step.slots), whole, block_size, shape.grain))
    groups = _fitting(groups, shape)
    saved = sum(group.saved for group in groups)
    if not groups or saved < shape.worth_keys:
        return None
    return _cut(groups, len(step), shape, saved)


def find_groups(
    table: _Ints, slots: npt.NDArray[np.int64], whole: _Ints, block_size: int, grain: int
) -> Iterator[Group]:
    """Groups of rows, each row in one at most on either level. `whole` [num_rows]: blocks of a
    row's table that count."""
    for trunk in _alike(table[slots, 0], np.flatnonzero(whole)):
        depth = _common(table, slots, whole, trunk, 0)
        end = depth * block_size // grain * grain
        group = Group(trunk, 0, end)
        first = end if group.saved >= _FEWEST_KEYS else 0
        if first:
            yield group
        deeper = trunk[whole[trunk] > depth].astype(np.int64)
        if len(deeper) < _FEWEST_ROWS:
            continue
        for branch in _alike(table[slots, depth], deeper):
            end = _common(table, slots, whole, branch, depth) * block_size // grain * grain
            group = Group(branch, first, end, 1)
            if group.saved >= _FEWEST_KEYS:
                yield group


def _alike(names: _Ints, rows: npt.NDArray[np.int64]) -> Iterator[_Ints]:
    """Those of `rows` that have one name, `_FEWEST_ROWS` or more at a time."""
    order = rows[np.argsort(names[rows], kind="stable")]
    found = names[order]
    if not (found[_FEWEST_ROWS - 1 :] == found[: 1 - _FEWEST_ROWS]).any():
        return
    borders = np.flatnonzero(found[1:] != found[:-1]) + 1
    for start, end in pairwise([0, *borders.tolist(), len(order)]):
        if end - start >= _FEWEST_ROWS:
            yield order[start:end].astype(np.int32)


def _common(
    table: _Ints, slots: npt.NDArray[np.int64], whole: _Ints, rows: _Ints, depth: int
) -> int:
    """How many leading blocks `rows` have in common, `depth` or more."""
    most = int(whole[rows].min())
    blocks = table[slots[rows], depth:most]
    differ = np.flatnonzero((blocks != blocks[0]).any(axis=0))
    return depth + int(differ[0]) if len(differ) else most


def _fitting(groups: list[Group], shape: SharingShape) -> list[Group]:
    """Those that save most, so many that one item for each tile of rows has room; a branch that
    begins behind a trunk stays only with it."""
    groups = sorted(groups, key=lambda group: (group.level and group.first > 0, -group.saved))
    kept: list[Group] = []
    trunks: set[int] = set()
    room = shape.max_items
    for group in groups:
        tiles = -(-len(group.rows) // shape.members)
        if tiles > room or (group.level and group.first and int(group.rows[0]) not in trunks):
            continue
        if not group.level:
            trunks.update(group.rows.tolist())
        room -= tiles
        kept.append(group)
    return kept


def _splits(groups: list[Group], shape: SharingShape) -> list[int]:
    """Into how many items each group's keys are cut, so that together they fill the device."""
    tiles = [-(-len(group.rows) // shape.members) for group in groups]
    lengths = [group.end - group.first for group in groups]
    piece = sum(t * n for t, n in zip(tiles, lengths, strict=True)) / shape.wanted_items
    while True:
        splits = [
            max(1, min(_MOST_SPLITS, n // shape.grain, round(n / max(piece, 1)))) for n in lengths
        ]
        if sum(t * s for t, s in zip(tiles, splits, strict=True)) <= shape.max_items:
            return splits
        piece = max(piece, 1) * 1.5


def _cut(groups: list[Group], num_rows: int, shape: SharingShape, saved: int) -> SharedPlan:
    items: list[tuple[int, ...]] = []
    members: list[_Ints] = []
    rows = np.zeros((num_rows, ROW_WORDS), dtype=np.int32)
    place = 0
    for group, splits in zip(groups, _splits(groups, shape), strict=True):
        grains = (group.end - group.first) // shape.grain
        cuts = [group.first + grains * s // splits * shape.grain for s in range(splits + 1)]
        for start in range(0, len(group.rows), shape.members):
            tile = group.rows[start : start + shape.members]
            words = np.zeros((len(tile), 3), dtype=np.int32)
            words[:, 0], words[:, 1], words[:, 2] = len(items), splits, np.arange(len(tile))
            rows[tile, 1 + 3 * group.level : 4 + 3 * group.level] = words
            rows[tile, 0] = group.end  # trunks come first, branches reach further
            owner, count = int(tile[0]), len(tile)
            items += [(owner, place, count, first, end, 0, 0, 0) for first, end in pairwise(cuts)]
            members.append(tile)
            place += len(tile)
    return SharedPlan(
        np.array(items, dtype=np.int32).reshape(-1, SHARED_WORDS),
        np.concatenate(members),
        rows,
        saved,
    )
