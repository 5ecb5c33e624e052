"""Hours of work in minutes: ever larger inputs, killed and restarted, memory and files watched."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from batchgen.selftest.audit import leftovers
from batchgen.selftest.child import Child, SelftestError
from batchgen.selftest.inputs import mixed_rows, write_lines

__all__ = ["Soak"]

MOST_BYTES_PER_ROW = 100.0
"""A row held in memory costs several hundred bytes; ids seen and a bit a row cost about 16."""
ALLOCATOR_BYTES = 30_000_000
"""What the allocator's habits may add, whatever the rows."""
MOST_MORE_DESCRIPTORS = 2
_GROWTH = 1.15
_SAMPLE_S = 0.2
_SETTLED_S = 3.0
_ECHO_ROWS_PER_STEP = 40
_STEP_S = 0.02

Say = Callable[[str], None]


@dataclass(slots=True)
class _Watch:
    """What one job's processes took: most resident bytes and descriptors over all its runs."""

    rows: int
    peak_bytes: int = 0
    peak_descriptors: int = 0
    runs: int = 0
    kills: int = 0
    drift: list[float] = field(default_factory=list)


class Soak:
    """Jobs one after the other, each larger than the one before, until the time is over."""

    def __init__(self, folder: Path, minutes: float, rows: int, seed: int, say: Say) -> None:
        self._folder = folder
        self._until = time.monotonic() + 60 * minutes
        self._rows = rows
        self._say = say
        self._chosen = random.Random(seed)
        self._jobs: list[_Watch] = []

    def run(self) -> dict[str, Any]:
        """The figures; `ok` says whether memory and descriptors stayed flat."""
        started, rows = time.monotonic(), self._rows
        while not self._jobs or time.monotonic() < self._until:
            self._jobs.append(watch := self._job(rows))
            self._say(
                f"{rows:,} rows in {watch.runs} runs, {watch.kills} killed: at most "
                f"{watch.peak_bytes / 2**20:.0f} MiB and {watch.peak_descriptors} files"
            )
            rows = int(rows * _GROWTH) + 1
        return self._figures(time.monotonic() - started)

    def _job(self, rows: int) -> _Watch:
        """One job, killed at random moments, to its end; its rows counted."""
        source = write_lines(self._folder / "in.jsonl", mixed_rows(rows, seed=rows))
        out = self._folder / "out.parquet"
        out.unlink(missing_ok=True)
        watch = _Watch(rows)
        args = ["run", "-i", source, "-o", out, "--engine", "echo", "--max-failures", "100%"]
        args += ["--checkpoint-every", 500, "--overwrite", "-q"]
        while not self._one_run(args, watch):
            pass
        found = pq.read_table(out, columns=["index"])["index"]
        if len(found.unique()) != rows or leftovers(out):
            raise SelftestError(f"{len(found.unique()):,} of {rows:,} rows; {leftovers(out)}")
        return watch

    def _one_run(self, args: Sequence[object], watch: _Watch) -> bool:
        """Start a run and maybe kill it; True when the job is complete."""
        slow = f"slow:at=engine.step,seconds={_STEP_S},rows={_ECHO_ROWS_PER_STEP}"
        expected = watch.rows / _ECHO_ROWS_PER_STEP * _STEP_S
        # Each run may last to its end, so that long ones are among them: about half are killed.
        moment = self._chosen.uniform(1.0, 1.0 + 2 * expected)
        watch.runs += 1
        with Child(args, self._folder / "run.log", slow) as child:
            self._observe(child, moment, watch)
            if child.running and child.kill():
                watch.kills += 1
                return False
            code = child.wait()
        if code:
            raise SelftestError(f"a run of {watch.rows:,} rows ended in {code}: {child.stderr}")
        return True

    def _observe(self, child: Child, seconds: float, watch: _Watch) -> None:
        """Sample the process until it ends or its time is over."""
        started = time.monotonic()
        times, sizes = [], []
        while child.running and (passed := time.monotonic() - started) < seconds:
            size = child.memory()
            watch.peak_bytes = max(watch.peak_bytes, size)
            watch.peak_descriptors = max(watch.peak_descriptors, child.descriptors())
            if passed > _SETTLED_S and size:
                times.append(passed)
                sizes.append(float(size))
            time.sleep(_SAMPLE_S)
        if len(times) > 50:
            watch.drift.append(statistics.linear_regression(times, sizes).slope)

    def _figures(self, seconds: float) -> dict[str, Any]:
        jobs = self._jobs
        rows = [float(job.rows) for job in jobs]
        half = len(jobs) // 2  # smaller jobs do not yet fill the merge's window of parts
        memory = _slope(rows[half:], [float(job.peak_bytes) for job in jobs[half:]])
        files = _slope([float(i) for i in range(len(jobs))], [job.peak_descriptors for job in jobs])
        more_bytes = _growth([job.peak_bytes for job in jobs])
        more_files = _growth([job.peak_descriptors for job in jobs])
        allowed = ALLOCATOR_BYTES + MOST_BYTES_PER_ROW * (rows[-1] - rows[0])
        drifts = [drift for job in jobs for drift in job.drift]
        return {
            "ok": more_bytes <= allowed and more_files <= MOST_MORE_DESCRIPTORS,
            "minutes": round(seconds / 60, 2),
            "jobs": len(jobs),
            "runs": sum(job.runs for job in jobs),
            "kills": sum(job.kills for job in jobs),
            "rows_first": jobs[0].rows,
            "rows_last": jobs[-1].rows,
            "rows_total": sum(job.rows for job in jobs),
            "peak_bytes": max(job.peak_bytes for job in jobs),
            "peak_bytes_first": jobs[0].peak_bytes,
            "peak_bytes_last": jobs[-1].peak_bytes,
            "memory_bytes_per_row": round(memory, 2),
            "memory_bytes_per_s_median": round(statistics.median(drifts), 1) if drifts else None,
            "peak_descriptors": max(job.peak_descriptors for job in jobs),
            "descriptors_per_job": round(files, 4),
        }


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the least-squares line; 0 where there are too few points."""
    return statistics.linear_regression(x, y).slope if len(x) > 2 else 0.0


def _growth(peaks: Sequence[int]) -> int:
    """How much more the later half of the jobs took than the earlier one, at most."""
    half = len(peaks) // 2
    return max(peaks[half:]) - max(peaks[:half]) if half else 0
