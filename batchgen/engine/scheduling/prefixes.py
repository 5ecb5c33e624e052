"""What sequences begin with, found again in blocks: the prefix cache as the scheduler uses it."""

from __future__ import annotations

from batchgen.engine.prefix.block_hashes import extend_block_hashes
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["PrefixCache"]


class PrefixCache:
    """Names the full blocks of sequences, and finds blocks by their names. Disabled, it finds
    nothing."""

    def __init__(self, block_manager: BlockManager, *, enabled: bool) -> None:
        self._manager = block_manager
        self._enabled = enabled
        self._fresh: set[int] = set()

    def begin_step(self) -> None:
        """From here on blocks are computed by another step."""
        self._fresh.clear()

    def name(self, sequence: Sequence) -> None:
        """Name the full blocks of all its known tokens."""
        if self._enabled:
            size, adapter = self._manager.block_size, sequence.request.params.adapter
            extend_block_hashes(sequence.block_names, sequence.token_ids, size, adapter)

    def find(self, sequence: Sequence) -> list[int]:
        """Blocks that hold its beginning already, what it needs computed left out."""
        names = sequence.block_names
        if not names:
            return []
        most = sequence.first_needed // self._manager.block_size
        return self._manager.cached(names if len(names) <= most else names[:most])

    def is_fresh(self, blocks: list[int]) -> bool:
        """Whether the step that is being made computes one of them: to be read by the next."""
        return bool(self._fresh) and not self._fresh.isdisjoint(blocks)

    def note_computed(self, sequence: Sequence, start: int, end: int) -> None:
        """Its tokens from `start` to `end` are as good as computed: let their blocks be found."""
        size, names = self._manager.block_size, sequence.block_names
        if len(names) * size <= start:
            return
        first, last = start // size, min(end // size, len(names))
        blocks = sequence.block_table[first:last]
        if blocks:
            self._manager.name(blocks, names[first:last])
            self._fresh.update(blocks)
