"""Parts: finished rows as complete Parquet files in the output schema, one file a flush.

    parts/part-<attempt>-<seq>.<crc>.parquet          rows sorted by (index, sample)
    parts/part-1of4-<attempt>-<seq>.<crc>.parquet     of shard 1/4

The name carries the CRC-32 of the content, so one rename commits rows and checksum together, and a
torn, truncated or changed file is known for what it is. All samples of a row lie in one part.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from operator import attrgetter

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.arrow_ints import integers
from batchgen.job.rows import OutputRow
from batchgen.job.schema import BASE_SCHEMA, late_columns, output_writer, record_batch
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.storage.part import (
    Columns,
    FailedRows,
    Part,
    PartStem,
    PartSummary,
    footer,
    summary_of,
    totals_of,
)
from batchgen.job.stores.files import Guard, checked_name, make_folder, read_checked, write_atomic
from batchgen.job.stores.places import Place, all_of, arrow_source, move, readable

__all__ = [
    "known_summary",
    "part_summary",
    "read_columns",
    "read_part",
    "scan_parts",
    "set_aside",
    "write_part",
    "write_part_table",
]

_IN_ORDER = attrgetter("index", "sample")


def write_part(
    folder: Place,
    stem: PartStem,
    rows: Sequence[OutputRow],
    columns: Columns,
    guard: Guard,
) -> Part:
    """Commit `rows` (any order, each row's samples all there) as a new part."""
    rows = sorted(rows, key=_IN_ORDER)
    late = late_columns(rows, columns.declared)
    batch = record_batch(rows, columns.schema(late))
    summary = PartSummary(
        job=stem.job,
        rows=len({row.index for row in rows}),
        errors=dict(Counter(row.error_code for row in rows if row.error_code)),
        first=rows[0].index,
        last=rows[-1].index,
        size=batch.nbytes,
        late=late,
        written_at=time.time(),
    )
    failed = {row.index: row.input_digest for row in rows if row.error_code and row.input_digest}
    return _commit(folder, stem, batch, summary, failed, guard)


def write_part_table(
    folder: Place,
    stem: PartStem,
    table: pa.Table,
    columns: Columns,
    guard: Guard,
    failed: FailedRows,
) -> Part:
    """Commit rows that were written before (in order, each row's samples all there) as a part.
    `failed`: what is known of these and others."""
    declared = columns.declared | set(BASE_SCHEMA.names)
    late = [name for name in table.column_names if name not in declared]
    index = table["index"]
    summary = PartSummary(
        job=stem.job,
        rows=len(index.unique()),
        errors=dict(Counter(filter(None, table["error_code"].to_pylist()))),
        first=index[0].as_py(),
        last=index[-1].as_py(),
        size=table.nbytes,
        late={name: (-1, place) for place, name in enumerate(late)},
        written_at=time.time(),
    )
    error_rows = index.filter(table["error_code"].is_valid()).to_pylist() if failed else []
    failed = {row: failed[row] for row in error_rows if row in failed}
    table = table.replace_schema_metadata(None).combine_chunks()
    return _commit(folder, stem, table, summary, failed, guard)


def read_part(path: Place) -> pa.Table | None:
    """All rows of a part; None when its content is not what was written."""
    data = read_checked(path)
    if data is None:
        return None
    try:
        return pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
    except (pa.ArrowException, OSError):
        return None


def read_columns(path: Place, names: list[str]) -> pa.Table | None:
    """Some columns of a part, whose checksum nobody looks at; None where it cannot be read."""
    try:
        with readable(path):
            return pq.read_table(arrow_source(path), columns=names, use_threads=False)
    except (pa.ArrowException, OSError):
        return None


def scan_parts(
    paths: Iterable[Place], damaged: Place, job: str
) -> Iterator[tuple[Part, npt.NDArray[np.int64]]]:
    """Every good part of the job with its rows' indices; others are moved to `damaged`.

    Others: torn or changed ones, and late ones of a process that served another fingerprint.
    """
    listed = list(paths)
    scans = all_of(partial(_scan, job=job), listed)
    for path, scan in zip(listed, scans, strict=True):
        if scan is None:
            set_aside(path, damaged)
        elif not isinstance(scan, FileNotFoundError):  # its owner finished meanwhile
            yield scan


def set_aside(path: Place, damaged: Place) -> None:
    """Move a part that cannot be used out of the way."""
    make_folder(damaged)
    with suppress(FileNotFoundError):
        move(path, damaged)


def part_summary(path: Place) -> PartSummary:
    """Row counts and errors of a part, from its footer alone."""
    with readable(path):
        return summary_of(pq.read_metadata(arrow_source(path)))


def known_summary(path: Place) -> PartSummary | None:
    """The same; None where the part is damaged, or gone meanwhile."""
    try:
        return part_summary(path)
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError):
        return None


def _commit(
    folder: Place,
    stem: PartStem,
    rows: pa.RecordBatch | pa.Table,
    summary: PartSummary,
    failed: FailedRows,
    guard: Guard,
) -> Part:
    totals = FinalReport(summary.rows)
    totals.count(pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows)
    data = _encoded(rows, footer(summary, totals, failed))
    path = folder / checked_name(stem.name, data, "parquet")
    write_atomic(path, data, "part", guard)
    return Part.of(path, summary, totals)


def _encoded(batch: pa.RecordBatch | pa.Table, metadata: dict[str, str]) -> bytes:
    sink = pa.BufferOutputStream()
    with output_writer(sink, batch.schema, metadata=metadata, part=True) as writer:
        writer.write(batch, row_group_size=max(1, batch.num_rows))
    return bytes(sink.getvalue())


def _scan(path: Place, job: str) -> tuple[Part, npt.NDArray[np.int64]] | FileNotFoundError | None:
    try:
        data = read_checked(path)
    except FileNotFoundError as gone:
        return gone
    if data is None:
        return None
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        summary = summary_of(file.metadata)
        index = integers(file.read(columns=["index"], use_threads=False)["index"])
    except (pa.ArrowException, OSError, KeyError, ValueError):
        return None
    return (Part.of(path, summary, totals_of(file.metadata)), index) if summary.job == job else None
