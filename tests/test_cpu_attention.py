"""Promise: both CPU implementations answer as dense attention does, on any ragged step."""

from __future__ import annotations

import math
import random
from functools import cache
from typing import Any

import pytest
import torch

from batchgen.engine.attention.cpu.paged import CpuAttention
from batchgen.engine.attention.interface import AttentionMetadata, AttentionSpec, CacheShape
from batchgen.engine.kernels.build import load_kernels

pytestmark = pytest.mark.usefixtures("two_threads")
BACKENDS = [
    pytest.param(
        True, id="c", marks=pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
    ),
    pytest.param(False, id="torch"),
]
HEADS = [(1, 1, 16, 16), (9, 3, 64, 64), (4, 4, 20, 33), (8, 1, 24, 128), (7, 7, 8, 8)]


def dense(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    spec: AttentionSpec,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """One whole sequence under a causal mask, in float64."""
    group = spec.num_heads // spec.num_kv_heads
    q, k, v = (x.double().transpose(0, 1) for x in (query, key, value))
    k, v = k.repeat_interleave(group, 0), v.repeat_interleave(group, 0)
    scores = q @ k.transpose(1, 2) * spec.scale
    if spec.softcap:
        scores = spec.softcap * torch.tanh(scores / spec.softcap)
    seen = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).tril()
    if spec.sliding_window:
        seen &= ~torch.ones_like(seen).tril(-spec.sliding_window)
    scores = scores.masked_fill(~seen, -math.inf)
    if sinks is not None:
        sink = sinks.double().view(-1, 1, 1).expand(-1, q.shape[1], 1)
        weights = torch.cat((scores, sink), -1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    return (weights @ v).transpose(0, 1)


class Cache:
    """Hands out shuffled blocks to sequences and makes each step's metadata."""

    def __init__(self, rng: random.Random, lengths: list[int], block_size: int) -> None:
        self.block_size = block_size
        needed = [-(-n // block_size) for n in lengths]
        self.num_blocks = sum(needed) + 3
        blocks = list(range(self.num_blocks))
        rng.shuffle(blocks)
        self.tables = [[blocks.pop() for _ in range(n)] for n in needed]

    def step(self, ranges: list[tuple[int, int, int]], padding: int) -> AttentionMetadata:
        """`ranges`: (sequence, first token, one past the last token)."""
        slots = [
            self.tables[seq][p // self.block_size] * self.block_size + p % self.block_size
            for seq, first, last in ranges
            for p in range(first, last)
        ]
        starts = [0]
        for _, first, last in ranges:
            starts.append(starts[-1] + last - first)
        width = max(len(self.tables[seq]) for seq, _, _ in ranges)
        tables = [self.tables[seq] + [-7] * (width - len(self.tables[seq])) for seq, _, _ in ranges]
        return AttentionMetadata(
            cu_seqlens_q=torch.tensor(starts + [starts[-1]] * padding, dtype=torch.int32),
            seq_lens=torch.tensor([last for *_, last in ranges] + [0] * padding, dtype=torch.int32),
            block_tables=torch.tensor(tables + [[0] * width] * padding, dtype=torch.int32),
            slot_mapping=torch.tensor(slots + [-1] * padding),
            block_size=self.block_size,
            num_seqs=len(ranges),
            num_tokens=starts[-1],
            max_seqlen_q=max(last - first for _, first, last in ranges),
            max_seqlen_k=max(last for *_, last in ranges),
        )


def cut(rng: random.Random, lengths: list[int]) -> list[list[tuple[int, int, int]]]:
    """Steps in which every sequence advances by random chunks, decodes and pauses mixed."""
    done = [0] * len(lengths)
    steps = []
    while any(d < n for d, n in zip(done, lengths, strict=True)):
        step = []
        for seq, n in enumerate(lengths):
            chunk = min(rng.choice([0, 1, 1, 2, 7, 50, 400]), n - done[seq])
            if chunk:
                step.append((seq, done[seq], done[seq] + chunk))
                done[seq] += chunk
        if step:
            rng.shuffle(step)
            steps.append(step)
    return steps


def run_paged(
    spec: AttentionSpec,
    inputs: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
    steps: list[list[tuple[int, int, int]]],
    cache: Cache,
    use_kernel: bool,
    sinks: torch.Tensor | None,
    padding: int = 0,
) -> list[torch.Tensor]:
    backend = CpuAttention(use_kernel=use_kernel)
    dtype = inputs[0][0].dtype
    layer = backend.allocate(
        spec, CacheShape(cache.num_blocks, cache.block_size, dtype, torch.device("cpu"))
    )
    outs = [torch.full((q.shape[0], spec.num_heads, spec.v_head_dim), 9.0) for q, _, _ in inputs]
    for ranges in steps:
        metadata = cache.step(ranges, padding)
        rows = [torch.cat([inputs[s][i][a:b] for s, a, b in ranges]) for i in range(3)]
        rows = [torch.cat([x, torch.full_like(x[:1], 5.0).expand(padding, -1, -1)]) for x in rows]
        strided = rows[0].transpose(0, 1).contiguous().transpose(0, 1)
        backend.prepare(metadata)
        out = backend.forward(strided, rows[1], rows[2], layer, spec, metadata, sinks).float()
        assert out.shape == (metadata.num_tokens + padding, spec.num_heads, spec.v_head_dim)
        assert not out[metadata.num_tokens :].any()
        at = 0
        for seq, first, last in ranges:
            outs[seq][first:last] = out[at : at + last - first]
            at += last - first
    return outs


def random_case(
    seed: int, dtype: torch.dtype
) -> tuple[random.Random, AttentionSpec, list[tuple[torch.Tensor, ...]], torch.Tensor | None]:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    heads, kv_heads, dim, v_dim = HEADS[seed % len(HEADS)]
    spec = AttentionSpec(
        index=0,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=dim,
        v_head_dim=v_dim,
        scale=rng.choice([dim**-0.5, 0.2]),
        sliding_window=rng.choice([None, None, 1, 5, 33, 200]),
        softcap=rng.choice([None, None, 5.0]),
        has_sinks=rng.random() < 0.4,
    )
    lengths = [rng.choice([1, 2, 15, 16, 17, 40, 100, 250]) for _ in range(rng.randint(1, 6))]
    inputs = [
        tuple(
            torch.randn(n, h, d).to(dtype)
            for h, d in ((heads, dim), (kv_heads, dim), (kv_heads, v_dim))
        )
        for n in lengths
    ]
    return rng, spec, inputs, torch.randn(heads) if spec.has_sinks else None


@pytest.mark.parametrize("use_kernel", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(20))
def test_any_ragged_step_equals_dense_attention(
    use_kernel: bool, dtype: torch.dtype, seed: int
) -> None:
    rng, spec, inputs, sinks = random_case(seed, dtype)
    lengths = [q.shape[0] for q, _, _ in inputs]
    cache = Cache(rng, lengths, rng.choice([16, 32, 48]))
    outs = run_paged(spec, inputs, cut(rng, lengths), cache, use_kernel, sinks, rng.choice([0, 3]))
    bound = 2e-5 if dtype == torch.float32 else 3e-2
    for (q, k, v), out in zip(inputs, outs, strict=True):
        expected = dense(q, k, v, spec, sinks).float()
        torch.testing.assert_close(out, expected, atol=bound, rtol=bound)


LONG = [2500, 1024, 1025]


@cache
def long_case(window: int | None, dtype: torch.dtype) -> tuple[AttentionSpec, Any, Any]:
    """Sequences of the lengths `LONG`, and what dense attention makes of them."""
    torch.manual_seed(3)
    spec = AttentionSpec(0, 4, 2, 16, 16, 0.25, sliding_window=window)
    inputs = [tuple(torch.randn(n, h, 16).to(dtype) for h in (4, 2, 2)) for n in LONG]
    return spec, inputs, [dense(q, k, v, spec, None).float() for q, k, v in inputs]


@pytest.mark.parametrize("use_kernel", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("window", [None, 700])
def test_contexts_past_every_split_equal_dense_attention(
    use_kernel: bool, window: int | None, dtype: torch.dtype
) -> None:
    spec, inputs, expected = long_case(window, dtype)
    cache = Cache(random.Random(3), LONG, 16)
    bound = 2e-5 if dtype == torch.float32 else 1e-2
    steps = [[(0, 0, 900), (1, 0, 1023), (2, 0, 1000)], [(0, 900, 2499), (1, 1023, 1024)]]
    steps += [[(2, 1000, 1025), (0, 2499, 2500)]]
    found = run_paged(spec, inputs, steps, cache, use_kernel, None)
    for out, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(out, wanted, atol=bound, rtol=bound)


@pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("heads", "lengths"),
    [((6, 2, 64, 64), [1300, 77, 160]), *((heads, [130, 77, 20, 5]) for heads in HEADS)],
    ids=str,
)
def test_kernel_answers_bit_for_bit_alike_however_the_step_is_cut(
    heads: tuple[int, int, int, int], lengths: list[int], dtype: torch.dtype
) -> None:
    torch.manual_seed(4)
    spec = AttentionSpec(0, *heads, 0.125)
    num_heads, num_kv_heads, key_dim, value_dim = heads
    sizes = ((num_heads, key_dim), (num_kv_heads, key_dim), (num_kv_heads, value_dim))
    inputs = [tuple(torch.randn(n, *size).to(dtype) for size in sizes) for n in lengths]
    cache = Cache(random.Random(4), lengths, 16)
    whole = [[(seq, 0, n) for seq, n in enumerate(lengths)]]
    expected = run_paged(spec, inputs, whole, cache, True, None)
    for seed in range(3):
        outs = run_paged(spec, inputs, cut(random.Random(seed), lengths), cache, True, None)
        assert all(torch.equal(a, b) for a, b in zip(outs, expected, strict=True))


def test_block_sizes_without_whole_vectors_fall_back_to_torch() -> None:
    torch.manual_seed(5)
    spec = AttentionSpec(0, 4, 2, 16, 16, 0.25)
    lengths = [37, 5]
    inputs = [tuple(torch.randn(n, h, 16) for h in (4, 2, 2)) for n in lengths]
    cache = Cache(random.Random(5), lengths, 4)
    outs = run_paged(spec, inputs, cut(random.Random(5), lengths), cache, True, None)
    for (q, k, v), out in zip(inputs, outs, strict=True):
        torch.testing.assert_close(out, dense(q, k, v, spec, None).float(), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("use_kernel", BACKENDS)
def test_bytes_per_block_is_what_allocate_takes(use_kernel: bool) -> None:
    backend = CpuAttention(use_kernel=use_kernel)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        spec = AttentionSpec(0, 4, 2, 20, 24, 0.25)
        cache = backend.allocate(spec, CacheShape(5, 16, dtype, torch.device("cpu")))
        taken = cache.key.nbytes + cache.value.nbytes
        assert taken == 5 * backend.bytes_per_block(spec, 16, dtype)


@pytest.mark.parametrize("use_kernel", BACKENDS)
def test_a_nan_key_spoils_its_own_sequence_only(use_kernel: bool) -> None:
    torch.manual_seed(6)
    spec = AttentionSpec(0, 2, 1, 16, 16, 0.25)
    inputs = [tuple(torch.randn(20, h, 16) for h in (2, 1, 1)) for _ in range(2)]
    inputs[0][1][3] = math.nan
    cache = Cache(random.Random(6), [20, 20], 16)
    outs = run_paged(spec, inputs, [[(0, 0, 20), (1, 0, 20)]], cache, use_kernel, None)
    assert outs[0][5:].isnan().all()
    assert outs[1].isfinite().all()


@pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_nobodys_numbers_beside_a_sequences_last_token_do_not_touch_it(
    heads: tuple[int, int, int, int],
) -> None:
    torch.manual_seed(7)
    spec = AttentionSpec(0, *heads, 0.25)
    shapes = [heads[::2], heads[1:3], (heads[1], heads[3])]
    earlier, later = ([torch.randn(n, *s).bfloat16() for s in shapes] for n in (64, 35))
    earlier[1][:], earlier[2][:] = math.nan, math.nan
    cache = Cache(random.Random(7), [64], 16)
    alone = run_paged(spec, [later], [[(0, 0, 35)]], cache, True, None)
    cache.tables *= 2  # the second sequence is given the blocks of the first
    steps = [[(0, 0, 64)], [(1, 0, 17)], [(1, 17, 18)], [(1, 18, 35)]]
    outs = run_paged(spec, [earlier, later], steps, cache, True, None)
    assert torch.equal(outs[1], alone[0])


@pytest.mark.skipif(load_kernels() is None, reason="no C compiler")
def test_in_bfloat16_the_error_of_a_long_context_is_about_that_of_one_rounding() -> None:
    torch.manual_seed(8)
    spec = AttentionSpec(0, 6, 2, 64, 64, 0.125)
    inputs = [tuple(torch.randn(1500, h, 64).bfloat16() for h in (6, 2, 2))]
    outs = run_paged(
        spec, inputs, [[(0, 0, 1500)]], Cache(random.Random(8), [1500], 16), True, None
    )
    expected = dense(*inputs[0], spec, None)
    error = (outs[0] - expected).norm() / expected.norm()
    assert error < 1.5 * (expected.bfloat16() - expected).norm() / expected.norm()
