"""The Triton attention backend computes what the oracle computes.

On a GPU everything runs compiled; elsewhere a small set runs in Triton's interpreter, in a process
of its own because Triton decides at its first import.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from triton_cases import SPEC, Case, Step, build, error, expected

from batchgen.engine.attention.interface import AttentionSpec

pytest.importorskip("triton", reason="triton is not installed: no CUDA backend to test")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
direct = pytest.mark.skipif(
    not (INTERPRETED or torch.cuda.is_available()), reason="runs in the interpreter's process"
)
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}
MIXED = ((1, 40), (37, 37), (1, 1), (5, 70), (20, 53), (1, 129))

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

SMALL = {
    "decode": Case(((1, 1), (1, 17), (1, 100), (1, 300)), padded_seqs=2, padded_tokens=2),
    "mixed": Case(MIXED, padded_seqs=1, padded_tokens=3),
    "window": Case(MIXED, replace(SPEC, sliding_window=24)),
    "softcap and sinks": Case(MIXED, replace(SPEC, softcap=3.0, has_sinks=True)),
    "one long sequence": Case(((2, 600),), block_size=64),
    "odd heads": Case(MIXED, AttentionSpec(0, 6, 2, 24, 40, 0.2), block_size=32),
    "half precision": Case(MIXED, dtype=torch.float16),
}


def make_backend():
    from batchgen.engine.attention.triton_paged import TritonBackend

    return TritonBackend()


def filled_cache(backend, case: Case, step: Step, poison: float = float("nan")):
    """A cache that holds the past, and poison wherever nothing may be read."""
    device = step.query.device
    cache = backend.allocate(case.spec, step.num_blocks, case.block_size, case.dtype, device)
    for store, past in zip((cache.keys, cache.values), step.past, strict=True):
        store.fill_(poison)
        block, offset = step.past_slots // case.block_size, step.past_slots % case.block_size
        store[block, :, offset] = past
    return cache


def run(case: Case, step: Step) -> torch.Tensor:
    backend = make_backend()
    cache = filled_cache(backend, case, step)
    backend.prepare(step.metadata)
    return backend.forward(
        step.query, step.key, step.value, cache, case.spec, step.metadata, step.sinks
    )


def check(case: Case) -> None:
    step = build(case, DEVICE)
    tokens = step.metadata.num_tokens
    result = run(case, step)[:tokens]
    assert error(result, expected(case, step)[:tokens]) < TOLERANCE[case.dtype]


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="the tests run directly")
def test_kernels_agree_with_the_oracle_in_the_interpreter() -> None:
    done = subprocess.run(
        [
            sys.executable,
            *["-m", "pytest", "-q", "-p", "no:cacheprovider", "-m"],
            "not cuda",
            Path(__file__).name,
        ],
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@direct
@pytest.mark.parametrize("name", SMALL)
def test_a_ragged_step_agrees_with_the_oracle(name: str) -> None:
    check(SMALL[name])


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


@pytest.mark.cuda
@on_gpu
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_and_feature_agrees_on_a_gpu(
    shape: str, feature: str, dtype: torch.dtype
) -> None:
    if dtype != torch.bfloat16 and feature not in ("plain", "all"):
        pytest.skip("features are covered in bfloat16")
    for seed in range(4):
        check(wide(shape, feature, dtype, seed + 7 * len(shape) + len(feature)))


@direct
@pytest.mark.parametrize("lengths", [((1, 700),), ((1, 200), (3, 400), (20, 300))], ids=str)
def test_split_entries_give_the_same_result_every_time(
    lengths: tuple[tuple[int, int], ...],
) -> None:
    case = Case(lengths)
    step = build(case, DEVICE)
    first = run(case, step)
    assert error(first, expected(case, step)) < TOLERANCE[case.dtype]
    for _ in range(2):
        assert torch.equal(run(case, step), first)


@direct
def test_padded_tokens_are_neither_computed_nor_cached() -> None:
    case = Case(((1, 20), (3, 3)), padded_seqs=3, padded_tokens=4)
    step = build(case, DEVICE)
    backend = make_backend()
    cache = filled_cache(backend, case, step, poison=7.0)
    before = cache.keys.clone(), cache.values.clone()
    backend.forward(step.query, step.key, step.value, cache, case.spec, step.metadata)
    changed = (cache.keys != before[0]).any(-1).any(1) | (cache.values != before[1]).any(-1).any(1)
    slots = step.metadata.slot_mapping[: step.metadata.num_tokens]
    assert sorted(changed.flatten().nonzero().flatten().tolist()) == sorted(slots.tolist())


@direct
def test_two_passes_merge_by_their_log_sum_exp() -> None:
    case = Case(((1, 90), (1, 130), (1, 33)))
    step = build(case, DEVICE)
    backend = make_backend()
    cache = filled_cache(backend, case, step)
    backend.forward(step.query, step.key, step.value, cache, case.spec, step.metadata)
    tables = step.metadata.block_tables
    prefix = 2 * case.block_size
    head = replace(
        step.metadata, seq_lens=torch.full_like(step.metadata.seq_lens, prefix), host=None
    )
    tail = replace(
        step.metadata,
        seq_lens=step.metadata.seq_lens - prefix,
        block_tables=tables[:, 2:].contiguous(),
        host=None,
    )
    results, lses = [], []
    for part in (head, tail):
        lses.append(torch.full(step.query.shape[:2], float("nan"), device=DEVICE))
        results.append(backend.attend(step.query, cache, case.spec, part, lse=lses[-1]))
    weights = torch.softmax(torch.stack(lses), dim=0)[..., None]
    merged = (torch.stack(results) * weights).sum(0)
    assert error(merged, expected(case, step)) < TOLERANCE[torch.float32]


@pytest.mark.cuda
@on_gpu
@pytest.mark.parametrize("feature", FEATURES)
def test_a_captured_step_serves_other_lengths(feature: str) -> None:
    cases = [replace(wide("qwen", feature, torch.bfloat16, s), block_size=64) for s in range(6)]
    bucket = {"padded_seqs": 16, "padded_tokens": 5000}
    steps = [build(replace(case, **bucket), DEVICE) for case in cases]
    spec, backend = cases[0].spec, make_backend()
    cache = backend.allocate(spec, 400, 64, torch.bfloat16, torch.device(DEVICE))
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
    for store, past in zip((cache.keys, cache.values), step.past, strict=True):
        store.fill_(float("nan"))
        store[step.past_slots // 64, :, step.past_slots % 64] = past
