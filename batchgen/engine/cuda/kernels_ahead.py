"""Compile the kernels that a model will need, all at once, in a process of its own.

A kernel takes 0.5 to 1.5 s to compile, and a first run needs a dozen. This process is started with
the command, knows the model's shapes from its config alone, and leaves the kernels in Triton's
cache while the command still imports and loads. What it guesses wrong is compiled when needed.
What could not be compiled is noted for `startup.kernels`, which decides whether to try it again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

from batchgen.engine.attention.interface import AttentionSpec, CacheShape
from batchgen.engine.attention.triton.paged import TritonBackend
from batchgen.engine.attention.triton.plan import ITEM_WORDS, Plan, PlanKey, ceil_div, make_plan
from batchgen.engine.model.pieces import Piece, make_metadata
from batchgen.engine.sampling.cuda_ops import greedy_tokens, sampled_tokens
from batchgen.startup.folders import prepare_compilers
from batchgen.startup.kernels import Record

__all__ = ["compile_ahead", "kernel_calls"]

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
    """One call for each kernel that a layer of this kind compiles."""
    backend = _Apart()
    cache = backend.allocate(
        spec, CacheShape(2 * _PROMPT // block_size, block_size, cache_dtype, device)
    )
    keys = [launch.key for launch in backend.launches(spec, cache)]
    sinks = torch.zeros(spec.num_heads, dtype=dtype, device=device) if spec.has_sinks else None
    for num_tokens in (1, _PROMPT):
        blocks = tuple(range(ceil_div(num_tokens, block_size)))
        metadata = make_metadata([Piece(blocks, 0, num_tokens)], block_size, device)
        metadata.slot_mapping = metadata.slot_mapping.int()  # as `prepare` does
        yield from (partial(make_plan, key, metadata) for key in keys[: 1 + (num_tokens > 1)])
        metadata.host = {key: _idle_plan(key, metadata.slot_mapping) for key in keys}
        query, key, value = _tokens(spec, num_tokens, dtype, device)
        backend.forward(query, key, value, cache, spec, metadata, sinks)
    yield from backend.kept


def sampler_calls(vocab_size: int, dtype: torch.dtype, device: torch.device) -> Iterator[Call]:
    """As `kernel_calls`, for greedy tokens and for drawn ones."""
    logits = torch.zeros((2, vocab_size), dtype=dtype, device=device)
    ids = torch.zeros(2, dtype=torch.int64, device=device)
    yield partial(greedy_tokens, logits)
    yield partial(sampled_tokens, logits, torch.ones(2, device=device), ids, ids)


@torch.inference_mode()
def compile_ahead(shapes: dict[str, Any]) -> list[str]:
    """`shapes`: as `kernel_shapes` makes them, and the device. Returns what failed, a line each:
    the command will meet it again where it needs it, and say it."""
    prepare_compilers()  # what the command compiles with, too
    device = torch.device(shapes["device"])
    dtype, cache_dtype = getattr(torch, shapes["dtype"]), getattr(torch, shapes["cache_dtype"])
    calls: list[Call] = []
    for number, layer in enumerate(shapes["layers"]):
        spec = AttentionSpec(index=number, scale=1.0, **layer)
        for block_size in shapes["block_sizes"]:
            for kind in {dtype, cache_dtype}:
                calls += kernel_calls(spec, dtype, kind, block_size, device)
    calls += sampler_calls(shapes["vocab_size"], dtype, device)
    with ThreadPoolExecutor(max_workers=max(2, len(os.sched_getaffinity(0)) - 2)) as pool:
        running = [(pool.submit(torch.inference_mode()(call)), call) for call in reversed(calls)]
    errors = [(call, done.exception()) for done, call in running]
    return [f"{call.func.__qualname__}: {_line(error)}" for call, error in errors if error]


def _line(error: BaseException) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= _MOST_LETTERS else f"{text[:_MOST_LETTERS]} ..."


def _tokens(
    spec: AttentionSpec, num_tokens: int, dtype: torch.dtype, device: torch.device
) -> list[torch.Tensor]:
    """Queries, keys and values."""
    shapes = (
        (spec.num_heads, spec.head_dim),
        (spec.num_kv_heads, spec.head_dim),
        (spec.num_kv_heads, spec.v_head_dim),
    )
    return [torch.zeros((num_tokens, *shape), dtype=dtype, device=device) for shape in shapes]


def _idle_plan(key: PlanKey, slots: torch.Tensor) -> Plan:
    """With one item, which has no tiles: its programs leave at once."""
    items = torch.zeros((1, ITEM_WORDS), dtype=torch.int32, device=slots.device)
    counters = torch.zeros(key.num_kv_heads, dtype=torch.int32, device=slots.device)
    return Plan(items, counters, 1, slots if key.min_rows else None)


def main() -> None:
    """Arguments: the shapes as JSON, and the file that says how it went."""
    file = Path(sys.argv[2])
    try:
        failed = compile_ahead(json.loads(sys.argv[1]))
    except Exception as error:  # before any kernel: the device has no room, or is not there
        failed = [_line(error)]
    Record(Record.read(file).starts, failed).write(file)


if __name__ == "__main__":
    main()
