"""Names for full blocks of tokens: a hash over all tokens up to the block's end (vLLM's chain).

Two blocks have one name exactly when the sequences agree up to there, so their keys and values are
equal. The hash is cryptographic: whoever writes prompts cannot make two of them collide.
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
    """Append the names of the full blocks of `token_ids` that `hashes` does not have yet.

    `adapter`: what else keys and values depend on; each has names of its own.
    """
    parent = hashes[-1] if hashes else _root(adapter)
    for start in range(len(hashes) * block_size, len(token_ids) - block_size + 1, block_size):
        block = blake2b(parent, digest_size=_SIZE)
        block.update(token_ids[start : start + block_size])
        parent = block.digest()
        hashes.append(parent)


def _root(adapter: str) -> bytes:
    """What stands before the first block. A digest, so that no name passes for a parent's."""
    if not adapter:
        return b""
    return blake2b(adapter.encode(), digest_size=_SIZE, person=b"adapter").digest()
