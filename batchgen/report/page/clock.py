"""The time line of a job: its runs one after the other, the pauses between them left out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt

from batchgen.report.page.table import Floats, Ints, Table

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
    # An output may have ten million rows: what is not needed any more goes before the next column
    # comes, and a column is changed in place.
    came, latency = table.moments(), table.floats("latency_s")
    timed = ~np.isnan(came) & ~np.isnan(latency)
    line, ended = came[timed], latency[timed]  # by now how long it took
    del came, latency
    names, numbers = table.texts("run_id")
    numbers = numbers[timed]
    begins, ends = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    np.minimum.at(begins, numbers, line)
    np.maximum.at(ends, numbers, line + ended)
    rows = np.bincount(numbers[_firsts(table.ints("index")[timed])], minlength=len(names))
    runs, offsets = _on_one_line(names, begins, ends, rows)
    line -= begins[numbers]  # seconds since 1970 leave a moment less exact than a latency is
    line += offsets[numbers]
    ended += line
    del numbers
    began = line + np.nan_to_num(table.floats("queue_s")[timed], copy=False)
    first_token = began + np.nan_to_num(table.floats("prefill_s")[timed], copy=False)
    tokens = table.ints("completion_tokens")[timed].astype(float)
    return TimeLine(line, began, first_token, ended, tokens, runs)


def _firsts(index: Ints) -> npt.NDArray[np.bool_]:
    """Which rows are the first with their index: its samples are neighbours, of one run."""
    firsts = np.ones(len(index), dtype=np.bool_)
    np.not_equal(index[1:], index[:-1], out=firsts[1:])
    return firsts


def _on_one_line(
    names: list[str], begins: Floats, ends: Floats, rows: Ints
) -> tuple[tuple[Run, ...], Floats]:
    """The runs that have rows by when the first of these came; where each run begins."""
    runs, offsets = [], np.zeros(len(names))
    offset = 0.0
    for number in np.argsort(begins, kind="stable").tolist():
        if not rows[number]:
            continue
        begin, seconds = float(begins[number]), float(ends[number] - begins[number])
        at = datetime.fromtimestamp(begin, UTC).strftime("%Y-%m-%d %H:%M:%S")
        runs.append(Run(names[number], at, offset, offset + seconds, int(rows[number])))
        offsets[number] = offset
        offset += seconds
    return tuple(runs), offsets
