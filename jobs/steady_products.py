"""How long products and attention take by each tile that they could have in the mode, beside the
library's; and whether what the rows decide changes no bit. For `check_steady.py products`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from bench_attention import BLOCK_SIZE, DEVICE, SPECS, build, measure, workloads
from torch.nn import functional
from triton.testing import do_bench_cudagraph

from batchgen.engine.attention.interface import AttentionSpec, CacheShape
from batchgen.engine.attention.triton.device import num_sms
from batchgen.engine.attention.triton.paged import TritonBackend
from batchgen.engine.attention.triton.tuning import Tile
from batchgen.engine.steady.cuda.attention import steady_attention
from batchgen.engine.steady.cuda.product import ProductTile, multiply, tile_of

__all__ = ["time_attention", "time_products"]

ROWS = (16, 64, 128, 256, 512, 1024, 4096)
FAMILIES = ((64, 1), (64, 2), (64, 4), (128, 1), (128, 2), (128, 4), (256, 1), (256, 2))
"""Outputs of a tile, and segments: what decides the bits."""
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
        for layer, size in _layers(shape).items():
            _time_layer(f"{model} {layer} {size}", *size)


def _layers(shape: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each product."""
    width, wide = shape["hidden_size"], shape["intermediate_size"]
    size = shape.get("head_dim", width // shape["num_attention_heads"])
    queries, keys = size * shape["num_attention_heads"], size * shape["num_key_value_heads"]
    return {
        "qkv": (queries + 2 * keys, width),
        "o": (width, queries),
        "gate_up": (2 * wide, width),
        "down": (width, wide),
        "head": (shape["vocab_size"], width),
    }


def _tiles(family: tuple[int, int]) -> Iterator[ProductTile]:
    block_n, segments = family
    for block_m in (64, 128):
        warps = 8 if block_m * block_n > 64 * 128 else 4
        for stages in (3, 4) if block_n < 256 else (3,):
            for spread in (False, True) if segments > 1 else (False,):
                yield ProductTile(block_m, block_n, 64, segments, spread, warps, stages)


def _fits(tile: ProductTile, rows: int, outputs: int, device: torch.device) -> bool:
    tiles = -(-rows // tile.block_m) * -(-outputs // tile.block_n)
    return not tile.spread or tiles <= num_sms(device)


def _time_layer(name: str, outputs: int, inputs: int) -> None:
    device = torch.empty(0, device="cuda").device
    weight = torch.randn(outputs, inputs, device=device).bfloat16() * 0.02
    rows = torch.randn(ROWS[-1], inputs, device=device).bfloat16()
    families = [f for f in FAMILIES if outputs < 20000 or f[0] * f[1] >= 128]
    _compile_all(families, rows, weight)
    torn = [f for f in families if not _same_bits(f, rows, weight)]
    for count in ROWS if outputs < 100000 else ROWS[:-2]:
        x = rows[:count]
        own = tile_of(count, outputs, inputs, x.dtype, num_sms(device))
        library = _us(lambda x=x: functional.linear(x, weight))
        held = _us(lambda x=x, own=own: multiply(x, weight, None, own))
        best = {family: _best(family, x, weight) for family in families}
        told = ", ".join(f"{n}x{s} {us:.0f} {how}" for (n, s), (us, how) in best.items())
        print(f"{name} {count} rows: library {library:.0f}, ours {held:.0f} | {told}", flush=True)
    print(f"{name}: bits that rows change: {torn or 'none'}", flush=True)


def _compile_all(families: list[Any], rows: torch.Tensor, weight: torch.Tensor) -> None:
    tiles = [tile for family in families for tile in _tiles(family)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda tile: _try(rows[:16], weight, tile), tiles))
    torch.cuda.synchronize()


def _try(x: torch.Tensor, weight: torch.Tensor, tile: ProductTile) -> torch.Tensor | None:
    """None where the tile has no room on this card, or too many programs for what arrives."""
    if not _fits(tile, len(x), len(weight), x.device):
        return None
    try:
        return multiply(x, weight, None, tile)
    except Exception as error:
        if "OutOfResources" not in type(error).__name__:
            raise
        return None


def _same_bits(family: tuple[int, int], rows: torch.Tensor, weight: torch.Tensor) -> bool:
    found = [_try(rows[:n], weight, tile) for tile in _tiles(family) for n in (16, 100, 300)]
    return all(
        torch.equal(a[: len(b)], b[: len(a)])
        for a in found
        for b in found[:1]
        if a is not None and b is not None
    )


def _best(family: tuple[int, int], x: torch.Tensor, weight: torch.Tensor) -> tuple[float, str]:
    """The shortest time, and by which height, spread and stages."""
    found = []
    for tile in _tiles(family):
        if _try(x, weight, tile) is not None:
            us = _us(lambda tile=tile: multiply(x, weight, None, tile))
            spread = "s" if tile.spread else ""
            found.append((us, f"{tile.block_m}{spread}/{tile.num_stages}"))
    return min(found, default=(float("inf"), "-"))


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
