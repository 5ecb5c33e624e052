"""The output file: written beside its name, verified row by row, renamed once it is whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.job.output.check import OutputCheck
from batchgen.job.output.folder import OutputFolder
from batchgen.job.output.objects import OutputObjects
from batchgen.job.output.written import output_files
from batchgen.job.parquet.row_groups import RowGroupWriter
from batchgen.job.prefetch import prefetched
from batchgen.job.schema import MAX_ROW_GROUP_ROWS
from batchgen.job.storage.final_report import FinalReport
from batchgen.job.stores import faults
from batchgen.job.stores.files import Guard, atomic_file, unwritable
from batchgen.job.stores.places import Place, arrow_source, readable
from batchgen.job.stores.remote_path import RemotePath

__all__ = ["row_groups_of", "verified_totals", "write_output"]

_MAX_GROUP_BYTES = 16 << 20
"""Of a row group in memory: one is filled while two are encoded."""


def write_output(
    out: Place,
    tables: Iterator[pa.Table],
    schema: pa.Schema,
    metadata: Mapping[str, str],
    check: OutputCheck,
    guard: Guard,
    rows_per_file: int | None,
) -> FinalReport:
    """Write the tables as `out`, which appears only if all of them pass the check."""
    if rows_per_file is not None:
        return _write_folder(out, tables, (schema, metadata), check, guard, rows_per_file)
    with atomic_file(out, "final") as file, unwritable("the output", out):
        with RowGroupWriter(file.temporary, schema, metadata) as writer:
            _write_checked(tables, check, writer)
        report = check.finish()
        file.commit(guard)
    return report


def _write_folder(
    out: Place,
    tables: Iterator[pa.Table],
    made_of: tuple[pa.Schema, Mapping[str, str]],
    check: OutputCheck,
    guard: Guard,
    rows_per_file: int,
) -> FinalReport:
    with _folder(out, made_of, rows_per_file, check.num_rows, guard) as folder:
        with unwritable("the output", out):
            _write_checked(tables, check, folder)
        report = check.finish()
        folder.commit(guard)
    return report


def _write_checked(
    tables: Iterator[pa.Table], check: OutputCheck, writer: RowGroupWriter | OutputFolder
) -> None:
    for table in _row_groups(prefetched(tables, 1)):
        check.add(table)
        faults.reach("final.write")
        writer.write(table)


def _folder(
    out: Place,
    made_of: tuple[pa.Schema, Mapping[str, str]],
    rows_per_file: int,
    num_rows: int,
    guard: Guard,
) -> OutputFolder:
    if isinstance(out, RemotePath):
        return OutputObjects(out, *made_of, rows_per_file, num_rows, guard)
    return OutputFolder(out, *made_of, rows_per_file)


def verified_totals(path: Place, num_rows: int) -> FinalReport:
    """Totals of an output that is there already, checked as when it was written."""
    check = OutputCheck(num_rows)
    for table in row_groups_of(path):
        check.add(table)
    return check.finish()


def row_groups_of(path: Place, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The rows of a finished output, a row group at a time."""
    for name in output_files(path):
        with readable(name), pq.ParquetFile(arrow_source(name)) as file:
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, columns=columns, use_threads=False)


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows cut into tables of one row group each."""
    waiting: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        waiting.append(table)
        rows += table.num_rows
        size += table.nbytes
        if rows >= MAX_ROW_GROUP_ROWS or size >= _MAX_GROUP_BYTES:
            whole = pa.concat_tables(waiting)
            step = min(MAX_ROW_GROUP_ROWS, max(1, rows * _MAX_GROUP_BYTES // max(1, size)))
            full = rows - rows % step
            for start in range(0, full, step):
                yield whole.slice(start, step)
            waiting = [whole.slice(full)] if full < rows else []
            rows -= full
            size = sum(table.nbytes for table in waiting)
    if rows:
        yield pa.concat_tables(waiting)
