"""The time left, judged on simulated runs of many lengths under a clock of the test's own."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from batchgen.job.flow.eta import BegunRow, Lengths, Progress, SecondsLeft

SECOND_MINUTE, TOLERANCE, SHORT = 60.0, 0.25, 10.0
Draw = Callable[[random.Random], int]


def lognormal(rng: random.Random) -> int:
    return min(1024, max(1, int(rng.lognormvariate(4.6, 0.8))))


SHAPES: dict[str, tuple[Draw, int]] = {
    "all of one length": (lambda rng: 256, 256),
    "uniform": (lambda rng: rng.randint(8, 512), 512),
    "long-tailed": (lognormal, 1024),
    "labels and essays": (lambda rng: 20 if rng.random() < 0.9 else 700, 1024),
    "memoryless": (lambda rng: min(2048, 1 + int(rng.expovariate(1 / 150))), 2048),
}


def simulated(
    draw: Draw, most: int, rows: int, slots: int, step_s: Callable[[int], float], on_cpu: bool
) -> list[tuple[float, float | None]]:
    """(moment, the seconds left that were shown then) of a run by continuous batching."""
    rng, now, made, finished = random.Random(rows), 1000.0, 0, 0
    lengths, left, running = Lengths(), SecondsLeft(now, on_cpu=on_cpu), []
    waiting, shown, next_look = rows, [], now
    while waiting or running:
        while waiting and len(running) < slots:
            running.append([draw(rng), 0, now])
            waiting -= 1
        steps = min(8, min(length - age for length, age, _ in running))  # as one, where none ends
        now += steps * step_s(len(running))
        for row in running:
            row[1] += steps
        made += steps * len(running)
        for row in running:
            if row[1] == row[0]:
                lengths.add(row[0])
                finished += 1
        running = [row for row in running if row[1] < row[0]]
        if now >= next_look:
            next_look = now + 2.0
            begun = tuple(BegunRow(row[2], 1, most) for row in running)
            shown.append(
                (now, left.estimate(Progress(now, finished, waiting, made, begun, lengths)))
            )
    return [*shown, (now, 0.0)]


@pytest.mark.parametrize(
    ("shape", "minutes", "on_cpu"),
    [
        ("all of one length", 5, False),
        ("uniform", 2.5, False),
        ("long-tailed", 15, True),
        ("labels and essays", 45, False),
        ("uniform", 5, True),
        ("long-tailed", 10, False),
        ("labels and essays", 10, True),
        ("memoryless", 5, False),
        ("memoryless", 10, True),
    ],
)
def test_it_is_within_a_quarter_from_the_second_minute_on(
    shape: str, minutes: float, on_cpu: bool
) -> None:
    """Or within ten seconds: nobody knows when the very last row will end. One moment in
    twelve may miss it: in its second minute a job has few long rows behind it."""
    draw, most = SHAPES[shape]
    step_s = (lambda n: 0.005 + 0.0015 * n) if on_cpu else (lambda n: 0.05)
    mean = sum(draw(random.Random(seed)) for seed in range(400)) / 400
    rows = int(minutes * 60 * 64 / step_s(64) / mean)
    late = []
    for other in (0, 7):  # a row count has its own lengths
        shown = simulated(draw, most, rows + other, 64, step_s, on_cpu)
        end = shown[-1][0]
        late += [(left, end - at) for at, left in shown if at - 1000 >= SECOND_MINUTE]
    wrong = [(left, true) for left, true in late if left is None or not near(left, true)]
    assert len(late) > 90
    assert len(wrong) <= len(late) / 12, wrong


def near(left: float, true: float) -> bool:
    return abs(left - true) <= max(TOLERANCE * true, SHORT)


def test_nothing_is_said_before_rows_have_finished() -> None:
    left, lengths = SecondsLeft(0.0), Lengths()
    begun = tuple(BegunRow(0.0, 1, 256) for _ in range(8))
    assert left.estimate(Progress(1.0, 0, 100, 8, begun, lengths)) is None
    assert left.estimate(Progress(9.0, 0, 100, 800, begun, lengths)) is None


def test_in_the_first_seconds_it_is_of_the_right_size() -> None:
    draw, most = SHAPES["uniform"]
    shown = simulated(draw, most, 2000, 64, lambda n: 0.01, False)
    end = shown[-1][0]
    early = [(left, end - at) for at, left in shown if at <= 1010.0 and left is not None]
    assert early
    assert all(true / 2 < left < true * 2 for left, true in early), early


def test_loading_and_rows_of_earlier_runs_do_not_count() -> None:
    """Ten minutes of loading pass; then the rate is that of the rows since."""
    left, lengths = SecondsLeft(0.0), Lengths()
    assert left.estimate(Progress(600.0, 0, 1000, 0, (), lengths)) is None
    for second in range(601, 621):
        for _ in range(10):
            lengths.add(100)
        rows = (second - 600) * 10
        found = left.estimate(Progress(float(second), rows, 1000 - rows, rows * 100, (), lengths))
    assert found is not None
    assert 72 < found < 88  # 800 rows of 100 tokens at 1,000 tokens a second
