"""The prefix cache's index: block hash -> block, and the order in which unused blocks are evicted.

block hash -> block -> idle (no owner) -> evicted, its hash forgotten

Eviction is LRU in two segments (segmented LRU: Karedla, Love, Wherry, 1994). Idle blocks that were
hit (an instruction) outlive those that never were (the question that ended one row): otherwise one
row's tail would evict what the next thousand rows begin with. Blocks without a hit keep a share of
the memory all the same, so that a new instruction can be hit a first time while an old one is held.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

__all__ = ["BlockIndex"]


_PROBATION_SHARE = 8
"""Of the idle blocks, one in so many may be without a hit; with more of those, they go first."""


class BlockIndex:
    """Hashes of blocks, and the order in which idle ones are evicted. Knows no owners."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._hashes: dict[int, bytes] = {}
        self._hit: set[int] = set()
        self._idle: OrderedDict[int, None] = OrderedDict()  # never hit, the longest idle first
        self._idle_hit: OrderedDict[int, None] = OrderedDict()

    @property
    def num_idle(self) -> int:
        """How many hashed blocks have no owner."""
        return len(self._idle) + len(self._idle_hit)

    def idle(self) -> list[int]:
        """Hashed blocks without an owner."""
        return [*self._idle, *self._idle_hit]

    def hashed(self) -> list[int]:
        """All blocks that have a hash."""
        return list(self._hashes)

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the longest prefix of `hashes` that is cached."""
        found: list[int] = []
        blocks = self._blocks
        for block_hash in hashes:
            block = blocks.get(block_hash)
            if block is None:
                break
            found.append(block)
        return found

    def has(self, block: int, block_hash: bytes) -> bool:
        """Whether it is this block that is found by the hash."""
        return self._hashes.get(block) == block_hash

    def add(self, block: int, block_hash: bytes) -> bool:
        """Let a block be found by its hash; False where another block is found by it already."""
        if block_hash in self._blocks:
            return self._blocks[block_hash] == block
        self._blocks[block_hash] = block
        self._hashes[block] = block_hash
        return True

    def take(self, block: int, *, owned: bool) -> bool:
        """A block that was found gets an owner; False where it has neither a hash nor an owner, so
        that nobody can have found it."""
        known = block in self._hashes
        if known:
            self._hit.add(block)
            self._withdraw(block)
        return known or owned

    def forget(self, block: int) -> bool:
        """Take a block's hash away; whether it was idle, so that it is free now."""
        block_hash = self._hashes.pop(block, None)
        if block_hash is None:
            return False
        del self._blocks[block_hash]
        self._hit.discard(block)
        return self._withdraw(block)

    def leave(self, block: int) -> bool:
        """A block lost its last owner; whether it stays, idle, to be found by its hash."""
        if block not in self._hashes:
            return False
        (self._idle_hit if block in self._hit else self._idle)[block] = None
        return True

    def evict(self) -> int:
        """Give up the idle block that is least likely to be hit: in its segment, the oldest."""
        on_probation = len(self._idle) * _PROBATION_SHARE > self.num_idle
        from_idle = self._idle if on_probation or not self._idle_hit else self._idle_hit
        block, _ = from_idle.popitem(last=False)
        del self._blocks[self._hashes.pop(block)]
        self._hit.discard(block)
        return block

    def _withdraw(self, block: int) -> bool:
        """Take a block out of the idle ones; whether it was one."""
        was_idle = self._idle.pop(block, block) is None
        return self._idle_hit.pop(block, block) is None or was_idle
