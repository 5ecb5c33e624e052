"""What the failed rows of a job were made of, so that one that was mended since is known from a row
that stands for a completion.

A file of the checkpoint folder keeps it for a finished output. Where there are more such rows than
anybody mends it is not kept, nor where two processes wrote the same rows.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow.parquet as pq

from batchgen.job.arrow_ints import integers
from batchgen.job.storage.bitmap import Bitmap
from batchgen.job.storage.part import FailedRows, Part, failed_of
from batchgen.job.storage.parts import read_columns
from batchgen.job.stores.files import Guard, read_current, write_atomic
from batchgen.job.stores.places import Place, all_of, arrow_source, readable, remove_all

__all__ = ["failed_rows_done", "failed_rows_in", "keep_failed_rows", "kept_failed_rows"]

_NAME = "failed.json"
_MOST = 100_000


def failed_rows_in(parts: Iterable[Place]) -> FailedRows | None:
    """Those of parts that have no row twice; None: too many."""
    found: dict[int, bytes] = {}
    for rows in all_of(_failed, parts):
        found |= rows
        if len(found) > _MOST:
            return None
    return found


def failed_rows_done(parts: Sequence[Place], rows_read: int) -> FailedRows | None:
    """Those of the parts of an unfinished job, of whose input so many rows are on record. None
    where a part cannot be read, a row is past those, or in two parts: one may hold a completion."""
    seen, rows = Bitmap(), 0
    for path in parts:
        table = read_columns(path, ["index"])
        if table is None or not table.num_rows:
            return None
        index = np.unique(integers(table["index"]))
        if index[-1] >= rows_read:
            return None
        rows += len(index)
        seen.add_array(index)
    return failed_rows_in(parts) if rows == len(seen) else None


def keep_failed_rows(
    folder: Place, job_id: str, parts: Sequence[Part], num_rows: int, guard: Guard
) -> None:
    """Write down those of a job that is about to be complete."""
    told = [part for part in parts if part.totals is None or part.totals.errors]
    is_plain = sum(part.rows for part in parts) == num_rows
    rows = failed_rows_in(part.path for part in told) if told and is_plain else None
    if not rows:
        remove_all([folder / _NAME])
        return
    data = {"job_id": job_id, "rows": {str(row): digest.hex() for row, digest in rows.items()}}
    write_atomic(folder / _NAME, json.dumps(data).encode(), "failed", guard)


def kept_failed_rows(folder: Place, job_id: str) -> FailedRows | None:
    """Those of that job; None: nothing is known of them."""
    try:
        with readable(folder / _NAME):
            data = json.loads(read_current(folder / _NAME) or b"{}")
        if data.get("job_id") != job_id:
            return None
        return {int(row): bytes.fromhex(digest) for row, digest in data["rows"].items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _failed(path: Place) -> FailedRows:
    with readable(path):
        return failed_of(pq.read_metadata(arrow_source(path)))
