from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduler_simulation import EOS, Simulation, Workload

from batchgen.engine.request import FinishReason, Request, SamplingParams
from batchgen.engine.scheduling.admission import AdmissionQueue
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence, SequenceStatus
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput

LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 24)), min_size=1, max_size=24)


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    return Workload(
        lengths=draw(LENGTHS),
        num_blocks=draw(st.integers(16, 60)),  # 64 tokens: the longest sequence alone just fits
        block_size=4,
        max_num_seqs=draw(st.integers(1, 6)),
        max_num_batched_tokens=draw(st.integers(1, 48)),
        reorder_window=draw(st.sampled_from([1, 4, 1000])),
        depth=draw(st.integers(0, 3)),
        abort_share=draw(st.sampled_from([0.0, 0.1])),
        eos_share=draw(st.sampled_from([0.0, 0.05, 0.5])),
        fail_share=draw(st.sampled_from([0.0, 0.1])),
        penalised_share=draw(st.sampled_from([0.0, 0.5])),
        seed=draw(st.integers(0, 2**32)),
    )


@st.composite
def alike(draw: st.DrawFn) -> Workload:
    """Prompts that are paths in a random tree, so that they have beginnings in common."""
    trunks: list[list[int]] = [[]]
    for token in range(1, draw(st.integers(1, 8))):
        parent = draw(st.sampled_from(trunks))
        trunk = parent + [token] * draw(st.integers(1, 12))
        trunks.append(trunk[:30])
    picked = draw(st.lists(st.sampled_from(trunks), min_size=1, max_size=20))
    tails = st.lists(st.integers(20, 22), min_size=1, max_size=9)
    prompts = [trunk + draw(tails) for trunk in picked]
    lengths = [(len(prompt), draw(st.integers(1, 20))) for prompt in prompts]
    workload = draw(workloads())
    return replace(workload, lengths=lengths, prompts=prompts, prefix_caching=True)


def run_to_end(workload: Workload) -> Simulation:
    simulation = Simulation(workload).run()
    assert set(simulation.finished) | set(simulation.aborted) == set(simulation.sequences)
    return simulation


def check_order(simulation: Simulation, window: int) -> list[int]:
    """The admissions in the order of arrivals: within a window alone does anybody pass another."""
    order = [s.admission_index for s in simulation.sequences]
    for arrival, index in enumerate(order):
        passed_by = sum(later < index for later in order[arrival + 1 :])
        assert passed_by <= window - 1
    return order


@settings(max_examples=150, deadline=None)
@given(alike())
def test_a_shared_beginning_is_read_only_where_it_was_computed_and_is_never_overwritten(
    workload: Workload,
) -> None:
    run_to_end(workload)


@settings(max_examples=100, deadline=None)
@given(alike())
def test_with_common_beginnings_too_nobody_is_passed_by_more_than_the_window_allows(
    workload: Workload,
) -> None:
    simulation = Simulation(replace(workload, abort_share=0.0)).run()
    check_order(simulation, workload.reorder_window)


@settings(max_examples=100, deadline=None)
@given(workloads())
def test_every_sequence_finishes_within_budget_and_no_block_leaks_or_has_two_writers(
    workload: Workload,
) -> None:
    simulation = run_to_end(workload)
    for sequence in simulation.finished:
        tokens = sequence.output_token_ids
        assert 1 <= len(tokens) <= sequence.request.params.max_tokens
        assert EOS not in tokens[:-1], "a token after the end was kept"
        ended = FinishReason.STOP if tokens[-1] == EOS else FinishReason.LENGTH
        assert sequence.finish_reason is ended


@settings(max_examples=100, deadline=None)
@given(workloads())
def test_nobody_is_passed_by_more_than_the_window_allows(workload: Workload) -> None:
    simulation = Simulation(replace(workload, abort_share=0.0)).run()
    order = check_order(simulation, workload.reorder_window)
    assert sorted(order) == list(range(len(order)))
    if workload.reorder_window == 1:
        assert order == sorted(order)


@pytest.mark.parametrize("depth", [0, 1, 2])
def test_short_of_blocks_the_newest_are_preempted_and_all_still_finish(depth: int) -> None:
    lengths = [(8, 40)] * 12
    workload = Workload(lengths, num_blocks=16, max_num_seqs=6, depth=depth, eos_share=0.0)
    simulation = Simulation(workload).run()
    assert simulation.num_preemptions > 0
    assert simulation.num_preemptions == simulation.scheduler.num_preemptions
    assert all(len(s.output_token_ids) == 40 for s in simulation.finished)
    assert simulation.sequences[0].num_preemptions == 0, "the oldest gave way to a newer one"


def test_a_window_begins_with_who_finds_nobody_waiting() -> None:
    queue = AdmissionQueue(4)
    for number, limit in enumerate((1, 2, 3)):
        queue.push(_sequence(1, limit))
        assert len(queue) == 1
        assert _take(queue).admission_index == number
    batch = [_sequence(1, limit) for limit in (3, 9, 6, 7)]
    for sequence in batch:
        queue.push(sequence)
    assert [_take(queue).max_num_tokens for _ in batch] == [10, 8, 7, 4]


def _take(queue: AdmissionQueue) -> Sequence:
    sequence = next(queue.candidates())
    queue.take(sequence)
    return sequence


def test_long_outputs_go_first_inside_a_window() -> None:
    lengths = [(1, n) for n in (3, 9, 6, 2)]
    simulation = Simulation(Workload(lengths, max_num_seqs=1, reorder_window=4, eos_share=0.0))
    for sequence in simulation.sequences:
        simulation.scheduler.add(sequence)
    while simulation._alive():
        simulation._iterate()
    assert [s.request.params.max_tokens for s in simulation.finished] == [9, 6, 3, 2]


def _scheduler(**changes: int) -> Scheduler:
    settings = {"max_num_seqs": 4, "max_num_batched_tokens": 16} | changes
    return Scheduler(BlockManager(64, 4), **settings)


def _sequence(num_prompt: int, max_tokens: int, **params: float) -> Sequence:
    request = Request(0, [1] * num_prompt, SamplingParams(max_tokens=max_tokens, **params))  # type: ignore[arg-type]
    return Sequence(request, num_prompt + max_tokens, frozenset({EOS}))


def _begun(*sequences: Sequence) -> tuple[Scheduler, ScheduledStep]:
    """A scheduler that has made its first step of these."""
    scheduler = _scheduler()
    for sequence in sequences:
        scheduler.add(sequence)
    return scheduler, scheduler.schedule()


def test_a_chunk_shares_its_step_with_decodes_and_samples_only_at_its_end() -> None:
    scheduler, first = _begun(_sequence(4, 8), _sequence(30, 8))
    assert (first.num_tokens, first.sampled) == ([4, 12], [0])
    scheduler.update(first, StepOutput([7]))
    second = scheduler.schedule()
    assert (second.num_tokens, second.starts, second.sampled) == ([1, 15], [4, 12], [0])
    scheduler.update(second, StepOutput([7]))
    third = scheduler.schedule()
    assert (third.num_tokens, third.starts, third.sampled) == ([1, 3], [5, 27], [0, 1])
    assert third.output_positions == [2, 0]


def test_steps_are_scheduled_before_tokens_arrive_but_never_past_the_length_limit() -> None:
    scheduler = _scheduler()
    sequence = _sequence(4, 3)
    scheduler.add(sequence)
    steps = [scheduler.schedule() for _ in range(5)]
    assert [len(step) for step in steps] == [1, 1, 1, 0, 0]
    assert [step.starts for step in steps[:3]] == [[4 * (i > 0) + max(0, i - 1)] for i in range(3)]
    assert scheduler.block_manager.num_free < 64
    for step in steps[:2]:
        assert scheduler.update(step, StepOutput([7])) == []
    assert scheduler.update(steps[2], StepOutput([7])) == [sequence]
    assert sequence.finish_reason is FinishReason.LENGTH
    assert scheduler.block_manager.num_free == 64


def test_a_sequence_found_finished_late_keeps_its_blocks_until_its_extra_step_is_back() -> None:
    sequence = _sequence(4, 8)
    scheduler, first = _begun(sequence)
    extra = scheduler.schedule()
    assert scheduler.update(first, StepOutput([EOS])) == [sequence]
    assert scheduler.block_manager.num_free < 64
    assert scheduler.update(extra, StepOutput([9])) == []
    assert scheduler.block_manager.num_free == 64
    assert sequence.output_token_ids == [EOS]


def test_a_row_whose_sampling_needs_all_tokens_waits_for_them() -> None:
    plain, penalised = _sequence(4, 8), _sequence(4, 8, repetition_penalty=1.3)
    scheduler, first = _begun(plain, penalised)
    second = scheduler.schedule()
    assert second.sequences == [plain]
    scheduler.update(first, StepOutput([7, 7]))
    assert scheduler.schedule().sequences == [plain, penalised]


def test_an_earlier_runs_tokens_are_prefilled_and_continued() -> None:
    scheduler = _scheduler()
    request = Request(0, [1, 2, 3], SamplingParams(max_tokens=5), output_token_ids=[8, 9])
    sequence = Sequence(request, 8)
    scheduler.add(sequence)
    step = scheduler.schedule()
    assert (step.num_tokens, step.output_positions) == ([5], [2])
    while not sequence.is_finished:
        scheduler.update(step, StepOutput([7]))
        step = scheduler.schedule()
    assert sequence.output_token_ids == [8, 9, 7, 7, 7]


def test_a_preempted_sequence_takes_the_token_that_was_on_its_way() -> None:
    scheduler = Scheduler(BlockManager(4, 4), 4, 64)
    old, new = _sequence(7, 9), _sequence(7, 9)
    scheduler.add(old)
    scheduler.add(new)
    steps = [scheduler.schedule()]
    while not steps[-1].preempted:
        steps.append(scheduler.schedule())
    assert steps[-1].preempted == [new]
    assert new.status is SequenceStatus.WAITING
    for step in steps:
        scheduler.update(step, StepOutput([7] * len(step.sampled)))
    assert len(new.output_token_ids) == len(steps) - 1
    assert new.num_pending == new.num_in_flight == 0
    assert not new.block_table


def test_a_preempted_sequence_starts_again_only_behind_the_steps_that_hold_it() -> None:
    old, new = _sequence(4, 8), _sequence(4, 8)
    scheduler, first = _begun(old, new)
    scheduler._preempt(new)  # blocks are free for it, but its own are still being written
    second = scheduler.schedule()
    assert (first.sequences, second.sequences) == ([old, new], [old])
    scheduler.update(first, StepOutput([7, 7]))
    third = scheduler.schedule()
    assert third.sequences == [old, new]
    assert third.num_tokens == [1, 5], "computed again, with the token that came late"


def test_a_sequence_that_cannot_fit_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="300 tokens exceed a cache of 256"):
        _scheduler().add(_sequence(299, 1))


def test_beside_many_sequences_prompts_are_spread_and_alone_they_are_not() -> None:
    sizes = _sizes([(50, 400)] * 60)
    assert [size for many, size in sizes if not many][:2] == [400, 400], "nothing to ride along"
    assert max(size for many, size in sizes if many) == 48


def test_where_prompts_are_much_of_the_work_steps_are_as_large_as_keeps_slots_filled() -> None:
    """160 rows of 60 tokens over 160 * 40 / 40 steps of decoding: 60 tokens a step beside it."""
    sizes = [size for many, size in _sizes([(60, 40)] * 160) if many]
    assert max(sizes) <= 110
    assert sum(size > 70 for size in sizes[:100]) > 80, "else slots stay empty"


def test_steps_are_as_large_as_what_they_are_padded_to() -> None:
    """Padding is computed like tokens: what is computed, by tokens alone and by what they fill."""
    padded, computed = (48, 80, 112, 144), []
    for known in ((), padded):
        sizes = [size for many, size in _sizes([(60, 40)] * 160, known) if many]
        computed.append(sum(next(room for room in padded if room >= size) for size in sizes))
    assert computed[1] < 0.93 * computed[0]


def _sizes(lengths: list[tuple[int, int]], padded: tuple[int, ...] = ()) -> list[tuple[bool, int]]:
    """Tokens of each step, and whether many sequences ran beside it."""
    workload = Workload(lengths, num_blocks=9000, max_num_seqs=40, max_num_batched_tokens=400)
    workload = replace(workload, min_token_budget=48, step_sizes=padded)
    simulation = Simulation(replace(workload, eos_share=0.0))
    for sequence in simulation.sequences:
        simulation.scheduler.add(sequence)
    sizes = []
    while simulation.scheduler.waiting or simulation.scheduler.running:
        many = len(simulation.scheduler.running) > 16
        step = simulation.scheduler.schedule()
        sizes.append((many, step.total_tokens))
        simulation.scheduler.update(step, StepOutput([1] * len(step.sampled)))
    assert all(len(s.output_token_ids) == s.request.params.max_tokens for s in simulation.sequences)
    return sizes


def test_splitting_a_step_keeps_every_row_and_its_sampling() -> None:
    scheduler = _scheduler(max_num_batched_tokens=10)
    for num_prompt in (2, 3, 1, 9):
        scheduler.add(_sequence(num_prompt, 4))
    step = scheduler.schedule()
    left, right = step.split()
    assert left.sequences + right.sequences == step.sequences
    assert left.total_tokens + right.total_tokens == step.total_tokens
    assert [s.sequences[r] for s in (left, right) for r in s.sampled] == step.sequences[:3]
    assert right.sampled == [0]
