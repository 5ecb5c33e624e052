"""Hashes of full blocks of tokens, each over all tokens up to its block's end (vLLM's chain).

Two blocks have the same hash exactly when their sequences have the same tokens up to that block's
end, and then their keys and values are equal too. The hash is cryptographic: whoever writes prompts
cannot make two of them collide.
"""

from __future__ import annotations

from array import array
from hashlib import blake2b

__all__ = ["extend_block_hashes"]

_SIZE = 16
"""Bytes of a hash."""


def extend_block_hashes(
    hashes: list[bytes], token_ids: array[int], block_size: int, adapter: str = ""
) -> None:
    """Append the hashes of the full blocks of `token_ids` that `hashes` does not have yet.

    `adapter`: the LoRA adapter, on which keys and values depend as well; it is hashed first.
    """
    parent = hashes[-1] if hashes else _root(adapter)
    for start in range(len(hashes) * block_size, len(token_ids) - block_size + 1, block_size):
        block = blake2b(parent, digest_size=_SIZE)
        block.update(token_ids[start : start + block_size])
        parent = block.digest()
        hashes.append(parent)


def _root(adapter: str) -> bytes:
    """The first block's parent. A digest too, so that no adapter's name passes for a parent."""
    if not adapter:
        return b""
    return blake2b(adapter.encode(), digest_size=_SIZE, person=b"adapter").digest()
