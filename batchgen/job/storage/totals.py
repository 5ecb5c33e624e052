"""Counts of rows that earlier runs finished, read from their parts: for runs that do not merge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import numpy as np
import pyarrow as pa

from batchgen.job.arrow_ints import integers
from batchgen.job.shard import Shard
from batchgen.job.storage.bitmap import Bitmap
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.layout import shard_of_part
from batchgen.job.storage.part import Part
from batchgen.job.storage.parts import read_columns
from batchgen.job.stores.places import Place, all_of

__all__ = ["totals_of", "totals_of_parts"]

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


def totals_of(parts: Sequence[Part], num_rows: int, shard: Shard | None) -> FinalReport:
    """Totals of the `num_rows` rows of the shard (None: all) that are done in these parts: as the
    parts tell them where each row lies in one of them; else their rows are read, which takes
    minutes where there are many."""
    told = [part.totals for part in parts if part.totals is not None]
    alone = shard is None or all(shard_of_part(part.path) == shard for part in parts)
    if not alone or len(told) < len(parts) or sum(part.rows for part in parts) != num_rows:
        return totals_of_parts([part.path for part in parts], shard)
    report = FinalReport()
    for one in told:
        report.add(one)
    return report


def totals_of_parts(parts: Iterable[Place], shard: Shard | None = None) -> FinalReport:
    """Totals of the shard's rows (None: all) in these parts, each row once, from the few columns
    that they need; an unreadable part counts as nothing, as it does for the ledger."""
    report = FinalReport()
    seen = Bitmap()
    for table in all_of(partial(read_columns, names=_COLUMNS), parts):
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
        report.count(table)
    return report
