"""The prefix cache as the scheduler uses it: hash a sequence's blocks, find them, add to them."""

from __future__ import annotations

from batchgen.engine.prefix.block_hashes import BlockHasher
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["PrefixCache"]


class PrefixCache:
    """Finds the cached blocks that a sequence begins with. Disabled, it finds none."""

    def __init__(self, block_manager: BlockManager, *, enabled: bool) -> None:
        self._manager = block_manager
        self._enabled = enabled
        self._fresh: set[int] = set()
        self._hasher = BlockHasher(block_manager.block_size)

    def begin_step(self) -> None:
        """A new step is being made: none of its blocks is computed yet."""
        self._fresh.clear()

    def hash_blocks(self, sequence: Sequence) -> None:
        """Hash the full blocks of all its known tokens."""
        if self._enabled:
            adapter = sequence.request.params.adapter
            self._hasher.extend(sequence.block_hashes, sequence.token_ids, adapter)

    def find(self, sequence: Sequence) -> list[int]:
        """Cached blocks of its longest prefix, but for positions that must be computed anyway."""
        hashes = sequence.block_hashes
        if not hashes:
            return []
        most = sequence.first_needed // self._manager.block_size
        return self._manager.find_cached(hashes if len(hashes) <= most else hashes[:most])

    def is_fresh(self, blocks: list[int]) -> bool:
        """Whether the step that is being made computes one of them: only the next may read it."""
        return bool(self._fresh) and not self._fresh.isdisjoint(blocks)

    def note_computed(self, sequence: Sequence, start: int, end: int) -> None:
        """The step computes its positions `start` to `end`: cache the blocks that are full then."""
        size, hashes = self._manager.block_size, sequence.block_hashes
        if len(hashes) * size <= start:
            return
        first, last = start // size, min(end // size, len(hashes))
        blocks = sequence.block_table[first:last]
        if blocks:
            self._manager.cache(blocks, hashes[first:last])
            self._fresh.update(blocks)
