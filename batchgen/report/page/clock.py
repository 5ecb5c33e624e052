"""The time line of a job: its runs one after the other, the pauses between them left out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from batchgen.report.page.table import Floats, Table

__all__ = ["Run", "TimeLine", "time_line"]


@dataclass(frozen=True, slots=True)
class Run:
    """`begin` and `end` on the time line, in seconds; `at`: when it began, in UTC."""

    run_id: str
    at: str
    begin: float
    end: float
    rows: int


@dataclass(frozen=True, slots=True)
class TimeLine:
    """Moments of the rows that the engine finished, in seconds on the line, [num_finished]."""

    came: Floats
    began: Floats
    first_token: Floats
    ended: Floats
    tokens: Floats
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        """From the first run's beginning to the last one's end, pauses left out."""
        return self.runs[-1].end if self.runs else 0.0


def time_line(table: Table) -> TimeLine:
    """Rows without times, as failed ones are, are not on it."""
    came, latency = table.moments(), table.floats("latency_s")
    timed = np.flatnonzero(~np.isnan(came) & ~np.isnan(latency))
    came, latency = came[timed], latency[timed]
    queue = np.nan_to_num(table.floats("queue_s")[timed])
    prefill = np.nan_to_num(table.floats("prefill_s")[timed])
    names, numbers = table.texts("run_id")
    numbers, index = numbers[timed], table.ints("index")[timed]
    line, runs = np.zeros(len(timed)), []
    offset = 0.0
    for mine in _in_order(numbers, came):
        begin, end = float(came[mine].min()), float((came + latency)[mine].max())
        line[mine] = came[mine] - begin + offset
        at = datetime.fromtimestamp(begin, UTC).strftime("%Y-%m-%d %H:%M:%S")
        name, distinct = names[numbers[mine[0]]], len(np.unique(index[mine]))
        runs.append(Run(name, at, offset, offset + end - begin, distinct))
        offset += end - begin
    began = line + queue
    return TimeLine(
        line, began, began + prefill, line + latency,
        table.ints("completion_tokens")[timed].astype(float), tuple(runs),
    )  # fmt: skip


def _in_order(numbers: npt.NDArray[np.int32], came: Floats) -> list[npt.NDArray[np.int64]]:
    """The places of each run's rows, by when the first of them came."""
    by_run = np.argsort(numbers, kind="stable")
    cuts = np.flatnonzero(np.diff(numbers[by_run])) + 1
    runs = [places for places in np.split(by_run, cuts) if len(places)]
    return sorted(runs, key=lambda places: float(came[places].min()))
