"""Keys that rows have in common are read once, and nothing shows it but the time.

On a GPU the kernels run compiled; elsewhere in Triton's interpreter.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from triton_cases import FLOAT8, SPEC, TOLERANCE, error, make_backend
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.attention.interface import (
    AttentionMetadata,
    AttentionSpec,
    CacheShape,
    SharedReads,
    SharingShape,
)
from batchgen.engine.cuda import shared_reads
from batchgen.engine.cuda.shared_reads import find_groups, plan_shared_reads
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU and not INTERPRETED else "cpu")
SHAPE = SharingShape(members=8, grain=32, wanted_items=6, max_items=64, worth_keys=0)


def tree(
    rng: random.Random, num_rows: int, block_size: int, trunk: int, page: int
) -> tuple[np.ndarray, list[int]]:
    """Tables of rows under an instruction of `trunk` blocks and documents of `page` blocks, and
    where each row is."""
    free = iter(rng.sample(range(4000), 4000))
    trunk = [next(free) for _ in range(trunk)]
    pages = [[next(free) for _ in range(page)] for _ in range(3)]
    table = np.zeros((num_rows + 4, 512), dtype=np.int32)
    starts = []
    for row in range(num_rows):
        kind = rng.randrange(6)
        blocks = [] if kind == 0 else trunk + ([] if kind == 1 else pages[kind % 3])
        own = rng.randint(0, 3)
        blocks = blocks + [next(free) for _ in range(own + 1)]
        table[row, : len(blocks)] = blocks
        starts.append((len(blocks) - 1) * block_size + rng.randrange(block_size))
    return table, starts


def step_of(starts: list[int], chunks: dict[int, int]) -> ScheduledStep:
    """One decode a row, but for `chunks`: row -> tokens."""
    sequence = Sequence(Request(0, [1], SamplingParams()), 2)
    num_tokens = [chunks.get(row, 1) for row in range(len(starts))]
    return ScheduledStep(
        [sequence] * len(starts),
        list(range(len(starts))),
        num_tokens,
        [start + 1 - n for start, n in zip(starts, num_tokens, strict=True)],
        total_tokens=sum(num_tokens),
        num_sharing_prefix=len(starts),
    )


@settings(max_examples=24, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.sampled_from([8, 16, 32]))
def test_a_plan_reads_each_key_of_each_row_once(seed: int, num_rows: int, block_size: int) -> None:
    rng = random.Random(seed)
    trunk, page = rng.choice([1, 8, 40]) * 32 // block_size, rng.choice([2, 20, 60])
    table, starts = tree(rng, num_rows, block_size, trunk, page)
    step = step_of(starts, {0: 2} if starts[0] else {})
    shape = replace(SHAPE, members=rng.choice([2, 7, 64]), max_items=rng.choice([8, 64]))
    plan = plan_shared_reads(step, table, block_size, shape)
    if plan is None:
        return
    assert len(plan.items) <= shape.max_items
    assert len(plan.members) <= 2 * num_rows
    read = {row: np.zeros(4000 * 32, dtype=int) for row in range(num_rows)}
    for number, (owner, first, count, begin, end, *_) in enumerate(plan.items.tolist()):
        assert begin < end <= min(starts[r] for r in plan.members[first : first + count])
        assert begin % shape.grain == end % shape.grain == 0
        for place, row in enumerate(plan.members[first : first + count].tolist()):
            blocks = slice(begin // block_size, -(-end // block_size))
            assert (table[row, blocks] == table[owner, blocks]).all(), "other keys"
            read[row][begin:end] += 1
            words = plan.rows[row].tolist()
            assert any(
                words[1 + 3 * level] <= number < words[1 + 3 * level] + words[2 + 3 * level]
                and words[3 + 3 * level] == place
                for level in range(2)
            ), "nobody merges it"
    for row in range(num_rows):
        until = plan.rows[row, 0]
        assert (read[row][:until] == 1).all()
        assert not read[row][until:].any()
        assert plan.rows[row, 2] + plan.rows[row, 5] == sum(
            row in plan.members[f : f + n] for _, f, n, *_ in plan.items.tolist()
        )
    assert plan.saved > 0


def test_an_instruction_and_its_documents_are_two_levels() -> None:
    table = np.zeros((40, 64), dtype=np.int32)
    for row in range(40):
        table[row] = 1000 + row * 64 + np.arange(64)
        table[row, :20] = np.arange(20)
        if row < 32:
            table[row, 20:50] = 100 * (1 + row // 8) + np.arange(30)
    whole = np.full(40, 60)
    groups = list(find_groups(table, np.arange(40), whole, 16, 64))
    assert [(len(g.rows), g.first, g.end, g.level) for g in groups] == [
        (40, 0, 320, 0),
        *[(8, 320, 768, 1)] * 4,
    ]


def test_what_saves_little_is_left_as_it_is() -> None:
    table = np.arange(8 * 64, dtype=np.int32).reshape(8, 64)
    table[:, :20] = np.arange(20)
    step = step_of([400] * 8, {})
    assert plan_shared_reads(step, table, 16, SHAPE) is not None
    assert plan_shared_reads(step, table, 16, replace(SHAPE, worth_keys=7 * 320 + 1)) is None
    assert plan_shared_reads(step_of([400] * 3, {}), table, 16, SHAPE) is None


SPECS = {
    "plain": SPEC,
    "softcap and sinks": replace(SPEC, softcap=3.0, has_sinks=True),
    "odd heads": AttentionSpec(0, 6, 2, 24, 40, 0.2),
    "window": replace(SPEC, sliding_window=40),
}
INTERPRETED_SPECS = [name for name in SPECS if name != "plain"]
"""Plain attention is interpreted with a float8 cache."""


@direct
@pytest.mark.parametrize("feature", INTERPRETED_SPECS if INTERPRETED else SPECS)
def test_shared_reads_change_no_answer(feature: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "_FEWEST_KEYS", 1)
    if feature == "odd heads":
        check(SPECS[feature], torch.float16, torch.float16, trunk=8, page=8)
    else:
        check(SPECS[feature], torch.float32, torch.float32)


@direct
def test_shared_reads_of_a_float8_cache_change_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_reads, "_FEWEST_KEYS", 1)
    check(SPECS["plain"], torch.float16, FLOAT8, trunk=8, page=8)


@pytest.mark.cuda
@pytest.mark.parametrize("heads", [(16, 8, 128, 128), (32, 8, 128, 128), (32, 8, 64, 64)])
def test_shared_reads_of_real_shapes_change_no_answer(heads: tuple[int, ...]) -> None:
    spec = AttentionSpec(0, *heads, heads[2] ** -0.5)
    for block_size in (16, 64):
        check(spec, torch.bfloat16, torch.bfloat16, block_size, 200, trunk=40, page=30)


def check(
    spec: AttentionSpec,
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
    block_size: int = 16,
    num_rows: int = 12 if INTERPRETED else 16,
    trunk: int = 4,
    page: int = 4,
) -> None:
    """With and without shared reads, a decode step and a mixed one."""
    rng, draw = random.Random(1), torch.Generator().manual_seed(1)
    table, starts = tree(rng, num_rows, block_size, trunk, page)
    backend = make_backend()
    cache = backend.allocate(spec, CacheShape(4000, block_size, cache_dtype, DEVICE))
    for store in (cache.keys, cache.values):
        store.copy_((torch.randn(store.shape, generator=draw) / 2).to(DEVICE, cache_dtype))
    shape = backend.sharing([spec], cache_dtype, block_size, DEVICE)
    shape = shape and replace(shape, worth_keys=0)
    for chunks in ({3: 6, 5: 2},) if INTERPRETED else ({}, {3: 20, 5: 2}):
        step = step_of(starts, {row: min(n, starts[row] + 1) for row, n in chunks.items()})
        metadata = metadata_of(step, table, block_size)
        tokens = step.total_tokens
        inputs = [
            torch.randn(tokens, heads, dim, generator=draw).to(DEVICE, dtype)
            for heads, dim in (
                (spec.num_heads, spec.head_dim),
                (spec.num_kv_heads, spec.head_dim),
                (spec.num_kv_heads, spec.v_head_dim),
            )
        ]
        sinks = torch.randn(spec.num_heads, generator=draw).to(DEVICE, dtype)
        sinks = sinks if spec.has_sinks else None
        if spec.sliding_window is not None:
            assert shape is None
            continue
        assert shape is not None
        backend.prepare(metadata)
        apart = backend.forward(*inputs, cache, spec, metadata, sinks)
        plan = plan_shared_reads(step, table, block_size, shape)
        assert plan is not None
        assert plan.rows[:, [2, 5]].any(axis=0).all(), "both levels are tried"
        rows = plan.items[:, 2] * (spec.num_heads // spec.num_kv_heads)
        from batchgen.engine.attention.triton.tuning import few_tile

        few = few_tile(spec, cache_dtype, block_size, DEVICE).block_m
        assert rows.min() <= few, "items of few rows are tried"
        assert rows.max() > few or dtype != torch.float32, "and of many"
        shared = SharedReads(*(tensor_of(a) for a in (plan.items, plan.members, plan.rows)))
        together = replace(metadata, shared=shared, host=None)
        backend.prepare(together)
        result = backend.forward(*inputs, cache, spec, together, sinks)
        assert error(result, apart) < TOLERANCE[dtype]


def tensor_of(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.int32)).to(DEVICE)


def metadata_of(step: ScheduledStep, table: np.ndarray, block_size: int) -> AttentionMetadata:
    """Own tokens at the end of each row; their slots are written."""
    slots = [
        table[row, position // block_size] * block_size + position % block_size
        for row, (start, n) in enumerate(zip(step.starts, step.num_tokens, strict=True))
        for position in range(start, start + n)
    ]
    ends = np.array(step.starts) + np.array(step.num_tokens)
    return AttentionMetadata(
        cu_seqlens_q=tensor_of(np.cumsum([0, *step.num_tokens])),
        seq_lens=tensor_of(ends),
        block_tables=tensor_of(table[: len(step)]),
        slot_mapping=tensor_of(np.array(slots)),
        block_size=block_size,
        num_seqs=len(step),
        num_tokens=step.total_tokens,
        max_seqlen_q=max(step.num_tokens),
        max_seqlen_k=int(ends.max()),
    )
