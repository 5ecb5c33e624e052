"""What the ledger's tests share: rows, openings, and deaths."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from batchgen.job.ledger.ledger import Ledger
from batchgen.job.rows import OutputRow
from batchgen.job.shard import Shard
from batchgen.job.storage.layout import Layout
from batchgen.job.stores import faults
from batchgen.job.stores.places import Place, arrow_source
from batchgen.job.stores.remote_path import RemotePath

FINGERPRINT: dict[str, Any] = {"model": {"name": "m"}, "sampling": {"temperature": 0.7}}
OTHER: dict[str, Any] = {"model": {"name": "m"}, "sampling": {"temperature": 0.9}}


class Crash(BaseException):
    """The process is gone at this very point."""


def make_row(index: int, sample: int = 0, **changes: Any) -> OutputRow:
    values: dict[str, Any] = {
        "index": index,
        "sample": sample,
        "id": f"row-{index}",
        "status": "ok",
        "prompt": f"prompt {index}",
        "completion": f"completion {index}.{sample}",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 5,
        "cached_tokens": 0,
        "run_id": "r",
    }
    return OutputRow(**(values | changes))


def samples_of(index: int) -> int:
    """How many samples the tests give a row."""
    return 1 + index % 3


def rows_of(indices: Sequence[int]) -> list[OutputRow]:
    """All samples of these rows."""
    return [make_row(i, sample) for i in indices for sample in range(samples_of(i))]


def layout_of(folder: Place, shard: Shard | None = None) -> Layout:
    """Of the job whose output is `out.parquet` there."""
    return Layout(folder / "out.parquet.ckpt", folder / "out.parquet", shard)


def open_ledger(folder: Place, shard: Shard | None = None, **changes: Any) -> Ledger:
    options: dict[str, Any] = {
        "fingerprint": FINGERPRINT,
        "run_id": "r",
        "checkpoint_every": 8,
        "checkpoint_seconds": 1e9,
        "background": False,
    }
    options |= changes
    return Ledger.open(layout_of(folder, shard), **options)


def left_of(ledger: Ledger, num_rows: int) -> list[int]:
    """The rows that are not done yet, in order."""
    return [i for i in range(num_rows) if not ledger.is_done(i)]


def finish(ledger: Ledger, num_rows: int) -> list[int]:
    """Run what is left and make the output; what was left."""
    left = left_of(ledger, num_rows)
    ledger.append(rows_of(left))
    ledger.finalize(num_rows)
    return left


def finished_job(folder: Place, num_rows: int = 5) -> Place:
    """A job of so many rows, run to its end: its output."""
    with open_ledger(folder) as ledger:
        finish(ledger, num_rows)
    return folder / "out.parquet"


def die(ledger: Ledger) -> None:
    """End as a killed process does: nothing flushed, nothing released, descriptors closed."""
    lock, journal = ledger._lock, ledger._journal
    if lock is not None:
        lock._stop.set()
        lock._unlock()
        if isinstance(lock._folder, RemotePath):  # no flock there: the process itself must be gone
            claim = lock._folder / "owners" / f"{lock.attempt}.json"
            claim.write_bytes(json.dumps(json.loads(claim.read_bytes()) | {"pid": 0}).encode())
    if journal is not None:
        journal.crashed = True
        journal.close()


@contextmanager
def hooked(hook: Callable[[str, Path | None], None]) -> Iterator[None]:
    previous = faults.install(hook)
    try:
        yield
    finally:
        faults.install(previous)


def keys_of(out: Place) -> list[tuple[int, int]]:
    table = pq.read_table(arrow_source(out), columns=["index", "sample"])
    return list(zip(table["index"].to_pylist(), table["sample"].to_pylist(), strict=True))


def expected_keys(num_rows: int) -> list[tuple[int, int]]:
    return [(i, sample) for i in range(num_rows) for sample in range(samples_of(i))]


def temporary_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith((".tmp", ".new"))]


def parts_of(folder: Place) -> list[Place]:
    return sorted((folder / "out.parquet.ckpt" / "parts").glob("*.parquet"))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path, place: float) -> None:
    data = bytearray(path.read_bytes())
    data[min(len(data) - 1, int(place * len(data)))] ^= 0x10
    path.write_bytes(data)
