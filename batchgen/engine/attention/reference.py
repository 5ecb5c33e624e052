"""The oracle: paged attention in plain PyTorch, with the block-diagonal causal mask written out.

Runs on any device, clear before fast. Every faster backend is tested against this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from batchgen.engine.attention.copying import TensorCopier
from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec, CacheShape
from batchgen.engine.attention.lazy_memory import zeroed_rows

__all__ = ["ReferenceBackend", "ReferenceCache"]

MAX_SCORES_PER_CHUNK = 1 << 24
"""Scores (queries x keys x heads) held at once: 64 MiB in fp32."""


@dataclass(slots=True)
class ReferenceCache:
    """Keys and values of one attention call, one row a slot."""

    key: torch.Tensor  # [num_blocks * block_size, num_kv_heads, head_dim]
    value: torch.Tensor  # [num_blocks * block_size, num_kv_heads, v_head_dim]


@dataclass(slots=True)
class _Step:
    """What all layers share: the row of queries, and the row of all keys that they may see."""

    query_seq: torch.Tensor  # [num_tokens]: the sequence of each query
    query_pos: torch.Tensor  # [num_tokens]
    key_seq: torch.Tensor  # [num_keys]
    key_pos: torch.Tensor  # [num_keys]
    key_slot: torch.Tensor  # [num_keys]: its row in the cache
    written: torch.Tensor  # [num_written]: the queries whose key and value are kept
    written_slot: torch.Tensor  # [num_written]
    query_seq_host: list[int]
    cu_keys: list[int]  # num_seqs + 1: where each sequence's keys start
    masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict)

    def key_range(self, start: int, stop: int) -> tuple[int, int]:
        """The keys of all sequences that have a query in `start:stop`."""
        return self.cu_keys[self.query_seq_host[start]], self.cu_keys[
            self.query_seq_host[stop - 1] + 1
        ]

    def mask(self, start: int, stop: int, window: int | None) -> torch.Tensor:
        """Which key each query of `start:stop` sees: bool [stop - start, keys of its range]."""
        found = self.masks.get((start, stop, window))
        if found is None:
            found = self._build_mask(start, stop, window)
            self.masks[start, stop, window] = found
        return found

    def _build_mask(self, start: int, stop: int, window: int | None) -> torch.Tensor:
        first, last = self.key_range(start, stop)
        distance = self.query_pos[start:stop, None] - self.key_pos[None, first:last]
        mask = self.query_seq[start:stop, None] == self.key_seq[None, first:last]
        mask &= distance >= 0
        if window is not None:
            mask &= distance < window
        return mask


class ReferenceBackend:
    """Masked attention over the gathered keys of the step; scores and softmax in fp32."""

    name = "reference"

    def allocate(self, spec: AttentionSpec, shape: CacheShape) -> ReferenceCache:
        """Zeroed rows for the tokens of all blocks."""
        return ReferenceCache(*zeroed_rows(spec, shape))

    def bytes_per_block(self, spec: AttentionSpec, block_size: int, dtype: torch.dtype) -> int:
        """Memory of one block of one attention call, in bytes."""
        return block_size * spec.num_kv_heads * (spec.head_dim + spec.v_head_dim) * dtype.itemsize

    def copier(self, caches: Sequence[ReferenceCache], num_blocks: int) -> TensorCopier:
        """See the interface."""
        stores = [store for cache in caches for store in (cache.key, cache.value)]
        return TensorCopier(stores, num_blocks)

    def prepare(self, metadata: AttentionMetadata) -> None:
        """Lay out the step's queries and keys once, for all layers."""
        metadata.host = _lay_out(metadata)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: ReferenceCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Write, gather, attend; padded tokens come out as zeros. Shapes: see the interface."""
        step: _Step = metadata.host
        self.store(key, value, cache, spec, metadata)
        out = query.new_zeros(query.shape[0], spec.num_heads, spec.v_head_dim)
        if not step.query_seq_host:
            return out
        keys = _gathered(cache.key, step.key_slot)  # [num_keys, num_kv_heads, head_dim]
        values = _gathered(cache.value, step.key_slot)
        chunk = max(1, MAX_SCORES_PER_CHUNK // (len(step.key_slot) * spec.num_heads))
        for start in range(0, len(step.query_seq_host), chunk):
            stop = min(start + chunk, len(step.query_seq_host))
            first, last = step.key_range(start, stop)
            out[start:stop] = _attend(
                query[start:stop].float(),
                keys[first:last],
                values[first:last],
                step.mask(start, stop, spec.sliding_window),
                spec,
                sinks,
            )
        return out

    def store(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: ReferenceCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
    ) -> None:
        """Write key and value to their slots; shapes: see the interface."""
        step: _Step = metadata.host
        cache.key[step.written_slot] = _rounded(key[step.written], cache.key.dtype)
        cache.value[step.written_slot] = _rounded(value[step.written], cache.value.dtype)


def _rounded(data: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """In the cache's dtype; float8 saturates; torch before 2.13 makes NaN of what is beyond it."""
    if dtype == torch.float8_e4m3fn:
        largest = torch.finfo(dtype).max
        data = data.clamp(-largest, largest)
    return data.to(dtype)


def _gathered(store: torch.Tensor, slots: torch.Tensor) -> torch.Tensor:
    """Rows of the cache in float32; float8 as bytes, since CUDA does not index it."""
    if store.dtype == torch.float8_e4m3fn:
        return store.view(torch.uint8)[slots].view(store.dtype).float()
    return store[slots].float()


def _lay_out(metadata: AttentionMetadata) -> _Step:
    device = metadata.seq_lens.device
    cu_queries = metadata.cu_seqlens_q[: metadata.num_seqs + 1].tolist()
    seq_lens = metadata.seq_lens[: metadata.num_seqs].tolist()
    query_seq: list[int] = []
    query_pos: list[int] = []
    cu_keys = [0]
    for index, seq_len in enumerate(seq_lens):
        num_queries = cu_queries[index + 1] - cu_queries[index]
        query_seq += [index] * num_queries
        query_pos += range(seq_len - num_queries, seq_len)
        cu_keys.append(cu_keys[-1] + (seq_len if num_queries else 0))
    lengths = torch.tensor(cu_keys, device=device).diff()
    key_seq = torch.repeat_interleave(torch.arange(len(seq_lens), device=device), lengths)
    key_pos = torch.arange(cu_keys[-1], device=device)
    key_pos -= torch.tensor(cu_keys[:-1], device=device, dtype=torch.int64)[key_seq]
    block = metadata.block_tables[key_seq, key_pos // metadata.block_size].long()
    slots = metadata.slot_mapping[: metadata.num_tokens]
    written = torch.nonzero(slots >= 0).flatten()
    return _Step(
        query_seq=torch.tensor(query_seq, device=device),
        query_pos=torch.tensor(query_pos, device=device),
        key_seq=key_seq,
        key_pos=key_pos,
        key_slot=block * metadata.block_size + key_pos % metadata.block_size,
        written=written,
        written_slot=slots[written],
        query_seq_host=query_seq,
        cu_keys=cu_keys,
    )


def _attend(
    query: torch.Tensor,  # [num_queries, num_heads, head_dim]
    key: torch.Tensor,  # [num_keys, num_kv_heads, head_dim]
    value: torch.Tensor,  # [num_keys, num_kv_heads, v_head_dim]
    mask: torch.Tensor,  # bool [num_queries, num_keys]
    spec: AttentionSpec,
    sinks: torch.Tensor | None,  # [num_heads]
) -> torch.Tensor:  # [num_queries, num_heads, v_head_dim]
    num_queries = query.shape[0]
    grouped = query.reshape(num_queries, spec.num_kv_heads, -1, spec.head_dim)
    scores = torch.einsum("qhgd,khd->hgqk", grouped, key) * spec.scale
    if spec.softcap is not None:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    scores = scores.masked_fill(~mask, -torch.inf)
    if sinks is not None:
        column = sinks.float().reshape(spec.num_kv_heads, -1, 1, 1)
        scores = torch.cat([scores, column.expand(-1, -1, num_queries, 1)], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : key.shape[0]]
    out = torch.einsum("hgqk,khd->qhgd", weights, value)
    return out.reshape(num_queries, spec.num_heads, spec.v_head_dim)
