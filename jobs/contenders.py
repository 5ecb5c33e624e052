"""Contenders that take turns in one run: each is timed, with what others took of the machine beside
it, and perhaps with a neighbour of our own that takes a known part of a core.

Imports nothing of batchgen: a peer's Python, which has none of its needs, runs this file too.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "THREADS",
    "Contender",
    "Measured",
    "Neighbour",
    "Watch",
    "ask_peer",
    "measure",
    "report",
    "take_turns",
]

BUSY_CORES = 0.35
THREADS = int(os.environ.get("OMP_NUM_THREADS", "") or os.cpu_count() or 1)
"""Of every contender."""
LOAD = """
import sys, time
share, period = float(sys.argv[1]), 0.1
while True:
    begun = time.perf_counter()
    until = time.process_time() + share * period
    while time.process_time() < until:
        pass
    time.sleep(max(0.0, begun + period - time.perf_counter()))
"""
"""A process that is busy for its share of each tenth of a second, at once, then sleeps."""


@dataclass(frozen=True)
class Measured:
    """One timed run. `others` is the CPU that other processes took meanwhile, in cores."""

    seconds: float
    others: float
    tokens: list[list[int]]

    @property
    def quiet(self) -> bool:
        """Whether others left the machine alone."""
        return self.others <= BUSY_CORES

    @property
    def output_tokens_per_s(self) -> float:
        """All output tokens over the wall time, prompts included."""
        return sum(map(len, self.tokens)) / self.seconds


class Watch:
    """Wall time, and the CPU time that others took while it ran (from /proc/stat)."""

    def __enter__(self) -> Watch:
        self._busy, self._own, self._start = busy_seconds(), own_seconds(), time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._start
        spent = busy_seconds() - self._busy - (own_seconds() - self._own)
        self.others = max(0.0, spent / self.seconds)


def busy_seconds() -> float:
    """CPU time of the whole machine but niced processes: user, system, interrupts, steal."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, _nice, system, _idle, _wait, irq, softirq, steal = map(int, fields[:8])
    return (user + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    times = os.times()
    return times.user + times.system


def measure(run: Callable[[], list[list[int]]]) -> Measured:
    """Time one call that returns all rows' tokens."""
    with Watch() as watch:
        tokens = run()
    return Measured(watch.seconds, watch.others, tokens)


class Neighbour:
    """Another process that takes `share` of a core while the block runs."""

    def __init__(self, share: float) -> None:
        self.share = share

    def __enter__(self) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", LOAD, str(self.share)])

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@dataclass
class Contender:
    """One way to run the rows, and its runs."""

    name: str
    run: Callable[[], Measured]
    runs: list[Measured] = field(default_factory=list)

    @property
    def median(self) -> float:
        """Output tokens per second, of the quiet runs where there are any."""
        quiet = [run for run in self.runs if run.quiet] or self.runs
        return statistics.median(run.output_tokens_per_s for run in quiet)

    def line(self, first: Contender) -> dict[str, Any]:
        """What is reported; `rows_equal_to_first`: rows with the tokens of the first contender."""
        equal = sum(map(list.__eq__, self.runs[0].tokens, first.runs[0].tokens))
        return {
            "contender": self.name,
            "output_tokens_per_s": round(self.median, 1),
            "ratio_to_first": round(self.median / first.median, 3),
            "seconds": [round(run.seconds, 2) for run in self.runs],
            "others_cores": [round(run.others, 2) for run in self.runs],
            "rows_equal_to_first": equal,
        }


def take_turns(
    contenders: Iterable[Contender], repeats: int, neighbour: float = 0.0
) -> list[Contender]:
    """Each runs once a round; with a neighbour, once alone and once beside it."""
    turns: list[tuple[Contender, float]] = []
    for contender in contenders:
        turns.append((contender, 0.0))
        if neighbour:
            beside = f"{contender.name}, a neighbour at {neighbour} cores"
            turns.append((Contender(beside, contender.run), neighbour))
    for _ in range(repeats):
        for contender, share in turns:
            with Neighbour(share) if share else nullcontext():
                contender.runs.append(contender.run())
            run = contender.runs[-1]
            print(f"{contender.name}: {run.seconds:.2f} s, {run.output_tokens_per_s:.1f} output "
                  f"tokens/s, others {run.others:.2f} cores{'' if run.quiet else '  NOT QUIET'}",
                  file=sys.stderr, flush=True)  # fmt: skip
    return [contender for contender, _ in turns]


def report(contenders: list[Contender]) -> None:
    """A line of JSON for each."""
    for contender in contenders:
        print(json.dumps(contender.line(contenders[0])), flush=True)


def ask_peer(command: list[Any], rows: list[tuple[list[int], int]]) -> Measured:
    """One run in a process of the peer's Python, which reads rows (prompt ids, tokens to generate)
    from stdin, times itself and prints a `Measured` as its last line."""
    folder = Path(__file__).parent
    env = os.environ | {"PYTHONPATH": f"{folder}:{folder.parent}"}
    done = subprocess.run(
        command, input=json.dumps(rows), env=env, text=True, stdout=subprocess.PIPE, check=True
    )
    return Measured(**json.loads(done.stdout.splitlines()[-1]))
