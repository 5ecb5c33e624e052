"""Which block holds which named tokens, and which of them nobody uses: the prefix cache's memory.

name -> block -> idle (no owner) -> evicted, its name forgotten

Idle blocks that were found again (an instruction) outlive those that never were (the question that
ended one row): a row's own tail would otherwise push out what the next thousand rows begin with.
The never found keep a share of the memory all the same, so that a new instruction can be found a
first time while an old one is still held.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

__all__ = ["BlockIndex"]


_PROBATION_SHARE = 8
"""One idle block in so many may be one that was never found, before the found ones give way."""


class BlockIndex:
    """Names of blocks, and the order in which idle ones are given up. Knows no owners."""

    def __init__(self) -> None:
        self._blocks: dict[bytes, int] = {}
        self._names: dict[int, bytes] = {}
        self._found: set[int] = set()
        self._idle: OrderedDict[int, None] = OrderedDict()  # never found, the longest idle first
        self._idle_found: OrderedDict[int, None] = OrderedDict()

    @property
    def num_idle(self) -> int:
        """How many named blocks have no owner."""
        return len(self._idle) + len(self._idle_found)

    def idle(self) -> list[int]:
        """Named blocks without an owner."""
        return [*self._idle, *self._idle_found]

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

    def take(self, block: int, *, owned: bool) -> bool:
        """Whoever found a block owns it from now on; False where it has neither name nor owner, so
        that nobody can have found it."""
        known = block in self._names
        if known:
            self._found.add(block)
            self._withdraw(block)
        return known or owned

    def forget(self, block: int) -> bool:
        """Take a block's name away; whether it was idle, so that it is free now."""
        name = self._names.pop(block, None)
        if name is None:
            return False
        del self._blocks[name]
        self._found.discard(block)
        return self._withdraw(block)

    def leave(self, block: int) -> bool:
        """A block lost its last owner; whether it stays, idle, for its name."""
        if block not in self._names:
            return False
        (self._idle_found if block in self._found else self._idle)[block] = None
        return True

    def evict(self) -> int:
        """Give up the idle block that is least likely to be found; of like ones the first."""
        on_probation = len(self._idle) * _PROBATION_SHARE > self.num_idle
        from_idle = self._idle if on_probation or not self._idle_found else self._idle_found
        block, _ = from_idle.popitem(last=False)
        del self._blocks[self._names.pop(block)]
        self._found.discard(block)
        return block

    def _withdraw(self, block: int) -> bool:
        """Out of the idle ones; whether it was one."""
        was_idle = self._idle.pop(block, block) is None
        return self._idle_found.pop(block, block) is None or was_idle
