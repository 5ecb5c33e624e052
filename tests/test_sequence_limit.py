"""As many sequences run at once as make the steps that are left cheaper."""

from __future__ import annotations

from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.sequence_limit import SequenceLimit
from batchgen.engine.scheduling.step import StepOutput


def running(count: int, output: int, prompt: int = 8, shared: int = 0) -> list[Sequence]:
    params = SamplingParams(max_tokens=output)
    sequences = [Sequence(Request(i, [1] * prompt, params), prompt + output) for i in range(count)]
    for sequence in sequences:
        sequence.num_shared_tokens = shared
    return sequences


def wanted(sequences: list[Sequence], waiting_outputs: float, room: int = 10**9) -> int:
    return look(SequenceLimit(256, 1024, room), sequences, waiting_outputs)


def look(
    limit: SequenceLimit, rows: list[Sequence], waiting_outputs: float, output_share: float = 1.0
) -> int:
    limit.begin_step(rows, waiting_outputs, output_share)
    return limit.current


def test_short_answers_of_many_rows_run_a_thousand_at_a_time() -> None:
    assert wanted(running(256, 40), waiting_outputs=40 * 5000) == 1024
    assert wanted(running(256, 40), waiting_outputs=40 * 244) == 750, "half more than are left"


def test_no_more_run_than_the_longest_row_leaves_steps_for() -> None:
    long = running(255, 40) + running(1, 400)
    assert wanted(long, waiting_outputs=40 * 3000) == int((255 * 40 + 400 + 40 * 3000) * 1.5) // 400
    assert wanted(long, waiting_outputs=0) == 256


def test_no_more_run_than_the_cache_holds_as_they_grow() -> None:
    rows = running(256, 40, prompt=100)
    few, many = int(256 * 139 / 0.9), int(256 * 141 / 0.9)
    assert wanted(rows, waiting_outputs=40 * 5000, room=few) == 256
    assert wanted(rows, waiting_outputs=40 * 5000, room=many) == 1024
    shared = running(256, 40, prompt=100, shared=90)
    assert wanted(shared, waiting_outputs=40 * 5000, room=few) == 1024, "what is their own"


def test_limits_that_are_not_used_take_no_room() -> None:
    limit, rows = SequenceLimit(256, 1024, 256 * 200), running(256, 4000, prompt=100)
    assert look(limit, rows, 4000 * 5000, output_share=1.0) == 256
    limit = SequenceLimit(256, 1024, 256 * 200)
    assert look(limit, rows, 4000 * 5000, output_share=0.01) == 1024


def test_what_was_admitted_since_the_last_look_counts() -> None:
    limit, rows = SequenceLimit(256, 1024, 10_000), running(256, 4, prompt=10)
    assert look(limit, rows, 40 * 5000) == 1024
    limit.note_admission(3000, outputs=6000)
    assert look(limit, rows, 40 * 5000) == 256


def test_the_last_ones_need_not_wait_for_slots() -> None:
    limit, rows = SequenceLimit(256, 1024, 10**9), running(256, 40)
    assert look(limit, rows, 40 * 244) == 750
    for _ in range(40):
        assert look(limit, rows, 40 * 44) == 750
    limit.note_arrival()
    seen = {look(limit, rows, 40 * 44) for _ in range(40)}
    assert seen == {750, 450}, "looked at again, now that others come"


def test_a_number_that_was_chosen_stays() -> None:
    assert look(SequenceLimit(300, 300, 0), running(300, 4), 10**6) == 300


def test_a_long_job_runs_more_at_once_without_preempting_any() -> None:
    """Rows of 50 tokens in and out; the cache holds 40 of them whole."""
    steps = {}
    for most in (8, 256):
        blocks = BlockManager(num_blocks=40 * 100 // 4, block_size=4)
        limit = SequenceLimit(8, most, room=40 * 100)
        scheduler = Scheduler(blocks, most, 512, sequence_limit=limit)
        for sequence in running(400, 50, prompt=50):
            scheduler.add(sequence)
        steps[most] = 0
        while scheduler.waiting or scheduler.running:
            step = scheduler.schedule()
            scheduler.update(step, StepOutput([1] * len(step.sampled)))
            steps[most] += 1
        assert scheduler.num_preemptions == 0
    assert steps[256] * 3 < steps[8], "as many as the cache holds whole: 36, not 8"


def test_sequences_that_end_one_after_the_other_leave_room_to_those_that_begin() -> None:
    """Of rows in every state between 100 and 200 tokens no more than now is ever held."""
    params = SamplingParams(max_tokens=100)
    rows = [
        Sequence(Request(i, [1] * 100, params, output_token_ids=[1] * (i * 100 // 256)), 200)
        for i in range(256)
    ]
    now = sum(sequence.num_tokens for sequence in rows)
    assert wanted(rows, waiting_outputs=100 * 5000, room=int(now / 0.9) + 300) == 1024
    assert wanted(rows, waiting_outputs=100 * 5000, room=int(now / 0.9) - 100) == 256
