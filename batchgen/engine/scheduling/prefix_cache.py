"""The prefix cache as the scheduler uses it: hash a sequence's blocks, find them, add to them."""

from __future__ import annotations

from batchgen.engine.prefix.beginnings import Beginning, Beginnings
from batchgen.engine.prefix.block_hashes import BlockHasher, root_of
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.sequence import Sequence

__all__ = ["PrefixCache"]

_WORTH_SHARE = 8
"""A block's copy is worth one in so many of its tokens: it moves what memory does in the time that
computing a few of them takes."""


class PrefixCache:
    """Finds the cached blocks that a sequence begins with, and one of which it begins with a part.
    Disabled, it finds none. `copies`: whether the runner copies blocks."""

    def __init__(self, block_manager: BlockManager, *, enabled: bool, copies: bool = False) -> None:
        self._manager = block_manager
        self._enabled = enabled
        self._copies = enabled and copies
        self._fresh: set[int] = set()
        self._held: list[int] = []
        self._hasher = BlockHasher(block_manager.block_size)
        self._beginnings = Beginnings()
        self._coming: list[tuple[bytes, Beginning]] = []
        """Of the step that is being made: the next one may copy them."""

    def begin_step(self) -> None:
        """A new step is being made: none of its blocks is computed yet."""
        self._fresh.clear()
        for prefix, beginning in self._coming:
            self._beginnings.add(prefix, beginning)
        self._coming.clear()

    def end_step(self) -> None:
        """The step is made and will be launched next: what it copies may be overwritten by those
        after it."""
        if self._held:
            self._manager.free(self._held)

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

    def hold_beginning(self, sequence: Sequence) -> tuple[int, int]:
        """A block that begins as the one does which comes next in its table, and with how many
        tokens: 0 where a copy would not be worth it. It stays as it is until `end_step`."""
        manager, place = self._manager, len(sequence.block_table)
        size = manager.block_size
        first = place * size
        room = min(size, sequence.first_needed - first)
        if not self._copies or room * _WORTH_SHARE < size:
            return -1, 0
        block, num_tokens = self._beginnings.find(
            self._prefix(sequence, place), sequence.token_ids[first : first + room], self._is_there
        )
        if num_tokens * _WORTH_SHARE < size:
            return -1, 0
        needed = manager.num_blocks_for(sequence.num_tokens) - place + manager.num_idle([block])
        if needed > manager.num_free:
            return -1, 0
        self._held += manager.share([block])
        return block, num_tokens

    def note_computed(self, sequence: Sequence, start: int, end: int) -> None:
        """The step computes its positions `start` to `end`: cache the blocks that are full then."""
        size, hashes = self._manager.block_size, sequence.block_hashes
        if start < len(hashes) * size:
            first, last = start // size, min(end // size, len(hashes))
            blocks = sequence.block_table[first:last]
            if blocks:
                self._manager.cache(blocks, hashes[first:last])
                self._fresh.update(blocks)
                if self._copies:
                    self._note_beginnings(sequence, first, last)
        if self._copies and start < sequence.num_prompt_tokens <= end:
            self._note_end(sequence)

    def _note_beginnings(self, sequence: Sequence, first: int, last: int) -> None:
        size, hashes, tokens = self._manager.block_size, sequence.block_hashes, sequence.token_ids
        for place in range(first, last):
            block, block_hash = sequence.block_table[place], hashes[place]
            of_block = tokens[place * size : (place + 1) * size]
            beginning = Beginning(block, of_block, block_hash)
            self._coming.append((self._prefix(sequence, place), beginning))

    def _note_end(self, sequence: Sequence) -> None:
        """Of a prompt's last block, which is not full and so has no hash: samples of one prompt,
        and short prompts that begin alike, have it in common."""
        size, num_tokens = self._manager.block_size, sequence.num_prompt_tokens
        place = num_tokens // size
        if num_tokens % size * _WORTH_SHARE < size or place > len(sequence.block_hashes):
            return
        block, of_block = sequence.block_table[place], sequence.token_ids[place * size : num_tokens]
        beginning = Beginning(block, of_block, b"", sequence, sequence.num_preemptions)
        self._coming.append((self._prefix(sequence, place), beginning))

    def _is_there(self, beginning: Beginning) -> bool:
        """Whether it has not been given up since, nor its step failed: then the step that is being
        made may compute the same anew, in the same block."""
        block, holder = beginning.block, beginning.holder
        if not isinstance(holder, Sequence):
            is_cached = self._manager.is_cached(block, beginning.block_hash)
            return is_cached and block not in self._fresh
        num_tokens = holder.num_prompt_tokens
        place = num_tokens // self._manager.block_size
        return (
            holder.num_preemptions == beginning.num_preemptions
            and holder.num_computed_tokens >= num_tokens
            and holder.block_table[place : place + 1] == [block]
        )

    @staticmethod
    def _prefix(sequence: Sequence, place: int) -> bytes:
        """The hash of the block before the one at this place in its table."""
        if place:
            return sequence.block_hashes[place - 1]
        return root_of(sequence.request.params.adapter)
