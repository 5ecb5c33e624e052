"""A captured attention step stays right when it is replayed with other lengths (needs a GPU)."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from triton_cases import FEATURES, TOLERANCE, Case, Step, build, error, expected, make_backend, wide

from batchgen.engine.attention.interface import CacheShape

pytest.importorskip("triton", reason="triton is not installed: no CUDA backend to test")

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICE = "cuda"


@pytest.mark.cuda
@on_gpu
@pytest.mark.parametrize("feature", FEATURES)
def test_a_captured_step_serves_other_lengths(feature: str) -> None:
    cases = [replace(wide("qwen", feature, torch.bfloat16, s), block_size=64) for s in range(6)]
    bucket = {"padded_seqs": 16, "padded_tokens": 5000}
    steps = [build(replace(case, **bucket), DEVICE) for case in cases]
    spec, backend = cases[0].spec, make_backend()
    cache = backend.allocate(spec, CacheShape(400, 64, torch.bfloat16, torch.device(DEVICE)))
    static = static_step(cases[0], steps)
    load_step(static, steps[0], cache)

    def call() -> torch.Tensor:
        backend.prepare(static.metadata)
        return backend.forward(
            static.query, static.key, static.value, cache, spec, static.metadata, static.sinks
        )

    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    for case, step in zip(cases, steps, strict=True):
        load_step(static, step, cache)
        out.fill_(float("nan"))
        graph.replay()
        tokens = step.metadata.num_tokens
        assert error(out[:tokens], expected(case, step)[:tokens]) < TOLERANCE[torch.bfloat16]
        assert out[tokens:].isnan().all(), "padded tokens were written"
        again = out[:tokens].clone()
        load_step(static, step, cache)
        assert torch.equal(call()[:tokens], again), "graph and eager differ"


def static_step(case: Case, steps: list[Step]) -> Step:
    """Buffers of one bucket that hold any of the steps."""
    tokens = max(len(step.metadata.slot_mapping) for step in steps)
    seqs = max(len(step.metadata.seq_lens) for step in steps)
    spec = case.spec
    step = steps[0]
    metadata = replace(
        step.metadata,
        cu_seqlens_q=torch.zeros(seqs + 1, dtype=torch.int32, device=DEVICE),
        seq_lens=torch.zeros(seqs, dtype=torch.int32, device=DEVICE),
        block_tables=torch.zeros((seqs, 64), dtype=torch.int32, device=DEVICE),
        slot_mapping=torch.full((tokens,), -1, device=DEVICE),
        num_seqs=seqs,
        num_tokens=tokens,
        max_seqlen_q=4096,
        max_seqlen_k=4096,
        host=None,
    )
    shape = (tokens, spec.num_kv_heads)
    return replace(
        step,
        query=torch.zeros(tokens, spec.num_heads, spec.head_dim, device=DEVICE).to(case.dtype),
        key=torch.zeros(*shape, spec.head_dim, device=DEVICE).to(case.dtype),
        value=torch.zeros(*shape, spec.v_head_dim, device=DEVICE).to(case.dtype),
        sinks=None if step.sinks is None else step.sinks.clone(),
        metadata=metadata,
    )


def load_step(static: Step, step: Step, cache) -> None:
    """Copy a step into the bucket's buffers and its past into the cache; the rest is poison."""
    for name in ("query", "key", "value"):
        source, target = getattr(step, name), getattr(static, name)
        target.fill_(float("nan"))
        target[: len(source)] = source
    if static.sinks is not None:
        static.sinks.copy_(step.sinks)
    ours, theirs = static.metadata, step.metadata
    ours.cu_seqlens_q.fill_(theirs.cu_seqlens_q[-1])
    ours.cu_seqlens_q[: len(theirs.cu_seqlens_q)] = theirs.cu_seqlens_q
    ours.seq_lens.zero_()
    ours.seq_lens[: len(theirs.seq_lens)] = theirs.seq_lens
    ours.block_tables.fill_(2**30)
    ours.block_tables[: len(theirs.block_tables), : theirs.block_tables.shape[1]] = (
        theirs.block_tables
    )
    ours.slot_mapping.fill_(-1)
    ours.slot_mapping[: len(theirs.slot_mapping)] = theirs.slot_mapping
    for store, past in zip((cache.keys, cache.values_by_token), step.past, strict=True):
        store.fill_(float("nan"))
        store[step.past_slots // 64, :, step.past_slots % 64] = past
