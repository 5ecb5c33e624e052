"""Tile sizes of the Triton kernels: a static table, measured on an H100 and an H200, cut to fit
other GPUs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache

import torch
import triton

from batchgen.engine.attention.interface import AttentionSpec
from batchgen.engine.gpu import has_tma, shared_memory

__all__ = [
    "MANY_SEQUENCES",
    "DecodeTuner",
    "Decodes",
    "Tile",
    "Tuner",
    "chunk_tile",
    "decode_tile",
    "few_tile",
    "fitted",
    "group_tile",
    "padded",
]

_HOPPER_ROOM = 227 * 1024
"""Shared memory of a block on Hopper and on larger GPUs after it; see `_bytes_needed`."""
MANY_SEQUENCES = 256
"""From so many on, programs of one warp each keep the memory busy: a multiprocessor has several,
and while one waits for its table, its queries or its first keys, others read."""
_SPLITS = 3
"""Between 2, which 64 rows of like lengths want, and 4, which two long rows among 200 short do."""


@dataclass(frozen=True, slots=True)
class Tile:
    """How one launch of the attention kernel is cut."""

    block_m: int
    """Rows (query heads of a KV head x tokens) of a tile; at least 16 for `tl.dot`."""
    block_n: int
    """Keys of a tile."""
    num_warps: int
    num_stages: int
    """Depth of the software pipeline of key and value loads."""
    items_per_sm: int
    """Programs a multiprocessor should get, at least, before entries stop being split."""
    min_tiles: int = 4
    """Least length of a split, in tiles."""
    one_loop: bool = True
    """Mask every tile alike; else tiles that all rows see take a loop without masks."""
    tma: bool = False
    """Load whole tiles by the tensor memory accelerator."""
    max_registers: int | None = None
    """Per thread, so that more programs fit a multiprocessor."""
    ahead: bool = False
    """Load each tile's block number while the tile before it is read: loaded just before the keys
    that it leads to, it takes half of the pipeline's stages. For tiles that lie in one block."""


class Decodes(Enum):
    """What decoding sequences a launch is for."""

    FEW = "few"
    MANY = "many"
    """`MANY_SEQUENCES` or more."""
    REST = "rest"
    """Those whose first keys are read for several at once: what is left of each is short."""


Tuner = Callable[[AttentionSpec, torch.dtype, int, torch.device], Tile]
"""Of a layer, its cache's dtype, the cache's block size, and the device."""
DecodeTuner = Callable[[AttentionSpec, torch.dtype, int, torch.device, Decodes], Tile]
"""As `Tuner`; a tile's rows do not depend on which decodes it is for."""


def decode_tile(
    spec: AttentionSpec,
    dtype: torch.dtype,
    block_size: int,
    device: torch.device,
    decodes: Decodes = Decodes.FEW,
) -> Tile:
    """For sequences whose rows fit one small tile: bound by reading the cache."""
    tile = _decode(spec, dtype, _group(spec))
    if tile.block_m == 16 and dtype != torch.float32:
        tile = _sixteen_rows(_width(spec), dtype, decodes) or tile
    return fitted(tile, spec, dtype, shared_memory(device))


def _sixteen_rows(width: int, dtype: torch.dtype, decodes: Decodes) -> Tile | None:
    """The least that `tl.dot` takes, which most models have: measured for each kind of decodes;
    None where it was not."""
    float8 = dtype == torch.float8_e4m3fn
    if width == 128 and decodes is Decodes.REST:
        return Tile(16, 32 if float8 else 16, 1, 3, _SPLITS, ahead=True)
    if width == 128 and float8:
        if decodes is Decodes.MANY:
            return Tile(16, 32, 1, 3, 8, ahead=True)
        return Tile(16, 64, 2, 3, _SPLITS, ahead=True)
    if width == 128:
        return Tile(16, 64, 4, 3, 2, ahead=True)
    if width == 64 and not float8 and decodes is not Decodes.FEW:
        return Tile(16, 32 if decodes is Decodes.MANY else 16, 1, 3, _SPLITS, ahead=True)
    return None


@lru_cache(maxsize=4096)  # asked by each layer of each step that no graph replays
def few_tile(
    spec: AttentionSpec, dtype: torch.dtype, block_size: int, device: torch.device
) -> Tile:
    """For keys that up to 8 decoding sequences read at once, as samples of one prompt do."""
    tile = _decode(spec, dtype, max(32, 8 * _group(spec)))
    return fitted(tile, spec, dtype, shared_memory(device))


@lru_cache(maxsize=4096)
def group_tile(
    spec: AttentionSpec, dtype: torch.dtype, block_size: int, device: torch.device
) -> Tile:
    """For keys that more decoding sequences read at once."""
    tile = _chunk(spec, dtype, block_size, device)
    if tile.ahead and _group(spec) <= 2:  # of 32 sequences: there are often no more
        tile = replace(tile, block_m=64)
    elif tile.ahead and tile.tma:
        tile = replace(tile, block_m=128, num_warps=8, num_stages=2, max_registers=128)
    return fitted(tile, spec, dtype, shared_memory(device))


def _decode(spec: AttentionSpec, dtype: torch.dtype, num_rows: int) -> Tile:
    width = _width(spec)
    if dtype == torch.float32:
        return Tile(16, 32, 8, 2, 2)
    rows = max(16, min(64, triton.next_power_of_2(num_rows)))
    if dtype == torch.float8_e4m3fn:  # as many bytes a tile: the loads to wait for are as long
        return Tile(rows, 128 if width * rows <= 2048 else 64, 4, 3, 2)
    if width <= 64:
        return Tile(rows, 128, 4, 3, 2)
    return Tile(rows, 64 if width == 128 else 32, 4, 3, 2)


def chunk_tile(
    spec: AttentionSpec, dtype: torch.dtype, block_size: int, device: torch.device
) -> Tile:
    """For sequences with many query tokens: bound by the tensor cores."""
    tile = _chunk(spec, dtype, block_size, device)
    return fitted(tile, spec, dtype, shared_memory(device))


def _chunk(spec: AttentionSpec, dtype: torch.dtype, block_size: int, device: torch.device) -> Tile:
    width = _width(spec)
    if dtype == torch.float32:
        return Tile(32 if width <= 128 else 16, 32, 4, 1, 2)
    if width <= 64:
        return Tile(128, 64, 8, 5, 1, one_loop=False)
    if dtype == torch.float8_e4m3fn:  # tiles pass through registers, which TMA would not feed
        if width > 128:
            return Tile(64, 32, 8, 2, 1, one_loop=False)
        return Tile(128, 64, 4, 3, 1, one_loop=False, ahead=True)
    if width > 128:
        return Tile(64, 64, 8, 2, 1, one_loop=False)
    if spec.head_dim == spec.v_head_dim == 128 and block_size % 64 == 0 and has_tma(device):
        return Tile(64, 64, 4, 3, 2, one_loop=False, tma=True, ahead=True)
    return Tile(64, 64, 4, 2, 1, one_loop=False)


def fitted(tile: Tile, spec: AttentionSpec, dtype: torch.dtype, room: int) -> Tile:
    """The tile, cut until it needs at most `room` bytes of shared memory, or cannot be cut further.

    Rows are kept where they are few: a decode tile holds those of a whole group of heads.
    """
    in_place = room >= _HOPPER_ROOM
    while _bytes_needed(tile, spec, dtype, in_place) > room:
        if tile.num_stages > 2:
            tile = replace(tile, num_stages=tile.num_stages - 1)
        elif tile.block_n > 32:
            tile = replace(tile, block_n=tile.block_n // 2)
        elif tile.block_m > 32:
            tile = replace(tile, block_m=tile.block_m // 2)
        elif tile.block_n > 16:
            tile = replace(tile, block_n=16)
        else:
            break
    return tile


def _bytes_needed(tile: Tile, spec: AttentionSpec, dtype: torch.dtype, in_place: bool) -> int:
    """Queries, the tiles of keys and values that are on their way, and weights.

    `in_place`: products read the tile in shared memory itself, so that one more is held.
    """
    keys, values = padded(spec.head_dim), padded(spec.v_head_dim)
    buffers = tile.num_stages if in_place else max(1, tile.num_stages - 1)
    tiles = buffers * tile.block_n * (keys + values)
    rows = tile.block_m * (keys + tile.block_n) * max(2, dtype.itemsize)
    return tiles * dtype.itemsize + rows


def padded(dim: int) -> int:
    """A head's dimensions as the kernels hold them: a power of two that `tl.dot` takes."""
    size: int = triton.next_power_of_2(dim)
    return max(16, size)


def _group(spec: AttentionSpec) -> int:
    return spec.num_heads // spec.num_kv_heads


def _width(spec: AttentionSpec) -> int:
    return padded(max(spec.head_dim, spec.v_head_dim))
