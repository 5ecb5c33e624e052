from __future__ import annotations

import random

import torch

from batchgen.engine.execution.packing import PENDING_TOKEN, BatchBuilder
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput

BLOCK_SIZE = 4


def _scheduler(num_sequences: int) -> Scheduler:
    scheduler = Scheduler(BlockManager(40, BLOCK_SIZE), 6, 20)
    lengths = random.Random(5)
    for index in range(num_sequences):
        prompt = [lengths.randint(1, 90) for _ in range(lengths.randint(1, 30))]
        request = Request(index, prompt, SamplingParams(max_tokens=15))
        scheduler.add(Sequence(request, len(prompt) + 15))
    return scheduler


def _builder(scheduler: Scheduler) -> BatchBuilder:
    return BatchBuilder(scheduler.num_slots, 12, BLOCK_SIZE, torch.device("cpu"))


def _token(sequence: Sequence, position: int) -> int:
    known = sequence.token_ids
    return known[position] if position < len(known) else PENDING_TOKEN


def _expected(step: ScheduledStep) -> list[tuple[int, int, int]]:
    """(token, position, cache slot) of every packed token, one at a time."""
    return [
        (
            _token(sequence, position),
            position,
            sequence.block_table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE,
        )
        for sequence, start, n in zip(step.sequences, step.starts, step.num_tokens, strict=True)
        for position in range(start, start + n)
    ]


def test_a_step_is_packed_as_if_token_by_token_through_preemptions_and_late_tokens() -> None:
    scheduler = _scheduler(20)
    builder = _builder(scheduler)
    launched: list[ScheduledStep] = []
    num_steps = num_pending = 0
    while scheduler.waiting or scheduler.running or launched:
        step = scheduler.schedule()
        if len(step):
            batch = builder.build(step)
            packed = (batch.input_ids, batch.positions, batch.metadata.slot_mapping)
            columns = [column.tolist() for column in packed]
            assert list(zip(*columns, strict=True)) == _expected(step)
            if batch.pending is not None and batch.pending_slots is not None:
                rows = [step.slots.index(slot) for slot in batch.pending_slots.tolist()]
                assert all(step.sequences[row].num_pending > 0 for row in rows)
                assert (batch.input_ids[batch.pending] == PENDING_TOKEN).all()
                num_pending += len(rows)
            launched.append(step)
            num_steps += 1
        if launched and (len(launched) > 1 or not len(step)):
            done = launched.pop(0)
            scheduler.update(done, StepOutput([7] * len(done.sampled)))
    assert num_steps > 20
    assert num_pending > 20
    assert scheduler.num_preemptions > 0


def test_metadata_describes_each_rows_queries_and_keys() -> None:
    scheduler = _scheduler(4)
    builder = _builder(scheduler)
    for _ in range(3):
        step = scheduler.schedule()
        metadata = builder.build(step).metadata
        ends = [start + n for start, n in zip(step.starts, step.num_tokens, strict=True)]
        assert metadata.cu_seqlens_q.diff().tolist() == step.num_tokens
        assert metadata.cu_seqlens_q.dtype == metadata.seq_lens.dtype == torch.int32
        assert metadata.seq_lens.tolist() == ends
        assert (metadata.num_seqs, metadata.num_tokens) == (len(step), step.total_tokens)
        assert metadata.max_seqlen_q == max(step.num_tokens)
        assert metadata.max_seqlen_k == max(ends)
        for row, sequence in enumerate(step.sequences):
            table = sequence.block_table
            assert metadata.block_tables[row, : len(table)].tolist() == table
        scheduler.update(step, StepOutput([7] * len(step.sampled)))


def test_logits_are_asked_for_at_the_end_of_sampling_rows_alone() -> None:
    scheduler = _scheduler(0)
    for index, num_prompt in enumerate((7, 3, 30)):
        request = Request(index, [1] * num_prompt, SamplingParams())
        scheduler.add(Sequence(request, num_prompt + 5))
    builder = _builder(scheduler)
    step = scheduler.schedule()
    batch = builder.build(step)
    ends = batch.metadata.cu_seqlens_q[1:] - 1
    assert batch.logits_indices.tolist() == ends[step.sampled].tolist()
    assert batch.sampled_slots.tolist() == [step.slots[row] for row in step.sampled]
    assert batch.logits_indices.tolist() == [6, 9], "the budget cuts the last prompt"
