"""Prompts that begin alike are computed once, and no token shows it."""

from __future__ import annotations

import random
from array import array
from dataclasses import replace
from typing import Any

import pytest
from engine_runs import completions_of, tokens_of
from fake_model import VOCAB_SIZE, FailingModel, FakeModel, engine_over
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_oracle import run_engine
from tiny_models import tiny_model

from batchgen.engine.attention.reference import ReferenceBackend
from batchgen.engine.draws import draw_key
from batchgen.engine.prefix.block_hashes import BlockHasher, extend_block_hashes
from batchgen.engine.prefix.block_index import BlockIndex
from batchgen.engine.prefix.ordering import Room, Row, admission_order
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.run.loader import load_model_from
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.prefix_cache import PrefixCache
from batchgen.engine.scheduling.sequence import Sequence


def labelling(num_rows: int, num_instructions: int = 1, length: int = 40) -> list[Request]:
    """Rows under instructions of `length` tokens, interleaved, with a question each."""
    rng = random.Random(1)
    heads = [[rng.randrange(1, VOCAB_SIZE) for _ in range(length)] for _ in range(num_instructions)]
    return [
        Request(
            i,
            heads[i % num_instructions] + [rng.randrange(1, VOCAB_SIZE) for _ in range(5)],
            SamplingParams(max_tokens=6, temperature=1.0, ignore_eos=True),
            draw_key=draw_key(3, f"={i}", 0),
        )
        for i in range(num_rows)
    ]


@st.composite
def jobs(draw: st.DrawFn) -> tuple[list[Request], dict[str, Any], int]:
    """Requests whose prompts are paths in a random tree, and an engine that is short of room."""
    trunks: list[list[int]] = [[]]
    for _ in range(draw(st.integers(1, 6))):
        stem = draw(st.sampled_from(trunks))
        grown = draw(st.lists(st.integers(1, 3), min_size=1, max_size=14))
        trunks.append((stem + grown)[:40])
    requests = []
    for i in range(draw(st.integers(2, 16))):
        prompt = draw(st.sampled_from(trunks)) + draw(st.lists(st.integers(1, 9), max_size=6))
        params = SamplingParams(max_tokens=draw(st.integers(1, 20)), temperature=1.0)
        requests.append(Request(i, prompt or [1], params, draw_key=draw_key(7, f"={i}", 0)))
    block_size = draw(st.sampled_from([1, 2, 4, 8]))
    config = {
        "block_size": block_size,
        "num_blocks": 72 // block_size + draw(st.integers(0, 60)),
        "max_num_seqs": draw(st.integers(1, 8)),
        "max_num_batched_tokens": draw(st.integers(8, 64)),
        "reorder_window": draw(st.sampled_from([1, 4, 1000])),
    }
    return requests, config, draw(st.integers(0, 1))


@settings(max_examples=30, deadline=None)
@given(jobs())
def test_tokens_equal_those_without_a_cache(
    job: tuple[list[Request], dict[str, Any], int],
) -> None:
    requests, config, depth = job
    plain = engine_over(enable_prefix_caching=False)
    engine = engine_over(depth=depth, **config)
    completions = completions_of(engine, requests)
    assert tokens_of(completions) == tokens_of(completions_of(plain, requests))
    for completion, request in zip(map(completions.get, range(99)), requests, strict=False):
        assert completion is not None
        assert 0 <= completion.cached_tokens < len(request.prompt_token_ids)
    engine.close()
    engine._scheduler.block_manager.check_integrity([])


def test_one_row_computes_what_all_begin_with() -> None:
    model = FakeModel()
    engine = engine_over(model)
    completions = completions_of(engine, labelling(30))
    assert sorted(c.cached_tokens for c in completions.values()) == [0] + [40] * 29
    assert engine.stats().cached_tokens == 29 * 40
    assert sum(model.num_tokens_of_steps) == 45 + 29 * 5 + 30 * 5


def test_shuffled_instructions_are_found_again_though_the_cache_holds_few_of_them() -> None:
    """At least 95% of what is possible, with room for a few of the instructions."""
    requests = labelling(600, num_instructions=30)
    random.Random(2).shuffle(requests)
    engine = engine_over(num_blocks=100, max_num_seqs=8, reorder_window=600)
    completions = completions_of(engine, requests)
    possible = (600 - 30) * 40
    assert sum(c.cached_tokens for c in completions.values()) >= 0.95 * possible


def test_samples_of_one_prompt_share_its_blocks() -> None:
    model = FakeModel()
    prompt = [1 + i % 90 for i in range(41)]
    params = SamplingParams(max_tokens=5, temperature=1.0, ignore_eos=True)
    requests = [Request(i, prompt, params, draw_key=i) for i in range(8)]
    completions_of(engine_over(model), requests)
    assert sum(model.num_tokens_of_steps) == 41 + 7 * 1 + 8 * 4


def test_a_prompt_that_is_known_whole_is_still_computed_at_its_last_token() -> None:
    engine = engine_over()
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    first = completions_of(engine, [Request(0, [5] * 16, params)])[0]
    second = completions_of(engine, [Request(0, [5] * 16, params)])[0]
    assert (first.cached_tokens, second.cached_tokens) == (0, 15)
    assert first.token_ids == second.token_ids


@pytest.mark.parametrize("length", [2, 3, 41, 42, 43])
def test_an_instruction_that_ends_within_a_block_is_computed_once(length: int) -> None:
    """Blocks have 4 tokens. Who is admitted with the first row computes all of its own."""
    model = FakeModel()
    engine = engine_over(model, max_num_batched_tokens=length + 5)
    requests = [
        replace(request, prompt_token_ids=[*request.prompt_token_ids[:length], 10 + i, 3, 1, 2, 7])
        for i, request in enumerate(labelling(30, length=length))
    ]
    completions = completions_of(engine, requests)
    assert sorted(c.cached_tokens for c in completions.values()) == [0] + [length] * 29
    assert sum(model.num_tokens_of_steps) == length + 5 + 29 * 5 + 30 * 5
    plain = engine_over(enable_prefix_caching=False)
    assert tokens_of(completions) == tokens_of(completions_of(plain, requests))
    engine.close()
    engine._scheduler.block_manager.check_integrity([])


def test_samples_of_one_prompt_compute_its_last_token_alone() -> None:
    """Its last block is not full, so it has no hash; while the first sample has it, others get a
    copy."""
    model = FakeModel()
    prompt = [1 + i % 90 for i in range(43)]
    params = SamplingParams(max_tokens=5, temperature=1.0, ignore_eos=True)
    requests = [Request(i, prompt, params, draw_key=i) for i in range(8)]
    completions_of(engine_over(model), requests)
    assert sum(model.num_tokens_of_steps) == 43 + 7 * 1 + 8 * 4


def test_a_block_that_was_given_up_is_not_copied() -> None:
    """The first row's last block goes to another row before a third one begins alike."""
    engine = engine_over(num_blocks=8, max_num_seqs=1)
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    rows = [Request(0, [5] * 6, params), Request(1, [9] * 22, params), Request(2, [5] * 6, params)]
    completions = completions_of(engine, rows)
    plain = engine_over(enable_prefix_caching=False)
    assert tokens_of(completions) == tokens_of(completions_of(plain, rows))


def test_copies_are_compared_with_their_own_adapter_alone() -> None:
    manager = BlockManager(8, 4)
    cache = PrefixCache(manager, enabled=True, copies=True)

    def sequence(adapter: str) -> Sequence:
        params = SamplingParams(max_tokens=2, adapter=adapter)
        return Sequence(Request(0, [5, 6, 7], params), 5)

    first = sequence("a")
    manager.append(first.block_table, 3)
    first.num_computed_tokens = 3
    cache.begin_step()
    cache.note_computed(first, 0, 3)
    assert cache.hold_beginning(sequence("a")) == (-1, 0), "this very step computes it"
    cache.begin_step()
    assert cache.hold_beginning(sequence("a")) == (first.block_table[0], 2)
    assert cache.hold_beginning(sequence("b")) == (-1, 0)
    cache.end_step()
    manager.check_integrity([first.block_table])


def test_preempted_rows_find_again_what_they_had_computed() -> None:
    model = FakeModel()
    params = SamplingParams(max_tokens=12, ignore_eos=True)
    rows = [Request(i, [1 + i] * 20, params) for i in range(4)]
    engine = engine_over(model, num_blocks=28)
    completions = completions_of(engine, rows)
    assert engine.stats().preemptions
    alone = engine_over(max_num_seqs=1)
    assert tokens_of(completions) == tokens_of(completions_of(alone, rows))
    without = FakeModel()
    completions_of(engine_over(without, num_blocks=28, enable_prefix_caching=False), rows)
    assert sum(model.num_tokens_of_steps) < sum(without.num_tokens_of_steps)


@settings(max_examples=30, deadline=None)
@given(jobs(), st.sets(st.integers(1, 12), max_size=4))
def test_what_a_failed_step_did_not_compute_is_not_found(
    job: tuple[list[Request], dict[str, Any], int], failing: set[int]
) -> None:
    requests, config, depth = job
    plain = engine_over(enable_prefix_caching=False)
    model = FailingModel(RuntimeError("CUDA out of memory"), failing)
    completions = completions_of(engine_over(model, depth, **config), requests)
    clean = tokens_of(completions_of(plain, requests))
    for index, completion in completions.items():
        assert completion.error_code is not None or completion.token_ids == clean[index]


@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma3_text"])
def test_models_with_and_without_windows_say_the_same(model_type: str) -> None:
    model = load_model_from(tiny_model(model_type), ReferenceBackend())
    rng = random.Random(4)
    head = [rng.randrange(3, 60) for _ in range(37)]
    rows = [
        head[: rng.choice([20, 37])] + [rng.randrange(3, 60) for _ in range(3)] for _ in range(6)
    ]
    settings = {"block_size": 16, "max_num_seqs": 6}
    plain, _ = run_engine(model, rows, 8, enable_prefix_caching=False, **settings)
    shared, stats = run_engine(model, rows, 8, **settings)
    assert stats.cached_tokens >= 5 * 16
    assert shared == plain


def names(token_ids: list[int], block_size: int = 4) -> list[bytes]:
    found: list[bytes] = []
    extend_block_hashes(found, array("i", token_ids), block_size)
    return found


def test_a_name_stands_for_all_tokens_up_to_a_blocks_end() -> None:
    assert names([1] * 11) == names([1] * 8)
    assert names([1] * 8)[0] != names([1] * 8)[1]
    assert names([2] + [1] * 7)[1] != names([1] * 8)[1]
    grown = names([1] * 8)
    extend_block_hashes(grown, array("i", [1] * 12), 4)
    assert grown == names([1] * 12)


def idle_index(num_blocks: int) -> BlockIndex:
    index = BlockIndex()
    for block in range(num_blocks):
        assert index.add(block, bytes([block]))
        assert index.leave(block)
    return index


def test_the_idle_block_used_longest_ago_is_given_up_first() -> None:
    index = idle_index(3)
    assert [index.evict() for _ in range(3)] == [0, 1, 2]
    assert index.find([bytes([0])]) == []


def test_a_block_that_was_found_outlives_those_that_never_were() -> None:
    index = idle_index(4)
    for block in (2, 0):
        assert index.take(block, owned=False)
        assert index.leave(block)
    assert sorted(index.idle()) == [0, 1, 2, 3]
    assert [index.evict() for _ in range(4)] == [1, 3, 2, 0]


def test_blocks_never_found_keep_a_share_so_that_a_new_beginning_can_be_found() -> None:
    index = idle_index(20)
    for block in range(19):
        assert index.take(block, owned=False)
        assert index.leave(block)
    assert index.evict() == 0, "the one that was never found stays"
    assert index.find([bytes([19])]) == [19]


def test_a_name_that_is_given_again_is_not_known_as_found() -> None:
    index = idle_index(2)
    assert index.take(0, owned=False)
    assert not index.forget(0), "it has an owner"
    assert index.add(0, b"new")
    assert index.leave(0)
    assert [index.evict(), index.evict()] == [1, 0]


def test_rows_that_begin_alike_stand_together_long_outputs_first() -> None:
    a, b, c = b"a", b"b", b"c"
    rows = [
        Row((a,), 5, 0),
        Row((b,), 9, 1),
        Row((), 7, 2),
        Row((a, c), 8, 3),
        Row((b,), 1, 4),
        Row((a, c), 2, 5),
    ]
    assert admission_order(rows) == [1, 4, 3, 5, 0, 2]


def test_rows_that_may_all_run_at_once_go_by_output_length_and_then_together() -> None:
    rows = [
        Row(hashes, remaining, arrival, most_tokens=12)
        for arrival, (hashes, remaining) in enumerate(
            [((b"a",), 5), ((b"b",), 9), ((b"a",), 9), ((b"b",), 5), ((b"a",), 5), ((b"b",), 9)]
        )
    ]
    together = [1, 5, 3, 2, 0, 4]
    by_length = [1, 5, 2, 3, 0, 4]
    # 72 tokens, of which four rows have 4 each in common with one before: 56 are held.
    assert admission_order(rows, Room(6, 63, 4)) == by_length
    assert admission_order(rows, Room(6, 62, 4)) == together, "the cache has no room for all"
    assert admission_order(rows, Room(5, 63, 4)) == together, "not all may run"
    assert admission_order(rows) == together


def test_without_common_beginnings_the_order_is_that_of_output_lengths() -> None:
    rows = [Row((bytes([n]),), remaining, n) for n, remaining in enumerate((3, 9, 6, 9))]
    assert admission_order(rows) == [1, 3, 2, 0]


def tree_order(rows: list[Row]) -> list[int]:
    """By a tree whose branches count their rows, block by block."""
    ranks = [(-row.remaining, row.arrival) for row in rows]
    members: dict[bytes, list[int]] = {}
    for i, row in enumerate(rows):
        for block_hash in row.hashes:
            members.setdefault(block_hash, []).append(i)
    paths = []
    for row, rank in zip(rows, ranks, strict=True):
        path, count = [], 0
        for block_hash in row.hashes:
            branch = members[block_hash]
            if len(branch) > 1 and len(branch) != count:
                count = len(branch)
                path.append(min(ranks[i] for i in branch))
        paths.append([*path, rank])
    return sorted(range(len(rows)), key=paths.__getitem__)


def test_any_window_is_ordered_as_by_a_tree_of_its_blocks() -> None:
    for seed in range(200):
        rng = random.Random(seed)
        texts = [[rng.randrange(3) for _ in range(4 * rng.randrange(6))] for _ in range(4)]
        rows = []
        for arrival in range(rng.randrange(1, 25)):
            text = rng.choice(texts) + [rng.randrange(2) for _ in range(4 * rng.randrange(3))]
            rows.append(Row(names(text), rng.randrange(5), arrival))
        assert admission_order(rows) == tree_order(rows)


def test_what_sequences_have_in_common_is_named_as_if_each_came_alone() -> None:
    rng = random.Random(1)
    hasher = BlockHasher(4)
    texts = [[rng.randrange(2) for _ in range(rng.randrange(30))] for _ in range(6)]
    for _ in range(600):
        ids = rng.choice(texts)[: rng.randrange(30)]
        ids = array("i", ids + [rng.randrange(2) for _ in range(rng.randrange(9))])
        adapter = rng.choice(["", "a"])
        found: list[bytes] = []
        hasher.extend(found, ids, adapter)
        expected: list[bytes] = []
        extend_block_hashes(expected, ids, 4, adapter)
        assert found == expected
        ids.extend([1] * 9)  # a sequence grows: what is remembered of it does not
        hasher.extend(found, ids, adapter)
        extend_block_hashes(expected, ids, 4, adapter)
        assert found == expected


def test_only_so_many_first_blocks_and_tokens_are_remembered() -> None:
    hasher = BlockHasher(4)
    for first in range(1000):
        hasher.extend([], array("i", [first] * 8))
    assert len(hasher._recent) == 256
    hasher = BlockHasher(1 << 16)
    for first in range(12):
        hasher.extend([], array("i", [first] * (1 << 20)))
        assert sum(len(tokens) for tokens, _ in hasher._recent.values()) <= 4 << 20
    assert len(hasher._recent) == 4
