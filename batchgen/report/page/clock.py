"""The time line of a job: its runs one after the other, the pauses between them left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from batchgen.report.page.table import Floats, Ints, Table, moments, numbers

__all__ = ["Run", "TimeLine", "time_line"]

_COLUMNS = (
    "index", "started_at", "latency_s", "queue_s", "prefill_s", "completion_tokens", "run_id",
)  # fmt: skip


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
    """Moments of the rows that the engine finished, in seconds on the line: when each began and
    ended, how long it read its prompt, and what it wrote. All: [num_finished]"""

    began: Floats
    reading: npt.NDArray[np.float32]
    ended: Floats
    tokens: npt.NDArray[np.int32]
    runs: tuple[Run, ...]

    @property
    def seconds(self) -> float:
        """From the first run's beginning to the last one's end, pauses left out."""
        return self.runs[-1].end if self.runs else 0.0

    def parts(self, size: int = 65_536) -> Iterator[slice]:
        """So many rows at a time: of ten million one column more is 80 MB."""
        return (slice(start, start + size) for start in range(0, len(self.began), size))


def time_line(table: Table) -> TimeLine:
    """Rows without times, as failed ones are, are not on it."""
    begins: dict[str, float] = {}
    ends: dict[str, float] = {}
    rows: dict[str, int] = {}
    last, count = -1, 0
    for some in map(_timed, table.batches(_COLUMNS)):
        firsts = np.diff(some.index, prepend=last) != 0
        last, count = some.index[-1] if len(some.index) else last, count + len(some.index)
        for number, name in enumerate(some.names):
            own = some.numbers == number
            if own.any():
                ended = (some.came + some.latency)[own].max()
                begins[name] = min(begins.get(name, np.inf), float(some.came[own].min()))
                ends[name] = max(ends.get(name, -np.inf), float(ended))
                rows[name] = rows.get(name, 0) + int(firsts[own].sum())
    runs, offsets = _on_one_line(begins, ends, rows)
    line = TimeLine(
        np.empty(count),
        np.empty(count, np.float32),
        np.empty(count),
        np.empty(count, np.int32),
        runs,
    )
    start = 0
    for some in map(_timed, table.batches(_COLUMNS)):
        part = slice(start, start + len(some.index))
        start = part.stop
        # Seconds since 1970 leave a moment less exact than a latency is.
        came = some.came - some.of_run(begins) + some.of_run(offsets)
        line.began[part] = came + some.waited
        line.reading[part] = some.reading
        line.ended[part] = came + some.latency
        line.tokens[part] = some.tokens
    return line


@dataclass(frozen=True, slots=True)
class _Timed:
    """The timed ones of some rows; `numbers`: of their runs' `names`. All: [num_timed]"""

    index: Ints
    came: Floats
    latency: Floats
    waited: Floats
    reading: Floats
    tokens: Floats
    names: list[str]
    numbers: Ints

    def of_run(self, facts: dict[str, float]) -> Floats:
        """What is known of each row's run."""
        known = np.array([facts.get(name, 0.0) for name in self.names] or [0.0])
        found: Floats = known[self.numbers]
        return found


def _timed(batch: pa.RecordBatch) -> _Timed:
    came, latency = moments(batch["started_at"]), numbers(batch["latency_s"])
    timed = ~np.isnan(came) & ~np.isnan(latency)
    runs = batch["run_id"]
    index = np.asarray(batch["index"])[timed]
    waited, reading, tokens = (
        np.nan_to_num(numbers(batch[name])[timed], copy=False)
        for name in ("queue_s", "prefill_s", "completion_tokens")
    )
    of_runs = np.asarray(runs.indices.fill_null(0), np.int64)[timed]
    names = runs.dictionary.to_pylist()
    return _Timed(index, came[timed], latency[timed], waited, reading, tokens, names, of_runs)


def _on_one_line(
    begins: dict[str, float], ends: dict[str, float], rows: dict[str, int]
) -> tuple[tuple[Run, ...], dict[str, float]]:
    """The runs that have rows by when the first of these came; where each run begins."""
    runs, offsets = [], {}
    offset = 0.0
    for name in sorted(begins, key=begins.__getitem__):
        if not rows[name]:
            continue
        seconds = ends[name] - begins[name]
        at = datetime.fromtimestamp(begins[name], UTC).strftime("%Y-%m-%d %H:%M:%S")
        runs.append(Run(name, at, offset, offset + seconds, rows[name]))
        offsets[name] = offset
        offset += seconds
    return tuple(runs), offsets
