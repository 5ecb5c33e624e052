"""Promise: where all rows may run at once, the last of them begins as early as it pays."""

from __future__ import annotations

import random

import pytest

from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.scheduling.block_manager import BlockManager
from batchgen.engine.scheduling.pace import Pace
from batchgen.engine.scheduling.scheduler import Scheduler
from batchgen.engine.scheduling.sequence import Sequence
from batchgen.engine.scheduling.sequence_limit import SequenceLimit
from batchgen.engine.scheduling.step import StepOutput

MINIMUM, MOST = 64, 1024


def job(
    lengths: list[tuple[int, int]],
    *,
    room: int = 1 << 20,
    slots: int = 128,
    heads: list[list[int]] | None = None,
) -> tuple[list[int], Scheduler]:
    """Run rows (tokens in, tokens out), behind one of the `heads` each in turn; the number of
    tokens of each step."""
    scheduler = Scheduler(
        BlockManager(room // 16, 16),
        slots,
        MOST,
        reorder_window=256,
        min_token_budget=MINIMUM,
        sequence_limit=SequenceLimit(32, slots, room),
        prefix_caching=heads is not None,
    )
    for i, (tokens, outputs) in enumerate(lengths):
        params = SamplingParams(max_tokens=outputs, ignore_eos=True)
        prompt = [*(heads[i % len(heads)] if heads else []), *[1 + i] * tokens]
        scheduler.add(Sequence(Request(i, prompt, params), len(prompt) + outputs))
    sizes = []
    while scheduler.waiting or scheduler.running:
        step = scheduler.schedule()
        sizes.append(step.total_tokens)
        scheduler.update(step, StepOutput([1] * len(step.sampled)))
    return sizes, scheduler


def test_rows_of_one_length_begin_at_once() -> None:
    sizes, _ = job([(100, 100)] * 100)
    assert len(sizes) <= 100 + 30  # the first few dozen begin before their number is known to pay
    assert max(sizes) > 500


def test_rows_that_end_early_anyway_are_begun_beside_the_decoding_of_others() -> None:
    sizes, _ = job([(100, 1 + 10 * i) for i in range(60)])
    assert len(sizes) <= 600
    assert sorted(sizes)[-20] <= 2 * MINIMUM


def test_rows_that_the_cache_does_not_hold_at_their_fullest_begin_one_after_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [(100, 200)] * 100
    free, _ = job(rows)
    paced, scheduler = job(rows, room=27_000)
    monkeypatch.setattr(Pace, "current", lambda *_, **__: 0.0)
    spread, _ = job(rows, room=27_000)
    assert scheduler.num_preemptions == 0
    assert len(free) < len(paced) < len(spread) - 20


def test_rows_under_several_instructions_end_as_soon_as_those_under_one() -> None:
    rng = random.Random(1)
    rows = [(16, rng.randrange(16, 65)) for _ in range(120)]
    heads = [[1000 + head] * 64 for head in range(8)]
    one, _ = job(rows, heads=heads[:1])
    several, _ = job(rows, heads=heads)
    apart, _ = job(rows, heads=heads, slots=119)  # not all may run: instruction by instruction
    assert len(several) <= len(one) + 2 < len(apart) - 5


def test_more_rows_than_may_run_keep_the_pace_of_the_decoding() -> None:
    waiting = [(100, 100)] * 9
    assert pace_of(waiting, room=1 << 20) == 0.0
    assert pace_of(waiting[:8], room=1 << 20) == 800
    assert pace_of([], room=1 << 20) == 0.0


def pace_of(rows: list[tuple[int, int]], *, room: int, slowest: float = 1.0) -> float:
    """Of rows (tokens in, tokens out) of which 8 may run at once."""
    limit = SequenceLimit(4, 8, room)
    return Pace(limit).current(
        [], rows, uncached=1.0, output_share=1.0, slowest=slowest, fastest=MOST
    )


def test_a_pace_that_steps_have_anyway_is_not_searched_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It takes the host milliseconds where two looks, one or none tell as much."""
    looks: list[float] = []
    own = SequenceLimit.holds

    def counted(self: SequenceLimit, rows: list[tuple[float, float]], share: float) -> bool:
        looks.append(share)
        return own(self, rows, share)

    monkeypatch.setattr(SequenceLimit, "holds", counted)
    rows = [(100, 100)] * 8
    assert pace_of(rows, room=1 << 20, slowest=800.0) == 0.0
    assert len(looks) == 0
    assert pace_of(rows, room=1 << 20, slowest=100.0) == 800
    assert len(looks) == 1
    assert pace_of(rows, room=1000, slowest=100.0) == 0.0  # the cache does not hold even that
    assert len(looks) == 3


def test_the_pace_is_the_fastest_that_the_cache_holds() -> None:
    """Compared with every row's length counted step by step."""
    rng = random.Random(3)
    for _ in range(50):
        rows = [(rng.randrange(20, 200), rng.randrange(50, 200)) for _ in range(20)]
        rows.sort(key=lambda row: row[1], reverse=True)
        room = rng.randrange(2000, 8000)
        pace = Pace(SequenceLimit(1, 64, room)).current(
            [], rows, uncached=1.0, output_share=1.0, slowest=1.0, fastest=4000.0
        )
        if pace:
            assert fullest(rows, pace) <= 0.9 * room + 25 * len(rows)
        faster = 2 * pace + 50
        wanted = max(
            sum(tokens for tokens, _ in rows[: i + 1]) / max(1, rows[0][1] - outputs)
            for i, (_, outputs) in enumerate(rows)
        )
        if faster < min(wanted, 4000.0):
            assert fullest(rows, faster) > 0.9 * room - 25 * len(rows)


def fullest(rows: list[tuple[int, int]], pace: float) -> float:
    """The most tokens that rows hold at once, each begun when those before it are computed."""
    begins, computed = [], 0
    for tokens, _ in rows:
        computed += tokens
        begins.append(computed / pace)
    most = 0.0
    for now in range(int(max(begins)) + 220):
        held = [
            tokens + now - begin
            for (tokens, outputs), begin in zip(rows, begins, strict=True)
            if begin <= now <= begin + outputs
        ]
        most = max(most, sum(held))
    return most
