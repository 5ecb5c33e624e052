"""Time the Triton attention backend on a GPU: `python jobs/bench_attention.py [fp8]`.

Decode is given as the share of the memory bandwidth that reading keys and values needs, keys that
sequences share counted once, chunks as useful (causal) TFLOP/s; every figure is the median of
replays of a CUDA graph of several calls.
`fp8`: with the cache in float8. Whole prompts are timed through torch's `varlen_attn` and compiled
FlexAttention as well, which get contiguous keys and values and write no cache; `varlen_attn` gets
them for each query head.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from gpu_bench import replay_us

from batchgen.engine.attention.interface import (
    SHARED_WORDS,
    AttentionMetadata,
    AttentionSpec,
    CacheShape,
    SharedReads,
)
from batchgen.engine.attention.triton.paged import TritonBackend
from batchgen.engine.cuda.shared_reads import plan_shared_reads

DEVICE = torch.device("cuda", 0)
BLOCK_SIZE = 64
CALLS = 8
Lengths = list[tuple[int, int]]  # (query tokens, visible keys) of each sequence

SPECS = {
    "qwen3-0.6b": AttentionSpec(0, 16, 8, 128, 128, 128**-0.5),
    "llama-3-8b": AttentionSpec(0, 32, 8, 128, 128, 128**-0.5),
    "llama-3.2-1b": AttentionSpec(0, 32, 8, 64, 64, 64**-0.5),
    "gpt2": AttentionSpec(0, 12, 12, 64, 64, 64**-0.5),
}


def workloads() -> tuple[dict[str, Lengths], dict[str, Lengths]]:
    """Decode steps and steps of prompt chunks, by name."""
    draw = random.Random(0)
    decode: dict[str, Lengths] = {
        "256 x 800": [(1, 800)] * 256,
        "131 ragged": [(1, draw.randint(100, 1500)) for _ in range(131)],
        "2 x 12k + 200 x 300": [(1, 12000)] * 2 + [(1, 300)] * 200,
        "16 x 800": [(1, 800)] * 16,
        "6 x 300": [(1, 300)] * 6,
        "4 x 16k": [(1, 16000)] * 4,
        "1 x 32k": [(1, 32000)],
        "64 x 6,200": [(1, draw.randint(4300, 8000)) for _ in range(64)],
        "256 x 560": [(1, draw.randint(120, 1000)) for _ in range(256)],
        "1,024 x 200": [(1, draw.randint(128, 256)) for _ in range(1024)],
    }
    ragged = [draw.randint(100, 1024) for _ in range(14)]
    chunks: dict[str, Lengths] = {
        "8 x 1024": [(1024, 1024)] * 8,
        "14 ragged": [(n, n) for n in ragged],
        "1 x 8192": [(8192, 8192)],
        "128 x 64 after 1024": [(64, 1088)] * 128,
        "512 after 16k": [(512, 16896)],
        "4 x 2048 after 4096": [(2048, 6144)] * 4,
    }
    return decode, chunks


class Sharing(NamedTuple):
    """Decoding sequences in groups that have their first keys in common."""

    num_groups: int
    size: int
    num_keys: int
    """In common, whole blocks."""
    own: tuple[int, int]
    """Further keys of each sequence, from and to."""


SHARING = {
    "1,024 under one of 1,024": Sharing(1, 1024, 1024, (65, 110)),
    "704 under 8 of 512": Sharing(8, 88, 512, (65, 110)),
    "32 on each of 32 of 4,096": Sharing(32, 32, 4096, (33, 100)),
    "5 draws of 56 of 512": Sharing(56, 5, 512, (20, 350)),
}


def share(metadata: AttentionMetadata, kind: Sharing, first_block: int) -> int:
    """Put the groups' keys, which lie from `first_block` on, before those of each sequence; returns
    how many blocks they take."""
    blocks = kind.num_keys // BLOCK_SIZE
    group = torch.arange(metadata.num_seqs, dtype=torch.int32, device=DEVICE) // kind.size
    place = torch.arange(blocks, dtype=torch.int32, device=DEVICE)
    common = first_block + group[:, None] * blocks + place[None, :]
    metadata.block_tables = torch.cat([common.int(), metadata.block_tables], dim=1).contiguous()
    metadata.seq_lens = metadata.seq_lens + kind.num_keys
    metadata.max_seqlen_k += kind.num_keys
    return kind.num_groups * blocks


def plan_sharing(
    metadata: AttentionMetadata, spec: AttentionSpec, dtype: torch.dtype, backend: TritonBackend
) -> None:
    """As the engine does for a step; after the cache is allocated."""
    shape = backend.sharing([spec], dtype, BLOCK_SIZE, DEVICE)
    assert shape is not None
    step: Any = _Decodes(metadata)
    plan = plan_shared_reads(step, metadata.block_tables.cpu().numpy(), BLOCK_SIZE, shape)
    assert plan is not None
    items = torch.zeros(shape.max_items, SHARED_WORDS, dtype=torch.int32)
    items[: len(plan.items)] = torch.from_numpy(plan.items)
    parts = items, torch.from_numpy(plan.members), torch.from_numpy(plan.rows)
    metadata.shared = SharedReads(*(part.int().to(DEVICE) for part in parts))


class _Decodes:
    """What `plan_shared_reads` asks of a step."""

    def __init__(self, metadata: AttentionMetadata) -> None:
        self.starts = (metadata.seq_lens - 1).tolist()
        self.num_tokens = [1] * metadata.num_seqs
        self.slots = list(range(metadata.num_seqs))

    def __len__(self) -> int:
        return len(self.slots)


def build(lengths: Lengths) -> tuple[AttentionMetadata, int]:
    """A step over blocks in random order, and how many blocks it needs."""
    needed = [-(-keys // BLOCK_SIZE) for _, keys in lengths]
    order = torch.randperm(sum(needed), dtype=torch.int32)
    tables = torch.zeros(len(lengths), max(needed), dtype=torch.int32)
    slots, used = [], 0
    for row, ((count, keys), blocks) in enumerate(zip(lengths, needed, strict=True)):
        mine = order[used : used + blocks]
        used += blocks
        tables[row, :blocks] = mine
        position = torch.arange(keys - count, keys)
        slots.append(mine[position // BLOCK_SIZE].long() * BLOCK_SIZE + position % BLOCK_SIZE)
    ends = torch.tensor([0, *(count for count, _ in lengths)]).cumsum(0)
    metadata = AttentionMetadata(
        cu_seqlens_q=ends.int().to(DEVICE),
        seq_lens=torch.tensor([keys for _, keys in lengths]).int().to(DEVICE),
        block_tables=tables.to(DEVICE),
        slot_mapping=torch.cat(slots).to(DEVICE),
        block_size=BLOCK_SIZE,
        num_seqs=len(lengths),
        num_tokens=int(ends[-1]),
        max_seqlen_q=max(count for count, _ in lengths),
        max_seqlen_k=max(keys for _, keys in lengths),
    )
    return metadata, sum(needed)


def microseconds(call: Callable[[], object]) -> float:
    """Median time of one call within a graph of `CALLS`."""
    return replay_us(call, CALLS, repeats=9)


def measure(
    spec: AttentionSpec,
    lengths: Lengths,
    dtype: torch.dtype,
    backend: TritonBackend,
    sharing: Sharing | None = None,
) -> tuple[float, float]:
    """Microseconds of one layer's forward (the cache write included), and of `prepare`. `lengths`:
    without the keys of `sharing`."""
    metadata, blocks = build(lengths)
    if sharing is not None:
        blocks += share(metadata, sharing, blocks)
    cache = backend.allocate(spec, CacheShape(blocks, BLOCK_SIZE, dtype, DEVICE))
    for store in (cache.keys, cache.values):
        store.copy_(torch.randn(store.shape, dtype=torch.bfloat16, device=DEVICE))
    if sharing is not None:
        plan_sharing(metadata, spec, dtype, backend)
    sizes = [spec.num_heads * spec.head_dim, *[spec.num_kv_heads * spec.head_dim] * 2]
    fused = torch.randn(metadata.num_tokens, sum(sizes), device=DEVICE, dtype=torch.bfloat16)
    query, key, value = (x.unflatten(1, (-1, spec.head_dim)) for x in fused.split(sizes, dim=1))
    planning = microseconds(lambda: backend.prepare(metadata))
    backend.prepare(metadata)
    layer = microseconds(lambda: backend.forward(query, key, value, cache, spec, metadata))
    return layer, planning


def varlen_microseconds(spec: AttentionSpec, lengths: Lengths) -> float:
    """One layer over whole prompts by `torch.nn.attention.varlen`."""
    from torch.nn.attention.varlen import varlen_attn

    metadata, _ = build(lengths)
    shape = (metadata.num_tokens, spec.num_heads, spec.head_dim)
    query, key, value = torch.randn(3, *shape, device=DEVICE, dtype=torch.bfloat16)
    ends, longest = metadata.cu_seqlens_q, metadata.max_seqlen_q
    return microseconds(
        lambda: varlen_attn(
            query, key, value, ends, ends, longest, longest, scale=spec.scale, window_size=(-1, 0)
        )
    )


def flex_microseconds(spec: AttentionSpec, lengths: Lengths) -> float:
    """One layer over whole prompts by FlexAttention, its block mask made beforehand."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    counts = torch.tensor([count for count, _ in lengths], device=DEVICE)
    row = torch.arange(len(lengths), device=DEVICE).repeat_interleave(counts)

    def visible(
        batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
    ) -> torch.Tensor:
        return (row[query] == row[key]) & (query >= key)

    mask = create_block_mask(visible, None, None, len(row), len(row), device=DEVICE.type)
    query, key, value = (
        torch.randn(1, heads, len(row), spec.head_dim, device=DEVICE, dtype=torch.bfloat16)
        for heads in (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
    )
    torch.compiler.reset()  # else compilations of earlier shapes count against the limit of eight
    attend: Any = torch.compile(flex_attention, dynamic=False)
    return microseconds(
        lambda: attend(query, key, value, block_mask=mask, scale=spec.scale, enable_gqa=True)
    )


def peers(spec: AttentionSpec, lengths: Lengths) -> str:
    """What torch's own take; nothing for chunks that follow others."""
    if any(count != keys for count, keys in lengths):
        return ""
    varlen, flex = varlen_microseconds(spec, lengths), flex_microseconds(spec, lengths)
    return f"varlen_attn {varlen:.1f} us, flex {flex:.1f} us"


def read_bandwidth() -> float:
    """What a plain copy moves, in GB/s, read and write together: the yardstick."""
    source = torch.empty(1 << 30, dtype=torch.int8, device=DEVICE).random_(0, 100)
    target = torch.empty_like(source)
    return 2 * source.numel() / microseconds(lambda: target.copy_(source)) / 1e3


def main() -> None:
    decode, chunks = workloads()
    dtype = torch.float8_e4m3fn if "fp8" in sys.argv[1:] else torch.bfloat16
    print(f"{torch.cuda.get_device_name()}, copy {read_bandwidth():.0f} GB/s")
    for model, spec in SPECS.items():
        print(model)
        token_bytes = spec.num_kv_heads * (spec.head_dim + spec.v_head_dim) * dtype.itemsize
        for name, lengths in decode.items():
            layer, planning = measure(spec, lengths, dtype, TritonBackend())
            rate = sum(keys for _, keys in lengths) * token_bytes / layer / 1e3
            print(f"  {name:26} {layer:7.1f} us {rate:6.0f} GB/s (plan {planning:.1f} us)")
        for name, kind in SHARING.items():
            draw = random.Random(1)
            lengths = [(1, draw.randint(*kind.own)) for _ in range(kind.num_groups * kind.size)]
            layer, planning = measure(spec, lengths, dtype, TritonBackend(), kind)
            keys = sum(keys for _, keys in lengths) + kind.num_groups * kind.num_keys
            rate = keys * token_bytes / layer / 1e3
            print(f"  {name:26} {layer:7.1f} us {rate:6.0f} GB/s (plan {planning:.1f} us)")
        for name, lengths in chunks.items():
            layer, planning = measure(spec, lengths, dtype, TritonBackend())
            pairs = sum(q * (k - q) + q * (q + 1) / 2 for q, k in lengths)
            rate = pairs * 4 * spec.num_heads * spec.head_dim / layer / 1e6
            print(
                f"  {name:26} {layer:7.1f} us {rate:6.0f} TFLOP/s (plan {planning:.1f} us)",
                peers(spec, lengths),
            )


if __name__ == "__main__":
    main()
