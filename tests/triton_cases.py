"""Random ragged steps for the Triton backend's tests: built once, run on any device."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch

from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec, CacheShape
from batchgen.engine.attention.reference import ReferenceBackend

SPEC = AttentionSpec(0, 4, 2, 16, 16, 0.25)
FLOAT8 = torch.float8_e4m3fn
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
SHAPES = {
    "llama": (32, 8, 128, 128),
    "qwen": (16, 8, 128, 128),
    "gpt2": (12, 12, 64, 64),
    "mqa": (71, 1, 64, 64),
    "gemma": (8, 4, 256, 256),
    "mla": (16, 16, 192, 128),
    "phi": (10, 10, 80, 80),
    "d96": (6, 2, 96, 96),
    "d40": (4, 2, 40, 40),
}
FEATURES = {
    "plain": {},
    "window": {"sliding_window": 100},
    "softcap": {"softcap": 5.0},
    "sinks": {"has_sinks": True},
    "all": {"sliding_window": 77, "softcap": 8.0, "has_sinks": True},
}


@dataclass(frozen=True, slots=True)
class Case:
    """A step: `lengths` holds (query tokens, visible keys) of each sequence."""

    lengths: tuple[tuple[int, int], ...]
    spec: AttentionSpec = SPEC
    dtype: torch.dtype = torch.float32
    block_size: int = 16
    padded_seqs: int = 0
    padded_tokens: int = 0
    seed: int = 0
    cache_dtype: torch.dtype | None = None
    """None: `dtype`. The keys and values of a float8 case are exact in it."""


@dataclass(slots=True)
class Step:
    """The tensors of a case on one device, and the keys and values that came before."""

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    sinks: torch.Tensor | None
    past: tuple[torch.Tensor, torch.Tensor]  # [num_past, num_kv_heads, dim] at `past_slots`
    past_slots: torch.Tensor
    metadata: AttentionMetadata
    num_blocks: int


def build(case: Case, device: str) -> Step:
    """Random tensors; queries, keys and values are strided views of one fused projection."""
    draw = torch.Generator().manual_seed(case.seed)
    metadata, past_slots, num_blocks = _layout(case, draw)
    spec = case.spec
    tokens = len(metadata.slot_mapping)
    kv, dim, v_dim = spec.num_kv_heads, spec.head_dim, spec.v_head_dim
    sizes = [spec.num_heads * dim, kv * dim, kv * v_dim]
    fused = torch.randn(tokens, sum(sizes), generator=draw)
    if case.cache_dtype is not None:
        fused[:, sizes[0] :] = fused[:, sizes[0] :].to(case.cache_dtype).float()
    fused = fused.to(device, case.dtype)
    query, key, value = fused.split(sizes, dim=1)
    past = tuple(
        torch.randn(len(past_slots), kv, d, generator=draw).to(device, case.dtype)
        for d in (dim, v_dim)
    )
    sinks = torch.randn(spec.num_heads, generator=draw).to(device, case.dtype)
    return Step(
        query.view(tokens, spec.num_heads, dim),
        key.view(tokens, kv, dim),
        value.view(tokens, kv, v_dim),
        sinks if spec.has_sinks else None,
        (past[0], past[1]),
        past_slots.to(device),
        on_device(metadata, device),
        num_blocks,
    )


def _layout(case: Case, draw: torch.Generator) -> tuple[AttentionMetadata, torch.Tensor, int]:
    size = case.block_size
    queries = [q for q, _ in case.lengths]
    needed = [-(-keys // size) for _, keys in case.lengths]
    num_blocks = sum(needed) + 2
    order = torch.randperm(num_blocks, generator=draw)
    pad = case.padded_seqs
    tables = torch.full((len(queries) + pad, max(needed) + 1), 2**30, dtype=torch.int32)
    slots: list[torch.Tensor] = []
    past: list[torch.Tensor] = []
    used = 0
    for row, ((count, keys), blocks) in enumerate(zip(case.lengths, needed, strict=True)):
        mine = order[used : used + blocks]
        used += blocks
        tables[row, :blocks] = mine
        where = (mine[:, None] * size + torch.arange(size)).flatten()[:keys]
        past.append(where[: keys - count])
        slots.append(where[keys - count :])
    slots.append(torch.full((case.padded_tokens,), -1))
    ends = torch.tensor([0, *queries]).cumsum(0)
    metadata = AttentionMetadata(
        cu_seqlens_q=torch.cat([ends, ends[-1:].expand(pad)]).int(),
        seq_lens=torch.tensor([k for _, k in case.lengths] + [0] * pad).int(),
        block_tables=tables,
        slot_mapping=torch.cat(slots).long(),
        block_size=size,
        num_seqs=len(queries),
        num_tokens=sum(queries),
        max_seqlen_q=max(queries),
        max_seqlen_k=max(k for _, k in case.lengths),
    )
    return metadata, torch.cat(past), num_blocks


def on_device(metadata: AttentionMetadata, device: str) -> AttentionMetadata:
    """The same step with its tensors on `device`."""
    return replace(
        metadata,
        cu_seqlens_q=metadata.cu_seqlens_q.to(device),
        seq_lens=metadata.seq_lens.to(device),
        block_tables=metadata.block_tables.to(device),
        slot_mapping=metadata.slot_mapping.to(device),
        host=None,
    )


def expected(case: Case, step: Step) -> torch.Tensor:
    """What the oracle answers, in float32."""
    oracle = ReferenceBackend()
    device = step.query.device
    dtype = case.cache_dtype or torch.float32
    cache = oracle.allocate(case.spec, CacheShape(step.num_blocks, case.block_size, dtype, device))
    cache.key[step.past_slots] = step.past[0].to(dtype)
    cache.value[step.past_slots] = step.past[1].to(dtype)
    metadata = replace(step.metadata, host=None)
    oracle.prepare(metadata)
    sinks = None if step.sinks is None else step.sinks.float()
    return oracle.forward(
        step.query.float(), step.key.float(), step.value.float(), cache, case.spec, metadata, sinks
    )


def error(result: torch.Tensor, wanted: torch.Tensor) -> float:
    """Relative error of the whole, NaN included."""
    return float((result.float() - wanted).norm() / wanted.norm().clamp_min(1e-20))


def make_backend(**tuners):
    from batchgen.engine.attention.triton.paged import TritonBackend

    return TritonBackend(**tuners)


def filled_cache(backend, case: Case, step: Step, poison: float = float("nan")):
    """A cache that holds the past, and poison wherever nothing may be read."""
    device = step.query.device
    dtype = case.cache_dtype or case.dtype
    cache = backend.allocate(case.spec, CacheShape(step.num_blocks, case.block_size, dtype, device))
    for store, past in zip((cache.keys, cache.values_by_token), step.past, strict=True):
        never_nan = store.dtype == torch.float8_e4m3fn and store is not cache.keys
        store.fill_(448.0 if never_nan and poison != poison else poison)
        block, offset = step.past_slots // case.block_size, step.past_slots % case.block_size
        store[block, :, offset] = past.to(dtype)
    return cache


def ragged(seed: int, most: int = 12) -> tuple[tuple[int, int], ...]:
    """Decodes, short chunks and long ones over contexts of every size."""
    draw = random.Random(seed)
    lengths = []
    for _ in range(draw.randint(1, most)):
        count = draw.choice([1, 1, 1, draw.randint(2, 9), draw.randint(10, 400)])
        lengths.append(
            (count, count + draw.choice([0, draw.randint(0, 60), draw.randint(0, 1500)]))
        )
    return tuple(lengths)


def wide(shape: str, feature: str, dtype: torch.dtype, seed: int) -> Case:
    heads, kv_heads, dim, v_dim = SHAPES[shape]
    spec = AttentionSpec(0, heads, kv_heads, dim, v_dim, dim**-0.5, **FEATURES[feature])
    block_size = (16, 32, 64, 128)[len(shape + feature) % 4]
    return Case(ragged(seed), spec, dtype, block_size, seed % 3, seed % 5, seed)
