"""The CUDA attention backend: paged cache, one Triton kernel for prompt chunks and decode.

A step makes at most two launches a layer besides the cache write: sequences whose rows fit one
small tile (decode), then those with more (chunks). The second is launched only where the bucket's
`max_seqlen_q` allows for chunks. Lengths and tables are read on the device and grids depend on
bucket sizes alone, so a captured step may be replayed with any other lengths.

The workspace of split entries is shared by all layers: run one step at a time on a device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from triton.tools.tensor_descriptor import TensorDescriptor

from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec
from batchgen.engine.attention.triton.cache import PagedCache, allocate_cache, write_cache
from batchgen.engine.attention.triton.device import num_sms
from batchgen.engine.attention.triton.kernels import attention_kernel
from batchgen.engine.attention.triton.plan import Plan, PlanKey, ceil_div, make_plan
from batchgen.engine.attention.triton.tuning import Tile, Tuner, chunk_tile, decode_tile, padded

__all__ = ["Launch", "TritonBackend"]


@dataclass(frozen=True, slots=True)
class Launch:
    """One launch for one kind of layer: how it is tiled and which plan it follows."""

    tile: Tile
    key: PlanKey


@dataclass(slots=True)
class _Workspace:
    """Pieces of split entries: float32 accumulators, and (peak, total) of their softmax."""

    acc: torch.Tensor
    stats: torch.Tensor


@dataclass(slots=True)
class TritonBackend:
    """Implements `AttentionBackend`; see interface.py for the meaning of every argument.

    `launches` and `launch` are for those who compile the kernels without a step: what a layer
    launches, and the one place where that is done.
    """

    decode_tuner: Tuner = decode_tile
    chunk_tuner: Tuner = chunk_tile
    name: str = "triton"
    _launches: dict[tuple[AttentionSpec, torch.dtype, int], tuple[Launch, Launch]] = field(
        default_factory=dict
    )
    _workspaces: dict[torch.device, _Workspace] = field(default_factory=dict)

    def allocate(
        self,
        spec: AttentionSpec,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> PagedCache:
        """An empty cache; also grows the workspace, so call it before any capture."""
        cache = allocate_cache(spec, num_blocks, block_size, dtype, device)
        self.launches(spec, cache)
        return cache

    def bytes_per_block(self, spec: AttentionSpec, block_size: int, dtype: torch.dtype) -> int:
        """Memory of one block of one attention call, in bytes."""
        return block_size * spec.num_kv_heads * (spec.head_dim + spec.v_head_dim) * dtype.itemsize

    def prepare(self, metadata: AttentionMetadata) -> None:
        """Compute on the device the plans of every kind of layer allocated so far."""
        metadata.host = {}
        metadata.slot_mapping = metadata.slot_mapping.int()  # one width: kernels compile once
        for (_, _, block_size), launches in self._launches.items():
            if block_size == metadata.block_size:
                for launch in _needed(launches, metadata):
                    _plan(launch.key, metadata)

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: PagedCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Write key and value to their slots, then attend; inputs may be strided views."""
        key, value = _unit(key), _unit(value)
        launches = _needed(self.launches(spec, cache), metadata)
        if len(launches) == 1:
            return self._attend(query, cache, spec, metadata, sinks, None, (key, value))
        write_cache(key, value, cache, metadata.slot_mapping)
        return self._attend(query, cache, spec, metadata, sinks, None, None)

    def attend(
        self,
        query: torch.Tensor,  # [num_tokens, num_heads, head_dim]
        cache: PagedCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
        sinks: torch.Tensor | None = None,
        lse: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attend to what the cache holds: [num_tokens, num_heads, v_head_dim].

        `lse`, float32 [num_tokens, num_heads], gets each softmax's natural log-sum-exp (sinks
        included), so that two passes can be merged. Rows of padded tokens, in both, are left as
        they are.
        """
        return self._attend(query, cache, spec, metadata, sinks, lse, None)

    def _attend(
        self,
        query: torch.Tensor,
        cache: PagedCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
        sinks: torch.Tensor | None,
        lse: torch.Tensor | None,
        new: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> torch.Tensor:
        """`new`: keys and values for the kernel to write first (decode only)."""
        out = query.new_empty((query.shape[0], spec.num_heads, spec.v_head_dim))
        query = _unit(query)
        for launch in _needed(self.launches(spec, cache), metadata):
            self.launch(launch, query, cache, spec, metadata, out, sinks, lse, new)
        return out

    def launch(
        self,
        launch: Launch,
        query: torch.Tensor,
        cache: PagedCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
        out: torch.Tensor,
        sinks: torch.Tensor | None,
        lse: torch.Tensor | None,
        new: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> None:
        """One launch of the attention kernel over the cache, by `metadata`'s plan for it.

        query: [num_tokens, num_heads, head_dim] with a dense last dimension; out and lse as
        `attend` has them; `new`: keys and values for the kernel to write first.
        """
        key, value = new or (query, query)
        plan, tile = _plan(launch.key, metadata), launch.tile
        space = self._workspaces[query.device]
        softcap = spec.softcap or 0.0
        attention_kernel[(plan.max_items * spec.num_kv_heads,)](
            query,
            key,
            value,
            metadata.slot_mapping,
            *_descriptors(cache, tile),
            cache.keys,
            cache.values,
            out,
            out if lse is None else lse,
            out if sinks is None else sinks,
            plan.items,
            plan.counters,
            metadata.block_tables,
            space.acc,
            space.stats,
            spec.scale if softcap else spec.scale * math.log2(math.e),
            softcap,
            launch.key.window,
            query.stride(0),
            query.stride(1),
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            metadata.block_tables.stride(0),
            GROUP=launch.key.group,
            NUM_KV_HEADS=spec.num_kv_heads,
            DIM=spec.head_dim,
            V_DIM=spec.v_head_dim,
            PADDED=padded(spec.head_dim),
            V_PADDED=padded(spec.v_head_dim),
            BLOCK_M=tile.block_m,
            BLOCK_N=tile.block_n,
            BLOCK_SIZE=cache.block_size,
            HAS_WINDOW=launch.key.window > 0,
            HAS_SOFTCAP=softcap > 0,
            HAS_SINKS=sinks is not None,
            RETURN_LSE=lse is not None,
            PRECISION="ieee" if query.dtype == torch.float32 else "tf32",
            ONE_LOOP=tile.one_loop,
            WRITE=new is not None,
            TMA=tile.tma,
            maxnreg=tile.max_registers,
            num_warps=tile.num_warps,
            num_stages=tile.num_stages,
        )

    def launches(self, spec: AttentionSpec, cache: PagedCache) -> tuple[Launch, Launch]:
        """How a layer's decodes and its chunks are launched; makes room for their splits once."""
        dtype, device = cache.keys.dtype, cache.keys.device
        known = self._launches.get((spec, dtype, cache.block_size))
        if known is not None:
            return known
        decode = self.decode_tuner(spec, dtype, cache.block_size, device)
        chunk = self.chunk_tuner(spec, dtype, cache.block_size, device)
        launches = (
            _launch(spec, decode, 0, decode.block_m, device),
            _launch(spec, chunk, decode.block_m, None, device),
        )
        self._launches[(spec, dtype, cache.block_size)] = launches
        self._grow(max(_workspace_rows(launch.key) for launch in launches), spec.v_head_dim, device)
        return launches

    def _grow(self, rows: int, dim: int, device: torch.device) -> None:
        space = self._workspaces.get(device)
        if space is None or space.acc.numel() < rows * dim or space.stats.numel() < 2 * rows:
            sizes = (0, 0) if space is None else (space.acc.numel(), space.stats.numel())
            self._workspaces[device] = _Workspace(
                torch.empty(max(sizes[0], rows * dim), dtype=torch.float32, device=device),
                torch.empty(max(sizes[1], 2 * rows), dtype=torch.float32, device=device),
            )


def _launch(
    spec: AttentionSpec, tile: Tile, min_rows: int, max_rows: int | None, device: torch.device
) -> Launch:
    items = ceil_div(tile.items_per_sm * num_sms(device), spec.num_kv_heads)
    key = PlanKey(
        group=spec.num_heads // spec.num_kv_heads,
        num_kv_heads=spec.num_kv_heads,
        block_m=tile.block_m,
        block_n=tile.block_n,
        window=spec.sliding_window or 0,
        min_rows=min_rows,
        max_rows=max_rows,
        items_per_head=items,
        min_tiles=tile.min_tiles,
    )
    return Launch(tile, key)


def _needed(launches: tuple[Launch, Launch], metadata: AttentionMetadata) -> tuple[Launch, ...]:
    """Chunks only where a sequence of the bucket may have more rows than a decode tile."""
    decode, _ = launches
    if metadata.max_seqlen_q * decode.key.group <= decode.key.block_m:
        return (decode,)
    return launches


def _plan(key: PlanKey, metadata: AttentionMetadata) -> Plan:
    """This step's plan, made by `prepare`, or here for a layer it did not know."""
    if metadata.host is None:
        metadata.host = {}
    plans: dict[PlanKey, Plan] = metadata.host
    if key not in plans:
        plans[key] = make_plan(key, metadata)
    return plans[key]


def _descriptors(cache: PagedCache, tile: Tile) -> tuple[Any, Any]:
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


def _workspace_rows(key: PlanKey) -> int:
    """Split entries make fewer than two items for each one aimed at."""
    return 2 * key.items_per_head * key.num_kv_heads * key.block_m


def _unit(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with its last dimension dense."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
