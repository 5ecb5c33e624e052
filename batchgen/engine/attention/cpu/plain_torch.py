"""Paged attention on the CPU in PyTorch alone: for machines without a compiler, and other dtypes.

Sequences of like length share one matmul-softmax-matmul with the query heads of a group folded
into rows, so that no key is repeated and little padding is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec, CacheShape
from batchgen.engine.attention.lazy_memory import zeroed_rows

__all__ = ["TorchCache", "attend", "write"]

_QUERY_BLOCK = 256
"""Query tokens of one chunk attended to at once: bounds the matrix of scores."""
_PADDING = 1.25
"""The longest sequence of a group over its shortest."""
_SLACK_KEYS = 16


@dataclass(slots=True)
class TorchCache:
    """One layer's cache, a row per slot."""

    key: torch.Tensor  # [num_blocks * block_size, num_kv_heads, head_dim]
    value: torch.Tensor  # [num_blocks * block_size, num_kv_heads, v_head_dim]

    @classmethod
    def allocate(cls, spec: AttentionSpec, shape: CacheShape) -> TorchCache:
        """The empty cache."""
        return cls(*zeroed_rows(spec, shape))


@dataclass(frozen=True, slots=True)
class _Group:
    """Sequences attended to together, or one block of one chunk."""

    seqs: list[int]
    tokens: torch.Tensor  # int64 [num_seqs, num_queries]: rows of the step
    ends: torch.Tensor  # int64 [num_seqs, num_queries]: one past the last key each query sees
    num_keys: int


def write(
    cache: TorchCache, key: torch.Tensor, value: torch.Tensor, metadata: AttentionMetadata
) -> None:
    """Put the step's keys and values into their slots; slot -1 is not written."""
    slots = metadata.slot_mapping[: metadata.num_tokens]
    key, value = key[: metadata.num_tokens], value[: metadata.num_tokens]
    if bool((slots < 0).any()):
        kept = slots >= 0
        slots, key, value = slots[kept], key[kept], value[kept]
    cache.key[slots] = key.to(cache.key.dtype)
    cache.value[slots] = value.to(cache.value.dtype)


def attend(
    query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
    cache: TorchCache,
    spec: AttentionSpec,
    metadata: AttentionMetadata,
    sinks: torch.Tensor | None,
) -> torch.Tensor:  # [num_tokens, num_heads, v_head_dim]
    """Each query against its own sequence's keys; padded tokens come out as zeros."""
    out = query.new_zeros(query.shape[0], spec.num_heads, spec.v_head_dim)
    for group in _groups(metadata):
        out[group.tokens] = _attend_group(query, cache, spec, metadata, sinks, group)
    return out


def _groups(metadata: AttentionMetadata) -> Iterator[_Group]:
    starts = metadata.cu_seqlens_q.tolist()
    lens = metadata.seq_lens.tolist()
    decodes: list[int] = []
    for seq in range(metadata.num_seqs):
        num_queries = starts[seq + 1] - starts[seq]
        if num_queries == 1:
            decodes.append(seq)
            continue
        for first in range(0, num_queries, _QUERY_BLOCK):
            last = min(first + _QUERY_BLOCK, num_queries)
            tokens = torch.arange(starts[seq] + first, starts[seq] + last)
            ends = torch.arange(first, last) + (lens[seq] - num_queries + 1)
            yield _Group([seq], tokens[None], ends[None], int(ends[-1]))
    decodes.sort(key=lambda seq: lens[seq])
    for seqs in _of_like_length(decodes, lens):
        tokens = torch.tensor([[starts[seq]] for seq in seqs])
        ends = torch.tensor([[lens[seq]] for seq in seqs])
        yield _Group(seqs, tokens, ends, lens[seqs[-1]])


def _of_like_length(seqs: list[int], lens: list[int]) -> Iterator[list[int]]:
    group: list[int] = []
    for seq in seqs:
        if group and lens[seq] > lens[group[0]] * _PADDING + _SLACK_KEYS:
            yield group
            group = []
        group.append(seq)
    if group:
        yield group


def _attend_group(
    query: torch.Tensor,
    cache: TorchCache,
    spec: AttentionSpec,
    metadata: AttentionMetadata,
    sinks: torch.Tensor | None,
    group: _Group,
) -> torch.Tensor:  # [num_seqs, num_queries, num_heads, v_head_dim]
    num_seqs, num_queries = group.tokens.shape
    slots = _slots(group, metadata)  # [num_seqs, num_keys]
    folded = (num_seqs, num_queries, spec.num_kv_heads, -1, spec.head_dim)
    rows = query[group.tokens].view(folded).permute(0, 2, 3, 1, 4)  # [s, kv, group, q, dim]
    rows = rows.reshape(num_seqs, spec.num_kv_heads, -1, spec.head_dim)
    keys = cache.key[slots].permute(0, 2, 3, 1)  # [s, kv, dim, keys]
    values = cache.value[slots].transpose(1, 2)  # [s, kv, keys, dim]
    scores = torch.matmul(rows, keys.to(rows.dtype)).float() * spec.scale
    if spec.softcap:
        scores = torch.tanh(scores / spec.softcap) * spec.softcap
    scores = scores.view(num_seqs, spec.num_kv_heads, -1, num_queries, group.num_keys)
    scores.masked_fill_(_hidden(group, spec)[:, None, None], float("-inf"))
    weights = _softmax(scores, sinks).flatten(2, 3).to(query.dtype)
    out = torch.matmul(weights, values.to(query.dtype))  # [s, kv, group * q, dim]
    out = out.view(num_seqs, spec.num_heads, num_queries, spec.v_head_dim)
    return out.transpose(1, 2)


def _slots(group: _Group, metadata: AttentionMetadata) -> torch.Tensor:
    """Where each key lies; keys past a sequence's end point at its first block and are masked."""
    size = metadata.block_size
    num_blocks = -(-group.num_keys // size)
    tables = metadata.block_tables[torch.tensor(group.seqs), :num_blocks].long()
    held = -(-group.ends[:, -1:] // size)  # [num_seqs, 1]
    tables = torch.where(torch.arange(num_blocks) < held, tables, tables[:, :1])
    slots = tables[:, :, None] * size + torch.arange(size)
    return slots.flatten(1)[:, : group.num_keys]


def _hidden(group: _Group, spec: AttentionSpec) -> torch.Tensor:  # [num_seqs, queries, keys]
    position = torch.arange(group.num_keys)
    hidden = position >= group.ends[:, :, None]
    if spec.sliding_window:
        hidden |= position < group.ends[:, :, None] - spec.sliding_window
    return hidden


def _softmax(scores: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Over keys, in float32; a sink is one more key per head that has no value."""
    if sinks is None:
        return torch.softmax(scores, dim=-1)
    sink = sinks.float().view(1, scores.shape[1], scores.shape[2], 1, 1)
    sink = sink.expand(*scores.shape[:-1], 1)
    return torch.softmax(torch.cat((scores, sink), dim=-1), dim=-1)[..., :-1]
