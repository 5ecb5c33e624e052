"""The time left, judged on simulated runs of many lengths under a clock of the test's own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from batchgen.engine.request import Request, SamplingParams
from batchgen.engine.stats import EngineStats
from batchgen.job.eta.lengths import Lengths
from batchgen.job.eta.moment import BegunRow, Progress, ReadRows
from batchgen.job.eta.order import ReadingOrder
from batchgen.job.eta.time_left import SecondsLeft, TimeLeft
from batchgen.job.flow.window import Window
from batchgen.job.rows import InputRow
from batchgen.job.text.prepared import PreparedRow, request_id

SECOND_MINUTE, TOLERANCE, SHORT = 60.0, 0.25, 10.0
READ_AHEAD, REORDERED, CHUNK = 2048, 1024, 512
Rng = np.random.Generator
Drawn = tuple[np.ndarray, np.ndarray | int]  # lengths of so many rows, and their `max_tokens`
SHAPES: dict[str, Callable[[Rng, int], Drawn]] = {
    "all of one length": lambda rng, n: (np.full(n, 256), 256),
    "uniform": lambda rng, n: (rng.integers(8, 513, n), 512),
    "long-tailed": lambda rng, n: (rng.lognormal(4.6, 0.8, n), 1024),
    "labels and essays": lambda rng, n: (np.where(rng.random(n) < 0.9, 20, 700), 1024),
    "memoryless": lambda rng, n: (rng.exponential(150, n), 2048),
    "most are cut": lambda rng, n: (rng.exponential(300, n), 128),
    "longer and longer": lambda rng, n: (np.sort(rng.integers(8, 513, n)), 512),
    "shorter and shorter": lambda rng, n: (np.sort(rng.integers(8, 513, n))[::-1], 512),
    "short or cut": lambda rng, n: (np.where(rng.random(n) < 0.5, rng.normal(20, 6, n), 300), 200),
    "one in ten may be long": lambda rng, n: cut(np.where(rng.random(n) < 0.9, 24, 220)),
    "two kinds": lambda rng, n: part(rng, np.where(rng.random(n) < 0.5, 64, 640)),
    "as many tokens as they may have": lambda rng, n: cut(rng.lognormal(4, 1, n)),
    "a part of what they may have": lambda rng, n: part(rng, rng.lognormal(5, 0.8, n)),
    "as long whatever they may have": lambda rng, n: (
        rng.lognormal(4, 0.8, n),
        rng.choice([32, 256, 2048], n),
    ),
    "larger and larger": lambda rng, n: cut(np.sort(rng.integers(8, 513, n))),
    "smaller and smaller": lambda rng, n: cut(np.sort(rng.integers(8, 513, n))[::-1]),
}


def cut(most: np.ndarray) -> Drawn:
    """Rows that nothing else ends."""
    return most, most


def part(rng: Rng, most: np.ndarray) -> Drawn:
    """Rows that use between nothing and all of what they may have."""
    return most * rng.beta(2, 2, len(most)), most


@dataclass(frozen=True, slots=True)
class Job:
    """`minutes`: about how long it takes, prompts apart, of about `prompt` tokens; `cold`: so much
    slower is its first minute; `busy`: by so much others make it slower or faster."""

    shape: str
    minutes: float
    on_cpu: bool
    slots: int = 64
    cold: float = 1.0
    seed: int = 0
    prompt: int = 0
    busy: float = 0.0

    def step_s(self, running: int, at: float) -> float:
        """Seconds of a step of so many rows."""
        seconds = 0.005 + 0.0015 * running if self.on_cpu else 0.05
        return seconds * (self.cold if at < SECOND_MINUTE else 1.0) * self.slowness(at)

    def slowness(self, at: float) -> float:
        """Of the machine, as others come and go, one every half minute."""
        if not self.busy or at > 1e6:
            return 1.0
        others, within = divmod(at / 30, 1)
        now, then = np.random.default_rng(self.seed).normal(0, self.busy, 99)[int(others) :][:2]
        return float(np.exp(now + (then - now) * within))

    def prompt_s(self, tokens: int) -> float:
        """Seconds of so many tokens of prompts."""
        return tokens * (0.0004 if self.on_cpu else 0.00004)

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        """Lengths and `max_tokens`, in the order of the input."""
        rng, draw = np.random.default_rng(self.seed), SHAPES[self.shape]
        mean = bounded(*draw(rng, 400))[0].mean()
        rows = int(self.minutes * 60 * self.slots / self.step_s(self.slots, 1e9) / mean)
        return bounded(*draw(rng, rows))


def bounded(lengths: np.ndarray, most: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers from 1 on, at most `most`."""
    most = np.maximum(np.broadcast_to(most, len(lengths)).astype(int), 1)
    return np.clip(lengths.astype(int), 1, most), most


JOBS = [
    Job("all of one length", 5, False),
    Job("all of one length", 2.5, True, slots=16),
    Job("uniform", 2.5, False),
    Job("uniform", 5, True, cold=3.0),
    Job("long-tailed", 2.5, False),
    Job("long-tailed", 2.5, True),
    Job("long-tailed", 15, True, slots=16),
    Job("labels and essays", 10, True),
    Job("labels and essays", 30, False),
    Job("memoryless", 2.5, False, slots=16),
    Job("memoryless", 10, False),
    Job("most are cut", 5, False),
    Job("short or cut", 3, True, slots=160),
    Job("short or cut", 5, True, slots=64),
    Job("longer and longer", 15, False),
    Job("one in ten may be long", 5, True),
    Job("one in ten may be long", 2.5, True, slots=16),
    Job("one in ten may be long", 15, False),
    Job("one in ten may be long", 5, True, prompt=30),
    Job("one in ten may be long", 5, False, prompt=500),
    Job("two kinds", 5, True),
    Job("two kinds", 5, True, prompt=300),
    Job("two kinds", 15, False),
    Job("as many tokens as they may have", 5, True),
    Job("as many tokens as they may have", 10, False, slots=16),
    Job("a part of what they may have", 5, True),
    Job("a part of what they may have", 15, False),
    Job("as long whatever they may have", 5, True),
    Job("as long whatever they may have", 15, False),
    Job("larger and larger", 15, False),
    Job("smaller and smaller", 15, False),
]
BUSY = [
    Job("all of one length", 5, True, busy=0.25, seed=1),
    Job("long-tailed", 5, True, busy=0.25, seed=2),
    Job("one in ten may be long", 5, True, prompt=30, busy=0.25, seed=3),
    Job("as many tokens as they may have", 5, True, busy=0.25, seed=4),
    Job("as many tokens as they may have", 10, False, busy=0.25, seed=5),
    Job("two kinds", 10, True, busy=0.25, seed=6),
]
SORTED = Job("shorter and shorter", 15, False)


@cache
def simulated(job: Job) -> list[tuple[float, TimeLeft | None]]:
    """(the seconds that were left, what was shown then) of a run by continuous batching, in which
    those of the largest `max_tokens` of so many rows begin first."""
    lengths, most = job.rows()
    rows = len(lengths)
    prompts = np.random.default_rng(1).poisson(job.prompt, rows)
    windows = np.arange(rows) // REORDERED
    inputs = np.lexsort((-most, windows))  # in the order in which they begin
    now, made, begun, next_look, read = 0.0, 0, 0, 0.0, 0
    order = ReadingOrder()
    run, known, left, shown = np.zeros((4, 0)), Lengths(), SecondsLeft(on_cpu=job.on_cpu), []
    while begun < rows or run.shape[1]:
        while read < rows and read - begun + run.shape[1] < READ_AHEAD:
            for each in most[read : read + CHUNK]:
                order = order.read(int(each))
            read = min(read + CHUNK, rows)
        more = inputs[begun : begun + job.slots - run.shape[1]]
        run = np.hstack([run, [lengths[more], more * 0, more * 0 + now, most[more]]])
        begun += len(more)
        now += job.prompt_s(int(prompts[more].sum()))
        steps = max(min(8, int((run[0] - run[1]).min())), 1)
        now += steps * job.step_s(run.shape[1], now)
        run[1] += steps
        made += steps * run.shape[1]
        ended = run[1] >= run[0]
        for length, bound in run[::3, ended].T:
            known.add(int(length), int(bound))
        run = run[:, ~ended]
        if now >= next_look:
            next_look = now + max(2.0, job.minutes / 2)
            there = tuple(BegunRow(at, 1, int(bound)) for _, _, at, bound in run.T)
            waiting = Counter(most[inputs[begun:][inputs[begun:] < read]].tolist())
            tokens = int(prompts[inputs[:begun]].sum())
            rows_read = ReadRows(there, waiting, order, int(prompts[:read].sum()), tokens, tokens)
            finished = begun - run.shape[1]
            seen = Progress(now, finished, rows - begun, made, rows_read, known)
            shown.append((now, left.estimate(seen)))
    return [(now - at, found) for at, found in shown if at >= SECOND_MINUTE]


def holds(left: TimeLeft | None, true: float) -> bool:
    """Within a quarter, or ten seconds: nobody knows when the very last row will end."""
    if left is None:
        return False
    early, late = (left.likely, left.likely) if left.is_sure else (left.early, left.late)
    margin = max(TOLERANCE * true, SHORT)
    return early - margin <= true <= late + margin


@pytest.mark.parametrize("job", JOBS, ids=lambda job: f"{job.shape}, {job.minutes} min")
def test_it_is_within_a_quarter_from_the_second_minute_on(job: Job) -> None:
    shown = simulated(job)
    wrong = [(left, true) for true, left in shown if not holds(left, true)]
    assert len(shown) > 30
    assert len(wrong) <= len(shown) / 12, wrong


def test_of_a_hundred_moments_one_is_outside_at_most() -> None:
    shown = [moment for job in JOBS + BUSY for moment in simulated(job)]
    wrong = [(left, true) for true, left in shown if not holds(left, true)]
    assert len(wrong) <= len(shown) / 100, f"{len(wrong)} of {len(shown)}"


def test_longest_rows_first_make_it_too_long_never_too_short() -> None:
    """Nobody can tell from the first long rows that short ones come."""
    shown = simulated(SORTED)
    assert all(left is not None and left.late + SHORT >= 0.75 * true for true, left in shown)
    second_half = [holds(left, true) for true, left in shown[len(shown) // 2 :]]
    assert np.mean(second_half) > 0.8


def test_one_number_says_it_at_most_moments_of_rows_that_are_alike() -> None:
    alike = [job for job in JOBS if "er and" not in job.shape and not job.cold > 1]
    shown = [left for job in alike for _, left in simulated(job)]
    ranges = [left for left in shown if left is not None and not left.is_sure]
    assert len(ranges) < len(shown) / 3, f"{len(ranges)} of {len(shown)}"
    assert np.median([left.late / max(left.early, 5) for left in ranges]) < 4


def test_nothing_is_said_before_rows_have_finished() -> None:
    left, lengths = SecondsLeft(), Lengths()
    begun = tuple(BegunRow(0.0, 1, 256) for _ in range(8))
    assert left.estimate(Progress(1.0, 0, 100, 8, ReadRows(begun), lengths)) is None
    assert left.estimate(Progress(9.0, 0, 100, 800, ReadRows(begun), lengths)) is None


def test_a_run_that_stood_still_for_half_of_its_time_has_a_time_left() -> None:
    """As where a process of its engine was loaded again: the job ended with a ZeroDivisionError."""
    left, lengths = SecondsLeft(), Lengths()
    begun, made = tuple(BegunRow(0.0, 1, 256) for _ in range(8)), 8
    for second in range(41):
        if not 5 < second <= 30:
            made += 80
            lengths.add(100, 256)
        found = left.estimate(
            Progress(float(second), lengths.num_samples, 100, made, ReadRows(begun), lengths)
        )
    assert found is not None
    assert 0 < found.early <= found.likely <= found.late < 1000


def test_where_every_row_so_far_failed_nothing_is_said() -> None:
    """As by --row-timeout: tokens were made, and no length is known. The job ended with 1."""
    left, lengths, waiting = SecondsLeft(), Lengths(), ReadRows(waiting={100: 50})
    for second in range(60):
        assert left.estimate(Progress(second, second, 90, 80 * second, waiting, lengths)) is None


@pytest.mark.parametrize("seed", range(40))
def test_whatever_a_run_does_its_time_left_is_a_number_or_nothing(seed: int) -> None:
    """Rows that fail, stand still, come in bursts and end at once, in any order."""
    rng = np.random.default_rng(seed)
    left, lengths, order = SecondsLeft(on_cpu=bool(seed % 2)), Lengths(), ReadingOrder()
    waiting: Counter[int] = Counter()
    begun: list[BegunRow] = []
    alone, ok = float(rng.choice([1, 1, 0.5, 0])), float(rng.choice([0, 0.5, 1]))
    now, rows, made, unread = 0.0, 0, 0, int(rng.choice([1, 20, 5000]))
    for _ in range(25):
        now += float(rng.choice([0, 0.1, 5, 30, 600]))
        for _ in range(min(unread, int(rng.choice([0, 1, 60])))):
            most = int(rng.choice([1, 16, 256, 100_000]))
            waiting[most], order, unread = waiting[most] + 1, order.read(most), unread - 1
        for most in list(waiting.elements())[: int(rng.choice([0, 1, 64]))]:
            waiting[most] -= 1
            begun.append(BegunRow(now, int(rng.choice([1, 3])), most))
        for _ in range(min(len(begun), int(rng.choice([0, 0, 1, 64])))):
            row, rows = begun.pop(int(rng.integers(len(begun)))), rows + 1
            if rng.random() < ok:
                lengths.add(int(rng.integers(row.most_tokens + 1)), row.most_tokens)
        made = max(made + int(rng.choice([0, 0, 1, 10_000])), lengths.num_tokens)
        read = ReadRows(tuple(begun), dict(+waiting), order, alone=alone)
        found = left.estimate(Progress(now, rows, unread + waiting.total(), made, read, lengths))
        assert found is None or np.isfinite(found).all()


def test_rows_that_have_not_finished_are_bounded_by_their_max_tokens() -> None:
    """Half a minute of eight rows of at most 256 tokens, ten a second each; nothing waits."""
    left, lengths = SecondsLeft(), Lengths()
    begun = tuple(BegunRow(0.0, 1, 256) for _ in range(8))
    for second in range(22):
        found = left.estimate(
            Progress(float(second), 0, 0, 80 * second + 8, ReadRows(begun), lengths)
        )
    assert found is not None
    assert found.early < 3
    assert 4 < found.late < 6  # 46 tokens more


def test_loading_and_rows_of_earlier_runs_do_not_count() -> None:
    """Ten minutes of loading pass; then the rate is that of the rows since."""
    left, lengths = SecondsLeft(), Lengths()
    assert left.estimate(Progress(600.0, 0, 1000, 0, ReadRows(), lengths)) is None
    for second in range(601, 621):
        for _ in range(10):
            lengths.add(100, 256)
        rows = (second - 600) * 10
        found = left.estimate(
            Progress(float(second), rows, 1000 - rows, rows * 100, ReadRows(), lengths)
        )
    assert found is not None
    assert 72 < found.likely < 88  # 800 rows of 100 tokens at 1,000 tokens a second


@pytest.mark.parametrize(("alone", "seconds"), [(1.0, 80), (0.5, 40)])
def test_rows_that_take_the_answer_of_an_equal_one_cost_nothing(
    alone: float, seconds: float
) -> None:
    left, lengths = SecondsLeft(), Lengths()
    for second in range(21):
        rows, waiting = second * 10, {100: 1000 - second * 10}
        read = ReadRows((), waiting, alone=alone)
        found = left.estimate(
            Progress(float(second), rows, 1000 - rows, rows * 100 + 1, read, lengths)
        )
        for _ in range(10):
            lengths.add(100, 100)
    assert found is not None
    assert found.likely == pytest.approx(seconds, rel=0.1)  # 1,000 tokens a second


def test_rows_that_wait_count_by_their_max_tokens_until_they_begin_or_are_given_up() -> None:
    window = Window()
    rows = [prepared(index, most) for index, most in enumerate([24, 220, 24])]
    for row in rows:
        window.add(row)
    read = window.read(EngineStats())
    assert (read.begun, dict(read.waiting), read.order.rows) == ((), {24: 2, 220: 1}, 3)
    window.begin([rows[1].requests[0].request_id])
    window.remove(rows[0])
    read = window.read(EngineStats())
    assert [row.most_tokens for row in read.begun] == [220]
    assert dict(read.waiting) == {24: 1}
    assert (read.prompt_tokens, read.begun_prompt_tokens) == (9, 3)
    window.remove(rows[1])
    window.begin([rows[2].requests[0].request_id])
    assert dict(window.read(EngineStats()).waiting) == {}
    assert window.read(EngineStats()).alone == 1.0
    assert window.read(EngineStats(folded_rows=1)).alone == 0.0
    assert [row.most_tokens for row in window.read(EngineStats()).begun] == [24]


def prepared(index: int, most: int) -> PreparedRow:
    """A row of three tokens."""
    params = SamplingParams(max_tokens=most)
    requests = [Request(request_id(index, 0), [1, 2, 3], params)]
    return PreparedRow(InputRow(index, "in.jsonl:1", params=params), None, [1, 2, 3], requests)
