"""Compile the kernels that a model will need, all at once, in a process of its own.

A kernel takes 0.5 to 1.5 s to compile, and a first run needs a dozen. This process is started with
the command, knows the model's shapes from its config alone, and leaves the kernels in Triton's
cache while the command still imports and loads. What only some runs need comes last: the command
does not wait for it. What the process guesses wrong is compiled when needed.
What could not be compiled is noted for `startup.kernels`, which decides whether to try it again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from batchgen.engine.attention.interface import (
    ROW_WORDS,
    SHARED_WORDS,
    AttentionMetadata,
    AttentionSpec,
    CacheShape,
    SharedReads,
)
from batchgen.engine.attention.triton.paged import TritonBackend, shared_tiles
from batchgen.engine.attention.triton.plan import ITEM_WORDS, Plan, PlanKey, ceil_div, make_plan
from batchgen.engine.attention.triton.sharing import read_items
from batchgen.engine.attention.triton.tuning import Decodes
from batchgen.engine.config import PROOF_BLOCK_SIZE
from batchgen.engine.model.pieces import Piece, make_metadata
from batchgen.engine.sampling.triton.choose_kernel import greedy_tokens, sampled_tokens
from batchgen.engine.sampling.triton.sampler import DeviceSampler
from batchgen.startup.folders import prepare_compilers
from batchgen.startup.kernels import Record

__all__ = [
    "compile_ahead",
    "copy_calls",
    "kernel_calls",
    "mixed_calls",
    "sampler_calls",
    "shared_calls",
]

_PROMPT = 64
"""Query tokens of a sequence that is no decode: more rows than a decode tile has."""

Call = partial[Any]
_MOST_LETTERS = 300


class _Apart(TritonBackend):
    """Keeps its launches instead of making them, so that they can be made in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[Call] = []

    def launch(self, *args: Any) -> None:
        """Keep it for later."""
        self.kept.append(partial(super().launch, *args))


def kernel_calls(
    spec: AttentionSpec,
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
    block_size: int,
    device: torch.device,
) -> Iterator[Call]:
    """One call for each kernel that a layer of this kind compiles, but for `shared_calls`."""
    backend = _Apart()
    shape = CacheShape(2 * _PROMPT // block_size, block_size, cache_dtype, device)
    cache = backend.allocate(spec, shape)
    launches = backend.launches(spec, cache)
    few, many, chunks = (
        launches.decodes[Decodes.FEW],
        launches.decodes[Decodes.MANY],
        launches.chunks,
    )
    sinks = _sinks(spec, dtype, device)
    for num_tokens in (1, _PROMPT):
        metadata = _metadata(num_tokens, block_size, device)
        keys = [few.key] if num_tokens == 1 else [few.key, chunks.key]
        yield from (partial(make_plan, key, metadata) for key in keys)
        _set_idle(metadata, (few.key, many.key, chunks.key))
        query, key, value = _tokens(spec, num_tokens, dtype, device)
        out = backend.forward(query, key, value, cache, spec, metadata, sinks)
        if num_tokens == 1 and many.tile != few.tile and block_size != PROOF_BLOCK_SIZE:
            yield partial(make_plan, many.key, metadata)
            backend.launch(many, query, cache, spec, metadata, out, sinks, None, (key, value))
    yield from backend.kept


def shared_calls(
    spec: AttentionSpec,
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
    block_size: int,
    device: torch.device,
) -> Iterator[Call]:
    """As `kernel_calls`, for steps in which keys are read for several sequences at once."""
    backend = TritonBackend()
    cache = backend.allocate(spec, CacheShape(2, block_size, cache_dtype, device))
    if backend.sharing([spec], cache_dtype, block_size, device) is None:
        return
    launch = backend.launches(spec, cache).decodes[Decodes.REST]
    metadata = _metadata(1, block_size, device)
    items, members, rows = (
        torch.zeros(words, dtype=torch.int32, device=device)
        for words in ((1, SHARED_WORDS), (2,), (1, ROW_WORDS))
    )
    metadata.shared = SharedReads(items, members, rows)
    yield partial(make_plan, launch.key, metadata)
    _set_idle(metadata, (launch.key,))
    query, *new = _tokens(spec, 1, dtype, device)
    out = query.new_empty((1, spec.num_heads, spec.v_head_dim))
    more: list[Any] = [metadata, out, _sinks(spec, dtype, device), None, new]
    yield partial(backend.launch, launch, query, cache, spec, *more)
    few, full = shared_tiles(spec, cache)
    for tile, fewer in ((few, 0), (full, few.block_m)):
        if tile.block_m > fewer:
            more = [metadata, tile, fewer, full.block_m, backend.workspace(device)]
            yield partial(read_items, query, cache, spec, *more)


def copy_calls(
    specs: Iterable[AttentionSpec], cache_dtype: torch.dtype, block_size: int, device: torch.device
) -> Iterator[Call]:
    """As `kernel_calls`, for prompts that begin with a copy of a block."""
    backend, shape = TritonBackend(), CacheShape(2, block_size, cache_dtype, device)
    copier = backend.copier([backend.allocate(spec, shape) for spec in specs], shape.num_blocks)
    yield partial(copier.launch, [(0, 1)])


def sampler_calls(vocab_size: int, dtype: torch.dtype, device: torch.device) -> Iterator[Call]:
    """As `kernel_calls`, for greedy tokens and for drawn ones."""
    logits = torch.zeros((2, vocab_size), dtype=dtype, device=device)
    ids = torch.zeros(2, dtype=torch.int64, device=device)
    yield partial(greedy_tokens, logits)
    yield partial(sampled_tokens, logits, torch.ones(2, device=device), ids, ids)


def mixed_calls(vocab_size: int, dtype: torch.dtype, device: torch.device) -> Iterator[Call]:
    """As `kernel_calls`, for steps whose rows are sampled in several ways."""
    logits = torch.zeros((2, vocab_size), dtype=dtype, device=device)
    for has_counts, has_bias in product((False, True), repeat=2):
        sampler = DeviceSampler(1, len(logits), vocab_size, device)
        sampler.tables.make(counts=has_counts, bias=has_bias)
        sampler.tables.may_be_wide = not has_counts and not has_bias
        no_rows = torch.ones(len(logits), dtype=torch.int32, device=device)  # as padding has them
        first, *rest, last = sampler.launches(logits, no_rows, no_rows)
        yield first
        if not has_bias:
            yield last
        if sampler.tables.may_be_wide:
            yield from rest


def first_calls(shapes: dict[str, Any]) -> Iterator[Call]:
    """Of what every run needs."""
    device, dtype, cache_dtype = _kinds(shapes)
    for spec in _specs(shapes):
        for block_size in shapes["block_sizes"]:
            for kind in {dtype, cache_dtype}:
                yield from kernel_calls(spec, dtype, kind, block_size, device)
    yield from sampler_calls(shapes["vocab_size"], dtype, device)


def later_calls(shapes: dict[str, Any]) -> Iterator[Call]:
    """Of what some runs need, and not at once."""
    device, dtype, cache_dtype = _kinds(shapes)
    yield from mixed_calls(shapes["vocab_size"], dtype, device)
    for block_size in shapes["block_sizes"]:
        if block_size == PROOF_BLOCK_SIZE:
            continue
        yield from copy_calls(_specs(shapes), cache_dtype, block_size, device)
        for spec in _specs(shapes):
            if spec.sliding_window is None:
                yield from shared_calls(spec, dtype, cache_dtype, block_size, device)


@torch.inference_mode()
def compile_ahead(calls: Iterator[Call]) -> list[str]:
    """Returns what failed, a line each: the command will meet it again where it needs it, and say
    it."""
    prepare_compilers()  # what the command compiles with, too
    every = list(calls)
    with ThreadPoolExecutor(max_workers=max(2, len(os.sched_getaffinity(0)) - 2)) as pool:
        running = [(pool.submit(torch.inference_mode()(call)), call) for call in reversed(every)]
    errors = [(call, done.exception()) for done, call in running]
    return [f"{call.func.__qualname__}: {_line(error)}" for call, error in errors if error]


def _kinds(shapes: dict[str, Any]) -> tuple[torch.device, torch.dtype, torch.dtype]:
    dtype, cache_dtype = getattr(torch, shapes["dtype"]), getattr(torch, shapes["cache_dtype"])
    return torch.device(shapes["device"]), dtype, cache_dtype


def _specs(shapes: dict[str, Any]) -> Iterator[AttentionSpec]:
    for number, layer in enumerate(shapes["layers"]):
        yield AttentionSpec(index=number, scale=1.0, **layer)


def _line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} ..."


def _tokens(
    spec: AttentionSpec, num_tokens: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Queries, keys and values."""

    def zeros(num_heads: int, dim: int) -> torch.Tensor:
        return torch.zeros((num_tokens, num_heads, dim), dtype=dtype, device=device)

    return (
        zeros(spec.num_heads, spec.head_dim),
        zeros(spec.num_kv_heads, spec.head_dim),
        zeros(spec.num_kv_heads, spec.v_head_dim),
    )


def _metadata(num_tokens: int, block_size: int, device: torch.device) -> AttentionMetadata:
    """Of one sequence."""
    blocks = tuple(range(ceil_div(num_tokens, block_size)))
    metadata = make_metadata([Piece(blocks, 0, num_tokens)], block_size, device)
    metadata.slot_mapping = metadata.slot_mapping.int()  # as `prepare` does
    return metadata


def _sinks(spec: AttentionSpec, dtype: torch.dtype, device: torch.device) -> torch.Tensor | None:
    return torch.zeros(spec.num_heads, dtype=dtype, device=device) if spec.has_sinks else None


def _set_idle(metadata: AttentionMetadata, keys: Iterable[PlanKey]) -> None:
    """Plans with one item, which has no tiles: its programs leave at once."""
    slots = metadata.slot_mapping
    items = torch.zeros((1, ITEM_WORDS), dtype=torch.int32, device=slots.device)
    metadata.host = {}
    for key in keys:
        counters = torch.zeros(key.num_kv_heads, dtype=torch.int32, device=slots.device)
        metadata.host[key] = Plan(items, counters, 1, slots if key.min_rows else None)


def main() -> None:
    """Arguments: the shapes as JSON, and the file that says how it went."""
    file = Path(sys.argv[2])
    failed: list[str] = []
    for calls in (first_calls, later_calls):
        try:
            failed += compile_ahead(calls(json.loads(sys.argv[1])))
        except Exception as error:  # before any kernel: the device has no room, or is not there
            failed.append(_line(error))
        with suppress(BrokenPipeError):  # the command waits for the first line, and hears no other
            print(flush=True)
    Record(Record.read(file).starts, failed).write(file)


if __name__ == "__main__":
    main()
