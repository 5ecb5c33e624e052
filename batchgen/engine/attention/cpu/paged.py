"""The CPU's attention backend: a C kernel where one can be compiled, else PyTorch alone.

Keys are kept transposed inside a block, so that one vector holds one dimension of sixteen keys.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from batchgen.engine.attention.copying import TensorCopier
from batchgen.engine.attention.cpu.plain_torch import TorchCache, attend, write
from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec, CacheShape
from batchgen.engine.attention.lazy_memory import lazy_zeros
from batchgen.engine.kernels.build import load_kernels

__all__ = ["CpuAttention", "HostStep"]

_LANES = 16
_DTYPES = (torch.float32, torch.bfloat16)


class _Layer(ctypes.Structure):
    """`Layer` of kernels/tile.h."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("num_heads", "num_kv_heads", "head_dim")),
        *((name, ctypes.c_int64) for name in ("v_head_dim", "block_size", "v_pad", "window")),
        ("bf16", ctypes.c_int64),
        *((name, ctypes.c_double) for name in ("scale", "softcap")),
        *((name, ctypes.c_void_p) for name in ("k", "v")),
    )


class _Step(ctypes.Structure):
    """`Step` of kernels/paged.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("cu_seqlens", "seq_lens", "tables", "slots")),
        ("items", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("table_stride", "num_tokens", "num_items")),
        ("threads", ctypes.c_int64),
    )


class _Tensors(ctypes.Structure):
    """`Tensors` of kernels/paged.c."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out", "sinks", "partial")),
        *((name, ctypes.c_int64) for name in ("q_token", "q_head", "k_token", "k_head")),
        *((name, ctypes.c_int64) for name in ("v_token", "v_head")),
    )


@dataclass(slots=True)
class _KernelCache:
    """One layer's cache in the kernel's layout; `layer` holds pointers into `key` and `value`."""

    key: torch.Tensor  # [num_blocks, num_kv_heads, head_dim, block_size]
    value: torch.Tensor  # [num_blocks, num_kv_heads, block_size, v_pad]
    layer: _Layer


@dataclass(slots=True)
class HostStep:
    """One step's pointers and work items; the tensors are held here to keep them alive."""

    step: _Step
    group: int
    num_slots: int
    tensors: tuple[torch.Tensor, ...]


class CpuAttention:
    """Attention over a paged cache on the CPU: float32 and bfloat16 in C, the rest in PyTorch.

    `use_kernel=False` keeps to PyTorch. The arithmetic of a token does not depend on what else is
    in the step, in the C kernel: its answers are the same at any batch size and chunking.
    """

    name = "cpu"

    def __init__(self, use_kernel: bool = True) -> None:
        self._library = load_kernels() if use_kernel else None
        if self._library is not None:
            self._library.paged_plan.restype = ctypes.c_int64
            self._library.paged_plan.argtypes = [
                *[ctypes.c_void_p] * 2,
                *[ctypes.c_int64] * 2,
                ctypes.c_void_p,
                ctypes.c_int64,
                ctypes.c_void_p,
            ]
            self._library.paged_attention.restype = None
            self._library.paged_write.restype = None

    def allocate(self, spec: AttentionSpec, shape: CacheShape) -> _KernelCache | TorchCache:
        """The empty cache of one attention call; zeros, so that nothing stale is ever NaN."""
        num_blocks, block_size, dtype = shape.num_blocks, shape.block_size, shape.dtype
        if not self.has_kernel(spec, block_size, dtype):
            return TorchCache.allocate(spec, shape)
        v_pad = _rounded_up(spec.v_head_dim)
        key = lazy_zeros(num_blocks, spec.num_kv_heads, spec.head_dim, block_size, dtype=dtype)
        value = lazy_zeros(num_blocks, spec.num_kv_heads, block_size, v_pad, dtype=dtype)
        layer = _Layer(
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            v_head_dim=spec.v_head_dim,
            block_size=block_size,
            v_pad=v_pad,
            window=spec.sliding_window or 0,
            bf16=int(dtype == torch.bfloat16),
            scale=spec.scale,
            softcap=spec.softcap or 0.0,
            k=key.data_ptr(),
            v=value.data_ptr(),
        )
        return _KernelCache(key, value, layer)

    def bytes_per_block(self, spec: AttentionSpec, block_size: int, dtype: torch.dtype) -> int:
        """Memory of one block of one attention call, in bytes."""
        v_pad = spec.v_head_dim
        if self.has_kernel(spec, block_size, dtype):
            v_pad = _rounded_up(v_pad)
        return spec.num_kv_heads * block_size * (spec.head_dim + v_pad) * dtype.itemsize

    def copier(self, caches: Sequence[_KernelCache | TorchCache], num_blocks: int) -> TensorCopier:
        """See the interface."""
        stores = [store for cache in caches for store in (cache.key, cache.value)]
        return TensorCopier(stores, num_blocks)

    def prepare(self, metadata: AttentionMetadata) -> None:
        """Forget the last step's work items; they are made at the first layer that needs them."""
        metadata.host = {}

    def forward(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
        key: torch.Tensor,  # [num_tokens, num_kv_heads, head_dim]
        value: torch.Tensor,  # [num_tokens, num_kv_heads, v_head_dim]
        cache: _KernelCache | TorchCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
        sinks: torch.Tensor | None = None,  # [num_heads]
    ) -> torch.Tensor:  # [num_tokens, num_heads, v_head_dim]
        """Write key and value to their slots, then attend; padded tokens come out as zeros."""
        if isinstance(cache, TorchCache):
            write(cache, key, value, metadata)
            return attend(query, cache, spec, metadata, sinks)
        return self._run(query, key, value, cache, spec, metadata, sinks)

    def store(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: _KernelCache | TorchCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
    ) -> None:
        """Write key and value to their slots. Shapes: see the interface."""
        if isinstance(cache, TorchCache):
            write(cache, key, value, metadata)
            return
        assert self._library is not None
        key, value = (_rows(x, cache.key.dtype) for x in (key, value))
        tensors = _Tensors(k=key.data_ptr(), v=value.data_ptr())
        (tensors.k_token, tensors.k_head), (tensors.v_token, tensors.v_head) = (
            x.stride()[:2] for x in (key, value)
        )
        host = self.host_step(spec, metadata)
        self._library.paged_write(
            ctypes.byref(cache.layer), ctypes.byref(host.step), ctypes.byref(tensors)
        )

    def has_kernel(self, spec: AttentionSpec, block_size: int, dtype: torch.dtype) -> bool:
        """Whether the C kernel serves such a call; PyTorch does otherwise."""
        fits = block_size % _LANES == 0 and dtype in _DTYPES
        return self._library is not None and fits and spec.num_heads % spec.num_kv_heads == 0

    def _run(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: _KernelCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        assert self._library is not None
        host = self.host_step(spec, metadata)
        dtype = cache.key.dtype
        query, key, value = _rows(query, dtype), _rows(key, dtype), _rows(value, dtype)
        shape = (query.shape[0], spec.num_heads, spec.v_head_dim)
        padded = shape[0] > metadata.num_tokens
        out = torch.zeros(shape, dtype=dtype) if padded else torch.empty(shape, dtype=dtype)
        if sinks is not None:
            sinks = sinks.detach().float().contiguous()
        width = host.num_slots * spec.num_heads * (cache.layer.v_pad + 2)
        partial = torch.empty(width, dtype=torch.float32) if width else None
        tensors = _Tensors(
            query.data_ptr(),
            key.data_ptr(),
            value.data_ptr(),
            out.data_ptr(),
            None if sinks is None else sinks.data_ptr(),
            None if partial is None else partial.data_ptr(),
            *(x.stride(i) for x in (query, key, value) for i in (0, 1)),
        )
        self._library.paged_attention(
            ctypes.byref(cache.layer), ctypes.byref(host.step), ctypes.byref(tensors)
        )
        return out

    def host_step(self, spec: AttentionSpec, metadata: AttentionMetadata) -> HostStep:
        """The step as the C kernels see it, made once for all layers of one grouping."""
        group = spec.num_heads // spec.num_kv_heads
        if metadata.host is None:
            self.prepare(metadata)
        host: dict[int, HostStep] = metadata.host
        if group not in host:
            assert self._library is not None
            host[group] = _plan(self._library, group, metadata)
        return host[group]


def _plan(library: Any, group: int, metadata: AttentionMetadata) -> HostStep:
    """Work items of a step for layers whose KV heads serve `group` query heads each."""
    cu_seqlens = metadata.cu_seqlens_q.contiguous()
    seq_lens = metadata.seq_lens.contiguous()
    tables = metadata.block_tables
    tables = tables if tables.stride(-1) == 1 else tables.contiguous()
    slots = metadata.slot_mapping.contiguous()
    num_slots = ctypes.c_int64()
    room = metadata.num_seqs
    while True:
        items = torch.empty(max(room, 1), 8, dtype=torch.int32)
        count = library.paged_plan(
            cu_seqlens.data_ptr(),
            seq_lens.data_ptr(),
            metadata.num_seqs,
            group,
            items.data_ptr(),
            room,
            ctypes.addressof(num_slots),
        )
        if count <= room:
            break
        room = count
    step = _Step(
        cu_seqlens.data_ptr(),
        seq_lens.data_ptr(),
        tables.data_ptr(),
        slots.data_ptr(),
        items.data_ptr(),
        tables.stride(0),
        metadata.num_tokens,
        count,
        torch.get_num_threads(),
    )
    return HostStep(step, group, num_slots.value, (cu_seqlens, seq_lens, tables, slots, items))


def _rows(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor in the cache's dtype, its last dimension dense."""
    if x.dtype != dtype:
        x = x.to(dtype)
    return x if x.stride(-1) == 1 else x.contiguous()


def _rounded_up(size: int) -> int:
    return -(-size // _LANES) * _LANES
