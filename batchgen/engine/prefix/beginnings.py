"""Blocks by what comes before them: where a prompt goes on as one of them begins, it needs not all
of its next block computed.

What many prompts begin with rarely ends where a block does. The whole blocks of it are found by
their hashes; of the next one, up to a block's tokens less one, a later prompt gets a copy.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import NamedTuple

from batchgen.engine.prefix.common import num_common

__all__ = ["Beginning", "Beginnings"]

_MOST_PREFIXES = 4096
_MOST_OF_A_PREFIX = 4
"""Blocks that are compared, the newest: of rows under one instruction any begins alike."""


class Beginning(NamedTuple):
    """A block with a prefix's next tokens. It has them while it is found by `block_hash`, or, if
    that is empty, while `holder` has it without having lost its blocks once more."""

    block: int
    token_ids: array[int]
    block_hash: bytes = b""
    holder: object = None
    num_preemptions: int = 0


class Beginnings:
    """The last blocks that were computed behind each prefix, of so many prefixes at most."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, deque[Beginning]] = OrderedDict()

    def add(self, prefix: bytes, beginning: Beginning) -> None:
        """`prefix`: the hash of the block before it."""
        known = self._known.get(prefix)
        if known is None:
            known = self._known[prefix] = deque(maxlen=_MOST_OF_A_PREFIX)
            if len(self._known) > _MOST_PREFIXES:
                self._known.popitem(last=False)
        known.append(beginning)

    def find(
        self, prefix: bytes, token_ids: array[int], is_there: Callable[[Beginning], bool]
    ) -> tuple[int, int]:
        """The block that has most of `token_ids` in common from its first on, and how many those
        are; (-1, 0) where none has any. `is_there`: whether it may be read."""
        known = self._known.get(prefix)
        if known is None:
            return -1, 0
        self._known.move_to_end(prefix)
        block, most = -1, 0
        for beginning in reversed(known):
            if beginning.token_ids[0] != token_ids[0]:
                continue
            common = num_common(beginning.token_ids, token_ids)
            if common > most and is_there(beginning):
                block, most = beginning.block, common
                if most == len(token_ids):
                    break
        return block, most
