"""Which block holds which named tokens, and which of them nobody uses: the prefix cache's memory.

name -> block -> idle (no owner, least recently used first) -> evicted, its name forgotten
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

__all__ = ["BlockIndex"]


class BlockIndex:
    """Names of blocks, and the order in which idle ones are given up. Knows no owners."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()

    @property
    def idle(self) -> OrderedDict[int, None]:
        """Named blocks without an owner, the next to be evicted first."""
        return self._idle

    def named(self) -> list[int]:
        """All blocks that have a name."""
        return list(self._names)

    def find(self, names: Iterable[bytes]) -> list[int]:
        """The blocks of the longest known beginning of `names`."""
        found: list[int] = []
        blocks = self._blocks
        for name in names:
            block = blocks.get(name)
            if block is None:
                break
            found.append(block)
        return found

    def add(self, block: int, name: bytes) -> bool:
        """Name a block; False where another one holds the same tokens already."""
        if name in self._blocks:
            return self._blocks[name] == block
        self._blocks[name] = block
        self._names[block] = name
        return True

    def forget(self, block: int) -> bool:
        """Take a block's name away; whether it was idle, so that it is free now."""
        name = self._names.pop(block, None)
        if name is None:
            return False
        del self._blocks[name]
        return self._idle.pop(block, block) is None

    def leave(self, block: int) -> bool:
        """A block lost its last owner; whether it stays, idle, for its name."""
        if block not in self._names:
            return False
        self._idle[block] = None
        return True

    def revive(self, block: int) -> bool:
        """An idle block gets an owner again; False where it is not idle."""
        return self._idle.pop(block, block) is None

    def evict(self) -> int:
        """Give up the idle block that was used longest ago."""
        block, _ = self._idle.popitem(last=False)
        del self._blocks[self._names.pop(block)]
        return block
