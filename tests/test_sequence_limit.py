"""As many sequences run at once as make the steps that are left cheaper."""

from __future__ import annotations

from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.sequence_limit import SequenceLimit


def running(count: int, output: int, prompt: int = 8, shared: int = 0) -> list[Sequence]:
    params = SamplingParams(max_tokens=output)
    sequences = [Sequence(Request(i, [1] * prompt, params), prompt + output) for i in range(count)]
    for sequence in sequences:
        sequence.num_shared_tokens = shared
    return sequences


def wanted(sequences: list[Sequence], waiting_outputs: float, room: int = 10**9) -> int:
    return SequenceLimit(256, 1024, room).current(sequences, len(sequences), waiting_outputs)


def test_short_answers_of_many_rows_run_a_thousand_at_a_time() -> None:
    assert wanted(running(256, 40), waiting_outputs=40 * 5000) == 1024
    assert wanted(running(256, 40), waiting_outputs=40 * 244) == 750, "half more than are left"


def test_no_more_run_than_the_longest_row_leaves_steps_for() -> None:
    long = running(255, 40) + running(1, 400)
    assert wanted(long, waiting_outputs=40 * 3000) == int((255 * 40 + 400 + 40 * 3000) * 1.5) // 400
    assert wanted(long, waiting_outputs=0) == 256


def test_no_more_run_than_the_cache_holds_as_they_grow() -> None:
    rows = running(256, 40, prompt=100)
    few, many = int(256 * 119 / 0.85), int(256 * 121 / 0.85)  # half of 40 is held at once
    assert wanted(rows, waiting_outputs=40 * 5000, room=few) == 256
    assert wanted(rows, waiting_outputs=40 * 5000, room=many) == 1024
    shared = running(256, 40, prompt=100, shared=90)
    assert wanted(shared, waiting_outputs=40 * 5000, room=few) == 1024, "what is their own"


def test_limits_that_are_not_used_take_no_room() -> None:
    limit, rows = SequenceLimit(256, 1024, 256 * 200), running(256, 4000, prompt=100)
    assert limit.current(rows, 256, 4000 * 5000, output_share=1.0) == 256
    limit = SequenceLimit(256, 1024, 256 * 200)
    assert limit.current(rows, 256, 4000 * 5000, output_share=0.01) == 1024


def test_what_was_admitted_since_the_last_look_counts() -> None:
    limit, rows = SequenceLimit(256, 1024, 10_000), running(256, 4, prompt=10)
    assert limit.current(rows, 256, 40 * 5000) == 1024
    limit.note_admission(3000, outputs=6000)
    assert limit.current(rows, 256, 40 * 5000) == 256


def test_the_last_ones_need_not_wait_for_slots() -> None:
    limit, rows = SequenceLimit(256, 1024, 10**9), running(256, 40)
    assert limit.current(rows, 256, 40 * 244) == 750
    for _ in range(40):
        assert limit.current(rows, 256, 40 * 44) == 750
    limit.note_arrival()
    seen = {limit.current(rows, 256, 40 * 44) for _ in range(40)}
    assert seen == {750, 450}, "looked at again, now that others come"


def test_a_number_that_was_chosen_stays() -> None:
    assert SequenceLimit(300, 300, 0).current(running(300, 4), 300, 10**6) == 300
