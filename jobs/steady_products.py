"""How long products and attention take in the mode by each of their tiles, beside the library's;
and where the library adds up in the mode's order. For `check_steady.py products`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from bench_attention import BLOCK_SIZE, DEVICE, SPECS, build, measure, workloads
from gpu_bench import product_sizes
from torch.nn import functional
from triton.testing import do_bench_cudagraph

from batchgen.engine.attention.interface import AttentionSpec, CacheShape
from batchgen.engine.attention.triton.paged import TritonBackend
from batchgen.engine.attention.triton.tuning import Tile
from batchgen.engine.cuda.buckets import sizes_up_to
from batchgen.engine.gpu import num_sms
from batchgen.engine.steady.cuda.attention import steady_attention
from batchgen.engine.steady.cuda.library import Layer, try_library
from batchgen.engine.steady.cuda.product import ProductTile, multiply, tile_of

__all__ = ["time_attention", "time_products"]

ROWS = (16, 64, 128, 256, 512, 1024, 4096)
_MEASURED_MS = 5
_STEPS = ("256 x 800", "131 ragged", "16 x 800", "8 x 1024", "14 ragged")
TILES = {  # rows, keys, warps, stages: of decodes; of chunks where they are others
    "64x64": ((64, 64, 4, 3),) * 2,
    "64x64/2": ((64, 64, 4, 2),) * 2,
    "64x32": ((64, 32, 4, 4),) * 2,
    "64x128": ((64, 128, 4, 2),) * 2,
    "16x64+32x64": ((16, 64, 1, 3), (32, 64, 2, 3)),
    "16x64+64x64": ((16, 64, 1, 3), (64, 64, 4, 3)),
}


def time_products(shapes: Mapping[str, Mapping[str, Any]]) -> None:
    """A line for each layer and number of rows: microseconds."""
    for model, shape in shapes.items():
        head = {"head": (shape["vocab_size"], shape["hidden_size"])}
        for layer, size in (product_sizes(shape) | head).items():
            _time_layer(f"{model} {layer} {size}", *size)


def _time_layer(name: str, outputs: int, inputs: int) -> None:
    device = torch.empty(0, device="cuda").device
    weight = torch.randn(outputs, inputs, device=device).bfloat16() * 0.02
    rows = torch.randn(ROWS[-1], inputs, device=device).bfloat16()
    tiles = {tile_of(n, outputs, rows.dtype, num_sms(device)): n for n in range(1, 4096)}
    for count in ROWS if outputs < 100000 else ROWS[:-2]:
        x = rows[:count]
        own = tile_of(count, outputs, x.dtype, num_sms(device))
        took = {tile: _us(lambda x=x, t=tile: multiply(x, weight, None, t)) for tile in tiles}
        best = min(took, key=lambda tile: took[tile])
        library = _us(lambda x=x: functional.linear(x, weight))
        print(f"{name} {count} rows: library {library:.0f}, ours {took[own]:.0f} {_said(own)}, "
              f"best {took[best]:.0f} {_said(best)}", flush=True)  # fmt: skip
    tried = sizes_up_to(ROWS[-1])
    equal, all_of_them = try_library([Layer.of(weight, None)], tried)
    print(f"{name}: the library has our bits at {equal} of {all_of_them} sizes", flush=True)


def _said(tile: ProductTile) -> str:
    return f"{tile.block_m}x{tile.block_n}/{tile.num_stages}"


def _us(call: Any) -> float:
    return 1000 * float(do_bench_cudagraph(call, rep=_MEASURED_MS))


def time_attention() -> None:
    """A line for each model's layer and step: microseconds by each pair of tiles; and whether a
    token's bits are those of a decode in a chunk too."""
    made = {name: partial(_backend, *tiles) for name, tiles in TILES.items()}
    makers = {"default": TritonBackend, "ours": steady_attention, **made}
    decode, chunks = workloads()
    for model in ("qwen3-0.6b", "llama-3-8b"):
        spec = SPECS[model]
        for step in _STEPS:
            lengths = {**decode, **chunks}[step]
            found = {
                name: measure(spec, lengths, torch.bfloat16, make())[0]
                for name, make in makers.items()
            }
            told = ", ".join(f"{name} {us:.0f}" for name, us in found.items())
            print(f"{model} attention, {step}: {told}", flush=True)
        alike = [name for name, make in makers.items() if _chunk_is_decode(spec, make())]
        print(f"{model} attention: a chunk's bits are a decode's with {alike}", flush=True)


def _backend(decode: tuple[int, ...], chunk: tuple[int, ...]) -> TritonBackend:
    tiles = [Tile(*sizes, 2, 1 << 24) for sizes in (decode, chunk)]
    return TritonBackend(lambda *_: tiles[0], lambda *_: tiles[1])


def _chunk_is_decode(spec: AttentionSpec, backend: TritonBackend) -> bool:
    torch.manual_seed(0)
    metadata, blocks = build([(100, 500)])
    cache = backend.allocate(spec, CacheShape(blocks, BLOCK_SIZE, torch.bfloat16, DEVICE))
    for store in (cache.keys, cache.values):
        store.copy_(torch.randn(store.shape, dtype=torch.bfloat16, device=DEVICE))
    heads = (spec.num_heads, spec.num_kv_heads, spec.num_kv_heads)
    row = [torch.randn(100, n, spec.head_dim, device=DEVICE).bfloat16() for n in heads]
    backend.prepare(metadata)
    chunk = backend.forward(*row, cache, spec, metadata)
    last = replace(
        metadata, cu_seqlens_q=metadata.cu_seqlens_q // 100, num_tokens=1, max_seqlen_q=1,
        slot_mapping=metadata.slot_mapping[-1:], host=None,
    )  # fmt: skip
    backend.prepare(last)
    one = backend.forward(*(part[-1:] for part in row), cache, spec, last)
    return torch.equal(one[0], chunk[-1])
