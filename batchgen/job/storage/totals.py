"""Counts of rows that earlier runs finished, read from their parts: for runs that do not merge."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.arrow_ints import integers
from batchgen.job.shard import Shard
from batchgen.job.storage.bitmap import Bitmap
from batchgen.job.storage.manifest import FinalReport
from batchgen.job.storage.output import count_rows
from batchgen.job.stores.places import Place, all_of, arrow_source

__all__ = ["totals_of_parts"]

_COLUMNS = [
    "index",
    "sample",
    "status",
    "finish_reason",
    "error_code",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
]


def totals_of_parts(parts: Iterable[Place], shard: Shard | None = None) -> FinalReport:
    """Totals of the shard's rows (None: all) in these parts, each row once, from the few columns
    that they need; an unreadable part counts as nothing, as it does for the ledger."""
    report = FinalReport()
    seen = Bitmap()
    for table in all_of(_counted, parts):
        if table is None:
            continue
        index = integers(table["index"])
        wanted = ~seen.contains_array(index)
        if shard is not None:
            wanted &= index % shard.count == shard.index
        if not wanted.all():
            index, table = index[wanted], table.filter(pa.array(wanted))
        seen.add_array(index)
        report.rows += len(np.unique(index))
        count_rows(report, table)
    return report


def _counted(path: Place) -> pa.Table | None:
    try:
        return pq.read_table(arrow_source(path), columns=_COLUMNS, use_threads=False)
    except (pa.ArrowException, OSError):
        return None
