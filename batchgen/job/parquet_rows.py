"""Rows of a Parquet file, by record batch, only the columns that are needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from batchgen.errors import InputUnreadableError
from batchgen.job.arrow_rows import ArrowColumns, ArrowRow, find_columns, rows_of
from batchgen.job.kept_columns import KeptColumns
from batchgen.job.row_parser import RowParser
from batchgen.job.sources import Source
from batchgen.job.spec import InputSpec

__all__ = ["ParquetRows"]

_BATCH_ROWS = 1024
_BUFFER_BYTES = 1 << 20


class ParquetRows:
    """The rows of one file: `(row number from 1, values)`. The schema is read at once.

    InvalidDataError for a column of the wrong type, InputUnreadableError for a damaged file.
    """

    def __init__(
        self, source: Source, spec: InputSpec, parser: RowParser, kept: KeptColumns
    ) -> None:
        self._source = source
        try:
            schema = pq.read_schema(source.name)
        except (OSError, pa.ArrowException) as error:
            raise _damaged(source, 0, error) from error
        self.columns: ArrowColumns = find_columns(schema, source.name, spec, parser, kept)
        self.digest_bytes = self.columns.digest_bytes
        self.kept = self.columns.kept

    def __iter__(self) -> Iterator[tuple[int, ArrowRow]]:
        """Stream rows; InputUnreadableError says after which row the file is damaged."""
        number = 0
        try:
            for row in rows_of(self._batches(), self.columns):
                number += 1
                yield number, row
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self._source, number, error) from error

    def decode(self, row: ArrowRow) -> dict[str, Any]:
        """The row as a dict; RowError for text that is not UTF-8."""
        return self.columns.decode(row)

    def _batches(self) -> Iterator[pa.RecordBatch]:
        # A buffer instead of whole column chunks: a row group may be larger than memory.
        with pq.ParquetFile(self._source.name, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            yield from file.iter_batches(
                _BATCH_ROWS, columns=list(self.columns.names), use_threads=False
            )


def _damaged(source: Source, number: int, error: Exception) -> InputUnreadableError:
    if isinstance(error, FileNotFoundError | PermissionError):
        return InputUnreadableError(f"input {source.name}: {error.strerror}", "check the file")
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    text = f"input {source.name} is damaged after row {number}: {reason}"
    return InputUnreadableError(text, "replace it with a whole copy and run the same command again")
