"""Time the Triton attention backend on a GPU: `python jobs/bench_attention.py [fp8]`.

Decode is given as the share of the memory bandwidth that reading keys and values needs, chunks as
useful (causal) TFLOP/s; every figure is the median of replays of a CUDA graph of several calls.
`fp8`: with the cache in float8. Whole prompts are timed through torch's `varlen_attn` and compiled
FlexAttention as well, which get contiguous keys and values and write no cache; `varlen_attn` gets
them for each query head.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import torch
from gpu_bench import replay_us

from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec, CacheShape
from batchgen.engine.attention.triton.paged import TritonBackend

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
    }
    ragged = [draw.randint(100, 1024) for _ in range(14)]
    chunks: dict[str, Lengths] = {
        "8 x 1024": [(1024, 1024)] * 8,
        "14 ragged": [(n, n) for n in ragged],
        "1 x 8192": [(8192, 8192)],
        "128 x 64 after 1024": [(64, 1088)] * 128,
        "512 after 16k": [(512, 16896)],
    }
    return decode, chunks


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
    spec: AttentionSpec, lengths: Lengths, dtype: torch.dtype, backend: TritonBackend
) -> tuple[float, float]:
    """Microseconds of one layer's forward (the cache write included), and of `prepare`."""
    metadata, blocks = build(lengths)
    cache = backend.allocate(spec, CacheShape(blocks, BLOCK_SIZE, dtype, DEVICE))
    for store in (cache.keys, cache.values):
        store.copy_(torch.randn(store.shape, dtype=torch.bfloat16, device=DEVICE))
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
            print(f"  {name:22} {layer:7.1f} us {rate:6.0f} GB/s (plan {planning:.1f} us)")
        for name, lengths in chunks.items():
            layer, planning = measure(spec, lengths, dtype, TritonBackend())
            pairs = sum(q * (k - q) + q * (q + 1) / 2 for q, k in lengths)
            rate = pairs * 4 * spec.num_heads * spec.head_dim / layer / 1e6
            print(
                f"  {name:22} {layer:7.1f} us {rate:6.0f} TFLOP/s (plan {planning:.1f} us)",
                peers(spec, lengths),
            )


if __name__ == "__main__":
    main()
