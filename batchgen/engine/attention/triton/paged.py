"""The CUDA attention backend: paged cache, one Triton kernel for prompt chunks and decode.

A step makes at most two launches a layer: sequences whose rows fit one small tile (decode), which
write their own keys and values, and beside it, on a stream of its own, those with more (chunks),
after a kernel that writes theirs. The second is launched only where the bucket's `max_seqlen_q`
allows for chunks. Lengths and tables are read on
the device and grids depend on bucket sizes alone, so a captured step may be replayed with any other
lengths.

The workspace of split entries is shared by all layers: run one step at a time on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from batchgen.engine.attention.interface import (
    AttentionMetadata,
    AttentionSpec,
    CacheShape,
    SharingShape,
)
from batchgen.engine.attention.triton.cache import (
    PagedCache,
    allocate_cache,
    descriptors,
    write_cache,
)
from batchgen.engine.attention.triton.copying import LaunchedCopier
from batchgen.engine.attention.triton.kernels import attention_kernel
from batchgen.engine.attention.triton.launches import (
    Launch,
    Launches,
    constants,
    make_launch,
    scale_of,
)
from batchgen.engine.attention.triton.plan import Plan, PlanKey, make_plan
from batchgen.engine.attention.triton.sharing import common_spec, read_shared, sharing_shape
from batchgen.engine.attention.triton.tuning import (
    Decodes,
    DecodeTuner,
    Tile,
    Tuner,
    chunk_tile,
    decode_tile,
    few_tile,
    group_tile,
)
from batchgen.engine.attention.triton.workspace import Workspace

__all__ = ["Launch", "TritonBackend", "shared_tiles"]


@dataclass(slots=True)
class TritonBackend:
    """Implements `AttentionBackend`; see interface.py for the meaning of every argument.

    `launches` and `launch` are for those who compile the kernels without a step: what a layer
    launches, and the one place where that is done.
    """

    decode_tuner: DecodeTuner = decode_tile
    chunk_tuner: Tuner = chunk_tile
    name: str = "triton"
    shares: bool = True
    """Whether keys may be read once for several sequences: what comes out is joined by the step."""
    _launches: dict[tuple[AttentionSpec, torch.dtype, int], Launches] = field(default_factory=dict)
    _workspaces: dict[torch.device, Workspace] = field(default_factory=dict)

    def allocate(self, spec: AttentionSpec, shape: CacheShape) -> PagedCache:
        """An empty cache; also grows the workspace, so call it before any capture."""
        cache = allocate_cache(spec, shape)
        self.launches(spec, cache)
        return cache

    def bytes_per_block(self, spec: AttentionSpec, block_size: int, dtype: torch.dtype) -> int:
        """Memory of one block of one attention call, in bytes."""
        return block_size * spec.num_kv_heads * (spec.head_dim + spec.v_head_dim) * dtype.itemsize

    def copier(self, caches: Sequence[PagedCache], num_blocks: int) -> LaunchedCopier:
        """See the interface."""
        stores = [store for cache in caches for store in (cache.keys, cache.values)]
        return LaunchedCopier(stores, num_blocks)

    def prepare(self, metadata: AttentionMetadata) -> None:
        """Compute on the device the plans of every kind of layer allocated so far."""
        metadata.host = {}
        metadata.slot_mapping = metadata.slot_mapping.int()  # one width: kernels compile once
        for (_, _, block_size), launches in self._launches.items():
            if block_size == metadata.block_size:
                for launch in launches.needed(metadata):
                    if launch is not None:
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
        new = _unit(key), _unit(value)
        return self._attend(query, cache, spec, metadata, sinks, None, new)

    def store(
        self,
        key: torch.Tensor,
        value: torch.Tensor,
        cache: PagedCache,
        spec: AttentionSpec,
        metadata: AttentionMetadata,
    ) -> None:
        """Write key and value to their slots; inputs may be strided views."""
        write_cache(_unit(key), _unit(value), cache, metadata.slot_mapping)

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
        """`new`: keys and values to write first."""
        out = query.new_empty((query.shape[0], spec.num_heads, spec.v_head_dim))
        query = _unit(query)
        space = self.workspace(query.device)
        decodes, chunks = self.launches(spec, cache).needed(metadata)
        if chunks is not None:
            with space.beside():  # chunks wait for products, decodes for memory
                self.launch(chunks, query, cache, spec, metadata, out, sinks, lse, new)
        if decodes.key.shared:
            read_shared(query, cache, spec, metadata, shared_tiles(spec, cache), space)
        self.launch(decodes, query, cache, spec, metadata, out, sinks, lse, new)
        if chunks is not None:
            space.join()
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
        `attend` has them; `new`: keys and values of the step. Those of the launch's sequences are
        written first: a decode's by the program that reads them, beside others that read.
        """
        tile, plan = launch.tile, _plan(launch.key, metadata)
        if new is not None and plan.slots is not None:
            write_cache(*new, cache, plan.slots)
            new = None
        key, value = new or (query, query)
        space, shared = self.workspace(query.device), metadata.shared
        acc, stats = space.pieces(chunks=launch.key.min_rows > 0)
        attention_kernel[(plan.max_items * spec.num_kv_heads,)](
            query,
            key,
            value,
            metadata.slot_mapping,
            *descriptors(cache, tile),
            cache.keys,
            cache.values,
            out,
            out if lse is None else lse,
            out if sinks is None else sinks,
            plan.items,
            plan.counters,
            metadata.block_tables,
            acc,
            stats,
            metadata.seq_lens if shared is None else shared.rows,
            space.shared_acc,
            space.shared_stats,
            scale_of(spec),
            spec.softcap or 0.0,
            launch.key.window,
            query.stride(0),
            query.stride(1),
            key.stride(0),
            key.stride(1),
            value.stride(0),
            value.stride(1),
            metadata.block_tables.stride(0),
            GROUP=launch.key.group,
            HAS_WINDOW=launch.key.window > 0,
            HAS_SINKS=sinks is not None,
            RETURN_LSE=lse is not None,
            ONE_LOOP=tile.one_loop,
            WRITE=new is not None,
            SHARED_M=shared_tiles(spec, cache)[1].block_m if launch.key.shared else 0,
            **constants(spec, cache.block_size, tile, query.dtype),
        )

    def sharing(
        self,
        specs: Sequence[AttentionSpec],
        dtype: torch.dtype,
        block_size: int,
        device: torch.device,
    ) -> SharingShape | None:
        """How keys are read once for several sequences, and room for what comes out; None where it
        may not be, or layers do not agree, or have windows all. Call it after `allocate`."""
        device = torch.empty(0, device=device).device  # `cuda` is the same as `cuda:0`
        spec = common_spec(specs) if self.shares else None
        if spec is None:
            return None
        rest = self.decode_tuner(spec, dtype, block_size, device, Decodes.REST)
        of = spec, dtype, block_size, device
        few, group = few_tile(*of), group_tile(*of)
        shape = sharing_shape(spec, dtype, block_size, device, rest, (few, group))
        if shape is not None:
            rows = shape.max_items * spec.num_kv_heads * group.block_m
            self.workspace(device).grow_shared(rows, spec.v_head_dim)
        return shape

    def launches(self, spec: AttentionSpec, cache: PagedCache) -> Launches:
        """How a layer's decodes and its chunks are launched; makes room for their splits once."""
        dtype, device = cache.keys.dtype, cache.keys.device
        known = self._launches.get((spec, dtype, cache.block_size))
        if known is not None:
            return known
        of = spec, dtype, cache.block_size, device
        tiles = {kind: self.decode_tuner(*of, kind) for kind in Decodes}
        rows = tiles[Decodes.FEW].block_m
        launches = Launches(
            {
                kind: make_launch(spec, tile, 0, rows, device, shared=kind is Decodes.REST)
                for kind, tile in tiles.items()
            },
            make_launch(spec, self.chunk_tuner(*of), rows, None, device),
        )
        self._launches[(spec, dtype, cache.block_size)] = launches
        self.workspace(device).grow(*launches.workspace_rows, spec.v_head_dim)
        return launches

    def workspace(self, device: torch.device) -> Workspace:
        """Of all layers there."""
        space = self._workspaces.get(device)
        if space is None:  # asked several times a layer, and to make one takes a stream
            space = self._workspaces[device] = Workspace(device)
        return space


def shared_tiles(spec: AttentionSpec, cache: PagedCache) -> tuple[Tile, Tile]:
    """As `read_shared` takes them."""
    of = spec, cache.keys.dtype, cache.block_size, cache.keys.device
    return few_tile(*of), group_tile(*of)


def _plan(key: PlanKey, metadata: AttentionMetadata) -> Plan:
    """This step's plan, made by `prepare`, or here for a layer it did not know."""
    if metadata.host is None:
        metadata.host = {}
    plans: dict[PlanKey, Plan] = metadata.host
    if key not in plans:
        plans[key] = make_plan(key, metadata)
    return plans[key]


def _unit(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor with its last dimension dense."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
