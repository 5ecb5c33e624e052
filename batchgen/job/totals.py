"""Counts of rows that earlier runs finished, read from their parts: for runs that stop again."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.manifest import FinalReport
from batchgen.job.output import count_rows

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


def totals_of_parts(parts: Iterable[Path]) -> FinalReport:
    """Totals of these parts, from the few columns that they need; an unreadable part counts as
    nothing, as it does for the ledger."""
    report = FinalReport()
    for path in parts:
        try:
            table = pq.read_table(path, columns=_COLUMNS, use_threads=False)
        except (pa.ArrowException, OSError):
            continue
        report.rows += len(set(table["index"].to_pylist()))
        count_rows(report, table)
    return report
