"""Rows of a Parquet file, by record batch, only the columns that are needed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.causes import first_line
from batchgen.errors import InputUnreadableError, InvalidDataError
from batchgen.job.input.arrow_rows import ArrowColumns, ArrowRows, find_columns
from batchgen.job.input.kept_columns import KeptColumns
from batchgen.job.input.row_parser import RowParser
from batchgen.job.input.sources import Source
from batchgen.job.prefetch import prefetched
from batchgen.job.spec import InputSpec

__all__ = ["parquet_rows"]

_BATCH_ROWS = 1024
_BUFFER_BYTES = 1 << 20
_FETCH_BYTES = 4 << 20
"""Of one column, asked of a store at once."""
_BATCHES_AHEAD = 32


def parquet_rows(
    source: Source, spec: InputSpec, parser: RowParser, kept: KeptColumns
) -> ArrowRows:
    """The rows of one file. The schema is read at once.

    InvalidDataError for a column of the wrong type, InputUnreadableError for a damaged file.
    """
    try:
        schema = pq.read_schema(source.arrow_source())
    except pa.ArrowNotImplementedError as error:
        text = f"{source.name} has a column of a type that pyarrow cannot read: {first_line(error)}"
        hint = "write the file again without that column; the others cannot be read beside it"
        raise InvalidDataError(text, hint) from error
    except (OSError, pa.ArrowException) as error:
        raise _damaged(source, 0, error) from error
    columns = find_columns(schema, source.name, spec, parser, kept)
    return ArrowRows(columns, partial(_batches, source, columns), partial(_damaged, source))


def _batches(source: Source, columns: ArrowColumns) -> Iterator[pa.RecordBatch]:
    # A buffer instead of whole column chunks: a row group may be larger than memory.
    remote = source.remote is not None
    size = _FETCH_BYTES if remote else _BUFFER_BYTES
    with pq.ParquetFile(source.arrow_source(), buffer_size=size, pre_buffer=False) as file:
        names = list(columns.names)
        batches = file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False)
        yield from prefetched(batches, _BATCHES_AHEAD) if remote else batches


def _damaged(source: Source, number: int, error: Exception) -> InputUnreadableError:
    if isinstance(error, FileNotFoundError | PermissionError):
        return InputUnreadableError(f"input {source.name}: {error.strerror}", "check the file")
    text = f"input {source.name} is damaged after row {number}: {first_line(error)}"
    return InputUnreadableError(text, "replace it with a whole copy and run the same command again")
