"""Steps padded to buckets say the same as steps packed as they are."""

from __future__ import annotations

import random

import torch
from hypothesis import given
from hypothesis import strategies as st

from batchgen.engine.cuda.buckets import Bucket, Buckets
from batchgen.engine.cuda.captures import CaptureCosts, Captures
from batchgen.engine.cuda.graph_inputs import MoreEntries, Sections, StepPacker, section_lengths
from batchgen.engine.execution.packing import BatchBuilder
from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.step import ScheduledStep, StepOutput

BLOCK_SIZE, MAX_LEN = 4, 64


def test_a_short_job_captures_few_buckets_and_a_long_one_all() -> None:
    captures, captured = Captures(), []

    def step(live: int) -> Bucket:
        bucket = captures.bucket_for(Bucket(live, live), "greedy")
        if (bucket, "greedy") not in captures.graphs:
            if captures.is_due(bucket, "greedy"):
                captures.graphs[bucket, "greedy"] = object()
                captured.append(bucket.num_seqs)
            captures.note_rehearsed(bucket, "greedy")
        assert live <= bucket.num_seqs <= 2 * live
        return bucket

    for live in range(256, 0, -16):
        for _ in range(50):
            step(live)
    assert captured == [256, 112, 48, 16]
    for _ in range(2):
        for live in range(256, 0, -16):
            for _ in range(50):
                step(live)
    assert sorted(captured) == list(range(16, 257, 16))
    assert step(240).num_seqs == 240, "its own, once there is one"
    assert captures.bucket_for(Bucket(240, 240), "drawn") == Bucket(240, 240), (
        "graphs of another kind"
    )
    captures.graphs[Bucket(1024, 1024), "greedy"] = object()
    assert captures.bucket_for(Bucket(896, 896), "greedy").num_seqs == 1024
    assert captures.bucket_for(Bucket(640, 640), "greedy").num_seqs == 640, "too much to compute"


def test_one_rehearsal_serves_all_decode_steps_of_a_kind() -> None:
    captures, next_size = Captures(), Bucket(128, 128)
    captures.note_rehearsed(Bucket(512, 64), "greedy")
    assert not captures.is_due(next_size, "greedy"), "a step with chunks launches other kernels"
    captures.note_rehearsed(Bucket(256, 256), "greedy")
    assert captures.is_due(next_size, "greedy")
    assert not captures.is_due(next_size, "drawn")
    assert not captures.is_due(next_size._replace(shares=True), "greedy")
    assert not captures.is_due(Bucket(1024, 64), "greedy")
    captures.note_unrehearsed(next_size, "greedy")
    captures.note_rehearsed(next_size, "greedy")
    assert captures.is_due(next_size, "greedy"), "it was rehearsed itself"
    assert not captures.is_due(Bucket(64, 64), "greedy"), "one that was not has failed"


def test_steps_with_prompts_are_padded_a_little_until_they_prove_common() -> None:
    captures = Captures(CaptureCosts(capture=16 * 128))
    captures.graphs[Bucket(640, 256), "greedy"] = object()
    chunk = Bucket(512, 64)
    assert captures.bucket_for(Bucket(320, 64), "greedy") == Bucket(320, 64), (
        "half of it is padding"
    )
    assert captures.bucket_for(Bucket(512, 512), "greedy") == Bucket(512, 512), "no chunk"
    used = [captures.bucket_for(chunk, "greedy") for _ in range(20)]
    assert used == [Bucket(640, 256)] * 16 + [chunk] * 4


def test_a_step_that_takes_longer_than_its_launches_gets_no_graph() -> None:
    captures = Captures(CaptureCosts.of(active_parameters=8_000_000_000, num_layers=32))
    captures.graphs[Bucket(5120, 64), "greedy"] = object()
    for bucket in (Bucket(4096, 64), Bucket(2048, 64), Bucket(4096, 4096)):
        captures.note_rehearsed(bucket, "greedy")
    assert captures.bucket_for(Bucket(4096, 64), "greedy") == Bucket(4096, 64), "nor padding"
    assert not captures.is_due(Bucket(4096, 64), "greedy")
    assert captures.is_due(Bucket(2048, 64), "greedy")
    assert captures.is_due(Bucket(4096, 4096), "greedy"), "a decode step's size comes often"


@given(st.integers(1, 3000), st.integers(1, 700), st.data())
def test_every_step_has_a_bucket_with_room(max_tokens: int, max_seqs: int, data: st.DataObject):
    max_tokens = max(max_tokens, max_seqs)
    buckets = Buckets(max_tokens, max_seqs)
    num_seqs = data.draw(st.integers(1, max_seqs))
    num_tokens = data.draw(st.integers(num_seqs, max_tokens))
    bucket = buckets.find(num_tokens, num_seqs)
    assert bucket.num_tokens >= num_tokens
    assert bucket.num_seqs >= num_seqs
    assert bucket.is_decode == (num_tokens == num_seqs)
    assert bucket.num_tokens <= buckets.largest.num_tokens
    assert bucket.num_seqs <= buckets.largest.num_seqs


def run_job(depth: int, check, head: int = 0) -> None:  # type: ignore[no-untyped-def]
    """Schedule thirty sequences with `depth` steps in flight; `check` sees every step. All begin
    with the same `head` tokens, which are computed once."""
    rng = random.Random(depth)
    scheduler = Scheduler(
        BlockManager(60, BLOCK_SIZE),
        max_num_seqs=8,
        max_num_batched_tokens=24,
        prefix_caching=head > 0,
    )
    for i in range(30):
        prompt = [7] * head
        prompt += [rng.randrange(1000) for _ in range(rng.randint(1, 30 - head))]
        params = SamplingParams(max_tokens=rng.randint(1, 20))
        scheduler.add(Sequence(Request(i, prompt, params), len(prompt) + params.max_tokens))
    in_flight: list[ScheduledStep] = []
    while True:
        step = scheduler.schedule()
        if step:
            check(step, scheduler.num_slots)
            in_flight.append(step)
        if not in_flight:
            return
        if len(in_flight) > depth or not step:
            done = in_flight.pop(0)
            scheduler.update(done, StepOutput([7] * len(done.sampled)))


class Comparison:
    """Packs each step both ways; memory between steps is poisoned."""

    def __init__(self, bucket: Bucket | None = None) -> None:
        self.bucket = bucket
        self.buckets = Buckets(24, 8)
        self.num_steps = self.num_pending = self.num_with_more = 0
        self.entries = MoreEntries()
        self.packer: StepPacker | None = None
        self.builder: BatchBuilder | None = None

    def __call__(self, step: ScheduledStep, num_slots: int) -> None:
        if self.packer is None or self.builder is None:
            max_blocks = MAX_LEN // BLOCK_SIZE
            self.packer = StepPacker(num_slots, max_blocks, BLOCK_SIZE)
            self.builder = BatchBuilder(num_slots, max_blocks, BLOCK_SIZE, torch.device("cpu"))
        bucket = self.bucket or self.buckets.find(step.total_tokens, len(step))
        size = sum(section_lengths(bucket, BLOCK_SIZE))
        sections = Sections.of(torch.full((size,), 99, dtype=torch.int32), bucket, BLOCK_SIZE)
        assert self.packer.plan_shared(step, None) is None
        more = self.packer.pack(step, sections)
        if more is not None:
            self.num_with_more += 1
            self.entries.write(self.device_table(num_slots), *more)
        places, values = sections.table_index.long(), sections.table_value
        self.device_table(num_slots).view(-1).index_copy_(0, places, values)
        batch = self.builder.build(step)
        self.num_steps += 1
        self.num_pending += 0 if batch.pending is None else len(batch.pending)
        self.compare(step, bucket, sections, batch)

    def device_table(self, num_slots: int) -> torch.Tensor:
        """What the graphs would have kept on the device."""
        if not hasattr(self, "table"):
            self.table = torch.zeros(num_slots + 1, MAX_LEN // BLOCK_SIZE, dtype=torch.int32)
        return self.table

    def compare(self, step, bucket: Bucket, padded: Sections, batch) -> None:  # type: ignore[no-untyped-def]
        tokens, seqs = step.total_tokens, len(step)
        known = batch.input_ids >= 0
        assert torch.equal(padded.input_ids[:tokens][known].long(), batch.input_ids[known])
        if batch.pending is not None:
            stand_ins = -1 - padded.input_ids[:tokens][batch.pending]
            assert torch.equal(stand_ins.long(), batch.pending_slots)
        assert torch.equal(padded.positions[:tokens].long(), batch.positions)
        assert torch.equal(padded.slot_mapping[:tokens].long(), batch.metadata.slot_mapping)
        assert (padded.slot_mapping[tokens:] == -1).all()
        assert torch.equal(padded.cu_seqlens_q[: seqs + 1], batch.metadata.cu_seqlens_q)
        assert (padded.cu_seqlens_q[seqs:] == tokens).all()
        assert torch.equal(padded.seq_lens[:seqs], batch.metadata.seq_lens)
        assert len(padded.cu_seqlens_q) == bucket.num_seqs + 1
        sampled = torch.tensor(step.sampled, dtype=torch.long)
        assert torch.equal(padded.logits_indices[sampled].long(), batch.logits_indices)
        assert torch.equal(padded.token_slots[sampled].long(), batch.sampled_slots)
        assert self.packer is not None
        self.check_tables(step, padded, batch)

    def check_tables(self, step, padded: Sections, batch) -> None:  # type: ignore[no-untyped-def]
        assert self.packer is not None
        rows = torch.from_numpy(self.packer.table.blocks)[padded.slots[: len(step)].long()]
        width = batch.metadata.block_tables.shape[1]
        assert torch.equal(rows[:, :width], batch.metadata.block_tables)
        kept = self.table[padded.slots[: len(step)].long()]
        assert torch.equal(kept[:, :width], batch.metadata.block_tables)


def test_padded_steps_equal_packed_steps() -> None:
    for depth in (0, 1):
        comparison = Comparison()
        run_job(depth, comparison)
        assert comparison.num_steps > 20
        assert (comparison.num_pending > 0) == (depth > 0)


def test_rows_that_begin_with_more_cached_blocks_than_a_bucket_has_room_for_lose_none() -> None:
    for depth in (0, 1):
        comparison = Comparison(Bucket(24, 8))
        run_job(depth, comparison, head=24)
        assert comparison.num_with_more > 0
