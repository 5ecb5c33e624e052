"""What an attention backend is: it owns the layout of one layer's KV cache, writes and attends.

All tokens of a step form one ragged row: sequence i owns query tokens
`cu_seqlens_q[i]:cu_seqlens_q[i + 1]`, its last one sits at position `seq_lens[i] - 1`, and it sees
its own keys 0..position alone (block-diagonal causal mask). Keys live in blocks of `block_size`
tokens; `block_tables[i]` lists the blocks of sequence i. `reference.py` is the oracle.

Keys that several decoding rows begin with may be read once for all of them (cascade attention):
`AttentionMetadata.shared` says which rows share which keys. A backend attends to the shared keys
and to the rest of a row's keys separately, and merges the two by their log-sum-exp. It may also
ignore `shared` and read all of a row's blocks, which are in its block table anyway. Under tensor
parallelism a spec has the rank's own heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

__all__ = [
    "MAX_SHARED_ITEMS",
    "ROW_WORDS",
    "SHARED_WORDS",
    "AttentionBackend",
    "AttentionMetadata",
    "AttentionSpec",
    "BlockCopier",
    "SharedReads",
    "SharingShape",
]

MAX_SHARED_ITEMS = 64
SHARED_WORDS = 8
"""int32 words of an item, a stretch of shared keys that is read once: a sequence in whose block
table the keys are, the first of its members in `members`, how many there are, first key, end
key."""
ROW_WORDS = 8
"""int32 words of a sequence: how many of its keys are read by items; then, for each of the two
levels, the first item that does, into how many items those keys are split, and the sequence's place
among the item's members."""


@dataclass(frozen=True, slots=True)
class AttentionSpec:
    """One attention call of the model's forward, as discovery saw it."""

    index: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    """Of queries and keys."""
    v_head_dim: int
    scale: float
    sliding_window: int | None = None
    """A query at position p sees keys p - sliding_window + 1 .. p."""
    softcap: float | None = None
    """Scores become softcap * tanh(scores / softcap)."""
    has_sinks: bool = False
    """A learned logit per head joins each softmax's denominator (gpt-oss)."""


@dataclass(frozen=True, slots=True)
class SharingShape:
    """How a backend wants shared reads to be cut into items."""

    members: int
    """Most sequences that one item serves."""
    grain: int
    """Items begin and end at multiples of so many keys."""
    wanted_items: int
    """As many items as fill the device."""
    max_items: int
    worth_keys: int
    """Shared reads pay from so many saved reads of keys on, over all rows of a step."""


@dataclass(frozen=True, slots=True)
class SharedReads:
    """Keys that several decoding sequences (of one query token) see whole and alike.

    There are two levels (an instruction, and below it a document); on each, a sequence is a member
    of at most one stretch of keys. Sequences without any have zeros in `rows`; items without keys
    are not run.
    """

    items: torch.Tensor  # int32 [max_items, SHARED_WORDS]
    members: torch.Tensor  # int32 [2 * num_seqs]
    rows: torch.Tensor  # int32 [num_seqs, ROW_WORDS]


@dataclass(slots=True)
class AttentionMetadata:
    """One step, for all layers. Tensors lie on the model's device; ints are host numbers.

    Rows past `num_seqs` and tokens past `num_tokens` may be padding (graph buckets): a padded
    sequence has no query tokens, a padded token has slot -1 and must not be written.
    """

    cu_seqlens_q: torch.Tensor  # int32 [num_seqs + 1]
    seq_lens: torch.Tensor  # int32 [num_seqs]: keys visible to the last query token
    block_tables: torch.Tensor  # int32 [num_seqs, max_blocks]
    slot_mapping: torch.Tensor  # int64 [num_tokens]: block * block_size + offset; -1 = do not write
    block_size: int
    num_seqs: int
    num_tokens: int
    max_seqlen_q: int
    max_seqlen_k: int
    shared: SharedReads | None = None
    host: Any = None
    """What a backend prepared on the host for this step (see `AttentionBackend.prepare`)."""


@dataclass(frozen=True, slots=True)
class CacheShape:
    """A KV cache. `dtype`: the model's, or float8 (e4m3), then saturated on writing."""

    num_blocks: int
    block_size: int
    dtype: torch.dtype
    device: torch.device


class BlockCopier(Protocol):
    """Copies blocks within the caches of all layers that it was made for."""

    def copy(self, pairs: Sequence[tuple[int, int]]) -> None:
        """From the first block of each pair to the second, which no other pair has, in the order of
        the device's other work."""


class AttentionBackend(Protocol):
    """Stateless but for its tuning; one instance serves all layers."""

    name: str

    def allocate(self, spec: AttentionSpec, shape: CacheShape) -> Any:
        """The empty KV cache of one attention call, in this backend's own layout."""

    def bytes_per_block(self, spec: AttentionSpec, block_size: int, dtype: torch.dtype) -> int:
        """Memory of one block of one attention call, in bytes."""

    def copier(self, caches: Sequence[Any], num_blocks: int) -> BlockCopier:
        """Of the caches of all attention calls, as `allocate` returned them."""

    def prepare(self, metadata: AttentionMetadata) -> None:
        """Once a step, before the first layer: fill `metadata.host` if the backend needs it."""

    def forward(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
        key: torch.Tensor,  # [num_tokens, num_kv_heads, head_dim]
        value: torch.Tensor,  # [num_tokens, num_kv_heads, v_head_dim]
        cache: Any,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
        sinks: torch.Tensor | None = None,  # [num_heads]
    ) -> torch.Tensor:  # [num_tokens, num_heads, v_head_dim]
        """Write key and value to their slots, then attend; inputs may be strided views."""

    def store(
        self,
        key: torch.Tensor,  # [num_tokens, num_kv_heads, head_dim]
        value: torch.Tensor,  # [num_tokens, num_kv_heads, v_head_dim]
        cache: Any,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
    ) -> None:
        """Write key and value to their slots, and no more."""
