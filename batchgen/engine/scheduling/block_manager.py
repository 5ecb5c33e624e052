"""Who owns which block of the KV cache. Knows counts and ids, never memory. Standard library only.

    free stack --append--> block_table of a sequence --free--> free stack
                     | share (count + 1: samples of one prompt, cached prefixes)
                     | cache (found by its hash)   --free--> idle: free too, and still found by its
                                                             hash until the space is needed

A block with more than one owner is full and never written again; only a table's last block is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from batchgen.engine.prefix.block_index import BlockIndex

__all__ = ["BlockManager"]


class BlockManager:
    """Fixed blocks of `block_size` tokens with reference counts; the most recently freed go first,
    so that a small job touches little memory."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a cache of {num_blocks} blocks of {block_size} tokens holds nothing")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._num_owners = [0] * num_blocks
        self._index = BlockIndex()

    @property
    def num_free(self) -> int:
        """Blocks that nobody owns, idle ones included."""
        return len(self._free) + self._index.num_idle

    def num_blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def num_blocks_needed(self, block_table: list[int], num_tokens: int) -> int:
        """Blocks missing until the table holds `num_tokens` tokens; 0 if it does."""
        return max(0, -(-num_tokens // self.block_size) - len(block_table))

    def append(self, block_table: list[int], num_tokens: int) -> list[int]:
        """Extend the table to hold `num_tokens` tokens; returns the new blocks, [] if it does.

        Raises RuntimeError when there are too few: the scheduler asks before it appends.
        """
        if num_tokens <= len(block_table) * self.block_size:
            return []
        needed = self.num_blocks_needed(block_table, num_tokens)
        if needed > self.num_free:
            raise RuntimeError(f"{needed} blocks needed, {self.num_free} of {self.num_blocks} free")
        # Idle blocks last: what they hold may still be wanted.
        blocks = [self._free.pop() if self._free else self._index.evict() for _ in range(needed)]
        for block in blocks:
            self._num_owners[block] = 1
        block_table += blocks
        return blocks

    def share(self, blocks: Iterable[int]) -> list[int]:
        """Give full blocks one owner more; returns them as the start of that owner's table. Blocks
        that `find_cached` returned may be idle: without an owner."""
        shared = list(blocks)
        for block in shared:
            if not self._index.take(block, owned=self._num_owners[block] > 0):
                raise RuntimeError(f"block {block} has no owner to share it with")
            self._num_owners[block] += 1
        return shared

    def free(self, block_table: list[int]) -> None:
        """Give up a table's blocks and empty it; a block returns when its last owner leaves."""
        for block in reversed(block_table):
            owners = self._num_owners[block] - 1
            if owners < 0:
                raise RuntimeError(f"block {block} freed twice")
            self._num_owners[block] = owners
            # A table's end goes idle first: of a cached prefix the leaves are evicted before the
            # trunk that others may still want.
            if not owners and not self._index.leave(block):
                self._free.append(block)
        block_table.clear()

    def find_cached(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks that hold the longest cached prefix of a sequence with these block hashes."""
        return self._index.find(hashes)

    def is_cached(self, block: int, block_hash: bytes) -> bool:
        """Whether it is this block that is found by the hash."""
        return self._index.has(block, block_hash)

    def num_idle(self, blocks: Iterable[int]) -> int:
        """How many of these blocks have no owner."""
        return sum(not self._num_owners[block] for block in blocks)

    def cache(self, blocks: Sequence[int], hashes: Sequence[bytes]) -> None:
        """Let full blocks be found by their hashes, once the step that computes them is launched:
        every step launched after it may read them."""
        for block, block_hash in zip(blocks, hashes, strict=True):
            self._index.add(block, block_hash)

    def forget_all(self) -> None:
        """Empty the prefix cache."""
        self.forget(self._index.hashed())

    def forget(self, blocks: Iterable[int]) -> None:
        """Take blocks out of the prefix cache: what they hold is not certain any more."""
        for block in blocks:
            if self._index.forget(block):
                self._free.append(block)

    def check_integrity(self, block_tables: Iterable[list[int]]) -> None:
        """Raise RuntimeError unless the given tables and the free stack own every block exactly as
        often as counted: no leak, no block in two places. For tests and the end of a job."""
        owners = [0] * self.num_blocks
        for block_table in block_tables:
            for block in block_table:
                owners[block] += 1
        if owners != self._num_owners:
            wrong = [i for i, n in enumerate(owners) if n != self._num_owners[i]]
            raise RuntimeError(f"blocks with a wrong number of owners: {wrong[:10]}")
        if sorted([*self._free, *self._index.idle()]) != [i for i, n in enumerate(owners) if not n]:
            raise RuntimeError("the free and idle blocks and the unowned ones differ")
