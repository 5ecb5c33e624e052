"""The paged KV cache of the Triton backend: its layout and the kernel that writes it.

Keys are [num_blocks, num_kv_heads, block_size, head_dim]: the tokens of a block and head lie
together, so one tile of keys is one contiguous read. Values alike, with their own head size; in
float8 they are [num_blocks, num_kv_heads, v_head_dim, block_size]. The product with values sums
over keys, and tensor cores take what they sum over side by side: 16-bit values are turned on their
way from shared memory, for bytes there is no such instruction (they would be read one by one).
So that tiles of them can be loaded whole, values in float8 are never NaN: the key is, instead.
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

_SECTOR = 32
"""Bytes that memory reads and writes at once: so many float8 values of a dimension and head."""


@dataclass(frozen=True, slots=True)
class PagedCache:
    """Keys and values of one attention call."""

    keys: torch.Tensor  # [num_blocks, num_kv_heads, block_size, head_dim]
    values: torch.Tensor
    """[num_blocks, num_kv_heads, block_size, v_head_dim]; in float8 the last two the other way."""

    @property
    def block_size(self) -> int:
        """Tokens of a block."""
        return self.keys.shape[2]

    @property
    def values_by_token(self) -> torch.Tensor:
        """A view [num_blocks, num_kv_heads, block_size, v_head_dim] whatever the type."""
        upright = self.values.dtype == torch.float8_e4m3fn
        return self.values.transpose(2, 3) if upright else self.values


def allocate_cache(spec: AttentionSpec, shape: CacheShape) -> PagedCache:
    """An empty cache."""
    sizes = (shape.num_blocks, spec.num_kv_heads)
    kind: dict[str, Any] = {"dtype": shape.dtype, "device": shape.device}
    values = (shape.block_size, spec.v_head_dim)
    if shape.dtype == torch.float8_e4m3fn:
        values = (spec.v_head_dim, shape.block_size)
    return PagedCache(
        torch.zeros((*sizes, shape.block_size, spec.head_dim), **kind),
        torch.zeros((*sizes, *values), **kind),
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
    by_token = cache.values.dtype != torch.float8_e4m3fn
    grid = (num_tokens,) if by_token else (triton.cdiv(num_tokens, _SECTOR), num_kv_heads)
    write_kernel[grid](
        key,
        value,
        cache.keys,
        cache.values,
        slot_mapping,
        num_tokens,
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
        TOKENS=1 if by_token else _SECTOR,
        num_warps=4,
    )


@triton.jit  # type: ignore[untyped-decorator]
def _rows(
    source: tl.tensor, tokens: tl.tensor, heads: tl.tensor, kept: tl.tensor, stride: tl.tensor,
    head_stride: tl.tensor, DIM: tl.constexpr, PADDED: tl.constexpr,
) -> tl.tensor:  # fmt: skip
    """[n, PADDED] of `source` [num_tokens, num_kv_heads, DIM]."""
    dims = tl.arange(0, PADDED)
    origin = tokens.to(tl.int64) * stride + heads * head_stride
    inside = kept[:, None] & (dims < DIM)[None, :]
    return tl.load(source + origin[:, None] + dims[None, :], mask=inside, other=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def write_tokens(
    key: tl.tensor, value: tl.tensor, k_cache: tl.tensor, v_cache: tl.tensor, tokens: tl.tensor,
    heads: tl.tensor, slots: tl.tensor, valid: tl.tensor, key_stride: tl.tensor,
    key_head_stride: tl.tensor, value_stride: tl.tensor, value_head_stride: tl.tensor,
    NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr,
    PADDED: tl.constexpr, V_PADDED: tl.constexpr,
) -> None:  # fmt: skip
    """Copy keys and values of some tokens and heads to their slots.

    heads or tokens may be a scalar; slots and valid are [n]. Slots below 0 are skipped.
    """
    kept = valid & (slots >= 0)
    k = _rows(key, tokens, heads, kept, key_stride, key_head_stride, DIM, PADDED)
    v = _rows(value, tokens, heads, kept, value_stride, value_head_stride, V_DIM, V_PADDED)
    FLOAT8: tl.constexpr = v_cache.dtype.element_ty == tl.float8e4nv
    if FLOAT8:
        # Values are read without a mask, others' too: what is no number is told by its key.
        lost = tl.max((v != v).to(tl.int32), 1) > 0
        k = saturated(tl.where(lost[:, None], float("nan"), k.to(tl.float32)))
        v = saturated(tl.where(v != v, 0.0, v.to(tl.float32)))
    dims, v_dims = tl.arange(0, PADDED), tl.arange(0, V_PADDED)
    blocks, places = (slots // BLOCK_SIZE * NUM_KV_HEADS + heads)[:, None], slots % BLOCK_SIZE
    k_places = (places * DIM)[:, None] + dims[None, :]
    if FLOAT8:
        v_places = places[:, None] + (v_dims * BLOCK_SIZE)[None, :]
    else:
        v_places = (places * V_DIM)[:, None] + v_dims[None, :]
    inside, v_inside = (
        kept[:, None] & (dims < DIM)[None, :],
        kept[:, None] & (v_dims < V_DIM)[None, :],
    )
    tl.store(k_cache + blocks * (BLOCK_SIZE * DIM) + k_places, k, mask=inside)
    tl.store(v_cache + blocks * (BLOCK_SIZE * V_DIM) + v_places, v, mask=v_inside)


@triton.jit(  # type: ignore[untyped-decorator]
    do_not_specialize=["num_tokens"], do_not_specialize_on_alignment=["slot_mapping"]
)
def write_kernel(
    key: tl.tensor, value: tl.tensor, k_cache: tl.tensor, v_cache: tl.tensor,
    slot_mapping: tl.tensor, num_tokens: tl.tensor, key_stride: tl.tensor,
    key_head_stride: tl.tensor, value_stride: tl.tensor, value_head_stride: tl.tensor,
    NUM_KV_HEADS: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr, PADDED: tl.constexpr, V_PADDED: tl.constexpr, TOKENS: tl.constexpr,
) -> None:  # fmt: skip
    """One program per token, or per TOKENS tokens and head."""
    if TOKENS == 1:
        token = tl.program_id(0)
        slot = tl.load(slot_mapping + token).to(tl.int64)
        if slot >= 0:
            heads = tl.arange(0, HEADS)
            write_tokens(
                key, value, k_cache, v_cache, token, heads, tl.zeros_like(heads) + slot,
                heads < NUM_KV_HEADS, key_stride, key_head_stride, value_stride, value_head_stride,
                NUM_KV_HEADS, BLOCK_SIZE, DIM, V_DIM, PADDED, V_PADDED,
            )  # fmt: skip
    else:
        tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
        there = tokens < num_tokens
        slots = tl.load(slot_mapping + tokens, mask=there, other=-1).to(tl.int64)
        if tl.max(slots, 0) >= 0:
            write_tokens(
                key, value, k_cache, v_cache, tokens, tl.program_id(1), slots, there,
                key_stride, key_head_stride, value_stride, value_head_stride,
                NUM_KV_HEADS, BLOCK_SIZE, DIM, V_DIM, PADDED, V_PADDED,
            )  # fmt: skip
