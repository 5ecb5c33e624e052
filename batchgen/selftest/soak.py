"""Hours of work in minutes: ever larger jobs, killed, stopped and restarted every few seconds.

Memory and open files of every process are watched from its start to its end, the final merge apart
from the work before it, and the output of every job must be the one that an unbroken run writes.
"""

from __future__ import annotations

import random
import signal
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgen.counts import counted
from batchgen.job.output.merge import MEMORY_BYTES
from batchgen.job.stopping.signals import POLITE_SIGNALS
from batchgen.job.storage.layout import list_parts
from batchgen.selftest.audit import begun_again, differences, leftovers
from batchgen.selftest.blows import rows_in
from batchgen.selftest.child import Child, SelftestError, unready_codes
from batchgen.selftest.inputs import mixed_rows, write_lines

__all__ = ["Soak"]

MOST_BYTES_PER_ROW = 100.0
"""A row held in memory costs several hundred bytes; ids seen and a bit a row cost about 16."""
ALLOCATOR_BYTES = 30_000_000
"""What the allocator's habits may add, whatever the rows."""
MOST_MORE_DESCRIPTORS = 2
CHECKPOINT_EVERY, MAX_NUM_SEQS = 500, 64
_GROWTH = 1.15
_MEAN_S = 3.5
"""Between two blows, at random moments: some come while Python still starts."""
_LONG_SHARE = 0.06
"""Of the runs, left alone to their job's end: what grows slowly shows in them."""
_KILL_SHARE = 0.6
_STOPPED = 75
_READY_S = 5.0
"""A process younger than this may die of a signal: its handlers may not stand yet."""
_SAMPLE_S, _SETTLED_S, _LEAST_SAMPLES = 0.2, 3.0, 50
_SLOW = "slow:at=engine.step,seconds=0.02,rows=40"
_ROWS_LEFT = 20_000
"""Ten seconds' work, at that pace: a run that had more of it left has not heard a signal."""
_LONGEST_STOP_S = 120.0

Say = Callable[[str], None]


@dataclass(slots=True)
class _Run:
    """What one process took, and what ended it: killed, stopped, early or complete.

    `peak_bytes`: before it merged. `merge_bytes`: in all, for one that came to merge; else 0.
    """

    rows: int
    peak_bytes: int = 0
    merge_bytes: int = 0
    peak_descriptors: int = 0
    seconds: float = 0.0
    drift: float | None = None
    signum: signal.Signals | None = None
    end: str = "complete"


class Soak:
    """Jobs one after the other, each larger than the one before, until the time is over."""

    def __init__(self, folder: Path, minutes: float, rows: int, seed: int, say: Say) -> None:
        self._folder = folder
        self._until = time.monotonic() + 60 * minutes
        self._rows = rows
        self._say = say
        self._chosen = random.Random(seed)
        self._runs: list[_Run] = []
        self._recomputed = 0

    def run(self) -> dict[str, Any]:
        """The figures; `ok` says whether memory and descriptors stayed flat.

        Raises SelftestError for an output that differs, and a run that ended as it must not.
        """
        started, rows = time.monotonic(), self._rows
        while not self._runs or time.monotonic() < self._until:
            before = len(self._runs)
            self._job(rows)
            new = self._runs[before:]
            self._say(
                f"{counted(rows, 'row')} in {counted(len(new), 'run')}, "
                f"{_count(new, 'killed')} killed and "
                f"{_count(new, 'stopped')} stopped: equal to an unbroken run's; at most "
                f"{_peak_bytes(new) / 2**20:.0f} MiB at work, "
                f"{_merge_bytes(new) / 2**20:.0f} merging, {counted(_peak_files(new), 'file')}"
            )
            rows = int(rows * _GROWTH) + 1
        return self._figures(time.monotonic() - started)

    def _job(self, rows: int) -> None:
        """One job, broken again and again, to its end; its output compared."""
        source = write_lines(self._folder / "in.jsonl", mixed_rows(rows, seed=rows))
        whole, out = self._folder / "whole.parquet", self._folder / "out.parquet"
        args: list[object] = ["run", "-i", source, "--engine", "echo", "--max-failures", "100%"]
        args += ["--overwrite", "-q", "--max-num-seqs", MAX_NUM_SEQS]
        args += ["--checkpoint-every", CHECKPOINT_EVERY, "-o"]
        with Child([*args, whole], self._folder / "run.log") as child:
            if code := child.wait():
                raise SelftestError(f"an undisturbed run ended in {code}: {child.stderr}")
        out.unlink(missing_ok=True)
        while self._one_run([*args, out], out, rows).end != "complete":
            pass
        if problems := differences(whole, out) + leftovers(out):
            raise SelftestError(f"{counted(rows, 'row')}, broken runs: {'; '.join(problems[:10])}")
        self._recomputed += begun_again(out)

    def _one_run(self, args: Sequence[object], out: Path, rows: int) -> _Run:
        """Start a process, watch it, and break it off at a random moment."""
        spared = self._chosen.random() < _LONG_SHARE
        moment = float("inf") if spared else self._chosen.expovariate(1 / _MEAN_S)
        run = _Run(rows)
        self._runs.append(run)
        with Child(args, self._folder / "run.log", _SLOW) as child:
            _observe(child, out, moment, run)
            if not child.running:
                code = child.wait()
            elif self._chosen.random() < _KILL_SHARE:
                code = -signal.SIGKILL if child.kill() else child.wait()
            else:
                code = self._stopped(child, out, run)
            run.end = _end(code, run)
            if not run.end:
                told = f"a run of {counted(rows, 'row')} ended in {code}"
                raise SelftestError(f"{told}: {child.stderr}")
        return run

    def _stopped(self, child: Child, out: Path, run: _Run) -> int:
        """Its exit code after a polite signal. SelftestError where it went on all the same."""
        run.signum = self._chosen.choice(POLITE_SIGNALS)
        safe = sum(map(rows_in, list_parts(out.with_name(f"{out.name}.ckpt") / "parts")))
        child.signal(run.signum)
        code = child.wait(_LONGEST_STOP_S)
        if code == 0 and run.rows - safe > _ROWS_LEFT:
            left = counted(run.rows - safe, "row")
            text = f"a run had {left} left when {run.signum.name} came"
            raise SelftestError(f"{text}, and went on to its end: {child.stderr}")
        return code

    def _figures(self, seconds: float) -> dict[str, Any]:
        runs = self._runs
        third = max(1, len(runs) // 3)
        first, last = runs[:third], runs[-third:]
        broken = [run for run in runs if run.end != "complete"]
        bound = len(broken) * (CHECKPOINT_EVERY + MAX_NUM_SEQS)
        allowed = ALLOCATOR_BYTES + MOST_BYTES_PER_ROW * (runs[-1].rows - runs[0].rows)
        flat = (
            _peak_bytes(last) - _peak_bytes(first) <= allowed
            and _merge_bytes(runs) - _peak_bytes(first) <= MEMORY_BYTES
            and _peak_files(last) - _peak_files(first) <= MOST_MORE_DESCRIPTORS
        )
        drifts = [run.drift for run in runs if run.drift is not None]
        jobs = [run.rows for run in runs if run.end == "complete"]
        return {
            "ok": flat and self._recomputed <= bound,
            "minutes": round(seconds / 60, 2),
            "jobs": len(jobs),
            "rows_first": jobs[0],
            "rows_last": jobs[-1],
            "rows_total": sum(jobs),
            "runs": len(runs),
            "kills": _count(runs, "killed"),
            "stops": _count(runs, "stopped"),
            "died_of_early_signals": _count(runs, "early"),
            "seconds_of_a_broken_run": round(_median([run.seconds for run in broken]), 2),
            "recomputed": self._recomputed,
            "recomputed_bound": bound,
            "peak_bytes": _peak_bytes(runs),
            "peak_bytes_first_third": _peak_bytes(first),
            "peak_bytes_last_third": _peak_bytes(last),
            "median_bytes_first_third": int(_median([run.peak_bytes for run in first])),
            "median_bytes_last_third": int(_median([run.peak_bytes for run in last])),
            "merge_bytes": _merge_bytes(runs),
            "memory_bytes_per_s_median": round(_median(drifts), 1) if drifts else None,
            "peak_descriptors": _peak_files(runs),
            "peak_descriptors_first_third": _peak_files(first),
            "peak_descriptors_last_third": _peak_files(last),
        }


def _observe(child: Child, out: Path, seconds: float, run: _Run) -> None:
    """Sample the process until it ends or its time is over."""
    started, since = time.monotonic(), time.time()
    times: list[float] = []
    sizes: list[float] = []
    while child.running and run.seconds < seconds:
        run.peak_descriptors = max(run.peak_descriptors, child.descriptors())
        peak, size = child.peak_memory(), child.memory()
        if _merging(out, since):
            run.merge_bytes = max(run.merge_bytes, peak)
        else:
            run.peak_bytes = max(run.peak_bytes, peak)
            if run.seconds > _SETTLED_S and size:
                times.append(run.seconds)
                sizes.append(float(size))
        time.sleep(min(_SAMPLE_S, seconds - run.seconds))
        run.seconds = time.monotonic() - started
    if len(times) > _LEAST_SAMPLES:
        run.drift = statistics.linear_regression(times, sizes).slope


def _merging(out: Path, since: float) -> bool:
    """Whether the output is there or on its way; what a killed process left behind is older."""
    for path in [out, *out.parent.glob(f".{out.name}.*")]:
        with suppress(FileNotFoundError):
            if path.stat().st_mtime >= since:
                return True
    return False


def _end(code: int, run: _Run) -> str:
    """What an exit code says of a run's end; "" for what must not be."""
    if run.signum and run.seconds < _READY_S and code in unready_codes(run.signum):
        return "early"
    return {0: "complete", _STOPPED: "stopped", -signal.SIGKILL: "killed"}.get(code, "")


def _count(runs: Sequence[_Run], end: str) -> int:
    return sum(run.end == end for run in runs)


def _peak_bytes(runs: Sequence[_Run]) -> int:
    return max(run.peak_bytes for run in runs)


def _merge_bytes(runs: Sequence[_Run]) -> int:
    return max(run.merge_bytes for run in runs)


def _peak_files(runs: Sequence[_Run]) -> int:
    return max(run.peak_descriptors for run in runs)


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
