"""Hashes of full blocks of tokens, each over all tokens up to its block's end (vLLM's chain).

Two blocks have the same hash exactly when their sequences have the same tokens up to that block's
end, and then their keys and values are equal too. The hash is cryptographic: whoever writes prompts
cannot make two of them collide.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

__all__ = ["BlockHasher", "extend_block_hashes", "root_of"]

_SIZE = 16
"""Bytes of a hash."""
_REMEMBERED = 256
_REMEMBERED_TOKENS = 4 << 20
"""16 MiB, and half as much for their hashes."""


class BlockHasher:
    """Hashes the blocks of sequences, of which many begin alike: what one has in common with an
    earlier one is compared, a few microseconds for a thousand tokens, and not hashed again, a
    hundred.

    Of each first block the last sequence is remembered, of so many first blocks and tokens at most.
    """

    def __init__(self, block_size: int) -> None:
        self._block_size = block_size
        self._recent: dict[bytes, tuple[array[int], Sequence[bytes]]] = {}
        self._num_tokens = 0

    def extend(self, hashes: list[bytes], token_ids: array[int], adapter: str = "") -> None:
        """As `extend_block_hashes`."""
        size = self._block_size
        if hashes or len(token_ids) < 2 * size:
            extend_block_hashes(hashes, token_ids, size, adapter)
            return
        extend_block_hashes(hashes, token_ids[:size], size, adapter)
        first = hashes[0]  # of the adapter, too
        known = self._recent.pop(first, None)
        if known is not None:
            self._num_tokens -= len(known[0])
            hashes += known[1][1 : _num_common(known[0], token_ids) // size]
        extend_block_hashes(hashes, token_ids, size, adapter)
        self._recent[first] = (token_ids[:], tuple(hashes))
        self._num_tokens += len(token_ids)
        while len(self._recent) > _REMEMBERED or self._num_tokens > _REMEMBERED_TOKENS:
            oldest, _ = self._recent.pop(next(iter(self._recent)))
            self._num_tokens -= len(oldest)


def _num_common(a: array[int], b: array[int]) -> int:
    """How many tokens two sequences begin with in common."""
    most = min(len(a), len(b))
    unlike = np.frombuffer(a, np.int32, most) != np.frombuffer(b, np.int32, most)
    place = int(unlike.argmax())
    return place if unlike[place] else most


def extend_block_hashes(
    hashes: list[bytes], token_ids: array[int], block_size: int, adapter: str = ""
) -> None:
    """Append the hashes of the full blocks of `token_ids` that `hashes` does not have yet.

    `adapter`: the LoRA adapter, on which keys and values depend as well; it is hashed first.
    """
    parent = hashes[-1] if hashes else root_of(adapter)
    for start in range(len(hashes) * block_size, len(token_ids) - block_size + 1, block_size):
        block = blake2b(parent, digest_size=_SIZE)
        block.update(token_ids[start : start + block_size])
        parent = block.digest()
        hashes.append(parent)


def root_of(adapter: str) -> bytes:
    """The first block's parent. A digest too, so that no adapter's name passes for a parent."""
    if not adapter:
        return b""
    return blake2b(adapter.encode(), digest_size=_SIZE, person=b"adapter").digest()
