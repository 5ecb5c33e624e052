"""The Triton attention backend computes what the oracle computes.

On a GPU everything runs compiled; elsewhere a small set runs in Triton's interpreter.
"""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from triton_cases import (
    FEATURES,
    FLOAT8,
    SHAPES,
    SPEC,
    TOLERANCE,
    Case,
    Step,
    build,
    error,
    expected,
    filled_cache,
    make_backend,
    wide,
)
from triton_interpreter import INTERPRETED, direct

from batchgen.engine.attention.interface import AttentionSpec

pytest.importorskip("triton", reason="triton is not installed: no CUDA backend to test")

DEVICE = "cpu" if INTERPRETED else "cuda"
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
MIXED = ((1, 40), (37, 37), (1, 1), (5, 70), (20, 53), (1, 129))
if INTERPRETED:  # as many kinds of sequences, each of as many tiles, not more
    MIXED = ((1, 40), (17, 17), (1, 1), (3, 68))

SMALL = {
    "decode": Case(((1, 1), (1, 17), (1, 64), (3, 65), (1, 300)), padded_seqs=2, padded_tokens=2),
    "mixed": Case(MIXED, padded_seqs=1, padded_tokens=3),
    "window": Case(MIXED, replace(SPEC, sliding_window=24)),
    "softcap and sinks": Case(MIXED, replace(SPEC, softcap=3.0, has_sinks=True)),
    "one long sequence": Case(((2, 600),), block_size=64),
    "odd heads": Case(MIXED, AttentionSpec(0, 6, 2, 24, 40, 0.2), block_size=32),
    "half precision": Case(MIXED, dtype=torch.float16),
    "half precision, window": Case(MIXED, replace(SPEC, sliding_window=24), torch.float16),
    "float8": Case(MIXED, AttentionSpec(0, 6, 2, 64, 64, 0.125), torch.float16, cache_dtype=FLOAT8),
    "float8, odd heads": Case(
        *(MIXED, AttentionSpec(0, 6, 2, 24, 40, 0.2, 24, 3.0, True), torch.bfloat16, 64),
        cache_dtype=FLOAT8,
    ),
    "float8, decode": Case(
        ((1, 1), (1, 17), (3, 65), (2, 1100)), SPEC, torch.float16, 64, 2, 2, cache_dtype=FLOAT8
    ),
}


def laid_out(case: Case, **poison: float) -> tuple[Step, Any, Any]:
    """A step of the case, a backend, and its cache with what the step does not write."""
    step, backend = build(case, DEVICE), make_backend()
    return step, backend, filled_cache(backend, case, step, **poison)


def run(case: Case, step: Step, **tuners) -> torch.Tensor:
    backend = make_backend(**tuners)
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


@direct
@pytest.mark.parametrize("name", SMALL)
def test_a_ragged_step_agrees_with_the_oracle(name: str) -> None:
    check(SMALL[name])


@direct
@pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability()[0] < 9, reason="needs Hopper"
)
@pytest.mark.parametrize("window", [None, 50])
def test_tiles_loaded_by_the_memory_accelerator_agree(window: int | None) -> None:
    from batchgen.engine.attention.triton.tuning import Tile

    spec = AttentionSpec(0, 4, 2, 64, 64, 0.125, sliding_window=window)
    lengths = ((34, 98), (1, 64), (33, 33)) if INTERPRETED else ((90, 300), (1, 64), (130, 130))
    case = Case(lengths, spec, torch.float16, block_size=64)
    step = build(case, DEVICE)
    tile = Tile(64, 64, 4, 2, 1, one_loop=False, tma=True)
    result = run(case, step, chunk_tuner=lambda *_: tile)
    assert error(result, expected(case, step)) < TOLERANCE[case.dtype]


@direct
@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize(("keys", "chunk_keys"), [(16, 64), (32, 32), (64, 16)])
def test_tiles_whose_block_is_known_ahead_agree(
    keys: int, chunk_keys: int, window: int | None
) -> None:
    from batchgen.engine.attention.triton.tuning import Tile

    spec = AttentionSpec(0, 4, 2, 64, 64, 0.125, sliding_window=window)
    step = build(case := Case(((34, 98), (1, 64), (1, 200), (1, 1)), spec, block_size=64), DEVICE)
    result = run(
        case,
        step,
        decode_tuner=lambda *_: Tile(16, keys, 1, 3, 3, ahead=True),
        chunk_tuner=lambda *_: Tile(64, chunk_keys, 4, 3, 2, one_loop=False, ahead=True),
    )
    assert error(result, expected(case, step)) < TOLERANCE[case.dtype]


@pytest.mark.parametrize("group", [1, 2, 4, 8, 16, 32])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_all_tiles_of_decodes_have_as_many_rows_and_shared_keys_end_where_they_begin(
    head_dim: int, group: int
) -> None:
    from batchgen.engine.attention.triton.tuning import Decodes, decode_tile, few_tile, group_tile

    spec = AttentionSpec(0, 2 * group, 2, head_dim, head_dim, 0.1)
    for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.float32):
        of = spec, dtype, 64, torch.device("cpu")
        few, *others = (decode_tile(*of, kind) for kind in Decodes)
        assert {tile.block_m for tile in others} == {few.block_m}
        for tile in (few, *others, few_tile(*of), group_tile(*of)):
            assert 128 % tile.block_n == 0


@direct
@pytest.mark.parametrize("window", [0, 300])
def test_items_cover_each_tile_of_keys_once_and_the_longest_come_first(window: int) -> None:
    from batchgen.engine.attention.triton.plan import PlanKey, make_plan

    lengths = ((1, 5000), (7, 900), (100, 700), (1, 40), (2, 2100), (1, 1), (33, 33))
    step = build(Case(lengths, padded_seqs=3, padded_tokens=5), DEVICE)
    key = PlanKey(2, 4, 16, 32, window, 0, None, 30, 2)
    items = make_plan(key, step.metadata).items.tolist()
    used = [item for item in items if item[4] < item[5]]
    assert items[: len(used)] == used
    classes = [item[5] - item[4] for item in used]
    most = max(classes)
    assert all(a >= b - most // 30 - 1 for a, b in pairwise(classes))
    covered: dict[tuple[int, int], list[int]] = {}
    for _, row, rows, context, begin, end, seq, *_ in used:
        assert (rows, context) == (2 * lengths[seq][0], lengths[seq][1] - lengths[seq][0])
        covered.setdefault((seq, row), []).extend(range(begin, end))
    for seq, (count, keys) in enumerate(lengths):
        for row in range(0, 2 * count, 16):
            first = keys - count + row // 2
            last = keys - count + (min(row + 16, 2 * count) - 1) // 2
            low = max(first - window + 1, 0) // 32 if window else 0
            assert sorted(covered.pop((seq, row))) == list(range(low, last // 32 + 1))
    assert not covered
    slots = [item[8] for item in used if item[7] > 1]
    assert sorted(slots) == list(range(len(slots)))
    assert len(slots) < 2 * key.items_per_head


@direct
def test_a_plan_of_chunks_has_the_slots_of_their_tokens_alone() -> None:
    from batchgen.engine.attention.triton.plan import PlanKey, make_plan

    lengths = ((1, 50), (8, 9), (9, 30), (1, 1), (300, 300), (2, 70))
    step = build(Case(lengths, padded_seqs=3, padded_tokens=5), DEVICE)
    key = PlanKey(2, 4, 128, 32, 0, 16, None, 30, 2)
    slots = make_plan(key, step.metadata).slots
    assert slots is not None
    is_chunk = torch.tensor([count > 8 for count, _ in lengths for _ in range(count)] + [False] * 5)
    wanted = torch.where(is_chunk.to(DEVICE), step.metadata.slot_mapping, -1)
    assert torch.equal(slots, wanted)
    assert make_plan(replace(key, min_rows=0, max_rows=16), step.metadata).slots is None


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


@pytest.mark.cuda
@on_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("feature", ["plain", "all"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_agrees_with_a_float8_cache_on_a_gpu(
    shape: str, feature: str, dtype: torch.dtype
) -> None:
    if torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a GPU that converts float8")
    for seed in range(4):
        case = wide(shape, feature, dtype, seed + 7 * len(shape) + len(feature))
        check(replace(case, cache_dtype=FLOAT8))


@direct
@pytest.mark.parametrize("lengths", [((1, 700),), ((1, 200), (3, 250), (9, 120))], ids=str)
def test_split_entries_give_the_same_result_every_time(
    lengths: tuple[tuple[int, int], ...],
) -> None:
    case = Case(lengths)
    step, backend, cache = laid_out(case)
    backend.prepare(step.metadata)
    inputs = (step.query, step.key, step.value, cache, case.spec, step.metadata)
    first = backend.forward(*inputs)
    assert error(first, expected(case, step)) < TOLERANCE[case.dtype]
    for _ in range(1 if INTERPRETED else 2):  # as more layers would, after one `prepare`
        assert torch.equal(backend.forward(*inputs), first)


@direct
@pytest.mark.parametrize("lengths", [((1, 20), (1, 7)), ((1, 20), (30, 40))], ids=str)
def test_a_token_without_a_slot_is_not_cached(
    lengths: tuple[tuple[int, int], ...],
) -> None:
    case = Case(lengths)
    step, backend, cache = laid_out(case, poison=7.0)
    before = cache.keys.clone(), cache.values.clone()
    step.metadata.slot_mapping.fill_(-1)
    backend.forward(step.query, step.key, step.value, cache, case.spec, step.metadata)
    assert torch.equal(cache.keys, before[0])
    assert torch.equal(cache.values, before[1])


@direct
@pytest.mark.parametrize("lengths", [((1, 20), (2, 7)), ((1, 20), (30, 40))], ids=str)
def test_writes_to_a_float8_cache_round_saturate_and_keep_nan(
    lengths: tuple[tuple[int, int], ...],
) -> None:
    case = Case(lengths, dtype=torch.bfloat16, cache_dtype=FLOAT8)
    step = build(case, DEVICE)
    step.key[:, 0, :7] = torch.tensor([449, -464, 465, -1e30, math.inf, -math.inf, -0.0])
    step.key[:, 1, 3] = math.nan
    step.value[:] = torch.randn_like(step.value) * 10 ** torch.randn_like(step.value)
    backend = make_backend()
    cache = filled_cache(backend, case, step, poison=0.0)
    backend.forward(step.query, step.key, step.value, cache, case.spec, step.metadata)
    slots = step.metadata.slot_mapping
    block, offset = slots // case.block_size, slots % case.block_size
    for store, new in ((cache.keys, step.key), (cache.values_by_token, step.value)):
        found = store.float()[block, :, offset]
        assert torch.equal(found.isnan(), new.isnan())
        wanted = new.float().clamp(-448, 448).to(FLOAT8).float()
        assert torch.equal(found.nan_to_num(), wanted.nan_to_num())


@direct
@pytest.mark.skipif(INTERPRETED, reason="its bfloat16 are bits: NaN equals itself")
@pytest.mark.parametrize("lengths", [((1, 20), (2, 7)), ((1, 20), (30, 40))], ids=str)
def test_a_value_that_is_no_number_is_told_by_its_key_alone(
    lengths: tuple[tuple[int, int], ...],
) -> None:
    """Values in float8 are read without a mask, also where others left theirs."""
    case = Case(lengths, dtype=torch.bfloat16, cache_dtype=FLOAT8)
    step = build(case, DEVICE)
    step.value[1, 0, 3] = math.nan
    backend = make_backend()
    cache = filled_cache(backend, case, step, poison=0.0)
    result = backend.forward(step.query, step.key, step.value, cache, case.spec, step.metadata)
    slot = int(step.metadata.slot_mapping[1])
    block, offset = slot // case.block_size, slot % case.block_size
    assert cache.keys.float()[block, 0, offset].isnan().all()
    assert not cache.values.float().isnan().any()
    group = case.spec.num_heads // case.spec.num_kv_heads
    assert result[1, :group].isnan().all()
    assert not result[0].isnan().any()


@direct
def test_padded_tokens_are_neither_computed_nor_cached() -> None:
    case = Case(((1, 20), (3, 3)), padded_seqs=3, padded_tokens=4)
    step, backend, cache = laid_out(case, poison=7.0)
    before = cache.keys.clone(), cache.values.clone()
    backend.forward(step.query, step.key, step.value, cache, case.spec, step.metadata)
    changed = (cache.keys != before[0]).any(-1).any(1) | (cache.values != before[1]).any(-1).any(1)
    slots = step.metadata.slot_mapping[: step.metadata.num_tokens]
    assert sorted(changed.flatten().nonzero().flatten().tolist()) == sorted(slots.tolist())


@direct
def test_two_passes_merge_by_their_log_sum_exp() -> None:
    case = Case(((1, 90), (1, 130), (1, 33)))
    step, backend, cache = laid_out(case)
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
