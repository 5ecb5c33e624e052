"""Generated bad inputs through the real reader and a whole job: no crash, no lost row."""

from __future__ import annotations

import os
import random
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from batchgen.counts import counted
from batchgen.errors import BatchgenError, ErrorCode
from batchgen.job.run.runner import run
from batchgen.job.spec import InputSpec, JobSpec
from batchgen.selftest.bad_files import damaged_file, jsonl_file, parquet_file
from batchgen.selftest.child import Child

__all__ = ["Fuzz"]

_FILE_ROWS, _PARQUET_ROWS, _INPUTS_PER_DAMAGED_FILE = 500, 100, 2000
_PARQUET_SHARE = 0.3
_UNTYPED = {ErrorCode.INTERNAL, ErrorCode.ENGINE_CRASH}
"""What a row must never need: these say that batchgen did not foresee it."""
_TYPED_CODES = {e.value for e in ErrorCode} - {e.value for e in _UNTYPED}
_EXPLAINED = {0, 2, 3, 4, 65, 66}
"""Exit codes that a damaged input may lead to."""


class Fuzz:
    """One campaign; the same for the same number and seed."""

    def __init__(self, folder: Path, inputs: int, seed: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._inputs = inputs
        self._say = say
        self._seed = seed
        self._codes: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._problems: list[str] = []
        self._done = self._jobs = self._damaged = 0

    def run(self) -> dict[str, Any]:
        """The figures; `ok` says whether every row came out and every error had its type."""
        started, files = time.monotonic(), _descriptors()
        damaged = -(-self._inputs // _INPUTS_PER_DAMAGED_FILE)
        while self._done < self._inputs - damaged:
            self._job(min(_FILE_ROWS, self._inputs - damaged - self._done))
        for number in range(damaged):
            self._damaged_file(number)
        return {
            "ok": not self._problems,
            "inputs": self._done,
            "seed": self._seed,
            "jobs": self._jobs,
            "damaged_files": self._damaged,
            "rows": dict(sorted(self._codes.items())),
            "files_refused": dict(sorted(self._refused.items())),
            "descriptors_more": _descriptors() - files,
            "problems": self._problems[:20],
            "seconds": round(time.monotonic() - started, 1),
        }

    def _job(self, rows: int) -> None:
        """One file of bad rows, one job in this process."""
        name = f"{self._seed}-{self._jobs}"
        chosen = random.Random(name)
        parquet = chosen.random() < _PARQUET_SHARE
        source = self._folder / f"in-{name}.{'parquet' if parquet else 'jsonl'}"
        rows = min(rows, _PARQUET_ROWS) if parquet else rows
        count = (parquet_file if parquet else jsonl_file)(source, rows, chosen)
        self._jobs += 1
        before = len(self._problems)
        served = self._judged(source, count, keep="all" if chosen.random() < 0.3 else "none")
        self._done += rows if served else 1
        if len(self._problems) == before:
            source.unlink()
        if self._jobs % 20 == 0:
            problems = counted(len(self._problems), "problem")
            self._say(f"{self._done:,} of {counted(self._inputs, 'input')}, {problems}")

    def _judged(self, source: Path, count: int, keep: str) -> bool:
        """Whether the job got to its rows; a file that is refused whole counts as one input."""
        out = source.with_suffix(".out")
        spec = JobSpec(
            InputSpec((str(source),), keep_columns=keep),
            out,
            engine="echo",
            max_failures="100%",
            quiet=True,
            progress="none",
        )
        try:
            run(spec)
            self._check_rows(source, out, count)
        except BatchgenError as error:
            self._refused[type(error).__name__] += 1
            return False
        except Exception:
            self._problem(source, traceback.format_exc(limit=-4))
        finally:
            _remove(out)
        return True

    def _check_rows(self, source: Path, out: Path, count: int) -> None:
        columns = ["index", "sample", "status", "error_code", "error_message"]
        table = pq.read_table(out, columns=columns)
        keys = list(zip(table["index"].to_pylist(), table["sample"].to_pylist(), strict=True))
        if keys != sorted(set(keys)) or {index for index, _ in keys} != set(range(count)):
            self._problem(source, f"{len({i for i, _ in keys})} of {counted(count, 'row')}")
        for row in table.to_pylist():
            code = row["error_code"]
            self._codes[code or "ok"] += 1
            failed = row["status"] == "error"
            if failed != (code is not None) or (failed and code not in _TYPED_CODES):
                self._problem(source, f"row {row}")
            elif failed and not row["error_message"]:
                self._problem(source, f"row {row} has no message")

    def _damaged_file(self, number: int) -> None:
        """A file of broken bytes, in a process of its own: it may bring native code down."""
        chosen = random.Random(f"{self._seed}-damaged-{number}")
        source, out = self._folder / "damaged", self._folder / "damaged.parquet"
        damaged_file(source, chosen)
        args = ["run", "-i", source, "-o", out, "--engine", "echo", "--max-failures", "100%", "-q"]
        with Child(args, self._folder / "damaged.log") as child:
            code = child.wait(timeout=120)
            if code not in _EXPLAINED:
                kept = source.rename(self._folder / f"damaged-{self._seed}-{number}")
                self._problem(kept, f"exit code {code}: {child.stderr}")
        if code:
            self._refused[f"exit code {code}"] += 1
        self._damaged += 1
        self._done += 1
        _remove(out)

    def _problem(self, source: Path, text: str) -> None:
        self._problems.append(f"{source}: {text}")
        self._say(self._problems[-1])


def _remove(out: Path) -> None:
    """The output and its checkpoint folder."""
    out.unlink(missing_ok=True)
    shutil.rmtree(out.with_name(out.name + ".ckpt"), ignore_errors=True)


def _descriptors() -> int:
    """Open file descriptors of this process; 0 where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0
