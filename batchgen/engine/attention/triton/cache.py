"""The paged KV cache of the Triton backend: its layout and the kernel that writes it.

Keys are [num_blocks, num_kv_heads, block_size, head_dim]: the tokens of a block and head lie
together, so one tile of keys is one contiguous read. Values alike, with their own head size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from batchgen.engine.attention.interface import AttentionSpec, CacheShape
from batchgen.engine.attention.triton.float8 import saturated
from batchgen.engine.attention.triton.tuning import Tile

__all__ = ["PagedCache", "allocate_cache", "descriptors", "write_cache", "write_tokens"]


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Keys and values of one attention call."""

    keys: torch.Tensor  # [num_blocks, num_kv_heads, block_size, head_dim]
    values: torch.Tensor  # [num_blocks, num_kv_heads, block_size, v_head_dim]

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self.keys.shape[2]


def allocate_cache(spec: AttentionSpec, shape: CacheShape) -> PagedCache:
    """An empty cache."""
    sizes = (shape.num_blocks, spec.num_kv_heads, shape.block_size)
    kind: dict[str, Any] = {"dtype": shape.dtype, "device": shape.device}
    return PagedCache(
        torch.zeros((*sizes, spec.head_dim), **kind), torch.zeros((*sizes, spec.v_head_dim), **kind)
    )


def descriptors(cache: PagedCache, tile: Tile) -> tuple[Any, Any]:
    """The caches as rows of one head and token each, in tiles."""
    if not tile.tma:
        return cache.keys, cache.values
    keys, values = (
        TensorDescriptor.from_tensor(
            store.view(-1, store.shape[-1]), [tile.block_n, store.shape[-1]]
        )
        for store in (cache.keys, cache.values)
    )
    return keys, values


def write_cache(
    key: torch.Tensor, value: torch.Tensor, cache: PagedCache, slot_mapping: torch.Tensor
) -> None:
    """Store each token's key and value in its slot; slot -1 is skipped. Views may be strided.

    key: [num_tokens, num_kv_heads, head_dim], value: [num_tokens, num_kv_heads, v_head_dim]
    """
    num_tokens, num_kv_heads, dim = key.shape
    v_dim = value.shape[2]
    write_kernel[(num_tokens,)](
        key,
        value,
        cache.keys,
        cache.values,
        slot_mapping,
        key.stride(0),
        key.stride(1),
        value.stride(0),
        value.stride(1),
        NUM_KV_HEADS=num_kv_heads,
        DIM=dim,
        V_DIM=v_dim,
        BLOCK_SIZE=cache.block_size,
        HEADS=triton.next_power_of_2(num_kv_heads),
        PADDED=triton.next_power_of_2(dim),
        V_PADDED=triton.next_power_of_2(v_dim),
        num_warps=4,
    )


@triton.jit  # type: ignore[untyped-decorator]
def write_tokens(
    source: tl.tensor, cache: tl.tensor, tokens: tl.tensor, heads: tl.tensor, slots: tl.tensor,
    valid: tl.tensor, stride: tl.tensor, head_stride: tl.tensor, NUM_KV_HEADS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr, PADDED: tl.constexpr,
) -> None:  # fmt: skip
    """Copy rows of `source` [num_tokens, num_kv_heads, DIM] to their slots.

    heads or tokens may be a scalar; slots and valid are [n]. Slots below 0 are skipped.
    """
    dims = tl.arange(0, PADDED)
    rows = (slots // BLOCK_SIZE * NUM_KV_HEADS + heads) * BLOCK_SIZE + slots % BLOCK_SIZE
    origin = tokens.to(tl.int64) * stride + heads * head_stride
    kept = (valid & (slots >= 0))[:, None] & (dims < DIM)[None, :]
    data = tl.load(source + origin[:, None] + dims[None, :], mask=kept)
    if cache.dtype.element_ty == tl.float8e4nv:
        data = saturated(data)
    tl.store(cache + rows[:, None] * DIM + dims[None, :], data, mask=kept)


@triton.jit(do_not_specialize_on_alignment=["slot_mapping"])  # type: ignore[untyped-decorator]
def write_kernel(
    key: tl.tensor, value: tl.tensor, k_cache: tl.tensor, v_cache: tl.tensor,
    slot_mapping: tl.tensor, key_stride: tl.tensor, key_head_stride: tl.tensor,
    value_stride: tl.tensor, value_head_stride: tl.tensor, NUM_KV_HEADS: tl.constexpr,
    DIM: tl.constexpr, V_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr, HEADS: tl.constexpr,
    PADDED: tl.constexpr, V_PADDED: tl.constexpr,
) -> None:  # fmt: skip
    """One program per token."""
    token = tl.program_id(0)
    slot = tl.load(slot_mapping + token).to(tl.int64)
    if slot >= 0:
        heads = tl.arange(0, HEADS)
        valid = heads < NUM_KV_HEADS
        slots = tl.zeros_like(heads) + slot
        write_tokens(
            *(key, k_cache, token, heads, slots, valid, key_stride, key_head_stride),
            *(NUM_KV_HEADS, BLOCK_SIZE, DIM, PADDED),
        )
        write_tokens(
            *(value, v_cache, token, heads, slots, valid, value_stride, value_head_stride),
            *(NUM_KV_HEADS, BLOCK_SIZE, V_DIM, V_PADDED),
        )
